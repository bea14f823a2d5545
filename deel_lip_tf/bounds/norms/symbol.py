"""The symbol of a convolution: one matrix per frequency, and its Gram matrix with its rounding.

`K(w) = sum_t K[t] exp(i <w, t>)`. Its Gram matrix is a trigonometric polynomial too,

    K(w)^H K(w) = sum_d C_d exp(i <w, d>),        C_d = sum_t K[t]^T K[t + d] = C_{-d}^T,

and once the autocorrelation C is there, it costs n**2 instead of m n**2 operations at a frequency.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deel_lip_tf._rounding import TINY, gamma
from deel_lip_tf.bounds.norms.spectral import gram, largest_eigenvalues, subspace_estimates

_CHUNK_BYTES = 2**27
_AUTOCORRELATION_BYTES = 2**28
_AUTOCORRELATION_FLOPS = 4e10
# Up to this order all eigenvalues of a matrix cost little more than its proof.
_SMALL_ORDER = 48


@dataclass(frozen=True)
class Autocorrelation:
    """`C_d` for half of the shifts, the other half being their transposes.

    Attributes:
        shifts: (D, axes) integers; the first is 0.
        sums: (D, groups, n, n) float64.
        absolute: (groups,) bounds on `||sum_d |K|[t]^T |K|[t + d]||_2`, the scale of all rounding.
        terms: number of products summed up in one entry.
    """

    shifts: np.ndarray
    sums: np.ndarray
    absolute: np.ndarray
    terms: int

    @cached_property
    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """`C_d + C_d^T` and `C_d - C_d^T` as (D, -1); of shift 0 only half of the first."""
        transposed = np.swapaxes(self.sums, -1, -2)
        even, odd = self.sums + transposed, self.sums - transposed
        even[0] /= 2.0
        return even.reshape(len(even), -1), odd.reshape(len(odd), -1)

    def grams(self, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`K(w)^H K(w)` as (F, groups, n, n), and bounds on their 2-norm errors as (F, groups)."""
        angles = frequencies @ self.shifts.T
        even, odd = self.parts
        result = np.empty((len(frequencies), *self.sums.shape[1:]), dtype=np.complex128)
        result.real = (np.cos(angles) @ even).reshape(result.shape)
        result.imag = (np.sin(angles) @ odd).reshape(result.shape)
        # Real and imaginary part of an entry are each wrong by gamma times the sum of the absolute
        # values that make it; angles, of at most `pi` times a shift, by a few `u` times that.
        reach = 32 * int(np.abs(self.shifts).sum(axis=1).max())
        factor = 1.5 * gamma(self.terms + 2 * len(self.shifts) + reach + 64)
        return result, np.broadcast_to(factor * self.absolute + TINY, result.shape[:2])


