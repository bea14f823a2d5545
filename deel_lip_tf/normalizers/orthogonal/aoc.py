"""AOC and BCOP: kernels of two taps, one after the other, and a matrix on patches."""

import math
from dataclasses import dataclass

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.norm_bounds import unit_roundoff
from deel_lip_tf.normalizers.numerics.phases import joined_phases
from deel_lip_tf.normalizers.operation import Operation
from deel_lip_tf.normalizers.parametrization import Parametrization, Projected, at_least_float32
from deel_lip_tf.normalizers.polar.factor import nearest_orthogonal, retracted
from deel_lip_tf.normalizers.polar.products import transposed
from deel_lip_tf.normalizers.polar.projectors import EPS, MAXIMUM, projector_factors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OrthogonalConvolution(Parametrization):
    """What both methods share: the weights are the factors, and an update of each is retracted."""

    @property
    def is_retracting(self) -> bool:
        """Whether `retracted` is to be applied after each update of an optimizer: yes."""
        return True

    @property
    def covers(self) -> tuple[str, ...]:
        """Groups of channels are convolved by themselves; dilation spreads the frequencies."""
        return ("groups", "dilation_rate")

    def weights(self, kernel_shape):
        """Those of a convolution of stride 1."""
        size = tuple(kernel_shape[:-2])
        return self.weights_for(Operation(size, (1,) * len(size)), kernel_shape)

    def reuse(self, operation):
        """For each spatial axis, copies by the padding, times unforeseen distances of patches.

        Raises:
            ValueError: each channel is convolved by itself.
        """
        if operation.is_depthwise:
            raise ValueError(
                f"{type(self).__name__} of a convolution of each channel by itself would be "
                "nothing but a shift: use AOL(), or a convolution of all channels. Received: a "
                "depthwise convolution."
            )
        return operation.excess

    def retracted(self, weights, operation):
        """The orthogonal factors, and bases of the same projectors."""
        return self._each(retracted, weights, operation)

    def condensed(self, weights, operation):
        """The orthogonal factors, which are their own projections."""
        return self._each(nearest_orthogonal, weights, operation)

    def on_matrices(self, function, name, weight, operation):
        """The kernel by groups of channels, or each factor, with `function` applied."""
        if name == "kernel":
            stack = _grouped_matrices(weight, operation.groups)
            return _ungrouped(function(stack), weight.shape)
        return ops.reshape(function(_stack(weight)), weight.shape)

    def _each(self, function, weights, operation):
        def factor(stack):
            return function(stack, EPS, MAXIMUM)

        tensors = {
            name: at_least_float32(ops.convert_to_tensor(weight))
            for name, weight in weights.items()
        }
        return {
            name: self.on_matrices(factor, name, weight, operation)
            for name, weight in tensors.items()
        }


@register
@dataclass(frozen=True)
class AOC(OrthogonalConvolution):
    """An orthogonal convolution of any size, stride, groups and dilation, with explicit kernel.

    The kernel is the product, as convolutions, of an orthogonal matrix on patches of the size of
    the stride, which do not overlap (a matrix on single pixels, of stride 1), and of kernels of two
    taps along one axis each, `[P, I - P]` with a symmetric projector P: at the frequency w it is
    `P + exp(iw) (I - P)`, a unitary matrix. There are as many along an axis as the kernel is longer
    than the stride. If the layer makes fewer numbers than it reads, its operator has orthonormal
    rows, if more, orthonormal columns: all singular values are 1 with circular padding, where the
    stride divides the size; zeros around the image make it a contraction.

    The bound, 1, is of the operator itself, for any weights: where a factor is singular, its polar
    factor has singular values in `[0, 1]`, and `P + exp(iw) (I - P)` is normal with eigenvalues on
    chords of the unit circle. The raw weights are the factors: `kernel`, the matrix on patches;
    `projectors` (groups, factors, channels, rank), whose ranges the projectors have; `lift`, where
    strides leave more channels than there are inputs. What it costs depends neither on the size of
    the images nor on their number.

    Example:
        >>> operation = lip.normalizers.Operation((3, 3), (1, 1), "circular", (8, 8))
        >>> shapes = lip.normalizers.AOC().weights_for(operation, (3, 3, 4, 4))
        >>> shapes
        {'kernel': (1, 1, 4, 4), 'projectors': (1, 4, 4, 2)}
        >>> rng = np.random.default_rng(0)
        >>> weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        >>> kernel = np.asarray(lip.normalizers.AOC().projected(weights, operation).kernel)
        >>> symbols = np.fft.fft2(kernel, (8, 8), axes=(0, 1))  # one matrix for each frequency
        >>> np.allclose(np.linalg.svd(symbols, compute_uv=False), 1, atol=1e-5)
        True

    Source: Boissin et al., 2025, arXiv:2501.07930; the kernels of two taps of Li et al., 2019,
    arXiv:1911.00937.
    """

    def weights_for(self, operation, kernel_shape):
        """`kernel`, and where they are needed `projectors` and `lift`."""
        tile = _tile(operation)
        sizes = zip(operation.kernel_size, tile, strict=True)
        lengths = [k - t for k, t in sizes]
        return _factor_shapes(tile, lengths, operation.groups, *kernel_shape[-2:])

    def projected(self, weights, operation):
        """The kernel; the bound is the norm of a padding that copies, or of a ring not tiled."""
        tile = _tile(operation)
        lengths = [k - t for k, t in zip(operation.kernel_size, tile, strict=True)]
        kernel = _composed(weights, lengths, operation.groups)
        return Projected(kernel, math.sqrt(math.prod(self.reuse(operation))))


