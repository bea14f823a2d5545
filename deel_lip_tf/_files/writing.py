"""Files that appear complete or not at all, whatever ends the process that writes them.

The content goes to a file of another name in the same folder, reaches the disk, and then takes the
place of an older file in one step. So who reads the name finds the old content or the new one.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PART = ".part"
"""How the name of a file ends that is still being written."""


_OF_PATHS = FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError


class NotWritten(OSError):
    """The disk did not take a file, or no more of it; an older one of the name is as it was."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of an older one once everything is written.

    What is no file, such as `/dev/stdout`, is written to as it is.

    Args:
        path: of the file; of a link, the file it leads to is replaced.

    Raises:
        NotWritten: the disk is full, say.
        OSError: the file cannot be created.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with _explained(path), open(path, "wb") as file:
            yield file
        return
    # not `mkstemp`, whose files nobody else may read
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{PART}")
    try:
        with _explained(path):
            with open(unfinished, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.exists():
                shutil.copymode(path, unfinished)
            os.replace(unfinished, path)
            _reach_disk(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill, which takes the place of an older one once everything is written.

    The older one is moved away before, so that for a moment there is none.

    Args:
        path: of the folder.

    Raises:
        NotWritten: the disk is full, say.
        OSError: a folder cannot be created beside it.
    """
    path = Path(path)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=PART, dir=path.parent))
    try:
        with _explained(path):
            yield aside / "new"
            if path.exists():
                os.replace(path, aside / "old")
            os.replace(aside / "new", path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Names the file in the error of a disk that takes no more."""
    try:
        yield
    except Exception as error:
        found = _of_system(error)
        if found is None or isinstance(found, _OF_PATHS):
            raise
        reason = found.strerror or found
        raise NotWritten(
            found.errno, f"cannot write {str(path)!r}: {reason}; what was there is kept"
        ) from error


def _of_system(error: BaseException | None) -> OSError | None:
    """The system's error behind one: writers of archives fail again while they clean up."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _reach_disk(folder: Path) -> None:
    """Waits until the name of a new file has reached the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
