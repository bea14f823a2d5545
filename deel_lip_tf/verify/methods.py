"""The methods by which rows of the output are bounded, from cheap to tight.

A method first finds what is known of the nodes on a batch of domains, then numbers that rows of the
output do not fall below. Each half is a graph that is traced once for a program and a kind of
domain; methods that begin alike share the first one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.graphs import traced
from deel_lip_tf.verify.propagation import alpha, lipschitz
from deel_lip_tf.verify.propagation.alpha import free_nodes
from deel_lip_tf.verify.propagation.backward import (
    Relaxation,
    backward,
    footprint,
    lower_bound,
    refine,
)
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.forward import forward, forward_lower_bound
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval, point, propagate
from deel_lip_tf.verify.propagation.region import Region, concretize_exactly
from deel_lip_tf.verify.search import leaves

__all__ = [
    "METHODS",
    "Method",
    "Problem",
    "batches",
    "domains_and_intervals",
    "interval_bounds",
    "lower_bounds",
]

_ENTRIES = 2**25
"""Entries of the largest tensor that is made for the samples of one call."""


class Problem(NamedTuple):
    """A batch of domains, as tensors.

    Attributes:
        region: the domains.
        center: (batch, *shape) of an L2 ball around each.
        radius: (batch,) of it.
    """

    region: Region
    center: tf.Tensor
    radius: tf.Tensor


@dataclass(frozen=True)
class Method:
    """One way to bound rows of the output.

    Attributes:
        known: `(program, problem)` to what is known of the nodes, before any row.
        bound: `(program, problem, known, rows)` to (batch, rows) lower bounds.
        intervals: `(program, problem, known)` to intervals of all nodes.
        entries: `(program)` to the entries of its largest tensor for one sample.
        is_optimized: whether slopes are optimized for each row afterwards.
    """

    known: Callable[[Program, Problem], object]
    bound: Callable[[Program, Problem, object, Dense], tf.Tensor]
    intervals: Callable[[Program, Problem, object], list[Interval]]
    entries: Callable[[Program], int]
    is_optimized: bool = False


def _propagated(program: Program, problem: Problem) -> list[Interval]:
    return propagate(program, problem.region.lower, problem.region.upper)


def _ibp(program: Program, problem: Problem, intervals: list[Interval], rows: Dense) -> tf.Tensor:
    # The rows go back through the affine maps at the end, which loses nothing.
    bound = backward(program, {program.output: rows}, {}, intervals)
    return lower_bound(program, bound, intervals, problem.region)


def _backward_rows(
    program: Program, problem: Problem, relaxation: Relaxation, rows: Dense
) -> tf.Tensor:
    intervals, lines = relaxation
    bound = backward(program, {program.output: rows}, lines, intervals)
    coefficients = bound.coefficients[0].dense()
    total = bound.constant + concretize_exactly(coefficients, problem.region, program.roundoff)
    return tf.where(tf.math.is_nan(total), -INFINITY, total)


def _relaxation(program: Program, problem: Problem, backward_through: bool) -> Relaxation:
    tighten = None
    if lipschitz.has_small_constants(program):
        tighten = lipschitz.tightening(program, problem.center, problem.radius)
    return refine(program, problem.region, tighten, backward_through)


def _relaxed_by_intervals(program: Program, problem: Problem) -> Relaxation:
    return _relaxation(program, problem, False)


def _relaxed_backward(program: Program, problem: Problem) -> Relaxation:
    return _relaxation(program, problem, True)


def _forward_known(program: Program, problem: Problem):
    return forward(program, problem.region)


def _forward(program: Program, problem: Problem, known, rows: Dense) -> tf.Tensor:
    return forward_lower_bound(program, rows, problem.region, *known)


def _at_center(program: Program, problem: Problem) -> list[Interval]:
    return point(program, problem.center)


def _lipschitz(program: Program, problem: Problem, values, rows: Dense) -> tf.Tensor:
    return lipschitz.lipschitz_lower_bound(program, rows, values, problem.radius)


def _lipschitz_intervals(program: Program, problem: Problem, values) -> list[Interval]:
    everything = [
        Interval(tf.fill(tf.shape(i.lower), -INFINITY), tf.fill(tf.shape(i.upper), INFINITY), i[2])
        for i in values
    ]
    tighten = lipschitz.tightening(program, problem.center, problem.radius)
    result = [tighten(index, interval) for index, interval in enumerate(everything)]
    result[0] = problem.region.interval()
    return result


def _known(program: Program, problem: Problem, intervals: list[Interval]) -> list[Interval]:
    return intervals


def _first_of(program: Program, problem: Problem, known) -> list[Interval]:
    return known[0]


def _nodes(program: Program) -> int:
    return max(int(np.prod(node.shape)) for node in program.nodes)


def _rows(program: Program) -> int:
    return program.outputs * _nodes(program)


def _all_rows(program: Program) -> int:
    needed = {program.nodes[index].parents[0] for index in program.nonlinear()} - {0}
    return max([footprint(program, index) for index in needed] + [_rows(program)])


def _repeated_nodes(program: Program) -> int:
    # Its rows are samples of their own, and a step of the optimization keeps all nodes of each.
    entries = sum(int(np.prod(node.shape)) for node in program.nodes)
    return max(_all_rows(program), 4 * program.outputs * entries)


def _all_entries(program: Program) -> int:
    return 2 * int(np.prod(program.input_shape)) * _nodes(program)


METHODS: dict[str, Method] = {
    "lipschitz": Method(_at_center, _lipschitz, _lipschitz_intervals, _rows),
    "ibp": Method(_propagated, _ibp, _known, _rows),
    "crown-ibp": Method(_relaxed_by_intervals, _backward_rows, _first_of, _rows),
    "forward": Method(_forward_known, _forward, _first_of, _all_entries),
    "crown": Method(_relaxed_backward, _backward_rows, _first_of, _all_rows),
    "alpha-crown": Method(_relaxed_backward, _backward_rows, _first_of, _repeated_nodes, True),
}
"""By name, from cheap to tight. A tighter method is a row after these."""


def lower_bounds(program: Program, method: str, domain: Domain, rows: np.ndarray) -> np.ndarray:
    """Numbers that linear functions of the outputs do not fall below on each domain.

    Args:
        program: the lowered model.
        method: a name of `METHODS`.
        domain: n of them.
        rows: (n, m, outputs) or (1, m, outputs) for all.

    Returns:
        (n, m) float64, -inf where nothing is known.
    """
    rows = np.broadcast_to(rows, (len(domain), *rows.shape[1:])).astype(np.float64)
    parts = batches(program, method, len(domain))
    return np.concatenate([_bounded(program, method, domain[part], rows[part]) for part in parts])


def _bounded(program: Program, method: str, domain: Domain, rows: np.ndarray) -> np.ndarray:
    tensors, known = _tensors(domain), _known_of(program, method, domain)
    function = _bound_graph(program, METHODS[method], _norm(domain), known)
    found = function(*tensors, tf.constant(rows), *tf.nest.flatten(known)).numpy()
    if METHODS[method].is_optimized and free_nodes(program):
        # On a ball the optimization sees a coarser minimum than the one that counts.
        options = program, _norm(domain), tensors[:4], known[0], rows, alpha.STEPS
        found = np.maximum(found, leaves.optimized(*options))
    return found


def interval_bounds(
    program: Program, method: str, domain: Domain, nodes: list[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounds `(lower, upper)` (n, *shape) of some nodes on each domain."""
    found = []
    for part in batches(program, method, len(domain)):
        known = _known_of(program, method, domain[part])
        problem = _problem(_tensors(domain[part]), _norm(domain))
        intervals = METHODS[method].intervals(program, problem, known)
        found.append([(intervals[i][0].numpy(), intervals[i][1].numpy()) for i in nodes])
    return [
        tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)
    ]


