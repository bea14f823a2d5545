"""Bounds of gradients: intervals of the coefficients of linear functions, carried backward.

On a convex set where all nodes lie in their intervals, the gradient of a linear function of the
output is, almost everywhere, a product of matrices: those of the affine maps, and diagonal ones of
slopes of the activations, each of which lies in a known interval; a sort is a permutation. From the
output to the input the product is carried in interval arithmetic (Weng et al. 2018,
arXiv:1804.09699; Zhang et al. 2019, arXiv:1810.11783). A difference of two values of the function
is the mean of gradients between them times the difference of the two points, so that what holds of
almost all gradients holds of all differences.

The difference of two networks of one structure is of the same kind. With `d` the difference of two
nodes, an affine map has `d = B d_before + (B - A) a_before + b - a`, and an activation
`d = s d_before` with a slope s: each node adds what its own weights differ in, times the
coefficients that it has.

Affine maps are passed as differences of maps without negative coefficients, which errs relatively:
a bound that is 0 in exact arithmetic is 0 here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.primitives import LinearMap, Scale, Shape, Sum
from deel_lip_tf.semantics.ir.primitives.products import unbroadcast
from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Node, Program
from deel_lip_tf.semantics.ir.signs import SMALLEST, Parts, is_same, map_difference, signed_parts
from deel_lip_tf.verify.activations import derivative_of
from deel_lip_tf.verify.graphs import once
from deel_lip_tf.verify.tensorflow import TENSORFLOW

Ends = tuple[np.ndarray, np.ndarray]
"""`(lower, upper)`, of the same shape."""

_ULP = 2.0**-51  # more than one rounding of float64, relatively


def gradient_bounds(program: Program, intervals: Sequence[Ends], rows: np.ndarray) -> Ends:
    """Bounds of the gradients of linear functions of the output.

    Args:
        program: the graph.
        intervals: sound ones of all nodes, (n, *shape), on convex sets of inputs.
        rows: (n or 1, rows, *shape of the output) coefficients.

    Returns:
        (n, rows, *shape of the input) bounds of each partial derivative, infinite where nothing is
        known; that of the difference of any two values on a set is a mean of numbers between them.
    """
    *_, (_, ends) = _carried(program, intervals, rows)
    return ends


def difference_bounds(
    first: Program,
    second: Program,
    intervals: tuple[Sequence[Ends], Sequence[Ends]],
    rows: np.ndarray,
) -> Ends:
    """Bounds of linear functions of the difference of two outputs, `second - first`.

    Args:
        first: a graph.
        second: one for which `are_alike` holds.
        intervals: sound ones of all nodes of each.
        rows: (n or 1, rows, *shape of the output) coefficients.

    Returns:
        (n, rows) lower and upper bounds, infinite where nothing is known.
    """
    hull = [
        (np.minimum(a[0], b[0]), np.maximum(a[1], b[1])) for a, b in zip(*intervals, strict=True)
    ]
    zeros = np.zeros((len(hull[0][0]), rows.shape[1]))
    total = zeros, zeros
    with np.errstate(all="ignore"):
        for index, ends in _carried(second, hull, rows):
            for part in _own_difference(first, second, index, ends, intervals[0]):
                total = _added(total, part)
    return _known(total)


def are_alike(first: Program, second: Program) -> bool:
    """Whether two programs have the same nodes, but for the weights of their affine maps."""
    if len(first.nodes) != len(second.nodes) or first.output != second.output:
        return False
    return all(_is_alike(a, b) for a, b in zip(first.nodes, second.nodes, strict=True))


def _is_alike(first: Node, second: Node) -> bool:
    if (type(first), first.shape, first.parents) != (type(second), second.shape, second.parents):
        return False
    if isinstance(first, Elementwise) and isinstance(second, Elementwise):
        return is_same(first.function, second.function)
    if not isinstance(first, Affine) or not isinstance(second, Affine):
        return True
    # Where an interval is known besides, it is that of a sort, whose maps have no weights.
    if first.interval is not None or second.interval is not None or first.map.is_exact:
        return is_same(first.map, second.map) and first.interval == second.interval
    maps = _maps(first), _maps(second)
    return len(maps[0]) == len(maps[1]) and all(
        map_difference(*pair) is not None for pair in zip(*maps, strict=True)
    )


def _carried(
    program: Program, intervals: Sequence[Ends], rows: np.ndarray
) -> Iterator[tuple[int, Ends]]:
    """The coefficients of each node that rows depend on, backward, those of the input at last."""
    shape = (len(intervals[0][0]), *rows.shape[1:])
    whole = np.broadcast_to(rows, shape).astype(np.float64)
    pending: dict[int, Ends] = {program.output: (whole, whole)}
    for index in range(program.output, 0, -1):
        if (ends := pending.pop(index, None)) is None:
            continue
        ends = _known(ends)
        yield index, ends
        with np.errstate(all="ignore"):  # what overflows is unbounded
            for parent, part in _passed(program, index, ends, intervals).items():
                pending[parent] = _added(pending[parent], part) if parent in pending else part
    nothing = np.zeros((*shape[:2], *program.input_shape))
    yield 0, _known(pending.get(0, (nothing, nothing)))


def _passed(
    program: Program, index: int, ends: Ends, intervals: Sequence[Ends]
) -> Mapping[int, Ends]:
    """The coefficients of what a node is made of."""
    node = program.nodes[index]
    if isinstance(node, Affine):
        if node.interval is not None:
            sources = node.interval.sources
            known = [(intervals[s][0][:, None], intervals[s][1][:, None]) for s in sources]
            if (found := node.interval.passed_back(known, ends)) is not None:
                return dict(zip(sources, found, strict=True))
        return _through(program, index, ends)
    (parent,) = node.parents
    lower, upper = intervals[parent]
    if isinstance(node, Elementwise):
        slopes = derivative_of(node.function).on(lower, upper)
        return {parent: _times(ends, (slopes[0][:, None], slopes[1][:, None]))}
    low, high = _directions(lower, upper)
    wide = ends[0][..., None], ends[1][..., None]
    return {parent: _times(wide, (low[:, None], high[:, None]))}


def _known(ends: Ends) -> Ends:
    """Ends without NaN, and without numbers whose products might underflow."""
    lower, upper = (np.where(abs(end) < SMALLEST, 0.0, end) for end in ends)
    lower = np.where((ends[0] < 0) & (lower == 0), -SMALLEST, lower)
    upper = np.where((ends[1] > 0) & (upper == 0), SMALLEST, upper)
    # What overflows may be anything.
    lower = np.where(lower < np.inf, lower, -np.inf)
    return lower, np.where(upper > -np.inf, upper, np.inf)


def _outward(lower: np.ndarray, upper: np.ndarray) -> Ends:
    return lower - _ULP * abs(lower), upper + _ULP * abs(upper)


def _added(first: Ends, second: Ends) -> Ends:
    return _outward(first[0] + second[0], first[1] + second[1])


def _times(ends: Ends, slopes: Ends) -> Ends:
    """The product of two intervals."""
    products = [end * slope for end in ends for slope in slopes]
    # Nothing is left of a factor that is 0, however large the other one may be.
    is_zero = [end == 0 for end in ends for _ in slopes]
    is_zero = [a | (slope == 0) for a, slope in zip(is_zero, [*slopes, *slopes], strict=True)]
    products = [np.where(zero, 0.0, p) for zero, p in zip(is_zero, products, strict=True)]
    return _outward(np.minimum.reduce(products), np.maximum.reduce(products))


def _directions(lower: np.ndarray, upper: np.ndarray) -> Ends:
    """Bounds of `w / ||w||`, the gradient of a norm, of each entry: never beyond 1."""
    return np.where(lower >= 0, 0.0, -1.0), np.where(upper <= 0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class _Term:
    """What an affine map does to one of the nodes that it reads.

    Attributes:
        parts: as a difference of maps without negative coefficients.
        shape: of that node.
        result: of one output, 1 in place of what is broadcast.
    """

    parts: Parts
    shape: Shape
    result: Shape

    def passed(self, rows: tf.Tensor, roundoff: float) -> Ends:
        """Intervals of coefficients of the node.

        Args:
            rows: (4, batch, *shape): the positive and the negative parts of the lower ends, and
                those of the upper ends; no number is negative.
            roundoff: relative error of a sum of products.
        """
        flat = tf.reshape(rows, [-1, *rows.shape[2:]])
        flat = unbroadcast(TENSORFLOW, flat, self.result)
        shape = (4, rows.shape[1], *self.shape)
        p, n = (self._summed(part, flat).reshape(shape) for part in self.parts)
        less, more = 1.0 - roundoff, 1.0 + roundoff
        lower = (p[0] * less - p[1] * more) - (n[2] * more - n[3] * less)
        upper = (p[2] * more - p[3] * less) - (n[0] * less - n[1] * more)
        return lower, upper

    def _summed(self, maps: Sequence[LinearMap], rows: tf.Tensor) -> np.ndarray:
        parts = [one.adjoint(TENSORFLOW, rows, [self.shape])[0].numpy() for one in maps]
        return np.sum(parts, axis=0) if parts else np.zeros((len(rows), *self.shape))


def _affine(program: Program, index: int) -> Affine:
    """A node that is known to be affine."""
    return cast(Affine, program.nodes[index])


def _maps(node: Affine) -> Sequence[LinearMap]:
    """What an affine node does to each of the nodes that it reads; itself where it moves them."""
    return node.map.terms if isinstance(node.map, Sum) else [node.map]


@once
def _terms(program: Program, index: int, less: Program | None) -> list[_Term]:
    """What an affine node does to each of the nodes that it reads, less what another one does."""
    node = _affine(program, index)
    maps, shapes = _maps(node), program.shapes(node.parents)
    pairs = list(zip(maps, shapes, strict=True))
    results = [tuple(one.shape([shape])) for one, shape in pairs]
    if less is not None:
        both = zip(_maps(_affine(less, index)), maps, strict=True)
        # There is a difference of programs that are alike.
        moved = (map_difference(*pair) or Scale(0.0) for pair in both)
        pairs = list(zip(moved, shapes, strict=True))
    return [
        _Term(signed_parts(one, shape), shape, result)
        for (one, shape), result in zip(pairs, results, strict=True)
    ]


def _by_terms(program: Program, index: int, ends: Ends, less: Program | None = None) -> list[Ends]:
    """Coefficients of each of the nodes that an affine one reads: by its map, or by a difference.

    The sums of a few parts are within the slack of a sum of as many terms as the largest node has.
    """
    node, rows = _affine(program, index), ends[0].shape[:2]
    shapes = program.shapes(node.parents)
    flat = [end.reshape(-1, *node.shape) for end in ends]
    if node.map.is_exact:
        moved = [node.map.adjoint(TENSORFLOW, tf.constant(end), shapes) for end in flat]
        found = [(low.numpy(), high.numpy()) for low, high in zip(*moved, strict=True)]
    else:
        split = [np.maximum(sign * end, 0.0) for end in flat for sign in (1.0, -1.0)]
        stacked, error = tf.constant(np.stack(split)), 2.0 * program.roundoff
        found = [term.passed(stacked, error) for term in _terms(program, index, less)]
    pairs = zip(found, shapes, strict=True)
    return [(a.reshape(*rows, *shape), b.reshape(*rows, *shape)) for (a, b), shape in pairs]


def _through(program: Program, index: int, ends: Ends) -> dict[int, Ends]:
    """Through an affine map, which may read a node more than once."""
    result: dict[int, Ends] = {}
    parts = _by_terms(program, index, ends)
    for parent, part in zip(program.nodes[index].parents, parts, strict=True):
        result[parent] = _added(result[parent], part) if parent in result else part
    return result


def _own_difference(
    first: Program, second: Program, index: int, ends: Ends, intervals: Sequence[Ends]
) -> list[Ends]:
    """What a node adds to a difference of outputs: (n, rows) each, to be added up."""
    if not isinstance(second.nodes[index], Affine):
        return []
    node, other = _affine(second, index), _affine(first, index)
    added = []
    if not node.map.is_exact and node.interval is None:  # else the maps are the same
        parts = _by_terms(second, index, ends, less=first)
        pairs = zip(node.parents, parts, strict=True)
        added = [_dot(second, part, intervals[parent]) for parent, part in pairs]
    biases = [0.0 if one.bias is None else one.bias for one in (other, node)]
    moved = np.broadcast_to(biases[1] - biases[0], (1, *node.shape))
    return [*added, _dot(second, ends, _outward(moved, moved))]


def _dot(program: Program, ends: Ends, values: Ends) -> Ends:
    """(n, rows) bounds of products of coefficients and of a node, (n or 1, *shape)."""
    axes = tuple(range(2, ends[0].ndim))
    low, high = _times(ends, (values[0][:, None], values[1][:, None]))
    error = program.roundoff
    lower = low.sum(axis=axes) - error * abs(low).sum(axis=axes)
    return lower, high.sum(axis=axes) + error * abs(high).sum(axis=axes)
