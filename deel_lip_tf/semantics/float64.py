"""Float64 copies of layers, as TensorFlow's CPU can compute them.

Their weights are those that the layers compute with, bit for bit.

It slides kernels in float64 only over images whose channels come last, and pools no volumes. What
it has not got is computed by what it has: between two transpositions, or one plane at a time.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.state import (
    as_computed_with,
    bias_of,
    copy_state,
    is_quantized,
    kernel_of,
)


def in_float64(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A float64 layer whose weights are those the layer computes with, bit for bit."""
    return computable(_copied(layer))


def _copied(layer: keras.layers.Layer) -> keras.layers.Layer:
    config = _with_float64(layer.get_config())
    if is_quantized(layer):
        config["quantization_config"] = None  # with the dtype, the copy keeps none of it
    copy = type(layer).from_config(config)
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    if shape is None:
        return copy
    # Here and not at its first call, which may be in a graph that its state would be part of.
    copy.build(shape)
    if not layer.weights:
        return copy
    activation = getattr(copy, "activation", None)
    if isinstance(activation, keras.layers.Layer) and not activation.built:
        activation.build(copy.compute_output_shape(shape))
    if is_quantized(layer):
        bias = bias_of(layer)
        copy.set_weights([kernel_of(layer), *([] if bias is None else [bias])])
    else:
        copy.set_weights([as_computed_with(layer, weight) for weight in layer.weights])
    copy_state(layer, copy)
    return copy


def _with_float64(config: Any) -> Any:
    """The configuration with every `dtype` in it, also of nested activations, set to float64."""
    if isinstance(config, dict):
        return {k: "float64" if k == "dtype" else _with_float64(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_float64(item) for item in config)
    return config


def computable(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer of the same function that the CPU computes in float64: the layer itself if it does.

    Args:
        layer: a float64 layer, built if it has weights; its exact type decides.

    Raises:
        UnsupportedLayerError: TensorFlow's CPU has no float64 for it.
    """
    if keras.backend.backend() != "tensorflow":
        return layer
    if type(layer) in _TRANSPOSED and np.max(layer.dilation_rate) > 1:
        raise UnsupportedLayerError(
            "`model` cannot be computed in float64: TensorFlow has no dilated transposed "
            f"convolution of it on a CPU. Received: {layer.name!r}, with "
            f"dilation_rate={layer.dilation_rate}."
        )
    if type(layer) in _DEPTHWISE and len(set(np.ravel(layer.strides))) > 1:
        raise UnsupportedLayerError(
            "`model` cannot be computed in float64: TensorFlow has no depthwise convolution of "
            f"it whose strides differ from each other. Received: {layer.name!r}, with "
            f"strides={layer.strides}."
        )
    if rule_for(layer).slides and layer.data_format == "channels_first":
        return ChannelsLast(layer)
    if type(layer) in _POOLS:
        return PlaneByPlane(layer)
    return layer


def plain_of(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer that `computable` was given."""
    return layer.plain if isinstance(layer, ChannelsLast | PlaneByPlane) else layer


class ChannelsLast(keras.layers.Layer):
    """A layer of channels first, computed with the channels last between two transpositions.

    Attributes:
        plain: the layer.
        activation: its activation, applied where the channels are first again.
    """

    def __init__(self, plain: keras.layers.Layer):
        super().__init__(name=plain.name, dtype="float64")
        self.plain, self.activation = plain, getattr(plain, "activation", None)
        config = {**plain.get_config(), "data_format": "channels_last"}
        config |= {"activation": None} if "activation" in config else {}
        twin = type(plain).from_config(config)
        if plain.weights:
            batch, channels, *sizes = plain.get_build_config()["input_shape"]
            twin.build((batch, *sizes, channels))
            # No weight has axes of the image: Keras's kernels end with their channels either way.
            twin.set_weights(plain.get_weights())
        self.twin = computable(twin)
        self.built = True

    @property
    def kernel(self) -> Any:
        """The kernel of the layer."""
        return self.plain.kernel

    def call(self, inputs: Any) -> Any:
        """What the layer computes."""
        rank = len(inputs.shape)
        outputs = self.twin(ops.transpose(inputs, (0, *range(2, rank), 1)))
        outputs = ops.transpose(outputs, (0, rank - 1, *range(1, rank - 1)))
        return outputs if self.activation is None else self.activation(outputs)


class PlaneByPlane(keras.layers.Layer):
    """Pools volumes, channels last, over rows and columns and then over planes.

    The largest of a box is the largest of the largest of its planes. What "same" averages over is
    a box too, so that its mean is the mean of equally many entries in each of its planes.
    """

    def __init__(self, plain: keras.layers.Layer):
        super().__init__(name=plain.name, dtype="float64")
        self.plain = plain
        self.built = True

    def call(self, inputs: Any) -> Any:
        """What the layer computes."""
        _, planes, *sizes = inputs.shape
        inside = self._pooled(ops.reshape(inputs, (-1, *sizes)), slice(1, 3))
        rows, columns, channels = inside.shape[1:]
        inside = ops.reshape(inside, (-1, planes, rows * columns, channels))
        outputs = self._pooled(inside, slice(0, 1))
        return ops.reshape(outputs, (-1, outputs.shape[1], rows, columns, channels))

    def _pooled(self, images: Any, axes: slice) -> Any:
        """Pools images over the axes of the volume that they show, with windows of 1 beside."""
        size, strides = self.plain.pool_size[axes], self.plain.strides[axes]
        size, strides = ((*pair, 1)[:2] for pair in (size, strides))
        pool = _POOLS[type(self.plain)]
        return pool(images, size, strides, self.plain.padding, data_format="channels_last")


_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv2D, layers.SeparableConv2D)
_POOLS = {layers.MaxPooling3D: ops.max_pool, layers.AveragePooling3D: ops.average_pool}
