"""Operations of `keras.ops` in a functional graph, by the names of their classes.

None that has a float32 rule adds up many entries but a contraction: the evaluation of certificates
allows for the rounding of a few operations only.
"""

import math
from collections.abc import Callable

import numpy as np
from keras import activations

from deel_lip_tf._rounding import UP, number_rounding, product_up, quotient_up
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import FUNCTIONS
from deel_lip_tf.semantics.integers import arithmetic, hull, same, with_zero
from deel_lip_tf.semantics.operators import Matrices, Merge
from deel_lip_tf.semantics.rounding import CallShapes, gamma
from deel_lip_tf.semantics.rule import Rule, rule
from deel_lip_tf.semantics.rules.merging import (
    broadcast_weights,
    check_batch,
    concatenated,
    largest,
)
from deel_lip_tf.semantics.rules.normalization import broadcast_norm

__all__ = ["NUMBERS", "Contraction", "Elementwise"]

NUMBERS = int | float | np.number | np.ndarray
"""The types of constants among the arguments of an operation."""


# --- of single entries --------------------------------------------------------------------------


class Elementwise(Rule):
    """A function of each entry by itself.

    Attributes:
        method: in words.
        slope: the largest one.
    """

    method: str
    slope = 1.0

    def merge(self, call, norm):
        if len(call.inputs) != 1:
            raise UnsupportedLayerError("no rule is known for several inputs or outputs")
        _check_shape(call)
        return Merge([self.slope], False, self.method)

    def keeps_size(self, layer, axis, rank):
        return True


@rule("Negative")
class Negative(Elementwise):
    """`-x`."""

    method = "change of sign"

    def rounding(self, operation, shapes):
        return shapes.copied()

    def integers(self, call):
        low, high = call.inputs[0].integers
        return -high, -low


@rule("Absolute")
class Absolute(Elementwise):
    """`|x|`."""

    method = "slope of abs"

    def rounding(self, operation, shapes):
        return shapes.copied()

    def integers(self, call):
        low, high = call.inputs[0].integers
        return 0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))


@rule("Clip")
class Clip(Elementwise):
    """`min(max(x, x_min), x_max)`."""

    method = "slope of clip"

    def rounding(self, operation, shapes):
        return _shifted(shapes, (operation.x_min, operation.x_max))

    def keeps_size(self, layer, axis, rank):
        return False  # its limits may broadcast


@rule("Relu")
class Relu(Elementwise):
    """`max(x, 0)`."""

    method = "slope of relu"
    slope = FUNCTIONS[activations.relu].slope

    def rounding(self, operation, shapes):
        return shapes.copied()


@rule("Relu6")
class Relu6(Relu):
    """`min(max(x, 0), 6)`."""

    method = "slope of relu6"
    slope = FUNCTIONS[activations.relu6].slope


@rule("Tanh")
class Tanh(Elementwise):
    """`tanh(x)`."""

    method = "slope of tanh"
    slope = FUNCTIONS[activations.tanh].slope


@rule("Sigmoid")
class Sigmoid(Elementwise):
    """`1 / (1 + exp(-x))`."""

    method = "slope of sigmoid"
    slope = FUNCTIONS[activations.sigmoid].slope


@rule("LeakyRelu")
class LeakyRelu(Elementwise):
    """`x`, times a slope below 0."""

    method = "slope of leaky_relu"

    def merge(self, call, norm):
        slope = max(1.0, abs(float(call.operation.negative_slope)))
        rounding = 1.0 if slope == 1.0 else number_rounding(call.outputs[0].dtype)
        (weight,) = super().merge(call, norm).weights
        return Merge([product_up(weight, slope, rounding)], False, self.method)


@rule("Cast")
class Cast(Rule):
    """The same numbers in another type."""

    def merge(self, call, norm):
        return Merge([1.0], False, "change of type")

    def integers(self, call):
        # True is 1, but any other number than 0 becomes True.
        return None if call.outputs[0].dtype == "bool" else same(call)

    def keeps_size(self, layer, axis, rank):
        return True


# --- of two operands ----------------------------------------------------------------------------


class _Arithmetic(Rule):
    """Two operands, of which one may be a constant.

    Attributes:
        of_integers: the function, extreme at the corners of its operands' ranges.
    """

    of_integers: Callable[[int, int], int]

    def integers(self, call):
        return arithmetic(call, self.of_integers)

    def rounding(self, operation, shapes):
        return _shifted(shapes, shapes.numbers)

    def keeps_size(self, layer, axis, rank):
        # A constant operand has the size 1 where that of the result is unknown: Keras would know
        # any other.
        return True


