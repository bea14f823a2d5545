"""Names that a room offers and does not import before somebody asks for them."""

import importlib
import sys
from collections.abc import Callable
from typing import Any


def found_when_asked_for(
    room: str, source: str, names: tuple[str, ...]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the module `room`, for `names` of the module `source`.

    As PEP 562 has it, for names that stand above the room, so that it cannot import them.
    """

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(source), name)

    return attribute, lambda: sorted({*vars(sys.modules[room]), *names})
