"""Whether linear inequalities of the outputs hold on whole domains: who decides it, and when.

Bounds come first, then an attack, then searches: by splitting inputs where few are free, and by
branching on activations. What is falsified was given to the models themselves.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, box
from deel_lip_tf.verify.guard import can_run, confirmed
from deel_lip_tf.verify.methods import METHODS, lower_bounds
from deel_lip_tf.verify.models import FLOATS, input_type
from deel_lip_tf.verify.properties.answer import PROVEN, UNKNOWN, Answer, Progress
from deel_lip_tf.verify.properties.splitting import FEW, split
from deel_lip_tf.verify.search.attack import Claims, is_found, search
from deel_lip_tf.verify.search.branch_and_bound import branch_and_bound
from deel_lip_tf.verify.search.inputs.decide import decide_program
from deel_lip_tf.verify.search.inputs.network import is_searchable
from deel_lip_tf.verify.specification.property import (
    Formula,
    Inequality,
    Linear,
    Property,
    property_of,
)

ATTACK, SPLITTING, BRANCHING = "attack", "input-splitting", "branch-and-bound"
GRADIENT, PARTS = "gradient", "box-splitting"
STAGES = (GRADIENT, "crown-ibp", "crown", ATTACK, PARTS, SPLITTING, BRANCHING)
"""Of the method "auto", from cheap to tight."""

_PART = 0.5  # of the time that is left, for parts that are bounded by gradients
_SECONDS, _MOST_SECONDS = 1.0, 60.0  # of a search without a time limit: for each domain, and in all


@dataclass(frozen=True, eq=False)
class LinearClaims:
    """`low <= f(x) <= high` for every x of each domain.

    Attributes:
        model: as it is searched for counterexamples.
        program: f, the same lowered.
        run: inputs (k, *shape) to the outputs (k, outputs) that count for a counterexample.
        domain: n sets of inputs.
        low: (n, outputs), -inf where nothing is claimed.
        high: (n, outputs), or inf.
        bounds: domains to bounds `(lower, upper)` of f, (n, outputs) each, by other means than
            those of its program; or `None`.
    """

    model: keras.Model
    program: Program
    run: Callable[[np.ndarray], np.ndarray]
    domain: Domain
    low: np.ndarray
    high: np.ndarray
    bounds: Callable[[Domain], tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def rows(self) -> np.ndarray:
        """(n, m, outputs): with `offsets`, `rows @ f(x) + offsets >= 0` is the claim."""
        eye = np.eye(self.program.outputs)
        both = np.concatenate([eye, -eye])
        return np.broadcast_to(both, (len(self.domain), *both.shape))

    @property
    def offsets(self) -> np.ndarray:
        """(n, m)."""
        return np.concatenate([-self.low, self.high], axis=1)

    def lower(self, domain: Domain) -> np.ndarray:
        """(n, m) bounds of the rows by `bounds`, or else by linear bounds of the program."""
        if self.bounds is None:
            return lower_bounds(self.program, "crown", domain, self.rows[:1])
        lower, upper = self.bounds(domain)
        return np.concatenate([lower, -upper], axis=1)

    def is_broken(self, index: int, points: np.ndarray) -> np.ndarray:
        """(k,) whether points (k, *shape) are counterexamples of a claim.

        They lie in the domain, the outputs of the model itself are outside, and the exact function
        is not provably inside.
        """
        domain = self.domain[np.full(len(points), index)]
        outputs = self.run(points).astype(np.float64)
        low, high = self.low[index], self.high[index]
        is_out = ((outputs < low) | (outputs > high)).any(axis=1) & np.isfinite(outputs).all(axis=1)
        found = domain.contains(points) & can_run(self.model, points) & is_out
        if found.any():
            x = points[found].astype(np.float64)
            exact = lower_bounds(self.program, "ibp", box(x, x), self.rows[:1])
            found[found] = ~(_lowest(exact, self.offsets[index]) >= 0).all(axis=1)
        return found

    def broken(self, index: int) -> Property:
        """What a counterexample of a claim satisfies."""
        domain = self.domain[[index]]
        formulas: list[Formula] = []
        for name, sign, ends in (("X", -1, domain.lower), ("X", 1, domain.upper)):
            formulas += [_bound(name, i, sign, end) for i, end in enumerate(ends.ravel())]
        outside: list[Formula] = [
            _bound("Y", k, sign, end, is_strict=True)
            for sign, ends in ((1, self.low[index]), (-1, self.high[index]))
            for k, end in enumerate(ends)
            if math.isfinite(end)
        ]
        inputs = domain.lower.size
        return property_of(("and", [*formulas, ("or", outside)]), inputs, self.program.outputs)


def _bound(name: str, index: int, sign: int, end: float, is_strict: bool = False) -> Inequality:
    """`v <= end` for the sign 1, `v >= end` for -1."""
    terms = {(name, index): Fraction(sign)}
    return Inequality(Linear(terms, -sign * Fraction(float(end))), is_strict)


def _lowest(lower: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sums of float64 numbers, rounded down: -inf where nothing is known, inf without a claim."""
    with np.errstate(invalid="ignore"):
        total = lower + offsets
    rounded = np.where(total == 0, 0.0, np.nextafter(total, -np.inf))  # 0 is exact
    return np.where(np.isposinf(offsets), np.inf, rounded)


