"""What a user says about how far weights may be away, read and put into operator norms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf._rounding import UP, product_up
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.recurrence import StepErrors
from deel_lip_tf.semantics.float64 import in_float64, plain_of
from deel_lip_tf.semantics.graph import Graph
from deel_lip_tf.semantics.operators import Convolution, Matrices, Operator, Recurrence, Shape
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.state import is_constrained, kernel_of

_FORMS = (
    "`weights_within` must be a number, by which every entry of every kernel and bias may be off, "
    "or a mapping from names of layers to such numbers, or to mappings of 'kernel' and 'bias' to "
    "numbers or arrays of them, and of 'norm' to the largest operator norm of the change of the "
    "kernel, or in its place, of recurrent layers, of 'recurrent_kernel' to those of that one; "
    "none negative, all finite. "
)


@dataclass(frozen=True)
class WeightChange:
    """By how much the weights of one layer may be off.

    Attributes:
        layer: with a kernel.
        kernel: of each entry of the kernel, a number or an array that broadcasts to its shape; None
            where the norm alone is given.
        bias: the same of the bias.
        norm: of the operator that is the difference of the two kernels; None where it is not given.
        recurrent: as `kernel`, of the recurrent kernel of a recurrent layer.
    """

    layer: layers.Layer
    kernel: np.ndarray | None
    bias: np.ndarray
    norm: float | None = None
    recurrent: np.ndarray | None = None

    def operator_norm(self, input_shape: Shape) -> float:
        """Bounds the norm of the change of the linear part, on inputs of this shape.

        A matrix with entries of at most those of A in absolute value has at most the norm of A.
        """
        if self.kernel is None:
            return self.norm or 0.0
        operators = _with_kernel(self.layer, input_shape, self.kernel)
        norm = product_up(*(operator_bound(operator)[0] for operator in operators))
        return norm if self.norm is None else min(norm, self.norm)

    def step_errors(self, recurrence: Recurrence, slope: float) -> StepErrors:
        """What the changes make of one step of a recurrent layer."""
        norms = (
            operator_bound(recurrence.operator(_spread(entries, kernel)))[0]
            for entries, kernel in (
                (self.kernel, recurrence.kernel),
                (self.recurrent, recurrence.recurrent),
            )
        )
        of_inputs, of_state = (product_up(slope, norm) for norm in norms)
        bias = self.bias_norm(math.prod(recurrence.state_shape[1:]))
        return StepErrors(
            product_up(recurrence.factor, of_inputs), of_state, product_up(slope, bias)
        )

    def bias_norm(self, entries: int) -> float:
        """Bounds the norm of the change of the bias in an output of so many entries."""
        if (bias := _bias(self.layer)) is None:
            return 0.0
        shape = bias.shape
        copies = entries / max(np.prod(shape), 1)
        return float(np.linalg.norm(np.broadcast_to(self.bias, shape)) * np.sqrt(copies)) * UP

    def __str__(self) -> str:
        parts = [("kernel", self.kernel), ("recurrent_kernel", self.recurrent), ("bias", self.bias)]
        texts = [f"{name} +- {_text(value)}" for name, value in parts if np.any(value)]
        texts += [] if self.norm is None else [f"kernel +- {self.norm:g} in the operator norm"]
        return f"{self.layer.name}: {', '.join(texts) or 'unchanged'}"


def _text(value: np.ndarray | None) -> str:
    array = np.asarray(value)
    return f"{array:g}" if array.ndim == 0 else f"an array of up to {array.max():g}"


def _spread(entries: np.ndarray | None, kernel: np.ndarray) -> np.ndarray:
    """Entries in the place of those of a kernel."""
    whole = np.broadcast_to(0.0 if entries is None else entries, _plain_shape(kernel))
    return whole.reshape(kernel.shape)


def _plain_shape(kernel: np.ndarray) -> tuple[int, ...]:
    """The shape of a kernel, of a convolution without its axis of groups, as Keras has it."""
    return kernel.shape if kernel.ndim == 2 else (*kernel.shape[:-3], *kernel.shape[-2:])


def _bias(layer: layers.Layer) -> Any:
    """The bias of a layer, or of the cell of a recurrent one; None where there is none."""
    return getattr(getattr(layer, "cell", layer), "bias", None)


def _with_kernel(layer: layers.Layer, shape: Shape, entries: np.ndarray) -> list[Operator]:
    """The linear part of a layer with other entries in its kernel."""
    known = rule_for(layer)
    if entries.ndim == 0:
        found = known.operators(layer, shape) or []
        return [_filled(operator, float(entries)) for operator in found]
    plain = layer.vanilla_export() if is_constrained(layer) else layer
    if isinstance(plain, keras.Model):
        raise ValueError(
            f"`weights_within` must be a number for {layer.name!r}, whose padding Keras has not "
            f"got. Received: an array of shape {entries.shape}; its largest entry is such a number."
        )
    copy = plain_of(in_float64(plain))
    copy.kernel.assign(np.broadcast_to(entries, copy.kernel.shape))
    return rule_for(copy).operators(copy, shape) or []


def _filled(operator: Operator, entry: float) -> Operator:
    if isinstance(operator, Matrices):
        return replace(operator, blocks=np.full_like(operator.blocks, entry))
    if isinstance(operator, Convolution):
        return replace(operator, kernel=np.full_like(operator.kernel, entry))
    return operator


def read_changes(graph: Graph, given: Any) -> list[WeightChange]:
    """Reads the argument `weights_within` of `certify`.

    Raises:
        ValueError: it has another form, names no layer with one kernel, or an array does not fit.
    """
    named = {call.name: call.operation for call in graph.calls}
    own = {name: layer for name, layer in named.items() if _has_one_kernel(layer)}
    if isinstance(given, Mapping):
        if unknown := [str(name) for name in given if name not in own]:
            raise ValueError(
                "`weights_within` must name layers with a kernel and a bias alone. Received: "
                f"{', '.join(unknown)}. Known: {', '.join(own)}."
            )
        if len({id(own[name]) for name in given}) < len(given):
            raise ValueError(
                "`weights_within` must name each layer once: one that is shared has several names. "
                f"Received: {', '.join(given)}."
            )
        return [_change(own[name], value) for name, value in given.items()]
    others = [name for name, layer in named.items() if name not in own and _has_weights(layer)]
    if others:
        raise ValueError(
            "`weights_within` must name the layers that may change, in a mapping, where some have "
            f"other weights than one kernel and a bias. Received: {given!r}, with a model that has "
            f"{', '.join(others)}."
        )
    return list({id(layer): _change(layer, given) for layer in own.values()}.values())


def _has_weights(operation: Any) -> bool:
    is_layer = isinstance(operation, layers.Layer)
    return is_layer and (bool(operation.trainable_weights) or _bias(operation) is not None)


def _has_one_kernel(operation: Any) -> bool:
    """Whether a layer is a linear operator of one kernel, a bias, and an activation; or steps."""
    known = rule_for(operation)
    if not isinstance(operation, layers.Layer):
        return False
    if not known.knows("operators") and not known.knows("recurrence"):
        return False
    activation = getattr(operation, "activation", None)
    has_kernel = hasattr(operation, "kernel") or known.knows("recurrence")
    inside = activation.weights if isinstance(activation, layers.Layer) else ()
    return has_kernel and not inside and known.potential(operation, None) is None


def _change(layer: layers.Layer, given: Any) -> WeightChange:
    bias, shapes = _bias(layer), _shapes(layer)
    shapes["bias"] = () if bias is None else tuple(bias.shape)
    if not isinstance(given, Mapping) and not np.ndim(given):
        given = {name: given for name in shapes if name != "norm"}
    if not isinstance(given, Mapping) or not set(given) <= set(shapes):
        raise ValueError(f"{_FORMS}Received: {given!r} for {layer.name!r}.")
    found = {name: _amount(layer, name, x, shapes[name]) for name, x in given.items()}
    norm = None if "norm" not in found else float(found["norm"])
    kernel = found.get("kernel", np.zeros(()) if norm is None else None)
    recurrent = found.get("recurrent_kernel")
    return WeightChange(layer, kernel, found.get("bias", np.zeros(())), norm, recurrent)


def _shapes(layer: layers.Layer) -> dict[str, tuple[int, ...]]:
    """What may be given for the kernel of a layer, or for the two of a recurrent one."""
    recurrence = rule_for(layer).recurrence(layer, None)
    if recurrence is None:
        return {"kernel": kernel_of(layer).shape, "norm": ()}
    of_inputs, of_state = map(_plain_shape, (recurrence.kernel, recurrence.recurrent))
    return {"kernel": of_inputs, "recurrent_kernel": of_state}


def _amount(layer: layers.Layer, name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A number or an array of numbers, as float64."""
    try:
        array = np.asarray(value, np.float64)
        np.broadcast_to(array, shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{_FORMS}Received: {value!r} for {name!r} of {layer.name!r}, of shape {shape}."
        ) from error
    if isinstance(value, bool) or not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(f"{_FORMS}Received: {value!r} for {name!r} of {layer.name!r}.")
    return array
