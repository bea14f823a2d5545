"""Convolutions: the smallest of several proven bounds of the operator norm.

For small images it is that of the operator's own matrix. For the others:

Zero-padded ("same", "valid", "causal"), strided and cropped convolutions, and their adjoints the
transposed ones, are compressions of the convolution of the infinite image: its norm, a supremum
over frequencies, bounds them for every image size. That of an image of known size is smaller
(`band`). A circular convolution is that operator restricted to the frequencies of its own grid.
Other paddings copy a pixel at most m times, which multiplies the norm by at most `sqrt(m)`; those
that go to and fro are a part of a periodic image that has each pixel twice, so that m is 2.
"""

import itertools
import math
from dataclasses import replace

import numpy as np

from deel_lip_tf._rounding import UNIT, gamma, product_up, sqrt_up
from deel_lip_tf.bounds.norms.band import band_bound
from deel_lip_tf.bounds.norms.dense_matrix import check_finite, matrix_bound
from deel_lip_tf.bounds.norms.fourier import ACCURACY, grid_maximum, supremum
from deel_lip_tf.bounds.norms.residual import least_norm, residual_bound
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.bounds.norms.symbol import Symbol
from deel_lip_tf.normalizers.convolution import (
    max_duplication,
    most_copies,
    padding_amounts,
    transposed_max_duplication,
)
from deel_lip_tf.semantics.operators import Convolution, all_known

_COPYING = ("symmetric", "reflect", "replicate")
_NEARLY_ORTHOGONAL = 1.01  # autocorrelation bound over a lower bound: then the residual is small


def convolution_bound(convolution: Convolution, budget: float = 1.0) -> tuple[float, str]:
    """Bounds the norm of a convolution.

    Args:
        convolution: the operator.
        budget: how much work the search over frequencies may cost; 1 is some seconds at most.

    Returns:
        `(bound, method)`: float64, never below the norm for inputs of the given sizes (of any
        sizes, where they are None), and the name of the method that gave the smallest bound.

    Raises:
        ValueError: if the kernel holds NaN or infinity.
    """
    kernel = convolution.kernel
    check_finite(kernel)
    largest = np.abs(kernel).max(initial=0.0)
    if largest == 0.0:
        return 0.0, "zero kernel"
    exponent = math.frexp(largest)[1]
    scaled = replace(convolution, kernel=np.ldexp(kernel, -exponent))
    if (exact := matrix_bound(scaled, budget)) is not None:
        return _rescaled(exact, exponent), "matrix of the operator"
    taps = _polyphase(scaled)
    symbol = _symbol(taps)
    copies = _copies(scaled)
    candidates = [(_flattened_bound(scaled), "flattened kernel")]
    if (autocorrelation := _autocorrelation_bound(symbol)) is not None:
        candidates.append((product_up(copies, autocorrelation), "kernel autocorrelation"))
        is_near = autocorrelation <= _NEARLY_ORTHOGONAL * least_norm(symbol)
        if is_near and (residual := residual_bound(symbol, budget)) is not None:
            candidates.append((product_up(copies, residual), "distance from orthogonality"))
    candidates.append(_fourier_bound(scaled, symbol, copies, budget, min(candidates)[0]))
    # The first of equals: the Fourier bound repeats a known one that it cannot lower.
    bound, method = min(candidates, key=lambda candidate: candidate[0])
    if (smaller := band_bound(scaled, taps, bound, budget)) < bound:
        bound, method = smaller, "Fourier symbol, with the zeros of the padding"
    return _rescaled(bound, exponent), method


def _rescaled(bound: float, exponent: int) -> float:
    # One more digit covers what scaling rounded: entries below 1e-300 of the largest one.
    with np.errstate(over="ignore"):
        return math.nextafter(float(np.ldexp(bound, exponent)), math.inf)


def multiplicity(size: int | None, reach: int, padding: str, stride: int = 1) -> int:
    """By how much the padding of an axis multiplies the squared norm, at most.

    It is how often one element occurs in the padded axis. A padding that goes to and fro, and one
    of an axis of one element, make a part of a periodic axis too: a period has no element more than
    twice (the one element once), and at least as many places as there are starts of patches. So
    without stride 2 (or 1) is a bound, times S, the supremum over frequencies. A stride keeps some
    of these outputs; S without it is at most `sqrt(stride)` times that with it.

    Args:
        size: length of the axis, None for the largest count over all lengths.
        reach: length of the kernel on this axis, with the zeros of its dilation.
        padding: that of a `Convolution`.
        stride: step on this axis.
    """
    if padding not in _COPYING:
        return 1
    if size is None:
        # Longer axes than the kernel have the counts of their ends, which no longer meet.
        return max(multiplicity(n, reach, padding, stride) for n in range(1, reach + 2))
    occurs = most_copies(size, padding_amounts(size, reach, 1, padding), padding)
    if size > 1 and padding == "replicate":
        return occurs
    return min(occurs, stride * (1 if size == 1 else 2))


