"""Calls in a functional graph that are not a layer with one input: merges, and Keras operations.

Merge layers broadcast: an input with fewer elements is copied, `sqrt(copies)` times as long.
"""

import math
from collections.abc import Callable

import numpy as np
from keras import layers

from deel_lip_tf.bounds.layers import Unbounded
from deel_lip_tf.bounds.matrices import spectral_norm_bound
from deel_lip_tf.bounds.rounding import norm_up, product_up, sqrt_up, sum_up
from deel_lip_tf.layers.residual import LipResidual

__all__ = ["check_call", "merge_rule"]

Merged = tuple[float, float, str]
"""Constant with respect to the joint input, the operation's own constant, and the method."""

_OPERATIONS = "keras.src.ops."


def check_call(node) -> None:
    """Refuses a call that does not compute what the layer computes at inference.

    Raises:
        Unbounded: if `training=True` was fixed in the call, or a mask was given.
    """
    for name, value in node.arguments.kwargs.items():
        if name == "training" and value:
            raise Unbounded("it is called with training=True")
        masks = value if isinstance(value, list | tuple) else [value]
        if name == "mask" and any(mask is not None for mask in masks):
            raise Unbounded("it is called with a mask")


def merge_rule(operation) -> Callable[..., Merged] | None:
    """The rule for an operation that is not a layer with one input, by its exact type."""
    if (rule := _MERGES.get(type(operation))) is not None:
        return rule
    if type(operation).__module__.startswith(_OPERATIONS):
        return _KERAS_OPERATIONS.get(type(operation).__name__, _unknown)
    return None


