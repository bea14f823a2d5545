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

from deel_lip_tf._rounding import product_up, sum_up
from deel_lip_tf.bounds.layers import Unbounded
from deel_lip_tf.bounds.norms.operators import Copies, Matrices, operator_bound
from deel_lip_tf.bounds.sizes import are_equal
from deel_lip_tf.layers.known import activation_constant
from deel_lip_tf.layers.residual import LipResidual
from deel_lip_tf.semantics.graph import Call
from deel_lip_tf.semantics.norms import L2, Norm

__all__ = ["Merge", "merge_of", "merge_rule"]

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


def merge_of(call: Call, norm: Norm = L2) -> Merge | None:
    """How a call merges its inputs, or None where it is the call of a layer with one input.

    Raises:
        Unbounded: if the operation, or the way it is called, has no rule.
    """
    if call.refusal is not None:
        raise Unbounded(call.refusal)
    rule = _rule(call.operation)
    return None if rule is None else rule(call, norm)


def merge_rule(operation, norm: Norm = L2) -> Callable[..., tuple[float, float, str]] | None:
    """The rule for an operation that is not a layer with one input, by its exact type.

    Returns:
        A function of a call and of the constants of its inputs: it gives the constant with respect
        to the joint input, the operation's own constant, and the method. Or None.
    """
    rule = _rule(operation)
    return None if rule is None else functools.partial(_merged, rule, norm)


def _merged(rule, norm: Norm, call: Call, constants: list[float]) -> tuple[float, float, str]:
    merge = rule(call, norm)
    own = merge.apart([1.0] * len(constants), norm)
    return merge.total(constants, norm), own, merge.method


def _rule(operation) -> Callable[..., Merge] | None:
    if (rule := _MERGES.get(type(operation))) is not None:
        return rule
    if type(operation).__module__.startswith(_OPERATIONS):
        return _KERAS_OPERATIONS.get(type(operation).__name__, _unknown)
    return None


