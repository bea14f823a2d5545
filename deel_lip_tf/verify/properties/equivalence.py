"""Whether two networks compute the same, up to a tolerance: one program of both."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._keras import rounding_as
from deel_lip_tf._validation.scalars import check_choice, check_time_limit
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, check_domain
from deel_lip_tf.verify.methods import METHODS
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation.gradients import are_alike, difference_bounds
from deel_lip_tf.verify.properties.answer import Answer
from deel_lip_tf.verify.properties.gradients import node_intervals
from deel_lip_tf.verify.properties.linear import LinearClaims, answered
from deel_lip_tf.verify.properties.ranges import flat_values, tolerances, whole


def equivalent(
    first: keras.Model,
    second: keras.Model,
    domain: Domain,
    tolerance: ArrayLike,
    method: str = "auto",
    time_limit: float | None = None,
) -> Answer:
    """Whether two models return the same, up to a tolerance, for all inputs of each domain.

    "proven" is a proof about the exact functions of the weights as stored, at inference: for every
    input of the domain, `|first(x) - second(x)| <= tolerance` in every output. Both are bounded
    together, as one function of one input, so that what they have in common cancels where it can.
    "falsified" comes with an input of the domain for which the outputs of the two models themselves
    differ by more. "unknown" is neither.

    Args:
        first: a model with one input and one output, of any shape. A sigmoid at its end counts, a
            softmax cannot be bounded.
        second: another one, with the same shapes, or the first one in other words: pruned, folded,
            exported, retrained.
        domain: n sets of inputs, by `box` or `ball`.
        tolerance: not negative, a number, or an array that broadcasts against the output
            (n, *shape). What is equal is only proven to be so up to the rounding of the proof, some
            1e-12 of the numbers in between.
        method: "auto", or a name of `METHODS` for that one alone; what it does not prove is
            attacked in any case.
        time_limit: seconds after which nothing further begins. Without one, searches take at most a
            second for each domain that is undecided when they begin, and a minute in all.

    Returns:
        An `Answer` of n entries; `margin` is by how much the tolerance could have been smaller.

    Raises:
        TypeError: one of the two is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: models of other inputs or outputs than each other, an argument out of its range,
            or layers that have no rule: all of them are named.

    Example:
        >>> layers = [lip.layers.SpectralDense(4), lip.layers.GroupSort2()]
        >>> model = lip.Sequential([keras.Input((2,)), *layers])
        >>> domain = lip.verify.box([[-1.0, -1.0]], [[1.0, 1.0]])
        >>> print(lip.verify.equivalent(model, model.vanilla_export(), domain, 1e-6).status)
        ['proven']
    """
    check_choice("method", method, ("auto", *METHODS))
    check_time_limit(time_limit)
    check_domain(domain)
    shape = domain.lower.shape[1:]
    programs = [program_of(model, shape) for model in (first, second)]
    if programs[0].output_shape != programs[1].output_shape:
        raise ValueError(
            "`first` and `second` must have outputs of the same shape. Received: "
            f"{programs[0].output_shape} and {programs[1].output_shape}."
        )
    outputs = (len(domain), *programs[0].output_shape)
    pair = whole("first", first), whole("second", second)
    model = _difference(*pair, shape)

    def run(x: np.ndarray) -> np.ndarray:
        values = [flat_values(one, x).astype(np.float64) for one in pair]
        return values[0] - values[1]

    program = program_of(model)
    own, other = (program_of(one, shape) for one in pair)
    bounds = partial(_bounds, own, other) if are_alike(own, other) else None
    allowed = tolerances(tolerance, outputs)
    allowed = allowed.reshape(len(domain), program.outputs)
    claims = LinearClaims(model, program, run, domain, -allowed, allowed, bounds)
    return answered(claims, method, time_limit)


def _bounds(first: Program, second: Program, domain: Domain) -> tuple[np.ndarray, np.ndarray]:
    """(n, outputs) bounds of `first - second`, of programs of one structure."""
    intervals = [node_intervals(one, domain, "crown") for one in (first, second)]
    eye = np.eye(first.outputs).reshape(1, first.outputs, *first.output_shape)
    return difference_bounds(second, first, (intervals[1], intervals[0]), eye)


def _difference(first: keras.Model, second: keras.Model, shape: tuple[int, ...]) -> keras.Model:
    """The difference of two models of one input, of the wider type of the two."""
    types = [model.inputs[0].dtype for model in (first, second)]
    if types[0] != types[1]:
        raise ValueError(
            "`first` and `second` must have inputs of the same type. "
            f"Received: {types[0]} and {types[1]}."
        )
    x = keras.Input(shape, dtype=types[0], name="x")
    # Of their own names, which may be the same, nothing is left.
    named = zip((first, second), ("first", "second"), strict=True)
    parts = [rounding_as(m, keras.Model(m.inputs[0], m.outputs[0], name=n)) for m, n in named]
    values = [part(x) for part in parts]
    dtype = keras.backend.result_type(*(value.dtype for value in values))
    return keras.Model(
        x, keras.layers.Subtract(dtype=dtype, name="difference")(values), name="both"
    )
