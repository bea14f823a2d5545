"""The methods by which rows of the output are bounded, from cheap to tight.

A method is one function of a program, a batch of domains and rows of the output; it returns numbers
that the rows do not fall below. Each is traced once for a program and a kind of domain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deel_lip_tf.verify import lipschitz
from deel_lip_tf.verify.alpha import alpha_lower_bound, free_nodes
from deel_lip_tf.verify.backward import Relaxation, backward, footprint, lower_bound, refine
from deel_lip_tf.verify.coefficients import Dense
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.forward import forward, forward_lower_bound
from deel_lip_tf.verify.graphs import traced
from deel_lip_tf.verify.interval import INFINITY, Interval, propagate
from deel_lip_tf.verify.program import Program
from deel_lip_tf.verify.region import Region, concretize_exactly

__all__ = ["METHODS", "Method", "Problem", "batches", "interval_bounds", "lower_bounds"]

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
        bound: `(program, problem, rows)` to (batch, rows) lower bounds.
        intervals: `(program, problem)` to intervals of all nodes.
        entries: `(program)` to the entries of its largest tensor for one sample.
    """

    bound: Callable[[Program, Problem, Dense], tf.Tensor]
    intervals: Callable[[Program, Problem], list[Interval]]
    entries: Callable[[Program], int]


def _ibp(program: Program, problem: Problem, rows: Dense) -> tf.Tensor:
    # The rows go back through the affine maps at the end, which loses nothing.
    intervals = _ibp_intervals(program, problem)
    bound = backward(program, {program.output: rows}, {}, intervals)
    return lower_bound(program, bound, intervals, problem.region)


def _ibp_intervals(program: Program, problem: Problem) -> list[Interval]:
    return propagate(program, problem.region.lower, problem.region.upper)


def _backward_rows(
    program: Program, problem: Problem, rows: Dense, relaxation: Relaxation
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


def _crown_ibp(program: Program, problem: Problem, rows: Dense) -> tf.Tensor:
    return _backward_rows(program, problem, rows, _relaxation(program, problem, False))


def _crown(program: Program, problem: Problem, rows: Dense) -> tf.Tensor:
    return _backward_rows(program, problem, rows, _relaxation(program, problem, True))


def _alpha_crown(program: Program, problem: Problem, rows: Dense) -> tf.Tensor:
    relaxation = _relaxation(program, problem, True)
    if not free_nodes(program):
        return _backward_rows(program, problem, rows, relaxation)
    return alpha_lower_bound(program, problem.region, relaxation, rows)


def _forward(program: Program, problem: Problem, rows: Dense) -> tf.Tensor:
    return forward_lower_bound(program, rows, problem.region)


def _lipschitz(program: Program, problem: Problem, rows: Dense) -> tf.Tensor:
    return lipschitz.lipschitz_lower_bound(program, rows, problem.center, problem.radius)


def _lipschitz_intervals(program: Program, problem: Problem) -> list[Interval]:
    everything = [
        Interval(tf.fill(tf.shape(i.lower), -INFINITY), tf.fill(tf.shape(i.upper), INFINITY), i[2])
        for i in propagate(program, problem.center, problem.center)
    ]
    tighten = lipschitz.tightening(program, problem.center, problem.radius)
    result = [tighten(index, interval) for index, interval in enumerate(everything)]
    result[0] = problem.region.interval()
    return result


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
    "lipschitz": Method(_lipschitz, _lipschitz_intervals, _rows),
    "ibp": Method(_ibp, _ibp_intervals, _rows),
    "crown-ibp": Method(
        _crown_ibp, lambda program, p: _relaxation(program, p, False).intervals, _rows
    ),
    "forward": Method(_forward, lambda program, p: forward(program, p.region)[0], _all_entries),
    "crown": Method(_crown, lambda program, p: _relaxation(program, p, True).intervals, _all_rows),
    "alpha-crown": Method(
        _alpha_crown, lambda program, p: _relaxation(program, p, True).intervals, _repeated_nodes
    ),
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
    function = _compiled(program, method, domain, "bound")
    rows = np.broadcast_to(rows, (len(domain), *rows.shape[1:]))
    parts = [
        function(*_tensors(domain[part]), tf.constant(rows[part], tf.float64)).numpy()
        for part in batches(program, method, len(domain))
    ]
    return np.concatenate(parts)


def interval_bounds(
    program: Program, method: str, domain: Domain, nodes: list[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Bounds `(lower, upper)` (n, *shape) of some nodes on each domain."""
    function = _compiled(program, method, domain, "intervals")
    empty = tf.zeros([0, 0, program.outputs], tf.float64)
    found = []
    for part in batches(program, method, len(domain)):
        intervals = function(*_tensors(domain[part]), empty)
        found.append([(intervals[i][0].numpy(), intervals[i][1].numpy()) for i in nodes])
    return [
        tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)
    ]


def batches(program: Program, method: str, samples: int) -> list[slice]:
    """Slices of samples that fit into memory together."""
    size = max(1, _ENTRIES // METHODS[method].entries(program))
    return [slice(start, start + size) for start in range(0, samples, size)]


def _tensors(domain: Domain) -> list[tf.Tensor]:
    parts = (domain.lower, domain.upper, domain.center, domain.radius, *domain.enclosing_ball())
    return [tf.constant(part, tf.float64) for part in parts]


def _compiled(program: Program, method: str, domain: Domain, what: str):
    norm = domain.norm if domain.is_ball else None
    key = (method, norm, what)
    if key not in program.compiled:
        if method == "lipschitz" or lipschitz.has_small_constants(program):
            lipschitz.prepare(program)
        program.compiled[key] = _traced(program, METHODS[method], norm, what)
    return program.compiled[key]


def _traced(program: Program, method: Method, norm: str | None, what: str):
    point, number = [None, *program.input_shape], [None]
    shapes = (point, point, point, number, point, number, [None, None, program.outputs])

    def run(lower, upper, center, radius, ball_center, ball_radius, rows):
        problem = Problem(Region(lower, upper, center, radius, norm), ball_center, ball_radius)
        if what == "intervals":
            return [interval[:2] for interval in method.intervals(program, problem)]
        shape = program.nodes[program.output].shape
        size = tf.shape(rows)
        values = tf.reshape(rows, [size[0], size[1], *shape])
        return method.bound(program, problem, Dense(values, shape))

    return traced(run, [(shape, tf.float64) for shape in shapes])
