"""What a layer computes with: its weights as it reads them, and what it keeps besides them."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from deel_lip_tf._keras import dequantized_kernel, flat_layers, is_autocast, rounds_inputs
from deel_lip_tf.errors import UnsupportedLayerError

# Tensors that Keras makes of weights when it is told to, and computes with from then on: setting
# the weights does not change them.
_BESIDE_WEIGHTS: dict[type, tuple[str, ...]] = {layers.Normalization: ("mean", "variance")}


def is_constrained(layer: keras.layers.Layer) -> bool:
    """Whether a layer computes with another kernel than it stores."""
    return hasattr(type(layer), "effective_kernel")


def kernel_of(layer: keras.layers.Layer, name: str = "kernel") -> np.ndarray:
    """The kernel the forward pass multiplies with, as float64: rounded to the compute type.

    Of a quantized layer, the quotients of its integers and scales.
    """
    if is_quantized(layer):
        return dequantized_kernel(layer)
    kernel = layer.effective_kernel() if is_constrained(layer) else getattr(layer, name)
    return as_float64(ops.cast(kernel, layer.compute_dtype))


def is_quantized(layer: keras.layers.Layer) -> bool:
    """Whether a layer keeps its weights as integers, or computes in float8."""
    return getattr(layer, "quantization_mode", None) is not None


def check_merged(layer: keras.layers.Layer) -> None:
    """Refuses a layer that adds weights of LoRA to its kernel."""
    if getattr(layer, "lora_enabled", False):
        reason = "LoRA weights are not merged into its kernel: save and reload it"
        raise UnsupportedLayerError(reason)


def check_quantization(layer: keras.layers.Layer) -> None:
    """Refuses a quantized layer, unless it is a dense one that rounds its weights alone.

    Raises:
        UnsupportedLayerError: the layer rounds its inputs too, so that its function jumps, or its
            weights are not read.
    """
    if not is_quantized(layer):
        return
    mode = layer.quantization_mode
    if rounds_inputs(layer):
        raise UnsupportedLayerError(
            f"it is quantized ({mode}), and rounds its inputs, so that its function jumps: "
            'quantize weights alone, by `model.quantize("int8", '
            "config=keras.quantizers.Int8QuantizationConfig(activation_quantizer=None))`, or bound "
            "it before it is quantized"
        )
    if type(layer) is not layers.Dense or mode not in ("int8", "int4"):
        raise UnsupportedLayerError(
            f"it is quantized ({mode}): of quantized layers, `Dense` with weights of int8 or int4 "
            "is read; bound it before it is quantized"
        )


def check_built(layer: keras.layers.Layer) -> None:
    """Refuses a layer without weights."""
    if not layer.built:
        raise UnsupportedLayerError(
            "it has no weights yet: build it, by `build(input_shape)` or by a call"
        )


def as_computed_with(layer: keras.layers.Layer, weight: Any) -> np.ndarray:
    """A weight as float64, rounded to the type the layer computes in where Keras does so."""
    # Keras rounds a variable to the compute type where it is read, unless `autocast` is off.
    is_rounded = is_autocast(weight) and keras.backend.is_float_dtype(weight.dtype)
    value = ops.cast(weight, layer.compute_dtype) if is_rounded else ops.convert_to_tensor(weight)
    return as_float64(value)


def bias_of(layer: keras.layers.Layer) -> np.ndarray | None:
    """The bias that a layer computes with, or None."""
    return None if layer.bias is None else as_computed_with(layer, layer.bias)


def as_float64(values: Any) -> np.ndarray:
    """A variable, a tensor or an array as NumPy's float64."""
    if isinstance(values, keras.Variable) or ops.is_tensor(values):
        values = ops.convert_to_numpy(values)
    return np.asarray(values).astype(np.float64)


def as_kept(numbers: Any, dtype: str) -> np.ndarray:
    """Numbers rounded to a type of floats, as float64; as they are for any other type."""
    written = np.asarray(numbers, np.float64)
    if not keras.backend.is_float_dtype(dtype):
        return written
    kept = ops.cast(ops.convert_to_tensor(written, "float64"), dtype)
    return as_float64(ops.cast(kept, "float64"))  # NumPy takes no scalars of bfloat16


def state_of(operation: keras.Operation) -> list[np.ndarray]:
    """All numbers that an operation computes with: its weights, and what is kept beside them."""
    if not isinstance(operation, layers.Layer):
        return []
    beside = [x for layer in flat_layers(operation) for x in _beside_weights(layer).values()]
    return [np.asarray(ops.convert_to_numpy(value)) for value in (*operation.weights, *beside)]


def copy_state(layer: layers.Layer, copy: layers.Layer) -> None:
    """Makes a built copy of a layer compute with what the layer computes with, not its weights.

    The weights of the copy agree with it, so that it is the same after it is saved and loaded.
    Statistics that were given as arguments are not touched: they are in the configuration.
    """
    for old, new in zip(flat_layers(layer), flat_layers(copy), strict=True):
        if getattr(old, "input_mean", None) is not None or not _beside_weights(old):
            continue
        for name, value in _beside_weights(old).items():
            weight = getattr(new, f"adapt_{name}")
            weight.assign(ops.reshape(ops.cast(value, weight.dtype), weight.shape))
        new.finalize_state()


def _beside_weights(layer: layers.Layer) -> dict:
    """The tensors by name; none of a layer that has not been built."""
    names = _BESIDE_WEIGHTS.get(type(layer), ()) if layer.built else ()
    found = {name: getattr(layer, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
