"""Paddings that copy pixels of the image, on top of Keras's zeros."""

import keras
import numpy as np
from keras import ops

from deel_lip_tf.normalizers.convolution import (
    EXTENDING,
    PADDINGS,
    padded_indices,
    padding_amounts,
)


def standardize_padding(padding, layer_name: str) -> str:
    """`padding` in lower case.

    Raises:
        ValueError: not one of the paddings a bound is known for.
    """
    name = padding.lower() if isinstance(padding, str) else padding
    if name not in PADDINGS:
        raise ValueError(
            f"`padding` of {layer_name} must be one of {', '.join(map(repr, PADDINGS))}: for these "
            f"the bound is known. Received: padding={padding!r}."
        )
    return name


def spatial_axes(data_format: str, rank: int = 2) -> tuple[int, ...]:
    """The axes of a batch of images that are neither batch nor channels."""
    first = 1 if data_format == "channels_last" else 2
    return tuple(range(first, first + rank))


def extend(images, kernel_size: tuple, padding: str, data_format: str):
    """Pads `images` for a `"valid"` convolution; zero paddings are left to the convolution."""
    if padding not in EXTENDING:
        return images
    for axis, size in zip(spatial_axes(data_format), kernel_size, strict=True):
        length, xp = images.shape[axis], np
        if length is None:
            length, xp = ops.shape(images)[axis], ops
        before, after = padding_amounts(length, size, 1, padding)
        images = ops.take(images, padded_indices(length, before, after, padding, xp), axis=axis)
    return images


def extended_shape(shape: tuple, kernel_size: tuple, padding: str, data_format: str) -> tuple:
    """The shape that `extend` gives; unknown sizes stay unknown."""
    if padding not in EXTENDING:
        return shape
    extended = list(shape)
    for axis, size in zip(spatial_axes(data_format), kernel_size, strict=True):
        extended[axis] = None if shape[axis] is None else shape[axis] + size - 1
    return tuple(extended)


def padded_model(layer: keras.layers.Layer, padding: str, input_shape: tuple, name: str):
    """A Keras model that pads as `extend` does and then applies `layer`.

    It consists of Keras's own operations: loading it needs nothing of this library.
    """
    inputs = keras.Input(input_shape[1:], dtype=layer.compute_dtype)
    padded = extend(inputs, layer.kernel_size, padding, layer.data_format)
    return keras.Model(inputs, layer(padded), name=name)