@rule("Add")
class Add(_Arithmetic):
    """`x + y`."""

    of_integers = staticmethod(lambda a, b: a + b)

    def merge(self, call, norm):
        if len(call.inputs) == 1:
            _check_shape(call)
            return Merge([1.0], False, "shift by a constant")
        return Merge(broadcast_weights(call, norm), False, "sum of branches")


@rule("Subtract")
class Subtract(Add):
    """`x - y`."""

    of_integers = staticmethod(lambda a, b: a - b)


@rule("Maximum")
class Maximum(_Arithmetic):
    """`max(x, y)`."""

    of_integers = staticmethod(max)

    def merge(self, call, norm):
        return largest(call, norm)


@rule("Minimum")
class Minimum(Maximum):
    """`min(x, y)`."""

    of_integers = staticmethod(min)


@rule("Multiply")
class Multiply(_Arithmetic):
    """`x * c`."""

    of_integers = staticmethod(lambda a, b: a * b)

    def merge(self, call, norm):
        number, rounding = _number(call, np.max)
        return Merge([product_up(number, rounding)], False, "product with a constant")

    def rounding(self, operation, shapes):
        return shapes.rounding(gamma(8))


@rule("TrueDivide", "Divide")
class Divide(Rule):
    """`x / c`."""

    def merge(self, call, norm):
        number, rounding = _number(call, np.min)
        if number == 0.0 or call.args[0] is not call.inputs[0]:
            raise UnsupportedLayerError("it divides by a tensor or by zero")
        return Merge([quotient_up(rounding, number)], False, "quotient by a constant")

    def rounding(self, operation, shapes):
        return shapes.rounding(gamma(8))

    def keeps_size(self, layer, axis, rank):
        return True


# --- that move entries --------------------------------------------------------------------------


class _Moving(Rule):
    """Some of the entries of the input."""

    def rounding(self, operation, shapes):
        return shapes.copied()

    def integers(self, call):
        return same(call)


class _Reordering(_Moving):
    """All entries of each sample in another order."""

    def keeps_samples(self, operation, before: int, after: int) -> bool:
        """Whether the batch axis stays the first, by the ranks of input and output."""
        axes = operation.axis
        axes = [axes] if isinstance(axes, int) else axes
        return axes is not None and all(axis % max(before, after) != 0 for axis in axes)

    def merge(self, call, norm):
        before, after = call.inputs[0].shape, call.outputs[0].shape
        if None in (*before[1:], *after[1:]) or math.prod(before[1:]) != math.prod(after[1:]):
            raise UnsupportedLayerError("it may mix samples")
        ranks = len(before), len(after)
        if before[0] != after[0] or not self.keeps_samples(call.operation, *ranks):
            raise UnsupportedLayerError("it moves the batch axis")
        return Merge([1.0], False, "reordering of entries")


@rule("ExpandDims", "Squeeze", "Flip")
class AlongAxis(_Reordering):
    """An axis that is added, taken away or reversed."""


@rule("Reshape")
class Reshape(_Reordering):
    """Another shape."""

    def keeps_samples(self, operation, before, after):
        return True


@rule("Transpose")
class Transpose(_Reordering):
    """Axes in another order."""

    def keeps_samples(self, operation, before, after):
        return operation.axes is not None and operation.axes[0] % before == 0


@rule("Concatenate")
class Concatenate(_Moving):
    """Tensors side by side."""

    def merge(self, call, norm):
        return concatenated(call)


@rule("Take")
class Take(_Moving):
    """`take(x, indices, axis)`: an element as often as its index occurs."""

    def merge(self, call, norm):
        indices = call.argument(1, "indices")
        axis, shape = call.operation.axis, call.inputs[0].shape
        is_known = axis is not None and axis % len(shape) != 0 and shape[axis] is not None
        if len(call.inputs) != 1 or not is_known:
            raise UnsupportedLayerError("its axis or size is not known")
        counts = np.bincount(np.asarray(indices).ravel() % shape[axis])
        return Merge([norm.copies(int(counts.max(initial=0)))], False, "copies of entries")


