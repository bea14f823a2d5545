"""The search for several boxes in turn: each gets little time, and ever fewer twice as much."""

import math
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.search.inputs.decide import decide_program, has_many_free, signs_of
from deel_lip_tf.verify.search.inputs.network import Undecided, is_searchable
from deel_lip_tf.verify.search.inputs.points import Points
from deel_lip_tf.verify.search.inputs.work import Work
from deel_lip_tf.verify.search.signs.decide import Signs
from deel_lip_tf.verify.specification.property import one_not_positive

_FIRST = 0.25  # of an equal share of the time, for the first turn


class Turns(NamedTuple):
    """What is known of rows of the outputs on n boxes.

    Attributes:
        is_positive: (n,) whether it is proven that all rows are positive everywhere.
        points: (n, inputs) where the exact function has a row that is not, or NaN.
    """

    is_positive: np.ndarray
    points: np.ndarray


def in_turns(
    program: Program,
    lower: np.ndarray,
    upper: np.ndarray,
    rows: np.ndarray,
    order: np.ndarray,
    seconds: float,
) -> Turns:
    """Whether rows of the outputs are positive on boxes.

    Args:
        program: of ReLUs; of other functions nothing is found.
        lower: (n, inputs).
        upper: (n, inputs).
        rows: (n, m, outputs).
        order: (n,) positions, those first that are likely to be proven.
        seconds: for all of them.
    """
    found = Turns(np.zeros(len(lower), bool), np.full(lower.shape, np.nan))
    if not is_searchable(program):
        return found
    # The rows are of the outputs as lowered, whatever a model does to them at its end.
    program = replace(program, dropped=None)
    questions = {int(i): _Question(program, lower[i], upper[i], rows[i]) for i in order}
    end, share = time.monotonic() + seconds, _FIRST * seconds / max(1, len(lower))
    count = float(len(questions))
    while questions and share < 2.0 * seconds:
        # Of twice the time half as many are given a turn: those that are known to lack least.
        ranked = sorted(questions.items(), key=lambda item: item[1].lack)
        for i, question in ranked[: max(math.ceil(count), sum(not q.lack for _, q in ranked))]:
            left = end - time.monotonic()
            if left <= 0:
                return found
            status, point = question.asked(min(share, left))
            if status != "unknown":
                del questions[i]
                found.is_positive[i] = status == "unsat"
                found.points[i] = np.nan if point is None else point.ravel()
        share, count = 2.0 * share, 0.5 * count
    return found


class _Question:
    """Whether a row is not positive somewhere in a box."""

    def __init__(self, program: Program, lower: np.ndarray, upper: np.ndarray, rows: np.ndarray):
        self._program, self._property = program, one_not_positive(lower, upper, rows)
        self._work = Work(
            program, self._property, Points(program, None, np.float64, False), 0, None
        )
        self._search: Signs | None = None

    @property
    def lack(self) -> float:
        """How far below 0 the bound is, where that is known, else 0."""
        return 0.0 if self._search is None else -self._search.lowest

    def asked(self, seconds: float) -> tuple[str, np.ndarray | None]:
        """The status, and where it is so."""
        claims = self._property.conjunctions
        if not has_many_free(claims[0]):
            verdict = decide_program(
                self._program, self._property, seconds=seconds, dtype=np.float64, is_attacked=True
            )
            return verdict.status, verdict.witness
        end = time.monotonic() + seconds
        with np.errstate(all="ignore"):
            try:
                # A search goes on where it was cut off.
                self._search = self._search or signs_of(self._work, claims, end)
                return self._search.run(end), self._work.found and self._work.found[1]
            except Undecided:
                return "unknown", None
