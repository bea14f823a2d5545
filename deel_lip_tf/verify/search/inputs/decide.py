"""Whether any input satisfies a property, decided by smaller and smaller boxes of inputs.

For networks of ReLUs, few of whose inputs are free. Points are tried first. Then each open
conjunction is bounded from below on boxes, many at a time: a box is refuted, or shrunk to where no
inequality is known to fail, and cut in two across the input that costs its bound most. The place
where the bound is smallest is tried as a counterexample.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.search.inputs.bounds import Boxes
from deel_lip_tf.verify.search.inputs.boxes import Group
from deel_lip_tf.verify.search.inputs.network import Network, Undecided, is_searchable
from deel_lip_tf.verify.search.inputs.points import Points, Run
from deel_lip_tf.verify.search.inputs.work import Verdict, Work
from deel_lip_tf.verify.search.signs.chain import Chain
from deel_lip_tf.verify.search.signs.decide import Signs
from deel_lip_tf.verify.specification.fit import check_fits, with_relations
from deel_lip_tf.verify.specification.property import Conjunction, Property

if TYPE_CHECKING:
    from deel_lip_tf.verify.search.inputs.record import Record  # which needs the package `onnx`


_ALONE = 1 / 6  # of the time, for the first search
_OTHERWISE = 2 / 5, 9 / 10  # of what is left then, for the other one, and where that is thorough
_FREE = 24  # inputs that are split; where more are free, the signs of neurons are


def decide_program(
    program: Program,
    property: Property,
    *,
    seconds: float = 60.0,
    run: Run | None = None,
    dtype: type | np.dtype = np.float32,
    is_nearest: bool = False,
    seed: int = 0,
    is_attacked: bool = False,
    record: "Record | None" = None,
) -> Verdict:
    """Decides whether an input of a program satisfies a property, by splitting inputs.

    "unsat" is a proof about the exact function of the stored weights; what float64 rounds is
    accounted for. A witness is a number of the input type that lies in the box exactly, and whose
    outputs, as `run` returns them, satisfy every inequality exactly.

    Args:
        program: any; of other functions than ReLUs, or of very large layers, nothing is known.
        property: of as many inputs and outputs.
        seconds: the limit.
        run: the network as it runs, inputs (n, *shape) to outputs; by default, the exact function.
        dtype: type of the inputs of `run`.
        is_nearest: whether inputs also count that are the nearest of their type to a point of the
            box, as in the verification competitions; their outputs satisfy the inequalities
            exactly. `Verdict.distance` says how far they are from the box.
        seed: of the points that are tried first.
        is_attacked: whether that was done before, so that the search begins at once.
        record: of the boxes and what refutes them, to be filled. It may take more boxes: each is
            refuted by itself, and by the checker as well.

    Raises:
        ValueError: other numbers of inputs or outputs, or a property of probabilities that is not
            about their order.
    """
    check_fits(program, property)
    program = with_relations(program, property)
    points = Points(program, run, dtype, is_nearest)
    work = Work(program, property, points, seconds, record)
    if not is_searchable(program):
        return work.verdict("unknown" if property.conjunctions else "unsat")
    with np.errstate(all="ignore"):
        try:
            status = None if is_attacked else work.attack(seed)
            return work.verdict(status or _searched(work))
        except Undecided:
            return work.verdict("unknown")


def _searched(work: Work) -> str:
    """The boxes of conjunctions one after the other; those that are the same together."""
    groups: dict[bytes, list[Conjunction]] = {}
    for claim in work.claims:
        groups.setdefault(claim.lower.tobytes() + claim.upper.tobytes(), []).append(claim)
    is_left = False
    for number, claims in enumerate(groups.values()):
        end = time.monotonic() + work.left() / (len(groups) - number)
        is_of_many = has_many_free(claims[0])
        if is_of_many:
            status = _by_signs(work, claims, end)
        else:
            status = Group(work, claims, end, not is_of_many).run()
        if status == "sat":
            return status
        is_left |= status != "unsat"
    return "unknown" if is_left else "unsat"


def has_many_free(claim: Conjunction) -> bool:
    """Whether more inputs are free than are split."""
    return int(np.count_nonzero(claim.lower < claim.upper)) > _FREE


def _by_signs(work: Work, claims: Sequence[Conjunction], end: float) -> str:
    """The status, by two searches that choose neurons in different ways: one may be much longer.

    A proof is of one search.
    """
    begin = time.monotonic()
    search, alone = signs_of(work, claims, end), _ALONE if work.record is None else 1.0
    status = search.run(begin + alone * (end - begin))
    work.bounded += search.bounded
    for other, share in ((search.otherwise, _OTHERWISE[search.is_small]), (lambda: search, 1.0)):
        if status != "unknown" or time.monotonic() >= end or work.record is not None:
            break
        now, running = time.monotonic(), other()
        before = running.bounded
        status = running.run(now + share * (end - now))
        work.bounded += running.bounded - before
    return status


def signs_of(work: Work, claims: Sequence[Conjunction], end: float) -> Signs:
    """The search for conjunctions of the same box by the signs of neurons.

    Raises:
        Undecided: it is too late, or the network is too large.
    """
    lower, upper = claims[0].lower, claims[0].upper
    free = np.flatnonzero(lower < upper)
    chain = Chain(Boxes(lower[None, free], upper[None, free]), work.program.roundoff)
    network = Network(work.program, lower, upper, end, chain)
    steps = None
    if work.record is not None:
        from deel_lip_tf.verify.search.signs.steps import steps_of  # which needs the package `onnx`

        steps = steps_of(work.record, network, claims)
    return Signs(network, chain, claims, end, work.descend, steps)