def domains_and_intervals(program: Program, domain: Domain) -> list[tf.Tensor]:
    """Domains (lower, upper, center, radius) and the intervals of all nodes by "crown"; flat."""
    found = []
    for part in batches(program, "crown", len(domain)):
        intervals, _ = _known_of(program, "crown", domain[part])
        found.append([*_tensors(domain[part])[:4], *tf.nest.flatten(intervals)])
    return [tf.concat(parts, axis=0) for parts in zip(*found, strict=True)]


def batches(program: Program, method: str, samples: int) -> list[slice]:
    """Slices of samples that fit into memory together."""
    size = max(1, _ENTRIES // METHODS[method].entries(program))
    return [slice(start, start + size) for start in range(0, samples, size)]


def _norm(domain: Domain) -> str | None:
    return domain.norm if domain.is_ball else None


def _tensors(domain: Domain) -> list[tf.Tensor]:
    parts = (domain.lower, domain.upper, domain.center, domain.radius, *domain.enclosing_ball())
    return [tf.constant(part, tf.float64) for part in parts]


def _problem(tensors, norm: str | None) -> Problem:
    return Problem(Region(*tensors[:4], norm), *tensors[4:])


def _shapes(program: Program) -> list[tuple]:
    """Of the tensors of a batch of domains."""
    point, number = [None, *program.input_shape], [None]
    return [(shape, tf.float64) for shape in (point, point, point, number, point, number)]


def _known_of(program: Program, method: str, domain: Domain):
    """What a method knows of the nodes on each domain, as tensors."""
    return _known_graph(program, METHODS[method], _norm(domain))(*_tensors(domain))


def _known_graph(program: Program, method: Method, norm: str | None):
    key = ("known", method.known, norm)
    if key not in program.compiled:
        if method.bound is _lipschitz or lipschitz.has_small_constants(program):
            lipschitz.prepare(program)

        def run(*tensors):
            return method.known(program, _problem(tensors, norm))

        program.compiled[key] = traced(run, _shapes(program))
    return program.compiled[key]


def _bound_graph(program: Program, method: Method, norm: str | None, known):
    """Of what is known, only the structure counts here."""
    key = ("bound", method.bound, method.known, norm)
    if key not in program.compiled:

        def run(*tensors):
            domains, rows, flat = tensors[:6], tensors[6], tensors[7:]
            packed = tf.nest.pack_sequence_as(known, flat)
            shape, size = program.nodes[program.output].shape, tf.shape(rows)
            values = Dense(tf.reshape(rows, [size[0], size[1], *shape]), shape)
            return method.bound(program, _problem(domains, norm), packed, values)

        graph = _known_graph(program, method, norm)
        outputs = tf.nest.flatten(getattr(graph, "structured_outputs", []))
        signature = [*_shapes(program), ([None, None, program.outputs], tf.float64)]
        signature += [(part.shape, part.dtype) for part in outputs]
        program.compiled[key] = traced(run, signature)
    return program.compiled[key]
