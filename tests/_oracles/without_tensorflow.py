"""A plugin of pytest, `-p tests._oracles.without_tensorflow`: TensorFlow cannot be imported."""

import sys
from importlib.machinery import PathFinder


class WithoutTensorFlow(PathFinder):
    """Finds all but TensorFlow, which `sys.modules` does not name either: Keras asks there."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        """As if it were not installed."""
        is_tensorflow = name.partition(".")[0] == "tensorflow"
        return None if is_tensorflow else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow
