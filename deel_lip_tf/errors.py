"""The errors that several rooms raise and catch."""

from typing import Any


class UnsupportedLayerError(ValueError):
    """A layer or an operation has no rule.

    A rule raises it with the reason alone. Whoever walks through a model catches it, and names
    everything without a rule in one error of the same type.
    """


class UnsupportedParts:
    """Collects what has no rule in a model, each part once, and names all of it in one error.

    Args:
        sentence: what the error says, with the parts in place of `{}`.
    """

    def __init__(self, sentence: str):
        self._sentence = sentence
        self._parts: list[str] = []

    def add(self, part: str) -> None:
        """Takes a part: its name and the reason."""
        if part not in self._parts:
            self._parts.append(part)

    def add_call(self, operation: Any, name: str, reason: object) -> None:
        """Takes a call of a layer or an operation."""
        self.add(f"{name!r} ({type(operation).__name__}: {reason})")

    def raise_if_any(self) -> None:
        """Raises the error, if there is a part.

        Raises:
            UnsupportedLayerError: it names all parts.
        """
        if self._parts:
            raise UnsupportedLayerError(self._sentence.format("; ".join(self._parts)))
