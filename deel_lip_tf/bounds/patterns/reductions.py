"""Roots of sums of squares, and centering."""

import functools

import numpy as np
from keras import layers

from deel_lip_tf._rounding import product_up, sqrt_up
from deel_lip_tf.bounds.patterns.pattern import Pattern, maker
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.rule import lipschitz_constant


def root(call: Call) -> Pattern | None:
    """`sqrt(sums)`."""
    return _sums_of_squares(call.inputs[0], ())


def safe_root(call: Call) -> Pattern | None:
    """`where(s > 0, sqrt(where(s > 0, s, 1)), 0)`: the root of `s >= 0`, with gradient 0 at 0."""
    if len(call.inputs) != 3:
        return None
    is_positive, root, zeros = call.inputs
    compares, takes_root = maker(is_positive, "Greater"), maker(root, "Sqrt")
    makes_zeros = maker(zeros, "ZerosLike")
    if compares is None or takes_root is None or makes_zeros is None:
        return None
    chooses = maker(takes_root.inputs[0], "Where")
    if chooses is None or len(chooses.inputs) != 3:
        return None
    condition, sums, ones = chooses.inputs
    makes_ones, compared = maker(ones, "OnesLike"), compares.args
    is_plain = (
        condition is is_positive
        and len(compared) == 2
        and compared[0] is sums
        and type(compared[1]) in (int, float)
        and compared[1] == 0
        and len(compares.inputs) == 1
        and call.outputs[0].shape == chooses.outputs[0].shape == sums.shape
    )
    if makes_ones is None or not is_plain:
        return None
    return _sums_of_squares(sums, (compares, takes_root, makes_zeros, chooses, makes_ones))


def _sums_of_squares(tensor: Value, inner: tuple[Call, ...]) -> Pattern | None:
    """The root of `tensor`, if that is made of squares by a sum or an average."""
    for call, column_sum in ((maker(tensor, "Sum"), _of_sum), (_averaged(tensor), _of_average)):
        if call is None:
            continue
        squares = maker(call.inputs[0], "Square")
        weight = column_sum(call)
        if squares is None or weight is None or len(squares.inputs) != 1:
            return None
        inner = (*inner, call, squares)
        return Pattern(squares.inputs[0], inner, functools.partial(_root_bound, weight))
    return None


def _root_bound(weight: float, norm: Norm, budget: float) -> tuple[float, str]:
    if norm != L2:
        raise UnsupportedLayerError(
            f"no {norm.name} constant is known for a root of sums of squares"
        )
    return sqrt_up(weight), "root of sums of squares"


def _of_sum(call: Call) -> float | None:
    axes, rank = call.operation.axis, len(call.inputs[0].shape)
    if axes is None or any(axis % rank == 0 for axis in np.atleast_1d(axes)):
        return None
    return 1.0


_AVERAGES = {3: layers.AveragePooling1D, 4: layers.AveragePooling2D, 5: layers.AveragePooling3D}


def _averaged(value: Value) -> Call | None:
    """The call of an average pooling that made a value, of the operation or of the layer."""
    is_layer = value.call is not None and type(value.call.operation) in _AVERAGES.values()
    return value.call if is_layer else maker(value, "AveragePool")


def _of_average(call: Call) -> float | None:
    operation, shape = call.operation, call.inputs[0].shape
    if len(shape) not in _AVERAGES:
        return None
    plain = _AVERAGES[len(shape)](
        operation.pool_size, operation.strides, operation.padding, operation.data_format
    )
    constant = lipschitz_constant(plain, shape)
    # The squared l2 constant of an average is the bound on its column sums.
    return None if constant is None else product_up(constant, constant)


def centering(call: Call) -> Pattern | None:
    """`x - mean(x, axis, keepdims=True)`."""
    arguments = call.args
    if len(arguments) != 2 or len(call.inputs) != 2:
        return None
    source, means = call.inputs
    mean = maker(means, "Mean")
    if mean is None or mean.inputs[0] is not source or not mean.operation.keepdims:
        return None
    axes, rank = mean.operation.axis, len(source.shape)
    if axes is None or any(axis % rank == 0 for axis in np.atleast_1d(axes)):
        return None
    if arguments[0] is not source or call.outputs[0].shape != source.shape:
        return None

    def bound(norm: Norm, budget: float) -> tuple[float, str]:
        # In the other norms the rows and columns of I - 1/n have absolute sums 2 (1 - 1/n).
        return (1.0 if norm == L2 else 2.0), "centering, a projection"

    return Pattern(source, (mean,), bound)
