"""What the commands of ``python -m deel_lip_tf`` share: argument types, their error, exit codes."""

import argparse
import importlib
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

PROGRAM = "python -m deel_lip_tf"
SUCCESS, FAILURE, BAD_INPUT, NOT_WRITTEN, INTERRUPTED = 0, 1, 2, 74, 130

LARGEST_SEED = 2**32 - 1
MODULES_OF_EXTRA = {
    "demo": ("sklearn", "matplotlib", "foolbox"),
    "datasets": ("importlib_resources", "tensorflow_datasets"),
    "verify": ("vnnlib", "onnx"),
}


class BadInput(ValueError):
    """A mistake in what the user gave, told in one line: the rule, what came, and the way out."""


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line."""

    def error(self, message: str):
        """Ends the process with exit code 2."""
        self.exit(BAD_INPUT, f"{PROGRAM}: error: {message} (--help shows all options)\n")


def whole_number(least: int, largest: int | None = None) -> Callable[[str], int]:
    """An argument type: integers from `least` to `largest`."""

    def parse(text: str) -> int:
        rule = f"must be a whole number of at least {least}"
        rule += "" if largest is None else f" and at most {largest}"
        try:
            number = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{rule}, got {text!r}") from error
        if number < least or (largest is not None and number > largest):
            raise argparse.ArgumentTypeError(f"{rule}, got {text!r}")
        return number

    return parse


def positive_number(text: str) -> float:
    """An argument type: positive finite numbers."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return number


def add_seed(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Adds `--seed`, which makes a run repeatable, on a condition."""
    parser.add_argument(
        "--seed",
        type=whole_number(0, LARGEST_SEED),
        default=0,
        metavar="N",
        help=f"makes a run repeatable{condition} (default: %(default)s)",
    )


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


def require_tensorflow(what: str) -> None:
    """Refuses Keras's other backends.

    Args:
        what: the command, and what it does with TensorFlow.

    Raises:
        BadInput: if Keras runs on another backend.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise BadInput(
            f"{what} with TensorFlow, but Keras runs on {backend!r}: set KERAS_BACKEND=tensorflow"
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
