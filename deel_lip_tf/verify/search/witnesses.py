"""Points that may satisfy a property, and which of them do.

A search ends where an inequality holds with room to spare. Where it holds with equality only, on a
plateau or at a bound of the output, the plain points of a box are tried too.
"""

import itertools
from collections.abc import Sequence

import keras
import numpy as np

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, box
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.models import FLOATS, input_type, output_values
from deel_lip_tf.verify.search.projection import inside
from deel_lip_tf.verify.specification.property import Conjunction

_MOST_AXES = 4  # with all their corners; of more, two opposite ones
_JUDGED = 32  # points of one call that are evaluated exactly


def plain_points(model: keras.Model, domain: Domain) -> np.ndarray:
    """(n, k, *shape) the center and corners of n boxes, in the type of the model's input.

    No points at all for other types than float16, float32 and float64.
    """
    dtype = input_type(model)
    shape = domain.lower.shape[1:]
    if dtype not in FLOATS:
        return np.zeros((len(domain), 0, *shape))
    held = inside(domain, np.dtype(dtype))
    ends = np.stack([held.lower, held.upper], axis=1).reshape(len(domain), 2, -1)
    axes = ends.shape[-1]
    sides = [(0,) * axes, (1,) * axes]
    if axes <= _MOST_AXES:
        sides = list(itertools.product((0, 1), repeat=axes))
    corners = [ends[:, list(side), range(axes)] for side in sides]
    center = np.clip(held.center.numpy().reshape(len(domain), -1), ends[:, 0], ends[:, 1])
    return np.stack([center, *corners], axis=1).reshape(len(domain), -1, *shape)


def first_witness(
    model: keras.Model, program: Program, conjunctions: Sequence[Conjunction], points: np.ndarray
) -> np.ndarray | None:
    """The first of some points that satisfies the conjunction of its place.

    The model's own outputs for this point alone must satisfy it as it is stated, in exact
    arithmetic. What the exact function provably violates is no witness, nor is a point that holds
    a strict inequality by a difference that may be rounding.

    Args:
        model: the model.
        program: the same, lowered.
        conjunctions: one for each point.
        points: (n, *shape) in the model's input type.
    """
    if not len(points):
        return None
    outputs = output_values(model, points).reshape(len(points), -1).astype(np.float64)
    near = [i for i, c in enumerate(conjunctions) if _nearly_holds(c, outputs[i])]
    for i in near[:_JUDGED]:
        alone = output_values(model, points[i : i + 1])[0]
        holds = conjunctions[i].holds(points[i], alone)
        if holds and _is_possible(program, conjunctions[i], points[i]):
            return points[i]
    return None


def _nearly_holds(conjunction: Conjunction, outputs: np.ndarray) -> bool:
    """Whether every row holds up to rounding: what is far from it needs no exact arithmetic."""
    weights, offsets = conjunction.weights, conjunction.offsets
    size = np.abs(weights) @ np.abs(outputs) + np.abs(offsets)
    return bool((weights @ outputs + offsets <= 1e-3 * size).all())


def _is_possible(program: Program, conjunction: Conjunction, point: np.ndarray) -> bool:
    """Whether the exact function does not provably violate a row, and keeps the strict ones."""
    weights, offsets = conjunction.weights, conjunction.offsets
    if not len(weights):
        return True
    x = point[None].astype(np.float64)
    rows = np.concatenate([weights, -weights])[None]
    low, negative_high = np.split(lower_bounds(program, "crown", box(x, x), rows)[0], 2)
    lowest = np.nextafter(low + offsets, -np.inf)
    # The offsets are rounded downward.
    highest = np.nextafter(np.nextafter(offsets, np.inf) - negative_high, np.inf)
    return not ((lowest > 0) | (conjunction.is_strict & ~(highest < 0))).any()
