"""Steps of Keras layers with windows: convolutions, poolings, paddings, of one to three axes."""

import keras
import numpy as np
from keras import layers

from tests.fuzz.models import values
from tests.fuzz.models.steps import (
    Draw,
    Step,
    activated,
    changed,
    drawn_activation,
    of_layer,
    stored,
)

__all__ = ["ROWS", "linear_layer"]


def _image(draw: Draw, shape):
    """`(data_format, sizes, channels)` of a tensor with one to three axes beside its channels."""
    if not 2 <= len(shape) <= 4:
        return None
    if draw.chance(0.15):
        return "channels_first", shape[1:], shape[0]
    return "channels_last", shape[:-1], shape[-1]


def _of_rank(name: str, rank: int):
    return getattr(layers, f"{name}{rank}D", None)


def linear_layer(layer, compute, activation, data_format="channels_last", kind="") -> Step:
    """A layer of a linear map, a bias and an activation."""

    def with_bias(x):
        y = compute(x)
        y = y if layer.bias is None else y + stored(layer, layer.bias, x)
        return activated(activation, y)

    return of_layer(layer, lambda x: changed(x, data_format, with_bias), kind)


def _padding(draw: Draw, sizes, windows):
    fits = all(k <= n for n, k in zip(sizes, windows, strict=True))
    return draw.one_of("valid", "same") if fits else "same"


def _geometry(draw: Draw, sizes):
    """Windows, strides and dilations; Keras allows one of the latter to differ from 1."""
    windows = [min(draw.size(1, 3), max(n, 2)) for n in sizes]
    ones = [1] * len(sizes)
    strides = [draw.size(1, 3) for _ in sizes] if draw.chance(0.5) else ones
    dilations = ones
    if strides == ones and draw.chance(0.3):
        fits = [(k - 1) * 2 < n for n, k in zip(sizes, windows, strict=True)]
        dilations = [draw.size(1, 2) if one else 1 for one in fits]
    return windows, strides, dilations


def _padded(x, padding, windows, strides, dilations):
    if padding == "causal":
        return values.extended(x, [((windows[0] - 1) * dilations[0], 0)])
    if padding == "valid":
        return x
    axes = zip(x.shape[1:-1], windows, strides, dilations, strict=True)
    return values.extended(x, [values.same_padding(*axis) for axis in axes])


