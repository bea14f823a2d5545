"""A convolution on images of one size as a linear operator, and its extreme singular values.

NumPy in float64, away from any backend: for looking at layers, not for training them. Small
operators are written out as matrices, circular ones are split into frequencies; of the others the
extreme singular values are approached from inside by Lanczos bidiagonalization, which needs the
operator and its adjoint only.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deel_lip_tf.normalizers.convolution import ZERO, padded_indices, padding_amounts

Extremes = tuple[float, float]

# Entries of a matrix that is written out: about a second for its singular values.
DENSE_ENTRIES = 2**20

# Multiplications for all frequencies, and for all Lanczos steps: some ten seconds each.
_FOURIER_WORK = 3e9
_LANCZOS_WORK = 1e11
_LANCZOS_STEPS = (40, 800)
_FIRST_CHECK, _NEXT_CHECK = 20, 1.2

# Relative to the largest: where the extremes stand still, and where a Krylov space is exhausted.
_STANDSTILL = 1e-9
_EXHAUSTED = 1e-14


@dataclass(frozen=True, eq=False)
class ConvolutionOperator:
    """`y[p] = sum over taps t of pad(x)[stride * p + dilation * t] @ kernel[t]`, without bias.

    Images are arrays (groups, points, channels of a group), the points of an image in one axis.
    A transposed convolution has the singular values of the convolution whose adjoint it is.

    Attributes:
        kernel: (*kernel_size, groups, inputs, outputs) float64, channels counted by group.
        strides: one per axis.
        dilation: one per axis.
        padding: "same", "valid", "causal", "circular", "symmetric", "reflect" or "replicate";
            "constant" for `amounts` of zeros.
        sizes: length of the input along each axis.
        amounts: elements added `(before, after)` each axis; `None` for those of `padding_amounts`.
    """

    kernel: np.ndarray
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    sizes: tuple[int, ...]
    amounts: tuple[tuple[int, int], ...] | None = None

    @property
    def groups(self) -> int:
        """Number of groups of channels; the operator is block diagonal in them."""
        return self.kernel.shape[-3]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(groups, points, channels of a group)` of an input."""
        return self.groups, math.prod(self.sizes), self.kernel.shape[-2]

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """The same of an output."""
        return self.groups, self._positions.shape[1], self.kernel.shape[-1]

    def apply(self, images: np.ndarray) -> np.ndarray:
        """The convolution of an array of shape `input_shape`."""
        # The index -1 of a padded zero finds the zero row appended at the end.
        padded = np.concatenate([images, np.zeros_like(images[:, :1])], axis=1)[:, self._sources]
        return sum(padded[:, at] @ tap for at, tap in zip(self._positions, self._taps, strict=True))

    def adjoint(self, outputs: np.ndarray) -> np.ndarray:
        """The adjoint of `apply`, for an array of shape `output_shape`."""
        groups, points, channels = self.input_shape
        padded = np.zeros((groups, len(self._sources), channels))
        for at, tap in zip(self._positions, self._taps, strict=True):
            padded[:, at] += outputs @ tap.swapaxes(1, 2)
        folded = np.zeros((groups, points + 1, channels))
        np.add.at(np.moveaxis(folded, 1, 0), self._sources, np.moveaxis(padded, 1, 0))
        return folded[:, :-1]

    def matrices(self) -> np.ndarray:
        """One matrix (outputs, inputs) for each group, as an array of three axes."""
        groups, points, channels = self.input_shape
        _, outputs, filters = self.output_shape
        matrices = np.zeros((groups, outputs, filters, points, channels))
        for at, tap in zip(self._positions, self._taps, strict=True):
            sources = self._sources[at]
            rows = np.flatnonzero(sources != ZERO)
            # Each row meets one source per tap, so that no entry is written twice.
            matrices[:, rows, :, sources[rows], :] += tap.swapaxes(1, 2)
        return matrices.reshape(groups, outputs * filters, points * channels)

    @property
    def _taps(self) -> np.ndarray:
        return self.kernel.reshape(-1, *self.kernel.shape[-3:])

    @cached_property
    def _axes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        taps, rates = self.kernel.shape[:-3], self.dilation
        reaches = [(k - 1) * rate + 1 for k, rate in zip(taps, rates, strict=True)]
        axes = list(zip(self.sizes, reaches, self.strides, strict=True))
        amounts = self.amounts or [padding_amounts(*axis, self.padding) for axis in axes]
        return [
            _axis(*axis, *added, self.padding, np.arange(k) * rate)
            for axis, added, k, rate in zip(axes, amounts, taps, rates, strict=True)
        ]

    @cached_property
    def _sources(self) -> np.ndarray:
        """(padded points,) the point each one is copied from, or `ZERO`."""
        grid = np.meshgrid(*[sources for sources, _ in self._axes], indexing="ij")
        flat = np.ravel_multi_index([np.maximum(index, 0) for index in grid], self.sizes)
        return np.where(np.any([index == ZERO for index in grid], axis=0), ZERO, flat).ravel()

    @cached_property
    def _positions(self) -> np.ndarray:
        """(taps, outputs) the padded point that each tap of each output reads."""
        lengths = [len(sources) for sources, _ in self._axes]
        taps = itertools.product(*[positions for _, positions in self._axes])
        return np.stack([np.ravel_multi_index(np.ix_(*tap), lengths).ravel() for tap in taps])


