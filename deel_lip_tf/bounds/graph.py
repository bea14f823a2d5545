"""Whole models: every tensor gets its Lipschitz constant with respect to the joint input.

Constants travel from the inputs to the outputs. A layer multiplies; a sum adds; a concatenation,
a maximum or several outputs take the root of the sum of squares. A layer that is called twice
counts twice.
"""

import math

import keras

from deel_lip_tf.bounds import operations
from deel_lip_tf.bounds.layers import Unbounded, layer_bound
from deel_lip_tf.bounds.result import LayerBound, LipschitzBound
from deel_lip_tf.bounds.rounding import norm_up, product_up

__all__ = ["GraphWalk", "lipschitz_bound", "sorted_nodes", "symbolic_tensors"]


def lipschitz_bound(
    layer_or_model: keras.layers.Layer | keras.Model, norm: str = "l2"
) -> LipschitzBound:
    """Proves an upper bound on the L2 Lipschitz constant of a layer or a model, at inference.

    The claim is about the exact function of the weights as stored (rounded to the type the layer
    computes in), for `training=False`: dropout is the identity and batch normalization uses its
    moving statistics. The bound is computed in float64 and rounded upward; nothing is estimated
    from data, and the model is not changed. A single layer is bounded for inputs of the shape it
    was built with.

    Args:
        layer_or_model: a built layer of Keras or of this library, or a Sequential or functional
            model of such layers: nested models, shared layers, several inputs (their joint norm)
            and several outputs are fine.
        norm: "l2", the only one.

    Returns:
        The bound, with one entry for each call of a layer.

    Raises:
        TypeError: if the argument is not a Keras layer or model.
        ValueError: if `norm` is not "l2", if the model is not built, or if it holds layers or
            operations without a known bound: all of them are named.
    """
    if norm != "l2":
        raise ValueError(
            f'`norm` must be "l2": other norms have no proof here. Received: norm={norm!r}.'
        )
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise TypeError(
            "`layer_or_model` must be a Keras layer or model. "
            f"Received: {type(layer_or_model).__name__}."
        )
    walk = GraphWalk()
    if isinstance(layer_or_model, keras.Model):
        value = norm_up(walk.model(layer_or_model, None, ""))
    else:
        value = walk.layer(layer_or_model, _build_shape(layer_or_model), 1.0, "")
    walk.raise_if_refused()
    return LipschitzBound(value=float(value), per_layer=walk.entries)


def _build_shape(layer):
    """Shape of the single input a layer was built with, or None where it is not recorded."""
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    is_single = isinstance(shape, list | tuple) and all(n is None or type(n) is int for n in shape)
    return tuple(shape) if is_single else None


class GraphWalk:
    """Passes over a graph: collects the entries, and everything that has no bound.

    `layer_bounds` holds `(bound, method)` by `(id(layer), input shape)`.
    """

    def __init__(self):
        self.entries: list[LayerBound] = []
        self.layer_bounds: dict[tuple, tuple[float, str]] = {}
        self._refused: list[str] = []

    def model(self, model: keras.Model, constants: list[float] | None, prefix: str) -> list[float]:
        """Constants of the outputs of a model, given those of its inputs (1 each by default)."""
        tensors = symbolic_tensors(model)
        if tensors is None:
            self._refuse(model, prefix, _MODEL_REASON)
            return [math.nan]
        inputs, outputs = tensors
        constants = [1.0] * len(inputs) if constants is None else constants
        return self.tensors(inputs, constants, outputs, prefix)

    def tensors(self, inputs: list, constants: list[float], outputs: list, prefix: str):
        """Constants of some tensors of a graph, given those of its inputs."""
        known = {id(tensor): value for tensor, value in zip(inputs, constants, strict=True)}
        for node in sorted_nodes(outputs, set(known)):
            results = self._node(node, [known[id(x)] for x in node.input_tensors], prefix)
            known.update(zip(map(id, node.outputs), results, strict=True))
        return [known[id(tensor)] for tensor in outputs]

    def layer(self, layer, input_shape, constant: float, prefix: str) -> float:
        """Constant after one layer with a single input."""
        key = (id(layer), input_shape)
        try:
            if key not in self.layer_bounds:
                self.layer_bounds[key] = layer_bound(layer, input_shape)
            value, method = self.layer_bounds[key]
        except Unbounded as error:
            self._refuse(layer, prefix, str(error))
            return math.nan
        self._add(layer, prefix, value, method)
        return product_up(constant, value)

    def raise_if_refused(self) -> None:
        """Raises one error that names everything without a bound."""
        if self._refused:
            raise ValueError(
                "No Lipschitz bound is known for: " + "; ".join(self._refused) + ". Replace each "
                "of them by a layer of this library or a Keras layer with a known constant, or "
                "bound the parts before and after it and multiply by a constant you can prove."
            )

    def _node(self, node, constants: list[float], prefix: str) -> list[float]:
        operation = node.operation
        if node.is_input:
            self._refuse(operation, prefix, "it is not connected to the inputs of the model")
            return [math.nan] * len(node.outputs)
        try:
            operations.check_call(node)
            if isinstance(operation, keras.Model):
                return self.model(operation, constants, f"{prefix}{operation.name}/")
            if (merge := operations.merge_rule(operation)) is not None:
                value, own, method = merge(node, constants)
                self._add(operation, prefix, own, method)
                return [value]
        except Unbounded as error:
            self._refuse(operation, prefix, str(error))
            return [math.nan] * len(node.outputs)
        if len(constants) != 1 or len(node.outputs) != 1:
            self._refuse(operation, prefix, "no rule is known for several inputs or outputs")
            return [math.nan] * len(node.outputs)
        return [self.layer(operation, node.input_tensors[0].shape, constants[0], prefix)]

    def _add(self, operation, prefix: str, value: float, method: str) -> None:
        name = prefix + operation.name
        self.entries.append(LayerBound(name, type(operation).__name__, value, method))

    def _refuse(self, operation, prefix: str, reason: str) -> None:
        text = f"{prefix + operation.name!r} ({type(operation).__name__}: {reason})"
        if text not in self._refused:
            self._refused.append(text)


_MODEL_REASON = (
    "it is not a built Sequential or functional model: give it an `Input`, and do not override "
    "`call`"
)


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
