"""Models in files that Keras itself has written."""

from pathlib import Path

import keras

from deel_lip_tf._files.reading import check_archive
from deel_lip_tf.formats.keras2_files import load_h5


class NotLoaded(ValueError):
    """Keras cannot load a file. The message is Keras's own, which need not name the file."""


def from_keras(path: str | Path) -> keras.Model:
    """Loads a whole model, without its optimizer.

    Args:
        path: of a `.keras` file, or of an HDF5 file of Keras 2 or 3.

    Raises:
        NotLoaded: Keras cannot load it.
    """
    try:
        if Path(path).suffix.lower() == ".keras":
            check_archive(path)
            return keras.models.load_model(path, compile=False)
        return load_h5(path)
    except Exception as error:  # Keras, h5py, zipfile and TensorFlow each have their own
        raise NotLoaded(str(error) or type(error).__name__) from error
