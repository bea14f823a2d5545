"""Lipschitz neural networks with certificates that are true, for Keras 3 and TensorFlow.

    import deel_lip_tf as lip

Layers of known Lipschitz constant (`lip.layers`), losses (`lip.losses`), metrics, callbacks, the
models `lip.Sequential` and `lip.Model`, proofs (`lip.bounds`) and certificates
(`lip.certificates`).
"""

from deel_lip_tf import (
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
from deel_lip_tf.model import Model, Sequential, vanillaModel

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
