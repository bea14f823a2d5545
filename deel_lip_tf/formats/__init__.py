"""Files of models, read as Keras models: a folder or a module for each format.

`READERS` is where a format becomes known to the command line: a reader takes a path and returns the
Keras model; its errors name what cannot be read.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deel_lip_tf._lazy import found_when_asked_for

if TYPE_CHECKING:
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

__getattr__, __dir__ = found_when_asked_for(
    __name__,
    {
        "deel_lip_tf.formats.keras_files": ("NotLoaded", "from_keras"),
        "deel_lip_tf.formats.onnx.read": ("from_onnx",),
        "deel_lip_tf.formats.onnx.write": ("to_onnx",),
        "deel_lip_tf.formats.saved_model.read": ("from_saved_model",),
    },
)

_FOLDER = "folder"

READERS = {
    ".keras": "from_keras",
    ".h5": "from_keras",
    ".hdf5": "from_keras",
    ".onnx": "from_onnx",
    ".onnx.gz": "from_onnx",
    _FOLDER: "from_saved_model",
}
"""The function of this module, by the end of the file's name."""


def reader_of(path: str | Path) -> Callable | None:
    """The function that reads what lies at a path, or `None` if no format has that suffix."""
    if Path(path).is_dir():
        return _reader(_FOLDER)
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return _reader("".join(suffixes[-2:])) or _reader("".join(suffixes[-1:]))


def _reader(end: str) -> Callable | None:
    name = READERS.get(end)
    return None if name is None else getattr(importlib.import_module(__name__), name)
