"""Programs at points, in NumPy, with what rounding may do to each value."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.arrays import NUMPY
from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Node, Program


def _relu(x: np.ndarray, negative_slope: float, ceiling: float) -> np.ndarray:
    above = np.minimum(np.maximum(x, 0.0), ceiling)
    return above + negative_slope * np.minimum(x, 0.0) if negative_slope else above


def _prelu(x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0) + slopes * np.minimum(x, 0.0)


_FORMULAS: dict[str, Callable[..., np.ndarray]] = {"clip": np.clip, "prelu": _prelu, "relu": _relu}
"""Functions of straight pieces, none of which is steeper than 1 or its slope on the left."""


def evaluated(program: Program, x: np.ndarray) -> list[np.ndarray]:
    """All nodes at points (n, *shape), in float64.

    Raises:
        UnsupportedLayerError: a node is no affine map, and no function of straight pieces.
    """
    values = [np.asarray(x, np.float64)]
    for node in program.nodes[1:]:
        parents = [values[parent] for parent in node.parents]
        if isinstance(node, Affine):
            value = node.map.apply(NUMPY, parents)
            values.append(value if node.bias is None else value + node.bias)
        elif isinstance(node, Elementwise) and node.function.name in _FORMULAS:
            function = node.function
            values.append(_FORMULAS[function.name](parents[0], *function.arguments))
        else:
            raise UnsupportedLayerError(f"no formula is known for {type(node).__name__}")
    return values


def rounding_errors(
    program: Program, values: Sequence[np.ndarray], unit: float
) -> list[np.ndarray]:
    """How far from `values` an evaluation in a type of that unit roundoff is, of each node.

    Rounding errors of sums of n terms are at most n units, and grow like the root of n but for a
    factor; this is more.
    """
    largest = max(program.sizes)
    roundoff = unit * min(largest + 16.0, 64.0 + 16.0 * math.sqrt(largest))
    errors = [unit * np.abs(values[0])]
    for node in program.nodes[1:]:
        parents = [errors[parent] for parent in node.parents]
        if isinstance(node, Affine):
            sizes = [np.abs(values[parent]) for parent in node.parents]
            pairs = zip(parents, sizes, strict=True)
            error = node.map.absolute(NUMPY, [e + roundoff * (e + size) for e, size in pairs])
            errors.append(error if node.bias is None else error + roundoff * np.abs(node.bias))
        else:
            errors.append(_steepest(node) * parents[0] * (1.0 + 8.0 * unit))
    return errors


def _steepest(node: Node) -> np.ndarray | float:
    if not isinstance(node, Elementwise) or node.function.name == "clip":
        return 1.0
    return np.maximum(1.0, np.abs(node.function.arguments[0]))
