"""Functions of each entry by itself."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from keras import activations

from deel_lip_tf._rounding import number_rounding, product_up
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import FUNCTIONS, proven_slope
from deel_lip_tf.semantics.integers import same
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.semantics.ir.primitives import Scale
from deel_lip_tf.semantics.operators import Merge
from deel_lip_tf.semantics.rounding import copied
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.rules.activation import rectifier
from deel_lip_tf.semantics.rules.operations.arithmetic import check_shape, shifted
from deel_lip_tf.semantics.sizes import every_axis


class Formula(Rule):
    """A function of each entry that is verified."""

    def lower_call(self, lowering, call, inputs):
        return lowering.builder.function(only(inputs), self.formula(call.operation))

    def formula(self, operation) -> Function:
        """The function, with the arguments of an operation.

        Raises:
            UnsupportedLayerError: if it has no rule.
        """
        raise UnsupportedLayerError("no rule is known for this operation")


class Elementwise(Formula):
    """A function of each entry by itself, no steeper than 1.

    Attributes:
        method: in words.
    """

    method = ""
    keeps_size = staticmethod(every_axis)

    def merge(self, call, norm):
        if len(call.inputs) != 1:
            raise UnsupportedLayerError("no rule is known for several inputs or outputs")
        check_shape(call)
        return Merge([1.0], False, self.method)


@rule("Negative")
class Negative(Elementwise):
    """`-x`."""

    method = "change of sign"
    rounding = staticmethod(copied)

    def integers(self, call):
        low, high = call.inputs[0].integers
        return -high, -low

    def lower_call(self, lowering, call, inputs):
        return lowering.builder.affine(only(inputs), Scale(-1.0))


@rule("Absolute")
class Absolute(Elementwise):
    """`|x|`."""

    method = "slope of abs"
    rounding = staticmethod(copied)

    def integers(self, call):
        low, high = call.inputs[0].integers
        return 0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))

    def formula(self, operation):
        return elementwise.relu(negative_slope=-1.0)


@rule("Clip")
class Clip(Elementwise):
    """`min(max(x, x_min), x_max)`."""

    method = "slope of clip"

    def rounding(self, operation, shapes):
        return shifted(shapes, (operation.x_min, operation.x_max))

    def keeps_size(self, layer, axis, rank):
        return False  # its limits may broadcast

    def formula(self, operation):
        low, high = (np.asarray(end, np.float64) for end in (operation.x_min, operation.x_max))
        if low.size != 1 or high.size != 1:
            reason = "only numbers have a rule as its limits: take maximum and minimum"
            raise UnsupportedLayerError(reason)
        if not low.item() <= high.item():
            raise UnsupportedLayerError("its lower limit is not below its upper limit")
        return elementwise.clip(low.item(), high.item())


_FUNCTIONS: dict[str, Callable] = {
    "Relu": activations.relu,
    "Relu6": activations.relu6,
    "Tanh": activations.tanh,
    "Sigmoid": activations.sigmoid,
}


@rule("Tanh", "Sigmoid")
class OfKeras(Elementwise):
    """A function of `keras.activations`, as its row says."""

    def merge(self, call, norm):
        function = _FUNCTIONS[type(call.operation).__name__]
        slope, method = proven_slope(function), f"slope of {function.__name__}"
        return replace(super().merge(call, norm), weights=[slope], method=method)

    def formula(self, operation):
        return FUNCTIONS[_FUNCTIONS[type(operation).__name__]].function


@rule("Relu", "Relu6")
class Rectified(OfKeras):
    """One that compares and selects."""

    rounding = staticmethod(copied)


@rule("LeakyRelu")
class LeakyRelu(Elementwise):
    """`x`, times a slope below 0."""

    method = "slope of leaky_relu"

    def merge(self, call, norm):
        slope = max(1.0, abs(float(call.operation.negative_slope)))
        rounding = 1.0 if slope == 1.0 else number_rounding(call.outputs[0].dtype)
        return replace(super().merge(call, norm), weights=[product_up(slope, rounding)])

    def formula(self, operation):
        return elementwise.relu(operation.negative_slope)


@rule("Cast")
class Cast(Rule):
    """The same numbers in another type."""

    keeps_size = staticmethod(every_axis)

    def merge(self, call, norm):
        return Merge([1.0], False, "change of type")

    def integers(self, call):
        # True is 1, but any other number than 0 becomes True.
        return None if call.outputs[0].dtype == "bool" else same(call)

    def lower_call(self, lowering, call, inputs):
        return only(inputs)  # the exact function rounds nothing


@rule("ReLU")
class Rectifier(Formula):
    """`keras.activations.relu` with arguments."""

    formula = staticmethod(rectifier)


_FORMULAS: dict[str, Callable[..., Function]] = {
    "Elu": lambda operation: elementwise.elu(operation.alpha),
    "Selu": lambda operation: elementwise.selu(),
    "Gelu": lambda operation: elementwise.gelu(operation.approximate),
    "Silu": lambda operation: Function("silu"),
    "Softplus": lambda operation: Function("softplus"),
    "Softsign": lambda operation: Function("softsign"),
    "HardSigmoid": lambda operation: Function("hard_sigmoid"),
    "Celu": lambda operation: elementwise.celu(operation.alpha),
    "HardSilu": lambda operation: Function("hard_silu"),
    "HardTanh": lambda operation: elementwise.clip(-1.0, 1.0),
    "LogSigmoid": lambda operation: Function("log_sigmoid"),
    "SoftShrink": lambda operation: elementwise.soft_shrink(operation.threshold),
    "SparsePlus": lambda operation: Function("sparse_plus"),
    "SparseSigmoid": lambda operation: Function("sparse_sigmoid"),
    "Squareplus": lambda operation: elementwise.squareplus(operation.b),
    "TanhShrink": lambda operation: Function("tanh_shrink"),
    "Exp": lambda operation: Function("exponential"),
}


@rule(*_FORMULAS)
class Named(Formula):
    """A function of `keras.ops` by its name."""

    def formula(self, operation):
        try:
            return _FORMULAS[type(operation).__name__](operation)
        except ValueError as error:
            raise UnsupportedLayerError(str(error)) from error
