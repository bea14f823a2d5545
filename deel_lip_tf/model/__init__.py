"""Models: the constant of a whole network, its condensation, and its export to plain Keras."""

from deel_lip_tf.model.export import vanillaModel
from deel_lip_tf.model.learned_margins import LossVariableModel, LossVariableSequential
from deel_lip_tf.model.lipschitz import Model, Sequential

__all__ = [
    "LossVariableModel",
    "LossVariableSequential",
    "Model",
    "Sequential",
    "vanillaModel",
]
