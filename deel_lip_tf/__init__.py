"""Lipschitz neural networks with certificates that are true, for Keras 3 and TensorFlow.

    import deel_lip_tf as lip

Layers of known Lipschitz constant (`lip.layers`), losses (`lip.losses`), metrics, callbacks, the
models `lip.Sequential` and `lip.Model`, proofs (`lip.bounds`) and certificates
(`lip.certificates`).
"""

from deel_lip_tf._command import load_backend_quietly

load_backend_quietly()  # before the first import of Keras

from deel_lip_tf import (  # noqa: E402
    bounds,
    callbacks,
    certificates,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    normalizers,
)
from deel_lip_tf.model import Model, Sequential, vanillaModel  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Model",
    "Sequential",
    "bounds",
    "callbacks",
    "certificates",
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "normalizers",
    "vanillaModel",
]
