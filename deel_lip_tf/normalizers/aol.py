"""Almost-orthogonal kernels: rescaled channel by channel, in closed form."""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, safe_sqrt
from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.numerics.phases import joined_phases, split_phases
from deel_lip_tf.normalizers.parametrization import (
    Parametrization,
    Projected,
    at_least_float32,
    named,
)


@named("aol")
@register
@dataclass(frozen=True)
class AOL(Parametrization):
    """Each channel divided by what bounds its products with all the others: norm at most 1.

    For a matrix `W` (inputs, outputs), column i is divided by `sqrt(sum_j |W'W|_ij)`. With `D` the
    diagonal matrix of these sums, `D - W'W` is diagonally dominant, hence
    `||W D**(-1/2)||_2 <= 1`, with equality of all singular values where the columns are orthogonal.
    For a convolution the sum goes over the autocorrelation of the kernel, which holds the products
    of the filters at all distances of two patches: multiples of the strides. Where there are fewer
    inputs than outputs, `W'` takes the place of `W`: orthogonal rows are possible then, and
    orthogonal columns are not. With strides, each phase of an input is a channel of its own.

    The bound is of the operation itself, so that nothing is lost to patches that overlap. It holds
    for zeros around the image and for circular padding at every size, those below the kernel's
    included; the other paddings copy pixels, and the layer divides by how often. Zero channels stay
    zero. No iteration, no state; the gradient is that of the formula.

    The raw kernel is no fixed point: `condense` leaves it as it is.

    Example:
        >>> kernel = lip.normalizers.AOL().project(np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 3.0]]))
        >>> print(np.round(kernel, 3))
        [[1.  0. ]
         [0.  0.8]
         [0.  0.6]]

    Source: Prach and Lampert, 2022, arXiv:2208.03160, theorems 1 and 2.
    """

    def projected(self, weights, operation):
        """The rescaled kernel; the bound is the norm of a padding that copies."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        groups = kernel.shape[-2] if operation.is_depthwise else 1
        sizes = kernel.shape[: len(operation.kernel_size)]
        grouped = ops.reshape(kernel, (*sizes, groups, -1, kernel.shape[-1]))
        rescaled = _rescaled(grouped, operation.lattice)
        return Projected(ops.reshape(rescaled, kernel.shape), operation.padding_norm)

    def reuse(self, operation):
        """For each spatial axis, copies by the padding, times unforeseen distances of patches."""
        return operation.excess


@register
@dataclass(frozen=True)
class SLL(Parametrization):
    """The channels of `AOL`, with learned weights `q`: the kernel of SDP-based Lipschitz layers.

    For a matrix `W` (inputs, outputs), column i is divided by `sqrt(sum_j |W'W|_ij q_j / q_i)`,
    for any `q > 0`: here `q = exp(scales)`, of one raw weight for each output. With `T` the
    diagonal matrix of these sums, `Q T Q - Q |W'W| Q` is diagonally dominant, hence
    `||W T**(-1/2)||_2 <= 1`. For a convolution the sum goes over the autocorrelation of the kernel.
    It holds for zeros around the image and for circular padding at every size. Zero channels stay
    zero. No iteration, no state; the gradient, also in `scales`, is that of the formula.

    Example:
        >>> layer = lip.layers.SpectralDense(4, parametrization=lip.normalizers.SLL())
        >>> layer.build((None, 8))
        >>> sorted(layer.raw_weights)
        ['kernel', 'scales']
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True

    Source: Araujo et al., 2023, arXiv:2303.03169.
    """

    def weights(self, kernel_shape):
        """The kernel, and the logarithm of `q`."""
        return {"kernel": tuple(kernel_shape), "scales": (kernel_shape[-1],)}

    @property
    def initializers(self):
        """`scales` are normal at first."""
        return {"scales": keras.initializers.RandomNormal(stddev=1.0)}

    def projected(self, weights, operation):
        """The rescaled kernel; the bound is the norm of a padding that copies."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        scales = at_least_float32(ops.convert_to_tensor(weights["scales"]))
        # A common factor changes nothing; any positive numbers will do, also those without the
        # smallest, at which the products of float32 would vanish.
        below = scales - ops.stop_gradient(ops.max(scales))
        q = ops.exp(ops.maximum(ops.cast(below, kernel.dtype), _LEAST_LOG))
        sizes = kernel.shape[: len(operation.kernel_size)]
        grouped = ops.reshape(kernel, (*sizes, 1, *kernel.shape[-2:]))
        scaled = ops.reshape(_with_scaled_outputs(grouped, operation.lattice, q), kernel.shape)
        return Projected(scaled, operation.padding_norm)

    def reuse(self, operation):
        """As of `AOL`."""
        if operation.is_depthwise:
            raise ValueError(
                "The parametrization SLL knows no convolution of each channel by itself. Received: "
                f"{operation}. Use AOL()."
            )
        return AOL().reuse(operation)


