"""A model evaluated in float64 on its stored weights, with a bound on every rounding error.

The error of a tensor is bounded sample by sample, in the Euclidean norm, along the graph:
`error(f(x)) <= L error(x) + local`, with L the proven bound of the layer and `local` the a-priori
bound `gamma(n)` times the sum of absolute values that the layer adds up. The same with the unit
roundoff of the type that the model itself computes in says how far the model may be from it.
Exponentials and the functions made of them are taken to be wrong by at most `gamma(64)` times their
value and 1, far more than the usual libraries are.
"""

import math
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from deel_lip_tf.bounds.float64 import computable
from deel_lip_tf.bounds.graph import GraphWalk
from deel_lip_tf.bounds.norms import L2
from deel_lip_tf.bounds.operations import merge_rule
from deel_lip_tf.bounds.patterns import Pattern, find_patterns
from deel_lip_tf.bounds.rounding import TINY, UNIT, UNITS, gamma, product_up
from deel_lip_tf.layers.known import activation_constant
from deel_lip_tf.layers.unconstrained import PadConv2D
from deel_lip_tf.semantics.graph import Call, Graph, float_types, graph_of
from deel_lip_tf.semantics.state import copy_state

__all__ = ["Evaluation", "ExactModel", "Traced"]

# Twice the rounding of a number to float32.
_WRITTEN = 2.0**-22

_WRAPPERS = (keras.layers.TimeDistributed, keras.layers.SpectralNormalization)
_SMOOTH = ("Tanh", "Sigmoid")
_ARITHMETIC = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.leaky_relu,
)


_FLUSHED = 2.0**-120  # more than what is lost where float32 has no smaller numbers
_LOST_SQUARE = 1e-300  # and where a square in float64 has none


class Traced(NamedTuple):
    """A tensor of the graph, evaluated.

    Attributes:
        tensor: float64 tensor of the backend.
        error: (samples,) bounds on its Euclidean distance to exact arithmetic.
        constant: proven Lipschitz constant with respect to the model's input.
        deviation: (samples,) how far from it the model is, as it runs in its own types.
        norm: (samples,) its Euclidean norms, none below the exact one.
    """

    tensor: object
    error: np.ndarray
    constant: float
    deviation: np.ndarray
    norm: np.ndarray


class Evaluation(NamedTuple):
    """One call of a layer or an operation, evaluated in float64.

    Attributes:
        call: the call in the graph.
        outputs: the outputs, with their errors: one, but for a split.
        constants: proven Lipschitz constants with respect to each input.
    """

    call: Call
    outputs: list[Traced]
    constants: list[float]


