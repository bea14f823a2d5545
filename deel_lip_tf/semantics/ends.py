"""What a model ends with: which call makes its output, and by what function."""

from typing import Any

import keras
from keras import layers

from deel_lip_tf._keras import is_of_keras
from deel_lip_tf.semantics.graph import Call, Graph
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.identity import Identity

_OPERATIONS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid",
    "HardSigmoid": "hard_sigmoid",
}

_PACKAGES = ("keras", "tensorflow", "jax")
_UNKNOWN = "unknown function"


def final_call(graph: Graph) -> Call | None:
    """The call that makes the output of a model, before calls that only hand it on.

    None where the output is the input.
    """
    value = graph.outputs[0]
    while value.call is not None and _hands_on(value.call):
        value = value.call.inputs[0]
    return value.call


def final_function(operation: Any) -> str:
    """Name of the function at the end of a layer, or of an operation; "" of none.

    A function that is nobody's known one may have any name, also that of another: it has none here.
    """
    return _final(operation)[0]


def _final(operation: Any) -> tuple[str, object]:
    """The name, and the axis of the function."""
    activation = getattr(operation, "activation", None)
    if isinstance(activation, layers.Layer):
        return _final(activation)
    if activation is not None and activation is not keras.activations.linear:
        package = (getattr(activation, "__module__", None) or "").partition(".")[0]
        known = getattr(activation, "__name__", _UNKNOWN) if package in _PACKAGES else _UNKNOWN
        return known, -1
    name = _OPERATIONS.get(type(operation).__name__, "") if is_of_keras(operation) else ""
    return name, getattr(operation, "axis", -1)


def normalized_by(call: Call) -> str:
    """The softmax, or the sigmoid of a single output, that a final call applies to logits; or "".

    It keeps their order: what is asked of the order may leave it out.
    """
    (name, axis), shape = _final(call.operation), call.outputs[0].shape
    is_softmax = name in ("softmax", "log_softmax") and axis in (-1, 1, [-1], (-1,))
    is_kept = len(shape) == 2 and (is_softmax or (shape[-1] == 1 and name == "sigmoid"))
    return name if is_kept else ""


def is_all_of(operation: Any) -> bool:
    """Whether an operation computes nothing but its final function."""
    if isinstance(operation, layers.Layer):
        return type(operation) in (layers.Activation, layers.Softmax)
    return is_of_keras(operation)


def threshold(graph: Graph) -> float:
    """What a single output is compared with: 1/2 if a sigmoid makes it, 0 otherwise."""
    call = final_call(graph)
    return 0.5 if call is not None and normalized_by(call) == "sigmoid" else 0.0


def _hands_on(call: Call) -> bool:
    """Whether a call returns its input, at inference."""
    operation, shapes = call.operation, [value.shape for value in (*call.inputs, *call.outputs)]
    if call.unsupported is not None or len(shapes) != 2:
        return False
    if type(operation) is layers.Flatten:
        return len(shapes[0]) == len(shapes[1])
    is_linear = type(operation) is layers.Activation and not final_function(operation)
    return isinstance(rule_for(operation), Identity) or is_linear
