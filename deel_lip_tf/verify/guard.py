"""The model itself at the centers: a proof is about the function that runs, or there is none.

The program that is bounded is evaluated at the center of each domain with the rounding of the
model's own type, and the model is run there. Where it returns something else, something was read
otherwise than it runs, or the program that runs is wrong: nothing is proven of that sample.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import UNITS
from deel_lip_tf.certificates.guard import warn_of_difference
from deel_lip_tf.semantics.graph import float_types, graph_of
from deel_lip_tf.semantics.integers import is_within, of_dtype
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.models import input_type, output_values
from deel_lip_tf.verify.propagation.interval import propagate

_BATCH = 256
_EXAMPLES = 8  # points that the first layer that differs is looked for with


def can_run(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """(n,) whether samples are inputs of the model: where these are integers, whether they are."""
    limits = of_dtype(input_type(model))
    if limits is None:
        return np.ones(len(x), bool)
    return np.array([is_within(sample, limits) for sample in x], bool)


def confirmed(
    model: keras.Model, program: Program, x: np.ndarray, outputs: np.ndarray | None = None
) -> np.ndarray:
    """(n,) whether the model returns, at each point, what its program does, up to rounding.

    Warns, by the name of the first layer, where it does not. Points that the model cannot run on
    are taken for confirmed.

    Args:
        model: the model.
        program: it, lowered.
        x: (n, *shape) points.
        outputs: (n, ...) what the model returns there, where it is known.
    """
    runs = np.flatnonzero(can_run(model, x))
    differs = np.zeros(len(x), bool)
    unit = max(UNITS[dtype] for dtype in float_types(graph_of(model)))
    for start in range(0, len(runs), _BATCH):
        rows = runs[start : start + _BATCH]
        own = output_values(model, x[rows]) if outputs is None else outputs[rows]
        differs[rows] = _differs(program, x[rows], own, unit)
    if differs.any():
        call = _first_difference(program, x[differs][:_EXAMPLES], unit)
        where = f"At the centers of {differs.sum()} domains"
        warn_of_difference(where, call, "Nothing is proven of these domains")
    return ~differs


def _differs(program: Program, x: np.ndarray, own: np.ndarray, unit: float) -> np.ndarray:
    known = [[part.reshape(len(x), -1) for part in pair] for pair in _evaluated(program, x, unit)]
    (center, half_width), own = known[program.output], own.reshape(len(x), -1)
    with np.errstate(all="ignore"):
        # Coefficients that a layer computes have the rounding of the numbers it makes them of.
        largest = np.max([np.abs(middle).max(axis=1, initial=1.0) for middle, _ in known], axis=0)
        allowed = 2.0 * np.linalg.norm(half_width, axis=1) + 8.0 * unit * largest
        if program.dropped is not None:
            # Probabilities, and their logarithms, move at most twice as far as logits.
            center, allowed = _normalized(program.dropped, center), 2.0 * allowed + 64.0 * unit
            allowed = allowed + 64.0 * unit * np.linalg.norm(center, axis=1)
        distance = np.linalg.norm(own.astype(np.float64) - center, axis=1)
    # What overflows in float64 is bounded by nothing; a model that overflows is another function.
    return ~(distance <= allowed) & np.isfinite(allowed) & np.isfinite(center).all(axis=1)


def _evaluated(program: Program, x: np.ndarray, unit: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values of all nodes at points, and how far the model's own arithmetic may be from them."""
    largest = max(program.sizes)
    # Rounding errors of sums of n terms grow like the root of n but for a factor; this is more.
    roundoff = unit * (64.0 + 16.0 * math.sqrt(largest))
    point = tf.constant(x, tf.float64)
    moved = unit * tf.abs(point)
    intervals = propagate(program, point - moved, point + moved, roundoff)
    middles = [(0.5 * i.lower + 0.5 * i.upper).numpy() for i in intervals]
    half_widths = [(0.5 * i.upper - 0.5 * i.lower).numpy() for i in intervals]
    return list(zip(middles, half_widths, strict=True))


def _normalized(name: str, logits: np.ndarray) -> np.ndarray:
    if name == "sigmoid":
        return 1.0 / (1.0 + np.exp(-logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithm = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithm if name == "log_softmax" else np.exp(logarithm)


def _first_difference(program: Program, x: np.ndarray, unit: float) -> str | None:
    """The first call of the model that returns something else than its nodes, at a point."""
    known = _evaluated(program, x, unit)
    for call in program.calls:
        given = [
            keras.ops.cast(known[index][0], value.dtype)
            for index, value in zip(call.inputs, call.call.inputs, strict=True)
        ]
        arguments, keywords = call.call.arguments(given)
        own = np.asarray(call.call.operation(*arguments, **keywords)).astype(np.float64)
        center, half_width = known[call.outputs[0]]
        if not (np.abs(own - center) <= 2.0 * half_width).all():
            return f"{call.call.name!r} ({type(call.call.operation).__name__})"
    return None
