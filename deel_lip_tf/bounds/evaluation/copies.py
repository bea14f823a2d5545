"""Float64 copies of layers, whose weights are those that the layers compute with, bit for bit."""

import keras
import numpy as np
from keras import ops

from deel_lip_tf._keras import is_autocast
from deel_lip_tf.bounds.evaluation.layers import computable
from deel_lip_tf.semantics.state import copy_state

__all__ = ["as_computed_with", "in_float64"]


def in_float64(layer: keras.layers.Layer) -> keras.layers.Layer:
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
    weights = [as_computed_with(layer, weight) for weight in layer.weights]
    copy.set_weights(weights)
    copy_state(layer, copy)
    return copy


def as_computed_with(layer, weight) -> np.ndarray:
    """A weight as float64, rounded to the type the layer computes in where Keras does so."""
    # Keras rounds a variable to the compute type where it is read, unless `autocast` is off.
    is_rounded = is_autocast(weight) and keras.backend.is_float_dtype(weight.dtype)
    value = ops.cast(weight, layer.compute_dtype) if is_rounded else ops.convert_to_tensor(weight)
    return np.asarray(ops.convert_to_numpy(value)).astype(np.float64)


def _with_float64(config):
    """The configuration with every `dtype` in it, also of nested activations, set to float64."""
    if isinstance(config, dict):
        return {k: "float64" if k == "dtype" else _with_float64(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_float64(item) for item in config)
    return config
