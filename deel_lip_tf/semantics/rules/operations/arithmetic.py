"""Sums, differences, products, maxima of two operands, of which one may be a constant."""

from collections.abc import Callable, Iterable

import numpy as np

from deel_lip_tf._rounding import product_up, quotient_up
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.integers import arithmetic
from deel_lip_tf.semantics.ir.decompositions import combined, extreme_of, extreme_with
from deel_lip_tf.semantics.operators import Merge
from deel_lip_tf.semantics.rounding import CallShapes, Rounding, few, gamma
from deel_lip_tf.semantics.rule import Rule, rule
from deel_lip_tf.semantics.rules.merging import check_batch, check_ranks, largest, summed
from deel_lip_tf.semantics.rules.normalization import broadcast_norm
from deel_lip_tf.semantics.sizes import every_axis
from deel_lip_tf.semantics.state import as_kept

NUMBERS = int | float | np.number | np.ndarray
"""The types of constants among the arguments of an operation."""


class _Arithmetic(Rule):
    """Two operands, of which one may be a constant.

    Attributes:
        of_integers: the function, extreme at the corners of its operands' ranges.
    """

    of_integers: Callable[[int, int], int]
    keeps_size = staticmethod(every_axis)

    def integers(self, call):
        return arithmetic(call, self.of_integers)

    def rounding(self, operation, shapes):
        return shifted(shapes, shapes.numbers)


@rule("Add")
class Add(_Arithmetic):
    """`x + y`."""

    of_integers = staticmethod(lambda a, b: a + b)

    def merge(self, call, norm):
        if len(call.inputs) == 1:
            check_shape(call)
            return Merge([1.0], False, "shift by a constant")
        return summed(call, norm)

    def lower_call(self, lowering, call, inputs):
        return self.added(lowering, call, inputs, 1.0)

    def added(self, lowering, call, inputs: list[int], sign: float) -> int:
        """Appends the first operand plus `sign` times the second."""
        nodes, constant, is_first = operands(call, inputs)
        if constant is None:
            check_ranks(lowering, nodes)
            return combined(lowering.builder, nodes, [1.0, sign])
        if is_first:
            return lowering.builder.scaled(nodes[0], scale=sign, shift=constant)
        return lowering.builder.scaled(nodes[0], shift=sign * constant)


@rule("Subtract")
class Subtract(Add):
    """`x - y`."""

    of_integers = staticmethod(lambda a, b: a - b)

    def lower_call(self, lowering, call, inputs):
        return self.added(lowering, call, inputs, -1.0)


@rule("Maximum")
class Maximum(_Arithmetic):
    """`max(x, y)`."""

    of_integers = staticmethod(max)

    def merge(self, call, norm):
        return largest(call, norm)

    def lower_call(self, lowering, call, inputs):
        return self.extreme(lowering, call, inputs, 1.0)

    def extreme(self, lowering, call, inputs: list[int], sign: float) -> int:
        """Appends the maximum (`sign` 1) or the minimum (-1) of the operands."""
        nodes, constant, _ = operands(call, inputs)
        if constant is not None:
            return extreme_with(lowering.builder, nodes[0], constant, sign)
        check_ranks(lowering, nodes)
        return extreme_of(lowering.builder, nodes, sign)


@rule("Minimum")
class Minimum(Maximum):
    """`min(x, y)`."""

    of_integers = staticmethod(min)

    def lower_call(self, lowering, call, inputs):
        return self.extreme(lowering, call, inputs, -1.0)


@rule("Multiply")
class Multiply(_Arithmetic):
    """`x * c`."""

    of_integers = staticmethod(lambda a, b: a * b)
    rounding = staticmethod(few)

    def merge(self, call, norm):
        number, rounding = _number(call, np.max)
        return Merge([product_up(number, rounding)], False, "product with a constant")

    def lower_call(self, lowering, call, inputs):
        nodes, constant, _ = operands(call, inputs)
        if constant is None:
            raise UnsupportedLayerError("a product of tensors has no linear relaxation here")
        return lowering.builder.scaled(nodes[0], scale=constant)


@rule("TrueDivide", "Divide")
class Divide(Rule):
    """`x / c`."""

    keeps_size = staticmethod(every_axis)
    rounding = staticmethod(few)

    def merge(self, call, norm):
        number, rounding = _number(call, np.min)
        if number == 0.0 or call.args[0] is not call.inputs[0]:
            raise UnsupportedLayerError("it divides by a tensor or by zero")
        return Merge([quotient_up(rounding, number)], False, "quotient by a constant")

    def lower_call(self, lowering, call, inputs):
        nodes, constant, is_first = operands(call, inputs)
        if constant is None or is_first or not (np.abs(constant) > 0).all():
            raise UnsupportedLayerError("it divides by a tensor or by zero")
        return lowering.builder.scaled(nodes[0], scale=1.0 / constant)


def operands(call: Call, inputs: list[int]) -> tuple[list[int], np.ndarray | None, bool]:
    """Of two operands the nodes, the constant if one of them is, and whether that comes first.

    Raises:
        UnsupportedLayerError: the constant is not finite.
    """
    known = dict(zip(call.inputs, inputs, strict=True))
    given = [*call.args, *call.kwargs.values()][:2]
    nodes = [known[operand] for operand in given if isinstance(operand, Value)]
    constants = [np.array(one, np.float64) for one in given if not isinstance(one, Value)]
    if not all(np.isfinite(one).all() for one in constants):
        raise UnsupportedLayerError("its constant is not finite")
    is_first = not isinstance(given[0], Value)
    return nodes, constants[0] if constants else None, is_first


def check_shape(call: Call) -> None:
    """Refuses a call that broadcasts its input."""
    check_batch(call)
    if call.outputs[0].shape[1:] != call.inputs[0].shape[1:]:
        raise UnsupportedLayerError("it broadcasts its input")


def shifted(shapes: CallShapes, numbers: Iterable) -> Rounding:
    """The rounding of a sum, difference or maximum with another tensor or with constants."""
    return shapes.rounding(gamma(8), sum(broadcast_norm(number, shapes) for number in numbers))


def _number(call: Call, choose: Callable) -> tuple[float, float]:
    """The one constant among the arguments, and a factor for its rounding to the tensor's type.

    Args:
        call: the product or quotient.
        choose: which of the absolute values of an array counts.

    Returns:
        `(|number|, factor)`: what counts of the constant, as it is written and as it is rounded,
        exceeds the number by less than the factor, which is 1 where nothing is rounded.
    """
    values = [*call.args, *call.kwargs.values()]
    constants = [np.asarray(v, np.float64) for v in values if isinstance(v, NUMBERS)]
    if len(call.inputs) != 1 or len(constants) != 1:
        raise UnsupportedLayerError("a product or quotient of tensors has no Lipschitz constant")
    check_shape(call)
    written, dtype = np.abs(constants[0]), call.outputs[0].dtype
    # Relative where it is not below the smallest normal number, where it may be all of it.
    kept = as_kept(written, dtype)
    number = float(choose([choose(written), choose(kept)]))
    if dtype == "float64" or (dtype == "float32" and (kept == written).all()):
        return number, 1.0
    return number, 1.0 + (2.0**-22 if dtype == "float32" else 2.0**-7)
