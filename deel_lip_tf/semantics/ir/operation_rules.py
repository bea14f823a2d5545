"""Rules of Keras operations in a functional graph, such as `x + y`, `2 * x` or `ops.relu(x)`."""

from collections.abc import Callable

import keras
import numpy as np

from deel_lip_tf.semantics.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Value
from deel_lip_tf.semantics.ir import decompositions, elementwise
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.semantics.ir.layer_rules import average_matrix, concatenated
from deel_lip_tf.semantics.ir.moves import move_of
from deel_lip_tf.semantics.ir.primitives import AxisProducts, Einsum

__all__ = ["lower_operation"]


def lower_operation(lowering, call, inputs: list[int]) -> int:
    """Lowers one call of an operation that is not a layer."""
    kind = type(call.operation)
    name = f"{kind.__module__}.{kind.__name__}"
    if name == _CAST:
        return inputs[0]  # the exact function rounds nothing
    if (make := _ACTIVATIONS.get(name)) is not None:
        try:
            activation = make(call.operation)
        except ValueError as error:
            raise UnsupportedLayerError(str(error)) from error
        return lowering.builder.function(inputs[0], activation)
    if (rule := _RULES.get(name)) is None:
        raise UnsupportedLayerError("no rule is known for this operation")
    return rule(lowering, call, inputs)


def _operands(call, inputs: list[int]) -> list:
    """The two operands in their order: the position of a call, or a constant as an array."""
    known = dict(zip(call.inputs, inputs, strict=True))
    arguments = [*call.args, *call.kwargs.values()]
    return [known[a] if isinstance(a, Value) else np.asarray(a, np.float64) for a in arguments[:2]]


def _constant(value) -> bool:
    return isinstance(value, np.ndarray)


def _sum(lowering, call, inputs, sign: float = 1.0):
    first, second = _operands(call, inputs)
    builder = lowering.builder
    if _constant(second):
        return _affine(builder, first, shift=sign * second)
    if _constant(first):
        return _affine(builder, second, scale=sign, shift=first)
    if len(builder.shape(first)) != len(builder.shape(second)):
        raise UnsupportedLayerError("inputs of different ranks are broadcast: reshape them first")
    return decompositions.combined(builder, [first, second], [1.0, sign])


def _difference(lowering, call, inputs):
    return _sum(lowering, call, inputs, -1.0)


def _product(lowering, call, inputs):
    first, second = _operands(call, inputs)
    if _constant(second):
        return _affine(lowering.builder, first, scale=second)
    if _constant(first):
        return _affine(lowering.builder, second, scale=first)
    raise UnsupportedLayerError("a product of tensors has no linear relaxation here")


def _quotient(lowering, call, inputs):
    first, second = _operands(call, inputs)
    if not _constant(second) or _constant(first) or not (np.abs(second) > 0).all():
        raise UnsupportedLayerError("it divides by a tensor or by zero")
    return _affine(lowering.builder, first, scale=1.0 / second)


def _negative(lowering, call, inputs):
    return _affine(lowering.builder, inputs[0], scale=-1.0)


def _affine(builder, index: int, scale=None, shift=None) -> int:
    """`x * scale + shift` with constants that may have fewer axes, but not more entries."""
    shape = (1, *builder.shape(index))
    for constant in (scale, shift):
        if constant is not None and np.broadcast_shapes(np.shape(constant), shape) != shape:
            raise UnsupportedLayerError("its constant has another shape than its input")
    return builder.scaled(index, scale, shift)


def _largest(lowering, call, inputs, sign: float = 1.0):
    first, second = _operands(call, inputs)
    builder = lowering.builder
    if _constant(first) or _constant(second):
        index, constant = (second, first) if _constant(first) else (first, second)
        # max(x, c) = c + relu(x - c), and min(x, c) = c - relu(c - x).
        surplus = _affine(builder, index, scale=sign, shift=-sign * constant)
        positive = builder.function(surplus, elementwise.relu())
        return _affine(builder, positive, scale=sign, shift=constant)
    if len(builder.shape(first)) != len(builder.shape(second)):
        raise UnsupportedLayerError("inputs of different ranks are broadcast: reshape them first")
    return decompositions.extreme_of(builder, [first, second], sign)


def _smallest(lowering, call, inputs):
    return _largest(lowering, call, inputs, -1.0)


def _applied(call, tensors):
    arguments, keywords = call.arguments(tensors)
    return keras.ops.convert_to_numpy(call.operation(*arguments, **keywords))


