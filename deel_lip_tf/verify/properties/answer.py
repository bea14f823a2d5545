"""Answers to questions that are not about labels."""

from dataclasses import dataclass

import numpy as np

__all__ = ["FALSIFIED", "PROVEN", "UNKNOWN", "Answer"]

PROVEN, FALSIFIED, UNKNOWN = "proven", "falsified", "unknown"


@dataclass(frozen=True, eq=False)
class Answer:
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

    status: np.ndarray
    margin: np.ndarray
    witness: np.ndarray
    method: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.status)

    def count(self, status: str) -> int:
        """Number of domains of a status."""
        return int((self.status == status).sum())

    def summary(self) -> str:
        """A table: how many domains of each status, by which method."""
        lines = [f"{len(self)} domains in {self.seconds.max(initial=0.0):.2f} s"]
        for status in (PROVEN, FALSIFIED, UNKNOWN):
            names, counts = np.unique(self.method[self.status == status], return_counts=True)
            found = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True) if n)
            lines.append(f"{status:<10} {self.count(status):>6}  {found}".rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()
