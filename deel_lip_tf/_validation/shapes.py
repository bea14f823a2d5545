"""Shapes of inputs, and the order of their axes."""

from collections.abc import Sequence

import keras

__all__ = ["check_classifier_shape", "check_sizes", "known_size", "standardize_data_format"]


def standardize_data_format(data_format: str | None) -> str:
    """`data_format`, or Keras's default for `None`.

    Raises:
        ValueError: neither `"channels_last"` nor `"channels_first"`.
    """
    chosen = keras.config.image_data_format() if data_format is None else data_format
    if chosen not in ("channels_first", "channels_last"):
        raise ValueError(
            '`data_format` must be "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}."
        )
    return chosen


def known_size(layer: keras.layers.Layer, shape, axis: int) -> int:
    """The size of an axis of the input, which the layer cannot do without.

    Raises:
        ValueError: the size is unknown or 0, or there is no such axis beside the batch axis.
    """
    rank = len(shape)
    if not 0 < (axis + rank if axis < 0 else axis) < rank:
        raise ValueError(
            f"Layer {layer.name!r} needs inputs with a batch axis and channels. Received an input "
            f"of shape {tuple(shape)}. Reshape the input to (batch, channels)."
        )
    if not shape[axis]:
        raise ValueError(
            f"Layer {layer.name!r} needs to know the number of channels, at least 1. Received an "
            f"input of shape {tuple(shape)}. Give the size of axis {axis}."
        )
    return shape[axis]


def check_sizes(layer: keras.layers.Layer, shape, least: tuple[int, ...]) -> None:
    """Refuses images, or sequences, that are smaller along some axis than the layer needs.

    Args:
        layer: with a `data_format`.
        shape: of its input, with batch and channels.
        least: smallest size of each of the axes between them.

    Raises:
        ValueError: another number of axes, or a known size that is too small.
    """
    if len(shape) != len(least) + 2:
        raise ValueError(
            f"Layer {layer.name!r} needs inputs of {len(least) + 2} axes, batch and channels "
            f"included. Received an input of shape {tuple(shape)}. Reshape it first."
        )
    sizes = shape[1:-1] if layer.data_format == "channels_last" else shape[2:]
    if any(size is not None and size < one for size, one in zip(sizes, least, strict=True)):
        raise ValueError(
            f"Layer {layer.name!r} needs inputs of at least {' x '.join(map(str, least))} besides "
            f"batch and channels. Received an input of shape {tuple(shape)}. Use larger inputs, or "
            "fewer or smaller poolings and strides before it."
        )


def check_classifier_shape(shape: Sequence[int]) -> None:
    """Refuses a model whose output is not one row of classes.

    Args:
        shape: of the output for one sample.

    Raises:
        ValueError: it has another number of axes than one.
    """
    if len(shape) != 1:
        raise ValueError(
            "`model` must be a classifier, with an output of shape (batch, classes) or (batch, 1). "
            f"Received: an output of shape (batch, {', '.join(map(str, shape))}). For other "
            "outputs, use `bounds`."
        )
