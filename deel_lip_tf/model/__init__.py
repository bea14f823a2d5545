"""Models: the constant of a whole network, its condensation, and its export to plain Keras."""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.model.export import vanillaModel
from deel_lip_tf.model.learned_margins import LossVariableModel, LossVariableSequential
from deel_lip_tf.model.lipschitz import Model, Sequential
from deel_lip_tf.model.measured import gap_constants
from deel_lip_tf.model.monotonicity import monotonic
from deel_lip_tf.model.torch_weights import load_torch_weights

__all__ = [
    "LossVariableModel",
    "LossVariableSequential",
    "Model",
    "Sequential",
    "gap_constants",
    "load_torch_weights",
    "monotonic",
    "vanillaModel",
]

__dir__ = public_names(__name__)
