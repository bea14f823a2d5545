"""Whole models: every tensor gets its Lipschitz constant with respect to the joint input.

Constants travel from the inputs to the outputs. A layer multiplies; a sum adds; a concatenation,
a maximum or several outputs take the p-norm. A layer that is called twice counts twice. Branches
that begin at different inputs, or at different slices of one tensor, are known to vary apart: their
joint constant is smaller.
"""

import math
import time
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers

from deel_lip_tf.bounds import operations
from deel_lip_tf.bounds.layers import Unbounded, layer_bound
from deel_lip_tf.bounds.norms import L2, Norm, standardize_norm
from deel_lip_tf.bounds.patterns import find_patterns
from deel_lip_tf.bounds.result import LayerBound, LipschitzBound
from deel_lip_tf.bounds.rounding import product_up

__all__ = ["GraphWalk", "lipschitz_bound", "sorted_nodes", "symbolic_tensors"]


def lipschitz_bound(
    layer_or_model: keras.layers.Layer | keras.Model, norm: str = "l2", budget: float = 1.0
) -> LipschitzBound:
    """Proves an upper bound on the Lipschitz constant of a layer or a model, at inference.

    `||f(x) - f(y)||_p <= value * ||x - y||_p` for all x and y. The claim is about the exact
    function of the weights as stored (rounded to the type the layer computes in), for
    `training=False`: dropout is the identity and batch normalization uses its moving statistics.
    The bound is computed in float64 and rounded upward; nothing is estimated from data, and the
    model is not changed. A single layer is bounded for inputs of the shape it was built with (a
    `Rescaling` that is not built, for the shape of its arguments).

    Args:
        layer_or_model: a built layer of Keras or of this library, or a Sequential or functional
            model of such layers: nested models, shared layers, several inputs (their joint norm)
            and several outputs are fine.
        norm: "l2", "linf" or "l1", of inputs and outputs alike. For "linf" and "l1" kernels are
            bounded by their sums of absolute values, which is exact.
        budget: how much work each convolution may cost in "l2", in place of a time: it is counted
            in operations, so that the result can be reproduced. With 1 the largest layers take
            some seconds on two cores; a tenth is ten times as fast, and somewhat looser.

    Returns:
        The bound, with one entry for each call of a layer.

    Raises:
        TypeError: if the argument is not a Keras layer or model.
        ValueError: if `norm` is unknown, if `budget` is not positive, if the model is not built, or
            if it holds layers or operations without a known bound: all of them are named.
    """
    walk = GraphWalk(standardize_norm(norm), _checked_budget(budget))
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise TypeError(
            "`layer_or_model` must be a Keras layer or model. "
            f"Received: {type(layer_or_model).__name__}."
        )
    if isinstance(layer_or_model, keras.Model):
        value = walk.joint(layer_or_model)
    else:
        value = walk.layer(layer_or_model, _build_shape(layer_or_model), 1.0, "")
    walk.raise_if_refused()
    return LipschitzBound(value=float(value), per_layer=walk.entries, norm=norm)


def _checked_budget(budget: float) -> float:
    is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not is_number or not 0 < budget < math.inf:
        raise ValueError(
            f"`budget` must be a positive number, 1 by default. Received: budget={budget!r}."
        )
    return float(budget)


def _build_shape(layer):
    """Shape of the single input a layer was built with, or None where it is not recorded."""
    if type(layer) is layers.Rescaling and not layer.built:
        return (None, *np.broadcast_shapes(np.shape(layer.scale), np.shape(layer.offset)))
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    is_single = isinstance(shape, list | tuple) and all(n is None or type(n) is int for n in shape)
    return tuple(shape) if is_single else None


@dataclass(frozen=True)
class _Part:
    """A tensor depends on some entries of another one alone.

    Attributes:
        root: what names the other tensor.
        entries: (entries of the other tensor,) booleans.
        relative: constant with respect to these entries.
        base: constant of the other tensor with respect to the joint input.
    """

    root: object
    entries: np.ndarray
    relative: float
    base: float


@dataclass(frozen=True)
class _Known:
    """Constant of a tensor with respect to the joint input, and what it depends on, if a part."""

    constant: float
    part: _Part | None = None


