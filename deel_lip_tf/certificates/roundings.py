"""What float32 rounding adds to one call: its rule's, or that of a kernel.

The rounding error of `K x` is bounded by `gamma(n) |K| |x|`, entry by entry: what counts is the
norm of the operator with the absolute values of the kernel, and the number n of terms.
"""

import math
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf._rounding import UP, product_up
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.recurrence import (
    StepErrors,
    absolute_norms,
    recurrence_bound,
    through_time,
)
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import (
    activation_rounding,
    float32_function,
    proven_slope,
)
from deel_lip_tf.semantics.graph import Call
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.operators import Convolution, Matrices, Operator, Recurrence, Sums
from deel_lip_tf.semantics.rounding import FLUSHED, LARGEST, CallShapes, Rounding, gamma
from deel_lip_tf.semantics.rule import Rule, rule_for
from deel_lip_tf.semantics.rules.activation import Activation
from deel_lip_tf.semantics.rules.operations.arithmetic import NUMBERS
from deel_lip_tf.semantics.state import as_float64, is_quantized

# Two roundings of reciprocals or products with constants that a compiler may fold into a kernel.
_FOLDED = 4


def rounding_of(call: Call, inputs: tuple, outputs: tuple, constants: list[float]) -> Rounding:
    """The rounding of one call.

    Args:
        call: of a layer or a Keras operation, checked by `check_operation`.
        inputs: sizes of one sample of the first input.
        outputs: sizes of one sample of the output.
        constants: Lipschitz constants with respect to each input.

    Raises:
        UnsupportedLayerError: if an argument has no rule.
    """
    values = [*call.args, *call.kwargs.values()]
    numbers = tuple(value for value in values if isinstance(value, NUMBERS))
    shapes = CallShapes(inputs, outputs, max(constants), len(constants), numbers)
    known = rule_for(call.operation)
    if known.knows("operators"):
        return _of_kernel(call.operation, known, shapes)
    if known.knows("potential"):
        return _of_potential(call.operation, known, shapes)
    if known.knows("recurrence"):
        return _of_recurrence(call.operation, known, shapes)
    return known.rounding(call.operation, shapes)


def check_operation(operation: Any) -> None:
    """Refuses what has no rule, or does not compute in float32.

    Raises:
        UnsupportedLayerError: the reason, without the name of the operation.
    """
    known = rule_for(operation)
    has_kernel = known.knows("operators") or known.knows("recurrence")
    is_layer = isinstance(operation, keras.layers.Layer)
    if not has_kernel and not known.knows("rounding") and not known.knows("potential"):
        kind = "type" if is_layer else "operation"
        raise UnsupportedLayerError(f"no float32 rule is known for this {kind}")
    if not is_layer:
        return
    if is_quantized(operation):
        raise UnsupportedLayerError('it is quantized: use semantics="real"')
    if operation.compute_dtype != "float32":
        raise UnsupportedLayerError(f"it computes in {operation.compute_dtype}")
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        check_operation(activation)
    elif has_kernel or isinstance(known, Activation):
        float32_function(activation)


def _of_kernel(layer: keras.layers.Layer, known: Rule, shapes: CallShapes) -> Rounding:
    """Of `activation(kernel * x + bias)`."""
    slope = proven_slope(layer.activation)
    norm = shapes.constant / slope * UP
    absolute_norm, terms = _absolute_sums(layer, known, (None, *shapes.inputs))
    absolute_norm, places = max(absolute_norm, norm), math.prod(shapes.outputs)
    if getattr(layer, "padding", None) not in (None, "same", "valid", "causal"):
        terms += sum(shapes.inputs) + sum(shapes.outputs)  # copies at a border may be added up
    unit = gamma(terms + _FOLDED)
    bias = _everywhere(getattr(layer, "bias", None), places)
    underflow = FLUSHED * math.sqrt(places * terms)
    flushed = 4.0 * math.sqrt(terms) * underflow
    flushed += FLUSHED * absolute_norm * math.sqrt(math.prod(shapes.inputs))
    relative = unit * absolute_norm + underflow
    absolute = unit * bias + flushed
    after = activation_rounding(layer.activation, CallShapes(shapes.outputs, shapes.outputs, slope))
    reach = 2.0 * (absolute_norm + underflow) / LARGEST, 2.0 * (bias + flushed) / LARGEST
    wider = max(1.0, after.reach[0] * LARGEST)
    return Rounding(
        slope * relative + after.relative * (norm + relative),
        slope * absolute + after.relative * (bias + absolute) + after.absolute,
        (wider * reach[0], wider * reach[1] + after.reach[1]),
    )