def _copies(convolution: Convolution) -> float:
    """By how much the padding multiplies the norm, at most."""
    counts = [
        multiplicity(n, (k - 1) * rate + 1, convolution.padding, stride)
        for n, k, stride, rate in convolution.axes()
    ]
    return sqrt_up(math.prod(counts))


def _polyphase(convolution: Convolution) -> np.ndarray:
    """The kernel without stride: (*taps, groups, m, n), each m collecting `prod(strides)` phases.

    `y[i] = sum_t K[t] x[s i + t]` is, with `t = s q + r`, a convolution over the phases
    `x_r[j] = x[s j + r]`. Dilation without stride only permutes frequencies and is left out.
    """
    kernel = convolution.kernel
    rank = len(convolution.kernel_size)
    strides = convolution.effective_strides()
    for axis, (stride, rate) in enumerate(zip(strides, convolution.dilation, strict=True)):
        if stride > 1 and rate > 1:
            shape = list(kernel.shape)
            shape[axis] = (shape[axis] - 1) * rate + 1
            dilated = np.zeros(shape)
            dilated[(slice(None),) * axis + (slice(None, None, rate),)] = kernel
            kernel = dilated
    padding = [(0, -n % s) for n, s in zip(kernel.shape[:rank], strides, strict=True)]
    kernel = np.pad(kernel, padding + [(0, 0)] * 3)
    split = [part for n, s in zip(kernel.shape, strides, strict=False) for part in (n // s, s)]
    groups, inputs, outputs = kernel.shape[-3:]
    kernel = kernel.reshape(*split, groups, inputs, outputs)
    order = [*range(0, 2 * rank, 2), 2 * rank, *range(1, 2 * rank, 2), 2 * rank + 1, 2 * rank + 2]
    kernel = kernel.transpose(order)
    return kernel.reshape(*kernel.shape[: rank + 1], -1, outputs)


def _symbol(taps: np.ndarray) -> Symbol:
    lengths = taps.shape[:-3]
    offsets = np.array(list(itertools.product(*map(range, lengths))))
    flat = taps.reshape(-1, *taps.shape[-3:])
    if flat.shape[-1] > flat.shape[-2]:
        flat = np.swapaxes(flat, -1, -2)
    return Symbol(np.ascontiguousarray(flat), offsets, lengths)


def _fourier_bound(
    convolution: Convolution, symbol: Symbol, copies: float, budget: float, known: float
) -> tuple[float, str]:
    sizes = all_known(convolution.sizes)
    if convolution.padding == "circular" and sizes is not None:
        steps = zip(sizes, convolution.effective_strides(), strict=True)
        if (exact := grid_maximum(symbol, tuple(n // s for n, s in steps), budget)) is not None:
            return exact, "Fourier symbol on the grid of the input"
    if known <= copies * least_norm(symbol) * (1.0 + ACCURACY):
        return known, "known already"  # what the search would end with, too
    bound = supremum(symbol, budget, known / copies * (1.0 + 4.0 * UNIT))
    return product_up(copies, bound), "Fourier symbol, all frequencies"


def _flattened_bound(convolution: Convolution) -> float:
    """`||K as (patch, outputs)||_2 sqrt(m)`, with m the most patches that share an element."""
    kernel = convolution.kernel
    rank = len(convolution.kernel_size)
    by_group = np.moveaxis(kernel, rank, 0)
    matrices = by_group.reshape(len(by_group), -1, kernel.shape[-1])
    largest = max(spectral_norm_bound(matrix) for matrix in matrices)
    duplication = math.prod(_duplication(convolution, *axis) for axis in convolution.axes())
    return product_up(largest, sqrt_up(duplication))


def _duplication(
    convolution: Convolution, size: int | None, kernel_size: int, stride: int, rate: int
) -> int:
    if rate > 1:
        # Each tap meets a place in at most one patch.
        reach = (kernel_size - 1) * rate + 1
        return kernel_size * multiplicity(size, reach, convolution.padding)
    if convolution.transposed and convolution.padding in ("same", "valid"):
        return transposed_max_duplication(size, kernel_size, stride)
    if convolution.padding == "causal":
        return -(-kernel_size // stride)
    return max_duplication(size, kernel_size, stride, convolution.padding)


def _autocorrelation_bound(symbol: Symbol) -> float | None:
    """`sqrt(max_i sum_{j, d} |C_d[i, j]|)` with the autocorrelation `C_d = sum_t K[t]^T K[t + d]`.

    The norm of `T^* T` is at most its largest row sum (Prach and Lampert 2022, arXiv:2208.03160).
    Exact for orthogonal convolutions. None where it would cost too much.
    """
    if (autocorrelation := symbol.autocorrelation) is None:
        return None
    absolute = np.abs(autocorrelation.sums)
    # The opposite shift gives the transposed matrix.
    rows = absolute.sum(axis=(0, -1)) + absolute[1:].sum(axis=(0, -2))
    rounding = gamma(autocorrelation.terms + 2 * len(absolute) * rows.shape[-1] + 64)
    largest = float((rows.max(axis=-1) + 1.01 * rounding * autocorrelation.absolute).max())
    return sqrt_up(largest)
