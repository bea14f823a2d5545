"""Smallest and largest singular values of the layers of a model, to look at and to plot.

Nothing here changes a layer, and nothing here is a guarantee: some values are estimates. For a
proven constant see `deel_lip_tf.bounds.lipschitz_bound`.
"""

import math
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import layers

from deel_lip_tf.bounds.layers import kernel_of
from deel_lip_tf.estimates.operator import (
    ConvolutionOperator,
    Extremes,
    dense_extremes,
    extreme_singular_values,
)
from deel_lip_tf.layers.centering import LayerCentering
from deel_lip_tf.layers.known import known_constant

__all__ = ["compute_layer_sv", "compute_model_sv"]

Shape = tuple[int | None, ...] | None
Unknown = tuple[None, None]
Rule = Callable[[keras.layers.Layer, Shape], Extremes | Unknown]

_UNKNOWN: Unknown = (None, None)


def compute_layer_sv(
    layer: keras.layers.Layer, supplementary_type2sv: Mapping[type, Callable] | None = None
) -> Extremes | Unknown:
    """The smallest and the largest singular value of the linear part of a layer.

    The linear part has neither bias nor activation; its kernel is the effective one, rounded to
    the type the layer computes in, all else is float64. Singular values are counted as those of a
    matrix, as many as its smaller side. The layer is not changed.

    * Dense: of its kernel.
    * Convolution (plain, transposed, depthwise, separable): of the operator on images of the size
      the layer is built for. Exact for small operators and for circular padding whose strides
      divide the size; else estimates from inside, see
      `normalizers.operator.extreme_singular_values`.
    * Average pooling, `Rescaling`, `Normalization`, `BatchNormalization` at inference: exact.
    * `Add` of n tensors: `(n, n)`, as if they were all the same tensor.
    * Activation, reordering, another pooling or layer of known constant: the constant, twice.

    Args:
        layer: a built layer of Keras or of this library.
        supplementary_type2sv: functions `layer -> (smallest, largest)` by exact type of layer, for
            layers of your own; they come before the rules above.

    Returns:
        `(smallest, largest)`, or `(None, None)` where they are unknown: a subclass or another type
        without a rule, a convolution on images of unknown size, a quantized layer.

    Raises:
        TypeError: if `layer` is not a Keras layer, or is a model; if `supplementary_type2sv` does
            not map types to functions.
        ValueError: if the layer has a kernel but is not built.

    Example:
        >>> dense = keras.layers.Dense(2)
        >>> dense.build((None, 2))
        >>> dense.set_weights([np.diag([3.0, 4.0]), np.zeros(2)])
        >>> lip.compute_layer_sv.compute_layer_sv(dense)
        (3.0, 4.0)
    """
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        raise TypeError(
            f"`layer` must be a Keras layer. Received: {type(layer).__name__}. The layers of a "
            "model are listed by `compute_model_sv(model)`."
        )
    own = _checked_rules(supplementary_type2sv).get(type(layer))
    if own is not None:
        return own(layer)
    if getattr(layer, "quantization_mode", None) is not None:
        return _UNKNOWN
    rule = _rule(layer)
    if rule in _KERNEL_RULES.values() and not layer.built:
        raise ValueError(
            f"The singular values of layer {layer.name!r} depend on its weights: build the layer "
            "first, by calling it or by `layer.build(input_shape)`."
        )
    return rule(layer, _input_shape(layer))


