"""What can be found wrong before training starts: one class of error, one line each."""

import importlib
import tempfile
from pathlib import Path

MODULES_OF_EXTRA = {
    "demo": ("sklearn", "matplotlib", "foolbox"),
    "datasets": ("importlib_resources", "tensorflow_datasets"),
}


class BadInput(ValueError):
    """A mistake in what the user gave, told in one line: the rule, what came, and the way out."""


def require_extra(extra: str) -> None:
    """Imports the modules of an optional extra.

    Raises:
        BadInput: if one of them cannot be imported; the message holds the command that mends it.
    """
    for module in MODULES_OF_EXTRA[extra]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BadInput(
                f"this needs `{module}`, which cannot be imported ({error}): "
                f"install the extra with: pip install 'deel_lip_tf[{extra}]'"
            ) from error


def require_tensorflow() -> None:
    """Refuses Keras's other backends: foolbox and the SavedModel need TensorFlow.

    Raises:
        BadInput: if Keras runs on another backend.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise BadInput(
            f"quickstart attacks and exports with TensorFlow, but Keras runs on {backend!r}: "
            "set KERAS_BACKEND=tensorflow"
        )


def writable_folder(path: str | Path) -> Path:
    """Creates the folder if needed and proves that a file can be written in it.

    Raises:
        BadInput: if it cannot be created or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"--out: cannot write into the folder {str(path)!r}: {error.strerror or error}"
        ) from error
    return folder
