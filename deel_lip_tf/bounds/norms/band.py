"""Zero-padded convolutions of images of a known size: less than those of the infinite image.

Along one axis of n outputs, a convolution with zeros around the image is a part of one on a ring of
N places, if N is so large that no tap reaches a kept output the other way round. That holds after
multiplying inputs and outputs by `exp(i phi j)`, too, which turns the frequencies of the ring by
phi: the norm is at most the largest over the N frequencies `phi + 2 pi j / N`, and phi is free.
Halfway between its frequencies a ring misses the one where the infinite image is stretched most.

All axes but one are wound up so. Along the last one the zeros count in full: it leaves, at each
frequency, a matrix A of blocks on a few diagonals. The Gram matrix G of it is block-tridiagonal,
and so is a factor of `c I - G`. However that is computed, what it misses can be seen:

    c I - G = R* R + E,    hence    ||G||_2 <= c + ||E||_2,

and the norm of a Hermitian block-tridiagonal E is at most that of its largest diagonal block and
twice that of its largest other one.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deel_lip_tf._rounding import TINY, UP, gamma, sqrt_up
from deel_lip_tf.bounds.norms.dense_matrix import axis_taps
from deel_lip_tf.normalizers.convolution import ZERO
from deel_lip_tf.semantics.operators import Convolution, all_known

_FLOPS = 2e9  # what a proof with a budget of 1 may cost: a tenth of a second on one core
_FIRST, _LAST = 0.03, 3e-5  # parts of itself by which the square of a bound is lowered
_ATTEMPTS = 30  # to lower it in one way; of a kernel that meets no pixel no number would do
ZERO_PADDED = ("same", "valid", "causal")


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution without stride: which places its taps lead from and to.

    Attributes:
        taps: how many there are.
        outputs: how many there are.
        inputs: the first and the last place that a tap reads; output i reads i + tap.
    """

    taps: int
    outputs: int
    inputs: tuple[int, int]

    @property
    def places(self) -> np.ndarray:
        """(taps, outputs, inputs): 1 where a tap meets an input at an output."""
        met = np.arange(self.taps)[:, None] + np.arange(self.outputs)
        first, last = self.inputs
        return (met[..., None] == np.arange(first, last + 1)).astype(np.float64)

    def frequencies(self, twist: float) -> np.ndarray:
        """Those of the smallest ring: input j is met from output i by tap j - i modulo N alone."""
        first, last = self.inputs
        length = max(self.taps + self.outputs - 1 - first, last + 1, 1)
        return 2.0 * math.pi * (np.arange(length) + twist) / length


def band_bound(
    convolution: Convolution, taps: np.ndarray, known: float, budget: float = 1.0
) -> float:
    """Bounds a zero-padded `Convolution` of norm about 1.

    Args:
        convolution: the operator.
        taps: its kernel without stride, (*taps, groups, inputs, outputs).
        known: a bound that is proven already.
        budget: how much work may be spent.

    Returns:
        A proven bound, at most `known`.
    """
    sizes = all_known(convolution.sizes)
    if sizes is None or convolution.padding not in ZERO_PADDED or max(convolution.dilation) > 1:
        return known
    axes = [axis for index, n in enumerate(sizes) if (axis := _axis(convolution, index, n))]
    if len(axes) < len(sizes):
        return known
    square = known**2
    for band in _bands(axes, taps, _FLOPS * budget):
        if band.eigenvalue_bound(square * (1.0 - _LAST)) >= square:
            continue
        step = _FIRST
        for _ in range(_ATTEMPTS):
            bound = band.eigenvalue_bound(square * (1.0 - step))
            step = min(2.0 * step, 0.5) if bound < square else step / 3.0
            square = min(square, bound)
            if step < _LAST:
                break
    return min(known, math.nextafter(sqrt_up(square), math.inf))