def compute_model_sv(
    model: keras.Model, supplementary_type2sv: Mapping[type, Callable] | None = None
) -> list[tuple[str, Extremes | Unknown]]:
    """`compute_layer_sv` of every layer of a model, in its order.

    The product of the largest values is no bound where layers branch, and an estimate where they do
    not: see `deel_lip_tf.bounds.lipschitz_bound`.

    Args:
        model: a built Keras model, of this library or not; it is not changed.
        supplementary_type2sv: functions `layer -> (smallest, largest)` by exact type of layer, for
            layers of your own; they come before the rules of this library. None by default.

    Returns:
        A list of `(name, (smallest, largest))`; layers of a nested model are named "model/layer".

    Raises:
        TypeError: if `model` is not a Keras model; if `supplementary_type2sv` does not map types
            to functions.
        ValueError: if a layer with a kernel is not built.

    Example:
        >>> dense = lip.layers.SpectralDense(3, "relu", name="dense")
        >>> pool = keras.layers.AveragePooling1D(4, name="pool")
        >>> model = keras.Sequential([keras.Input((4, 3)), dense, pool])
        >>> for name, (smallest, largest) in lip.compute_layer_sv.compute_model_sv(model):
        ...     print(name, round(smallest, 3), round(largest, 3))
        dense 1.0 1.0
        pool 0.5 0.5
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: {type(model).__name__}. A single layer has "
            "`compute_layer_sv(layer)`."
        )
    return [
        (name, compute_layer_sv(layer, supplementary_type2sv)) for name, layer in _leaves(model, "")
    ]


def _checked_rules(supplementary_type2sv) -> Mapping[type, Callable]:
    rules = {} if supplementary_type2sv is None else supplementary_type2sv
    is_map = isinstance(rules, Mapping)
    if not is_map or not all(isinstance(key, type) and callable(f) for key, f in rules.items()):
        raise TypeError(
            "`supplementary_type2sv` must map types of layers to functions, e.g. "
            "{MyLayer: lambda layer: (0.0, 1.0)}. Received: supplementary_type2sv="
            f"{supplementary_type2sv!r}."
        )
    return rules


def _leaves(model: keras.Model, prefix: str):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


def _rule(layer: keras.layers.Layer) -> Rule:
    exact = {**_KERNEL_RULES, **_OTHER_RULES}.get(type(layer))
    if exact is None and type(layer).__module__.startswith("deel_lip_tf.layers."):
        # The layers of this library apply a kernel as the Keras class they inherit from does.
        families = [family for family in _KERNEL_RULES if isinstance(layer, family)]
        exact = _KERNEL_RULES[families[0]] if families else None
    return exact or _known


def _input_shape(layer: keras.layers.Layer) -> Shape:
    """Shape of the one input the layer is built for, or None where there is none on record."""
    shape = (layer.get_build_config() or {}).get("input_shape")
    if shape is None:
        # Layers without weights keep no record, but the model they are part of does.
        try:
            shape = layer.input.shape
        except (AttributeError, ValueError):
            return None
    is_single = isinstance(shape, list | tuple) and all(n is None or type(n) is int for n in shape)
    return tuple(shape) if is_single else None


def _spatial(layer, shape: Shape) -> tuple[int, ...] | None:
    """The sizes of an image, or None where one of them is not known."""
    if shape is None:
        return None
    sizes = shape[1:-1] if layer.data_format == "channels_last" else shape[2:]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None


def _dense(layer, shape: Shape) -> Extremes:
    return dense_extremes(kernel_of(layer))


def _convolution(layer, shape: Shape) -> Extremes | Unknown:
    kernel = kernel_of(layer)
    # The outputs are split into consecutive groups, each of which sees its share of the inputs.
    grouped = kernel.reshape(*kernel.shape[:-1], layer.groups, kernel.shape[-1] // layer.groups)
    return _operator(layer, np.moveaxis(grouped, -2, -3), _spatial(layer, shape))


def _transposed(layer, shape: Shape) -> Extremes | Unknown:
    if _spatial(layer, shape) is None:
        return _UNKNOWN
    # The adjoint maps the layer's outputs to its inputs; Keras's layout is that of its kernel.
    sizes = _spatial(layer, layer.compute_output_shape(shape))
    return _operator(layer, np.expand_dims(kernel_of(layer), -3), sizes)


def _depthwise(layer, shape: Shape) -> Extremes | Unknown:
    # (*size, channels, multiplier): each channel is a group of one input.
    return _operator(layer, np.expand_dims(kernel_of(layer), -2), _spatial(layer, shape))


def _separable(layer, shape: Shape) -> Extremes | Unknown:
    depthwise, pointwise = (
        kernel_of(layer, "depthwise_kernel"),
        kernel_of(layer, "pointwise_kernel"),
    )
    mixing = pointwise.reshape(*depthwise.shape[-2:], pointwise.shape[-1])
    composed = np.einsum("...cm,cmf->...cf", depthwise, mixing)
    return _operator(layer, np.expand_dims(composed, -3), _spatial(layer, shape))


def _operator(layer, kernel: np.ndarray, sizes: tuple[int, ...] | None) -> Extremes | Unknown:
    if sizes is None:
        return _UNKNOWN
    rank = len(sizes)
    strides, dilation = _tuple(layer.strides, rank), _tuple(layer.dilation_rate, rank)
    # Paddings of the library's unconstrained convolution, which follow another rule.
    amounts = getattr(layer, "amounts", None) if layer.padding not in ("same", "valid") else None
    operator = ConvolutionOperator(kernel, strides, dilation, layer.padding, sizes, amounts)
    return extreme_singular_values(operator)


def _tuple(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _average_pooling(layer, shape: Shape) -> Extremes | Unknown:
    sizes = _spatial(layer, shape)
    if sizes is None:
        return _UNKNOWN
    # Pooling over several axes is the tensor product of its axes: singular values multiply.
    axes = zip(sizes, layer.pool_size, layer.strides, strict=True)
    extremes = [dense_extremes(_averages(*axis, layer.padding)) for axis in axes]
    smallest, largest = zip(*extremes, strict=True)
    return math.prod(smallest), math.prod(largest)


def _averages(size: int, pool: int, stride: int, padding: str) -> np.ndarray:
    """The matrix of average pooling along one axis; padded places do not count."""
    ones = np.ones((pool, 1, 1, 1))
    matrix = ConvolutionOperator(ones, (stride,), (1,), padding, (size,)).matrices()[0]
    return matrix / matrix.sum(axis=1, keepdims=True)


def _global_average(layer, shape: Shape) -> Extremes | Unknown:
    return _UNKNOWN if _spatial(layer, shape) is None else _known(layer, shape)


def _max_pooling(layer, shape: Shape) -> Extremes | Unknown:
    # Where windows overlap, what the layer does to a difference depends on the input.
    apart = all(s >= k for s, k in zip(layer.strides, layer.pool_size, strict=True))
    return _known(layer, shape) if apart else _UNKNOWN


def _rescaling(layer, shape: Shape) -> Extremes:
    return _diagonal(layer.scale)


def _normalization(layer, shape: Shape) -> Extremes | Unknown:
    if not layer.built or layer.variance is None:
        return _UNKNOWN
    deviation = np.maximum(np.sqrt(_array(layer.variance)), keras.config.epsilon())
    return _diagonal(deviation if layer.invert else 1 / deviation)


def _batch_normalization(layer, shape: Shape) -> Extremes | Unknown:
    if not layer.built:
        return _UNKNOWN
    gamma = _array(layer.gamma) if layer.scale else 1.0
    return _diagonal(gamma / np.sqrt(_array(layer.moving_variance) + layer.epsilon))


def _diagonal(entries) -> Extremes:
    absolute = np.abs(np.asarray(entries, dtype=np.float64))
    return float(absolute.min()), float(absolute.max())


def _array(variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)


def _add(layer, shape: Shape) -> Extremes | Unknown:
    shapes = (layer.get_build_config() or {}).get("input_shape")
    return (float(len(shapes)),) * 2 if shapes else _UNKNOWN


def _layer_centering(layer, shape: Shape) -> Extremes:
    return 0.0, layer.k_coef_lip  # a projection, whose kernel are the constants


def _known(layer, shape: Shape) -> Extremes | Unknown:
    constant = known_constant(layer, shape)
    return _UNKNOWN if constant is None else (constant, constant)


_KERNEL_RULES: dict[type, Rule] = {
    layers.Dense: _dense,
    layers.Conv1DTranspose: _transposed,
    layers.Conv2DTranspose: _transposed,
    layers.Conv3DTranspose: _transposed,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv1D: _separable,
    layers.SeparableConv2D: _separable,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
}

_OTHER_RULES: dict[type, Rule] = {
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D), _average_pooling),
    layers.AveragePooling3D: _average_pooling,
    layers.GlobalAveragePooling1D: _global_average,
    layers.GlobalAveragePooling2D: _global_average,
    layers.GlobalAveragePooling3D: _global_average,
    layers.MaxPooling1D: _max_pooling,
    layers.MaxPooling2D: _max_pooling,
    layers.MaxPooling3D: _max_pooling,
    layers.BatchNormalization: _batch_normalization,
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
    layers.Add: _add,
    LayerCentering: _layer_centering,
}
