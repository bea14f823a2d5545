"""Which axes of unknown size have the same size whenever the graph runs.

An unknown size is followed back through the calls that keep it, to the tensor whose own size it is.
Two axes that lead to the same axis of one tensor are of one size. Of any other two nothing is
known: at run time one of them may be 1, and is broadcast.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from deel_lip_tf.normalizers.convolution import EXTENDING
from deel_lip_tf.semantics.rule import rule_for

if TYPE_CHECKING:
    from deel_lip_tf.semantics.graph import Value


def are_equal(tensors: "Sequence[Value]", axis: int) -> bool:
    """Whether some tensors of one rank have one size along an axis, in every execution."""
    sizes: dict = {}
    stack = list(tensors)
    while stack:
        tensor = stack[-1]
        sources = _sources(tensor, axis)
        if missing := [x for x in sources if x not in sizes]:
            stack += missing
            continue
        own = ("that of", tensor) if tensor.shape[axis] is None else tensor.shape[axis]
        found = {sizes[x] for x in sources}
        sizes[stack.pop()] = found.pop() if len(found) == 1 else own
    return len({sizes[tensor] for tensor in tensors}) == 1


def _sources(tensor: "Value", axis: int) -> "list[Value]":
    """What a tensor is made of by a call that keeps the size of an axis, where it is unknown.

    Of several tensors the result has the size of all, if they have one.
    """
    call, rank = tensor.call, len(tensor.shape)
    if tensor.shape[axis] is not None or call is None:
        return []
    has_rank = all(len(x.shape) == rank for x in call.inputs)
    return list(call.inputs) if has_rank and _keeps(call.operation, axis, rank) else []


def _keeps(operation: Any, axis: int, rank: int) -> bool:
    if not rule_for(operation).keeps_size(operation, axis, rank):
        return False
    activation = getattr(operation, "activation", None)
    return not isinstance(activation, keras.layers.Layer) or _keeps(activation, axis, rank)


def every_axis(layer: keras.layers.Layer, axis: int, rank: int) -> bool:
    """True: the layer keeps the size of each axis."""
    return True


def is_beside_features(layer: keras.layers.Layer, axis: int, rank: int) -> bool:
    """Whether an axis is not that of the features of a layer, along which its weights lie."""
    if hasattr(layer, "axis"):
        features = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    else:
        features = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return axis != features % rank


def keeps_windows(layer: keras.layers.Layer, axis: int, rank: int) -> bool:
    """Whether a layer has one window around each entry of an axis."""
    if set(np.ravel(layer.strides)) != {1} or not is_beside_features(layer, axis, rank):
        return False
    is_dense = set(np.ravel(getattr(layer, "dilation_rate", 1))) == {1}
    return layer.padding in ("same", "causal") or (layer.padding in EXTENDING and is_dense)
