"""A plugin of pytest, `-p tests._oracles.without_tensorflow`: TensorFlow cannot be imported."""

import sys

sys.modules["tensorflow"] = None