@register
@dataclass(frozen=True)
class BCOP(OrthogonalConvolution):
    """An orthogonal convolution of the phases of an image: without strides the same as `AOC`.

    With strides the pixels of each patch of the size of the stride are channels of one pixel, on
    which the orthogonal convolution has stride 1: the kernel of the layer is explicit again, and
    its size a multiple of the stride. All the phases are mixed by every factor, so that it reaches
    more convolutions than `AOC`, and has more weights. The bound is 1, as there.

    Raises:
        ValueError: when a layer is built, a kernel size that is no multiple of the stride.

    Example:
        >>> layer = lip.layers.SpectralConv2D(8, 4, 2, parametrization=lip.normalizers.BCOP())
        >>> layer.build((None, 8, 8, 3))
        >>> {name: tuple(weight.shape) for name, weight in layer.raw_weights.items()}
        {'kernel': (1, 1, 12, 8), 'projectors': (1, 2, 12, 6)}
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True

    Source: Li et al., 2019, arXiv:1911.00937.
    """

    def reuse(self, operation):
        """For each spatial axis, copies by the padding, times unforeseen distances of patches.

        Raises:
            ValueError: each channel is convolved by itself, or the kernel size is no multiple of
                the stride.
        """
        pairs = zip(operation.kernel_size, operation.strides, strict=True)
        if any(k % s for k, s in pairs):
            raise ValueError(
                "BCOP needs a kernel size that is a multiple of the stride: use AOC(), which takes "
                f"every size. Received: kernel_size={operation.kernel_size} and "
                f"strides={operation.strides}."
            )
        return super().reuse(operation)

    def weights_for(self, operation, kernel_shape):
        """`kernel` and, where the kernel is longer than the stride, `projectors`."""
        inputs = math.prod(operation.strides) * kernel_shape[-2]
        one = (1,) * len(operation.strides)
        return _factor_shapes(one, _coarse(operation), operation.groups, inputs, kernel_shape[-1])

    def projected(self, weights, operation):
        """The kernel; the bound is the norm of a padding that copies, or of a ring not tiled."""
        phases = _composed(weights, _coarse(operation), operation.groups)
        kernel = joined_phases(phases[..., None, :, :], operation.strides)[..., 0, :, :]
        return Projected(kernel, math.sqrt(math.prod(self.reuse(operation))))


def _tile(operation: Operation) -> Shape:
    """The part of the patch that no other patch has: all of it, where it is within the stride."""
    return tuple(min(k, s) for k, s in zip(operation.kernel_size, operation.strides, strict=True))


