"""Checks of arguments and of input shapes, with the errors that several layers share."""

import keras

from deel_lip_tf.normalizers.arguments import flag, number, whole_number

__all__ = [
    "check_sizes",
    "flag",
    "known_size",
    "named",
    "number",
    "standardize_data_format",
    "whole_number",
]


def named(owner: str, names: tuple[str, ...], values: tuple, keywords: dict) -> dict:
    """`keywords`, and the positional arguments `values` under their names.

    Args:
        owner: class name for the messages.
        names: of the positional arguments, in their order.
        values: the first of them, as many as were given.
        keywords: the arguments given by name.

    Raises:
        TypeError: too many values, or one that is given by name too.
    """
    if len(values) > len(names):
        raise TypeError(
            f"{owner} takes no positional argument after `{names[-1]}`: give the others by "
            f"keyword, e.g. k_coef_lip=1.0. Received: {values[len(names) :]!r} after it."
        )
    positional = dict(zip(names, values, strict=False))
    twice = [name for name in positional if name in keywords]
    if twice:
        raise TypeError(
            f"{owner} was given `{twice[0]}` by position and by keyword: leave one out. Received: "
            f"{positional[twice[0]]!r} and {keywords[twice[0]]!r}."
        )
    return {**keywords, **positional}


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
