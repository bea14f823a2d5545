"""Lipschitz neural networks with certificates that are true, for Keras 3 and TensorFlow.

    import deel_lip_tf as lip

Layers of known Lipschitz constant (`lip.layers`), losses (`lip.losses`), metrics, callbacks, the
models `lip.Sequential` and `lip.Model`, proofs (`lip.bounds`), certificates (`lip.certificates`)
and the formal verification of any Keras classifier (`lip.verify`).
"""

import importlib

from deel_lip_tf.cli.quiet import load_backend_quietly

load_backend_quietly()  # before the first import of Keras

from deel_lip_tf import (  # noqa: E402
    activations,
    bounds,
    callbacks,
    certificate_metrics,
    certificates,
    compute_layer_sv,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    normalizers,
    regularizers,
    utils,
)
from deel_lip_tf.model import (  # noqa: E402
    LossVariableModel,
    LossVariableSequential,
    Model,
    Sequential,
    vanillaModel,
)

__version__ = "0.1.0"

__all__ = [
    "LossVariableModel",
    "LossVariableSequential",
    "Model",
    "Sequential",
    "activations",
    "bounds",
    "callbacks",
    "certificate_metrics",
    "certificates",
    "compute_layer_sv",
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "normalizers",
    "regularizers",
    "utils",
    "vanillaModel",
    "verify",
]


def __getattr__(name: str):
    # The one room that is TensorFlow's alone: whoever uses Keras on another backend does without.
    if name == "verify":
        return importlib.import_module("deel_lip_tf.verify")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
