"""Boxes of inputs cut into smaller ones until a bound is good enough on each of them."""

import time
from collections.abc import Callable

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, box
from deel_lip_tf.verify.graphs import once
from deel_lip_tf.verify.propagation.gradients import gradient_bounds
from deel_lip_tf.verify.tensorflow import evaluate

FEW = 24
"""Free inputs, the most that are split."""

_FIRST, _BATCH = 8, 256  # boxes that are halved together, the first and the most
_OPEN = 2**18  # boxes that are kept

Lower = Callable[[Domain], np.ndarray]


def split(
    program: Program,
    domain: Domain,
    lower: Lower,
    known: np.ndarray,
    target: np.ndarray | float,
    end: float,
    refuted: Callable[[Domain], bool],
) -> np.ndarray:
    """Raises lower bounds of some numbers on one box to a target, by bounding its parts.

    Args:
        program: which decides which inputs matter.
        domain: one box.
        lower: boxes to (boxes, m) bounds.
        known: (m,) bounds on the whole box.
        target: (m,) bounds that are good enough, or one for all.
        end: of the time, of `time.monotonic`.
        refuted: whether some boxes, those that lack most, hold a counterexample: then it ends.

    Returns:
        (m,) bounds on the whole box, not below `known`.
    """
    weight = np.abs(domain.upper - domain.lower).reshape(-1) * _sensitivity(program)
    weight = np.where((domain.upper > domain.lower).reshape(-1), weight + 1e-300, 0.0)
    shape, size = domain.lower.shape[1:], _FIRST
    boxes = domain.lower.reshape(1, -1), domain.upper.reshape(1, -1)
    bounds, closed = known[None], np.full(known.shape, np.inf)
    whole = boxes[1][0] - boxes[0][0]
    while len(bounds) and time.monotonic() < end and len(bounds) < _OPEN:
        order = np.argsort((bounds - target).min(axis=1), kind="stable")
        chosen, rest = order[:size], order[size:]
        size = min(2 * size, _BATCH)
        halves = _halved(boxes[0][chosen], boxes[1][chosen], weight, whole)
        if halves is None:
            break  # as small as float64 goes
        parents = np.tile(bounds[chosen], (2, 1))
        parts = box(halves[0].reshape(-1, *shape), halves[1].reshape(-1, *shape))
        found = np.maximum(lower(parts), parents)
        is_done = (found >= target).all(axis=1)
        closed = np.minimum(closed, found[is_done].min(axis=0, initial=np.inf))
        low, high = (
            np.concatenate([part[rest], half[~is_done]])
            for part, half in zip(boxes, halves, strict=True)
        )
        boxes = low, high
        bounds = np.concatenate([bounds[rest], found[~is_done]])
        if not is_done.all() and refuted(parts[~is_done]):
            break
    least = np.minimum(closed, bounds.min(axis=0, initial=np.inf))
    return np.maximum(least, known)


def _halved(
    lower: np.ndarray, upper: np.ndarray, weight: np.ndarray, whole: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both halves of boxes (n, inputs), or `None` where one cannot be cut."""
    share = np.divide(upper - lower, whole, out=np.zeros_like(lower), where=whole > 0)
    axis, rows = (share * weight).argmax(axis=1), np.arange(len(lower))
    middle = 0.5 * lower[rows, axis] + 0.5 * upper[rows, axis]
    if not ((lower[rows, axis] < middle) & (middle < upper[rows, axis])).all():
        return None
    first, second = upper.copy(), lower.copy()
    first[rows, axis] = second[rows, axis] = middle
    return np.concatenate([lower, second]), np.concatenate([first, upper])


@once
def _sensitivity(program: Program) -> np.ndarray:
    """(inputs,) how much each input moves what the first activation reads; 1 without one."""
    nodes = program.nonlinear()
    size = int(np.prod(program.input_shape))
    if not nodes:
        return np.ones(size)
    (parent,) = program.nodes[nodes[0]].parents
    first = Program(program.nodes[: parent + 1], parent, ())
    values = evaluate(first, np.zeros((1, *program.input_shape)))
    points = [(np.asarray(value), np.asarray(value)) for value in values]
    eye = np.eye(first.outputs).reshape(1, first.outputs, *first.output_shape)
    low, high = gradient_bounds(first, points, eye)
    return np.maximum(-low, high)[0].reshape(first.outputs, size).sum(axis=0)
