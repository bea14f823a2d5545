"""How steep a function is on a domain: bounds of its gradient, and a local Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Iterator

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._rounding import UP, gamma, product_up
from deel_lip_tf._validation.scalars import check_choice
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.bounds.propagation import lipschitz_bound
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, ball, check_domain
from deel_lip_tf.verify.guard import confirmed
from deel_lip_tf.verify.methods import METHODS, interval_bounds
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation.gradients import Ends, gradient_bounds
from deel_lip_tf.verify.properties.chains import chain_constants
from deel_lip_tf.verify.queries import Bounds, objectives_of

_ENTRIES = 2**22  # of the coefficients of a node that are carried at once


def gradients(
    model: keras.Model, domain: Domain, outputs: ArrayLike | None = None, method: str = "crown"
) -> Bounds:
    """Proven bounds of all partial derivatives of a model on a domain.

    Wherever the exact function of the weights as stored has a gradient in the domain, it lies
    within the bounds, and so do the difference quotients along each axis: where the bounds of the
    derivative by a feature are not negative, the function grows with it. A final softmax, and the
    final sigmoid of a single output, is left out. Bounds are infinite, and a warning says why,
    where the model itself returns something else at the center than the exact function.

    Args:
        model: a Sequential or functional model with one input and one output.
        domain: n sets of inputs, by `box` or `ball`.
        outputs: coefficients of linear functions of the flattened output, (functions, entries) for
            all samples or (n, functions, entries); the outputs themselves by default.
        method: a name of `verify.METHODS`, by which the layers are bounded: what an activation
            reads decides which slopes it may have.

    Returns:
        A `Bounds` whose `lower` and `upper` are (n, functions, *shape of the input).

    Raises:
        TypeError: `model` is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: shapes that do not fit, an unknown method, or a model without a rule.

    Example:
        >>> dense = [keras.layers.Dense(1, a, kernel_initializer="ones") for a in ("sigmoid", None)]
        >>> model = keras.Sequential([keras.Input((2,)), *dense])
        >>> domain = lip.verify.box([[-1.0, 0.0]], [[1.0, 0.0]])
        >>> answer = lip.verify.gradients(model, domain)  # of a sigmoid between -1 and 1
        >>> print(answer.lower.round(4), answer.upper.round(4))
        [[[0.1966 0.1966]]] [[[0.25 0.25]]]

    Source: Weng et al., 2018, arXiv:1804.09699; Zhang et al., 2019, arXiv:1810.11783.
    """
    check_choice("method", method, METHODS)
    check_domain(domain)
    program = program_of(model, domain.lower.shape[1:])
    rows = objectives_of(program, outputs, len(domain))
    lower, upper = gradients_on(program, domain, rows, method)
    unknown = ~confirmed(model, program, domain.center)
    lower[unknown], upper[unknown] = -np.inf, np.inf
    return Bounds(lower, upper)


def node_intervals(program: Program, domain: Domain, method: str) -> list[Ends]:
    """Bounds of all nodes on each domain, (n, *shape)."""
    return interval_bounds(program, method, domain, list(range(len(program.nodes))))


def gradients_on(
    program: Program, domain: Domain, rows: np.ndarray, method: str = "crown"
) -> tuple[np.ndarray, np.ndarray]:
    """(n, m, *shape of the input) bounds of gradients of rows (n or 1, m, outputs)."""
    rows = np.broadcast_to(rows, (len(domain), *rows.shape[1:]))
    rows = rows.reshape(*rows.shape[:2], *program.output_shape)
    parts = [
        gradient_bounds(program, node_intervals(program, domain[part], method), rows[part])
        for part in _parts(program, *rows.shape[:2])
    ]
    lower, upper = (np.concatenate(ends) for ends in zip(*parts, strict=True))
    return lower, upper


def _parts(program: Program, samples: int, rows: int) -> Iterator[slice]:
    size = max(1, _ENTRIES // (rows * max(program.sizes)))
    return (slice(start, start + size) for start in range(0, samples, size))


def lipschitz_constants(
    model: keras.Model,
    x: ArrayLike,
    radius: ArrayLike,
    norm: str,
    clip: tuple | None,
    method: str,
) -> np.ndarray:
    """(n,) as `bounds.local_lipschitz`, which says what the arguments are."""
    check_choice("method", method, METHODS)
    domain = ball(x, radius, norm, clip)
    program = program_of(model, domain.lower.shape[1:])
    parts = _parts(program, len(domain), program.outputs)
    local = np.concatenate([_constants(program, domain[part], norm, method) for part in parts])
    # Both are no steeper than that: a softmax that is left out, and a sigmoid.
    slope = {None: 1.0, "softmax": 0.5, "sigmoid": 0.25}.get(program.dropped, math.inf)
    local = np.array([product_up(value, slope) for value in local])
    local[~confirmed(model, program, domain.center)] = math.inf
    return np.minimum(local, _everywhere(model, norm))


def _constants(program: Program, domain: Domain, norm: str, method: str) -> np.ndarray:
    """(n,) of the program itself."""
    intervals = node_intervals(program, domain, method)
    rows = np.eye(program.outputs).reshape(1, program.outputs, *program.output_shape)
    flat = (len(domain), program.outputs, -1)
    ends = (end.reshape(flat) for end in gradient_bounds(program, intervals, rows))
    local = np.array([_matrix_norm(low, high, norm) for low, high in zip(*ends, strict=True)])
    return np.minimum(local, chain_constants(program, intervals)) if norm == "l2" else local


def _everywhere(model: keras.Model, norm: str) -> float:
    try:
        return lipschitz_bound(model, norm).value
    except ValueError:  # layers without a constant
        return math.inf


def _matrix_norm(lower: np.ndarray, upper: np.ndarray, norm: str) -> float:
    """The largest norm of a matrix between two matrices, or more."""
    largest = np.maximum(-lower, upper)
    if not np.isfinite(largest).all():
        return math.inf
    if norm != "l2":
        sums = largest.sum(axis=1 if norm == "linf" else 0)
        return float(sums.max(initial=0.0)) * (1.0 + gamma(largest.size)) * UP
    middle = 0.5 * lower + 0.5 * upper
    half_width = np.maximum(upper - middle, middle - lower) * UP
    apart = spectral_norm_bound(middle) + spectral_norm_bound(half_width)
    return min(spectral_norm_bound(largest), apart * UP)
