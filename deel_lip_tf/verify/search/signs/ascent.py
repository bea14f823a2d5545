"""Better slopes and multipliers by projected gradient steps, in float32: nothing rests on them."""

import math
import time
from dataclasses import dataclass

import numpy as np

from deel_lip_tf.verify.search.signs.chain import Chain, Known, Lines, Rows, lines_of

_RATES = 0.15, 0.3, 0.1  # of alphas, and of betas and shares in units of the largest coefficient
_JOINT_RATES = 0.05, 0.03, 0.03  # where the sum of all multipliers stays
_SHORTER = 0.05, 4.0  # of the step length, at each step, and at most in all
_MOMENTUM, _SQUARES = 0.9, 0.99
_FEWER = 0.75  # of the parts that climb; when fewer are left, they go on alone


@dataclass(frozen=True, eq=False)
class Numbers:
    """What is free in the bounds of n parts, float32.

    Attributes:
        alphas: (n, neurons) in [0, 1].
        betas: (n, neurons), not negative.
        shares: (n, rows) of a sum of rows.
    """

    alphas: np.ndarray
    betas: np.ndarray
    shares: np.ndarray

    def of(self, index: np.ndarray) -> "Numbers":
        """Some of the parts."""
        return Numbers(*(part[index] for part in self.arrays))

    def put(self, index: np.ndarray, other: "Numbers") -> None:
        """Replaces some parts by others."""
        for own, new in zip(self.arrays, other.arrays, strict=True):
            own[index] = new

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The three."""
        return self.alphas, self.betas, self.shares


@dataclass(frozen=True, eq=False)
class Ascent:
    """Rows of a chain, and how far to climb.

    Attributes:
        chain: the network.
        rows: functions of its values, of which sums are bounded.
        steps: at most so many.
        free: (n, rows) which shares may grow from 0 on, or None.
        base: rows (n, values) and constants (n,), float32, that the sums are added to, or None.
        is_mean: whether the sum of the shares stays.
        end: of the time, of the monotonic clock.
        goal: bounds that are enough.
        is_joint: whether the sum of the shares and of the betas, in units of the largest
            coefficient, is 1 instead. The shares may come to 0: where the splits of a part
            contradict each other betas alone show it, while without this they would have to grow
            beyond all bounds.
    """

    chain: Chain
    rows: Rows
    steps: int
    free: np.ndarray | None = None
    base: tuple[np.ndarray, np.ndarray] | None = None
    is_mean: bool = True
    end: float = math.inf
    goal: float = math.inf
    is_joint: bool = False


def ascended(ascent: Ascent, numbers: Numbers, known: Known) -> Numbers:
    """The best numbers that were seen."""
    climb = _Climb(ascent, numbers, known)
    for step in range(ascent.steps + 1):
        climb.look()
        if not len(climb.alive) or step == ascent.steps or time.monotonic() > ascent.end:
            break
        climb.move(step)
    return climb.best


class _Climb:
    """Parts on their way, those that need no more left behind."""

    def __init__(self, ascent: Ascent, numbers: Numbers, known: Known):
        self._ascent, self._chain = ascent, ascent.chain
        lines = lines_of(known, numbers.alphas, numbers.betas, np.float32)
        # Of neurons of one sign, too, alphas are the slopes that `lines_of` takes.
        numbers = Numbers(lines.below, numbers.betas, numbers.shares)
        self._lines, self._is_open, self._splits = lines, known.signs == 0, known.splits
        self._matrix = ascent.rows.matrix.astype(np.float32)
        self._constant = ascent.rows.constant.astype(np.float32)
        self.best = Numbers(*(part.copy() for part in numbers.arrays))
        self._now, self._free, self._base = numbers, ascent.free, ascent.base
        count = len(numbers.alphas)
        self.alive, self._highest = np.arange(count), np.full(count, -np.inf, np.float32)
        self._scale = np.ones((count, 1), np.float32)
        self._values = self._highest
        self._means = [np.zeros_like(part) for part in numbers.arrays]
        self._squares = [np.zeros_like(part) for part in numbers.arrays]

    def look(self) -> None:
        """Bounds all parts, and keeps what is better than before."""
        now = self._now
        added = -now.betas * self._splits
        self._lines = self._lines._replace(below=now.alphas, added=added)
        self._rows = now.shares @ self._matrix
        constant = now.shares @ self._constant
        if self._base is not None:
            self._rows += self._base[0]
            constant += self._base[1]
        value = self._values = self._chain.backward(self._rows, constant, self._lines)
        is_better = value > self._highest
        self._highest[is_better] = value[is_better]
        self.best.put(self.alive[is_better], now.of(is_better))
        is_open = ~(self._highest > self._ascent.goal)
        if is_open.sum() <= _FEWER * len(is_open):
            self._keep(np.flatnonzero(is_open))

    def _keep(self, index: np.ndarray) -> None:
        self.alive, self._highest, self._values, self._scale = (
            part[index] for part in (self.alive, self._highest, self._values, self._scale)
        )
        self._is_open, self._splits, self._rows = (
            part[index] for part in (self._is_open, self._splits, self._rows)
        )
        self._now = self._now.of(index)
        self._lines = Lines(*(line[index] for line in self._lines))
        self._free = None if self._free is None else self._free[index]
        self._base = None if self._base is None else (self._base[0][index], self._base[1][index])
        self._means, self._squares = (
            [part[index] for part in parts] for parts in (self._means, self._squares)
        )

    def move(self, step: int) -> None:
        """One step of projected Adam."""
        chain, now = self._chain, self._now
        reads, values = chain.forward(self._rows, self._lines)
        weights = self._rows[:, chain.before :]
        if step == 0:
            self._scale = np.abs(weights).max(axis=1, initial=0.0)[:, None] + np.float32(1e-30)
        bent = weights * (1 - chain.slopes)
        alphas = now.alphas + self._moved(step, 0, np.maximum(bent, 0) * reads * self._is_open)
        betas, shares = now.betas, now.shares
        # What a sum of multipliers gains by one of them, where their sum is to stay.
        is_joint = self._ascent.is_joint
        less = self._values[:, None] / self._total(now) if is_joint else np.float32(0)
        if self._splits.any():
            slope = np.where(self._splits != 0, -self._splits * reads - less / self._scale, 0)
            betas = np.maximum(betas + self._scale * self._moved(step, 1, slope), 0)
        if self._free is not None:
            slope = np.where(self._free, values @ self._matrix.T + self._constant - less, 0)
            shares = self._shared(self._free, self._moved(step, 2, slope))
        if is_joint:
            total = self._total(Numbers(alphas, betas, shares))
            betas, shares = betas / total, shares / total
        self._now = Numbers(np.clip(alphas, 0, 1), betas, shares)

    def _total(self, numbers: Numbers) -> np.ndarray:
        """(n, 1) the sum of all multipliers."""
        total = numbers.shares.sum(axis=1) + numbers.betas.sum(axis=1) / self._scale[:, 0]
        return np.maximum(total, np.float32(1e-30))[:, None]

    def _moved(self, step: int, number: int, slope: np.ndarray) -> np.ndarray:
        mean, square = self._means[number], self._squares[number]
        mean += (1 - _MOMENTUM) * (slope - mean)
        square += (1 - _SQUARES) * (slope * slope - square)
        length = np.sqrt(square / (1 - _SQUARES ** (step + 1))) + np.float32(1e-30)
        each = min(_SHORTER[0], _SHORTER[1] / max(self._ascent.steps, 1))
        rates = _JOINT_RATES if self._ascent.is_joint else _RATES
        rate = rates[number] * (1 - each) ** step / (1 - _MOMENTUM ** (step + 1))
        return np.float32(rate) * mean / length

    def _shared(self, free: np.ndarray, moved: np.ndarray) -> np.ndarray:
        now = self._now.shares
        is_mean = self._ascent.is_mean and not self._ascent.is_joint
        if not self._ascent.is_mean:
            moved *= self._scale / (np.abs(self._matrix).max(axis=1) + np.float32(1e-30))
        shares = np.where(free, np.maximum(now + moved, 0), now)
        if is_mean:
            total = shares.sum(axis=1, keepdims=True)
            shares = np.where(total > 0, shares / np.maximum(total, 1e-30), now)
        return shares.astype(np.float32)
