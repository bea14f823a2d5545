"""Convolutions in linf and l1: the largest sum of absolute values of a row or column.

A row (an output) or column (an input) is a place on each axis, and places differ only in their
pattern: which taps meet there, and which of them meet the same element and are added up before the
absolute value is taken. Each axis has few patterns, whatever its length, and the pattern of a place
is the product of those of its axes.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from deel_lip_tf._rounding import gamma
from deel_lip_tf.bounds.norms.dense_matrix import axis_taps
from deel_lip_tf.normalizers.convolution import EXTENDING, ZERO
from deel_lip_tf.semantics.operators import Convolution

_ENTRIES = 2**31  # sums of taps that a bound may compute: some seconds on two cores
_CHUNK = 2**21  # of which this many at a time
_REACH = 32  # of a kernel, up to which all lengths of an axis of unknown length are tried


def absolute_sums_bound(convolution: Convolution, by_output: bool) -> float:
    """Bounds the sums of absolute values of the rows or columns of a `Convolution`.

    Args:
        convolution: the operator; for a transposed one, the convolution that it is the adjoint of
            is meant below.
        by_output: whether each sum is over all inputs of one output, rather than the converse.

    Returns:
        The largest sum over all places, rounded upward; where a size is not known, over all sizes.
        More than that, but never less, for kernels with many channels or a wide reach whose
        padding copies.
    """
    kernel, rank = convolution.kernel, len(convolution.kernel_size)
    # (groups, inputs, outputs) to (kept, summed), with the taps in between.
    order = (rank, rank + 2, rank + 1) if by_output else (rank, rank + 1, rank + 2)
    kernel = kernel.transpose(order[:2] + tuple(range(rank)) + order[2:])
    kernel = kernel.reshape(-1, *kernel.shape[2:])
    patterns = [_axis_patterns(convolution, axis, by_output) for axis in range(rank)]
    if not all(patterns):
        return 0.0  # no output: the kernel is longer than an image that is not padded
    # Taps that are added up count one by one: an upper bound, and exact where there are none.
    counts = [_largest(np.stack([rows.sum(axis=0) for rows in axis])) for axis in patterns]
    with np.errstate(over="ignore"):
        absolute = np.abs(kernel).sum(axis=-1, keepdims=True)
        apart = float(_contracted(absolute, counts).max(initial=0.0))
    if apart > 0.0 and (kernel[0].size > 1 or any((axis > 1).any() for axis in counts)):
        apart = math.nextafter(apart * (1.0 + gamma(_depth(kernel, []))), math.inf)
    adds = any(_adds(rows) for axis in patterns for rows in axis)
    return _added_up(kernel, patterns, apart) if adds and math.isfinite(apart) else apart


def _added_up(kernel: np.ndarray, patterns: list[list[np.ndarray]], apart: float) -> float:
    """The largest sum over the products of patterns, or `apart` where that would cost too much.

    The rows of all patterns of an axis are few: each product of rows is evaluated once.
    """
    rows, uses = zip(*map(_rows_and_uses, patterns), strict=True)
    entries = math.prod(map(len, rows)) * kernel.shape[-1]
    entries = max(entries, math.prod(map(len, patterns)))
    if entries * len(kernel) > _ENTRIES:
        return apart
    largest, step = 0.0, max(_CHUNK // entries, 1)
    for start in range(0, len(kernel), step):
        sums = np.abs(_contracted(kernel[start : start + step], rows)).sum(axis=-1, keepdims=True)
        largest = max(largest, float(_contracted(sums, uses).max(initial=0.0)))
    # A sum of taps is wrong by a part of their absolute values, which `apart` adds up.
    error = 1.01 * gamma(_depth(kernel, rows)) * apart
    return min(apart, math.nextafter(math.nextafter(largest + error, math.inf), math.inf))


def _rows_and_uses(patterns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (R, taps) of the patterns, and how often each pattern has each (P, R)."""
    rows, where = np.unique(np.concatenate(patterns), axis=0, return_inverse=True)
    ends = np.cumsum([len(pattern) for pattern in patterns])[:-1]
    parts = np.split(where.reshape(-1), ends)
    return rows, np.stack([np.bincount(part, minlength=len(rows)) for part in parts])


