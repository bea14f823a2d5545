"""A file as a list of named operators, whatever its format; nothing here knows Keras."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

BATCH = -(2**40)
"""The size of the batch in an array of sizes, and `BATCH * 3` three times that size."""


class UnsupportedOperatorError(ValueError):
    """An operator breaks a rule, and the message names it."""


@dataclass(frozen=True, eq=False)
class Node:
    """An operator with its attributes decoded.

    Attributes:
        kind: the operator's type.
        name: for messages.
        inputs: names of tensors, "" for one that was left out.
        output: name of its first output.
        attributes: numbers, strings, lists or arrays by name.
        further_outputs: names of those behind the first, "" for one that was left out.
    """

    kind: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict
    further_outputs: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The type and the name, for messages."""
        return f"{self.kind} ({self.name!r})"

    def unsupported(self, rule: str, received) -> ValueError:
        """The error to raise where the operator breaks a rule."""
        return UnsupportedOperatorError(
            f"The operator {self.label} must have {rule}. Received: {received!r}."
        )

    def expect(self, attribute: str, default, *allowed) -> None:
        """Raises where an attribute has a value without meaning here."""
        value = self.attributes.get(attribute, default)
        if value not in allowed:
            rule = " or ".join(f"{attribute}={choice!r}" for choice in allowed)
            raise self.unsupported(rule, value)


@dataclass(frozen=True, eq=False)
class Graph:
    """What there is to compute.

    Attributes:
        nodes: the operators, in order.
        constants: arrays by name.
        input: name of the input.
        shape: of one sample.
        dtype: "float32" or "float64".
        output: name of the output.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    input: str
    shape: tuple[int, ...]
    dtype: str
    output: str


def raise_for_unknown(nodes: Iterable[Node], supported: Collection[str], framework: str) -> None:
    """Raises one error that names all operators that are not supported.

    Args:
        nodes: the operators to call.
        supported: their types that are.
        framework: whose operators they are, for the message.

    Raises:
        ValueError: there is such an operator.
    """
    unknown: dict[str, list[str]] = {}
    for node in nodes:
        if node.kind not in supported:
            unknown.setdefault(node.kind, []).append(node.name)
    if unknown:
        listed = "; ".join(f"{kind} ({', '.join(map(repr, at))})" for kind, at in unknown.items())
        raise ValueError(
            f"These {framework} operators are not supported: {listed}. Supported are: "
            f"{', '.join(sorted(supported))}. Rewrite the network with these, or "
            "give the Keras model itself."
        )


def carries_batch(array: np.ndarray) -> bool:
    """Whether an array of sizes holds that of the batch, or a multiple of it."""
    return array.dtype.kind == "i" and bool((array <= BATCH).any())