@dataclass(frozen=True)
class Symbol:
    """The taps of a convolution with norm about 1.

    Attributes:
        taps: (T, groups, m, n) float64 with n <= m: one block-diagonal matrix per tap.
        offsets: (T, axes) integers in [0, lengths[j]).
        lengths: number of taps along each axis.
    """

    taps: np.ndarray
    offsets: np.ndarray
    lengths: tuple[int, ...]

    @property
    def degrees(self) -> np.ndarray:
        """`(k - 1) / 2` along each axis: the exponential type of the centred symbol."""
        return (np.array(self.lengths) - 1) / 2.0

    @cached_property
    def autocorrelation(self) -> Autocorrelation | None:
        """The coefficients of the Gram matrix, or None where they cost too much."""
        count, groups, m, n = self.taps.shape
        shifts = [
            shift
            for shift in itertools.product(*(range(1 - length, length) for length in self.lengths))
            if shift >= (0,) * len(self.lengths)
        ]
        too_large = 24.0 * len(shifts) * groups * n * n > _AUTOCORRELATION_BYTES
        if count > 200 or too_large or count**2 * groups * m * n * n > _AUTOCORRELATION_FLOPS:
            return None
        grid = np.moveaxis(self.taps, 1, 0).reshape(groups, *self.lengths, m, n)
        absolute = np.abs(self.taps).sum(axis=0)
        rows = np.einsum("gmn,gm->gn", absolute, absolute.sum(axis=-1))
        # The matrix of absolute values is symmetric: its norm is at most its largest row sum.
        largest = rows.max(axis=1) * (1.0 + 4.0 * gamma(m * n * count + 8))
        sums = np.stack([_correlation(grid, shift) for shift in sorted(shifts)])
        return Autocorrelation(np.array(sorted(shifts)), sums, largest, 2 * count * m)

    @property
    def _source_of_grams(self) -> Autocorrelation | None:
        """The autocorrelation, where it makes Gram matrices cheaper than the taps do."""
        return self.autocorrelation if len(self.taps) ** 2 <= 1000 else None

    @property
    def flops(self) -> float:
        """About the work to estimate or to prove the norm at one frequency, in operations."""
        count, groups, m, n = self.taps.shape
        from_taps = 4.0 * count * m * n + 6.0 * m * n * n
        evaluation = from_taps if self._source_of_grams is None else 4.0 * count * n * n
        # Handling arrays costs memory traffic for n**2 entries, and a constant.
        return groups * (evaluation + 1.5 * n**3 + 400.0 * n * n + 1000.0) + 4000.0

    def grams(self, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`K(w)^H K(w)` as (F, groups, n, n), and bounds on their 2-norm errors as (F, groups)."""
        if self._source_of_grams is not None:
            return self._source_of_grams.grams(frequencies)
        angles = frequencies @ self.offsets.T
        flat = self.taps.reshape(len(self.taps), -1)
        shape = (len(frequencies), *self.taps.shape[1:])
        result = gram(
            ((np.cos(angles) @ flat).reshape(shape), (np.sin(angles) @ flat).reshape(shape))
        )
        traces = np.trace(result, axis1=2, axis2=3).real
        # Complex products of length m; the trace is the squared Frobenius norm of fl(K(w)), which
        # itself is wrong by `error`: |a^2 - b^2| <= e (2 b + e).
        error = self._evaluation_error
        products = 2.2 * gamma(4 * shape[-2] + 16) * traces
        return result, products + 1.01 * error * (2.0 * np.sqrt(traces) + error) + TINY

    @cached_property
    def _evaluation_error(self) -> float:
        """Bounds the Frobenius norm of `fl(K(w)) - K(w)`, per group.

        Angles are at most `2 pi * sum(lengths)` and so wrong by a few `u` times that; then come
        sums of T terms.
        """
        operations = 8 * len(self.taps) + 32 * sum(self.lengths) + 64
        norms = np.sqrt(np.square(self.taps).sum(axis=(2, 3))).sum(axis=0)
        return 1.5 * gamma(operations) * float(norms.max())

    def chunks(self, count: int) -> list[slice]:
        """Slices of a list of frequencies that fit into memory together."""
        _, groups, m, n = self.taps.shape
        evaluation = 48.0 * m * n if self._source_of_grams is None else 32.0 * n * n
        size = max(1, int(_CHUNK_BYTES / (groups * (evaluation + 48.0 * n * n))))
        return [slice(start, start + size) for start in range(0, count, size)]

    def estimate(self, frequencies: np.ndarray) -> np.ndarray:
        """Approximate norms of K(w), as (F,): they steer the search and prove nothing."""
        order = self.taps.shape[-1]
        of = largest_eigenvalues if order <= _SMALL_ORDER else subspace_estimates
        values = [of(self.grams(frequencies[part])[0]) for part in self.chunks(len(frequencies))]
        return np.sqrt(np.maximum(np.concatenate(values).max(axis=1), 0.0))


def _correlation(grid: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    """`sum_t K[t]^T K[t + shift]` of the kernel (groups, *lengths, m, n), as (groups, n, n)."""
    groups, *lengths, _, n = grid.shape
    ahead = tuple(slice(max(d, 0), k + min(d, 0)) for d, k in zip(shift, lengths, strict=True))
    back = tuple(slice(max(-d, 0), k - max(d, 0)) for d, k in zip(shift, lengths, strict=True))
    # One product of matrices for all pairs of taps: (taps, m) is contracted together.
    first, second = (grid[(slice(None), *part)].reshape(groups, -1, n) for part in (back, ahead))
    return np.swapaxes(first, -1, -2) @ second


def half_of_grid(counts: Sequence[int]) -> np.ndarray:
    """(F, axes) frequencies of a grid; of opposite ones, whose norms are equal, one."""
    axes = [np.arange(counts[0] // 2 + 1), *(np.arange(n) - n // 2 for n in counts[1:])]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(counts))
    return grid * (2.0 * math.pi / np.array(counts))