def _moved(lowering, call, inputs):
    """An operation that moves, copies or drops entries of each sample."""
    _check_samples_stay_apart(lowering, call, inputs)
    move = move_of(lambda x: _applied(call, [x]), lowering.builder.shape(inputs[0]))
    if move is None:
        raise UnsupportedLayerError("it does more than move entries")
    return lowering.builder.affine(inputs[0], move)


def _concatenated(lowering, call, inputs):
    return concatenated(lowering.builder, inputs, call.operation.axis)


def _stacked(lowering, call, inputs):
    builder, rank = lowering.builder, len(lowering.builder.shape(inputs[0])) + 2
    axis = call.operation.axis % rank
    if axis == 0:
        raise UnsupportedLayerError("it mixes the samples of a batch, or adds a constant")
    shape = builder.shape(inputs[0])
    one = (*shape[: axis - 1], 1, *shape[axis - 1 :])
    return concatenated(builder, [decompositions.reshaped(builder, i, one) for i in inputs], axis)


def _reduced(lowering, call, inputs, is_mean: bool = False):
    """Sums or means over axes of each sample."""
    builder, (index,) = lowering.builder, inputs
    shape, axes = builder.shape(index), call.operation.axis
    rank = len(shape) + 1
    axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = [axis % rank for axis in axes]
    if 0 in axes:
        raise UnsupportedLayerError("it mixes the samples of a batch, or adds a constant")
    sizes = [(size, axis in axes) for axis, size in enumerate(shape, 1)]
    matrices = [
        np.full((size, 1), 1.0 / size if is_mean else 1.0) if summed else None
        for size, summed in sizes
    ]
    index = builder.affine(index, AxisProducts(tuple(matrices)))
    if call.operation.keepdims:
        return index
    return decompositions.reshaped(builder, index, tuple(n for n, summed in sizes if not summed))


def _mean(lowering, call, inputs):
    return _reduced(lowering, call, inputs, is_mean=True)


def _average_pool(lowering, call, inputs):
    operation, builder = call.operation, lowering.builder
    index = decompositions.channels_last(builder, inputs[0], operation)
    rank = len(builder.shape(index)) - 1
    pool = _per_axis(operation.pool_size, rank)
    strides = pool if operation.strides is None else _per_axis(operation.strides, rank)
    axes = zip(builder.shape(index), pool, strides, strict=False)
    matrices = [average_matrix(*axis, operation.padding.lower()) for axis in axes]
    index = builder.affine(index, AxisProducts((*matrices, None)))
    return decompositions.last_if_first(builder, index, operation)


