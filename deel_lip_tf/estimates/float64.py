"""Copies of models that compute in float64, in which differences of outputs are not rounding."""

from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import flat_layers
from deel_lip_tf.model import vanillaModel


def in_float64(model: keras.Model) -> keras.Model | None:
    """A plain float64 copy of a model; `None` where it may not compute in float64."""
    zero = ops.convert_to_tensor(0.0, dtype="float64")
    has_float64 = keras.backend.standardize_dtype(zero.dtype) == "float64"
    if not has_float64 or not _is_known(model):
        return None
    plain = vanillaModel(model)
    copy = type(plain).from_config(_with_float64(plain.get_config()))
    copy.set_weights(plain.get_weights())
    for layer in flat_layers(copy):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it keeps tensors beside its weights
    return copy


def _is_known(layer: keras.layers.Layer) -> bool:
    """Whether a layer, or a model of such layers, computes in the type its configuration says."""
    if not type(layer).call.__module__.startswith(("keras.", "deel_lip_tf.")):
        return False
    if isinstance(layer, keras.Model):
        has_graph = isinstance(layer, keras.Sequential | keras.Function) and layer.built
        return has_graph and all(map(_is_known, layer.layers))
    if isinstance(layer, keras.layers.Lambda):
        return False  # its function may name types itself
    activation = getattr(layer, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return _is_known(activation)
    return activation is None or activation.__module__.startswith("keras.")


_UNUSED = ("_initializer", "_regularizer", "_constraint")


def _with_float64(config: Any) -> Any:
    """A configuration in which every `dtype` is float64, for layers that are given weights."""
    if isinstance(config, list | tuple):
        return type(config)(_with_float64(item) for item in config)
    if not isinstance(config, dict) or config.get("class_name") in ("__numpy__", "__tensor__"):
        return config  # constants keep their type: they may be indices
    kept = {key: None if key.endswith(_UNUSED) else value for key, value in config.items()}
    return {k: "float64" if k == "dtype" else _with_float64(v) for k, v in kept.items()}
