"""What needs a library that may be missing says so when it is asked for."""

import importlib
from types import ModuleType


def tensorflow_for(what: str) -> ModuleType:
    """TensorFlow, for what cannot do without.

    Args:
        what: begins the message: a name, and a verb in the third person.

    Raises:
        ImportError: it is not installed.
    """
    way_out = "`pip install tensorflow`. Keras can go on training on another backend."
    return _imported(what, "tensorflow", "TensorFlow", way_out)


def matplotlib_for(what: str) -> ModuleType:
    """matplotlib, for what cannot do without.

    Args:
        what: begins the message: a name, and a verb in the third person.

    Raises:
        ImportError: it is not installed.
    """
    way_out = "`pip install matplotlib`, or the extra `demo`."
    return _imported(what, "matplotlib", "matplotlib", way_out)


def _imported(what: str, module: str, name: str, way_out: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = f"{what} {name}, which is not installed: {way_out}"
        raise ImportError(message, name=module) from error