def _broadcast(node, constants: list[float]) -> list[float]:
    """Constants of the inputs after they are broadcast to the shape of the output."""
    output = node.outputs[0].shape[1:]
    shapes = [tensor.shape[1:] for tensor in node.input_tensors]
    if shapes == [output]:
        return constants
    if any(None in shape for shape in (output, *shapes)):
        raise Unbounded(
            "inputs of unknown size may be broadcast: give the model fixed sizes by `Input(shape)`"
        )
    if len({len(tensor.shape) for tensor in node.input_tensors}) > 1:
        raise Unbounded("inputs of different ranks are broadcast: reshape them first")
    copies = [math.prod(output) // max(math.prod(shape), 1) for shape in shapes]
    return [product_up(c, sqrt_up(n)) for c, n in zip(constants, copies, strict=True)]


def _add(node, constants: list[float]) -> Merged:
    constants = _broadcast(node, constants)
    own = norm_up(_broadcast(node, [1.0] * len(constants)))
    return sum_up(constants), own, "sum of branches"


def _average(node, constants: list[float]) -> Merged:
    total, own, _ = _add(node, constants)
    count = len(constants)
    return _quotient(total, count), _quotient(own, count), "mean of branches"


def _largest(node, constants: list[float]) -> Merged:
    # |max(a, b) - max(c, d)| <= max(|a - c|, |b - d|) at every entry.
    constants = _broadcast(node, constants)
    own = max(_broadcast(node, [1.0] * len(constants)))
    return norm_up(constants), own, "largest or smallest of branches"


def _concatenate(node, constants: list[float]) -> Merged:
    axis = node.operation.axis
    if axis in (0, -len(node.outputs[0].shape)):
        raise Unbounded("it joins samples along the batch axis")
    return norm_up(constants), 1.0, "concatenation of branches"


def _multiply(node, constants: list[float]) -> Merged:
    raise Unbounded("a product of tensors has no Lipschitz constant")


def _unknown(node, constants: list[float]) -> Merged:
    raise Unbounded("no rule is known for this operation; wrap it in a layer with a known one")


def _quotient(value: float, divisor: float) -> float:
    return math.nextafter(value / divisor, math.inf) if divisor != 1.0 else value


def _shift(node, constants: list[float]) -> Merged:
    """`x + y` or `x - y`, where one of them may be a constant."""
    if len(constants) == 1:
        if node.outputs[0].shape[1:] != node.input_tensors[0].shape[1:]:
            raise Unbounded("it broadcasts its input")
        return constants[0], 1.0, "shift by a constant"
    return _add(node, constants)


def _negative(node, constants: list[float]) -> Merged:
    return constants[0], 1.0, "change of sign"


def _times(node, constants: list[float]) -> Merged:
    number, rounding = _number(node)
    scale = product_up(number, rounding)
    return product_up(constants[0], scale), scale, "product with a constant"


def _divided(node, constants: list[float]) -> Merged:
    number, rounding = _number(node)
    if number == 0.0 or node.arguments.args[0] is not node.input_tensors[0]:
        raise Unbounded("it divides by a tensor or by zero")
    scale = _quotient(rounding, number)
    return product_up(constants[0], scale), scale, "quotient by a constant"


def _take(node, constants: list[float]) -> Merged:
    """`take(x, indices, axis)` copies an element as often as its index occurs."""
    arguments, keywords = node.arguments.args, node.arguments.kwargs
    indices = arguments[1] if len(arguments) > 1 else keywords.get("indices")
    axis, shape = node.operation.axis, node.input_tensors[0].shape
    if len(constants) != 1 or axis is None or axis % len(shape) == 0 or shape[axis] is None:
        raise Unbounded("its axis or size is not known")
    counts = np.bincount(np.asarray(indices).ravel() % shape[axis])
    copies = sqrt_up(int(counts.max(initial=0)))
    return product_up(constants[0], copies), copies, "copies of entries"


def _pad(node, constants: list[float]) -> Merged:
    if node.operation.mode != "constant":
        raise Unbounded("it copies entries; no rule is known for it")
    return constants[0], 1.0, "padding by a constant"


def _contraction(node, constants: list[float]) -> Merged:
    """`einsum` of a tensor and a constant matrix, along one axis of the tensor."""
    reason = "it is not the product with a constant matrix along one axis"
    operands = [np.asarray(x) for x in node.arguments.args if isinstance(x, np.ndarray)]
    terms, _, result = node.operation.subscripts.replace(" ", "").partition("->")
    tensor, _, matrix = terms.partition(",")
    if len(constants) != 1 or len(operands) != 1 or operands[0].ndim != 2 or len(matrix) != 2:
        raise Unbounded(reason)
    contracted, new = matrix
    is_plain = contracted in tensor[1:] and new not in tensor and len(set(tensor)) == len(tensor)
    if not is_plain or result != tensor.replace(contracted, new):
        raise Unbounded(reason)
    own = spectral_norm_bound(operands[0])
    return product_up(constants[0], own), own, "spectral norm of a constant matrix"


def _convex(node, constants: list[float]) -> Merged:
    """A sum with the shares of a `LipResidual`."""
    layer = node.operation
    if len(constants) != 2:
        raise Unbounded("it takes two inputs")
    # The shares are rounded to the compute type of the layer.
    rounding = 1.0 + {"float64": 2.0**-50, "float32": 2.0**-21}.get(layer.compute_dtype, 2.0**-6)
    shares = [product_up(share, rounding) for share in layer.shares()]
    terms = [product_up(c, share) for c, share in zip(constants, shares, strict=True)]
    return sum_up(terms), norm_up(shares), "convex combination of branches"


def _number(node) -> tuple[float, float]:
    """The one number among the arguments, and a factor for its rounding to the type of the tensor.

    Returns:
        `(|number|, factor)`: the rounded number and its inverse exceed the exact ones by less than
        the factor, which is 1 where the number is representable.
    """
    values = [*node.arguments.args, *node.arguments.kwargs.values()]
    numbers = [float(v) for v in values if isinstance(v, int | float | np.number)]
    if len(node.input_tensors) != 1 or len(numbers) != 1:
        raise Unbounded("a product or quotient of tensors has no Lipschitz constant")
    dtype = node.outputs[0].dtype
    if dtype == "float64" or (dtype == "float32" and float(np.float32(numbers[0])) == numbers[0]):
        return abs(numbers[0]), 1.0
    return abs(numbers[0]), 1.0 + (2.0**-22 if dtype == "float32" else 2.0**-7)


_MERGES: dict[type, Callable[..., Merged]] = {
    layers.Add: _add,
    layers.Subtract: _add,
    layers.Average: _average,
    layers.Maximum: _largest,
    layers.Minimum: _largest,
    layers.Concatenate: _concatenate,
    layers.Multiply: _multiply,
    layers.Dot: _multiply,
    LipResidual: _convex,
}

_KERAS_OPERATIONS: dict[str, Callable[..., Merged]] = {
    "Add": _shift,
    "Subtract": _shift,
    "Maximum": _largest,
    "Minimum": _largest,
    "Negative": _negative,
    "Multiply": _times,
    "TrueDivide": _divided,
    "Divide": _divided,
    "Take": _take,
    "Pad": _pad,
    "Einsum": _contraction,
}