def _convolution(draw: Draw, shape):
    if (image := _image(draw, shape)) is None:
        return None
    data_format, sizes, channels = image
    windows, strides, dilations = _geometry(draw, sizes)
    reach = [(k - 1) * d + 1 for k, d in zip(windows, dilations, strict=True)]
    padding = _padding(draw, sizes, reach)
    if len(sizes) == 1 and data_format == "channels_last" and draw.chance(0.3):
        padding = "causal"
    groups = channels if channels > 1 and len(sizes) < 3 and draw.chance(0.15) else 1
    activation = drawn_activation(draw)
    layer = _of_rank("Conv", len(sizes))(
        groups * draw.size(1, 2), windows, strides=strides, dilation_rate=dilations,
        padding=padding, groups=groups, activation=activation, use_bias=draw.chance(0.6),
        data_format=data_format, dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        x = _padded(x, padding, windows, strides, dilations)
        return values.convolved(x, stored(layer, layer.kernel, x), strides, dilations, groups)

    return linear_layer(layer, compute, activation, data_format)


def _depthwise(draw: Draw, shape):
    if (image := _image(draw, shape)) is None or len(image[1]) > 2:
        return None
    data_format, sizes, channels = image
    windows, strides = [draw.size(1, 3) for _ in sizes], [draw.size(1, 2)] * len(sizes)
    padding, multiplier = _padding(draw, sizes, windows), draw.size(1, 2)
    activation, ones = drawn_activation(draw), [1] * len(sizes)
    layer = _of_rank("DepthwiseConv", len(sizes))(
        windows, strides=strides, padding=padding, depth_multiplier=multiplier,
        activation=activation, data_format=data_format, dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        kernel = stored(layer, layer.kernel, x)
        kernel = kernel.reshape(*windows, 1, channels * multiplier)
        x = _padded(x, padding, windows, strides, ones)
        return values.convolved(x, kernel, strides, ones, channels)

    return linear_layer(layer, compute, activation, data_format)


def _separable(draw: Draw, shape):
    if not 2 <= len(shape) <= 3:
        return None
    sizes, channels, ones = shape[:-1], shape[-1], [1] * (len(shape) - 1)
    windows = [draw.size(1, 2) for _ in sizes]
    padding, activation = _padding(draw, sizes, windows), drawn_activation(draw)
    layer = _of_rank("SeparableConv", len(sizes))(
        2, windows, padding=padding, activation=activation, dtype=draw.policy
    )

    def compute(x):
        first = stored(layer, layer.depthwise_kernel, x).reshape(*windows, 1, channels)
        x = values.convolved(_padded(x, padding, windows, ones, ones), first, ones, ones, channels)
        return x @ stored(layer, layer.pointwise_kernel, x).reshape(channels, 2)

    return linear_layer(layer, compute, activation)


def _transposed(draw: Draw, shape):
    if not 2 <= len(shape) <= 4 or np.prod(shape) > 16:
        return None
    sizes = shape[:-1]
    windows, strides = [draw.size(1, 3) for _ in sizes], [draw.size(1, 2) for _ in sizes]
    padding, activation = draw.one_of("valid", "same"), drawn_activation(draw)
    layer = _of_rank("Conv", len(sizes)).__name__.replace("D", "DTranspose")
    layer = getattr(layers, layer)(
        draw.size(1, 2), windows, strides=strides, padding=padding, activation=activation,
        dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        return values.transposed(x, stored(layer, layer.kernel, x), strides, padding)

    return linear_layer(layer, compute, activation)


def _pooling(draw: Draw, shape):
    if (image := _image(draw, shape)) is None:
        return None
    data_format, sizes, _ = image
    name, compute = draw.one_of(
        ("MaxPooling", values.max_pooled), ("AveragePooling", values.average_pooled)
    )
    windows = [draw.size(1, 3) for _ in sizes]
    strides = [draw.size(1, 3) for _ in sizes] if draw.chance(0.6) else windows
    padding = _padding(draw, sizes, windows)
    layer = _of_rank(name, len(sizes))(
        windows, strides=strides, padding=padding, data_format=data_format, dtype=draw.policy
    )
    return of_layer(
        layer,
        lambda x: changed(x, data_format, lambda z: compute(z, windows, strides, padding)),
    )


def _global_pooling(draw: Draw, shape):
    if (image := _image(draw, shape)) is None:
        return None
    data_format, sizes, _ = image
    name, reduce = draw.one_of(("GlobalMaxPooling", np.max), ("GlobalAveragePooling", np.mean))
    keepdims, axes = draw.chance(0.3), tuple(range(1, 1 + len(sizes)))
    layer = _of_rank(name, len(sizes))(
        keepdims=keepdims, data_format=data_format, dtype=draw.policy
    )
    return of_layer(
        layer, lambda x: changed(x, data_format, lambda z: reduce(z, axis=axes, keepdims=keepdims))
    )


def _zero_padding(draw: Draw, shape):
    if (image := _image(draw, shape)) is None or np.prod(shape) > 16:
        return None
    data_format, sizes, _ = image
    amounts = [(draw.size(0, 1), draw.size(0, 1)) for _ in sizes]
    given = amounts[0] if len(sizes) == 1 else tuple(amounts)
    layer = _of_rank("ZeroPadding", len(sizes))(given, data_format=data_format, dtype=draw.policy)
    return of_layer(layer, lambda x: changed(x, data_format, lambda z: values.extended(z, amounts)))


def _cropping(draw: Draw, shape):
    if not 2 <= len(shape) <= 4 or min(shape[:-1]) < 2:
        return None
    amounts = [(1, 0) if draw.chance(0.5) else (0, min(1, n - 1)) for n in shape[:-1]]
    given = amounts[0] if len(amounts) == 1 else tuple(amounts)
    layer = _of_rank("Cropping", len(amounts))(given, dtype=draw.policy)
    slices = [slice(a, n - b) for n, (a, b) in zip(shape[:-1], amounts, strict=True)]
    return of_layer(layer, lambda x: x[(slice(None), *slices)])


def _up_sampling(draw: Draw, shape):
    if not 2 <= len(shape) <= 4 or np.prod(shape) > 8:
        return None
    factors = [draw.size(1, 2) for _ in shape[:-1]]
    given = factors[0] if len(factors) == 1 else tuple(factors)
    layer = _of_rank("UpSampling", len(factors))(given, dtype=draw.policy)

    def value(x):
        for axis, factor in enumerate(factors, 1):
            x = np.repeat(x, factor, axis=axis)
        return x

    return of_layer(layer, value)


def _time_distributed(draw: Draw, shape):
    if len(shape) != 2:
        return None
    inner = keras.layers.Dense(2, activation="relu", dtype=draw.policy)
    layer = layers.TimeDistributed(inner, dtype=draw.policy)
    return of_layer(
        layer,
        lambda x: values.relu(x @ stored(inner, inner.kernel, x) + stored(inner, inner.bias, x)),
    )


ROWS = {
    _convolution: 8, _depthwise: 1, _separable: 1, _transposed: 1, _pooling: 3, _global_pooling: 1,
    _zero_padding: 1, _cropping: 0.7, _up_sampling: 0.7, _time_distributed: 0.5,
}  # fmt: skip
