"""What linear lower bounds of inequalities say of boxes: refuted, smaller, or a point to try.

The rows of a conjunction all have to be at most 0. From below they are linear functions of `e`, the
inputs in units of the box, `rows >= coefficients @ e + constant`. So is any sum of them with
multipliers that are not negative: where one is positive on the whole box the conjunction fails
there, and where it is positive on a slice of the box, that slice can be cut off.
"""

from typing import NamedTuple

import numpy as np

_STEPS = 40  # towards the best multipliers
_RATE = 0.5
_ROUND = 1e-12  # more than the rounding of the sums of the few terms here, relatively


class Rows(NamedTuple):
    """Linear functions of `e` in [-1, 1] below m rows, on n boxes.

    Attributes:
        coefficients: (n, m, f).
        constant: (n, m).
    """

    coefficients: np.ndarray
    constant: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """(n, m) how far a function falls on its box."""
        return np.abs(self.coefficients).sum(axis=2)

    @property
    def lowest(self) -> np.ndarray:
        """(n, m) values that the functions do not fall below."""
        spread = self.spread
        return self.constant - spread - _ROUND * (np.abs(self.constant) + spread)

    def finite(self) -> "Rows":
        """The rows, with what is not a number replaced by a function that says nothing."""
        known = np.isfinite(self.constant) & np.isfinite(self.spread)
        coefficients = np.where(known[..., None], self.coefficients, 0.0)
        return Rows(coefficients, np.where(known, self.constant, -1.0))


def multipliers(rows: Rows) -> np.ndarray:
    """(n, m) numbers, not negative and of sum 1, whose sum of rows is large at its lowest.

    Exponentiated subgradient steps on a concave function; whatever they find is sound.
    """
    coefficients, constant = rows
    count = constant.shape[1]
    largest = (rows.spread + np.abs(constant)).max(axis=1, keepdims=True) + 1e-300
    alone = constant - rows.spread
    best, highest = np.eye(count)[alone.argmax(axis=1)], alone.max(axis=1)
    if count == 1:
        return best
    own = np.full_like(constant, 1.0 / count)
    for step in range(_STEPS):
        direction = np.einsum("nm,nmf->nf", own, coefficients)
        value = np.einsum("nm,nm->n", own, constant) - np.abs(direction).sum(axis=1)
        is_better = value > highest
        best[is_better], highest[is_better] = own[is_better], value[is_better]
        slope = constant - np.einsum("nmf,nf->nm", coefficients, np.sign(direction))
        slope -= slope.max(axis=1, keepdims=True)
        own = own * np.exp(slope * (_RATE * count / np.sqrt(1.0 + 0.25 * step)) / largest)
        own /= own.sum(axis=1, keepdims=True)
    return best


def contracted(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(n, f) ends of `e` between which no row is positive everywhere; crossed where one is.

    With `s = |coefficients|_1 - constant`, a row with a coefficient a > 0 is positive where
    `e > s / a - 1`, whatever the other inputs are.
    """
    steep, spread = np.abs(rows.coefficients), rows.spread
    room = spread - rows.constant + _ROUND * (spread + np.abs(rows.constant))
    room = np.broadcast_to(room[..., None], steep.shape)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        reach = np.where(steep > 0, room / steep, np.where(room < 0, -2.0, 2.0))
    reach = np.clip(reach * (1.0 + _ROUND), -2.0, 2.0) + _ROUND
    falls = rows.coefficients < 0
    above = np.where(falls, 1.0, np.minimum(reach - 1.0, 1.0)).min(axis=1)
    below = np.where(falls, np.maximum(1.0 - reach, -1.0), -1.0).max(axis=1)
    return below, above
