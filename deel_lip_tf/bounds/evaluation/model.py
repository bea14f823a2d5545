"""A model evaluated in float64 on its stored weights, with a bound on every rounding error.

The error of a tensor is bounded sample by sample, in the Euclidean norm, along the graph:
`error(f(x)) <= L error(x) + local`, with L the proven bound of the layer and `local` the a-priori
bound `gamma(n)` times the sum of absolute values that the layer adds up. The same with the unit
roundoff of the type that the model itself computes in says how far the model may be from it.
Exponentials and the functions made of them are taken to be wrong by at most `gamma(64)` times their
value and 1, far more than the usual libraries are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from deel_lip_tf._keras import float64_on_cpu
from deel_lip_tf._rounding import UNIT, UNITS, UP, gamma, product_up
from deel_lip_tf.bounds.evaluation.rounding_errors import (
    FLUSHED,
    LOST_SQUARE,
    Rounding,
    lost_squares,
    rounding_of,
)
from deel_lip_tf.bounds.merges import merge_of
from deel_lip_tf.bounds.patterns import Pattern, find_patterns
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.semantics.float64 import in_float64
from deel_lip_tf.semantics.graph import Call, Graph, float_types, graph_of
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.wrappers import Wrapper, unwrapped
from deel_lip_tf.semantics.state import is_constrained


@dataclass(frozen=True, eq=False)
class WithError:
    """A tensor of the graph, evaluated.

    Attributes:
        tensor: float64 tensor of the backend.
        error: (samples,) bounds on its Euclidean distance to exact arithmetic.
        constant: proven Lipschitz constant with respect to the model's input.
        deviation: (samples,) how far from it the model is, as it runs in its own types.
        norm: (samples,) its Euclidean norms, none below the exact one.
    """

    tensor: Any
    error: np.ndarray
    constant: float
    deviation: np.ndarray
    norm: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The tensor as an array."""
        return np.asarray(ops.convert_to_numpy(self.tensor))


class Evaluation(NamedTuple):
    """One call of a layer or an operation, evaluated in float64.

    Attributes:
        call: the call in the graph.
        outputs: the outputs, with their errors: one, but for a split.
        constants: proven Lipschitz constants with respect to each input.
    """

    call: Call
    outputs: list[WithError]
    constants: list[float]


