"""Models in files that Keras itself has written."""

import json
import shutil
import tempfile
from pathlib import Path

import keras

from deel_lip_tf._files.reading import check_archive


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


def load_h5(path: str | Path) -> keras.Model:
    """Loads a model from an HDF5 file of Keras 2 or 3, without its optimizer.

    In files of Keras 2 the first layer of a Sequential model says the input shape. Keras 3 takes
    that shape, which has the batch, for the shape of a sample, and adds a batch to it.

    Args:
        path: of a whole model, as `model.save` wrote it.

    Raises:
        OSError, ValueError, TypeError, KeyError: Keras cannot load it.
    """
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(path, Path(folder) / "model.h5")
        with h5py.File(copy, "r+") as file:
            if "model_config" in file.attrs:
                config = json.loads(file.attrs["model_config"])
                file.attrs["model_config"] = json.dumps(_with_inputs(config))
        return keras.models.load_model(copy, compile=False)


def _with_inputs(config):
    """The configuration with an `InputLayer` in front of layers that say the input shape."""
    if isinstance(config, list):
        return [_with_inputs(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: _with_inputs(value) for key, value in config.items()}
    parts = config.get("config")
    if config.get("class_name") != "Sequential" or not isinstance(parts, dict):
        return config
    first, *others = parts.get("layers") or [{}]
    own = dict(first.get("config") or {})
    shape = own.pop("batch_input_shape", None)
    if shape is None or first.get("class_name") == "InputLayer":
        return config
    given = {"batch_shape": shape, "dtype": "float32", "name": f"{own.get('name')}_input"}
    entry = {"class_name": "InputLayer", "config": given}
    return {**config, "config": {**parts, "layers": [entry, {**first, "config": own}, *others]}}
