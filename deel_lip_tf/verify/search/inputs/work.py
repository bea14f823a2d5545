"""A question about a program, the clock, and what is found: points are tried before all else."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.search.inputs.network import Undecided
from deel_lip_tf.verify.search.inputs.points import Points, descended
from deel_lip_tf.verify.specification.property import Conjunction, Property

if TYPE_CHECKING:
    from deel_lip_tf.verify.search.inputs.record import Record  # which needs the package `onnx`


BRIEF = 8
"""Steps of a descent, and corners that it starts from, in each round of a search."""

_DESCENTS = (64, 30), (16, 12)  # and their steps, before the search: of small networks, of others
_SMALL = 2**12  # entries of all nodes
_ATTACK = 0.2  # of the time, at most


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to a property.

    Attributes:
        status: "unsat" where no input satisfies it, "sat" where one was found, else "unknown".
        witness: that input, or `None`.
        outputs: of the network as it runs, flat, or `None`.
        boxes: how many boxes were bounded.
        seconds: time spent.
        distance: of the witness from the box, along the input where it is largest.
        is_final: whether more time cannot help: the exact function satisfies the property, but the
            input type has no number where inputs are fixed.
    """

    status: str
    witness: np.ndarray | None
    outputs: np.ndarray | None
    boxes: int
    seconds: float
    distance: float = 0.0
    is_final: bool = False


class Work:
    """The question, the clock, and what is found."""

    def __init__(
        self,
        program: Program,
        property: Property,
        points: Points,
        seconds: float,
        record: "Record | None",
    ):
        self.start = time.monotonic()
        self.program, self.points, self.seconds = program, points, seconds
        self.record = record
        self.claims, self.bounded = property.conjunctions, 0
        self._outputs = property.outputs
        self.found: tuple[Conjunction, np.ndarray, np.ndarray] | None = None
        self.has_inputs = any(points.ends(claim) is not None for claim in self.claims)
        self.is_final = False

    def left(self) -> float:
        """Seconds."""
        return self.start + self.seconds - time.monotonic()

    def verdict(self, status: str) -> Verdict:
        """The answer."""
        seconds, witness, outputs, distance = time.monotonic() - self.start, None, None, 0.0
        if self.found is not None:
            claim, witness, outputs = self.found
            outputs = outputs[: self._outputs]  # without relations
            outside = np.maximum(claim.lower - witness.ravel(), witness.ravel() - claim.upper)
            distance = float(outside.max(initial=0.0))
        found = witness, outputs, self.bounded, seconds
        return Verdict(status, *found, distance, self.is_final)

    def try_points(self, claim: Conjunction, x: np.ndarray) -> bool:
        """Whether one of some points (n, inputs) is a witness.

        Raises:
            Undecided: one is, but for the input type, which has no number in any box.
        """
        if not len(x):
            return False
        if (found := self.points.witness(claim, x)) is not None:
            self.found = (claim, *found)
        elif not self.has_inputs and self.points.holds_somewhere(claim, x):
            self.is_final = True
            raise Undecided
        return found is not None

    def attack(self, seed: int) -> str | None:
        """Points of each box, and where descents from them end."""
        random = np.random.default_rng(seed)
        entries = sum(math.prod(node.shape) for node in self.program.nodes)
        starts, most = _DESCENTS[int(entries > _SMALL)]
        for claim in self.claims:
            if self.left() < (1.0 - _ATTACK) * self.seconds:
                break
            held = self.points.ends(claim) or (claim.lower, claim.upper)
            ends = [end.astype(np.float64) for end in held]
            share = random.random((starts, len(claim.lower)))
            share[0], share[1], share[2] = 0.5, 0.0, 1.0
            share[3::2] = np.round(share[3::2])  # corners, where extremes are
            x = ends[0] + share * (ends[1] - ends[0])
            steps = most if len(claim.weights) else 0
            if self.try_points(claim, x) or self.try_points(
                claim, descended(self.program, x, ends, claim, steps)
            ):
                return "sat"
        return None

    def descend(self, claim: Conjunction, x: np.ndarray) -> bool:
        """Whether one of some points is a witness, or one where a brief descent from them ends."""
        if self.try_points(claim, x):
            return True
        path = descended(self.program, x, (claim.lower, claim.upper), claim, BRIEF)
        return self.try_points(claim, path)