class Float64Evaluator:
    """Float64 copies of the layers of a bounded model, called along its graph.

    Args:
        model: a Sequential or functional model.
        propagation: the pass that bounded the model; its constants propagate the errors.

    Attributes:
        graph: of the model.
        patterns: the calls that are evaluated as one with those before them.
        kept: by call, `(its inputs, its outputs)` when it was made last. Only the calls are kept
            that are there before.
    """

    def __init__(self, model: keras.Model, propagation: LipschitzPropagation):
        self.graph = graph_of(model)
        self.kept: dict[Call, tuple[list, list]] = {}
        self._bounds = propagation.layer_bounds
        self._copies: dict[int, keras.layers.Layer | _ExportedLayer] = {}
        self._roundings: dict[tuple, tuple[Rounding, Rounding]] = {}
        self._roundoff = max(UNITS[dtype] for dtype in float_types(self.graph)) / UNIT
        self.patterns = _patterns_without_rules(self.graph)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates a model with one input and one output at inference.

        Args:
            x: (samples, ...) float64.

        Returns:
            `(outputs, errors)`: (samples, ...) float64, and (samples,) bounds on the Euclidean
            distance to the outputs of exact arithmetic.

        Raises:
            ValueError: if the backend does not compute in float64.
        """
        outputs = self.evaluate_model(x)
        return outputs.numbers, outputs.error

    @float64_on_cpu()
    def evaluate_model(self, x: np.ndarray) -> Any:
        """What is known of the output for a batch of samples, in the form that `start` gives it."""
        tensor = ops.convert_to_tensor(x, dtype="float64")
        mean = keras.backend.result_type("float64", "float32")  # what Keras computes means in
        if {keras.backend.standardize_dtype(tensor.dtype), mean} != {"float64"}:
            raise ValueError(
                "Certificates are computed in float64, which Keras's backend has not got here. "
                f"Received: tensors of {tensor.dtype}, and means in {mean}."
            )
        return self.run([self.start(tensor)])[0]

    @float64_on_cpu()
    def copy(self, layer: keras.layers.Layer) -> Any:
        """The float64 copy of a layer; of a constrained one, with its effective kernel."""
        if id(layer) not in self._copies:
            plain = layer.vanilla_export() if is_constrained(layer) else layer
            # Where Keras has not got the padding, the export is a model that pads first.
            is_model = isinstance(plain, keras.Model)
            self._copies[id(layer)] = _ExportedLayer(plain) if is_model else in_float64(plain)
        return self._copies[id(layer)]

    def start(self, tensor: Any) -> WithError:
        """What is known of an input: its values are exact, and the model rounds them."""
        norm = _norms(tensor)
        rounding = self._roundoff * UNIT * norm + FLUSHED
        return WithError(tensor, np.zeros(tensor.shape[0]), 1.0, rounding, norm)

    def run(self, values: list) -> list:
        """The outputs of the model, given what is known of its inputs."""
        known = dict(zip(self.graph.inputs, values, strict=True))
        inner = {call for pattern in self.patterns.values() for call in pattern.inner}
        for call in self.graph.calls:
            given = [known[x] for x in call.inputs]
            if call in self.patterns:
                pattern = self.patterns[call]
                results = [self._end_of_pattern(call, given, pattern, known[pattern.source])]
            elif call in inner:
                output = self._apply(call, [value.tensor for value in given])
                nothing = np.zeros(output.shape[0])
                results = [WithError(output, nothing, math.nan, nothing, nothing)]
            else:
                results = self.call(call, given)
            if call in self.kept:
                self.kept[call] = given, results
            known.update(zip(call.outputs, results, strict=True))
        return [known[value] for value in self.graph.outputs]

    def _end_of_pattern(
        self, call: Call, values: list, pattern: Pattern, source: WithError
    ) -> WithError:
        """The output of a root of sums of squares, or of a centering, as of one layer."""
        output = self._apply(call, [value.tensor for value in values])
        constant, _ = pattern.bound(L2, 1.0)
        size = math.prod(source.tensor.shape[1:])
        norm = _norms(output)
        rounding = gamma(4 * size + 128) * (constant * source.norm + norm)
        error = rounding + constant * source.error + lost_squares(size, constant, LOST_SQUARE)
        error = error * UP
        deviation = self._roundoff * rounding + constant * source.deviation
        deviation = deviation + lost_squares(size, constant, FLUSHED)
        return WithError(output, error, product_up(source.constant, constant), deviation, norm)

    def call(self, call: Call, values: list) -> list:
        """The outputs of one call."""
        return self.evaluate(call, values).outputs

    @float64_on_cpu()
    def evaluate(self, call: Call, values: Sequence[WithError]) -> Evaluation:
        """One call of the graph."""
        results = self._apply(call, [value.tensor for value in values])
        results = list(results) if isinstance(results, list | tuple) else [results]
        constants, size = self.constants(call), math.prod(values[0].tensor.shape[1:])
        norms, produced = [value.norm for value in values], list(map(_norms, results))
        together = sum(produced[1:], produced[0])
        error, deviation = (
            rounding.total(norms, together)
            for rounding in self.roundings(call, constants, size, results[0].shape)
        )
        for factor, value in zip(constants, values, strict=True):
            error = error + factor * value.error
            deviation = deviation + factor * value.deviation
        error, constant = error * UP, self._constant(call, values)
        outputs = [
            WithError(result, error, constant, deviation, norm)
            for result, norm in zip(results, produced, strict=True)
        ]
        return Evaluation(call, outputs, constants)

    def roundings(
        self, call: Call, constants: list[float], size: int, output_shape: tuple[int, ...]
    ) -> tuple[Rounding, Rounding]:
        """What one call on samples of `size` entries adds to the error, and to the deviation."""
        if (call, size) not in self._roundings:
            given = call.operation, constants, size, output_shape
            self._roundings[call, size] = (
                rounding_of(*given, 1.0),
                rounding_of(*given, self._roundoff),
            )
        return self._roundings[call, size]

    def _constant(self, call: Call, values: Sequence[WithError]) -> float:
        constants = [value.constant for value in values]
        if (merge := merge_of(call)) is not None:
            return merge.total(constants, L2)
        return product_up(constants[0], self.constants(call)[0])

    def _apply(self, call: Call, tensors: list) -> Any:
        operation = call.operation
        if type(operation).__name__ == "Cast":
            return tensors[0]  # the exact function rounds nothing
        if isinstance(rule_for(operation), Wrapper):
            return self._wrapped(operation, tensors[0])
        if isinstance(operation, keras.layers.Layer):
            operation = self.copy(operation)
        if isinstance(operation, _ExportedLayer):
            return operation.apply(tensors[0])
        arguments, keywords = call.arguments(tensors)
        return operation(*arguments, **keywords)

    def _wrapped(self, layer: keras.layers.Layer, tensor: Any) -> Any:
        """A layer inside wrappers; its steps, which it takes one by one, as so many samples."""
        if type(layer) is keras.layers.TimeDistributed:
            samples, steps, *shape = tensor.shape
            outputs = self._wrapped(layer.layer, ops.reshape(tensor, (-1, *shape)))
            return ops.reshape(outputs, (samples, steps, *outputs.shape[1:]))
        if type(layer) is keras.layers.SpectralNormalization:
            return self._wrapped(layer.layer, tensor)
        copy = self.copy(layer)
        return copy.apply(tensor) if isinstance(copy, _ExportedLayer) else copy(tensor)

    def constants(self, call: Call) -> list[float]:
        """Lipschitz constants of a call with respect to each of its inputs."""
        count = len(call.inputs)
        if (merge := merge_of(call)) is not None:
            return [merge.total([float(i == j) for j in range(count)], L2) for i in range(count)]
        layer, shape = unwrapped(call.operation, call.inputs[0].shape)
        return [self._bounds[id(layer), shape][0]]


class _ExportedLayer(Float64Evaluator):
    """The same without error bounds, for the exported form of a single layer."""

    def __init__(self, model: keras.Model):
        super().__init__(model, LipschitzPropagation())

    def apply(self, tensor: Any) -> Any:
        return self.run([self.start(tensor)])[0].tensor

    def constants(self, call: Call) -> list[float]:
        return [0.0] * len(call.inputs)

    def _constant(self, call: Call, values: Sequence[WithError]) -> float:
        return 0.0


def _norms(tensor: Any) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(tensor), dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite norm certifies nothing
        return np.linalg.norm(array.reshape(len(array), -1), axis=1) * UP


def _patterns_without_rules(graph: Graph) -> dict[Call, Pattern]:
    """Patterns whose calls have no constants by themselves; those with layers have."""
    return {
        call: pattern
        for call, pattern in find_patterns(graph.calls).items()
        if type(call.operation).__name__ in ("Sqrt", "Where", "Subtract")
    }
