"""Checks of arguments and of input shapes, with the errors that several layers share."""

import functools
import inspect
from typing import TYPE_CHECKING

import keras

from deel_lip_tf.normalizers.arguments import flag, number, whole_number

__all__ = [
    "BesideLayer",
    "CheckedArguments",
    "check_activation",
    "check_sizes",
    "flag",
    "known_size",
    "named",
    "number",
    "standardize_data_format",
    "whole_number",
]


_IN_KERAS = {
    "bias": "`use_bias`",
    "ceil_mode": None,
    "channels": None,
    "count_include_pad": None,
    "dilation": None,
    "dim": "`axis` in the centering layers, and `data_format` elsewhere",
    "divisor_override": None,
    "group_size": "`n`",
    "in_channels": None,
    "in_features": None,
    "init": "`alpha_initializer`",
    "kernel_size": "`pool_size`",
    "num_features": None,
    "num_parameters": None,
    "out_channels": "`filters`",
    "out_features": "`units`",
    "padding_mode": '`padding`, e.g. padding="circular"',
    "stride": "`strides`",
}
"""Arguments of deel-torchlip's layers and their names here; `None` for those there are none of."""


if TYPE_CHECKING:
    from keras.layers import Layer as BesideLayer  # a mixin uses what the layer beside it has
else:
    BesideLayer = object


class CheckedArguments(BesideLayer):
    """Mixin: errors about the arguments of a constructor name the class that was called."""

    def __new__(cls, *args, **kwargs):
        """Checks the arguments before the constructors, which inherit from each other, get them.

        Raises:
            TypeError: an argument is missing, or is named as in deel-torchlip.
        """
        _check_call(cls, args, kwargs)
        following = super().__new__
        return following(cls) if following is object.__new__ else following(cls, *args, **kwargs)


def _check_call(cls: type, args: tuple, kwargs: dict) -> None:
    foreign = [name for name in kwargs if name in _IN_KERAS and name not in _accepted(cls)]
    if foreign:
        advice = [
            f"leave `{name}` out" if _IN_KERAS[name] is None else f"`{name}` is {_IN_KERAS[name]}"
            for name in foreign
        ]
        received = ", ".join(f"{name}={kwargs[name]!r}" for name in foreign)
        raise TypeError(
            f"{cls.__name__} has no argument `{foreign[0]}`: arguments are named as in Keras, and "
            f"sizes of inputs are those of the input. Here {', '.join(advice)}. "
            f"Received: {received}."
        )
    try:
        _signature(cls).bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{cls.__name__}: {error}. Its arguments are {', '.join(_named_arguments(cls))}. "
            f"Received: {args} and {kwargs}."
        ) from error


def _signature(cls: type) -> inspect.Signature:
    return inspect.signature(cls.__init__)  # type: ignore[misc]  # of this very class, no object's


@functools.lru_cache(maxsize=256)
def _accepted(cls: type) -> frozenset[str]:
    """The names in the signatures of the constructors of a class and its parents."""
    constructors = [
        vars(parent)["__init__"] for parent in cls.__mro__ if "__init__" in vars(parent)
    ]
    return frozenset(name for one in constructors for name in inspect.signature(one).parameters)


def _named_arguments(cls: type) -> list[str]:
    parameters = list(_signature(cls).parameters.values())[1:]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [f"`{one.name}`" for one in parameters if one.kind not in kinds]


def check_activation(owner: str, activation) -> None:
    """Refuses what `keras.activations.get` takes, or fails on without a word about the argument.

    Raises:
        TypeError: a class.
        ValueError: a number.
    """
    if isinstance(activation, type):
        raise TypeError(
            f"`activation` of {owner} must be a function, a name or a layer, not a class: write "
            f"activation={activation.__name__}(). Received: activation={activation!r}."
        )
    if isinstance(activation, int | float):
        raise ValueError(
            f"`activation` of {owner} must be a function, a name or a layer. Received: activation="
            f"{activation!r}. The sizes of inputs are not given in Keras: only that of the output."
        )


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