def _copies(call: Call, norm: Norm) -> list[float]:
    """By how much each input grows where it is broadcast to the shape of the output."""
    _check_batch(call)
    output = call.outputs[0].shape[1:]
    shapes = [tensor.shape[1:] for tensor in call.inputs]
    if shapes == [output]:
        return [1.0]
    if len({len(shape) for shape in shapes}) > 1:
        raise Unbounded("inputs of different ranks are broadcast: reshape them first")
    if any(None in shape for shape in (output, *shapes)):
        output, *shapes = _known_sizes(call)
    counts = [math.prod(output) // max(math.prod(shape), 1) for shape in shapes]
    return [norm.copies(count) for count in counts]


def _known_sizes(call: Call) -> list[list[int]]:
    """Sizes of the output and of each input without the axes of unknown size, if these are equal.

    Raises:
        Unbounded: if one of them may be broadcast.
    """
    tensors = [call.outputs[0], *call.inputs]
    axes = range(1, len(tensors[0].shape))
    is_open = {axis: any(x.shape[axis] is None for x in tensors) for axis in axes}
    if not all(are_equal(tensors, axis) for axis in axes if is_open[axis]):
        raise Unbounded(
            "inputs of unknown size may be broadcast: give the model fixed sizes by `Input(shape)`"
        )
    return [[x.shape[axis] for axis in axes if not is_open[axis]] for x in tensors]


def _add(call: Call, norm: Norm) -> Merge:
    return Merge(_copies(call, norm), False, "sum of branches")


def _average(call: Call, norm: Norm) -> Merge:
    weights = _copies(call, norm)
    return Merge([_quotient(c, len(weights)) for c in weights], False, "mean of branches")


def _largest(call: Call, norm: Norm) -> Merge:
    # |max(a, b) - max(c, d)| <= max(|a - c|, |b - d|) at every entry.
    return Merge(_copies(call, norm), True, "largest or smallest of branches")


def _concatenate(call: Call, norm: Norm) -> Merge:
    axis = call.operation.axis
    if axis is None or axis % len(call.outputs[0].shape) == 0:
        raise Unbounded("it joins samples along the batch axis")
    return Merge([1.0] * len(call.inputs), True, "concatenation of branches")


def _multiply(call: Call, norm: Norm) -> Merge:
    raise Unbounded("a product of tensors has no Lipschitz constant")


def _unknown(call: Call, norm: Norm) -> Merge:
    raise Unbounded("no rule is known for this operation; wrap it in a layer with a known one")


def _quotient(value: float, divisor: float) -> float:
    return math.nextafter(value / divisor, math.inf) if divisor != 1.0 else value


def _shift(call: Call, norm: Norm) -> Merge:
    """`x + y` or `x - y`, where one of them may be a constant."""
    if len(call.inputs) == 1:
        _check_shape(call)
        return Merge([1.0], False, "shift by a constant")
    return _add(call, norm)


def _check_batch(call: Call) -> None:
    if any(x.shape[0] != call.outputs[0].shape[0] for x in call.inputs):
        raise Unbounded("it broadcasts the batch axis")


def _check_shape(call: Call) -> None:
    _check_batch(call)
    if call.outputs[0].shape[1:] != call.inputs[0].shape[1:]:
        raise Unbounded("it broadcasts its input")


def _single(method: str, weight: float = 1.0) -> Callable[..., Merge]:
    """A rule for one input: each entry by itself, with slopes of at most `weight`."""

    def rule(call: Call, norm: Norm) -> Merge:
        if len(call.inputs) != 1:
            raise Unbounded("no rule is known for several inputs or outputs")
        _check_shape(call)
        return Merge([weight], False, method)

    return rule


def _activation(function: Callable) -> Callable[..., Merge]:
    name = f"slope of {function.__name__}"
    return _single(name, activation_constant(function))


def _leaky_relu(call: Call, norm: Norm) -> Merge:
    slope = max(1.0, abs(float(call.operation.negative_slope)))
    rounding = 1.0 if slope == 1.0 else _ROUNDING.get(call.outputs[0].dtype, 1.0 + 2.0**-6)
    return _single("slope of leaky_relu", product_up(slope, rounding))(call, norm)


def _cast(call: Call, norm: Norm) -> Merge:
    return Merge([1.0], False, "change of type")


def _times(call: Call, norm: Norm) -> Merge:
    number, rounding = _number(call)
    return Merge([product_up(number, rounding)], False, "product with a constant")


def _divided(call: Call, norm: Norm) -> Merge:
    number, rounding = _number(call, np.min)
    if number == 0.0 or call.args[0] is not call.inputs[0]:
        raise Unbounded("it divides by a tensor or by zero")
    return Merge([_quotient(rounding, number)], False, "quotient by a constant")


def _take(call: Call, norm: Norm) -> Merge:
    """`take(x, indices, axis)` copies an element as often as its index occurs."""
    indices = call.argument(1, "indices")
    axis, shape = call.operation.axis, call.inputs[0].shape
    is_known = axis is not None and axis % len(shape) != 0 and shape[axis] is not None
    if len(call.inputs) != 1 or not is_known:
        raise Unbounded("its axis or size is not known")
    counts = np.bincount(np.asarray(indices).ravel() % shape[axis])
    copies, _ = operator_bound(Copies(int(counts.max(initial=0))), norm)
    return Merge([copies], False, "copies of entries")


def _moved(is_kept: Callable[..., bool]) -> Callable[..., Merge]:
    """A rule for reordering all entries of each sample; `is_kept` says whether samples are kept."""

    def rule(call: Call, norm: Norm) -> Merge:
        before, after = call.inputs[0].shape, call.outputs[0].shape
        if None in (*before[1:], *after[1:]) or math.prod(before[1:]) != math.prod(after[1:]):
            raise Unbounded("it may mix samples")
        if before[0] != after[0] or not is_kept(call.operation, len(before), len(after)):
            raise Unbounded("it moves the batch axis")
        return Merge([1.0], False, "reordering of entries")

    return rule


def _keeps_first(operation, before: int, after: int) -> bool:
    return operation.axes is not None and operation.axes[0] % before == 0


def _not_first(operation, before: int, after: int) -> bool:
    axes = operation.axis
    axes = [axes] if isinstance(axes, int) else axes
    return axes is not None and all(axis % max(before, after) != 0 for axis in axes)


def _part(call: Call, norm: Norm) -> Merge:
    """`x[key]` with slices and integers: some of the entries, none twice."""
    key = call.argument(1, "key")
    parts = key if isinstance(key, tuple) else (key,)
    is_plain = all(part is None or part is ... or type(part) in (slice, int) for part in parts)
    if len(call.inputs) != 1 or not is_plain or parts[0] not in (slice(None), ...):
        raise Unbounded("it selects more than slices of each sample")
    if parts[0] is ... and len(parts) > len(call.inputs[0].shape):
        raise Unbounded("it selects samples")
    return Merge([1.0], False, "part of the entries")


def _split(call: Call, norm: Norm) -> Merge:
    if call.operation.axis % len(call.inputs[0].shape) == 0:
        raise Unbounded("it splits along the batch axis")
    return Merge([1.0], False, "parts of the entries")


def _pad(call: Call, norm: Norm) -> Merge:
    if call.operation.mode != "constant":
        raise Unbounded("it copies entries; no rule is known for it")
    return Merge([1.0], False, "padding by a constant")


def _contraction(call: Call, norm: Norm) -> Merge:
    """`einsum` of a tensor and a constant matrix, along one axis of the tensor."""
    reason = "it is not the product with a constant matrix along one axis"
    operands = [np.asarray(x) for x in call.args if isinstance(x, np.ndarray)]
    terms, _, result = call.operation.subscripts.replace(" ", "").partition("->")
    tensor, _, matrix = terms.partition(",")
    is_one = len(call.inputs) == 1 and len(operands) == 1
    if not is_one or operands[0].ndim != 2 or len(matrix) != 2:
        raise Unbounded(reason)
    contracted, new = matrix
    is_plain = contracted in tensor[1:] and new not in tensor and len(set(tensor)) == len(tensor)
    if not is_plain or result != tensor.replace(contracted, new):
        raise Unbounded(reason)
    own, method = operator_bound(Matrices(operands[0].astype(np.float64)[None]), norm)
    return Merge([own], False, method.replace("the kernel", "a constant matrix"))


def _convex(call: Call, norm: Norm) -> Merge:
    """A sum with the shares of a `LipResidual`."""
    layer = call.operation
    if len(call.inputs) != 2:
        raise Unbounded("it takes two inputs")
    _copies(call, norm)  # refuses what may be broadcast; known sizes are equal
    # The shares are rounded to the compute type of the layer.
    rounding = _ROUNDING.get(layer.compute_dtype, 1.0 + 2.0**-6)
    shares = [product_up(share, rounding) for share in layer.shares()]
    return Merge(shares, False, "convex combination of branches")


# What rounding a number to a type, and a few operations in it, may add.
_ROUNDING = {"float64": 1.0 + 2.0**-50, "float32": 1.0 + 2.0**-21}


_NUMBERS = int | float | np.number | np.ndarray


def _number(call: Call, choose: Callable = np.max) -> tuple[float, float]:
    """The one constant among the arguments, and a factor for its rounding to the tensor's type.

    Args:
        call: the product or quotient.
        choose: which of the absolute values of an array counts.

    Returns:
        `(|number|, factor)`: the rounded number and its inverse exceed the exact ones by less than
        the factor, which is 1 where the number is representable.
    """
    values = [*call.args, *call.kwargs.values()]
    constants = [np.asarray(v, np.float64) for v in values if isinstance(v, _NUMBERS)]
    if len(call.inputs) != 1 or len(constants) != 1:
        raise Unbounded("a product or quotient of tensors has no Lipschitz constant")
    _check_shape(call)
    number, dtype = float(choose(np.abs(constants[0]))), call.outputs[0].dtype
    is_kept = dtype == "float32" and (constants[0].astype(np.float32) == constants[0]).all()
    if dtype == "float64" or is_kept:
        return number, 1.0
    return number, 1.0 + (2.0**-22 if dtype == "float32" else 2.0**-7)


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