def _axis(convolution: Convolution, index: int, size: int) -> _Axis | None:
    """An axis of the kernel without stride; None where no tap meets the image."""
    taps, stride = convolution.kernel_size[index], convolution.strides[index]
    met, size = axis_taps(convolution, size, taps, stride, 1)
    some = np.argwhere(met != ZERO)
    if not len(some):
        return None
    # Tap t of output o meets the input `stride * o + t - before`.
    tap, output = some[0]
    before = int(stride * output + tap - met[tap, output])
    ends = before // stride, (size - 1 + before) // stride
    return _Axis(-(-taps // stride), met.shape[1], ends)


@dataclass(frozen=True)
class Band:
    """Hermitian block-tridiagonal matrices, known up to an error.

    Attributes:
        diagonal: square blocks, (matrices, entries, entries) each.
        above: the blocks to the right of all of these but the last.
        error: bound of the spectral norm of what is missing in any of the matrices.
    """

    diagonal: Sequence[np.ndarray]
    above: Sequence[np.ndarray]
    error: float

    def eigenvalue_bound(self, shift: float) -> float:
        """Bounds the largest eigenvalue by hardly more than a shift; inf where it is not proven."""
        count, order, _ = self.diagonal[0].shape
        half = np.zeros((count, 0, order))
        diagonal, above = np.zeros(count), np.zeros(count)
        for index, block in enumerate(self.diagonal):
            wanted = shift * np.eye(block.shape[-1]) - block - _adjoint(half) @ half
            try:
                factor = np.linalg.cholesky(wanted)
            except np.linalg.LinAlgError:
                return math.inf
            parts = _norms(block) + _norms(half) ** 2 + shift * block.shape[-1]
            rounding = gamma(4 * half.shape[-2] + 16) * parts  # of `wanted`
            diagonal = np.maximum(diagonal, _distances(wanted, factor, _adjoint(factor)) + rounding)
            if index < len(self.above):
                half = np.linalg.solve(factor, -self.above[index])
                above = np.maximum(above, _distances(-self.above[index], factor, half))
        total = (shift + float((diagonal + 2.0 * above).max()) + self.error + TINY) * UP
        return total if math.isfinite(total) else math.inf


def _adjoint(matrices: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrices, -1, -2).conj()


def _norms(matrices: np.ndarray) -> np.ndarray:
    """The Frobenius norms, rounded upward."""
    return np.sqrt(np.square(np.abs(matrices)).sum(axis=(-2, -1))) * UP


def _distances(matrices: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bounds the Frobenius norms of `matrices - left @ right`."""
    parts = _norms(left) * _norms(right) + _norms(matrices)
    return (_norms(matrices - left @ right) + gamma(4 * right.shape[-2] + 16) * parts) * UP


def _bands(axes: Sequence[_Axis], taps: np.ndarray, flops: float) -> Iterator[Band]:
    """The Gram matrices at all frequencies, for each axis left and some ways to wind up the rest.

    Args:
        axes: of the kernel.
        taps: (*taps, groups, inputs, outputs).
        flops: that a proof may cost.
    """
    for index, axis in enumerate(axes):
        others = [*axes[:index], *axes[index + 1 :]]
        kernel = np.moveaxis(taps, index, 0)
        for twists in itertools.product((0.5, 0.0), repeat=len(others)):
            rings = [one.frequencies(twist) for one, twist in zip(others, twists, strict=True)]
            if rings:  # opposite frequencies have equal norms
                rings[0] = rings[0][rings[0] < math.pi + 1e-9]
            if math.prod(map(len, rings)) * _flops(axis, kernel) <= flops:
                yield _band(axis, kernel, rings)


def _flops(axis: _Axis, kernel: np.ndarray) -> float:
    """About the operations of a proof at one frequency; handling arrays costs a constant."""
    groups, order = kernel.shape[-3], min(kernel.shape[-2:])
    block = max(axis.taps - 1, 1) * order
    return groups * axis.places.shape[2] * (36.0 * order * block**2 + 1e4)


def _band(axis: _Axis, kernel: np.ndarray, rings: Sequence[np.ndarray]) -> Band:
    """The Gram matrices of one axis, for each frequency of the rings of the others and each group.

    `A[o, h] = sum_t P[t, o, h] B_t` with the places P of the axis and the matrices B_t of its taps
    at a frequency: `(A* A)[h, k] = sum_(t, s) (sum_o P[t, o, h] P[s, o, k]) B_t* B_s`.
    """
    places, (matrices, roundings) = axis.places, _at_frequencies(kernel, rings)
    _, rows, columns = places.shape
    if rows * matrices.shape[-2] < columns * matrices.shape[-1]:  # the Gram matrix of the adjoint
        places, matrices = places.transpose(0, 2, 1), _adjoint(matrices)
    taps, batch, image, order = matrices.shape
    flat = matrices.transpose(1, 2, 0, 3).reshape(batch, image, taps * order)
    products = (_adjoint(flat) @ flat).reshape(batch, taps, order, taps, order)
    counts = np.tensordot(places, places, axes=(1, 1))  # (taps, places, taps, places)
    reach = max(taps - 1, 1)
    parts = [slice(start, start + reach) for start in range(0, places.shape[2], reach)]

    def block(first: slice, second: slice) -> np.ndarray:
        numbers = counts[:, first, :, second]
        blocks = np.tensordot(products, numbers, axes=((1, 3), (0, 2)))
        size = numbers.shape[1] * order
        return blocks.transpose(0, 3, 1, 4, 2).reshape(batch, size, -1)

    # An entry is wrong by this part of that of `|A|' |A|`, whose norm is at most the sum of squares
    # of |A|: each place meets each other one at one tap.
    absolute = np.abs(kernel).sum(axis=tuple(range(1, kernel.ndim - 3)))
    squares = places.sum(axis=(1, 2)) @ np.square(absolute).sum(axis=(-2, -1))
    error = 4.0 * gamma(2 * roundings + 4 * image + 4 * taps**2 + 64) * float(squares.max()) + TINY
    diagonal = [block(part, part) for part in parts]
    above = [block(*pair) for pair in zip(parts[:-1], parts[1:], strict=True)]
    return Band(diagonal, above, error)


def _at_frequencies(kernel: np.ndarray, rings: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """The taps of the first axis at the frequencies of the others.

    Returns:
        (taps, frequencies and groups, outputs, inputs), and how many roundings an entry has at most
        of the sum of the absolute values that it is made of.
    """
    taps, *lengths = kernel.shape[:-3]
    grid = np.array(list(itertools.product(*rings)))
    offsets = np.array(list(itertools.product(*map(range, lengths))), dtype=np.float64)
    phases = np.exp(1j * (grid @ offsets.T))
    flat = kernel.reshape(taps, -1, *kernel.shape[-3:])
    values = np.moveaxis(np.tensordot(phases, flat, axes=(1, 1)), 1, 0)
    values = np.swapaxes(values.reshape(taps, -1, *kernel.shape[-2:]), -1, -2)
    # Angles are at most `2 pi` times the offsets, and wrong by a few units of that.
    return values, 8 * len(offsets) + 128 * sum(lengths) + 64
