"""The interpreter of the primitives in `keras.ops`: what is trained, on every backend of Keras.

Numbers are of one floating type and rounded to nearest: bounds that are trained, and no proof.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from deel_lip_tf.semantics.ir.parameters import Coefficients, Parameter
from deel_lip_tf.semantics.ir.primitives import Shape, Tensor


class KerasOps:
    """`primitives.Arrays` of the backend's tensors; each parameter is read once.

    Args:
        dtype: of all tensors.
        of: what the coefficients of this interpreter are the absolute values of.
    """

    transpose = staticmethod(ops.transpose)
    pad = staticmethod(ops.pad)
    einsum = staticmethod(ops.einsum)
    maximum = staticmethod(ops.maximum)
    minimum = staticmethod(ops.minimum)
    where = staticmethod(ops.where)
    sort = staticmethod(ops.sort)  # of the last axis

    def __init__(self, dtype: str, of: "KerasOps | None" = None):
        self.dtype = dtype
        self._of = of
        self._known: dict[int, tuple[Coefficients, Tensor]] = {}

    @property
    def absolute(self) -> "KerasOps":
        return self if self._of is not None else KerasOps(self.dtype, self)

    def coefficients(self, array: Coefficients) -> Tensor:
        if self._of is not None:
            return ops.abs(self._of.coefficients(array))
        if id(array) not in self._known:
            values = array.read(ops) if isinstance(array, Parameter) else array
            # With the array itself, because another one may come to stand in its place.
            self._known[id(array)] = array, ops.cast(values, self.dtype)
        return self._known[id(array)][1]

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        return ops.reshape(x, (-1, *shape))

    def take(self, x: Tensor, indices: np.ndarray, axis: int) -> Tensor:
        return ops.take(x, np.asarray(indices, np.int32), axis)

    def scatter(self, x: Tensor, indices: np.ndarray, size: int, axis: int) -> Tensor:
        front = [axis, *(i for i in range(len(x.shape)) if i != axis)]
        places = np.asarray(indices, np.int32)
        summed = ops.segment_sum(ops.transpose(x, front), places, num_segments=size)
        return ops.transpose(summed, np.argsort(front).tolist())

    def concatenate(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        return ops.concatenate(list(tensors), axis)

    def matmul(self, x: Tensor, matrix: Tensor, transposed: bool = False) -> Tensor:
        return ops.matmul(x, ops.transpose(matrix) if transposed else matrix)

    def sum(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return ops.sum(x, axis=tuple(axes), keepdims=True)

    def conv(self, x: Tensor, kernel: Tensor, strides: Shape, dilation: Shape) -> Tensor:
        options = tuple(strides), "valid", "channels_last", tuple(dilation)
        return ops.conv(x, self._ungrouped(kernel), *options)

    def conv_adjoint(
        self, y: Tensor, kernel: Tensor, strides: Shape, dilation: Shape, sizes: Shape
    ) -> Tensor:
        """A transposed convolution; pixels that no window reaches are 0."""
        kernel = _written_out(self._ungrouped(kernel), dilation)
        options = tuple(strides), "valid", None, "channels_last"
        image = ops.conv_transpose(y, kernel, *options)
        image = image[(slice(None), *(slice(0, size) for size in sizes))]
        missing = [(0, size - n) for size, n in zip(sizes, image.shape[1:], strict=False)]
        return ops.pad(image, [(0, 0), *missing, (0, 0)])

    def _ungrouped(self, kernel: Tensor) -> Tensor:
        """The kernel of all channels, with zeros between the groups."""
        *sizes, groups, inputs, outputs = kernel.shape
        if groups > 1:
            apart = ops.cast(np.eye(groups)[:, None, :, None], self.dtype)
            kernel = ops.expand_dims(kernel, -2) * apart
        return ops.reshape(kernel, (*sizes, groups * inputs, groups * outputs))


def _written_out(kernel: Tensor, dilation: Shape) -> Tensor:
    """A kernel with its dilation as zeros: backends have no adjoint of a dilated convolution."""
    for axis, rate in enumerate(dilation):
        if rate > 1:
            *before, size = kernel.shape[: axis + 1]
            after = kernel.shape[axis + 1 :]
            apart = ops.expand_dims(kernel, axis + 1)
            amounts = [(0, (rate - 1) * int(i == axis + 1)) for i in range(len(apart.shape))]
            apart = ops.reshape(ops.pad(apart, amounts), (*before, size * rate, *after))
            reach = (size - 1) * rate + 1
            kernel = apart[(*[slice(None)] * axis, slice(0, reach))]
    return kernel
