"""Calls in a functional graph that are not a layer with one input: merges, and Keras operations.

Merge layers broadcast: an input with fewer elements is copied, `count ** (1 / p)` times as long.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from deel_lip_tf.bounds.layers import Unbounded
from deel_lip_tf.bounds.norms import L2, Norm
from deel_lip_tf.bounds.operators import Copies, Matrices, operator_bound
from deel_lip_tf.bounds.rounding import product_up, sum_up
from deel_lip_tf.bounds.sizes import are_equal
from deel_lip_tf.layers.known import activation_constant
from deel_lip_tf.layers.residual import LipResidual

__all__ = ["Merge", "check_call", "merge_of", "merge_rule"]

_OPERATIONS = "keras.src.ops."


@dataclass(frozen=True)
class Merge:
    """What a call does to the differences d_i of its inputs.

    Attributes:
        weights: c_i, one for each input.
        is_joined: whether `||d||**p <= sum (c_i ||d_i||)**p` (parts side by side, or the largest
            of several) instead of `||d|| <= sum c_i ||d_i||`.
        method: in words.
    """

    weights: list[float]
    is_joined: bool
    method: str

    def total(self, constants: list[float], norm: Norm) -> float:
        """Constant of the output, given those of the inputs with respect to one vector."""
        terms = [product_up(c, k) for c, k in zip(self.weights, constants, strict=True)]
        return norm.joined(terms) if self.is_joined else sum_up(terms)

    def apart(self, constants: list[float], norm: Norm) -> float:
        """The same, where the inputs depend on different parts of that vector each."""
        terms = [product_up(c, k) for c, k in zip(self.weights, constants, strict=True)]
        if not self.is_joined:
            return norm.dual.joined(terms)
        return math.nan if any(map(math.isnan, terms)) else max(terms)


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


def merge_of(node, norm: Norm = L2) -> Merge | None:
    """How a call merges its inputs, or None where it is the call of a layer with one input.

    Raises:
        Unbounded: if the operation, or the way it is called, has no rule.
    """
    rule = _rule(node.operation)
    return None if rule is None else rule(node, norm)


def merge_rule(operation, norm: Norm = L2) -> Callable[..., tuple[float, float, str]] | None:
    """The rule for an operation that is not a layer with one input, by its exact type.

    Returns:
        A function of a call and of the constants of its inputs: it gives the constant with respect
        to the joint input, the operation's own constant, and the method. Or None.
    """
    rule = _rule(operation)
    return None if rule is None else functools.partial(_merged, rule, norm)


def _merged(rule, norm: Norm, node, constants: list[float]) -> tuple[float, float, str]:
    merge = rule(node, norm)
    own = merge.apart([1.0] * len(constants), norm)
    return merge.total(constants, norm), own, merge.method


def _rule(operation) -> Callable[..., Merge] | None:
    if (rule := _MERGES.get(type(operation))) is not None:
        return rule
    if type(operation).__module__.startswith(_OPERATIONS):
        return _KERAS_OPERATIONS.get(type(operation).__name__, _unknown)
    return None


def _copies(node, norm: Norm) -> list[float]:
    """By how much each input grows where it is broadcast to the shape of the output."""
    _check_batch(node)
    output = node.outputs[0].shape[1:]
    shapes = [tensor.shape[1:] for tensor in node.input_tensors]
    if shapes == [output]:
        return [1.0]
    if len({len(shape) for shape in shapes}) > 1:
        raise Unbounded("inputs of different ranks are broadcast: reshape them first")
    if any(None in shape for shape in (output, *shapes)):
        output, *shapes = _known_sizes(node)
    counts = [math.prod(output) // max(math.prod(shape), 1) for shape in shapes]
    return [norm.copies(count) for count in counts]


def _known_sizes(node) -> list[list[int]]:
    """Sizes of the output and of each input without the axes of unknown size, if these are equal.

    Raises:
        Unbounded: if one of them may be broadcast.
    """
    tensors = [node.outputs[0], *node.input_tensors]
    axes = range(1, len(tensors[0].shape))
    is_open = {axis: any(x.shape[axis] is None for x in tensors) for axis in axes}
    if not all(are_equal(tensors, axis) for axis in axes if is_open[axis]):
        raise Unbounded(
            "inputs of unknown size may be broadcast: give the model fixed sizes by `Input(shape)`"
        )
    return [[x.shape[axis] for axis in axes if not is_open[axis]] for x in tensors]


def _add(node, norm: Norm) -> Merge:
    return Merge(_copies(node, norm), False, "sum of branches")


def _average(node, norm: Norm) -> Merge:
    weights = _copies(node, norm)
    return Merge([_quotient(c, len(weights)) for c in weights], False, "mean of branches")


def _largest(node, norm: Norm) -> Merge:
    # |max(a, b) - max(c, d)| <= max(|a - c|, |b - d|) at every entry.
    return Merge(_copies(node, norm), True, "largest or smallest of branches")


def _concatenate(node, norm: Norm) -> Merge:
    axis = node.operation.axis
    if axis is None or axis % len(node.outputs[0].shape) == 0:
        raise Unbounded("it joins samples along the batch axis")
    return Merge([1.0] * len(node.input_tensors), True, "concatenation of branches")


def _multiply(node, norm: Norm) -> Merge:
    raise Unbounded("a product of tensors has no Lipschitz constant")


def _unknown(node, norm: Norm) -> Merge:
    raise Unbounded("no rule is known for this operation; wrap it in a layer with a known one")


def _quotient(value: float, divisor: float) -> float:
    return math.nextafter(value / divisor, math.inf) if divisor != 1.0 else value


def _shift(node, norm: Norm) -> Merge:
    """`x + y` or `x - y`, where one of them may be a constant."""
    if len(node.input_tensors) == 1:
        _check_shape(node)
        return Merge([1.0], False, "shift by a constant")
    return _add(node, norm)


def _check_batch(node) -> None:
    if any(x.shape[0] != node.outputs[0].shape[0] for x in node.input_tensors):
        raise Unbounded("it broadcasts the batch axis")


def _check_shape(node) -> None:
    _check_batch(node)
    if node.outputs[0].shape[1:] != node.input_tensors[0].shape[1:]:
        raise Unbounded("it broadcasts its input")


def _single(method: str, weight: float = 1.0) -> Callable[..., Merge]:
    """A rule for one input: each entry by itself, with slopes of at most `weight`."""

    def rule(node, norm: Norm) -> Merge:
        if len(node.input_tensors) != 1:
            raise Unbounded("no rule is known for several inputs or outputs")
        _check_shape(node)
        return Merge([weight], False, method)

    return rule


def _activation(function: Callable) -> Callable[..., Merge]:
    name = f"slope of {function.__name__}"
    return _single(name, activation_constant(function))


def _leaky_relu(node, norm: Norm) -> Merge:
    slope = max(1.0, abs(float(node.operation.negative_slope)))
    rounding = 1.0 if slope == 1.0 else _ROUNDING.get(node.outputs[0].dtype, 1.0 + 2.0**-6)
    return _single("slope of leaky_relu", product_up(slope, rounding))(node, norm)


def _cast(node, norm: Norm) -> Merge:
    if not keras.backend.is_float_dtype(node.outputs[0].dtype):
        raise Unbounded("it rounds to integers")
    return Merge([1.0], False, "change of type")


def _times(node, norm: Norm) -> Merge:
    number, rounding = _number(node)
    return Merge([product_up(number, rounding)], False, "product with a constant")


def _divided(node, norm: Norm) -> Merge:
    number, rounding = _number(node)
    if number == 0.0 or node.arguments.args[0] is not node.input_tensors[0]:
        raise Unbounded("it divides by a tensor or by zero")
    return Merge([_quotient(rounding, number)], False, "quotient by a constant")


def _take(node, norm: Norm) -> Merge:
    """`take(x, indices, axis)` copies an element as often as its index occurs."""
    arguments, keywords = node.arguments.args, node.arguments.kwargs
    indices = arguments[1] if len(arguments) > 1 else keywords.get("indices")
    axis, shape = node.operation.axis, node.input_tensors[0].shape
    is_known = axis is not None and axis % len(shape) != 0 and shape[axis] is not None
    if len(node.input_tensors) != 1 or not is_known:
        raise Unbounded("its axis or size is not known")
    counts = np.bincount(np.asarray(indices).ravel() % shape[axis])
    copies, _ = operator_bound(Copies(int(counts.max(initial=0))), norm)
    return Merge([copies], False, "copies of entries")


def _moved(is_kept: Callable[..., bool]) -> Callable[..., Merge]:
    """A rule for reordering all entries of each sample; `is_kept` says whether samples are kept."""

    def rule(node, norm: Norm) -> Merge:
        before, after = node.input_tensors[0].shape, node.outputs[0].shape
        if None in (*before[1:], *after[1:]) or math.prod(before[1:]) != math.prod(after[1:]):
            raise Unbounded("it may mix samples")
        if before[0] != after[0] or not is_kept(node.operation, len(before), len(after)):
            raise Unbounded("it moves the batch axis")
        return Merge([1.0], False, "reordering of entries")

    return rule


def _keeps_first(operation, before: int, after: int) -> bool:
    return operation.axes is not None and operation.axes[0] % before == 0


def _not_first(operation, before: int, after: int) -> bool:
    axes = operation.axis
    axes = [axes] if isinstance(axes, int) else axes
    return axes is not None and all(axis % max(before, after) != 0 for axis in axes)


def _part(node, norm: Norm) -> Merge:
    """`x[key]` with slices and integers: some of the entries, none twice."""
    key = node.arguments.args[1] if len(node.arguments.args) > 1 else None
    parts = key if isinstance(key, tuple) else (key,)
    is_plain = all(part is None or part is ... or type(part) in (slice, int) for part in parts)
    if len(node.input_tensors) != 1 or not is_plain or parts[0] not in (slice(None), ...):
        raise Unbounded("it selects more than slices of each sample")
    if parts[0] is ... and len(parts) > len(node.input_tensors[0].shape):
        raise Unbounded("it selects samples")
    return Merge([1.0], False, "part of the entries")


def _split(node, norm: Norm) -> Merge:
    if node.operation.axis % len(node.input_tensors[0].shape) == 0:
        raise Unbounded("it splits along the batch axis")
    return Merge([1.0], False, "parts of the entries")


def _pad(node, norm: Norm) -> Merge:
    if node.operation.mode != "constant":
        raise Unbounded("it copies entries; no rule is known for it")
    return Merge([1.0], False, "padding by a constant")


def _contraction(node, norm: Norm) -> Merge:
    """`einsum` of a tensor and a constant matrix, along one axis of the tensor."""
    reason = "it is not the product with a constant matrix along one axis"
    operands = [np.asarray(x) for x in node.arguments.args if isinstance(x, np.ndarray)]
    terms, _, result = node.operation.subscripts.replace(" ", "").partition("->")
    tensor, _, matrix = terms.partition(",")
    is_one = len(node.input_tensors) == 1 and len(operands) == 1
    if not is_one or operands[0].ndim != 2 or len(matrix) != 2:
        raise Unbounded(reason)
    contracted, new = matrix
    is_plain = contracted in tensor[1:] and new not in tensor and len(set(tensor)) == len(tensor)
    if not is_plain or result != tensor.replace(contracted, new):
        raise Unbounded(reason)
    own, method = operator_bound(Matrices(operands[0].astype(np.float64)[None]), norm)
    return Merge([own], False, method.replace("the kernel", "a constant matrix"))


def _convex(node, norm: Norm) -> Merge:
    """A sum with the shares of a `LipResidual`."""
    layer = node.operation
    if len(node.input_tensors) != 2:
        raise Unbounded("it takes two inputs")
    _copies(node, norm)  # refuses what may be broadcast; known sizes are equal
    # The shares are rounded to the compute type of the layer.
    rounding = _ROUNDING.get(layer.compute_dtype, 1.0 + 2.0**-6)
    shares = [product_up(share, rounding) for share in layer.shares()]
    return Merge(shares, False, "convex combination of branches")


# What rounding a number to a type, and a few operations in it, may add.
_ROUNDING = {"float64": 1.0 + 2.0**-50, "float32": 1.0 + 2.0**-21}


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


_MERGES: dict[type, Callable[..., Merge]] = {
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

# No operation that adds up many entries: the evaluation of certificates allows for the rounding of
# a few operations only.
_KERAS_OPERATIONS: dict[str, Callable[..., Merge]] = {
    "Add": _shift,
    "Subtract": _shift,
    "Maximum": _largest,
    "Minimum": _largest,
    "Concatenate": _concatenate,
    "Negative": _single("change of sign"),
    "Absolute": _single("slope of abs"),
    "Clip": _single("slope of clip"),
    "Relu": _activation(keras.activations.relu),
    "Relu6": _activation(keras.activations.relu6),
    "Tanh": _activation(keras.activations.tanh),
    "Sigmoid": _activation(keras.activations.sigmoid),
    "LeakyRelu": _leaky_relu,
    "Cast": _cast,
    "Multiply": _times,
    "TrueDivide": _divided,
    "Divide": _divided,
    "Take": _take,
    "GetItem": _part,
    "Split": _split,
    "Reshape": _moved(lambda operation, before, after: True),
    "Transpose": _moved(_keeps_first),
    "ExpandDims": _moved(_not_first),
    "Squeeze": _moved(_not_first),
    "Flip": _moved(_not_first),
    "Pad": _pad,
    "Einsum": _contraction,
}
