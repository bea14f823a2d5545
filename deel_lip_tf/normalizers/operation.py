"""What a layer does with its kernel, as far as a bound of the result depends on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from deel_lip_tf.normalizers.convolution import (
    EXTENDING,
    common_steps,
    max_duplication,
    most_copies,
    padding_amounts,
    transposed_max_duplication,
)
from deel_lip_tf.normalizers.numerics.norm_bounds import convolution_norm_bound

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """A product of a batch with a kernel (inputs, outputs), or a convolution with a larger one.

    Kernels have Keras's layout: (*kernel_size, inputs, outputs), (*kernel_size, channels,
    multiplier) of a depthwise convolution, and (*kernel_size, outputs, inputs) of a transposed
    one, which is the adjoint of the convolution that has this kernel and reads its outputs.

    Attributes:
        kernel_size: of the kernel along each spatial axis; none for a product.
        strides: along each of them.
        padding: one of `PADDINGS`, or `"causal"`.
        sizes: of the inputs, `None` where they are not known: every size is meant then.
        is_depthwise: whether each channel is convolved by itself.
        is_transposed: whether it is the adjoint of a convolution.
        groups: of channels; (*kernel_size, inputs of a group, outputs) is the layout of the kernel.
        dilation: along each spatial axis; none for 1.

    Example:
        >>> operation = lip.normalizers.Operation((3, 3), (1, 2), "same", (8, 8))
        >>> operation.patch_counts  # along the axis of stride 2 fewer patches share a pixel
        (3, 2)
    """

    kernel_size: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    padding: str = "valid"
    sizes: tuple[int | None, ...] = ()
    is_depthwise: bool = False
    is_transposed: bool = False
    groups: int = 1
    dilation: tuple[int, ...] = ()

    @property
    def reach(self) -> tuple[int, ...]:
        """The kernel size with the zeros of its dilation."""
        rates = self.dilation or (1,) * len(self.kernel_size)
        return tuple((k - 1) * rate + 1 for k, rate in zip(self.kernel_size, rates, strict=True))

    @property
    def patch_counts(self) -> tuple[int, ...]:
        """For each spatial axis, the largest number of patches that share an element of it.

        The norm of the operation is at most that of the flattened kernel times the square root of
        their product.
        """
        axes = zip(self.kernel_size, self.strides, strict=True)
        if self.is_transposed and self.padding not in EXTENDING:
            pairs = zip(self.sizes, axes, strict=True)
            return tuple(transposed_max_duplication(size, *axis) for size, axis in pairs)
        pairs = zip(self._image_sizes, axes, strict=True)
        return tuple(max_duplication(size, *axis, self.padding) for size, axis in pairs)

    @property
    def copies(self) -> tuple[int, ...]:
        """For each spatial axis, how often the padding repeats an element of it at most.

        1 for zeros. A circular axis is 1, too: it is a ring, on which nothing is repeated.
        """
        if self.padding not in EXTENDING or self.padding == "circular":
            return (1,) * len(self.kernel_size)
        pairs = zip(self._image_sizes, self.reach, strict=True)
        added = ((size, padding_amounts(size, k, 1, self.padding)) for size, k in pairs)
        return tuple(most_copies(*axis, self.padding) for axis in added)

    @property
    def padding_norm(self) -> float:
        """The norm of the padding: the square root of how often it repeats an element."""
        return math.sqrt(math.prod(self.copies))

    @property
    def lattice(self) -> tuple[int, ...]:
        """For each spatial axis, what the distances between any two patches are multiples of."""
        if self.is_transposed:
            return self.strides
        return common_steps(self.sizes, self.strides, self.padding)

    @property
    def excess(self) -> tuple[int, ...]:
        """For each spatial axis, by how much the squared norm may exceed the unbounded operation's.

        That is what the padding copies, times the stride on a ring that patches do not tile: the
        convolution without stride, some outputs of which are kept there, has a squared norm of at
        most `stride` times that of the one with it.
        """
        axes = zip(self.copies, self.strides, self.lattice, strict=True)
        return tuple(copies * stride // step for copies, stride, step in axes)

    def norm_bound(self, kernel):
        """An upper bound on the norm of the operation with a kernel, closed and differentiable.

        It holds for each size of which `excess` is not larger: for all sizes, with zeros around
        images. Of a random kernel it is about 4 % too large.

        Args:
            kernel: tensor in Keras's layout, any finite entries.

        Returns:
            A scalar tensor; 0 for the zero kernel.

        Example:
            >>> operation = lip.normalizers.Operation((3, 3), (1, 1), "same", (8, 8))
            >>> mean = np.full((3, 3, 1, 1), 1 / 9, "float32")
            >>> 1 <= float(operation.norm_bound(mean)) <= 1.05
            True
        """
        groups = kernel.shape[-2] if self.is_depthwise else 1
        grouped = ops.reshape(kernel, (*self.kernel_size, groups, -1, kernel.shape[-1]))
        return self.padding_norm * convolution_norm_bound(grouped, self.lattice)

    @property
    def _image_sizes(self) -> tuple[int | None, ...]:
        """Sizes of what the convolution reads: what its adjoint writes, for paddings that copy."""
        if not self.is_transposed:
            return self.sizes
        pairs = zip(self.sizes, self.strides, strict=True)
        return tuple(None if size is None else size * stride for size, stride in pairs)

    def on_matrices(self, function: Callable, kernel):
        """The kernel with `function` applied to it as a matrix, or to a stack of its matrices."""
        if self.is_depthwise:
            return depthwise_kernel(function(depthwise_matrices(kernel)), kernel.shape)
        return ops.reshape(function(flatten_kernel(kernel)), kernel.shape)


def flatten_kernel(kernel):
    """The matrix (everything else, last axis) of a kernel.

    Args:
        kernel: tensor (*sizes, inputs, outputs).

    Example:
        >>> tuple(lip.normalizers.flatten_kernel(np.zeros((3, 3, 2, 8))).shape)  # (patch, outputs)
        (18, 8)
    """
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


def depthwise_matrices(kernel):
    """A matrix (patch, multiplier) for each channel of a kernel (*sizes, channels, multiplier)."""
    return ops.moveaxis(ops.reshape(kernel, (-1, *kernel.shape[-2:])), 1, 0)


def depthwise_kernel(matrices, shape):
    """The kernel of the given shape with these `depthwise_matrices`."""
    return ops.reshape(ops.moveaxis(matrices, 0, 1), shape)