def answered(claims: LinearClaims, method: str, time_limit: float | None) -> Answer:
    """Decides as many of the claims as the time allows.

    Args:
        claims: n of them.
        method: "auto", or one of `METHODS`, after which the attack comes.
        time_limit: seconds after which nothing further begins, or `None`.
    """
    work = _Work(claims, time_limit)
    for stage in STAGES if method == "auto" else (method, ATTACK):
        work.run(stage)
    return work.result()


def search_seconds(left: float, count: int) -> float:
    """What a search may take for some domains of the time that is left, which may be infinite."""
    return min(_MOST_SECONDS, _SECONDS * count) if math.isinf(left) else max(left, 0.0)


class _Work:
    """The domains, and what is known of each."""

    def __init__(self, claims: LinearClaims, time_limit: float | None):
        started, center = time.perf_counter(), claims.domain.center
        excluded = ~confirmed(claims.model, claims.program, center)
        self._claims, self._lower = claims, np.full(claims.offsets.shape, -np.inf)
        self._progress = Progress(excluded, center.shape[1:], time_limit, started)

    def run(self, stage: str) -> None:
        which = self._progress.open()
        if not len(which) or self._progress.left() <= 0:
            return
        others = {
            GRADIENT: self._bound_by_gradients,
            ATTACK: self._attack,
            PARTS: self._bound_parts,
            SPLITTING: self._split,
            BRANCHING: self._branch,
        }
        if stage in METHODS:
            self._bound(which, stage)
        else:
            others[stage](which)

    def _margin(self, which: np.ndarray) -> np.ndarray:
        return _lowest(self._lower[which], self._claims.offsets[which])

    def _raise(self, which: np.ndarray, lower: np.ndarray, method: str) -> None:
        """Takes better bounds of the rows, and what they prove."""
        self._lower[which] = np.maximum(self._lower[which], lower)
        self._progress.decide(which[(self._margin(which) >= 0).all(axis=1)], PROVEN, method)

    def _is_open(self, index: int) -> bool:
        return self._progress.status[index] == UNKNOWN

    def _bound(self, which: np.ndarray, stage: str) -> None:
        domain, rows = self._claims.domain[which], self._claims.rows[which]
        self._raise(which, lower_bounds(self._claims.program, stage, domain, rows), stage)

    def _bound_by_gradients(self, which: np.ndarray) -> None:
        if self._claims.bounds is not None:
            self._raise(which, self._claims.lower(self._claims.domain[which]), GRADIENT)

    def _bound_parts(self, which: np.ndarray) -> None:
        """Splits the inputs of boxes, where it is not only done faster without a graph."""
        claims = self._claims
        is_left = claims.bounds is None and is_searchable(claims.program)
        if is_left or claims.domain.is_ball:
            return
        seconds = search_seconds(self._progress.left(), len(which)) / len(which)
        for index in which:
            domain, target = claims.domain[[index]], -claims.offsets[index]
            if (domain.lower < domain.upper).sum() > FEW or self._progress.left() <= 0:
                continue
            end = time.monotonic() + min(seconds, _PART * self._progress.left())
            known = self._lower[index]

            def refuted(parts: Domain, index: int = index) -> bool:
                self._try(index, _centers(claims, parts), PARTS)
                return not self._is_open(index)

            found = split(claims.program, domain, claims.lower, known, target, end, refuted)
            self._lower[index] = np.maximum(known, found)
            if self._is_open(index):
                self._raise(np.array([index]), found[None], PARTS)

    def _try(self, index: int, points: np.ndarray, method: str) -> None:
        """Takes the first of some points that is a counterexample."""
        for found in np.flatnonzero(self._claims.is_broken(index, points))[:1]:
            self._progress.falsify(np.array([index]), points[found], method)

    def _attack(self, which: np.ndarray) -> None:
        claims, domain = self._claims, self._claims.domain[which]
        for place, index in enumerate(which):
            self._try(index, _centers(claims, domain[[place]]), ATTACK)
        sample, row = np.nonzero(~(self._margin(which) >= 0))
        weights, offsets = claims.rows[which][sample, row], claims.offsets[which][sample, row]
        asked = Claims(np.arange(len(sample)), weights[:, None], offsets[:, None])
        limit = self._progress.time_limit()
        points = search(claims.model, domain[sample], asked, time_limit=limit)
        for i in np.flatnonzero(is_found(points)):
            if self._is_open(which[sample[i]]):
                self._try(which[sample[i]], points[i : i + 1], ATTACK)

    def _split(self, which: np.ndarray) -> None:
        """Splits the inputs of boxes, where few are free."""
        claims, shape = self._claims, self._claims.program.input_shape
        dtype = input_type(claims.model)
        if claims.domain.is_ball or dtype not in FLOATS:
            return
        seconds = search_seconds(self._progress.left(), len(which)) / len(which)
        options: dict[str, Any] = {"seconds": seconds, "run": claims.run, "dtype": np.dtype(dtype)}
        for index in which:
            free = claims.domain.lower[index] < claims.domain.upper[index]
            if free.sum() > FEW or self._progress.left() <= 0:
                continue
            verdict = decide_program(claims.program, claims.broken(index), **options)
            if verdict.status == "unsat":
                self._raise(np.array([index]), -claims.offsets[[index]], SPLITTING)
            elif verdict.witness is not None:
                self._try(index, np.reshape(verdict.witness, (1, *shape)), SPLITTING)

    def _branch(self, which: np.ndarray) -> None:
        claims, limit = self._claims, search_seconds(self._progress.left(), len(which))
        offsets = claims.offsets[which]
        found = branch_and_bound(
            claims.program,
            claims.domain[which],
            claims.rows[which],
            target=np.nextafter(-offsets, -np.inf),  # a bound of that number proves the claim
            known=self._lower[which],
            time_limit=limit,
        )
        self._raise(which, found.lower, BRANCHING)
        for i in np.flatnonzero(is_found(found.points)):
            if self._is_open(which[i]):
                self._try(which[i], found.points[i : i + 1], BRANCHING)

    def result(self) -> Answer:
        margin = self._margin(np.arange(len(self._lower))).min(axis=1)
        return self._progress.answers(Answer, margin)


def _centers(claims: LinearClaims, domain: Domain) -> np.ndarray:
    """The center of a domain, in the type of the inputs."""
    return domain.center.astype(input_type(claims.model))
