"""Paddings that copy pixels of the image, on top of Keras's zeros, and their adjoints."""

import keras
import numpy as np
from keras import ops

from deel_lip_tf.normalizers.convolution import EXTENDING, PADDINGS, padded_indices

Amounts = tuple[tuple[int, int], ...]
"""Pixels added before and after each spatial axis."""


def standardize_padding(padding, layer_name: str, allowed: tuple[str, ...] = PADDINGS) -> str:
    """`padding` in lower case.

    Raises:
        ValueError: not one of the allowed paddings.
    """
    name = padding.lower() if isinstance(padding, str) else padding
    if name not in allowed:
        raise ValueError(
            f"`padding` of {layer_name} must be one of {', '.join(map(repr, allowed))}. "
            f"Received: padding={padding!r}. For another one, put a padding layer before "
            'padding="valid".'
        )
    return name


def spatial_axes(data_format: str, rank: int = 2) -> tuple[int, ...]:
    """The axes of a batch of images that are neither batch nor channels."""
    first = 1 if data_format == "channels_last" else 2
    return tuple(range(first, first + rank))


def extend(images, amounts: Amounts, mode: str, data_format: str):
    """Pads `images` by `amounts`: with copies of pixels where `mode` says so, else with zeros."""
    axes = spatial_axes(data_format, len(amounts))
    if mode not in EXTENDING:
        widths = dict(zip(axes, amounts, strict=True))
        return ops.pad(images, [widths.get(axis, (0, 0)) for axis in range(len(images.shape))])
    for axis, (before, after) in zip(axes, amounts, strict=True):
        length, xp = _length(images, axis)
        images = ops.take(images, padded_indices(length, before, after, mode, xp), axis=axis)
    return images


def fold(images, amounts: Amounts, mode: str, data_format: str):
    """The adjoint of `extend` by copies: a pixel receives the sum of all its copies."""
    letters = "abcde"[: len(images.shape)]
    for axis, (before, after) in zip(spatial_axes(data_format, len(amounts)), amounts, strict=True):
        length, xp = _length(images, axis)
        length = length - before - after
        sources = padded_indices(length, before, after, mode, xp)
        # The matrix of `extend` along this axis, in integers: they take the type of the images.
        copies = xp.equal(sources[:, None], xp.arange(length))
        # Those of PyTorch have to be of one type before.
        is_torch = keras.config.backend() == "torch"
        dtype = keras.backend.standardize_dtype(images.dtype) if is_torch else "int32"
        copies = copies.astype(dtype) if xp is np else ops.cast(copies, dtype)
        contraction = f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}"
        images = ops.einsum(contraction, images, copies)
    return images


def _length(images, axis: int):
    """Length of an axis, and the module to compute its indices with."""
    if images.shape[axis] is not None:
        return images.shape[axis], np
    return ops.shape(images)[axis], ops


def extended_shape(shape: tuple, amounts: Amounts, data_format: str) -> tuple:
    """The shape that `extend` gives; unknown sizes stay unknown."""
    extended = list(shape)
    for axis, added in zip(spatial_axes(data_format, len(amounts)), amounts, strict=True):
        extended[axis] = None if shape[axis] is None else shape[axis] + sum(added)
    return tuple(extended)


def padded_model(layer: keras.layers.Layer, amounts: Amounts, mode: str, shape: tuple):
    """A Keras model, named as `layer`, that pads as `extend` does and then applies `layer`.

    It consists of Keras's own operations: loading it needs nothing of this library.
    """
    inputs = keras.Input(shape[1:], dtype=layer.compute_dtype)
    padded = extend(inputs, amounts, mode, layer.data_format)
    return keras.Model(inputs, layer(padded), name=layer.name)
