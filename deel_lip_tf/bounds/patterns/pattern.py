"""Calls that are bounded together."""

from collections.abc import Callable
from dataclasses import dataclass

from deel_lip_tf._keras import operation_name
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.norms import Norm


@dataclass(frozen=True)
class Pattern:
    """Calls that end in one and begin at one tensor.

    Attributes:
        source: the tensor they begin at.
        inner: the calls before the last one.
        bound: computes `(constant, method)` for a norm and a budget.
    """

    source: Value
    inner: tuple[Call, ...]
    bound: Callable[[Norm, float], tuple[float, str]]


def maker(value: Value, name: str) -> Call | None:
    """The call of a Keras operation of this name that made a value, or None."""
    operation = None if value.call is None else value.call.operation
    return value.call if operation_name(operation) == name else None
