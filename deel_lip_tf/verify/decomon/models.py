"""decomon's `models`, from which its tutorials import.

from deel_lip_tf.verify.decomon.models import clone, convert
"""

from deel_lip_tf.verify.decomon.conversion import clone

__all__ = ["clone", "convert"]

convert = clone
"""The name of `clone` in older releases."""
