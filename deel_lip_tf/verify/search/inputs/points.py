"""Points of boxes that may satisfy a conjunction, and whether they do."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from deel_lip_tf._rounding import TINY
from deel_lip_tf.semantics.ir.arrays import NUMPY
from deel_lip_tf.semantics.ir.evaluation import evaluated
from deel_lip_tf.semantics.ir.program import Affine, Program, left_slope
from deel_lip_tf.verify.specification.property import Conjunction

Run = Callable[[np.ndarray], np.ndarray]
"""The network as it runs: inputs (n, *shape) in its own type to outputs (n, ...)."""

_FIRST_STEP, _LAST_STEP = 0.5, 0.005  # of the width of the box
_JUDGED = 8  # points of one call that the network is run on
_NEAR = 1e-5  # relatively: rows that are larger do not hold by the rounding of float32


def _errors(program: Program, values: Sequence[np.ndarray]) -> np.ndarray:
    """How far float64 outputs may be from the exact ones, (n, *shape of the output)."""
    errors = [np.zeros_like(values[0])]
    for node, value in zip(program.nodes[1:], values[1:], strict=True):
        parents = [errors[parent] for parent in node.parents]
        if isinstance(node, Affine):
            sizes = [np.abs(values[parent]) for parent in node.parents]
            pairs = zip(parents, sizes, strict=True)
            moved = [error + 2.0 * program.roundoff * (error + size) for error, size in pairs]
            error = node.map.absolute(NUMPY, moved) + TINY
            if node.bias is not None:
                error = error + 2.0 * program.roundoff * np.abs(node.bias)
        else:
            steepest = np.maximum(1.0, np.abs(left_slope(node)))
            error = steepest * parents[0] + 2.0**-50 * np.abs(value)
        errors.append(error)
    return errors[program.output]


def descended(
    program: Program, x: np.ndarray, ends: Sequence[np.ndarray], claim: Conjunction, steps: int
) -> np.ndarray:
    """Points (n, inputs) after signed steps down the sum of the rows that do not hold.

    The best of each path, by its largest row; `ends` are those of the box.
    """
    best, lowest = x, np.full(len(x), np.inf)
    for step in range(steps + 1):
        values = evaluated(program, x.reshape(-1, *program.input_shape))
        outputs = values[program.output].reshape(len(x), -1)
        rows = outputs @ claim.weights.T + claim.offsets
        largest = rows.max(axis=1, initial=-np.inf)
        is_lower = largest < lowest
        lowest = np.where(is_lower, largest, lowest)
        best = np.where(is_lower[:, None], x, best)
        if step == steps or (lowest < 0).any():
            break
        length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / steps)
        slope = _gradient(program, values, (rows >= 0) @ claim.weights)
        x = np.clip(x - length * (ends[1] - ends[0]) * np.sign(slope), *ends)
    return best[np.argsort(lowest, kind="stable")]


def _gradient(program: Program, values: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(n, inputs) of linear functions (n, outputs) of the output, one at each point."""
    pending = {program.output: rows.reshape(-1, *program.output_shape)}
    for position in range(program.output, 0, -1):
        if (upstream := pending.pop(position, None)) is None:
            continue
        node = program.nodes[position]
        if isinstance(node, Affine):
            parts = node.map.adjoint(NUMPY, upstream, program.shapes(node.parents))
        else:
            parts = [upstream * np.where(values[node.parents[0]] > 0, 1.0, left_slope(node))]
        for parent, part in zip(node.parents, parts, strict=True):
            pending[parent] = pending[parent] + part if parent in pending else part
    return pending.get(0, np.zeros_like(values[0])).reshape(len(rows), -1)


class Points:
    """Judges points of the network's input type, by the network as it runs.

    Args:
        program: the network.
        run: the same as it runs, or None: then the exact function decides.
        dtype: of its inputs.
        is_nearest: whether inputs count that are nearest to a point of the box.
    """

    def __init__(self, program: Program, run: Run | None, dtype: type | np.dtype, is_nearest: bool):
        self._program, self._run = program, run
        self._dtype, self._is_nearest = np.dtype(dtype), is_nearest

    def ends(self, claim: Conjunction) -> tuple[np.ndarray, np.ndarray] | None:
        """The box of a conjunction in the input type; None where it holds no input."""
        low, high = claim.lower.astype(self._dtype), claim.upper.astype(self._dtype)
        if not self._is_nearest:
            infinity = self._dtype.type(np.inf)
            low = np.where(low < claim.lower, np.nextafter(low, infinity), low)
            high = np.where(high > claim.upper, np.nextafter(high, -infinity), high)
        return (low, high) if (low <= high).all() else None

    def witness(self, claim: Conjunction, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The first of some points (n, inputs) that satisfies a conjunction, and its outputs.

        The outputs of the network as it runs satisfy it exactly; what the exact function provably
        violates is no witness, nor is a point that holds a strict inequality by rounding alone.
        """
        if (ends := self.ends(claim)) is None:
            return None
        points = np.clip(x.astype(self._dtype), *ends)
        for point in points[self._likely(claim, points)[:_JUDGED]]:
            if (outputs := self._replayed(claim, point)) is not None:
                return point.reshape(self._program.input_shape), outputs
        return None

    def holds_somewhere(self, claim: Conjunction, x: np.ndarray) -> bool:
        """Whether the exact function provably satisfies a conjunction at one of some points."""
        points = np.clip(x, claim.lower, claim.upper)
        likely = points[self._likely(claim, points)[:_JUDGED]]
        return any((rows < -error).all() for rows, error in map(partial(self._rows, claim), likely))

    def _likely(self, claim: Conjunction, points: np.ndarray) -> np.ndarray:
        """The points where all rows hold, up to rounding, those first where they hold most."""
        values = evaluated(self._program, points.reshape(-1, *self._program.input_shape))
        outputs = values[self._program.output].reshape(len(points), -1)
        rows = outputs @ claim.weights.T + claim.offsets
        size = np.abs(outputs) @ np.abs(claim.weights).T + np.abs(claim.offsets)
        near = np.flatnonzero((rows <= _NEAR * size).all(axis=1))
        return near[np.argsort(rows[near].max(axis=1, initial=-np.inf), kind="stable")]

    def _rows(self, claim: Conjunction, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the exact function at a point, and how far they may be from these values."""
        values = evaluated(self._program, point.reshape(1, *self._program.input_shape))
        outputs = values[self._program.output].ravel()
        rows, size = claim.weights @ outputs + claim.offsets, np.abs(claim.weights)
        added = size @ np.abs(outputs) + np.abs(claim.offsets)
        error = size @ _errors(self._program, values).ravel()
        return rows, error + 2.0 * self._program.roundoff * (error + added) + TINY

    def _replayed(self, claim: Conjunction, point: np.ndarray) -> np.ndarray | None:
        rows, error = self._rows(claim, point)
        if not (rows <= error).all() or (claim.is_strict & ~(rows < -error)).any():
            return None
        shaped = point.reshape(1, *self._program.input_shape)
        if self._run is not None:
            outputs = np.asarray(self._run(shaped)).ravel()
        elif (rows < -error).all():
            outputs = evaluated(self._program, shaped)[self._program.output].ravel()
        else:
            return None
        x = np.clip(point, claim.lower, claim.upper) if self._is_nearest else point
        return outputs if claim.holds(x, outputs) else None
