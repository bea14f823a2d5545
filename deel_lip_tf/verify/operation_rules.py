"""Rules of Keras operations in a functional graph, such as `x + y`, `2 * x` or `ops.relu(x)`."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.graph import Value
from deel_lip_tf.verify import activations, comparators
from deel_lip_tf.verify.propagation.relaxations import Activation
from deel_lip_tf.verify.rule_helpers import Unsupported

__all__ = ["lower"]


def lower(lowering, call, inputs: list[int]) -> int:
    """Lowers one call of an operation that is not a layer."""
    kind = type(call.operation)
    name = f"{kind.__module__}.{kind.__name__}"
    if name == _CAST:
        return inputs[0]  # the exact function rounds nothing
    if (make := _ACTIVATIONS.get(name)) is not None:
        try:
            activation = make(call.operation)
        except ValueError as error:
            raise Unsupported(str(error)) from error
        return lowering.builder.activation(inputs[0], activation)
    if (rule := _RULES.get(name)) is None:
        raise Unsupported("no rule is known for this operation")
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
        raise Unsupported("inputs of different ranks are broadcast: reshape them first")
    return comparators.combined(builder, [first, second], [1.0, sign])


def _difference(lowering, call, inputs):
    return _sum(lowering, call, inputs, -1.0)


def _product(lowering, call, inputs):
    first, second = _operands(call, inputs)
    if _constant(second):
        return _affine(lowering.builder, first, scale=second)
    if _constant(first):
        return _affine(lowering.builder, second, scale=first)
    raise Unsupported("a product of tensors has no linear relaxation here")


def _quotient(lowering, call, inputs):
    first, second = _operands(call, inputs)
    if not _constant(second) or _constant(first) or not (np.abs(second) > 0).all():
        raise Unsupported("it divides by a tensor or by zero")
    return _affine(lowering.builder, first, scale=1.0 / second)


def _negative(lowering, call, inputs):
    return _affine(lowering.builder, inputs[0], scale=-1.0)


def _affine(builder, index: int, scale=None, shift=None) -> int:
    """`x * scale + shift` with constants that may have fewer axes, but not more entries."""
    shape = (1, *builder.shape(index))
    for constant in (scale, shift):
        if constant is not None and np.broadcast_shapes(np.shape(constant), shape) != shape:
            raise Unsupported("its constant has another shape than its input")
    return builder.scaled(index, scale, shift)


def _largest(lowering, call, inputs, sign: float = 1.0):
    first, second = _operands(call, inputs)
    builder = lowering.builder
    if _constant(first) or _constant(second):
        index, constant = (second, first) if _constant(first) else (first, second)
        # max(x, c) = c + relu(x - c), and min(x, c) = c - relu(c - x).
        surplus = _affine(builder, index, scale=sign, shift=-sign * constant)
        positive = builder.activation(surplus, activations.relu())
        return _affine(builder, positive, scale=sign, shift=constant)
    if len(builder.shape(first)) != len(builder.shape(second)):
        raise Unsupported("inputs of different ranks are broadcast: reshape them first")
    return comparators.extreme_of(builder, [first, second], sign)


def _smallest(lowering, call, inputs):
    return _largest(lowering, call, inputs, -1.0)


def _moved(lowering, call, inputs):
    """An operation that moves, copies, adds or averages entries of each sample."""

    def operator(tensors, _):
        arguments, keywords = call.arguments(tensors)
        return call.operation(*arguments, **keywords)

    _check_samples_stay_apart(lowering, operator, call, inputs)
    return lowering.builder.affine(inputs, operator)


def _check_samples_stay_apart(lowering, operator, call, inputs) -> None:
    """Refuses what mixes samples, or is not linear, by trying three samples alone and together."""
    reason = "it mixes the samples of a batch, or adds a constant"
    key = call.argument(1, "key")
    is_item = type(call.operation).__name__ == "GetItem"
    if is_item and not (isinstance(key, tuple) and key[0] == slice(None)):
        raise Unsupported(reason)
    rng = np.random.default_rng(0)
    shapes = [lowering.builder.shape(index) for index in inputs]
    together = [tf.constant(rng.random((3, *shape))) for shape in shapes]
    outputs = np.asarray(operator(together, None))
    alone = [operator([x[i : i + 1] for x in together], None) for i in range(3)]
    zeros = operator([tf.zeros_like(x) for x in together], None)
    same = [np.shape(a) == (1, *outputs.shape[1:]) for a in alone]
    if not all(same) or outputs.shape[0] != 3 or np.any(zeros):
        raise Unsupported(reason)
    if not np.allclose(np.concatenate(alone), outputs, rtol=1e-12, atol=0.0):
        raise Unsupported(reason)


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
        raise Unsupported("it is not the product of a tensor and a constant")
    if not result.startswith(tensor[0]) or tensor[0] in constant:
        raise Unsupported("it contracts the batch axis")
    return lowering.builder.affine(
        inputs, lambda tensors, k: tf.einsum(subscripts, tensors[0], k), constants[0]
    )


def _pad(lowering, call, inputs):
    if call.operation.mode != "constant":
        raise Unsupported("only padding by a constant has a rule")
    return _moved(lowering, call, inputs)


def _clip(operation) -> Activation:
    low, high = (np.asarray(end, np.float64) for end in (operation.x_min, operation.x_max))
    if low.size != 1 or high.size != 1:
        raise Unsupported("only numbers have a rule as its limits: take maximum and minimum")
    if not low.item() <= high.item():
        raise Unsupported("its lower limit is not below its upper limit")
    return activations.clip(low.item(), high.item())


def _relu(operation) -> Activation:
    if operation.threshold:
        raise Unsupported("its function jumps at `threshold`")
    return activations.relu(operation.negative_slope or 0.0, operation.max_value)


_NUMPY, _NN, _CAST = "keras.src.ops.numpy.", "keras.src.ops.nn.", "keras.src.ops.core.Cast"

_ACTIVATIONS: dict[str, Callable] = {
    f"{_NN}Relu": lambda operation: activations.relu(),
    f"{_NN}Relu6": lambda operation: activations.relu(max_value=6.0),
    "keras.src.activations.activations.ReLU": _relu,
    f"{_NN}LeakyRelu": lambda operation: activations.relu(operation.negative_slope),
    f"{_NN}Elu": lambda operation: activations.elu(operation.alpha),
    f"{_NN}Selu": lambda operation: activations.FUNCTIONS[keras.activations.selu](),
    f"{_NN}Gelu": lambda operation: activations.gelu(operation.approximate),
    f"{_NN}Silu": lambda operation: activations.SILU,
    f"{_NN}Sigmoid": lambda operation: activations.SIGMOID,
    f"{_NN}Softplus": lambda operation: activations.SOFTPLUS,
    f"{_NN}Softsign": lambda operation: activations.SOFTSIGN,
    f"{_NN}HardSigmoid": lambda operation: activations.hard_sigmoid(),
    f"{_NN}Celu": lambda operation: activations.celu(operation.alpha),
    f"{_NN}HardSilu": lambda operation: activations.HARD_SILU,
    f"{_NN}HardTanh": lambda operation: activations.clip(-1.0, 1.0),
    f"{_NN}LogSigmoid": lambda operation: activations.LOG_SIGMOID,
    f"{_NN}SoftShrink": lambda operation: activations.soft_shrink(operation.threshold),
    f"{_NN}SparsePlus": lambda operation: activations.SPARSE_PLUS,
    f"{_NN}SparseSigmoid": lambda operation: activations.SPARSE_SIGMOID,
    f"{_NN}Squareplus": lambda operation: activations.squareplus(operation.b),
    f"{_NN}TanhShrink": lambda operation: activations.TANH_SHRINK,
    f"{_NUMPY}Clip": _clip,
    f"{_NUMPY}Tanh": lambda operation: activations.TANH,
    f"{_NUMPY}Exp": lambda operation: activations.EXPONENTIAL,
    f"{_NUMPY}Absolute": lambda operation: activations.relu(negative_slope=-1.0),
}

_MOVING = (
    *(
        f"{_NUMPY}{name}"
        for name in (
            "Concatenate",
            "ExpandDims",
            "Flip",
            "GetItem",
            "Mean",
            "Moveaxis",
            "Repeat",
            "Reshape",
            "Squeeze",
            "Stack",
            "Sum",
            "Swapaxes",
            "Take",
            "Transpose",
        )
    ),
    f"{_NN}AveragePool",
)

_RULES: dict[str, Callable] = {
    **dict.fromkeys(_MOVING, _moved),
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
