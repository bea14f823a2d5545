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
"""

import keras
import numpy as np

from deel_lip_tf.bounds.evaluation.model import Float64Evaluator, WithError
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates.chain import (
    GradientSet,
    LinearStep,
    Step,
    sequential_tail,
    steps_of_tail,
)
from deel_lip_tf.certificates.radii import Evaluated, Radii, certified_radii
from deel_lip_tf.semantics.state import as_float64

__all__ = ["LocalBounds", "widened"]

_LARGEST_BLOCK = 2**22
_STEPS = 4
_FAR = 3.0


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
        self._points: list[tuple[np.ndarray, np.ndarray] | None] = []

    def observe(self) -> None:
        """Takes what was evaluated last as the samples that `divisors` is about."""
        made = [self._exact.kept[call] for call in self._calls]
        values = [(before[0], after[0]) for before, after in made]
        if not self._steps:
            self._steps = steps_of_tail(self._calls, values, self._copies)
        self._points = [
            None if piecewise is None else _point(linear, before, after)
            for (linear, piecewise), (before, after) in zip(self._steps, values, strict=True)
        ]

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
        return bounds

    def _block(self, radius: np.ndarray, sample: np.ndarray, directions: np.ndarray) -> np.ndarray:
        gradients = GradientSet.of(directions)
        # Slopes are those of the ball, for all its rows.
        ball, row = np.unique(sample, return_inverse=True)
        for (linear, piecewise), point in zip(self._steps[::-1], self._points[::-1], strict=True):
            if piecewise is not None and point is not None:
                values, errors = (known[ball] for known in point)
                low, high = piecewise.slopes(values, errors, radius[ball])
                piecewise.backward(gradients, low[row], high[row])
            if linear is not None:
                linear.backward(gradients)
        return gradients.best


def _point(
    linear: LinearStep | None, before: WithError, after: WithError
) -> tuple[np.ndarray, np.ndarray]:
    """The input of an activation at the samples, and its errors."""
    if linear is None:
        return before.numbers, before.error
    # What bounds the error of the whole call bounds that of its linear part, before the activation.
    with keras.device("cpu:0"):
        return as_float64(linear.layer(before.tensor)), after.error


def widened(
    evaluated: Evaluated, label: np.ndarray, divisors: np.ndarray, local: LocalBounds
) -> Radii:
    """Radii by the better of the given divisors and of those that hold near each sample.

    In a ball of radius R a gap falls no faster than the local divisor for R: what follows from it
    is certified up to R. R is searched between the radius that is known and the one that the local
    divisors of that radius would give, which no larger ball can reach.

    Args:
        evaluated: logits of the batch that `local` has observed.
        label: (n,) what they predict.
        divisors: (n, classes).
        local: the local bounds.
    """
    known = certified_radii(evaluated, label, divisors)
    low = known.radius.copy()
    certified = np.flatnonzero(low > 0)
    high = low.copy()
    high[certified] = _radii_within(evaluated, label, divisors, local, certified, low[certified])
    for _ in range(_STEPS):
        chosen = np.flatnonzero(high > low * (1.0 + 1e-3))
        middle = 0.5 * (low[chosen] + high[chosen])
        found = _radii_within(evaluated, label, divisors, local, chosen, middle)
        low[chosen] = np.maximum(low[chosen], np.minimum(found, middle))
        high[chosen] = np.where(found >= middle, high[chosen], middle)
    return known._replace(radius=low)


def _radii_within(
    evaluated: Evaluated,
    label: np.ndarray,
    divisors: np.ndarray,
    local: LocalBounds,
    chosen: np.ndarray,
    radius: np.ndarray,
) -> np.ndarray:
    """Radii of some samples by the divisors of the balls of a radius; certified up to that one."""
    logits, errors, growth, reach = evaluated
    part = Evaluated(logits[chosen], errors[chosen], growth, reach[chosen])
    label, divisors = label[chosen], divisors[chosen].copy()
    classes = np.eye(logits.shape[1])
    if len(classes) == 1:
        row, rival = np.arange(len(chosen)), np.zeros(len(chosen), int)
        directions = np.ones((len(chosen), 1))
    else:
        gaps = np.take_along_axis(part.logits, label[:, None], 1) - part.logits
        # Other pairs are far from deciding anything, and would cost as much.
        is_near = gaps < _FAR * radius[:, None] * divisors
        is_near[np.arange(len(chosen)), label] = False
        row, rival = np.nonzero(is_near)
        directions = classes[label[row]] - classes[rival]
    everywhere = np.zeros(len(logits))
    everywhere[chosen] = radius
    found = local.divisors(everywhere, chosen[row], directions)
    # Not `minimum`: what overflowed to NaN is no bound.
    divisors[row, rival] = np.fmin(divisors[row, rival], found)
    return certified_radii(part, label, divisors).radius
