"""The interpreter of the primitives in NumPy: for what is small, and to compare with."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class NumPy:
    """`primitives.Arrays` of `numpy.ndarray`, in float64.

    Args:
        is_absolute: whether coefficients are their absolute values.
    """

    transpose = staticmethod(np.transpose)
    pad = staticmethod(np.pad)
    concatenate = staticmethod(np.concatenate)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    where = staticmethod(np.where)
    sort = staticmethod(np.sort)  # of the last axis

    def __init__(self, is_absolute: bool = False):
        self._is_absolute = is_absolute

    @property
    def absolute(self) -> "NumPy":
        return _ABSOLUTE

    def coefficients(self, array: np.ndarray) -> np.ndarray:
        return np.abs(array) if self._is_absolute else array

    def reshape(self, x: np.ndarray, shape: Shape) -> np.ndarray:
        return x.reshape(len(x), *shape)

    def take(self, x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
        return np.take(x, indices, axis)

    def scatter(self, x: np.ndarray, indices: np.ndarray, size: int, axis: int) -> np.ndarray:
        result = np.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]))
        place: Any = (*[slice(None)] * axis, indices)
        np.add.at(result, place, x)
        return result

    def matmul(self, x: np.ndarray, matrix: np.ndarray, transposed: bool = False) -> np.ndarray:
        return x @ (matrix.T if transposed else matrix)

    def einsum(self, equation: str, *tensors: np.ndarray) -> np.ndarray:
        return np.einsum(equation, *tensors, optimize=True)

    def sum(self, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        return x.sum(axis=tuple(axes), keepdims=True)

    def conv(
        self, x: np.ndarray, kernel: np.ndarray, strides: Shape, dilation: Shape
    ) -> np.ndarray:
        """A product of all windows with the kernel."""
        *sizes, groups, inputs, outputs = kernel.shape
        windows = _windows(x, tuple(sizes), strides, dilation)
        *rest, _, taps = windows.shape
        windows = windows.reshape(*rest, groups, inputs * taps)
        # (inputs, taps, outputs), as the windows are laid out.
        matrices = np.moveaxis(kernel.reshape(taps, groups, inputs, outputs), 0, 2)
        products = np.matmul(
            windows[..., None, :], matrices.reshape(groups, inputs * taps, outputs)
        )
        return products.reshape(*rest, groups * outputs)

    def conv_adjoint(
        self, y: np.ndarray, kernel: np.ndarray, strides: Shape, dilation: Shape, sizes: Shape
    ) -> np.ndarray:
        """The windows that each output gives back, added up."""
        *taps, groups, inputs, outputs = kernel.shape
        image = np.zeros((len(y), *sizes, groups * inputs))
        counts = y.shape[1:-1]
        y = y.reshape(*y.shape[:-1], groups, outputs)
        for tap in np.ndindex(*taps):
            given = np.einsum("...go,gio->...gi", y, kernel[tap]).reshape(*y.shape[:-2], -1)
            starts = [t * rate for t, rate in zip(tap, dilation, strict=True)]
            places = zip(starts, counts, strides, strict=True)
            slices = [slice(a, a + (n - 1) * step + 1, step) for a, n, step in places]
            image[(slice(None), *slices)] += given
        return image


def _windows(x: np.ndarray, sizes: Shape, strides: Shape, dilation: Shape) -> np.ndarray:
    """(batch, *places, channels, taps) views of an image (batch, *sizes, channels)."""
    reach = [(k - 1) * rate + 1 for k, rate in zip(sizes, dilation, strict=True)]
    axes = tuple(range(1, x.ndim - 1))
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    views = views[(slice(None), *(slice(None, None, step) for step in strides))]
    taps: tuple[Any, ...] = (..., *(slice(None, None, rate) for rate in dilation))
    views = views[taps]
    return views.reshape(*views.shape[: x.ndim], math.prod(sizes))


NUMPY, _ABSOLUTE = NumPy(), NumPy(is_absolute=True)
