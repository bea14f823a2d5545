"""The methods by which objectives, linear functions of the output, are bounded: cheap to tight.

A method first finds what is known of the nodes on a batch of domains, then numbers that objectives
do not fall below. Each half is a graph that is traced once for a program and a kind of domain;
methods that begin alike share the first one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.graphs import once, traced
from deel_lip_tf.verify.propagation import alpha_beta, lipschitz
from deel_lip_tf.verify.propagation.alpha_beta import splittable_nodes
from deel_lip_tf.verify.propagation.backward import (
    Relaxation,
    backward,
    footprint,
    lower_bound,
    refine,
)
from deel_lip_tf.verify.propagation.balls import BALLS_ENTRIES
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.concretize import DomainTensors, concretize_exactly
from deel_lip_tf.verify.propagation.forward import forward, forward_lower_bound
from deel_lip_tf.verify.propagation.interval import INFINITY, Interval, interval, propagate
from deel_lip_tf.verify.search import subdomains

_ENTRIES = 2**25
"""Entries of the largest tensor that is made for the samples of one call."""


Known = Any  # what a method knows of the nodes; its own functions alone are handed it


class Problem(NamedTuple):
    """A batch of domains, as tensors.

    Attributes:
        domain: the domains.
        center: (batch, *shape) of an L2 ball around each.
        radius: (batch,) of it.
    """

    domain: DomainTensors
    center: tf.Tensor
    radius: tf.Tensor


@dataclass(frozen=True)
class Method:
    """One way to bound objectives of the output.

    Attributes:
        known: `(program, problem)` to what is known of the nodes, before any objective.
        bound: `(program, problem, known, objectives)` to (batch, m) lower bounds.
        intervals: `(program, problem, known)` to intervals of all nodes.
        entries: `(program)` to the entries of its largest tensor for one sample.
        is_optimized: whether slopes are optimized for each objective afterwards.
    """

    known: Callable[[Program, Problem], Known]
    bound: Callable[[Program, Problem, Known, Dense], tf.Tensor]
    intervals: Callable[[Program, Problem, Known], list[Interval]]
    entries: Callable[[Program], int]
    is_optimized: bool = False


def _propagated(program: Program, problem: Problem) -> list[Interval]:
    return propagate(program, problem.domain.lower, problem.domain.upper)


def _ibp(
    program: Program, problem: Problem, intervals: list[Interval], objectives: Dense
) -> tf.Tensor:
    # The objectives go back through the affine maps at the end, which loses nothing.
    bound = backward(program, {program.output: objectives}, {}, intervals)
    return lower_bound(program, bound, intervals, problem.domain)


def _crown(
    program: Program, problem: Problem, relaxation: Relaxation, objectives: Dense
) -> tf.Tensor:
    intervals, lines, balls = relaxation
    bound = backward(program, {program.output: objectives}, lines, intervals, balls)
    coefficients = bound.coefficients[0].dense()
    total = bound.constant + concretize_exactly(coefficients, problem.domain, program.roundoff)
    return tf.where(tf.math.is_nan(total), -INFINITY, total)


def _relaxation(
    program: Program, problem: Problem, backward_through: bool, in_balls: bool = False
) -> Relaxation:
    tighten, ball_of = None, None
    if lipschitz.has_small_constants(program):
        tighten = lipschitz.tightening(program, problem.center, problem.radius)
    if in_balls:
        ball_of = lipschitz.ball_of(program, problem.center, problem.radius)
    return refine(program, problem.domain, tighten, backward_through, ball_of)


_relaxed_by_intervals = partial(_relaxation, backward_through=False)
_relaxed_backward = partial(_relaxation, backward_through=True)
_relaxed_in_balls = partial(_relaxation, backward_through=True, in_balls=True)


def _forward_known(program: Program, problem: Problem) -> Known:
    return forward(program, problem.domain)


def _forward(program: Program, problem: Problem, known: Known, objectives: Dense) -> tf.Tensor:
    return forward_lower_bound(program, objectives, problem.domain, *known)


def _at_center(program: Program, problem: Problem) -> list[Interval]:
    return propagate(program, problem.center, problem.center)


def _lipschitz(
    program: Program, problem: Problem, values: list[Interval], objectives: Dense
) -> tf.Tensor:
    return lipschitz.lipschitz_lower_bound(program, objectives, values, problem.radius)


def _lipschitz_intervals(
    program: Program, problem: Problem, values: list[Interval]
) -> list[Interval]:
    everything = [
        Interval(tf.fill(tf.shape(i.lower), -INFINITY), tf.fill(tf.shape(i.upper), INFINITY), i[2])
        for i in values
    ]
    tighten = lipschitz.tightening(program, problem.center, problem.radius)
    result = [tighten(index, one) for index, one in enumerate(everything)]
    result[0] = interval(problem.domain.lower, problem.domain.upper)
    return result


def _all_of(program: Program, problem: Problem, intervals: list[Interval]) -> list[Interval]:
    return intervals


def _first_of(program: Program, problem: Problem, known: Known) -> list[Interval]:
    return known[0]


def _objective_entries(program: Program) -> int:
    return program.outputs * max(program.sizes)


def _crown_entries(program: Program) -> int:
    needed = {program.nodes[index].parents[0] for index in program.nonlinear()} - {0}
    return max([footprint(program, index) for index in needed] + [_objective_entries(program)])


def _alpha_entries(program: Program) -> int:
    # Objectives are samples of their own, and a step of the optimization keeps all nodes of each.
    return max(_crown_entries(program), 4 * program.outputs * sum(program.sizes))


def _forward_entries(program: Program) -> int:
    return 2 * math.prod(program.input_shape) * max(program.sizes)


METHODS: dict[str, Method] = {
    "lipschitz": Method(_at_center, _lipschitz, _lipschitz_intervals, _objective_entries),
    "ibp": Method(_propagated, _ibp, _all_of, _objective_entries),
    "crown-ibp": Method(_relaxed_by_intervals, _crown, _first_of, _objective_entries),
    "forward": Method(_forward_known, _forward, _first_of, _forward_entries),
    "crown": Method(_relaxed_backward, _crown, _first_of, _crown_entries),
    "sdp-crown": Method(_relaxed_in_balls, _crown, _first_of, _crown_entries),
    "alpha-crown": Method(_relaxed_in_balls, _crown, _first_of, _alpha_entries, True),
}
"""By name, from cheap to tight. A tighter method is a row after these."""


def lower_bounds(
    program: Program, method: str, domain: Domain, objectives: np.ndarray
) -> np.ndarray:
    """Numbers that linear functions of the outputs do not fall below on each domain.

    Args:
        program: the lowered model.
        method: a name of `METHODS`.
        domain: n of them.
        objectives: (n, m, outputs) or (1, m, outputs) for all.

    Returns:
        (n, m) float64, -inf where nothing is known.
    """
    objectives = np.broadcast_to(objectives, (len(domain), *objectives.shape[1:])).astype(
        np.float64
    )
    parts = batches(program, method, domain)
    return np.concatenate(
        [_bounded(program, method, domain[part], objectives[part]) for part in parts]
    )


def _bounded(program: Program, method: str, domain: Domain, objectives: np.ndarray) -> np.ndarray:
    tensors, known = _tensors(domain), _known_of(program, method, domain)
    function = _bound_graph(program, METHODS[method], domain.ball_norm, known)
    found = function(*tensors, tf.constant(objectives), *tf.nest.flatten(known)).numpy()
    if METHODS[method].is_optimized and splittable_nodes(program):
        # On a ball the optimization sees a coarser minimum than the one that counts.
        options = _state(tensors, known), objectives, alpha_beta.STEPS
        found = np.maximum(found, subdomains.optimized(program, domain.ball_norm, *options))
    return found


def interval_bounds(
    program: Program, method: str, domain: Domain, nodes: list[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounds `(lower, upper)` (n, *shape) of some nodes on each domain."""
    found = []
    for part in batches(program, method, domain):
        known = _known_of(program, method, domain[part])
        problem = _problem(_tensors(domain[part]), domain.ball_norm)
        intervals = METHODS[method].intervals(program, problem, known)
        found.append([(intervals[i].lower.numpy(), intervals[i].upper.numpy()) for i in nodes])
    return [
        (np.concatenate([low for low, _ in parts]), np.concatenate([high for _, high in parts]))
        for parts in zip(*found, strict=True)
    ]


