"""Lipschitz neural networks with certificates that are true, for Keras 3 and TensorFlow.

    import deel_lip_tf as lip

Layers of known Lipschitz constant (`lip.layers`), losses (`lip.losses`), metrics, callbacks, the
models `lip.Sequential` and `lip.Model`, proofs (`lip.bounds`), certificates (`lip.certificates`)
and the formal verification of any Keras classifier (`lip.verify`). What is asked most often is at
hand: `lip.lipschitz_bound` and `lip.certify`.

Importing the package imports none of these, nor Keras. Once Keras is imported, before or after,
so are they, and what they register is found in files of models.
"""

from typing import TYPE_CHECKING

from deel_lip_tf._lazy import found_when_asked_for, imported_with

if TYPE_CHECKING:
    from deel_lip_tf import (
        activations,
        bounds,
        callbacks,
        certificate_metrics,
        certificates,
        compute_layer_sv,
        constraints,
        distribute,
        initializers,
        layers,
        losses,
        metrics,
        model,
        normalizers,
        optimizers,
        plots,
        regularizers,
        training,
        utils,
        verify,
        zoo,
    )
    from deel_lip_tf.bounds import lipschitz_bound
    from deel_lip_tf.certificates import certify
    from deel_lip_tf.model import (
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
    "certify",
    "compute_layer_sv",
    "constraints",
    "distribute",
    "initializers",
    "layers",
    "lipschitz_bound",
    "losses",
    "metrics",
    "model",
    "normalizers",
    "optimizers",
    "plots",
    "regularizers",
    "training",
    "utils",
    "vanillaModel",
    "verify",
    "zoo",
]

_SOURCES = {
    "deel_lip_tf.bounds": ("lipschitz_bound",),
    "deel_lip_tf.certificates": ("certify",),
    "deel_lip_tf.model": (
        *("LossVariableModel", "LossVariableSequential", "Model", "Sequential", "vanillaModel"),
    ),
}
_ROOMS = tuple(name for name in __all__ if not any(name in names for names in _SOURCES.values()))
_BEHIND = ("cli", "errors", "estimates", "semantics")  # what these need, found as they are

__getattr__, __dir__ = found_when_asked_for(__name__, _SOURCES, (*_ROOMS, *_BEHIND))

# `verify` is TensorFlow's: whoever uses Keras on another backend does without.
imported_with("keras", __name__, [room for room in _ROOMS if room != "verify"])
