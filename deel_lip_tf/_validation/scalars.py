"""Numbers, whole numbers and flags."""

import math
import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np


class Rule(NamedTuple):
    """What a number must keep.

    Attributes:
        is_allowed: whether a Python float may be the value; false of NaN.
        text: what is allowed, after "must be".
    """

    is_allowed: Callable[[float], bool]
    text: str


FINITE = Rule(math.isfinite, "finite")
POSITIVE = Rule(lambda value: 0 < value < math.inf, "positive and finite")
NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, "finite and at least 0")


def number(name: str, value: Any, rule: Rule) -> float:
    """`value` as a Python float.

    Raises:
        TypeError: not a number.
        ValueError: against the rule.
    """
    try:
        as_float = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be a number, {rule.text}. Received: {name}={value!r}."
        ) from error
    if not rule.is_allowed(as_float):
        raise ValueError(f"`{name}` must be {rule.text}. Received: {name}={value!r}.")
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


def check_count(name: str, value: Any, hint: str = "") -> None:
    """Refuses a number of samples or of parts that is not positive.

    Args:
        name: of the argument.
        value: what was given for it.
        hint: what else may be given, for the message.

    Raises:
        ValueError: it is no integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer{hint}. Received: {value!r}.")


def check_choice(name: str, value: Any, allowed: Collection[str]) -> None:
    """Refuses what is none of the words that are allowed.

    Raises:
        ValueError: another value.
    """
    if value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, allowed))}. Received: {value!r}."
        )


def check_time_limit(time_limit: Any) -> None:
    """Refuses a limit that is neither a positive number of seconds nor `None`.

    Raises:
        ValueError: it is something else.
    """
    is_number = isinstance(time_limit, int | float) and not isinstance(time_limit, bool)
    if time_limit is not None and not (is_number and time_limit > 0):
        raise ValueError(
            "`time_limit` must be a positive number of seconds, or None. "
            f"Received: time_limit={time_limit!r}."
        )
