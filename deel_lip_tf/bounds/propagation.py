"""Whole models: every tensor gets its Lipschitz constant with respect to the joint input.

Constants travel from the inputs to the outputs. A layer multiplies; a sum adds; a concatenation,
a maximum or several outputs take the p-norm. A layer that is called twice counts twice. Branches
that begin at different inputs, or at different slices of one tensor, are known to vary apart: their
joint constant is smaller. Dense layers one after the other are bounded as a whole, too (`chains`).
"""

import math
import time
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers

from deel_lip_tf._rounding import product_up
from deel_lip_tf.bounds.chains import Chain, find_chains
from deel_lip_tf.bounds.layers import layer_bound
from deel_lip_tf.bounds.merges import merge_of
from deel_lip_tf.bounds.patterns import Pattern, find_patterns
from deel_lip_tf.bounds.result import ChainBound, LayerBound, LipschitzBound
from deel_lip_tf.errors import UnsupportedLayerError, UnsupportedParts
from deel_lip_tf.semantics.graph import UNREADABLE, Call, Graph, Value, graph_of, is_readable
from deel_lip_tf.semantics.norms import L2, Norm, standardize_norm
from deel_lip_tf.semantics.operators import Merge, Shape, all_known, single_shape
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.wrappers import Wrapper

_NO_BOUND = (
    "No Lipschitz bound is known for: {}. Replace each of them by a layer of this library or a "
    "Keras layer with a known constant, or bound the parts before and after it and multiply by a "
    "constant you can prove."
)


def lipschitz_bound(
    layer_or_model: keras.layers.Layer | keras.Model, norm: str = "l2", budget: float = 1.0
) -> LipschitzBound:
    """Proves an upper bound on the Lipschitz constant of a layer or a model, at inference.

    `||f(x) - f(y)||_p <= value * ||x - y||_p` for all x and y. The claim is about the exact
    function of the weights as stored (rounded to the type the layer computes in), for
    `training=False`: dropout is the identity and batch normalization uses its moving statistics.
    The bound is computed in float64 and rounded upward; nothing is estimated from data, and the
    model is not changed. A single layer is bounded for inputs of the shape it was built with (a
    `Rescaling` that is not built, for the shape of its arguments). The inputs of a model of an
    integer type are integers: the claim is about these.

    Args:
        layer_or_model: a built layer of Keras or of this library, or a Sequential or functional
            model of such layers: nested models, shared layers, several inputs (their joint norm)
            and several outputs are fine.
        norm: "l2", "linf" or "l1", of inputs and outputs alike. For "linf" and "l1" kernels are
            bounded by their sums of absolute values, which is exact.
        budget: how much work each convolution, and each run of dense layers that is bounded as a
            whole, may cost in "l2", in place of a time: it is counted in operations, so that the
            result can be reproduced. With 1 the largest layers take some seconds on two cores; a
            tenth is ten times as fast, and somewhat looser.

    Returns:
        The bound, with one entry for each call of a layer.

    Raises:
        TypeError: if the argument is not a Keras layer or model.
        ValueError: if `norm` is unknown, if `budget` is not positive, if the model is not built, or
            if it holds layers or operations without a known bound: all of them are named.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="ones")
        >>> dense.build((None, 3))
        >>> for norm in ("l2", "linf", "l1"):
        ...     print(norm, round(lip.bounds.lipschitz_bound(dense, norm).value, 4))
        l2 2.4495
        linf 3.0
        l1 2.0
        >>> constrained = lip.layers.SpectralConv2D(4, 3)
        >>> constrained.build((None, 8, 8, 3))
        >>> lip.bounds.lipschitz_bound(constrained).value <= 1 + 1e-6
        True
    """
    propagation = LipschitzPropagation(standardize_norm(norm), _checked_budget(budget))
    if not isinstance(layer_or_model, keras.layers.Layer):
        raise TypeError(
            "`layer_or_model` must be a Keras layer or model. "
            f"Received: {type(layer_or_model).__name__}."
        )
    if isinstance(layer_or_model, keras.Model):
        value = propagation.joint(layer_or_model)
    else:
        value = propagation.layer(layer_or_model, _build_shape(layer_or_model), 1.0, "")
    propagation.unsupported.raise_if_any()
    chains = tuple(propagation.chains)
    return LipschitzBound(float(value), propagation.entries, norm, chains)


def _checked_budget(budget: float) -> float:
    is_number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not is_number or not 0 < budget < math.inf:
        raise ValueError(
            f"`budget` must be a positive number, 1 by default. Received: budget={budget!r}."
        )
    return float(budget)