def _of_potential(layer: keras.layers.Layer, known: Rule, shapes: CallShapes) -> Rounding:
    """Of `k (x - 2 V relu(V^T x + c))`.

    With `a >= || |V| ||_2`: the hidden units, of norm at most `h = a ||x|| + ||c||`, are wrong by
    `gamma(m) h`; the gradient by `2 a` times that, and by `2 a gamma(n) h` of its own.
    """
    potential = known.potential(layer, (None, *shapes.inputs))
    if potential is None:
        raise UnsupportedLayerError("no float32 rule is known for it")
    absolute_norm = operator_bound(_absolute(potential.operator))[0]
    first, second = potential.terms
    entries = math.prod(shapes.inputs)
    hidden = entries * second // first
    terms = first + second + _FOLDED + 16
    if getattr(layer, "padding", None) not in (None, "same"):
        terms += 2 * sum(shapes.inputs)
    bias = _everywhere(potential.bias, hidden)
    twice = 2.0 * absolute_norm * potential.factor
    unit = gamma(terms)
    # Every product, and every number that is read, may be flushed: more than all of them together.
    lost = 8.0 * FLUSHED * (1.0 + twice) * terms * (math.sqrt(entries) + math.sqrt(hidden))
    lost *= max(1.0, potential.factor)
    relative = unit * (potential.factor + twice * absolute_norm) + lost * (1.0 + absolute_norm)
    reach = 2.0 * max(1.0, potential.factor) * (1.0 + twice) / LARGEST
    return Rounding(
        relative * UP,
        (unit * twice * bias + lost * (1.0 + bias)) * UP,
        (reach * (1.0 + absolute_norm), reach * (bias + lost)),
    )


def _of_recurrence(layer: keras.layers.Layer, known: Rule, shapes: CallShapes) -> Rounding:
    """Of steps `activation(factor * x_t K + h_(t-1) R + bias)`, each of which adds its own."""
    recurrence = known.recurrence(layer, (None, *shapes.inputs))
    if recurrence is None:
        raise UnsupportedLayerError("no float32 rule is known for it")
    state = recurrence.state_shape[1:]
    slope = proven_slope(layer.activation, input_shape=recurrence.state_shape)
    of_inputs, of_state = absolute_norms(recurrence)
    places, (bias, start) = math.prod(state), offsets(layer, recurrence, slope)
    unit = gamma(recurrence.terms + _FOLDED)
    underflow = FLUSHED * math.sqrt(places * recurrence.terms)
    flushed = 4.0 * math.sqrt(recurrence.terms) * underflow
    read = math.sqrt(math.prod(shapes.inputs)) + math.sqrt(places)
    flushed += FLUSHED * (of_inputs + of_state + recurrence.factor) * read
    after = activation_rounding(layer.activation, CallShapes(state, state, slope))
    share = slope * unit + after.relative * (1.0 + unit)
    lost = (slope + after.relative) * underflow
    errors = StepErrors(
        (share * of_inputs + lost) * UP,
        (share * of_state + lost) * UP,
        (share * bias + (slope + after.relative) * flushed + after.absolute) * UP,
    )
    relative, absolute = through_time(recurrence, slope, start, errors)
    # The largest numbers of a step are made of the states that the program has.
    states = replace(recurrence, returns_all=True)
    grows, wrong = (
        recurrence_bound(states, slope, L2)[0],
        through_time(states, slope, start, errors),
    )
    _, own = through_time(states, slope, start, StepErrors(0.0, 0.0, start))
    numbers = of_inputs + recurrence.factor + of_state * (grows + wrong[0])
    fixed = bias + flushed + of_state * (own + wrong[1])
    wider = 2.0 * max(1.0, after.reach[0] * LARGEST) / LARGEST
    return Rounding(relative, absolute, (wider * numbers, wider * fixed + after.reach[1]))


def offsets(layer: keras.layers.Layer, recurrence: Recurrence, slope: float) -> tuple[float, float]:
    """Bounds the norms of the bias in all places, and of a state whose inputs are zero."""
    state = recurrence.state_shape[1:]
    bias = _everywhere(recurrence.bias, math.prod(state))
    at_zero = 0.0
    if layer.activation is not None:
        zeros = layer.activation(ops.zeros((1, *state), dtype="float32"))
        at_zero = float(np.linalg.norm(as_float64(zeros))) * (1.0 + 1e-5)
    return bias, product_up(slope, bias) + at_zero


def _everywhere(bias: Any, places: float) -> float:
    """Bounds the norm of a bias, if there is one, that is repeated for so many entries."""
    if bias is None:
        return 0.0
    values = as_float64(bias)
    return float(np.linalg.norm(values)) * math.sqrt(places / values.size) * UP


def _absolute_sums(layer: keras.layers.Layer, known: Rule, input_shape: tuple) -> tuple[float, int]:
    """What the linear part of a built layer adds up.

    Returns:
        A proven bound of the norm of `|K|`, and how many products an entry of the output sums up.

    Raises:
        UnsupportedLayerError: if the layer applies two kernels one after the other, or an argument
            has no rule.
    """
    operators = known.operators(layer, input_shape) or []
    if sum(isinstance(one, Convolution | Matrices) for one in operators) > 1:
        raise UnsupportedLayerError("it applies two kernels: use one layer for each")
    norms = [operator_bound(_absolute(operator))[0] for operator in operators]
    return product_up(*norms), math.prod(map(_terms, operators))


def _absolute(operator: Operator) -> Operator:
    if isinstance(operator, Convolution):
        return replace(operator, kernel=np.abs(operator.kernel))
    if isinstance(operator, Matrices):
        return replace(operator, blocks=np.abs(operator.blocks))
    return operator


def _terms(operator: Operator) -> int:
    if isinstance(operator, Convolution):
        # The kernel of a transposed convolution is that of its adjoint.
        channels = operator.kernel.shape[-1 if operator.transposed else -2]
        return math.prod(operator.kernel_size) * channels
    if isinstance(operator, Matrices):
        return operator.blocks.shape[1]
    return operator.count if isinstance(operator, Sums) else 1
