"""Orthogonal convolutions that move groups of rotated channels by one pixel and mix them again."""

import math
from dataclasses import dataclass

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.operation import Operation
from deel_lip_tf.normalizers.orthogonal.aoc import OrthogonalConvolution, slack
from deel_lip_tf.normalizers.parametrization import Projected, at_least_float32, check_field
from deel_lip_tf.normalizers.polar.factor import nearest_orthogonal
from deel_lip_tf.normalizers.polar.products import transposed
from deel_lip_tf.normalizers.polar.projectors import EPS, MAXIMUM

# Products that each tap is a sum of, as the bound of their rounding counts them.
_FACTORS = 5


@register
@dataclass(frozen=True)
class LipNeXt(OrthogonalConvolution):
    """`shift(x R) R' M` as one kernel: channels rotated, groups of them shifted, mixed by `M`.

    With orthogonal `R` and `M`, and `R_g` the columns of a group, the kernel has `R_g R_g' M` at
    the tap of the group and `R_0 R_0' M`, of the channels that stay, in its middle; all other taps
    are 0. Along each axis one group moves forwards and one backwards, by half of the kernel size.
    At every frequency it is `R D R' M` with a diagonal `D` of numbers of modulus 1: all singular
    values are 1 with circular padding, and zeros around the image make it a contraction.

    The bound, 1, is of the operator itself, for any weights: where a factor is singular, its polar
    factor has singular values in `[0, 1]`. The raw weights are `kernel` (1, 1, inputs, outputs),
    which makes `M`, and `rotation` (inputs, inputs), which makes `R`.

    Attributes:
        share: of the channels in each group that moves: above 0, and at most 1 divided by twice
            the number of spatial axes. `int(share * channels)`, one at least. 1/8 by default.

    Raises:
        TypeError, ValueError: `share` is no number between 0 and 1/2.

    Example:
        >>> operation = lip.normalizers.Operation((3, 3), (1, 1), "circular", (8, 8))
        >>> shapes = lip.normalizers.LipNeXt().weights_for(operation, (3, 3, 16, 16))
        >>> shapes
        {'kernel': (1, 1, 16, 16), 'rotation': (16, 16)}
        >>> rng = np.random.default_rng(0)
        >>> weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        >>> kernel = np.asarray(lip.normalizers.LipNeXt().projected(weights, operation).kernel)
        >>> symbols = np.fft.fft2(kernel, (8, 8), axes=(0, 1))  # one matrix for each frequency
        >>> np.allclose(np.linalg.svd(symbols, compute_uv=False), 1, atol=1e-5)
        True

    Source: Hu et al., arXiv:2601.18513.
    """

    share: float = 0.125

    def __post_init__(self):
        check_field(self, "share", float, lambda x: 0 < x <= 0.5, "a number in ]0, 0.5]")

    @property
    def covers(self):
        """Dilation makes the shifts longer."""
        return ("dilation_rate",)

    def reuse(self, operation):
        """For each spatial axis, copies by the padding.

        Raises:
            ValueError: strides, an even kernel size, or no convolution of all channels.
        """
        is_known = not (operation.is_depthwise or operation.is_transposed)
        is_centred = operation.kernel_size and all(k % 2 for k in operation.kernel_size)
        if not is_known or not is_centred or set(operation.strides) != {1}:
            raise ValueError(
                "The parametrization LipNeXt moves channels by half of an odd kernel size: it "
                f"knows convolutions of all channels with strides=1. Received: {operation}. Use "
                "the parametrization AOC() for others."
            )
        return operation.excess

    def weights_for(self, operation, kernel_shape):
        """`kernel` and `rotation`.

        Raises:
            ValueError: no channel is in each group, or they are more than there are.
        """
        *sizes, inputs, outputs = kernel_shape
        count = int(self.share * inputs)
        if count < 1 or 2 * len(sizes) * self.share > 1:
            raise ValueError(
                f"`share` must leave a channel in each of {2 * len(sizes)} groups that move. "
                f"Received: share={self.share} of {inputs} channels."
            )
        return {"kernel": (*[1] * len(sizes), inputs, outputs), "rotation": (inputs, inputs)}

    def projected(self, weights, operation):
        """The kernel; the bound is the norm of a padding that copies."""
        raw = {n: at_least_float32(ops.convert_to_tensor(w)) for n, w in weights.items()}
        rotation = nearest_orthogonal(raw["rotation"], EPS, MAXIMUM)
        mixing = operation.on_matrices(
            lambda matrix: nearest_orthogonal(matrix, EPS, MAXIMUM), raw["kernel"]
        )
        mixing = ops.reshape(mixing, mixing.shape[-2:])
        kernel = self._kernel(rotation, ops.matmul(transposed(rotation), mixing), operation)
        kernel = kernel * (1 - slack(rotation.shape[0], _FACTORS) * unit_roundoff(kernel))
        return Projected(kernel, math.sqrt(math.prod(self.reuse(operation))))

    def _kernel(self, rotation, mixing, operation: Operation):
        """`R_g (R' M)_g` at the tap of each group, and zeros."""
        channels, outputs = mixing.shape
        count = int(self.share * channels)
        taps = _taps(operation.kernel_size)
        cuts = [count * index for index in range(len(taps))] + [channels]
        parts: dict = {}
        for tap, first, last in zip(taps, cuts[:-1], cuts[1:], strict=True):
            part = ops.matmul(rotation[:, first:last], mixing[first:last])
            parts[tap] = parts[tap] + part if tap in parts else part
        zeros = ops.zeros((channels, outputs), mixing.dtype)
        places = range(math.prod(operation.kernel_size))
        kernel = ops.stack([parts.get(place, zeros) for place in places])
        return ops.reshape(kernel, (*operation.kernel_size, channels, outputs))


def _taps(kernel_size: tuple[int, ...]) -> list[int]:
    """The places of the groups in the flattened window, and the middle at the end.

    The first tap of an axis moves forwards along it, the last one backwards.
    """
    strides = [math.prod(kernel_size[axis + 1 :]) for axis in range(len(kernel_size))]
    middle = sum(k // 2 * stride for k, stride in zip(kernel_size, strides, strict=True))
    reach = [k // 2 * stride for k, stride in zip(kernel_size, strides, strict=True)]
    return [place for far in reach for place in (middle - far, middle + far)] + [middle]