def _depth(kernel: np.ndarray, rows: Sequence[np.ndarray]) -> int:
    """How often a product is rounded, at most, on its way into one of the sums."""
    return sum(kernel.shape[1:]) + sum(map(len, rows)) + 2 * kernel.ndim + 8


def _contracted(array: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """`array` (kept, *axes, summed) with each axis multiplied by its matrix (new, old)."""
    for axis, matrix in enumerate(matrices, start=1):
        product = np.tensordot(matrix.astype(np.float64), array, axes=(1, axis))
        array = np.moveaxis(product, 0, axis)
    return array


def _adds(rows: np.ndarray) -> bool:
    return bool((rows.sum(axis=1) > 1).any())


def _axis_patterns(convolution: Convolution, axis: int, by_output: bool) -> list[np.ndarray]:
    """The patterns of one axis: (rows, taps) of zeros and ones, those of a row are added up."""
    size, taps = convolution.sizes[axis], convolution.kernel_size[axis]
    stride, rate = convolution.strides[axis], convolution.dilation[axis]
    reach = (taps - 1) * rate + 1
    # An axis longer than this has the patterns of its ends, which no longer meet, and those
    # between them: they depend on its length through its remainder modulo the stride alone.
    long = 4 * (reach + stride)
    sizes: Iterable[int]
    if size is not None:
        sizes = [size if size < long else long + (size - long) % stride]
    elif convolution.padding not in EXTENDING or reach > _REACH:
        return _patterns_of_any_size(convolution.padding, taps, stride, rate, by_output)
    else:
        sizes = range(1, long + stride)
    found = {}
    for one in sizes:
        met, length = axis_taps(convolution, one, taps, stride, rate)
        for rows in _patterns_of(met, length, by_output):
            rows = rows[np.lexsort(rows.T)]
            found[rows.tobytes()] = rows
    return _undominated(list(found.values()))


def _patterns_of(met: np.ndarray, length: int, by_output: bool) -> Iterable[np.ndarray]:
    """The pattern of each output, or of each of `length` inputs, from (taps, outputs) they meet."""
    if by_output:
        return [(column == np.unique(column[column != ZERO])[:, None]) for column in met.T]
    places = [(met == source).T for source in range(length)]
    return [rows[rows.any(axis=1)] for rows in places]


def _patterns_of_any_size(
    padding: str, taps: int, stride: int, rate: int, by_output: bool
) -> list[np.ndarray]:
    """Patterns without sums of taps that dominate those of every size."""
    if by_output:
        return [np.eye(taps, dtype=bool)]
    if padding not in EXTENDING:
        # An input meets the taps of one phase of the stride, each once.
        phases = np.arange(taps) * rate % stride
        return [np.eye(taps, dtype=bool)[phases == phase] for phase in np.unique(phases)]
    # A tap moves over as many consecutive places of the padded axis as the axis has elements, of
    # which circular padding fills each from another one, and the others from one at most twice,
    # or, in front of the first and behind the last, as long as the padding goes on.
    reach = (taps - 1) * rate + 1
    copies = {"circular": 1, "replicate": reach // 2 + 1}.get(padding, 2)
    return [np.repeat(np.eye(taps, dtype=bool), copies, axis=0)]


def _largest(counts: np.ndarray) -> np.ndarray:
    """The rows that no other row reaches in all entries."""
    counts = np.unique(counts, axis=0)
    below = (counts[:, None] <= counts).all(axis=2)
    return counts[below.sum(axis=1) == 1]


def _undominated(patterns: list[np.ndarray]) -> list[np.ndarray]:
    """Without those that meet no tap more often than one that adds up none.

    `|a + b| <= |a| + |b|`: the sums of the latter are at least as large, whatever the kernel.
    """
    plain = [rows for rows in patterns if not _adds(rows)]
    kept = list({tuple(c): r for r in plain for c in [r.sum(axis=0)]}.values())
    if not kept:
        return patterns
    largest = _largest(np.stack([rows.sum(axis=0) for rows in kept]))
    kept = [rows for rows in kept if (rows.sum(axis=0) == largest).all(axis=1).any()]
    added = [rows for rows in patterns if _adds(rows)]
    return kept + [rows for rows in added if not (rows.sum(axis=0) <= largest).all(axis=1).any()]
