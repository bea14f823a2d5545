"""What is TensorFlow's alone says so when it is asked for."""

import importlib
from types import ModuleType

__all__ = ["matplotlib_for", "tensorflow_for"]


def tensorflow_for(what: str) -> ModuleType:
    """TensorFlow, for what cannot do without.

    Args:
        what: begins the message: a name, and a verb in the third person.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{what} TensorFlow, which is not installed: `pip install tensorflow`. Keras can go on "
            "training on another backend.",
            name="tensorflow",
        ) from error


def matplotlib_for(what: str) -> ModuleType:
    """matplotlib, for what cannot do without.

    Args:
        what: begins the message: a name, and a verb in the third person.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{what} matplotlib, which is not installed: `pip install matplotlib`, or the extra "
            "`demo`.",
            name="matplotlib",
        ) from error