def _build_shape(layer: keras.layers.Layer) -> Shape:
    """Shape of the single input a layer was built with, or None where it is not recorded."""
    if type(layer) is layers.Rescaling and not layer.built:
        return (None, *np.broadcast_shapes(np.shape(layer.scale), np.shape(layer.offset)))
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    return single_shape(shape)


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


class LipschitzPropagation:
    """Passes over a graph: collects the entries, and everything that has no bound.

    Attributes:
        entries: one for each call of a layer, in order.
        chains: what was bounded as a whole besides.
        layer_bounds: `(bound, method)` by `(id(layer), input shape)`.
        constants: of the values of the graphs that were walked, with respect to their input.

    Args:
        norm: of inputs and outputs.
        budget: work for each convolution, and for each chain.
    """

    def __init__(self, norm: Norm = L2, budget: float = 1.0):
        self.entries: list[LayerBound] = []
        self.chains: list[ChainBound] = []
        self.layer_bounds: dict[tuple, tuple[float, str]] = {}
        self.constants: dict[Value, float] = {}
        self.unsupported = UnsupportedParts(_NO_BOUND)
        self._norm, self._budget = norm, budget

    def joint(self, model: keras.Model) -> float:
        """Constant of all outputs of a model together."""
        known = self._outputs(model)
        return self._merged(Merge([1.0] * len(known), True, ""), known).constant

    def model(self, model: keras.Model) -> list[float]:
        """Constants of the outputs of a model, each with respect to its joint input."""
        return [known.constant for known in self._outputs(model)]

    def _outputs(self, model: keras.Model) -> list[_Known]:
        if not is_readable(model):
            self.unsupported.add_call(model, model.name, UNREADABLE)
            return [_Known(math.nan)]
        return self._run(graph_of(model))

    def graph(self, graph: Graph) -> list[float]:
        """Constants of the outputs of a graph, each with respect to its joint input."""
        return [known.constant for known in self._run(graph)]

    def call(self, call: Call, constants: list[float]) -> list[float]:
        """Constants of the outputs of one call, given those of its inputs."""
        results = self._call(call, [_Known(constant) for constant in constants])
        return [known.constant for known in results]

    def layer(
        self, layer: keras.layers.Layer, input_shape: Shape, constant: float, prefix: str
    ) -> float:
        """Constant after one layer with a single input."""
        if isinstance(known := rule_for(layer), Wrapper):
            shape = known.inner_shape(input_shape)
            return self._wrapped(layer, shape, constant, prefix)
        start, name = time.perf_counter(), prefix + layer.name
        try:
            value, method = self._layer_bound(layer, input_shape)
        except UnsupportedLayerError as error:
            self.unsupported.add_call(layer, name, error)
            return math.nan
        self._add(layer, name, value, method, start)
        return product_up(constant, value)

    def _layer_bound(self, layer: keras.layers.Layer, input_shape: Shape) -> tuple[float, str]:
        key = (id(layer), input_shape)
        if key not in self.layer_bounds:
            self.layer_bounds[key] = layer_bound(layer, input_shape, self._norm, self._budget)
        return self.layer_bounds[key]

    def _wrapped(
        self, wrapper: keras.layers.Layer, shape: Shape, constant: float, prefix: str
    ) -> float:
        """The layer inside a wrapper, which is applied to inputs of this shape."""
        inner = wrapper.layer
        prefix = f"{prefix}{wrapper.name}/"
        # The wrapper calls it without the change of type that a call of its own would make.
        if isinstance(inner, keras.Model) or inner.compute_dtype != wrapper.compute_dtype:
            self.unsupported.add_call(
                inner, prefix + inner.name, "no rule is known for it inside this wrapper"
            )
            return math.nan
        return self.layer(inner, shape, constant, prefix)

    def _run(self, graph: Graph) -> list[_Known]:
        # The inputs of a model are parts of their joint vector.
        count = len(graph.inputs)
        parts = [_Part("inputs", row, 1.0, 1.0) for row in np.eye(count, dtype=bool)]
        given = [_Known(1.0, part if count > 1 else None) for part in parts]
        values = dict(zip(graph.inputs, given, strict=True))
        patterns = find_patterns(graph.calls)
        hidden = _hidden(graph, patterns)
        chains = find_chains(graph.calls, self._budget) if self._norm == L2 else {}
        for call in graph.calls:
            if call in hidden:
                continue
            if call in patterns:
                results = [self._pattern(call, patterns[call], values)]
            else:
                results = self._call(call, [values[x] for x in call.inputs])
            if call in chains:
                results = [self._chain(chains[call], values[chains[call].source], results[0])]
            values.update(zip(call.outputs, results, strict=True))
        self.constants.update((value, known.constant) for value, known in values.items())
        return [values[value] for value in graph.outputs]

    def _chain(self, chain: Chain, source: _Known, one_by_one: _Known) -> _Known:
        """The smaller constant: of a chain as a whole, or of its layers one by one."""
        if not 0.0 < one_by_one.constant < math.inf:
            return one_by_one
        start = time.perf_counter()
        each = [self._layer_bound(call.operation, call.inputs[0].shape)[0] for call in chain.calls]
        value, product = chain.bound(), product_up(*each)
        if value < math.inf:
            seconds = time.perf_counter() - start
            self.chains.append(ChainBound(chain.names, value, product, seconds))
        whole = self._times(source, value)
        return whole if whole.constant < one_by_one.constant else one_by_one

    def _pattern(self, call: Call, pattern: Pattern, values: dict) -> _Known:
        start = time.perf_counter()
        try:
            value, method = pattern.bound(self._norm, self._budget)
            # The layers by themselves too: whoever propagates errors call by call asks for them.
            for each in (*pattern.inner, call):
                if isinstance(each.operation, layers.Layer) and merge_of(each, self._norm) is None:
                    self._layer_bound(each.operation, each.inputs[0].shape)
        except UnsupportedLayerError as error:
            self.unsupported.add_call(call.operation, call.name, error)
            return _Known(math.nan)
        self._add(call.operation, call.name, value, method, start)
        return self._times(values[pattern.source], value)

    def _call(self, call: Call, known: list[_Known]) -> list[_Known]:
        start, unknown = time.perf_counter(), [_Known(math.nan)] * len(call.outputs)
        try:
            merge = merge_of(call, self._norm)
        except UnsupportedLayerError as error:
            self.unsupported.add_call(call.operation, call.name, error)
            return unknown
        if merge is not None:
            own = merge.apart([1.0] * len(known), self._norm)
            self._add(call.operation, call.name, own, merge.method, start)
            result = self._merged(merge, known)
            return [replace(result, part=part) for part in self._parts(call, result)]
        if len(known) != 1 or len(call.outputs) != 1:
            reason = "no rule is known for several inputs or outputs"
            self.unsupported.add_call(call.operation, call.name, reason)
            return unknown
        value = self.layer(call.operation, call.inputs[0].shape, 1.0, call.prefix)
        return [self._times(known[0], value)]

    def _times(self, known: _Known, value: float) -> _Known:
        part = known.part
        if part is not None:
            part = replace(part, relative=product_up(part.relative, value))
        return _Known(product_up(known.constant, value), part)

    def _merged(self, merge: Merge, known: list[_Known]) -> _Known:
        """The result of a merge: inputs that depend on different parts of a tensor vary apart."""
        total = merge.total([one.constant for one in known], self._norm)
        parts = [one.part for one in known if one.part is not None]
        if len(parts) < len(known) or len({part.root for part in parts}) > 1:
            return _Known(total)
        entries = np.sum([part.entries for part in parts], axis=0)
        if entries.max() > 1:
            return _Known(total)
        relative = merge.apart([part.relative for part in parts], self._norm)
        part = replace(parts[0], entries=entries.astype(bool), relative=relative)
        return _Known(min(total, product_up(relative, part.base)), part)

    def _parts(self, call: Call, result: _Known) -> list[_Part | None]:
        """For slices of a tensor, the entries that each output consists of."""
        value, name = call.inputs[0], type(call.operation).__name__
        shape = all_known(value.shape[1:])
        if name not in ("GetItem", "Split") or shape is None:
            return [result.part] * len(call.outputs)
        size = math.prod(shape)
        index = np.arange(size).reshape(1, *shape)
        if name == "GetItem":
            pieces = [index[call.argument(1, "key")]]
        else:
            pieces = np.split(index, call.operation.indices_or_sections, call.operation.axis)
        masks = [np.isin(np.arange(size), piece) for piece in pieces]
        return [_Part(value, mask, 1.0, result.constant) for mask in masks]

    def _add(
        self, operation: keras.Operation, name: str, value: float, method: str, start: float
    ) -> None:
        seconds = time.perf_counter() - start
        self.entries.append(LayerBound(name, type(operation).__name__, value, method, seconds))


def _hidden(graph: Graph, patterns: dict) -> set[Call]:
    """The calls inside patterns that nothing else uses."""
    users: dict[Value, list[Call]] = {}
    for call in graph.calls:
        for value in call.inputs:
            users.setdefault(value, []).append(call)
    wanted, hidden = set(graph.outputs), set[Call]()
    for call, pattern in patterns.items():
        inside = {*pattern.inner, call}
        values = [value for each in pattern.inner for value in each.outputs]
        is_used = any(
            value in wanted or not inside.issuperset(users.get(value, ())) for value in values
        )
        hidden.update(() if is_used else pattern.inner)
    return hidden
