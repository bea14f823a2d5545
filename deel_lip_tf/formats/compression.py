"""Files that may be compressed by gzip, as the verification competitions keep theirs."""

import gzip
import zlib
from pathlib import Path

__all__ = ["content_of"]


def content_of(path: str | Path) -> bytes:
    """The content of a file, decompressed where its name ends with `.gz`.

    Args:
        path: of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is compressed in another way than its name says, or is cut off.
    """
    content = Path(path).read_bytes()
    if Path(path).suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is not compressed by gzip: {error}") from error