@rule("GetItem")
class GetItem(_Moving):
    """`x[key]` with slices and integers: some of the entries, none twice."""

    def merge(self, call, norm):
        key = call.argument(1, "key")
        parts = key if isinstance(key, tuple) else (key,)
        is_plain = all(part is None or part is ... or type(part) in (slice, int) for part in parts)
        if len(call.inputs) != 1 or not is_plain or parts[0] not in (slice(None), ...):
            raise UnsupportedLayerError("it selects more than slices of each sample")
        if parts[0] is ... and len(parts) > len(call.inputs[0].shape):
            raise UnsupportedLayerError("it selects samples")
        return Merge([1.0], False, "part of the entries")


@rule("Split")
class Split(_Moving):
    """Parts of a tensor, side by side."""

    def merge(self, call, norm):
        if call.operation.axis % len(call.inputs[0].shape) == 0:
            raise UnsupportedLayerError("it splits along the batch axis")
        return Merge([1.0], False, "parts of the entries")


@rule("Pad")
class Pad(_Moving):
    """Constants around a tensor."""

    def merge(self, call, norm):
        if call.operation.mode != "constant":
            raise UnsupportedLayerError("it copies entries; no rule is known for it")
        return Merge([1.0], False, "padding by a constant")

    def integers(self, call):
        constant = call.argument(1, "constant_values")
        if constant is None:
            return with_zero(call)
        return hull((constant, *same(call))) if isinstance(constant, int) else None


@rule("Moveaxis", "Repeat", "Stack", "Swapaxes")
class OfIntegers(Rule):
    """Entries of the inputs: no bound is known, and integers stay in their range."""

    def integers(self, call):
        return same(call)


# --- products with matrices ---------------------------------------------------------------------


@rule("Einsum")
class Contraction(Rule):
    """`einsum` of a tensor and a constant matrix, along one axis of the tensor."""

    def call_operator(self, call):
        operands = [np.asarray(x) for x in call.args if isinstance(x, np.ndarray)]
        terms, _, result = call.operation.subscripts.replace(" ", "").partition("->")
        tensor, _, matrix = terms.partition(",")
        is_one = len(call.inputs) == 1 and len(operands) == 1
        is_plain = is_one and operands[0].ndim == 2 and len(matrix) == 2
        if is_plain:
            contracted, new = matrix
            is_plain = contracted in tensor[1:] and new not in tensor
            is_plain = is_plain and len(set(tensor)) == len(tensor)
        if not is_plain or result != tensor.replace(contracted, new):
            raise UnsupportedLayerError(
                "it is not the product with a constant matrix along one axis"
            )
        return Matrices(operands[0].astype(np.float64)[None])

    def rounding(self, operation, shapes):
        (matrix,) = (number for number in shapes.numbers if isinstance(number, np.ndarray))
        norm = float(np.linalg.norm(matrix)) * UP
        one = CallShapes(shapes.inputs, shapes.outputs, norm)
        return one.rounding(gamma(matrix.shape[0] + 4))


def _check_shape(call) -> None:
    check_batch(call)
    if call.outputs[0].shape[1:] != call.inputs[0].shape[1:]:
        raise UnsupportedLayerError("it broadcasts its input")


def _shifted(shapes: CallShapes, numbers):
    """The rounding of a sum, difference or maximum with another tensor or with constants."""
    return shapes.rounding(gamma(8), sum(broadcast_norm(number, shapes) for number in numbers))


def _number(call, choose: Callable) -> tuple[float, float]:
    """The one constant among the arguments, and a factor for its rounding to the tensor's type.

    Args:
        call: the product or quotient.
        choose: which of the absolute values of an array counts.

    Returns:
        `(|number|, factor)`: the rounded number and its inverse exceed the exact ones by less than
        the factor, which is 1 where the number is representable.
    """
    values = [*call.args, *call.kwargs.values()]
    constants = [np.asarray(v, np.float64) for v in values if isinstance(v, NUMBERS)]
    if len(call.inputs) != 1 or len(constants) != 1:
        raise UnsupportedLayerError("a product or quotient of tensors has no Lipschitz constant")
    _check_shape(call)
    number, dtype = float(choose(np.abs(constants[0]))), call.outputs[0].dtype
    is_kept = dtype == "float32" and (constants[0].astype(np.float32) == constants[0]).all()
    if dtype == "float64" or is_kept:
        return number, 1.0
    return number, 1.0 + (2.0**-22 if dtype == "float32" else 2.0**-7)
