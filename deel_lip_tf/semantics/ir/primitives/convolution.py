"""Convolutions over zeros, and their adjoints."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deel_lip_tf.semantics.ir.primitives.base import Arrays, Shape, Tensor, Unary


@dataclass(frozen=True, eq=False)
class Conv(Unary):
    """A convolution over zeros, `conv(pad(x), kernel)`, channels last; or the adjoint of one.

    Attributes:
        kernel: (*kernel_size, groups, inputs, outputs).
        strides: one per axis.
        dilation: one per axis.
        pads: zeros before and after each axis.
        sizes: of the image that the convolution reads; of a transposed one, what it writes.
        transposed: whether the map is the adjoint of that convolution.
    """

    kernel: np.ndarray
    strides: Shape
    dilation: Shape
    pads: tuple[tuple[int, int], ...]
    sizes: Shape
    transposed: bool = False

    def _shape(self, shape: Shape) -> Shape:
        groups, inputs, outputs = self.kernel.shape[-3:]
        if self.transposed:
            return (*self.sizes, groups * inputs)
        return (*self.output_sizes, groups * outputs)

    @property
    def padded(self) -> Shape:
        """Sizes of the image with its zeros."""
        return tuple(
            n + before + after for n, (before, after) in zip(self.sizes, self.pads, strict=True)
        )

    @property
    def output_sizes(self) -> Shape:
        """Sizes of the image that the convolution writes."""
        axes = zip(self.padded, self.kernel.shape, self.dilation, self.strides, strict=False)
        return tuple((n - (k - 1) * rate - 1) // stride + 1 for n, k, rate, stride in axes)

    @cached_property
    def written_out(self) -> np.ndarray:
        """The kernel (*kernel_size, inputs, outputs) of all channels, with all its zeros."""
        *sizes, groups, inputs, outputs = self.kernel.shape
        reach = [(k - 1) * rate + 1 for k, rate in zip(sizes, self.dilation, strict=True)]
        full = np.zeros((*reach, groups, inputs, groups, outputs))
        taps = [slice(None, None, rate) for rate in self.dilation]
        for group in range(groups):
            place: tuple[Any, ...] = (*taps, group, slice(None), group)
            full[place] = self.kernel[..., group, :, :]
        return full.reshape(*reach, groups * inputs, groups * outputs)

    def _apply(self, arrays: Arrays, x: Tensor) -> Tensor:
        return self._backward(arrays, x) if self.transposed else self._forward(arrays, x)

    def _adjoint(self, arrays: Arrays, y: Tensor, shape: Shape) -> Tensor:
        return self._forward(arrays, y) if self.transposed else self._backward(arrays, y)

    def _forward(self, arrays: Arrays, x: Tensor) -> Tensor:
        if np.any(self.pads):
            x = arrays.pad(x, ((0, 0), *self.pads, (0, 0)))
        return arrays.conv(x, arrays.coefficients(self.kernel), self.strides, self.dilation)

    def _backward(self, arrays: Arrays, y: Tensor) -> Tensor:
        kernel = arrays.coefficients(self.kernel)
        image = arrays.conv_adjoint(y, kernel, self.strides, self.dilation, self.padded)
        for axis, (size, (before, _)) in enumerate(zip(self.sizes, self.pads, strict=True), 1):
            if size != image.shape[axis]:
                image = arrays.take(image, before + np.arange(size), axis)
        return image
