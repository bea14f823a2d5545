"""Steps of training that know which large kernels are orthogonal, and need not prove it again.

A retraction ends every step, and the next step begins with the kernel that it left, unless somebody
has assigned another one: the numbers are compared, so that nothing is taken for granted.
"""

import contextlib
import weakref
from collections.abc import Iterator

import keras
from keras import ops

from deel_lip_tf._keras import flat_layers, outside_of_graphs
from deel_lip_tf.layers.base import kernels_in_use
from deel_lip_tf.layers.dense import ConstrainedDense
from deel_lip_tf.model.predictions import is_closed
from deel_lip_tf.normalizers.polar.known import KnownKernel, known_in_step, known_kernels


class KnownKernels:
    """What is known of the large dense kernels of a model."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @contextlib.contextmanager
    def in_step(self, model: keras.Model) -> Iterator[None]:
        """Around a step that is traced: layers compute with kernels, and retract them, by these.

        Where several replicas take part, or code of others, which may keep what it has traced for
        other calls, nothing is changed.
        """
        layers = [
            layer
            for layer in flat_layers(model)
            if isinstance(layer, ConstrainedDense) and layer.built and layer.is_worth_knowing()
        ]
        if not layers or not is_closed(model):
            yield
            return
        with outside_of_graphs():
            for layer in layers:
                if layer not in self._known:
                    self._known[layer] = KnownKernel(layer.kernel)
        known = {
            id(layer): known_in_step(self._known[layer], ops.convert_to_tensor(layer.kernel))
            for layer in layers
        }
        kernels = {id(layer): layer.kernel_if_known(known[id(layer)]) for layer in layers}
        with kernels_in_use(kernels), known_kernels(known):
            yield
