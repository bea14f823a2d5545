"""Arguments of the constructors of layers, with the errors that several of them share."""

import functools
import inspect
from typing import TYPE_CHECKING

from deel_lip_tf._validation.signatures import WholeSignature

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
    """Mixin: errors about the arguments of a constructor name the class that was called.

    The signature that `help` and notebooks show is the whole one.
    """

    __signature__ = WholeSignature()

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
