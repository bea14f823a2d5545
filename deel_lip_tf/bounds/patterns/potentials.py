"""Exported potentials: an input minus the gradient of a convex function."""

import functools

import numpy as np
from keras import activations, layers

from deel_lip_tf.bounds.layers import potential_bound
from deel_lip_tf.bounds.patterns.paddings import before_padding
from deel_lip_tf.bounds.patterns.pattern import Pattern
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.operators import Convolution, Matrices, Potential
from deel_lip_tf.semantics.rule import rule_for


def potential(call: Call) -> Pattern | None:
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
        bound = functools.partial(potential_bound, Potential(first[2], None, 1.0))
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
    operators = rule_for(layer).operators(layer, source.shape) or []
    if (found := before_padding(call)) is not None:
        source, takes, padded = found
        inner, operators = (*takes, call), [padded]
    match operators:
        case [Matrices() as matrices]:
            return source, inner, matrices
        case [Convolution() as operator] if operator.padding in ("same", "circular"):
            # Whether the adjoint is the convolution with the kernel turned round. Of an even size
            # its zeros would stand on the other side.
            is_odd = all(k % 2 for k in operator.kernel_size)
            is_plain = {*operator.strides, *operator.dilation} == {1}
            is_plain = is_plain and operator.kernel.shape[-3] == 1
            return (source, inner, operator) if is_odd and is_plain else None
    return None


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
