"""Answers to questions that are not about labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deel_lip_tf import plots
from deel_lip_tf._tables import html_table

__all__ = ["FALSIFIED", "PROVEN", "UNKNOWN", "Answer", "Answers"]

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
