"""Checks of arguments that every room shares."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np


def number(name: str, value: Any, is_allowed: Callable[[float], bool], rule: str) -> float:
    """`value` as a Python float.

    Raises:
        TypeError: not a number.
        ValueError: not allowed; `rule` says what is, after "must be".
    """
    try:
        as_float = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be a number, {rule}. Received: {name}={value!r}."
        ) from error
    if not is_allowed(as_float):
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}.")
    return as_float


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as a Python integer; NumPy's integers are accepted.

    Raises:
        TypeError: not an integer.
        ValueError: below `least`.
    """
    message = f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}."
    if isinstance(value, bool):
        raise TypeError(message)
    try:
        integer = operator.index(value)
    except TypeError as error:
        raise TypeError(message) from error
    if integer < least:
        raise ValueError(message)
    return integer


def flag(name: str, value: Any) -> bool:
    """`value` as a Python boolean.

    Raises:
        TypeError: neither True nor False, as where an argument stands in the place of another.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(
            f"`{name}` must be True or False; give the arguments after it by keyword. "
            f"Received: {name}={value!r}."
        )
    return bool(value)