_LEAST_LOG = -30.0


def _rescaled(kernel, strides: tuple[int, ...]):
    """The kernel (*sizes, groups, inputs, outputs) whose operation has norm at most 1."""
    *sizes, _, inputs, outputs = kernel.shape
    if inputs * math.prod(strides) >= outputs:
        return _with_scaled_outputs(kernel, strides)
    phases = ops.swapaxes(split_phases(kernel, strides), -1, -2)
    scaled = _with_scaled_outputs(phases, (1,) * len(strides))
    return joined_phases(ops.swapaxes(scaled, -1, -2), strides)[tuple(slice(k) for k in sizes)]


def _with_scaled_outputs(kernel, strides: tuple[int, ...], weights=1.0):
    axes = (*range(len(strides)), -2)
    largest = ops.stop_gradient(ops.max(ops.abs(kernel), axis=axes, keepdims=True))
    # Columns `K = scale * U`, whose squares neither overflow nor underflow. The scales cancel in
    # `sqrt(scale_i) U_i / sqrt(sum_j scale_j |U'U|_ij)`, hence need no gradient.
    units = safe_divide(kernel, largest)
    scale = safe_divide(largest, ops.max(largest, axis=-1, keepdims=True)) * weights
    sums = safe_sqrt(_absolute_correlations(units, units * scale, strides))
    # The sums are rounded, by more the more terms: half of this leaves the norm below 1.
    slack = (8 + math.prod(kernel.shape[axis] for axis in axes) ** 0.5 / 4) * unit_roundoff(kernel)
    return units * safe_divide(safe_sqrt(scale), sums * (1 + slack))


def _absolute_correlations(kernel, others, strides: tuple[int, ...]):
    """For each output of `kernel`, the sum of its absolute correlations with all of `others`.

    Both are (*sizes, groups, inputs, outputs); they are compared at all distances that are
    multiples of the strides. The result is (*ones, groups, 1, outputs).
    """
    rank, (groups, inputs, outputs) = len(strides), kernel.shape[-3:]
    reach = [(k - 1) // s * s for k, s in zip(kernel.shape, strides, strict=False)]
    padded = ops.pad(others, [*((r, r) for r in reach), (0, 0), (0, 0), (0, 0)])
    if rank and groups == 1:
        images = ops.moveaxis(ops.squeeze(padded, -3), -1, 0)
        filters = ops.squeeze(kernel, -3)
        correlations = ops.conv(images, filters, strides, "valid", data_format="channels_last")
        sums = ops.sum(ops.abs(correlations), axis=tuple(range(rank + 1)))
    else:
        taps = _windows(padded.shape[:rank], kernel.shape[:rank], strides)
        flat = ops.reshape(padded, (-1, groups, inputs, outputs))
        windows = ops.take(flat, taps, axis=0)
        filters = ops.reshape(kernel, (-1, groups, inputs, outputs))
        correlations = ops.einsum("tgio,ptgij->gopj", filters, windows)
        sums = ops.sum(ops.abs(correlations), axis=(-2, -1))
    return ops.reshape(sums, (*[1] * rank, groups, 1, outputs))


def _windows(padded: tuple, sizes: tuple, strides: tuple[int, ...]) -> np.ndarray:
    """Flat indices (windows, taps) into an array of the shape `padded`."""
    index = np.arange(math.prod(padded)).reshape(padded)
    views = np.lib.stride_tricks.sliding_window_view(index, sizes)
    views = views[tuple(slice(None, None, stride) for stride in strides)]
    return views.reshape(-1, math.prod(sizes))