def _axis(
    size: int, reach: int, stride: int, before: int, after: int, mode: str, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`(sources, positions)` of one axis; positions are (taps, outputs)."""
    sources = padded_indices(size, before, after, mode)
    starts = np.arange(0, len(sources) - reach + 1, stride)
    return sources, starts + offsets[:, None]


def extreme_singular_values(operator: ConvolutionOperator) -> Extremes:
    """The smallest and the largest singular value of an operator.

    Like those of a matrix, singular values are as many as the smaller of its two sides.

    Returns:
        `(smallest, largest)`: to rounding for small operators and for circular padding whose
        strides divide the size; else estimates from inside, the smallest not below and the largest
        not above the true one. The largest is usually good to 1e-6; a smallest one in a crowd of
        others may be off by a few per cent of the largest.
    """
    if (symbols := _frequencies(operator)) is not None:
        smallest, largest = zip(*map(dense_extremes, symbols), strict=True)
        return min(smallest), max(largest)
    inputs, outputs = math.prod(operator.input_shape), math.prod(operator.output_shape)
    if inputs * outputs <= DENSE_ENTRIES * operator.groups:
        return dense_extremes(operator.matrices())
    work = 2 * operator.kernel.size * operator.output_shape[1]
    fewest, most = _LANCZOS_STEPS
    steps = min(int(np.clip(_LANCZOS_WORK / work, fewest, most)), inputs, outputs)
    if inputs > outputs:
        return lanczos_extremes(operator.adjoint, operator.apply, operator.output_shape, steps)
    return lanczos_extremes(operator.apply, operator.adjoint, operator.input_shape, steps)


def dense_extremes(matrices: np.ndarray) -> Extremes:
    """The smallest and the largest singular value of matrices (..., rows, columns)."""
    values = np.linalg.svd(matrices, compute_uv=False)
    return float(values.min()), float(values.max())


def _frequencies(operator: ConvolutionOperator) -> Iterator[np.ndarray] | None:
    """For circular padding, an iterator over the operator at the frequencies of the image.

    A stride `s` folds `s` frequencies onto one: their matrices stand side by side, over `sqrt(s)`.
    `None` where the operator does not split, or where it would take too long.

    Source: Sedghi, Gupta, Long, 2019, arXiv:1805.10408.
    """
    pairs = list(zip(operator.sizes, operator.strides, strict=True))
    divides = not any(size % stride for size, stride in pairs)
    if operator.padding != "circular" or operator.amounts is not None or not divides:
        return None
    groups, inputs, outputs = operator.kernel.shape[-3:]
    sides = inputs * math.prod(operator.strides), outputs
    frequencies = math.prod(operator.sizes) // math.prod(operator.strides)
    if frequencies * groups * math.prod(sides) * min(sides) > _FOURIER_WORK:
        return None
    return _symbols(operator, [size // stride for size, stride in pairs])


def _symbols(operator: ConvolutionOperator, frequencies: list[int]) -> Iterator[np.ndarray]:
    taps = np.array(list(np.ndindex(*operator.kernel.shape[:-3]))) * operator.dilation
    aliases = np.array(list(np.ndindex(*operator.strides))) * frequencies
    flat = operator._taps
    scale = 1 / math.sqrt(math.prod(operator.strides))
    for frequency in np.ndindex(*frequencies):
        if tuple(-np.array(frequency) % frequencies) < frequency:
            continue  # of a real kernel, the opposite frequency has the conjugate matrix
        # (aliases, taps) characters of the frequencies that fold onto this one.
        phases = (frequency + aliases) / operator.sizes @ taps.T
        symbol = np.tensordot(np.exp(2j * np.pi * phases), flat, axes=1)
        symbol = np.moveaxis(symbol, 1, 0)
        yield scale * symbol.reshape(operator.groups, -1, flat.shape[-1])


def lanczos_extremes(
    forward: Callable, backward: Callable, shape: tuple[int, ...], steps: int
) -> Extremes:
    """Extreme singular values, from inside, by Golub-Kahan-Lanczos bidiagonalization.

    The singular values of the bidiagonal matrix lie between those of the operator. Vectors are not
    orthogonalised again: that repeats values which are found already and moves none beyond the
    extremes. Bidiagonalizing the operator, not its Gram matrix, keeps small values accurate.

    Args:
        forward: the operator, on arrays of `shape`, the smaller of its two sides.
        backward: its adjoint.
        shape: of its inputs.
        steps: largest number of applications of each.

    Returns:
        `(smallest, largest)` estimates.

    Source: Golub, Kahan, 1965, "Calculating the singular values and pseudo-inverse of a matrix".
    """
    right = np.random.default_rng(0).standard_normal(shape)
    right /= np.linalg.norm(right)
    left, beta = np.zeros(()), 0.0
    alphas: list[float] = []
    betas: list[float] = []
    extremes, check = (math.inf, -math.inf), _FIRST_CHECK
    for step in range(1, steps + 1):
        left, alpha = _unit(forward(right) - beta * left)
        right, beta = _unit(backward(left) - alpha * right)
        alphas.append(alpha)
        scale = max([*alphas, *betas])
        exhausted = min(alpha, beta) <= _EXHAUSTED * scale
        if exhausted or step in (steps, check):
            check = int(check * _NEXT_CHECK)
            before, extremes = extremes, dense_extremes(np.diag(alphas) + np.diag(betas, 1))
            moved = max(abs(a - b) for a, b in zip(before, extremes, strict=True))
            if exhausted or moved <= _STANDSTILL * scale:
                break
        betas.append(beta)
    return extremes


def _unit(vector: np.ndarray) -> tuple[np.ndarray, float]:
    """`(vector / norm, norm)`; a zero vector stays zero."""
    norm = float(np.linalg.norm(vector))
    return vector / (norm or 1.0), norm
