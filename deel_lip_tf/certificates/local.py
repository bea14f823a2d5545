"""How fast the gaps of logits change near one sample: smaller than anywhere, and still proven.

Inside a ball of radius R, an entry of a pre-activation moves by at most R times its own Lipschitz
constant. A ReLU whose input cannot change sign there is linear, and drops out where it is negative
(Huang et al. 2021, arXiv:2111.01395). Going backward from the gap of two logits, all gradients that
it can have in the ball lie in a set

    { g + v + w }  with `|v_i| <= b_i` and `||w||_2 <= r`.

An activation with slopes in `[m - h, m + h]` maps g to `m g` and adds `h |g|` to b. A linear layer
W maps g to `W^T g` and r to `||W|| r`; b, of which the entries U are not 0, adds to r the smallest
of `||b|| ||W||`, `||b|| ||W_U||_F` and `sum_i b_i ||w_i||`. At each tensor on the way, of constant
K, `(||g|| + ||b|| + r) K` bounds how fast the gap changes, and so does the smallest of them all.

Going forward through the end of the network, as far back as activations have few entries, the
differences that the ball makes of each tensor lie in an ellipsoid (`bounds.ellipsoids`). It bounds
all gaps at once, and how far the entries of the next pre-activation move.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np

from deel_lip_tf._rounding import UP
from deel_lip_tf.bounds.ellipsoids import (
    after_activation,
    after_matrix,
    combinations,
    first_ellipsoid,
)
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator, WithError
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates.chain import (
    GradientSet,
    LinearStep,
    PiecewiseStep,
    Step,
    sequential_tail,
    steps_of_tail,
)
from deel_lip_tf.certificates.radii import Evaluated, Radii, certified_radii, downward, gap_radii
from deel_lip_tf.semantics.state import as_float64

_WIDEST = 256  # entries of an activation in an ellipsoid: some milliseconds for each ball
_LARGEST_MATRIX = 2**22  # entries of what is before the first one
_GAIN = 0.99  # of the other bound, for another ellipsoid to be worth its time
_LARGEST_BLOCK = 2**19  # entries: arrays that stay in the caches of a processor
# The first ball against the known radius, the most by which one exceeds what is proven, and when
# they are as good as equal.
_FIRST, _FARTHER, _CLOSE = 1.35, 4.0, 2e-4
# Which share of the interval that is left the next balls take, from the end that a ball's divisor
# gave. That falls by about a quarter of what a ball grows, or jumps: then halving finds where.
_NEARER = 3 * (0.2,) + 7 * (0.5,)


class LocalBounds:
    """The last calls of a classifier, as far back as they are one after another and straight.

    Args:
        model: a bounded classifier.
        propagation: the pass that bounded it.
        exact: what evaluates it; from now on it keeps the calls that are wanted here.

    Raises:
        ValueError: if Keras does not run on TensorFlow, which applies the adjoints.
    """

    def __init__(
        self, model: keras.Model, propagation: LipschitzPropagation, exact: Float64Evaluator
    ):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "`local=True` differentiates with TensorFlow, but Keras runs on "
                f"{keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow, or leave it out."
            )
        self._exact = exact
        # Copies of its own, because their activations are taken off.
        self._copies = Float64Evaluator(model, propagation)
        self._calls = sequential_tail(exact.graph)[::-1]
        exact.kept.update({call: ([], []) for call in self._calls})
        self._steps: list[Step] = []
        self._end: _End | None = None
        self._points: list[tuple[np.ndarray, np.ndarray] | None] = []
        self._gains = np.ones(0, bool)  # of each sample, whether its last ellipsoid told more

    def observe(self) -> None:
        """Takes what was evaluated last as the samples that `divisors` is about."""
        made = [self._exact.kept[call] for call in self._calls]
        values = [(before[0], after[0]) for before, after in made]
        if not self._steps:
            self._steps = steps_of_tail(self._calls, values, self._copies)
            shapes = [tuple(value.tensor.shape[1:]) for pair in values for value in pair]
            self._end = _end_of(self._steps, shapes[::2], shapes[1::2])
        self._points = [
            None if piecewise is None else _point(linear, before, after)
            for (linear, piecewise), (before, after) in zip(self._steps, values, strict=True)
        ]
        size = len(values[0][0].error) if values and self._end is not None else 0
        self._gains = np.ones(size, bool)

    def divisors(
        self, radius: np.ndarray, sample: np.ndarray, directions: np.ndarray
    ) -> np.ndarray:
        """Bounds how fast combinations of the logits change in balls around the samples.

        Args:
            radius: (n,) of the balls.
            sample: (rows,) ascending, which ball each row is about.
            directions: (rows, classes) the combinations.

        Returns:
            (rows,) Lipschitz constants in these balls.
        """
        largest = max([directions.shape[1], *(p[0][0].size for p in self._points if p)])
        block = max(1, _LARGEST_BLOCK // largest)
        bounds = np.full(len(sample), np.inf)
        for start in range(0, len(sample), block):
            part = slice(start, start + block)
            bounds[part] = self._block(radius, sample[part], directions[part])
        if self._end is not None and len(chosen := np.flatnonzero(self._gains[sample])):
            given = self._points, radius, sample[chosen], directions[chosen]
            found = self._end.divisors(*given)
            self._gains[sample[chosen]] = False
            self._gains[sample[chosen[found < _GAIN * bounds[chosen]]]] = True
            # Not `minimum`: what overflowed to NaN is no bound.
            bounds[chosen] = np.fmin(bounds[chosen], found)
        return bounds

    def _block(self, radius: np.ndarray, sample: np.ndarray, directions: np.ndarray) -> np.ndarray:
        gradients = GradientSet.of(directions)
        # Slopes are those of the ball, for all its rows.
        ball, row = np.unique(sample, return_inverse=True)
        for (linear, piecewise), point in zip(self._steps[::-1], self._points[::-1], strict=True):
            if piecewise is not None and point is not None:
                values, errors = (known[ball] for known in point)
                slopes = piecewise.slopes(values, errors, radius[ball])
                slopes = slopes.of_rows(row) if len(ball) < len(row) else slopes
                piecewise.backward(gradients, slopes)
            if linear is not None:
                linear.backward(gradients)
        return gradients.best


@dataclass(frozen=True)
class _End:
    """The end of the tail, in which an ellipsoid is carried forward: the first things first.

    Attributes:
        matrices: of linear calls after one another, (outputs, inputs), each with a bound of the
            spectral norm of what is missing in it.
        activations: between them, each with the index of its call in the tail.
        first: the ellipsoid that the first matrix makes.
        constant: of what is before it, with respect to the model's input.
    """

    matrices: list[tuple[np.ndarray, float]]
    activations: list[tuple[PiecewiseStep, int]]
    first: np.ndarray
    constant: float

    @np.errstate(all="ignore")  # of what overflows nothing is claimed
    def divisors(
        self, points: list, radius: np.ndarray, sample: np.ndarray, directions: np.ndarray
    ) -> np.ndarray:
        """As `LocalBounds.divisors`, with the points that it observed."""
        balls, starts = np.unique(sample, return_index=True)
        found = [
            combinations(self._ellipsoid(points, slice(ball, ball + 1), radius), rows)
            for ball, rows in zip(balls, np.split(directions, starts[1:]), strict=True)
        ]
        return np.concatenate(found) * (self.constant * UP)

    def _ellipsoid(self, points: list, ball: slice, radius: np.ndarray) -> np.ndarray:
        """Of the differences of logits in one ball."""
        ellipsoid = self.first
        for (activation, call), (matrix, error) in zip(
            self.activations, self.matrices[1:], strict=True
        ):
            values, errors = (known[ball] for known in points[call])
            entries = np.sqrt(np.diagonal(ellipsoid)) * (self.constant * UP)
            entries = np.minimum(activation.entries, entries.reshape(values.shape[1:]))
            low, high = activation.ends(values, errors, radius[ball], entries)
            ellipsoid, alive = after_activation(ellipsoid, low.ravel(), high.ravel())
            ellipsoid = after_matrix(ellipsoid, matrix[:, alive], error)
        return ellipsoid


def _end_of(steps: list[Step], before: list[tuple], after: list[tuple]) -> _End | None:
    """The end of a tail whose calls have inputs and outputs of these shapes, if there is one."""
    if not steps or math.prod(after[-1]) > _WIDEST:
        return None
    matrix, error, constant = np.eye(math.prod(after[-1])), 0.0, math.inf
    matrices, activations = list[tuple[np.ndarray, float]](), list[tuple[PiecewiseStep, int]]()
    for call in range(len(steps) - 1, -1, -1):
        linear, piecewise = steps[call]
        if piecewise is not None:
            if (size := math.prod(after[call])) > _WIDEST:
                break
            matrices.append((matrix, error))
            activations.append((piecewise, call))
            matrix, error, constant = np.eye(size), 0.0, piecewise.constant
        if linear is not None:
            if len(matrix) * math.prod(before[call]) > _LARGEST_MATRIX:
                break
            rounding = linear.rounding * float(np.linalg.norm(matrix))
            error = (error * linear.norm + rounding) * UP
            image = linear.adjoint(matrix.reshape(len(matrix), *after[call]))
            matrix, constant = image.reshape(len(matrix), -1), linear.constant
    first = first_ellipsoid(matrix, error) if activations else None
    if first is None:
        return None
    matrices.append((matrix, error))
    return _End(matrices[::-1], activations[::-1], first, constant)


def _point(
    linear: LinearStep | None, before: WithError, after: WithError
) -> tuple[np.ndarray, np.ndarray]:
    """The input of an activation at the samples, and its errors."""
    if linear is None:
        return before.numbers, before.error
    # What bounds the error of the whole call bounds that of its linear part, before the activation.
    with keras.device("cpu:0"):
        return as_float64(linear.layer(before.tensor)), after.error


@np.errstate(over="ignore", invalid="ignore")  # of radii without end
def widened(
    evaluated: Evaluated, label: np.ndarray, divisors: np.ndarray, local: LocalBounds
) -> Radii:
    """Radii by the better of the given divisors and of those that hold near each sample.

    In a ball of radius R a gap falls no faster than the local divisor for R: it stays positive up
    to `min(f, R)`, f what the divisor gives. The divisor grows with R, so that no ball proves more
    of this gap than `max(f, R)`. Each ball narrows the search from both sides, and only the rivals
    take part in it whose gap is not known to stay positive there.

    Args:
        evaluated: logits of the batch that `local` has observed.
        label: (n,) what they predict.
        divisors: (n, classes).
        local: the local bounds.
    """
    known = certified_radii(evaluated, label, divisors)
    proven = gap_radii(evaluated, label, divisors)[1]
    ceiling = np.full(proven.shape, np.inf)
    low = known.radius
    ball = np.minimum(_FIRST * low, evaluated.reach)
    for nearer in _NEARER:
        is_open = ball > low * (1.0 + _CLOSE)
        row, rival = np.nonzero(is_open[:, None] & (proven < ball[:, None]))
        if not len(row):
            break
        found = local.divisors(ball, row, _directions(label[row], rival, divisors.shape[1]))
        nearby = divisors.copy()
        # Not `minimum`: what overflowed to NaN is no bound.
        nearby[row, rival] = np.fmin(divisors[row, rival], found)
        reached = gap_radii(evaluated, label, nearby)[1][row, rival]
        proven[row, rival] = np.fmax(proven[row, rival], np.fmin(reached, ball[row]))
        ceiling[row, rival] = np.fmin(ceiling[row, rival], np.fmax(reached, ball[row]))
        low = np.where(is_open, proven.min(axis=1), low)
        share = np.where(low < ball, nearer, 1.0 - nearer)
        ball = (1.0 - share) * low + share * ceiling.min(axis=1)
        ball = np.minimum(np.minimum(ball, _FARTHER * low), evaluated.reach)
    radius = downward(np.minimum(low, evaluated.reach), evaluated.logits, evaluated.errors)
    return known._replace(radius=np.maximum(known.radius, radius))


def _directions(label: np.ndarray, rival: np.ndarray, classes: int) -> np.ndarray:
    """(rows, classes) the gap of two logits; of a single one, itself."""
    one_hot = np.eye(classes)
    return one_hot[label] - one_hot[rival] if classes > 1 else np.ones((len(label), 1))