def domains_and_intervals(program: Program, domain: Domain) -> list[tf.Tensor]:
    """What `subdomains.solver` knows of domains, by "sdp-crown"."""
    found = []
    for part in batches(program, "sdp-crown", domain):
        relaxation = _known_of(program, "sdp-crown", domain[part])
        found.append(_state(_tensors(domain[part]), relaxation))
    return [tf.concat(parts, axis=0) for parts in zip(*found, strict=True)]


def batches(program: Program, method: str, domain: Domain) -> list[slice]:
    """Slices of domains that fit into memory together."""
    entries = METHODS[method].entries(program)
    if _known_by(METHODS[method], domain.ball_norm) is _relaxed_in_balls:
        entries *= BALLS_ENTRIES
    size = max(1, _ENTRIES // entries)
    return [slice(start, start + size) for start in range(0, len(domain), size)]


def _known_by(method: Method, norm: str | None) -> Callable:
    """What finds what a method knows; balls are of use in L2 alone."""
    is_useless = method.known is _relaxed_in_balls and norm != "l2"
    return _relaxed_backward if is_useless else method.known


def _state(tensors: Sequence[tf.Tensor], relaxation: Relaxation) -> list[tf.Tensor]:
    """Domains (lower, upper, center, radius), intervals of all nodes, balls of ReLUs; flat."""
    return [*tensors[:4], *tf.nest.flatten((relaxation.intervals, relaxation.balls))]


def _tensors(domain: Domain) -> list[tf.Tensor]:
    parts = (domain.lower, domain.upper, domain.center, domain.radius, *domain.enclosing_ball())
    return [tf.constant(part, tf.float64) for part in parts]


def _problem(tensors: Sequence[tf.Tensor], norm: str | None) -> Problem:
    return Problem(DomainTensors(norm, *tensors[:4]), *tensors[4:])


def _shapes(program: Program) -> list[tuple]:
    """Of the tensors of a batch of domains."""
    point, number = [None, *program.input_shape], [None]
    return [(shape, tf.float64) for shape in (point, point, point, number, point, number)]


def _known_of(program: Program, method: str, domain: Domain) -> Known:
    """What a method knows of the nodes on each domain, as tensors."""
    norm = domain.ball_norm
    return _known_graph(program, _known_by(METHODS[method], norm), norm)(*_tensors(domain))


@once
def _known_graph(program: Program, known: Callable, norm: str | None) -> Callable:
    # Measured before a function is traced.
    if known is _relaxed_in_balls:
        lipschitz.node_constants(program)
    if known is _at_center or lipschitz.has_small_constants(program):
        lipschitz.entry_constants(program)
    return traced(lambda *tensors: known(program, _problem(tensors, norm)), _shapes(program))


def _bound_graph(program: Program, method: Method, norm: str | None, known: Known) -> Callable:
    """Of what is known, only the structure counts here."""
    found_by = _known_by(method, norm)
    key = ("bound", method.bound, found_by, norm)
    if key not in program.compiled:

        def run(*tensors):
            domains, objectives, flat = tensors[:6], tensors[6], tensors[7:]
            packed = tf.nest.pack_sequence_as(known, flat)
            shape, size = program.output_shape, tf.shape(objectives)
            values = Dense(tf.reshape(objectives, [size[0], size[1], *shape]), shape)
            return method.bound(program, _problem(domains, norm), packed, values)

        graph = _known_graph(program, found_by, norm)
        outputs = tf.nest.flatten(getattr(graph, "structured_outputs", []))
        signature = [*_shapes(program), ([None, None, program.outputs], tf.float64)]
        signature += [(part.shape, part.dtype) for part in outputs]
        program.compiled[key] = traced(run, signature)
    return program.compiled[key]
