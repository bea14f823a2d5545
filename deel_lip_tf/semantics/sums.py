"""Sums that Keras computes otherwise than by broadcasting.

On TensorFlow `keras.ops.add(a, b)` takes b for a bias where one of its axes alone is longer than 1
and as long as the last or the second axis of a. It is then added along that one, wherever its own
axis stands: an axis of a sample, where that is alone in its batch, or the batch itself. So are the
biases of Keras's layers that are not along the last axis.
"""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf._keras import is_of_keras, operation_name
from deel_lip_tf.errors import UnsupportedLayerError

if TYPE_CHECKING:
    from deel_lip_tf.semantics.graph import Call


def unsupported(call: "Call") -> str | None:
    """Why a call of a `semantics.graph.Call` may add an operand along another axis than its own."""
    operation = call.operation
    adds = type(operation) in (layers.Add, layers.Average) or operation_name(operation) == "Add"
    if keras.backend.backend() != "tensorflow" or not adds:
        return None
    total, *others = _shapes(call)
    for shape in others:
        # In a batch of one sample, and in one whose size is not known.
        alone = tuple((size or 1) if axis == 0 else size for axis, size in enumerate(shape))
        if _is_misplaced(total, alone) or (shape != total and _is_misplaced(total, shape)):
            return (
                f"Keras may add its operand of shape {shape} along another axis, of the same size: "
                "bring the operands to one shape first, by `keras.ops.broadcast_to` or by copies"
            )
        total = _broadcast(total, shape)
    return None


def check_bias(layer: Any, output_shape: tuple) -> None:
    """Refuses a layer whose bias Keras adds along another axis than its own."""
    if keras.backend.backend() != "tensorflow" or not is_of_keras(layer) or layer.bias is None:
        return
    shape = tuple(layer.bias.shape)
    if getattr(layer, "data_format", None) == "channels_first":
        shape = (*shape, *[1] * (len(output_shape) - 2))
    if _is_misplaced(output_shape, shape):
        raise UnsupportedLayerError(
            "Keras adds its bias along the last axis, which is as long as its own: bring that axis "
            "to the end, or use no bias"
        )


def _shapes(call: "Call") -> list[tuple]:
    """Of the operands, in the order in which they are added."""
    if isinstance(call.operation, layers.Layer):
        operands = call.inputs
    else:
        operands = [*call.args, *call.kwargs.values()][:2]
    return [
        operand.shape if hasattr(operand, "integers") else np.shape(operand) for operand in operands
    ]


def _is_misplaced(first: tuple, second: tuple) -> bool:
    long = [axis for axis, size in enumerate(second) if size != 1]
    if len(long) != 1 or len(first) < 2:
        return False
    last, own, size = len(first) - 1, long[0] + len(first) - len(second), second[long[0]]
    if size is None:  # it may be that of the last axis, or of the second one
        return own != last and (first[-1] != 1 or own != 1)
    if size not in (first[1], first[-1]):
        return False
    return own != (last if first[-1] == size else 1)


def _broadcast(first: tuple, second: tuple) -> tuple:
    rank = max(len(first), len(second))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (first, second)]
    return tuple(b if a == 1 else a for a, b in zip(*padded, strict=True))
