"""Files of models, read as Keras models: a folder or a module for each format.

`READERS` is where a format becomes known to the command line: a reader takes a path and returns the
Keras model; its errors name what cannot be read.
"""

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

READERS = {
    ".keras": from_keras,
    ".h5": from_keras,
    ".hdf5": from_keras,
    ".onnx": from_onnx,
    _FOLDER: from_saved_model,
}
"""By suffix of the file."""


def reader_of(path: str | Path):
    """The function that reads what lies at a path, or `None` if no format has that suffix."""
    return READERS.get(_FOLDER if Path(path).is_dir() else Path(path).suffix.lower())
