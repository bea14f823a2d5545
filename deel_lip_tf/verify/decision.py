"""Whether any input satisfies a property: bounds against it, a search for it, and smaller boxes.

A conjunction is refuted on a box where one of its inequalities is proven to fail everywhere in it.
Boxes that are neither refuted nor hold a counterexample are halved, along the input that moves the
inequalities most, until the time is up. For few inputs this ends with an answer; for images it
hardly helps, and the bounds of the whole box decide.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from deel_lip_tf._keras import rounding_as
from deel_lip_tf._validation.models import check_instance
from deel_lip_tf._validation.scalars import check_time_limit, whole_number
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, box
from deel_lip_tf.verify.guard import confirmed
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.models import FLOATS, input_type, output_values, program_of
from deel_lip_tf.verify.proofs import FALSIFIED, ROBUST, prove_further
from deel_lip_tf.verify.search.attack import Claims, gradient_function, is_found, search
from deel_lip_tf.verify.search.inputs.decide import Verdict, decide_program
from deel_lip_tf.verify.search.witnesses import first_witness, plain_points
from deel_lip_tf.verify.specification.fit import check_fits, with_relations
from deel_lip_tf.verify.specification.property import Conjunction, Property, padded

_CHEAP, _TIGHT = "crown", "alpha-crown"
_BATCH = 128  # boxes halved together
_COMPARED = 64  # boxes in which the model is compared with its program
_BRIEF = 8  # steps of the search in each of them
_SHARE, _MOST_SECONDS = 0.5, 60.0  # of the time limit, for the search that splits inputs


@dataclass(frozen=True, eq=False)
class Decision:
    """The answer to a property.

    Attributes:
        status: "unsat" where it is proven that no input satisfies the property, "sat" where one was
            found and replayed, "unknown" otherwise.
        witness: that input, of the model's input shape and type, or `None`.
        outputs: what the model returns for it, or `None`.
        seconds: time spent.

    Example:
        >>> import os, tempfile
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> path = os.path.join(tempfile.mkdtemp(), "question.vnnlib")
        >>> lip.verify.to_vnnlib(path, model, np.array([0.75, 0.25]), label=0, eps=0.4)
        >>> decision = lip.verify.decide(model, lip.verify.read_vnnlib(path))
        >>> decision.status, decision.witness.shape
        ('sat', (2,))
        >>> bool(decision.outputs[1] >= decision.outputs[0])  # what the model gives for the witness
        True
    """

    status: str
    witness: np.ndarray | None
    outputs: np.ndarray | None
    seconds: float


def decide(
    model: keras.Model, property: Property, time_limit: float | None = 60.0, seed: int = 0
) -> Decision:
    """Decides whether an input satisfies a property.

    Proofs are about the exact function of the stored weights, in real arithmetic. A witness is a
    point of the model's input type that satisfies the input constraints exactly, and whose outputs,
    as computed by the model itself, satisfy those of the outputs exactly as they are stated: `<=`
    with equality too. No witness is a point where the exact function provably violates an
    inequality, or where a strict one may hold by rounding alone.

    Args:
        model: a Keras model with one input and one output.
        property: as many inputs and outputs as the model has entries.
        time_limit: seconds, 60 by default, or `None` for none.
        seed: of the search, 0 by default.

    Returns:
        A `Decision`: "unsat" is a proof that no input satisfies the property, "sat" comes with one
        that does, "unknown" is neither.

    Raises:
        TypeError: `model` is not a Keras model, or `property` none that `read_vnnlib` returns.
        ValueError: layers without a relaxation (all are named), other numbers of inputs or outputs,
            a property of probabilities that is not about their order, or a time limit that is not
            positive.

    Example:
        >>> import os, tempfile
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> path = os.path.join(tempfile.mkdtemp(), "question.vnnlib")
        >>> for eps in (0.2, 0.3):  # the gap of 0.5 changes by at most 2 eps
        ...     lip.verify.to_vnnlib(path, model, np.array([0.75, 0.25]), label=0, eps=eps)
        ...     print(lip.verify.decide(model, lip.verify.read_vnnlib(path)).status)
        unsat
        sat
    """
    return _decided(model, property, time_limit, seed, splits_inputs=True)


def decide_further(model: keras.Model, property: Property, time_limit: float) -> Decision:
    """As `decide`, for a question that the search in NumPy has left open."""
    return _decided(model, property, time_limit, seed=0, splits_inputs=False)


def _decided(
    model: keras.Model, property: Property, time_limit: float | None, seed: int, splits_inputs: bool
) -> Decision:
    start = time.monotonic()
    program = program_of(model)
    check_instance("property", property, Property, "a property, such as `read_vnnlib` returns")
    check_time_limit(time_limit)
    whole_number("seed", seed, 0)
    check_fits(program, property)
    if not _runs_as_read(model, program, property):
        return Decision("unknown", None, None, time.monotonic() - start)
    if splits_inputs and input_type(model) in FLOATS:
        found = _by_inputs(model, program, property, seed, start, time_limit)
        if found.status != "unknown" or found.is_final:
            own = None if found.witness is None else output_values(model, found.witness[None])[0]
            return Decision(found.status, found.witness, own, time.monotonic() - start)
    extended = with_relations(program, property)
    searched = model if extended is program else _with_relations(model, property)
    work = _Work(searched, extended, property, seed, start, time_limit)
    status, witness = work.run()
    outputs = None if witness is None else output_values(model, witness[None])[0]
    return Decision(status, witness, outputs, time.monotonic() - start)


def _by_inputs(model, program, property, seed: int, start: float, limit: float | None) -> Verdict:
    """The answer of the search that splits inputs, which needs no graph.

    Where few inputs are free nothing else splits better; where many are, it bounds whole boxes.
    """
    most = math.inf if limit is None else start + limit - time.monotonic()
    seconds = min(_SHARE * most, _MOST_SECONDS)
    return decide_program(
        program,
        property,
        seconds=max(seconds, 0.0),
        seed=seed,
        run=partial(output_values, model),
        dtype=np.dtype(input_type(model)),
    )


def _with_relations(model: keras.Model, property: Property) -> keras.Model:
    """The model that returns its outputs, flat, and behind them the relations of a property."""
    x = model.inputs[0]
    outputs = keras.ops.reshape(model.outputs[0], (-1, property.outputs))
    flat = keras.ops.cast(keras.ops.reshape(x, (-1, property.inputs)), outputs.dtype)
    relations = keras.ops.convert_to_tensor(property.relations.T, outputs.dtype)
    both = [outputs, keras.ops.matmul(flat, relations)]
    return rounding_as(model, keras.Model(x, keras.ops.concatenate(both, axis=1)))


def _runs_as_read(model, program: Program, property: Property) -> bool:
    """Whether the model returns what its program does in the middle of the boxes; else it warns."""
    ends = [(c.lower, c.upper) for c in property.conjunctions[:_COMPARED]]
    centers = [(0.5 * low + 0.5 * high).reshape(program.input_shape) for low, high in ends]
    return not centers or bool(confirmed(model, program, np.stack(centers)).all())


class _Work:
    """Boxes that are open, each with the conjunction it is open for."""

    def __init__(self, model, program, property, seed, start, time_limit):
        self._model, self._program, self._seed = model, program, seed
        self._first_witness = partial(first_witness, model, program)
        self._conjunctions = property.conjunctions
        self._end = np.inf if time_limit is None else start + time_limit
        self._rows = max([1, *(len(c.weights) for c in self._conjunctions)])
        self._lower = [c.lower.reshape(program.input_shape) for c in self._conjunctions]
        self._upper = [c.upper.reshape(program.input_shape) for c in self._conjunctions]
        self._which = list(range(len(self._conjunctions)))
        self._left_over = False

    def run(self) -> tuple[str, np.ndarray | None]:
        self._refute(_CHEAP)
        # A search takes less than the tighter bounds. Equality comes last: a point well beyond it
        # says more.
        steps = (
            lambda: self._searched(range(len(self._which)), {}),
            self._bound_tightly,
            self._ask_for_label,
            lambda: self._plain(range(len(self._which))),
        )
        for step in steps:
            if self._which and (witness := step()) is not None:
                return "sat", witness
        while self._which and time.monotonic() < self._end:
            if (witness := self._halve()) is not None:
                return "sat", witness
        return "unknown" if self._which or self._left_over else "unsat", None

    def _bound_tightly(self) -> None:
        """Drops what optimized slopes refute."""
        if time.monotonic() < self._end:
            self._refute(_TIGHT)

    def _ask_for_label(self) -> np.ndarray | None:
        """Hands what is left, if it is that one box keeps a label, to `prove_further`."""
        conjunctions = self._asked(range(len(self._which)))
        label = _claimed_label(conjunctions)
        left = 0.5 * (self._end - time.monotonic())
        if label is None or left <= 0:
            return None
        limit = None if left == np.inf else left
        answer = prove_further(self._model, self._domain([0]), np.array([label]), limit)
        if answer.status[0] == ROBUST:
            self._keep([])
        if answer.status[0] != FALSIFIED:
            return None
        witness = answer.witness[0].astype(self._model.inputs[0].dtype)
        return self._first_witness(conjunctions, np.stack([witness] * len(conjunctions)))

    def _plain(self, chosen: range) -> np.ndarray | None:
        """A witness among the centers and corners of the boxes."""
        for part in (chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH)):
            points = plain_points(self._model, self._domain(part))
            repeated = [c for c in self._asked(part) for _ in range(points.shape[1])]
            witness = self._first_witness(repeated, points.reshape(-1, *points.shape[2:]))
            if witness is not None or time.monotonic() >= self._end:
                return witness
        return None

    def _refute(self, method: str, first: int = 0) -> None:
        """Drops those of the open boxes from a position on that are refuted."""
        chosen = range(first, len(self._which))
        if not chosen:
            return
        claims, conjunctions = self._claims(chosen), self._asked(chosen)
        bounds = lower_bounds(self._program, method, self._domain(chosen), claims.weights)
        # A sum of two float64 numbers, rounded down; -inf stays where nothing is known.
        lowest = np.nextafter(bounds + claims.offsets, -np.inf)
        strict = np.stack([padded(c.is_strict, self._rows) for c in conjunctions])
        has_rows = np.array([len(c.weights) > 0 for c in conjunctions])
        refuted = ((lowest > 0) | (strict & (lowest >= 0))).any(axis=1) & has_rows
        kept = [*range(first), *(i for i, gone in zip(chosen, refuted, strict=True) if not gone)]
        self._keep(kept)

    def _keep(self, kept: list[int]) -> None:
        self._lower = [self._lower[i] for i in kept]
        self._upper = [self._upper[i] for i in kept]
        self._which = [self._which[i] for i in kept]

    def _asked(self, chosen: Iterable[int]) -> list[Conjunction]:
        """The conjunctions that boxes are open for."""
        return [self._conjunctions[self._which[i]] for i in chosen]

    def _domain(self, chosen: Iterable[int]) -> Domain:
        lower, upper = (np.stack([part[i] for i in chosen]) for part in (self._lower, self._upper))
        return box(lower, upper)

    def _claims(self, chosen: Iterable[int]) -> Claims:
        conjunctions = self._asked(chosen)
        weights = np.stack([padded(c.weights, self._rows) for c in conjunctions])
        offsets = [padded(c.offsets, self._rows, -1.0) for c in conjunctions]
        return Claims(np.arange(len(conjunctions)), weights, np.stack(offsets))

    def _searched(self, chosen: range, effort: dict) -> np.ndarray | None:
        """A witness in one of the boxes, checked exactly."""
        left = None if self._end == np.inf else max(self._end - time.monotonic(), 0.0)
        options = {"seed": self._seed, "time_limit": left, **effort}
        points = search(self._model, self._domain(chosen), self._claims(chosen), **options)
        found = np.flatnonzero(is_found(points))
        return self._first_witness(self._asked(chosen[i] for i in found), points[found])

    def _halve(self) -> np.ndarray | None:
        """Replaces the last boxes by their halves, and searches and bounds those."""
        first = max(0, len(self._which) - _BATCH)
        chosen = range(first, len(self._which))
        pairs = zip(chosen, self._axes(chosen), strict=True)
        halves = [half for i, axis in pairs for half in self._split(i, axis)]
        self._keep(list(range(first)))
        for low, high, which in halves:
            self._lower.append(low)
            self._upper.append(high)
            self._which.append(which)
        self._refute(_CHEAP, first)
        chosen = range(first, len(self._which))
        if not chosen:
            return None
        witness = self._searched(chosen, {"steps": _BRIEF, "restarts": 0})
        return self._plain(chosen) if witness is None else witness

    def _axes(self, chosen: range) -> np.ndarray:
        """The input, of each box, along which the inequalities change most."""
        domain, claims = self._domain(chosen), self._claims(chosen)
        weights, offsets = (tf.constant(t, tf.float32) for t in (claims.weights, claims.offsets))
        center = tf.constant(domain.center, self._model.inputs[0].dtype)
        gradient_of = gradient_function(self._model, drop_softmax=False)
        _, gradient = gradient_of(center, weights, offsets)
        width = (domain.upper - domain.lower).reshape(len(domain), -1)
        slope = np.abs(gradient.numpy().astype(np.float64)).reshape(width.shape)
        # Where the gradient vanishes, the widest input.
        return np.argmax(width * (slope + 1e-6 * (1.0 + slope.max(axis=1, keepdims=True))), axis=1)

    def _split(self, index: int, axis: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        low, high, which = self._lower[index], self._upper[index], self._which[index]
        a, b = low.flat[axis], high.flat[axis]
        middle = 0.5 * a + 0.5 * b
        if not a < middle < b:  # as small as float64 goes, and still open
            self._left_over = True
            return
        end, begin = high.copy(), low.copy()
        end.flat[axis] = begin.flat[axis] = middle
        yield low, end, which
        yield begin, high, which


def _claimed_label(conjunctions: list[Conjunction]) -> int | None:
    """The label that all conjunctions, on one box, deny: `f_label <= f_other` for some others."""
    labels = set()
    for conjunction in conjunctions:
        weights = conjunction.weights
        same_box = (conjunction.lower == conjunctions[0].lower).all() and (
            conjunction.upper == conjunctions[0].upper
        ).all()
        if len(weights) != 1 or conjunction.offsets.any() or not same_box:
            return None
        ordered = np.sort(weights[0])
        if ordered[-1] <= 0 or ordered[0] != -ordered[-1] or ordered[1:-1].any():
            return None
        labels.add(int(np.argmax(weights[0])))
    return labels.pop() if len(labels) == 1 else None
