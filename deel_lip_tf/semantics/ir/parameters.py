"""Numbers of a program that are read when it is run, in the place of an array.

A program to prove something with holds arrays; one to train with holds a `Parameter` for each array
that is made of weights. What rules do to either is what both have in common with `numpy.ndarray`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from deel_lip_tf.semantics.ir.primitives import Shape, Tensor


@dataclass(frozen=True, eq=False)
class Parameter:
    """Numbers that are read when they are asked for.

    Attributes:
        read: given `keras.ops`, returns them as a tensor.
        shape: of that tensor.
    """

    read: Callable[[ModuleType], Tensor]
    shape: Shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def reshape(self, *sizes: Any) -> "Parameter":
        """As `numpy.ndarray.reshape`."""
        wanted = tuple(sizes[0]) if isinstance(sizes[0], tuple) else sizes
        others = math.prod(size for size in wanted if size != -1)
        shape = tuple(math.prod(self.shape) // others if n == -1 else n for n in wanted)
        return Parameter(lambda xp: xp.reshape(self.read(xp), shape), shape)

    def transpose(self, axes: tuple[int, ...]) -> "Parameter":
        """As `numpy.ndarray.transpose`."""
        shape = tuple(self.shape[axis] for axis in axes)
        return Parameter(lambda xp: xp.transpose(self.read(xp), axes), shape)

    def __neg__(self) -> "Parameter":
        return Parameter(lambda xp: -self.read(xp), self.shape)


Coefficients = np.ndarray | Parameter


def as_coefficients(values: Any, rank: int) -> Any:
    """Numbers as float64, or where to read them, with axes of size 1 in front up to a rank."""
    if not isinstance(values, Parameter):
        values = np.asarray(values, np.float64)
    return values.reshape((1,) * (rank - values.ndim) + tuple(values.shape))