class GraphWalk:
    """Passes over a graph: collects the entries, and everything that has no bound.

    `layer_bounds` holds `(bound, method)` by `(id(layer), input shape)`.

    Args:
        norm: of inputs and outputs.
        budget: work for each convolution.
    """

    def __init__(self, norm: Norm = L2, budget: float = 1.0):
        self.entries: list[LayerBound] = []
        self.layer_bounds: dict[tuple, tuple[float, str]] = {}
        self._refused: list[str] = []
        self._norm, self._budget = norm, budget

    def joint(self, model: keras.Model) -> float:
        """Constant of all outputs of a model together."""
        if (tensors := symbolic_tensors(model)) is None:
            return self.model(model, None, "")[0]
        inputs, outputs = tensors
        known = self._run(inputs, self._apart(len(inputs)), outputs, "")
        count = len(outputs)
        return self._merged(operations.Merge([1.0] * count, True, ""), known).constant

    def model(self, model: keras.Model, constants: list[float] | None, prefix: str) -> list[float]:
        """Constants of the outputs of a model, given those of its inputs (1 each by default)."""
        tensors = symbolic_tensors(model)
        if tensors is None:
            self._refuse(model, prefix, _MODEL_REASON)
            return [math.nan]
        inputs, outputs = tensors
        if constants is None:
            results = self._run(inputs, self._apart(len(inputs)), outputs, prefix)
            return [result.constant for result in results]
        return self.tensors(inputs, constants, outputs, prefix)

    def tensors(self, inputs: list, constants: list[float], outputs: list, prefix: str):
        """Constants of some tensors of a graph, given those of its inputs."""
        results = self._run(inputs, [_Known(value) for value in constants], outputs, prefix)
        return [result.constant for result in results]

    def _apart(self, count: int) -> list[_Known]:
        """The inputs of a model as parts of their joint vector."""
        rows = np.eye(count, dtype=bool)
        return [_Known(1.0, _Part("inputs", row, 1.0, 1.0) if count > 1 else None) for row in rows]

    def layer(self, layer, input_shape, constant: float, prefix: str) -> float:
        """Constant after one layer with a single input."""
        if type(layer) in _WRAPPERS:
            return self._wrapped(layer, input_shape, constant, prefix)
        start = time.perf_counter()
        try:
            value, method = self._layer_bound(layer, input_shape)
        except Unbounded as error:
            self._refuse(layer, prefix, str(error))
            return math.nan
        self._add(layer, prefix, value, method, start)
        return product_up(constant, value)

    def raise_if_refused(self) -> None:
        """Raises one error that names everything without a bound."""
        if self._refused:
            raise ValueError(
                "No Lipschitz bound is known for: " + "; ".join(self._refused) + ". Replace each "
                "of them by a layer of this library or a Keras layer with a known constant, or "
                "bound the parts before and after it and multiply by a constant you can prove."
            )

    def _layer_bound(self, layer, input_shape) -> tuple[float, str]:
        key = (id(layer), input_shape)
        if key not in self.layer_bounds:
            self.layer_bounds[key] = layer_bound(layer, input_shape, self._norm, self._budget)
        return self.layer_bounds[key]

    def _wrapped(self, wrapper, input_shape, constant: float, prefix: str) -> float:
        """A wrapper applies its layer to every step, or as it is at inference."""
        inner, shape = wrapper.layer, input_shape
        if type(wrapper) is layers.TimeDistributed and shape is not None:
            shape = (shape[0], *shape[2:])
        prefix = f"{prefix}{wrapper.name}/"
        # The wrapper calls it without the change of type that a call of its own would make.
        if isinstance(inner, keras.Model) or inner.compute_dtype != wrapper.compute_dtype:
            self._refuse(inner, prefix, "no rule is known for it inside this wrapper")
            return math.nan
        return self.layer(inner, shape, constant, prefix)

    def _run(self, inputs: list, known: list[_Known], outputs: list, prefix: str) -> list[_Known]:
        values = {id(tensor): value for tensor, value in zip(inputs, known, strict=True)}
        nodes = sorted_nodes(outputs, set(values))
        patterns = {
            node: pattern
            for node, pattern in find_patterns(nodes).items()
            if set(pattern.inner) <= set(nodes)
        }
        hidden = _hidden(nodes, patterns, outputs)
        for node in nodes:
            if node in hidden:
                continue
            if node in patterns:
                results = [self._pattern(node, patterns[node], values, prefix)]
            else:
                results = self._node(node, [values[id(x)] for x in node.input_tensors], prefix)
            values.update(zip(map(id, node.outputs), results, strict=True))
        return [values[id(tensor)] for tensor in outputs]

    def _pattern(self, node, pattern, values: dict, prefix: str) -> _Known:
        start = time.perf_counter()
        try:
            value, method = pattern.bound(self._norm, self._budget)
            # The layers by themselves too: whoever propagates errors call by call asks for them.
            for call in (*pattern.inner, node):
                if isinstance(call.operation, layers.Layer):
                    self._layer_bound(call.operation, call.input_tensors[0].shape)
        except Unbounded as error:
            self._refuse(node.operation, prefix, str(error))
            return _Known(math.nan)
        self._add(node.operation, prefix, value, method, start)
        return self._times(values[id(pattern.source)], value)

    def _node(self, node, known: list[_Known], prefix: str) -> list[_Known]:
        operation, start = node.operation, time.perf_counter()
        constants = [one.constant for one in known]
        unknown = [_Known(math.nan)] * len(node.outputs)
        if node.is_input:
            self._refuse(operation, prefix, "it is not connected to the inputs of the model")
            return unknown
        try:
            operations.check_call(node)
            if isinstance(operation, keras.Model):
                values = self.model(operation, constants, f"{prefix}{operation.name}/")
                return [_Known(value) for value in values]
            merge = operations.merge_of(node, self._norm)
        except Unbounded as error:
            self._refuse(operation, prefix, str(error))
            return unknown
        if merge is not None:
            own = merge.apart([1.0] * len(known), self._norm)
            self._add(operation, prefix, own, merge.method, start)
            result = self._merged(merge, known)
            return [replace(result, part=part) for part in self._parts(node, result)]
        if len(constants) != 1 or len(node.outputs) != 1:
            self._refuse(operation, prefix, "no rule is known for several inputs or outputs")
            return unknown
        value = self.layer(operation, node.input_tensors[0].shape, 1.0, prefix)
        return [self._times(known[0], value)]

    def _times(self, known: _Known, value: float) -> _Known:
        part = known.part
        if part is not None:
            part = replace(part, relative=product_up(part.relative, value))
        return _Known(product_up(known.constant, value), part)

    def _merged(self, merge: operations.Merge, known: list[_Known]) -> _Known:
        """The result of a merge: inputs that depend on different parts of a tensor vary apart."""
        total = merge.total([one.constant for one in known], self._norm)
        parts = [one.part for one in known]
        if None in parts or len({part.root for part in parts}) > 1:
            return _Known(total)
        entries = np.sum([part.entries for part in parts], axis=0)
        if entries.max() > 1:
            return _Known(total)
        relative = merge.apart([part.relative for part in parts], self._norm)
        part = replace(parts[0], entries=entries.astype(bool), relative=relative)
        return _Known(min(total, product_up(relative, part.base)), part)

    def _parts(self, node, result: _Known) -> list[_Part | None]:
        """For slices of a tensor, the entries that each output consists of."""
        tensor, name = node.input_tensors[0], type(node.operation).__name__
        if name not in ("GetItem", "Split") or None in tensor.shape[1:]:
            return [result.part] * len(node.outputs)
        size = math.prod(tensor.shape[1:])
        index = np.arange(size).reshape(1, *tensor.shape[1:])
        if name == "GetItem":
            pieces = [index[node.arguments.args[1]]]
        else:
            pieces = np.split(index, node.operation.indices_or_sections, node.operation.axis)
        masks = [np.isin(np.arange(size), piece) for piece in pieces]
        return [_Part(id(tensor), mask, 1.0, result.constant) for mask in masks]

    def _add(self, operation, prefix: str, value: float, method: str, start: float) -> None:
        name, seconds = prefix + operation.name, time.perf_counter() - start
        self.entries.append(LayerBound(name, type(operation).__name__, value, method, seconds))

    def _refuse(self, operation, prefix: str, reason: str) -> None:
        text = f"{prefix + operation.name!r} ({type(operation).__name__}: {reason})"
        if text not in self._refused:
            self._refused.append(text)


