"""Files of models, read as Keras models: a folder or a module for each format.

`READERS` is where a format becomes known to the command line: a reader takes a path and returns the
Keras model; its errors name what cannot be read.
"""

from collections.abc import Callable
from pathlib import Path

from deel_lip_tf.formats.keras_files import NotLoaded, from_keras
from deel_lip_tf.formats.onnx.read import from_onnx
from deel_lip_tf.formats.onnx.write import to_onnx
from deel_lip_tf.formats.saved_model.read import from_saved_model

__all__ = [
    "READERS",
    "NotLoaded",
    "from_keras",
    "from_onnx",
    "from_saved_model",
    "reader_of",
    "to_onnx",
]

_FOLDER = "folder"

READERS: dict[str, Callable] = {
    ".keras": from_keras,
    ".h5": from_keras,
    ".hdf5": from_keras,
    ".onnx": from_onnx,
    ".onnx.gz": from_onnx,
    _FOLDER: from_saved_model,
}
"""By the end of the file's name."""


def reader_of(path: str | Path) -> Callable | None:
    """The function that reads what lies at a path, or `None` if no format has that suffix."""
    if Path(path).is_dir():
        return READERS[_FOLDER]
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return READERS.get("".join(suffixes[-2:]), READERS.get("".join(suffixes[-1:])))
