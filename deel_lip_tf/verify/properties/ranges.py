"""Whether outputs stay in an interval: the tolerance of a regression."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._keras import rounding_as
from deel_lip_tf._validation.scalars import check_choice, check_time_limit
from deel_lip_tf.verify.domain import Domain, check_domain
from deel_lip_tf.verify.methods import METHODS
from deel_lip_tf.verify.models import output_values, program_of
from deel_lip_tf.verify.properties.answer import Answer
from deel_lip_tf.verify.properties.linear import LinearClaims, answered


def within(
    model: keras.Model,
    domain: Domain,
    tolerance: ArrayLike | None = None,
    interval: tuple | None = None,
    method: str = "auto",
    time_limit: float | None = None,
) -> Answer:
    """Whether the outputs of a model stay in an interval, for all inputs of each domain.

    "proven" is a proof about the exact function of the weights as stored, at inference: for every
    input of the domain, `low <= f(x) <= high` in every output. Bounds are computed in float64, and
    a bound on every rounding error is subtracted from them. "falsified" comes with an input of the
    domain for which the model itself returns something outside, and which the exact function does
    not provably keep inside. "unknown" is neither.

    Args:
        model: a model with one input and one output, of any shape. A sigmoid at its end counts, a
            softmax cannot be bounded.
        domain: n sets of inputs, by `box` or `ball`.
        tolerance: how far outputs may be from what the model returns at the center of the domain: a
            number, not negative, or an array that broadcasts against the output (n, *shape). The
            ends of the interval are those that float64 computes.
        interval: in its place the ends `(low, high)` themselves, numbers or arrays that broadcast
            against the output (n, *shape); -inf and inf where nothing is claimed.
        method: "auto", or a name of `METHODS` for that one alone; what it does not prove is
            attacked in any case.
        time_limit: seconds after which nothing further begins. Without one, searches take at most a
            second for each domain that is undecided when they begin, and a minute in all.

    Returns:
        An `Answer` of n entries; `margin` is the smallest distance that was proven between an
        output and an end of its interval.

    Raises:
        TypeError: `model` is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: both a tolerance and an interval or none of them, one that does not fit, another
            argument out of its range, or a model with layers that have no rule: all are named.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])  # the sum of two numbers
        >>> domain = lip.verify.ball([[0.5, 0.25]], eps=0.0625)
        >>> for tolerance in (0.25, 0.0625):  # it changes by 0.125 at most
        ...     answer = lip.verify.within(model, domain, tolerance)
        ...     print(answer.status, answer.margin.round(4))
        ['proven'] [0.125]
        ['falsified'] [-0.0625]
    """
    check_choice("method", method, ("auto", *METHODS))
    check_time_limit(time_limit)
    check_domain(domain)
    shape = (len(domain), *program_of(model, domain.lower.shape[1:]).output_shape)
    model = whole("model", model)
    program = program_of(model, domain.lower.shape[1:])
    if (tolerance is None) == (interval is None):
        raise ValueError(
            "Give one of `tolerance` and `interval`. "
            f"Received: tolerance={tolerance!r}, interval={interval!r}."
        )
    if interval is None:
        middle = output_values(model, domain.center).astype(np.float64).reshape(shape)
        allowed = tolerances(tolerance, shape)
        low, high = middle - allowed, middle + allowed
    else:
        low, high = _ends(interval, shape)
    flat = (len(domain), program.outputs)
    ends = low.reshape(flat), high.reshape(flat)
    claims = LinearClaims(model, program, partial(flat_values, model), domain, *ends)
    return answered(claims, method, time_limit)


def flat_values(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """(k, outputs) what a model returns, in its own type."""
    return output_values(model, x).reshape(len(x), -1)


def tolerances(tolerance: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Tolerances in the shape of outputs.

    Raises:
        ValueError: they do not fit, or are negative or no numbers.
    """
    given = np.asarray(tolerance)
    fits = given.dtype.kind in "iuf" and _broadcasts(given, shape)
    if not fits or not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(
            "`tolerance` must hold finite numbers, not negative: one, or as many as broadcast "
            f"against outputs of shape {shape}. Received: tolerance={tolerance!r}."
        )
    return np.broadcast_to(given.astype(np.float64), shape)


def _ends(interval: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.asarray(end, np.float64) for end in interval)
        fits = _broadcasts(low, shape) and _broadcasts(high, shape) and (low <= high).all()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`interval` must be a pair (low, high) in this order, of numbers or of arrays that "
            f"broadcast against outputs of shape {shape}. Received: interval={interval!r}."
        )
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def _broadcasts(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        return False


def whole(name: str, model: keras.Model) -> keras.Model:
    """A model that returns vectors, with an end that is not left out of its program.

    Where it needs that, it is followed by a reshaping: then no sigmoid is its end.

    Raises:
        ValueError: its end is a softmax.
    """
    program = program_of(model)
    if program.dropped is None and len(program.output_shape) == 1:
        return model
    if program.dropped not in (None, "sigmoid"):
        raise ValueError(
            f"`{name}` must not end with a softmax, whose values are not bounded here. Received: "
            f"{model.name!r}, which ends with {program.dropped!r}. Give the model that returns the "
            "logits."
        )
    flat = keras.layers.Reshape((program.outputs,), dtype=model.outputs[0].dtype, name="flat")
    return rounding_as(model, keras.Model(model.inputs[0], flat(model.outputs[0]), name="whole"))
