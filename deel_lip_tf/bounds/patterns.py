"""Groups of calls that are bounded together, because apart they have no bound, or a worse one.

* A root of sums of squares. With `y_j = sum_i M_ji x_i**2`, `M >= 0`, the map `x -> sqrt(y)` is a
  Euclidean norm of weighted entries for each j, so that
  `||sqrt(y) - sqrt(y')||_2**2 <= sum_ij M_ji (x_i - x'_i)**2 <= (largest column sum of M) ||x -
  x'||_2**2`.
* `x - mean(x)`, an orthogonal projection.
* Copies of entries as a padding makes them, with the convolution they are made for, or the adjoint:
  a transposed convolution with the sums that fold its border back.
* `x - 2 V relu(V^T x + c)`, the input minus the gradient of a convex function: exported potentials.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from keras import activations, layers

from deel_lip_tf._keras import operation_name
from deel_lip_tf._rounding import product_up, sqrt_up
from deel_lip_tf.bounds.layers import layer_bound, potential_bound
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.normalizers.convolution import EXTENDING, padded_indices, padding_amounts
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import (
    Convolution,
    Matrices,
    Potential,
    Shape,
    all_known,
    known_sizes,
)
from deel_lip_tf.semantics.rule import Rule, lipschitz_constant, rule_for

__all__ = ["Pattern", "find_patterns"]


@dataclass(frozen=True)
class Pattern:
    """Calls that end in one and begin at one tensor.

    Attributes:
        source: the tensor they begin at.
        inner: the calls before the last one.
        bound: computes `(constant, method)` for a norm and a budget.
    """

    source: Value
    inner: tuple[Call, ...]
    bound: Callable[[Norm, float], tuple[float, str]]


def find_patterns(calls: list[Call]) -> dict[Call, Pattern]:
    """The patterns among the calls of a graph, by their last call."""
    found = {}
    for call in calls:
        for match in _MATCHES.get(type(call.operation).__name__, ()):
            pattern = match(call)
            if pattern is not None and not any(c.unsupported for c in (call, *pattern.inner)):
                found[call] = pattern
                break
    return found


def _maker(value: Value, name: str) -> Call | None:
    """The call of a Keras operation of this name that made a value, or None."""
    operation = None if value.call is None else value.call.operation
    return value.call if operation_name(operation) == name else None


# --- roots of sums of squares ------------------------------------------------------------------


def _root(call: Call) -> Pattern | None:
    """`sqrt(sums)`."""
    return _sums_of_squares(call.inputs[0], ())


def _safe_root(call: Call) -> Pattern | None:
    """`where(s > 0, sqrt(where(s > 0, s, 1)), 0)`: the root of `s >= 0`, with gradient 0 at 0."""
    if len(call.inputs) != 3:
        return None
    is_positive, root, zeros = call.inputs
    compares, takes_root = _maker(is_positive, "Greater"), _maker(root, "Sqrt")
    makes_zeros = _maker(zeros, "ZerosLike")
    if compares is None or takes_root is None or makes_zeros is None:
        return None
    chooses = _maker(takes_root.inputs[0], "Where")
    if chooses is None or len(chooses.inputs) != 3:
        return None
    condition, sums, ones = chooses.inputs
    makes_ones, compared = _maker(ones, "OnesLike"), compares.args
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
    for call, column_sum in ((_maker(tensor, "Sum"), _of_sum), (_averaged(tensor), _of_average)):
        if call is None:
            continue
        squares = _maker(call.inputs[0], "Square")
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
    return value.call if is_layer else _maker(value, "AveragePool")


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


# --- centering ---------------------------------------------------------------------------------


def _centering(call: Call) -> Pattern | None:
    """`x - mean(x, axis, keepdims=True)`."""
    arguments = call.args
    if len(arguments) != 2 or len(call.inputs) != 2:
        return None
    source, means = call.inputs
    mean = _maker(means, "Mean")
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


# --- paddings that copy, and their adjoints ----------------------------------------------------


def _padded(call: Call) -> Pattern | None:
    """`take` along spatial axes, as a padding of the next "valid" convolution does."""
    found = _before_padding(call)
    return None if found is None else _convolution_pattern(call, *found)


def _before_padding(call: Call) -> tuple[Value, tuple[Call, ...], Convolution] | None:
    """What is padded, the calls that pad it, and the convolution with this padding."""
    convolution = _plain_convolution(call)
    if convolution is None or convolution.transposed:
        return None
    tensor, sources = call.inputs[0], dict[int, np.ndarray]()
    inner: tuple[Call, ...] = ()
    while (take := _maker(tensor, "Take")) is not None and len(take.inputs) == 1:
        axis = _spatial_axis(call.operation, take.operation.axis, len(tensor.shape))
        indices = take.argument(1, "indices")
        if axis is None or axis in sources or indices is None:
            return None
        tensor, inner = take.inputs[0], (*inner, take)
        sources[axis] = np.asarray(indices)
    whole = _with_padding(convolution, call.operation, tensor.shape, sources)
    return None if whole is None else (tensor, inner, whole)


def _folded(call: Call) -> Pattern | None:
    """A "valid" transposed convolution, and `einsum`s that add its copied border to the image."""
    tensor, matrices = call.outputs[0], dict[int, np.ndarray]()
    inner: tuple[Call, ...] = ()
    while (fold := _maker(tensor, "Einsum")) is not None and len(fold.inputs) == 1:
        operands = [x for x in fold.args if isinstance(x, np.ndarray)]
        tensor_, matrix, result = _letters(fold.operation.subscripts)
        is_plain = len(operands) == 1 and operands[0].ndim == 2 and len(matrix) == 2
        if not is_plain or result != tensor_.replace(matrix[0], matrix[1]):
            return None
        if matrix[0] not in tensor_ or matrix[1] in tensor_ or tensor_.index(matrix[0]) in matrices:
            return None
        tensor, inner = fold.inputs[0], (*inner, fold)
        matrices[tensor_.index(matrix[0])] = operands[0]
    if not matrices:
        return None
    if (transposed := tensor.call) is None:
        return None
    convolution = _plain_convolution(transposed)
    # What follows the sums of the border may not stand before them.
    is_linear = getattr(transposed.operation, "activation", None) in (None, activations.linear)
    if convolution is None or not convolution.transposed or not is_linear:
        return None
    return _folded_pattern(call, transposed, inner[1:], matrices, convolution)


def _folded_pattern(
    call: Call,
    transposed: Call,
    inner: tuple[Call, ...],
    matrices: dict[int, np.ndarray],
    convolution: Convolution,
) -> Pattern | None:
    sources = {}
    for place, matrix in matrices.items():
        axis = _spatial_axis(transposed.operation, place, len(call.outputs[0].shape))
        if axis is None or not ((matrix == 0) | (matrix == 1)).all() or (matrix.sum(1) != 1).any():
            return None
        sources[axis] = matrix.argmax(axis=1)
    whole = _with_padding(convolution, transposed.operation, call.outputs[0].shape, sources)
    source = transposed.inputs[0]
    small = known_sizes(transposed.operation, source.shape)
    if whole is None or small is None:
        return None
    # The adjoint is exact where the convolution of the padded image has these many outputs.
    steps = zip(all_known(whole.sizes) or (), whole.strides, small, strict=True)
    if any((n - 1) // s + 1 != m for n, s, m in steps):
        return None
    return _convolution_pattern(transposed, source, (*inner, transposed), whole)


def _letters(subscripts: str) -> tuple[str, str, str]:
    terms, _, result = subscripts.replace(" ", "").partition("->")
    tensor, _, matrix = terms.partition(",")
    return tensor, matrix, result


def _plain_convolution(call: Call) -> Convolution | None:
    """The convolution of a built "valid" layer, called on one tensor; no dilated transposed one."""
    operation = call.operation
    known = rule_for(operation) if isinstance(operation, layers.Layer) else None
    if known is None or not known.slides or not operation.built:
        return None
    if getattr(operation, "padding", None) != "valid" or len(call.inputs) != 1:
        return None
    match known.operators(operation, call.inputs[0].shape):
        case [Convolution() as convolution]:
            is_plain = not convolution.transposed or set(convolution.dilation) == {1}
            return convolution if is_plain else None
    return None


def _spatial_axis(layer: layers.Layer, axis: int, rank: int) -> int | None:
    """Which spatial axis an axis is, or None."""
    if axis is None:
        return None
    first = 1 if layer.data_format == "channels_last" else 2
    place = axis % rank - first
    return place if 0 <= place < rank - 2 else None


def _with_padding(
    convolution: Convolution, layer: layers.Layer, shape: Shape, sources: dict[int, np.ndarray]
) -> Convolution | None:
    """The convolution of an image with the padding that copies from these indices of each axis."""
    sizes = known_sizes(layer, shape)
    if not sources or sizes is None:
        return None
    taps = zip(convolution.kernel_size, convolution.dilation, strict=True)
    reach = [(k - 1) * rate + 1 for k, rate in taps]
    for padding in EXTENDING:
        if all(
            np.array_equal(
                sources.get(axis, np.arange(n)),
                padded_indices(n, *padding_amounts(n, k, 1, padding), padding),
            )
            for axis, (n, k) in enumerate(zip(sizes, reach, strict=True))
        ):
            return replace(convolution, padding=padding, sizes=sizes)
    return None


def _convolution_pattern(
    call: Call, source: Value, inner: tuple[Call, ...], convolution: Convolution
) -> Pattern:
    layer = call.operation

    def bound(norm: Norm, budget: float) -> tuple[float, str]:
        value, method = layer_bound(layer, None, norm, budget, instead=[convolution])
        return value, f"{method}, with the {convolution.padding} padding"

    return Pattern(source, tuple(inner), bound)


# --- convex potentials --------------------------------------------------------------------------


def _potential(call: Call) -> Pattern | None:
    """`x + second(first(x))` with relu between, where the second kernel is -2 times the adjoint."""
    if len(call.inputs) != 2 or len({value.shape for value in call.inputs}) > 1:
        return None
    for source, end in (call.inputs, call.inputs[::-1]):
        if (second := _plain_operator(end.call, _LINEAR)) is None:
            continue
        hidden, after, gradient = second
        first = _plain_operator(hidden.call, _RELU)
        if first is None or first[0] is not source or not _is_opposite(first[2], gradient):
            continue
        # Operators do not say which axis the channels are.
        if _data_format(hidden.call) != _data_format(end.call):
            continue
        potential = Potential(first[2], None, 1.0)
        bound = functools.partial(potential_bound, potential)
        return Pattern(source, (*first[1], *after), bound)
    return None


_RELU, _LINEAR = (activations.relu,), (None, activations.linear)


def _plain_operator(
    call: Call | None, allowed: tuple
) -> tuple[Value, tuple[Call, ...], Matrices | Convolution] | None:
    """A layer with one of some activations: what it reads, its calls, and its operator."""
    if call is None or type(call.operation) not in (layers.Dense, *_CONVOLUTIONS):
        return None
    layer = call.operation
    if not layer.built or layer.activation not in allowed or len(call.inputs) != 1:
        return None
    source = call.inputs[0]
    inner: tuple[Call, ...] = (call,)
    operators = (rule_for(layer) or Rule()).operators(layer, source.shape) or []
    if (found := _before_padding(call)) is not None:
        source, takes, padded = found
        inner, operators = (*takes, call), [padded]
    match operators:
        case [Matrices() as matrices]:
            return source, inner, matrices
        case [Convolution() as operator] if operator.padding in ("same", "circular"):
            return (source, inner, operator) if _has_such_an_adjoint(operator) else None
    return None


def _has_such_an_adjoint(operator: Convolution) -> bool:
    """Whether the adjoint is the convolution with the kernel turned round."""
    # Of an even size the zeros of the adjoint would stand on the other side.
    is_odd = all(k % 2 for k in operator.kernel_size)
    is_plain = {*operator.strides, *operator.dilation} == {1} and operator.kernel.shape[-3] == 1
    return is_odd and is_plain


def _data_format(call: Call | None) -> str | None:
    return None if call is None else getattr(call.operation, "data_format", None)


_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)


def _is_opposite(first: Matrices | Convolution, second: Matrices | Convolution) -> bool:
    """Whether the second operator is -2 times the adjoint of the first, exactly."""
    if getattr(first, "padding", None) != getattr(second, "padding", None):
        return False
    kernel, other = (x.blocks if isinstance(x, Matrices) else x.kernel for x in (first, second))
    axes = tuple(range(kernel.ndim - 3))
    return np.array_equal(-2.0 * np.swapaxes(np.flip(kernel, axes), -1, -2), other)


_MATCHES = {
    "Add": (_potential,),
    "Sqrt": (_root,),
    "Where": (_safe_root,),
    "Subtract": (_centering,),
    "Einsum": (_folded,),
    "Conv1D": (_padded,),
    "Conv2D": (_padded,),
    "Conv3D": (_padded,),
    "DepthwiseConv1D": (_padded,),
    "DepthwiseConv2D": (_padded,),
}