def _coarse(operation: Operation) -> list[int]:
    """For each axis, how many strides the kernel is longer than one of them."""
    pairs = zip(operation.kernel_size, operation.strides, strict=True)
    return [k // s - 1 for k, s in pairs]


def _factor_shapes(
    tile: Shape, lengths: list[int], groups: int, inputs: int, outputs: int
) -> dict[str, Shape]:
    """Of the matrix on patches of the size `tile`, of `lengths` projectors, of the lift.

    Args:
        tile: size of the patches that do not overlap.
        lengths: number of kernels of two taps along each axis.
        groups: of channels.
        inputs: channels of one group.
        outputs: channels of all groups.
    """
    area, of_group = math.prod(tile), outputs // groups
    # As many channels as the patches' outputs can make use of: the matrix stays orthogonal.
    width = max(inputs, of_group // area)
    count = sum(lengths)
    # On single pixels the lift and the matrix after it are one matrix.
    is_lifted = count and area > 1 and width > inputs
    shapes = {"kernel": (*tile, width if is_lifted else inputs, outputs)}
    if count and width > 1:
        shapes["projectors"] = (groups, count, width, width // 2)
    if is_lifted:
        shapes["lift"] = (groups, inputs, width)
    return shapes


def _composed(weights: dict, lengths: list[int], groups: int):
    """The kernel (*sizes, inputs, outputs) of the factors."""
    raw = {n: at_least_float32(ops.convert_to_tensor(w)) for n, w in weights.items()}
    shape = raw["kernel"].shape
    tile, inputs = tuple(shape[:-2]), shape[-2]
    matrices = _grouped_matrices(raw["kernel"], groups)
    kernel = nearest_orthogonal(matrices, EPS, MAXIMUM)
    # Outputs that are more than the inputs of a pixel: the adjoint, from the larger side.
    is_adjoint = math.prod(tile) == 1 and kernel.shape[-1] > inputs
    kernel = transposed(kernel) if is_adjoint else kernel
    width = kernel.shape[-2] // math.prod(tile)
    # (groups, *tile, width, outputs) with the contracted axis in front: (groups, width, *tile, ...)
    kernel = ops.reshape(kernel, (groups, *tile, width, kernel.shape[-1]))
    kernel = ops.moveaxis(kernel, -2, 1)
    projectors = _projectors(raw.get("projectors"), groups, sum(lengths), kernel)
    kernel = _extended(kernel, projectors, lengths)
    if "lift" in raw:
        lift = nearest_orthogonal(raw["lift"], EPS, MAXIMUM)
        product = ops.matmul(lift, ops.reshape(kernel, (groups, width, -1)))
        kernel = ops.reshape(product, (groups, -1, *kernel.shape[2:]))
    kernel = ops.swapaxes(kernel, 1, -1) if is_adjoint else kernel
    kernel = ops.moveaxis(kernel, (0, 1), (-2, -3))
    kernel = ops.reshape(kernel, (*kernel.shape[:-2], -1))
    return kernel * (1 - slack(width, sum(lengths)) * unit_roundoff(kernel))


def slack(width: int, factors: int) -> float:
    """What the factors round, in units: half of it leaves the norm below 1."""
    return 8 + (1 + factors) * width**0.5 / 2


def _grouped_matrices(kernel, groups: int):
    """The stack (groups, patch, outputs of a group) of a kernel (*sizes, inputs, outputs)."""
    matrix = ops.reshape(kernel, (-1, groups, kernel.shape[-1] // groups))
    return ops.swapaxes(matrix, 0, 1)


def _ungrouped(matrices, shape):
    """The kernel of the given shape with these `_grouped_matrices`."""
    return ops.reshape(ops.swapaxes(matrices, 0, 1), shape)


def _projectors(raw, groups: int, count: int, kernel):
    """(groups, count, width, width), of half rank; zeros of a single channel."""
    width = kernel.shape[1]
    if raw is None:
        return ops.zeros((groups, count, width, width), kernel.dtype)
    left, basis = projector_factors(_stack(raw))
    return ops.reshape(ops.matmul(left, transposed(basis)), (groups, count, width, width))


def _stack(matrices):
    """(matrices, rows, columns): the polar factor is traced for one rank, that of every weight."""
    return ops.reshape(matrices, (-1, *matrices.shape[-2:]))


def _extended(kernel, projectors, lengths: list[int]):
    """A kernel (groups, width, *sizes, outputs) after those of two taps, `lengths` along the axes.

    A kernel `[P, I - P]` in front takes `K[t]` to `P K[t] + (I - P) K[t - 1]`.
    """
    for index, (axis, is_reversed) in enumerate(_turns(lengths)):
        flat = ops.reshape(kernel, (*kernel.shape[:2], -1))
        part = ops.reshape(ops.matmul(projectors[:, index], flat), kernel.shape)
        first, second = (kernel - part, part) if is_reversed else (part, kernel - part)
        kernel = _padded(first, axis + 2, (0, 1)) + _padded(second, axis + 2, (1, 0))
    return kernel


def _turns(lengths: list[int]) -> list[tuple[int, bool]]:
    """The axes of the kernels of two taps, in turns, and whether they are `[I - P, P]`.

    The second half mirrors the first: with the same projectors it would undo it, and leave the
    middle tap alone.
    """
    first = sorted((turn, axis) for axis, n in enumerate(lengths) for turn in range(n // 2))
    middle = [(axis, False) for axis, n in enumerate(lengths) if n % 2]
    last = [(axis, True) for _, axis in reversed(first)]
    return [(axis, False) for _, axis in first] + middle + last


def _padded(kernel, axis: int, widths: tuple[int, int]):
    """The kernel with zeros before and after one of its axes."""
    return ops.pad(kernel, [widths if i == axis else (0, 0) for i in range(len(kernel.shape))])
