"""The norms in which a constant is meant, and what each does to sums, copies and joined vectors."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from deel_lip_tf._rounding import norm_up, sqrt_up, sum_up


@dataclass(frozen=True)
class Norm:
    """The p-norm of all entries of the inputs, and of the outputs.

    Attributes:
        name: "l2", "linf" or "l1".
    """

    name: str

    def joined(self, constants: Iterable[float]) -> float:
        """The p-norm of non-negative numbers, rounded upward: of parts that are joined."""
        if self.name == "l2":
            return norm_up(constants)
        constants = list(constants)
        if self.name == "l1":
            return sum_up(constants)
        return math.nan if any(map(math.isnan, constants)) else max(constants, default=0.0)

    @property
    def dual(self) -> "Norm":
        """The q-norm with 1/p + 1/q = 1: it weighs a sum of parts that are joined in the input."""
        return {"l2": L2, "linf": L1, "l1": LINF}[self.name]

    def copies(self, count: int) -> float:
        """`count ** (1 / p)`: by how much copying each entry `count` times enlarges a norm."""
        return {"l2": sqrt_up(count), "linf": 1.0, "l1": float(count)}[self.name]


L2, LINF, L1 = Norm("l2"), Norm("linf"), Norm("l1")


def standardize_norm(norm: str) -> Norm:
    """The norm of a name.

    Raises:
        ValueError: an unknown name.
    """
    known = {one.name: one for one in (L2, LINF, L1)}
    if norm not in known:
        raise ValueError(
            f'`norm` must be "l2", "linf" or "l1": no other norm has a proof here. '
            f"Received: norm={norm!r}."
        )
    return known[norm]
