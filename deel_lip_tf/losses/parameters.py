"""The ranges of the parameters that losses share, by name."""

from typing import Any

from deel_lip_tf._validation.scalars import NOT_NEGATIVE, POSITIVE, Rule, number

_RULES = {
    "alpha": Rule(lambda value: value >= 0, "at least 0 (0: KR alone, inf: hinge alone)"),
    "min_margin": POSITIVE,
    "max_margin": POSITIVE,
    "tau": POSITIVE,
    "temperature": POSITIVE,
    "penalty": POSITIVE,
    "alpha_margin": NOT_NEGATIVE,
    "alpha_mean": Rule(lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "radius": NOT_NEGATIVE,
    "lipschitz": Rule(POSITIVE.is_allowed, 'positive and finite, or "measured"'),
    "trades": NOT_NEGATIVE,
    "offset": NOT_NEGATIVE,
    "beta": NOT_NEGATIVE,
    "soft_hinge_tau": Rule(NOT_NEGATIVE.is_allowed, "finite and at least 0 (0: plain)"),
}


def parameter(name: str, value: Any) -> float:
    """`value` as a Python float in the range of the parameter `name`.

    Raises:
        TypeError: not a number.
        ValueError: out of range.
    """
    return number(name, value, _RULES[name])


def parameter_or_tensor(name: str, value: Any) -> Any:
    """`value` as it is: a tensor or a variable, or else a number in the range of `name`."""
    if not hasattr(value, "dtype"):
        parameter(name, value)
    return value
