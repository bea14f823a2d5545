"""Names that a room offers and does not import before somebody asks for them."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["found_when_asked_for"]


def found_when_asked_for(
    room: str, source: str, names: tuple[str, ...]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a module, by PEP 562.

    For names that stand above the room, so that it cannot import them, or that cost too much.

    Args:
        room: the module, `__name__` where this is called.
        source: the module that has the names.
        names: what the room offers of it.
    """

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(source), name)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[room]), *names})

    return attribute, listed