class ExactModel:
    """Float64 copies of the layers of a bounded model, called along its graph.

    Args:
        model: a Sequential or functional model.
        walk: the pass that bounded the model; its constants propagate the errors.
        both_readings: whether errors cover a number in an argument both as it is written and as the
            backend keeps it. Without, they are about the function of the numbers as they are kept.

    Attributes:
        graph: of the model.
        patterns: the calls that are evaluated as one with those before them.
        kept: by call, `(its inputs, its outputs)` when it was made last. Only the calls are kept
            that are there before.
    """

    def __init__(self, model: keras.Model, walk: GraphWalk, both_readings: bool = True):
        self.graph = graph_of(model)
        self.kept: dict[Call, tuple[list, list]] = {}
        self._written = _WRITTEN if both_readings else 0.0
        self._bounds = walk.layer_bounds
        self._copies: dict[int, keras.layers.Layer | _ExactPlain] = {}
        self._roundings: dict[tuple, _Rounding] = {}
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
        return np.asarray(ops.convert_to_numpy(outputs.tensor)), outputs.error

    def evaluate_model(self, x: np.ndarray):
        """What is known of the output for a batch of samples: `start` says in which form."""
        with keras.device("cpu:0"):
            tensor = ops.convert_to_tensor(x, dtype="float64")
            if keras.backend.standardize_dtype(tensor.dtype) != "float64":
                raise ValueError(
                    "Certificates are computed in float64, which the backend has switched off. On "
                    'JAX call `jax.config.update("jax_enable_x64", True)` first.'
                )
            return self.run([self.start(tensor)])[0]

    def copy(self, layer: keras.layers.Layer):
        """The float64 copy of a layer; of a constrained one, with its effective kernel."""
        if id(layer) not in self._copies:
            plain = layer.vanilla_export() if _is_constrained(layer) else layer
            # Where Keras has not got the padding, the export is a model that pads first.
            is_model = isinstance(plain, keras.Model)
            self._copies[id(layer)] = _ExactPlain(plain) if is_model else _in_float64(plain)
        return self._copies[id(layer)]

    def start(self, tensor) -> Traced:
        """What is known of an input: its values are exact, and the model rounds them."""
        norm = _norms(tensor)
        rounding = self._roundoff * UNIT * norm + _FLUSHED
        return Traced(tensor, np.zeros(tensor.shape[0]), 1.0, rounding, norm)

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
                results = [self._without_errors(call, given)]
            else:
                results = self.call(call, given)
            if call in self.kept:
                self.kept[call] = given, results
            known.update(zip(call.outputs, results, strict=True))
        return [known[value] for value in self.graph.outputs]

    def _without_errors(self, call: Call, values: list[Traced]) -> Traced:
        output = self._apply(call, [value.tensor for value in values])
        nothing = np.zeros(output.shape[0])
        return Traced(output, nothing, math.nan, nothing, nothing)

    def _end_of_pattern(self, call: Call, values: list, pattern: Pattern, source) -> Traced:
        """The output of a root of sums of squares, or of a centering, as of one layer."""
        output = self._apply(call, [value.tensor for value in values])
        constant, _ = pattern.bound(L2, 1.0)
        size = math.prod(source.tensor.shape[1:])
        norm = _norms(output)
        rounding = gamma(4 * size + 128) * (constant * source.norm + norm)
        error = rounding + constant * source.error + _lost_squares(size, constant, _LOST_SQUARE)
        error = error * (1.0 + 1e-12)
        deviation = self._roundoff * rounding + constant * source.deviation
        deviation = deviation + _lost_squares(size, constant, _FLUSHED)
        return Traced(output, error, product_up(source.constant, constant), deviation, norm)

    def call(self, call: Call, values: list) -> list:
        """The outputs of one call."""
        return self.evaluate(call, values).outputs

    def evaluate(self, call: Call, values: list[Traced]) -> Evaluation:
        """One call of the graph."""
        results = self._apply(call, [value.tensor for value in values])
        results = list(results) if isinstance(results, list | tuple) else [results]
        constants, size = self.constants(call), math.prod(values[0].tensor.shape[1:])
        norms, produced = [value.norm for value in values], list(map(_norms, results))
        error, deviation = (
            rounding.total(norms, sum(produced))
            for rounding in self.roundings(call, constants, size, results[0].shape)
        )
        for factor, value in zip(constants, values, strict=True):
            error = error + factor * value.error
            deviation = deviation + factor * value.deviation
        error, constant = error * (1.0 + 1e-12), self._constant(call, values)
        outputs = [
            Traced(result, error, constant, deviation, norm)
            for result, norm in zip(results, produced, strict=True)
        ]
        return Evaluation(call, outputs, constants)

    def roundings(
        self, call: Call, constants: list[float], size: int, output_shape
    ) -> "tuple[_Rounding, _Rounding]":
        """What one call on samples of `size` entries adds to the error, and to the deviation."""
        if (call, size) not in self._roundings:
            self._roundings[call, size] = tuple(
                _rounding(call.operation, constants, size, output_shape, self._written, roundoff)
                for roundoff in (1.0, self._roundoff)
            )
        return self._roundings[call, size]

    def _constant(self, call: Call, values: list[Traced]) -> float:
        constants = [value.constant for value in values]
        if (merge := merge_rule(call.operation)) is not None:
            return merge(call, constants)[0]
        return product_up(constants[0], self.constants(call)[0])

    def _apply(self, call: Call, tensors: list):
        operation = call.operation
        if type(operation).__name__ == "Cast":
            return tensors[0]  # the exact function rounds nothing
        if type(operation) in _WRAPPERS:
            return self._wrapped(operation, tensors[0])
        if isinstance(operation, keras.layers.Layer):
            operation = self.copy(operation)
        if isinstance(operation, _ExactPlain):
            return operation.apply(tensors[0])
        arguments, keywords = call.arguments(tensors)
        return operation(*arguments, **keywords)

    def _wrapped(self, layer: keras.layers.Layer, tensor):
        """A layer inside wrappers; its steps, which it takes one by one, as so many samples."""
        if type(layer) is keras.layers.TimeDistributed:
            samples, steps, *shape = tensor.shape
            outputs = self._wrapped(layer.layer, ops.reshape(tensor, (-1, *shape)))
            return ops.reshape(outputs, (samples, steps, *outputs.shape[1:]))
        if type(layer) is keras.layers.SpectralNormalization:
            return self._wrapped(layer.layer, tensor)
        copy = self.copy(layer)
        return copy.apply(tensor) if isinstance(copy, _ExactPlain) else copy(tensor)

    def constants(self, call: Call) -> list[float]:
        """Lipschitz constants of a call with respect to each of its inputs."""
        count = len(call.inputs)
        if (merge := merge_rule(call.operation)) is not None:
            return [merge(call, [float(i == j) for j in range(count)])[0] for i in range(count)]
        layer, shape = _unwrapped(call.operation, call.inputs[0].shape)
        return [self._bounds[id(layer), shape][0]]


