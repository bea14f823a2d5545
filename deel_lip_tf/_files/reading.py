"""How much a compressed file may unpack to before it is taken for an attack.

A deflated file of a kilobyte can hold a megabyte, and one of ten megabytes ten gigabytes. Numbers
and texts of real models and questions shrink by 2 to 30.
"""

import contextlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_ALWAYS = 2**30
_TIMES = 100


def _allowed_size(packed: int) -> int:
    """The bytes that a compressed file may hold: a GiB, or 100 times its own size."""
    return max(_ALWAYS, _TIMES * packed)


def _check_unpacked(path: str | os.PathLike, unpacked: int, packed: int) -> None:
    """Refuses a file that unpacks to more than is plausible.

    Raises:
        ValueError: so it does.
    """
    if unpacked > _allowed_size(packed):
        raise ValueError(
            f"{str(path)!r} has {packed} bytes and unpacks to more than {_allowed_size(packed)}, "
            "which is taken for an attack. If it is none, unpack it and give the result."
        )


def check_archive(path: str | os.PathLike) -> None:
    """Refuses a zip archive, such as a `.keras` or `.npz` file, that unpacks to too much.

    What is no archive passes: whoever reads it says what it is.

    Raises:
        OSError: the file cannot be read.
        ValueError: it unpacks to too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [entry.file_size for entry in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return
    _check_unpacked(path, sum(sizes), Path(path).stat().st_size)


@contextlib.contextmanager
def opened_arrays(path: str | os.PathLike) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an `.npz` file, each read when it is asked for; never a pickled object.

    Raises:
        OSError: the file cannot be read.
        Exception: it is none; NumPy, zipfile and zlib each have their own.
    """
    check_archive(path)
    # opened here: NumPy leaves a file open that is no archive
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        yield _Arrays(archive)


class _Arrays(Mapping):
    """The members of an archive; NumPy gives bytes for what is no array, which is refused."""

    def __init__(self, archive: Any):
        self._archive = archive

    def __getitem__(self, name: str) -> np.ndarray:
        if not isinstance(array := self._archive[name], np.ndarray):
            raise ValueError(f"{name!r} is no array")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive)

    def __len__(self) -> int:
        return len(self._archive)


def content_of(path: str | Path) -> bytes:
    """The content of a file, decompressed where its name ends with `.gz`.

    Args:
        path: of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is compressed in another way than its name says, is cut off, or unpacks to
            too much.
    """
    content = Path(path).read_bytes()
    if Path(path).suffix.lower() != ".gz":
        return content
    unpacked, rest = io.BytesIO(), content
    try:
        while rest:
            member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            left = _allowed_size(len(content)) - unpacked.tell()
            unpacked.write(member.decompress(rest, left + 1))
            _check_unpacked(path, unpacked.tell(), len(content))
            if not member.eof:
                raise zlib.error("the file ends before what it holds does")
            rest = member.unused_data.lstrip(b"\0")  # padding is allowed behind a member
    except zlib.error as error:
        raise ValueError(f"{str(path)!r} is not compressed by gzip: {error}") from error
    return unpacked.getvalue()