_WRAPPERS = (layers.TimeDistributed, layers.SpectralNormalization)

_MODEL_REASON = (
    "it is not a built Sequential or functional model: give it an `Input`, and do not override "
    "`call`"
)


def _hidden(nodes: list, patterns: dict, outputs: list) -> set:
    """The calls inside patterns that nothing else uses."""
    users: dict[int, list] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            users.setdefault(id(tensor), []).append(node)
    wanted, hidden = {id(tensor) for tensor in outputs}, set()
    for node, pattern in patterns.items():
        inside = {*pattern.inner, node}
        tensors = [tensor for call in pattern.inner for tensor in call.outputs]
        is_used = any(
            id(tensor) in wanted or not inside.issuperset(users.get(id(tensor), ()))
            for tensor in tensors
        )
        hidden.update(() if is_used else pattern.inner)
    return hidden


def symbolic_tensors(model: keras.Model) -> tuple[list, list] | None:
    """Inputs and outputs of the graph a model computes, or None where it may compute otherwise."""
    if not type(model).call.__module__.startswith(("keras.", "deel_lip_tf.")):
        return None
    try:
        inputs, outputs = model.inputs, model.outputs
    except AttributeError:
        return None
    return (list(inputs), list(outputs)) if inputs and outputs else None


def sorted_nodes(outputs: list, known: set[int]) -> list:
    """The calls that lead from the known tensors to the outputs, each after those it needs."""
    ordered, done, stack = [], set(), [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, is_expanded = stack.pop()
        operation, index, _ = tensor._keras_history
        if id(tensor) in known or (operation, index) in done:
            continue
        node = operation._inbound_nodes[index]
        if is_expanded:
            done.add((operation, index))
            ordered.append(node)
            continue
        stack.append((tensor, True))
        stack.extend((x, False) for x in reversed(node.input_tensors))
    return ordered
