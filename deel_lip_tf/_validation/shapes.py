"""Shapes of inputs, and the order of their axes."""

import math
from collections.abc import Sequence

import keras


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


def way_to_shape(received: Sequence[int], wanted: Sequence[int | None]) -> str:
    """What turns an array of another shape into samples, as sentences for the end of a message.

    Args:
        received: the shape that came.
        wanted: of one sample; `None` for an axis of any size.

    Returns:
        The sentences with a space before them; "" where none is known.
    """
    given, one = tuple(received), tuple(wanted)
    has_one_channel = len(one) > 1 and one[-1] == 1
    if _fits(given, one):
        return (
            " That is one sample without its batch axis: give `x[None]`. (Of a data set of single "
            "samples give batches: `data.batch(32)`.)"
        )
    if has_one_channel and _fits(given, one[:-1]):
        return " That is one sample without batch and channel axis: give `x[None, ..., None]`."
    if has_one_channel and given and _fits(given[1:], one[:-1]):
        return " The channel axis is missing: give `x[..., None]`."
    if len(one) > 1 and given and _fits(given[1:], (one[-1], *one[:-1])):
        return " The channels come first: give `np.moveaxis(x, 1, -1)`."
    if len(given) == 2 and None not in one and given[1] == math.prod(one):  # type: ignore[arg-type]
        return f" The samples are flattened: give `x.reshape(-1, {', '.join(map(str, one))})`."
    if len(given) == 1 and given != one:
        return " One number for each sample is what labels are: give them as `y`."
    return ""


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in pairs)
