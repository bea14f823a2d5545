"""Single layers: an exact type decides the rule, and a type without a rule is refused."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from deel_lip_tf.bounds.convolutions import Convolution, convolution_bound
from deel_lip_tf.bounds.matrices import spectral_norm_bound
from deel_lip_tf.bounds.rounding import UNIT, product_up, sqrt_up
from deel_lip_tf.layers.known import activation_constant, known_constant
from deel_lip_tf.layers.unconstrained import PadConv2D
from deel_lip_tf.normalizers.convolution import EXTENDING, padded_indices

__all__ = ["Unbounded", "kernel_of", "layer_bound"]

Shape = tuple[int | None, ...] | None
Bound = tuple[float, str]


class Unbounded(ValueError):
    """No bound of one layer is known; the message is the reason, without the layer's name."""


def layer_bound(layer: keras.layers.Layer, input_shape: Shape) -> Bound:
    """Bounds one layer, its activation included, for inputs of a given shape.

    Returns:
        `(value, method)`.

    Raises:
        Unbounded: if the type, an argument or the activation has no rule, or weights are missing.
    """
    if getattr(layer, "quantization_mode", None) is not None:
        raise Unbounded("it is quantized")
    if getattr(layer, "lora_enabled", False):
        raise Unbounded("LoRA weights are not merged into its kernel: save and reload it")
    rule = _rule(layer)
    if rule is None:
        constant = known_constant(layer, input_shape)
        if constant is None:
            raise Unbounded("no Lipschitz constant is known for this type and these arguments")
        # The layers of this library multiply by their constant once or twice.
        return (constant if constant == 1.0 else constant * (1.0 + 16.0 * UNIT)), "known constant"
    if not layer.built:
        raise Unbounded("it has no weights yet: build it, by `build(input_shape)` or by a call")
    try:
        value, method = rule(layer, input_shape)
    except Unbounded:
        raise
    except ValueError as error:
        raise Unbounded(str(error)) from error
    activation = getattr(layer, "activation", None)
    slope = activation_constant(activation)
    if slope is None:
        name = getattr(activation, "__name__", type(activation).__name__)
        raise Unbounded(f"its activation {name!r} has no known Lipschitz constant")
    return product_up(value, slope), method


def _rule(layer) -> Callable[[keras.layers.Layer, Shape], Bound] | None:
    if (rule := _RULES.get(type(layer))) is not None:
        return rule
    constrained = hasattr(type(layer), "effective_kernel")
    if constrained and type(layer).__module__.startswith("deel_lip_tf.layers."):
        parents = [parent for parent in _RULES if isinstance(layer, parent)]
        return _RULES[parents[0]] if parents else None
    return None


def kernel_of(layer, name: str = "kernel") -> np.ndarray:
    """The kernel the forward pass multiplies with, as float64: rounded to the compute type."""
    is_constrained = hasattr(type(layer), "effective_kernel")
    kernel = layer.effective_kernel() if is_constrained else getattr(layer, name)
    rounded = ops.convert_to_numpy(ops.cast(kernel, layer.compute_dtype))
    return np.asarray(rounded).astype(np.float64)


def _sizes(layer, input_shape: Shape) -> tuple[int | None, ...]:
    rank = len(layer.kernel_size)
    if input_shape is None:
        return (None,) * rank
    return tuple(input_shape[1:-1] if layer.data_format == "channels_last" else input_shape[2:])


def _dense(layer, input_shape: Shape) -> Bound:
    return spectral_norm_bound(kernel_of(layer)), "spectral norm of the kernel"


def _convolution(layer, input_shape: Shape) -> Bound:
    return _bound(layer, _grouped(layer), input_shape)


def _grouped(layer) -> np.ndarray:
    """The kernel (*size, groups, inputs, outputs)."""
    kernel = kernel_of(layer)
    # The outputs are split into consecutive groups, each of which sees its share of the inputs.
    grouped = kernel.reshape(*kernel.shape[:-1], layer.groups, kernel.shape[-1] // layer.groups)
    return np.moveaxis(grouped, -2, -3)


def _padded_convolution(layer: PadConv2D, input_shape: Shape) -> Bound:
    is_centred = all(k % 2 for k in layer.kernel_size) and layer.dilation_rate == (1, 1)
    if layer.padding in ("same", "valid") or (is_centred and layer.padding in EXTENDING):
        return _convolution(layer, input_shape)
    # Otherwise the padding, which copies a pixel at most m times, and a "valid" convolution.
    sizes = _sizes(layer, input_shape)
    axes = list(zip(sizes, layer.amounts, strict=True))
    copies = math.prod(_copies(size, *added, layer.padding) for size, added in axes)
    extended = tuple(size and size + sum(added) for size, added in axes)
    value, method = _bound(layer, _grouped(layer), None, padding="valid", sizes=extended)
    return product_up(sqrt_up(copies), value), f"{method}, after the padding"


def _copies(size: int | None, before: int, after: int, padding: str) -> int:
    """How often an element of an axis occurs in the padded axis; `None` is the worst size, 1."""
    if padding not in EXTENDING:
        return 1
    return int(np.bincount(padded_indices(size or 1, before, after, padding)).max())


def _transposed(layer, input_shape: Shape) -> Bound:
    # Keras's layout (*size, outputs, inputs) is that of the adjoint convolution.
    kernel = kernel_of(layer)
    grouped = kernel.reshape(*kernel.shape[:-2], 1, *kernel.shape[-2:])
    if layer.padding not in EXTENDING:
        return _bound(layer, grouped, input_shape, transposed=True)
    # The adjoint of the padded convolution of the output, of the same norm.
    pairs = zip(_sizes(layer, input_shape), layer.strides, strict=True)
    return _bound(layer, grouped, None, sizes=tuple(size and size * s for size, s in pairs))


def _depthwise(layer, input_shape: Shape) -> Bound:
    # (*size, channels, multiplier): each channel is a group of one input.
    return _bound(layer, kernel_of(layer)[..., None, :], input_shape)


def _separable(layer, input_shape: Shape) -> Bound:
    kernel = kernel_of(layer, "depthwise_kernel")
    depthwise, method = _bound(layer, kernel[..., None, :], input_shape)
    pointwise = kernel_of(layer, "pointwise_kernel")
    pointwise = spectral_norm_bound(pointwise.reshape(pointwise.shape[-2:]))
    return product_up(depthwise, pointwise), f"{method}, times the pointwise kernel"


def _bound(layer, kernel: np.ndarray, input_shape: Shape, **others) -> Bound:
    """Bounds the convolution of a layer; `others` replace fields of `Convolution`."""
    rank = len(layer.kernel_size)
    fields = {
        "strides": _tuple(layer.strides, rank),
        "dilation": _tuple(layer.dilation_rate, rank),
        "padding": layer.padding,
        "sizes": _sizes(layer, input_shape),
    }
    return convolution_bound(Convolution(kernel=kernel, **{**fields, **others}))


def _tuple(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


_RULES: dict[type, Callable[[keras.layers.Layer, Shape], Bound]] = {
    layers.Dense: _dense,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.Conv1DTranspose: _transposed,
    layers.Conv2DTranspose: _transposed,
    layers.Conv3DTranspose: _transposed,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv1D: _separable,
    layers.SeparableConv2D: _separable,
    PadConv2D: _padded_convolution,
}
