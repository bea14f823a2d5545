"""Answers to questions that are not about labels."""

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from deel_lip_tf import plots
from deel_lip_tf._tables import html_table

PROVEN, FALSIFIED, UNKNOWN = "proven", "falsified", "unknown"


@dataclass(frozen=True, eq=False)
class Answers:
    """What answers to n questions of one kind have in common; those of a kind say what they mean.

    Attributes:
        status: (n,) names.
        margin: (n,) float64.
        witness: (n, ...), NaN where there is none.
        method: (n,) what decided, "" where nothing did.
        seconds: (n,).
    """

    statuses: ClassVar[tuple[str, ...]]
    questions: ClassVar[str]

    status: np.ndarray
    margin: np.ndarray
    witness: np.ndarray
    method: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.status)

    def count(self, status: str) -> int:
        """How many have a status."""
        return int((self.status == status).sum())

    def summary(self) -> str:
        """A table: how many have each status, by which method."""
        lines = [f"{s:<10} {count:>6}  {found}".rstrip() for s, count, found in self._rows()]
        return "\n".join([self._about(), *lines])

    def plot(self, *, ax: Any = None) -> Any:
        """The picture of `plots.decisions`: how many have each status, by method.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plots.decisions(self, ax=ax)

    def _about(self) -> str:
        return f"{len(self)} {self.questions} in {self.seconds.max(initial=0.0):.2f} s"

    def _rows(self) -> list[tuple[str, int, str]]:
        rows = []
        for status in self.statuses:
            names, counts = np.unique(self.method[self.status == status], return_counts=True)
            found = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True) if n)
            rows.append((status, self.count(status), found))
        return rows

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = [(status, str(count), found) for status, count, found in self._rows()]
        head = ("status", self.questions, "decided by")
        return html_table([head, *rows], right=(1,), caption=self._about())


@dataclass(frozen=True, eq=False)
class Answer(Answers):
    """Answers for n domains.

    Attributes:
        status: (n,) "proven" where the claim holds on the whole domain, "falsified" where a
            counterexample was found and replayed, "unknown" otherwise.
        margin: (n,) float64, how much room was proven to be left: no inequality of the claim falls
            below it. It is not negative exactly where the status is "proven"; -inf where nothing
            is known.
        witness: where falsified an input of the domain that breaks the claim, as the model runs:
            (n, *shape), or two of them (n, 2, *shape) where the claim is about pairs; NaN
            elsewhere.
        method: (n,) what decided: a name of `METHODS`, "gradient", "attack", "box-splitting",
            "input-splitting" or "branch-and-bound"; "" where unknown.
        seconds: (n,) from the question to the decision, or to the end.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> domain = lip.verify.box([[0.0, 0.0]], [[0.5, 0.5]])  # sums from 0 to 1
        >>> print(lip.verify.within(model, domain, interval=(-0.5, 1.25)).margin.round(4))
        [0.25]
        >>> answer = lip.verify.within(model, domain, interval=(0.0, 0.75))
        >>> print(answer.status, bool(model(answer.witness) > 0.75))
        ['falsified'] True
    """

    statuses = (PROVEN, FALSIFIED, UNKNOWN)
    questions = "domains"


Kind = TypeVar("Kind", bound=Answers)


class Progress:
    """What is known of n questions so far, and the clock: answers in the making.

    Args:
        excluded: (n,) questions that stay unknown.
        witness_shape: of one witness.
        time_limit: in seconds, or None.
        started: when the clock began, by `time.perf_counter`; now, if it is not given.
    """

    def __init__(
        self,
        excluded: np.ndarray,
        witness_shape: tuple[int, ...],
        time_limit: float | None,
        started: float | None = None,
    ):
        count = len(excluded)
        self.status = np.full(count, UNKNOWN, dtype="<U9")
        self._method = np.full(count, "", dtype="<U32")
        self._witness = np.full((count, *witness_shape), np.nan)
        self._seconds = np.zeros(count)
        self._excluded = excluded
        self._start = time.perf_counter() if started is None else started
        self._limit = math.inf if time_limit is None else time_limit

    def _elapsed(self) -> float:
        return time.perf_counter() - self._start

    def left(self) -> float:
        """Seconds; infinite without a limit."""
        return self._limit - self._elapsed()

    def time_limit(self) -> float | None:
        """What is left, for what takes `None` for no limit."""
        left = self.left()
        return None if math.isinf(left) else max(left, 0.0)

    def open(self) -> np.ndarray:
        """Positions of the questions that are not decided, nor excluded."""
        return np.flatnonzero((self.status == UNKNOWN) & ~self._excluded)

    def decide(self, which: np.ndarray, status: str, method: str) -> None:
        """Takes a decision about some questions."""
        self.status[which], self._method[which] = status, method
        self._seconds[which] = self._elapsed()

    def falsify(self, which: np.ndarray, witness: np.ndarray, method: str) -> None:
        """Takes witnesses."""
        self._witness[which] = witness
        self.decide(which, FALSIFIED, method)

    def answers(self, kind: type[Kind], margin: np.ndarray) -> Kind:
        """What is known at the end."""
        self._seconds[self.status == UNKNOWN] = self._elapsed()
        return kind(self.status, margin, self._witness, self._method, self._seconds)
