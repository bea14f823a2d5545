"""Layers that ONNX has one operator for, where their primitives would be many."""

import math
from collections.abc import Callable

from deel_lip_tf.formats.onnx.writing.emitter import Emitter, OnnxTensor
from deel_lip_tf.normalizers import padding_amounts
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules import pooling


def has_operator(layer) -> bool:
    """Whether a layer is a pooling that ONNX has one operator for."""
    return type(rule_for(layer)) in _POOLINGS and layer.data_format == "channels_last"


def write_pooling(emitter: Emitter, layer, x: OnnxTensor) -> OnnxTensor:
    """The output of such a layer."""
    return _POOLINGS[type(rule_for(layer))](emitter, layer, x)


def _pooling(kind: str) -> Callable[..., OnnxTensor]:
    def rule(emitter, layer, x):
        return _pooled(emitter, layer, emitter.channels_first(x), kind)

    return rule


def _pooled(emitter: Emitter, layer, x: OnnxTensor, kind: str) -> OnnxTensor:
    axes = list(zip(x.shape, layer.pool_size, layer.strides, strict=False))
    pads = [padding_amounts(*axis, layer.padding) for axis in axes]
    sizes = [
        (n + sum(added) - pool) // stride + 1
        for (n, pool, stride), added in zip(axes, pads, strict=True)
    ]
    name = emitter.node(
        kind,
        [x.name],
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        pads=[pair[side] for side in (0, 1) for pair in pads],
    )
    return OnnxTensor(name, (*sizes, x.shape[-1]), is_first=True)


def _root_of_mean_square(emitter, layer, x):
    x = emitter.channels_first(x)
    mean = _pooled(emitter, layer, emitter.combine("Mul", x, x), "AveragePool")
    return emitter.apply("Sqrt", mean)


def _global_pooling(kind: str) -> Callable[..., OnnxTensor]:
    def rule(emitter, layer, x):
        x = emitter.channels_first(x)
        shape = (*[1] * (len(x.shape) - 1), x.shape[-1])
        pooled = OnnxTensor(emitter.node(kind, [x.name]), shape, is_first=True)
        return pooled if layer.keepdims else emitter.reshaped(pooled, shape[-1:])

    return rule


def _global_maximum(emitter, layer, x):
    """Over the axes of the image: more tools reduce sequences and volumes than pool them."""
    if len(x.shape) == 3:
        return _global_pooling("GlobalMaxPool")(emitter, layer, x)
    x = emitter.channels_last(x)
    axes, channels = list(range(1, len(x.shape))), x.shape[-1]
    name = emitter.node("ReduceMax", [x.name], axes=axes, keepdims=int(layer.keepdims))
    ones = (1,) * len(axes) if layer.keepdims else ()
    return OnnxTensor(name, (*ones, channels))


def _scaled(rule: Callable[..., OnnxTensor], factor: Callable[..., float]):
    return lambda emitter, layer, x: emitter.apply(
        "Mul", rule(emitter, layer, x), factor(layer, x.shape)
    )


def _window_factor(layer, shape) -> float:
    return layer.k_coef_lip * math.sqrt(math.prod(layer.pool_size))


def _image_factor(layer, shape) -> float:
    return layer.k_coef_lip * math.sqrt(math.prod(shape[:-1]))


_AVERAGE, _GLOBAL_AVERAGE = _pooling("AveragePool"), _global_pooling("GlobalAveragePool")
_POOLINGS: dict[type, Callable[..., OnnxTensor]] = {
    pooling.MaxPooling: _pooling("MaxPool"),
    pooling.AveragePooling: _AVERAGE,
    pooling.GlobalMaximum: _global_maximum,
    pooling.GlobalAverage: _GLOBAL_AVERAGE,
    pooling.ScaledAverage: _scaled(_AVERAGE, _window_factor),
    pooling.ScaledGlobalAverage: _scaled(_GLOBAL_AVERAGE, _image_factor),
    pooling.ScaledRoot: _scaled(_root_of_mean_square, _window_factor),
}
"""By the rule of the layer."""
