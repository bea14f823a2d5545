"""Which axes of unknown size have the same size whenever the graph runs.

An unknown size is followed back through the calls that keep it, to the tensor whose own size it is.
Two axes that lead to the same axis of one tensor are of one size. Of any other two nothing is
known: at run time one of them may be 1, and is broadcast.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf._keras import operation_name
from deel_lip_tf.layers import kinds
from deel_lip_tf.normalizers.convolution import EXTENDING
from deel_lip_tf.semantics.graph import Value

__all__ = ["are_equal"]


def are_equal(tensors: Sequence[Value], axis: int) -> bool:
    """Whether some tensors of one rank have one size along an axis, in every execution."""
    sizes: dict[Value, object] = {}
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


def _sources(tensor: Value, axis: int) -> list[Value]:
    """What a tensor is made of by a call that keeps the size of an axis, where it is unknown.

    Of several tensors the result has the size of all, if they have one.
    """
    call, rank = tensor.call, len(tensor.shape)
    if tensor.shape[axis] is not None or call is None:
        return []
    has_rank = all(len(x.shape) == rank for x in call.inputs)
    return list(call.inputs) if has_rank and _keeps(call.operation, axis, rank) else []


def _keeps(operation, axis: int, rank: int) -> bool:
    if name := operation_name(operation):
        return name in _OPERATIONS
    rule = _RULES.get(type(operation))
    if rule is None or not rule(operation, axis, rank):
        return False
    activation = getattr(operation, "activation", None)
    return not isinstance(activation, keras.layers.Layer) or _keeps(activation, axis, rank)


def _always(layer, axis: int, rank: int) -> bool:
    return True


def _beside_features(layer, axis: int, rank: int) -> bool:
    """Of layers with weights or groups along one axis."""
    if hasattr(layer, "axis"):
        features = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
    else:
        features = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
    return axis != features % rank


def _sliding(layer, axis: int, rank: int) -> bool:
    """Of windows, one around each entry."""
    if set(np.ravel(layer.strides)) != {1} or not _beside_features(layer, axis, rank):
        return False
    # `PadConv2D` adds a pixel where its kernel is even, and nothing for a dilation.
    extends = layer.padding in EXTENDING and type(layer) is not lip.PadConv2D
    is_dense = set(np.ravel(getattr(layer, "dilation_rate", 1))) == {1}
    return layer.padding in ("same", "causal") or (extends and is_dense)


def _transposed(layer, axis: int, rank: int) -> bool:
    is_plain = layer.output_padding is None and set(np.ravel(layer.dilation_rate)) == {1}
    is_same = layer.padding == "same" and set(np.ravel(layer.strides)) == {1}
    return is_plain and is_same and _beside_features(layer, axis, rank)


# Not `PReLU`, `Rescaling`, `Normalization` and products with arrays: what they hold may broadcast.
_ELEMENTWISE = (
    *(kind for kind in kinds.IDENTITIES if kind is not layers.InputLayer),
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Softmax,
)
_MERGES = (
    layers.Add,
    layers.Subtract,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
    lip.LipResidual,
)
_ALONG_FEATURES = (
    layers.Dense,
    lip.SpectralDense,
    lip.FrobeniusDense,
    lip.AOLDense,
    layers.BatchNormalization,
    lip.BatchCentering,
    lip.BatchLipNorm,
    lip.ScaleBias,
    lip.GroupSort,
    lip.GroupSort2,
    lip.FullSort,
    lip.MaxMin,
    lip.Householder,
)
_WINDOWS = (
    *kinds.CONVOLUTIONS,
    lip.PadConv2D,
    lip.SpectralConv1D,
    lip.SpectralConv2D,
    lip.FrobeniusConv2D,
    lip.AOLConv2D,
    lip.SpectralDepthwiseConv2D,
    *kinds.MAX_POOLINGS,
    *kinds.AVERAGE_POOLINGS,
)

_RULES: dict[type, Callable[..., bool]] = {
    **dict.fromkeys((*_ELEMENTWISE, *_MERGES), _always),
    **dict.fromkeys(_ALONG_FEATURES, _beside_features),
    **dict.fromkeys(_WINDOWS, _sliding),
    **dict.fromkeys(kinds.TRANSPOSED_CONVOLUTIONS, _transposed),
}

# A constant operand has the size 1 where that of the result is unknown: Keras would know any other.
_OPERATIONS = {
    *("Relu", "Relu6", "Tanh", "Sigmoid", "LeakyRelu", "Negative", "Absolute", "Cast"),
    *("Add", "Subtract", "Maximum", "Minimum", "Multiply", "TrueDivide", "Divide"),
}
