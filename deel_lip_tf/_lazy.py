"""Names that a room offers: which are shown, and which are imported when somebody asks for them."""

import importlib
import importlib.abc
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType
from typing import Any


def public_names(room: str, more: Collection[str] = ()) -> Callable[[], list[str]]:
    """`__dir__` of the module `room`: what completion shows are its `__all__` and `more`.

    Whatever else it imports, and the modules inside it, are found as ever.
    """

    def names() -> list[str]:
        own = vars(sys.modules[room])
        return sorted({*own["__all__"], *more, *(name for name in own if _is_special(name))})

    return names


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def found_when_asked_for(
    room: str, sources: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the module `room`, as PEP 562 has it.

    Args:
        room: full name of the module.
        sources: the names that it offers, by the module that has them.
        modules: modules inside the room that it offers; shown are those in `__all__`.
    """
    source_of = {name: source for source, names in sources.items() for name in names}

    def attribute(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{room}.{name}")
        if name not in source_of:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(source_of[name]), name)

    return attribute, public_names(room, source_of)


def imported_with(library: str, package: str, rooms: Sequence[str]) -> None:
    """Imports the rooms of a package as soon as a library is there: at once, or with it.

    What a room registers with the library is then known to it in whatever order the two were
    imported, and who does without the library does without the rooms.

    Args:
        library: name of a module.
        package: that calls this while it is imported.
        rooms: names of modules inside the package.
    """

    def complete() -> None:
        for room in rooms:
            importlib.import_module(f"{package}.{room}")

    if library in sys.modules:
        complete()
    else:
        sys.meta_path.insert(0, _Watch(library, package, complete))


class _Watch(importlib.abc.MetaPathFinder):
    """Waits for the library; finds no module itself.

    A room that imports the library is itself half imported then, and others that need it cannot
    be. So what counts is the end of the outermost import of the library or of the package.
    """

    def __init__(self, library: str, package: str, complete: Callable[[], None]):
        self._library, self._package, self._complete = library, package, complete
        self._thread = threading.local()

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        """What the other finders know, with a loader that tells when it is done."""
        if fullname != self._library and not fullname.startswith(f"{self._package}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Telling(spec.loader, self)
        return spec

    def run(self, execute: Callable[[], None]) -> None:
        """Executes a module; after the outermost one, completes the package."""
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        try:
            execute()
        finally:
            self._thread.depth = depth
        if not depth and self in sys.meta_path and self._library in sys.modules:
            sys.meta_path.remove(self)
            self._complete()


class _Telling(importlib.abc.Loader):
    """The loader of a module, that is in its place until the module is executed."""

    def __init__(self, loader: Any, watch: _Watch):
        self._loader, self._watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> ModuleType | None:
        """As the loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the loader does, which takes its place again."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._watch.run(lambda: self._loader.exec_module(module))
