"""`predict` and `evaluate` with the kernels of the batch before, where the raw ones are the same.

A kernel is a function of its raw weights, and of no batch. TensorFlow does not tell when a variable
was assigned, so that nothing but its numbers says that a kernel is not stale: before each batch all
raw weights are compared with those that the kept kernels were computed from. That costs one pass
over them, where their projection multiplies matrices.
"""

from collections.abc import Callable
from typing import Any

import keras

from deel_lip_tf._keras import flat_layers
from deel_lip_tf.layers.base import kernels_in_use
from deel_lip_tf.layers.constrained import ConstrainedKernel
from deel_lip_tf.model.export import is_exported_whole


def is_closed(model: keras.Model) -> bool:
    """Whether a step of a model may be computed in a way that holds in this step alone.

    TensorFlow does, on one replica, and no code of others takes part, which may keep what it has
    traced for other calls.
    """
    is_tensorflow = keras.backend.backend() == "tensorflow"
    if not is_tensorflow or model.distribute_strategy.num_replicas_in_sync > 1:
        return False
    return _is_ours(type(model)) and is_exported_whole(model)


def with_kept_kernels(model: keras.Model, predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function that predicts a batch, with kernels that are computed when they have changed.

    Where the model is not closed it is `predict` itself.
    """
    layers = [layer for layer in flat_layers(model) if isinstance(layer, ConstrainedKernel)]
    if not layers or not is_closed(model):
        return predict
    kept = _KeptKernels(layers)

    def predict_with_kept(data: Any) -> Any:
        with kernels_in_use(kept.current()):
            return predict(data)

    return predict_with_kept


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("deel_lip_tf.")


class _KeptKernels:
    """The effective kernels of some layers in variables, and what they were computed from."""

    def __init__(self, layers: list[ConstrainedKernel]):
        import tensorflow as tf

        self._layers = layers
        self._raw: list = []
        self._kernels: dict[int, Any] = {}
        self._are_equal = tf.function(_are_equal, autograph=False)

    def current(self) -> dict[int, Any]:
        """By `id(layer)`, variables that hold the kernels of the raw weights as they are now."""
        import tensorflow as tf

        weights = [each for layer in self._layers for each in layer.raw_weights.values()]
        # Tensors of TensorFlow, which no assignment reaches: Keras would give the variables.
        raw = [tf.convert_to_tensor(weight.value) for weight in weights]
        # What is not a number equals nothing: then all is computed again.
        if not (self._raw and self._are_equal(raw, self._raw)):
            self._keep([layer.effective_kernel() for layer in self._layers])
            self._raw = raw
        return self._kernels

    def _keep(self, kernels: list) -> None:
        import tensorflow as tf

        if not self._kernels:
            variables = [tf.Variable(kernel, trainable=False) for kernel in kernels]
            self._kernels = {
                id(layer): one for layer, one in zip(self._layers, variables, strict=True)
            }
        for variable, kernel in zip(self._kernels.values(), kernels, strict=True):
            variable.assign(kernel)


def _are_equal(some: list, others: list) -> Any:
    import tensorflow as tf

    pairs = zip(some, others, strict=True)
    return tf.reduce_all([tf.reduce_all(one == other) for one, other in pairs])
