"""The exact function by other means than the proofs: the exported model rebuilt in float64."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from deel_lip_tf._keras import is_autocast
from deel_lip_tf.model import vanillaModel

# What a float64 evaluation may be wrong by, as a share of what the float32 program is wrong by:
# the ratio of the unit roundoffs, 2**-29, times a thousand.
_SHARE = 1000 * 2.0**-29


class Referee:
    """A model in float64 whose weights are those that the given model computes with.

    It shares no code with `certify`: Keras clones the exported model, in float64.

    Args:
        model: a Sequential or functional model.

    Raises:
        ValueError: if the model cannot be exported or rebuilt.
    """

    def __init__(self, model: keras.Model):
        import tensorflow as tf

        exported, shape = vanillaModel(model), (None, *model.input_shape[1:])
        self._dtype = model.inputs[0].dtype

        def compiled(plain: keras.Model, dtype: str) -> Callable:
            signature = [tf.TensorSpec(shape, dtype)]
            return tf.function(lambda x: plain(x, training=False), input_signature=signature)

        self._exact = compiled(_in_float64(exported), "float64")
        self._executed = compiled(exported, self._dtype)

    def __call__(self, tensor: Any) -> Any:
        """The outputs as a TensorFlow tensor, for gradients."""
        return self._exact(tensor)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """(n, ...) float64 outputs at (n, ...) float64 inputs."""
        return np.asarray(keras.ops.convert_to_numpy(self._exact(x.astype(np.float64))))

    def executed(self, x: np.ndarray) -> np.ndarray:
        """Outputs of the exported model in its own types, as float64."""
        with np.errstate(over="ignore"):
            inputs = x.astype(self._dtype)
        outputs = keras.ops.convert_to_numpy(self._executed(inputs))
        return np.asarray(outputs).astype(np.float64)

    def slack(self, x: np.ndarray) -> np.ndarray:
        """(n,) generous estimates of how wrong `outputs` may be; infinite where they are."""
        exact = self.outputs(x).reshape(len(x), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            wrong = np.abs(exact - self.executed(x).reshape(len(x), -1)).max(axis=1)
            scale = np.abs(exact).max(axis=1)
        slack = 1e-12 * scale + np.where(np.isfinite(wrong), _SHARE * wrong, 1e-9 * scale)
        return np.where(np.isfinite(slack), slack, np.inf)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) Euclidean distances, scaled so that no square overflows or vanishes."""
    difference = (a.astype(np.float64) - b.astype(np.float64)).reshape(len(a), -1)
    largest = np.abs(difference).max(axis=1, keepdims=True)
    scaled = difference / np.where(largest > 0, largest, 1.0)
    return np.linalg.norm(scaled, axis=1) * largest[:, 0]


def _in_float64(model: keras.Model) -> keras.Model:
    """A clone in float64, with the weights rounded as the layers of the model round them."""
    inputs = [keras.Input(batch_shape=x.shape, dtype="float64") for x in model.inputs]
    inputs = inputs[0] if len(inputs) == 1 else inputs

    def clone(layer: Any) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return _in_float64(layer)
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer):
            config = _with_float64(config)
        copy = type(layer).from_config(config)
        originals[id(copy)] = (copy, layer)
        return copy

    originals: dict[int, tuple] = {}
    copy = keras.models.clone_model(model, input_tensors=inputs, clone_function=clone)
    for new, old in originals.values():
        if isinstance(old, keras.layers.Layer) and old.weights:
            new.set_weights([_read(old, weight) for weight in old.weights])
            if hasattr(new, "finalize_state"):  # Normalization computes with copies of its weights
                new.finalize_state()
    return copy


def _with_float64(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: "float64" if k == "dtype" else _with_float64(v) for k, v in config.items()}
    return config


def _read(layer: Any, weight: Any) -> np.ndarray:
    """A weight as the layer reads it: rounded to the type it computes in."""
    value = weight
    if is_autocast(weight) and keras.backend.is_float_dtype(weight.dtype):
        value = keras.ops.cast(weight, layer.compute_dtype)
    return np.asarray(keras.ops.convert_to_numpy(value)).astype(np.float64)