class _ExactPlain(ExactModel):
    """The same without error bounds, for the exported form of a single layer."""

    def __init__(self, model: keras.Model):
        super().__init__(model, GraphWalk())

    def apply(self, tensor):
        return self.run([self.start(tensor)])[0].tensor

    def constants(self, call: Call) -> list[float]:
        return [0.0] * len(call.inputs)

    def _constant(self, call: Call, values: list[Traced]) -> float:
        return 0.0


def _is_constrained(layer) -> bool:
    return hasattr(type(layer), "effective_kernel")


def _in_float64(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A float64 layer whose weights are those the layer computes with, bit for bit."""
    return computable(_copied(layer))


def _copied(layer: keras.layers.Layer) -> keras.layers.Layer:
    copy = type(layer).from_config(_with_float64(layer.get_config()))
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    if shape is None:
        return copy
    # Here and not at its first call, which may be in a graph that its state would be part of.
    copy.build(shape)
    if not layer.weights:
        return copy
    activation = getattr(copy, "activation", None)
    if isinstance(activation, keras.layers.Layer) and not activation.built:
        activation.build(copy.compute_output_shape(layer.get_build_config()["input_shape"]))
    weights = [_as_computed_with(layer, weight) for weight in layer.weights]
    copy.set_weights(weights)
    copy_state(layer, copy)
    return copy


def _as_computed_with(layer, weight) -> np.ndarray:
    # Keras rounds a variable to the compute type where it is read, unless `autocast` is off.
    is_rounded = getattr(weight, "_autocast", True) and keras.backend.is_float_dtype(weight.dtype)
    value = ops.cast(weight, layer.compute_dtype) if is_rounded else ops.convert_to_tensor(weight)
    return np.asarray(ops.convert_to_numpy(value)).astype(np.float64)


def _with_float64(config):
    """The configuration with every `dtype` in it, also of nested activations, set to float64."""
    if isinstance(config, dict):
        return {k: "float64" if k == "dtype" else _with_float64(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_float64(item) for item in config)
    return config


def _norms(tensor) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(tensor), dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite norm certifies nothing
        return np.linalg.norm(array.reshape(len(array), -1), axis=1) * (1.0 + 1e-12)


class _Rounding(NamedTuple):
    """Bounds the rounding errors that one call adds, from the norms of its inputs and output."""

    of_inputs: list[float]
    of_output: float
    absolute: float

    def total(self, norms: list[np.ndarray], produced: np.ndarray) -> np.ndarray:
        """(samples,) bounds, for norms of the inputs and of all outputs together."""
        error = self.absolute + self.of_output * produced
        for share, norm in zip(self.of_inputs, norms, strict=True):
            error = error + share * norm
        return error


def _rounding(
    operation, constants, size: int, output_shape, written: float, roundoff: float
) -> _Rounding:
    """The a-priori bound of one call on samples of `size` entries.

    `written` is the share that a number in an argument may be wrong by; `roundoff` is that of the
    arithmetic, as a multiple of float64's.
    """
    lost, square = (TINY, _LOST_SQUARE) if roundoff == 1.0 else (_FLUSHED, _FLUSHED)
    operation, _ = _unwrapped(operation, None)
    places = math.prod(output_shape[1:])
    written = written if _has_written_number(operation) else 0.0
    if not isinstance(operation, keras.layers.Layer):
        # An `einsum` adds up to `size` products; their absolute values, up to sqrt(size) as much.
        contracts = type(operation).__name__ == "Einsum"
        unit = gamma(4 * size) * math.sqrt(size) if contracts else gamma(64)
        unit = roundoff * unit + (0.0 if contracts else written)
        around_one = unit * math.sqrt(places) * (type(operation).__name__ in _SMOOTH)
        lost = lost * math.sqrt(places)
        return _Rounding([unit * constant for constant in constants], unit, around_one + lost)
    state = [np.linalg.norm(_as_computed_with(operation, w)) for w in _vectors(operation)]
    state.append(float(_is_transcendental(operation)))
    absolute = (1.0 + sum(constants)) * math.sqrt(places) * sum(state)
    of_inputs, terms = list(constants), size
    if kernels := _kernels(operation):
        # || |K| || <= ||K||_F sqrt(patches that share an element), counting copies at a border.
        shared = math.prod(getattr(operation, "kernel_size", ()))
        copies_pixels = _is_constrained(operation) or isinstance(operation, PadConv2D)
        shared = shared**2 if copies_pixels else shared
        terms = sum(math.prod(kernel.shape[:-2]) * max(kernel.shape[-2:]) for kernel in kernels)
        if isinstance(operation, keras.layers.EinsumDense):
            shared, terms = size, size * terms  # axes may be summed without the kernel
        norm = math.prod(float(np.linalg.norm(kernel)) for kernel in kernels)
        slope = activation_constant(operation.activation)
        of_inputs[0] += (1.0 + slope) * math.sqrt(shared) * norm
    unit = roundoff * gamma(4 * terms + 128) + written
    absolute = unit * absolute + lost * math.sqrt(places)
    absolute += _lost_squares(size, sum(constants), square)
    return _Rounding([unit * share for share in of_inputs], unit, absolute)


def _lost_squares(size: int, constant: float, lost: float) -> float:
    """What the root of a sum of squares is wrong by where each square may lose `lost`."""
    return math.sqrt(lost * size) * constant


def _is_transcendental(operation) -> bool:
    """Whether a layer, or its activation, computes exponentials."""
    if isinstance(operation, keras.layers.ELU | keras.layers.Softmax):
        return True
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return _is_transcendental(activation)
    return activation not in (None, *_ARITHMETIC)


def _has_written_number(operation) -> bool:
    """Whether float32 has not got a number that is an argument, or a constant of the function."""
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return _has_written_number(activation)
    if activation in (keras.activations.leaky_relu, keras.activations.gelu):
        return True
    if getattr(operation, "input_mean", None) is not None:
        return True
    names = ("negative_slope", "max_value", "scale", "offset")
    numbers = [getattr(operation, name, None) for name in names]
    arrays = [np.asarray(value, np.float64) for value in numbers if value is not None]
    return any((array.astype(np.float32) != array).any() for array in arrays)


def _unwrapped(operation, shape) -> tuple:
    """The layer that a wrapper applies, and the shape it applies it to."""
    while type(operation) in _WRAPPERS:
        if shape is not None and type(operation) is keras.layers.TimeDistributed:
            shape = (shape[0], *shape[2:])
        operation = operation.layer
    return operation, shape


def _patterns_without_rules(graph: Graph) -> dict[Call, Pattern]:
    """Patterns whose calls have no constants by themselves; those with layers have."""
    return {
        call: pattern
        for call, pattern in find_patterns(graph.calls).items()
        if type(call.operation).__name__ in ("Sqrt", "Where", "Subtract")
    }


def _kernels(operation) -> list[np.ndarray]:
    if _is_constrained(operation):
        effective = ops.cast(operation.effective_kernel(), operation.compute_dtype)
        return [np.asarray(ops.convert_to_numpy(effective)).astype(np.float64)]
    names = ("kernel", "depthwise_kernel", "pointwise_kernel")
    found = [getattr(operation, name) for name in names if hasattr(operation, name)]
    return [_as_computed_with(operation, kernel) for kernel in found]


def _vectors(operation) -> list:
    kernels = ("kernel", "depthwise_kernel", "pointwise_kernel")
    floats = [w for w in operation.weights if keras.backend.is_float_dtype(w.dtype)]
    return [weight for weight in floats if weight.name not in kernels]