def _per_axis(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _check_samples_stay_apart(lowering, call, inputs) -> None:
    """Refuses what mixes samples, or is not linear, by trying three samples alone and together."""
    reason = "it mixes the samples of a batch, or adds a constant"
    key = call.argument(1, "key")
    is_item = type(call.operation).__name__ == "GetItem"
    if is_item and not (isinstance(key, tuple) and key[0] == slice(None)):
        raise UnsupportedLayerError(reason)
    rng = np.random.default_rng(0)
    shapes = [lowering.builder.shape(index) for index in inputs]
    together = [rng.random((3, *shape)) for shape in shapes]
    outputs = _applied(call, together)
    alone = [_applied(call, [x[i : i + 1] for x in together]) for i in range(3)]
    same = [np.shape(a) == (1, *outputs.shape[1:]) for a in alone]
    if not all(same) or outputs.shape[0] != 3 or (np.concatenate(alone) != outputs).any():
        raise UnsupportedLayerError(reason)


def _einsum(lowering, call, inputs):
    """The product of a tensor and a constant, which leaves the batch axis alone."""
    arguments = [a for a in call.args if not isinstance(a, str)]
    constants = [
        np.asarray(a, np.float64)
        for a in arguments
        if not keras.ops.is_tensor(a) and not isinstance(a, Value)
    ]
    subscripts = call.operation.subscripts.replace(" ", "")
    terms, _, result = subscripts.partition("->")
    tensor, _, constant = terms.partition(",")
    is_plain = len(inputs) == 1 and len(constants) == 1 and "." not in subscripts
    if not is_plain or not isinstance(arguments[0], Value):
        raise UnsupportedLayerError("it is not the product of a tensor and a constant")
    if not result.startswith(tensor[0]) or tensor[0] in constant:
        raise UnsupportedLayerError("it contracts the batch axis")
    return lowering.builder.affine(inputs, Einsum(subscripts, constants[0]))


def _pad(lowering, call, inputs):
    if call.operation.mode != "constant":
        raise UnsupportedLayerError("only padding by a constant has a rule")
    return _moved(lowering, call, inputs)


def _clip(operation) -> Function:
    low, high = (np.asarray(end, np.float64) for end in (operation.x_min, operation.x_max))
    if low.size != 1 or high.size != 1:
        raise UnsupportedLayerError(
            "only numbers have a rule as its limits: take maximum and minimum"
        )
    if not low.item() <= high.item():
        raise UnsupportedLayerError("its lower limit is not below its upper limit")
    return elementwise.clip(low.item(), high.item())


def _relu(operation) -> Function:
    if operation.threshold:
        raise UnsupportedLayerError("its function jumps at `threshold`")
    return elementwise.relu(operation.negative_slope or 0.0, operation.max_value)


_NUMPY, _NN, _CAST = "keras.src.ops.numpy.", "keras.src.ops.nn.", "keras.src.ops.core.Cast"

_ACTIVATIONS: dict[str, Callable] = {
    f"{_NN}Relu": lambda operation: elementwise.relu(),
    f"{_NN}Relu6": lambda operation: elementwise.relu(max_value=6.0),
    "keras.src.activations.activations.ReLU": _relu,
    f"{_NN}LeakyRelu": lambda operation: elementwise.relu(operation.negative_slope),
    f"{_NN}Elu": lambda operation: elementwise.elu(operation.alpha),
    f"{_NN}Selu": lambda operation: elementwise.FUNCTIONS[keras.activations.selu](),
    f"{_NN}Gelu": lambda operation: elementwise.gelu(operation.approximate),
    f"{_NN}Silu": lambda operation: Function("silu"),
    f"{_NN}Sigmoid": lambda operation: Function("sigmoid"),
    f"{_NN}Softplus": lambda operation: Function("softplus"),
    f"{_NN}Softsign": lambda operation: Function("softsign"),
    f"{_NN}HardSigmoid": lambda operation: Function("hard_sigmoid"),
    f"{_NN}Celu": lambda operation: elementwise.celu(operation.alpha),
    f"{_NN}HardSilu": lambda operation: Function("hard_silu"),
    f"{_NN}HardTanh": lambda operation: elementwise.clip(-1.0, 1.0),
    f"{_NN}LogSigmoid": lambda operation: Function("log_sigmoid"),
    f"{_NN}SoftShrink": lambda operation: elementwise.soft_shrink(operation.threshold),
    f"{_NN}SparsePlus": lambda operation: Function("sparse_plus"),
    f"{_NN}SparseSigmoid": lambda operation: Function("sparse_sigmoid"),
    f"{_NN}Squareplus": lambda operation: elementwise.squareplus(operation.b),
    f"{_NN}TanhShrink": lambda operation: Function("tanh_shrink"),
    f"{_NUMPY}Clip": _clip,
    f"{_NUMPY}Tanh": lambda operation: Function("tanh"),
    f"{_NUMPY}Exp": lambda operation: Function("exponential"),
    f"{_NUMPY}Absolute": lambda operation: elementwise.relu(negative_slope=-1.0),
}

_MOVING = (
    *("ExpandDims", "Flip", "GetItem", "Moveaxis", "Repeat", "Reshape", "Squeeze"),
    *("Swapaxes", "Take", "Transpose"),
)

_RULES: dict[str, Callable] = {
    **dict.fromkeys((f"{_NUMPY}{name}" for name in _MOVING), _moved),
    f"{_NUMPY}Concatenate": _concatenated,
    f"{_NUMPY}Stack": _stacked,
    f"{_NUMPY}Sum": _reduced,
    f"{_NUMPY}Mean": _mean,
    f"{_NN}AveragePool": _average_pool,
    f"{_NUMPY}Add": _sum,
    f"{_NUMPY}Subtract": _difference,
    f"{_NUMPY}Multiply": _product,
    f"{_NUMPY}TrueDivide": _quotient,
    f"{_NUMPY}Divide": _quotient,
    f"{_NUMPY}Negative": _negative,
    f"{_NUMPY}Maximum": _largest,
    f"{_NUMPY}Minimum": _smallest,
    f"{_NUMPY}Einsum": _einsum,
    f"{_NUMPY}Pad": _pad,
}
"""By the full name of an operation: Keras has no public names for their classes."""
