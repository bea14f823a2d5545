"""The operators of a file, whatever its format; nothing here knows Keras."""

from dataclasses import dataclass

__all__ = ["Node", "Refused"]


class Refused(ValueError):
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
        further_outputs: names of those behind the first that are not left out.
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

    def refuse(self, rule: str, received) -> ValueError:
        """The error to raise where the operator breaks a rule."""
        return Refused(f"The operator {self.label} must have {rule}. Received: {received!r}.")

    def expect(self, attribute: str, default, *allowed) -> None:
        """Raises where an attribute has a value without meaning here."""
        value = self.attributes.get(attribute, default)
        if value not in allowed:
            rule = " or ".join(f"{attribute}={choice!r}" for choice in allowed)
            raise self.refuse(rule, value)
