"""A model evaluated in float64 on its stored weights, with a bound on every rounding error.

The error of a tensor is bounded sample by sample, in the Euclidean norm, along the graph:
`error(f(x)) <= L error(x) + local`, with L the proven bound of the layer and `local` the a-priori
bound `gamma(n)` times the sum of absolute values that the layer adds up. Exponentials and the
functions made of them are taken to be wrong by at most `gamma(64)` times their value and 1, far
more than the usual libraries are.
"""

import math

import keras
import numpy as np
from keras import ops

from deel_lip_tf.bounds.graph import GraphWalk, sorted_nodes, symbolic_tensors
from deel_lip_tf.bounds.operations import merge_rule
from deel_lip_tf.bounds.rounding import TINY, gamma
from deel_lip_tf.layers.known import activation_constant
from deel_lip_tf.layers.unconstrained import PadConv2D

__all__ = ["ExactModel"]

_ARITHMETIC = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.leaky_relu,
)

_Value = tuple  # (float64 tensor of the backend, (samples,) error bounds)


class ExactModel:
    """Float64 copies of the layers of a bounded model, called along its graph.

    Args:
        model: a Sequential or functional model.
        walk: the pass that bounded the model; its constants propagate the errors.
    """

    def __init__(self, model: keras.Model, walk: GraphWalk):
        self._model = model
        self._bounds = walk.layer_bounds
        self._copies: dict[int, keras.layers.Layer | _ExactPlain] = {}

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
        with keras.device("cpu:0"):
            tensor = ops.convert_to_tensor(x, dtype="float64")
            if keras.backend.standardize_dtype(tensor.dtype) != "float64":
                raise ValueError(
                    "Certificates are computed in float64, which the backend has switched off. On "
                    'JAX call `jax.config.update("jax_enable_x64", True)` first.'
                )
            outputs, errors = self._run(self._model, [(tensor, np.zeros(len(x)))])[0]
            return np.asarray(ops.convert_to_numpy(outputs)), errors

    def copy(self, layer: keras.layers.Layer):
        """The float64 copy of a layer; of a constrained one, with its effective kernel."""
        if id(layer) not in self._copies:
            plain = layer.vanilla_export() if _is_constrained(layer) else layer
            # Where Keras has not got the padding, the export is a model that pads first.
            is_model = isinstance(plain, keras.Model)
            self._copies[id(layer)] = _ExactPlain(plain) if is_model else _in_float64(plain)
        return self._copies[id(layer)]

    def _run(self, model: keras.Model, values: list[_Value]) -> list[_Value]:
        inputs, outputs = symbolic_tensors(model)
        known = dict(zip(map(id, inputs), values, strict=True))
        for node in sorted_nodes(outputs, set(known)):
            results = self._call(node, [known[id(x)] for x in node.input_tensors])
            known.update(zip(map(id, node.outputs), results, strict=True))
        return [known[id(tensor)] for tensor in outputs]

    def _call(self, node, values: list[_Value]) -> list[_Value]:
        operation = node.operation
        if isinstance(operation, keras.Model):
            return self._run(operation, values)
        output = self._apply(node, [tensor for tensor, _ in values])
        norms = [_norms(tensor) for tensor, _ in values]
        constants = self._constants(node)
        error = _local_error(operation, norms, _norms(output), output.shape, values, constants)
        for constant, (_, inherited) in zip(constants, values, strict=True):
            error = error + constant * inherited
        return [(output, error * (1.0 + 1e-12))]

    def _apply(self, node, tensors: list):
        operation = node.operation
        if isinstance(operation, keras.layers.Layer):
            operation = self.copy(operation)
        if isinstance(operation, _ExactPlain):
            return operation.apply(tensors[0])
        known = dict(zip(map(id, node.input_tensors), tensors, strict=True))
        arguments, keywords = node.arguments.fill_in(known)
        return operation(*arguments, **keywords)

    def _constants(self, node) -> list[float]:
        """Lipschitz constants of a call with respect to each of its inputs."""
        count = len(node.input_tensors)
        if (merge := merge_rule(node.operation)) is not None:
            return [merge(node, [float(i == j) for j in range(count)])[0] for i in range(count)]
        return [self._bounds[id(node.operation), node.input_tensors[0].shape][0]]


class _ExactPlain(ExactModel):
    """The same without error bounds, for the exported form of a single layer."""

    def __init__(self, model: keras.Model):
        super().__init__(model, GraphWalk())

    def apply(self, tensor):
        return self._run(self._model, [(tensor, np.zeros(tensor.shape[0]))])[0][0]

    def _constants(self, node) -> list[float]:
        return [0.0] * len(node.input_tensors)


def _is_constrained(layer) -> bool:
    return hasattr(type(layer), "effective_kernel")


def _in_float64(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A float64 copy whose weights are those the layer computes with, bit for bit."""
    copy = type(layer).from_config(_with_float64(layer.get_config()))
    if not layer.built or not layer.weights:
        return copy
    copy.build(layer.get_build_config()["input_shape"])
    activation = getattr(copy, "activation", None)
    if isinstance(activation, keras.layers.Layer) and not activation.built:
        activation.build(copy.compute_output_shape(layer.get_build_config()["input_shape"]))
    weights = [_as_computed_with(layer, weight) for weight in layer.weights]
    copy.set_weights(weights)
    if hasattr(copy, "finalize_state"):  # Normalization keeps tensors beside its weights
        copy.finalize_state()
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


def _local_error(operation, norms, output_norm, output_shape, values, constants) -> np.ndarray:
    """Bounds the rounding errors that one call adds, for each sample."""
    added = sum(constant * norm for constant, norm in zip(constants, norms, strict=True))
    if not isinstance(operation, keras.layers.Layer):
        return gamma(64) * (added + output_norm) + TINY
    places = math.prod(output_shape[1:])
    state = [np.linalg.norm(_as_computed_with(operation, w)) for w in _vectors(operation)]
    state.append(float(_is_transcendental(operation)))
    added = added + output_norm + (1.0 + sum(constants)) * math.sqrt(places) * sum(state)
    terms = math.prod(values[0][0].shape[1:])
    if kernels := _kernels(operation):
        # || |K| || <= ||K||_F sqrt(patches that share an element), counting copies at a border.
        shared = math.prod(getattr(operation, "kernel_size", ()))
        copies_pixels = _is_constrained(operation) or isinstance(operation, PadConv2D)
        shared = shared**2 if copies_pixels else shared
        size = math.prod(float(np.linalg.norm(kernel)) for kernel in kernels)
        slope = activation_constant(operation.activation)
        added = added + (1.0 + slope) * math.sqrt(shared) * size * norms[0]
        terms = sum(math.prod(kernel.shape[:-2]) * max(kernel.shape[-2:]) for kernel in kernels)
    return gamma(4 * terms + 128) * added + TINY


def _is_transcendental(operation) -> bool:
    """Whether a layer, or its activation, computes exponentials."""
    if isinstance(operation, keras.layers.ELU | keras.layers.Softmax):
        return True
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return _is_transcendental(activation)
    return activation not in (None, *_ARITHMETIC)


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
