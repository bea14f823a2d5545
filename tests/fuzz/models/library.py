"""Steps of this library's layers: their effective kernel in NumPy, as every other kernel."""

import math

import keras
import numpy as np

from deel_lip_tf import layers as lip
from tests.fuzz.models import values
from tests.fuzz.models.steps import (
    Draw,
    activated,
    changed,
    drawn_activation,
    of_layer,
    read,
    stored,
)
from tests.fuzz.models.windows import linear_layer

__all__ = ["MERGES", "ROWS", "effective", "residual"]

_PADDINGS = {"same": "constant", "circular": "wrap"}
_MODES = {"circular": "wrap", "symmetric": "symmetric", "reflect": "reflect", "replicate": "edge"}


def effective(layer, like):
    """The kernel of the forward pass, rounded to the type it multiplies in."""
    return read(id(layer), lambda: keras.ops.cast(layer.wbar, layer.compute_dtype), like)


def _constrained_dense(draw: Draw, shape):
    kind, activation = draw.one_of(lip.SpectralDense, lip.FrobeniusDense), drawn_activation(draw)
    layer = kind(
        draw.size(1, 6), activation=activation, use_bias=draw.chance(0.7),
        k_coef_lip=draw.one_of(1.0, 1.0, 0.5, 2.0), dtype=draw.policy,
    )  # fmt: skip
    return linear_layer(layer, lambda x: x @ effective(layer, x), activation)


def _extended(x, padding, windows, strides):
    if padding in _MODES:
        amounts = [((k - 1) // 2, k // 2) for k in windows]
        return values.extended(x, amounts, _MODES[padding])
    if padding == "causal":
        return values.extended(x, [(windows[0] - 1, 0)])
    if padding == "same":
        axes = zip(x.shape[1:-1], windows, strides, strict=True)
        return values.extended(x, [values.same_padding(*axis) for axis in axes])
    return x


def _paddings(draw: Draw, sizes, windows, *more):
    fits = all(k <= n for n, k in zip(sizes, windows, strict=True))
    return draw.one_of("same", *_MODES, *more, *(["valid"] if fits else []))


def _constrained_convolution(draw: Draw, shape):
    if not 2 <= len(shape) <= 3:
        return None
    sizes = shape[:-1]
    windows, strides = [draw.size(1, 3) for _ in sizes], [draw.size(1, 2) for _ in sizes]
    padding = _paddings(draw, sizes, windows, *(["causal"] if len(sizes) == 1 else []))
    kinds = [lip.SpectralConv1D] if len(sizes) == 1 else [lip.SpectralConv2D, lip.FrobeniusConv2D]
    activation, ones = drawn_activation(draw), [1] * len(sizes)
    layer = draw.one_of(*kinds)(
        draw.size(1, 3), windows, strides=strides, padding=padding, activation=activation,
        k_coef_lip=draw.one_of(1.0, 1.0, 2.0), dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        x = _extended(x, padding, windows, strides)
        return values.convolved(x, effective(layer, x), strides, ones)

    return linear_layer(layer, compute, activation)


def _constrained_depthwise(draw: Draw, shape):
    if len(shape) != 3:
        return None
    windows, multiplier = [draw.size(1, 3), draw.size(1, 3)], draw.size(1, 2)
    strides, ones = [draw.size(1, 2)] * 2, [1, 1]
    padding, activation = _paddings(draw, shape[:-1], windows), drawn_activation(draw)
    layer = lip.SpectralDepthwiseConv2D(
        windows, strides=strides, padding=padding, depth_multiplier=multiplier,
        activation=activation, dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        kernel = effective(layer, x).reshape(*windows, 1, shape[-1] * multiplier)
        x = _extended(x, padding, windows, strides)
        return values.convolved(x, kernel, strides, ones, shape[-1])

    return linear_layer(layer, compute, activation)


def _constrained_transposed(draw: Draw, shape):
    if len(shape) != 3 or np.prod(shape) > 12:
        return None
    windows, strides = [draw.size(1, 3) for _ in "xy"], [draw.size(1, 2) for _ in "xy"]
    padding, filters = draw.one_of("same", "valid", *_MODES), draw.size(1, 2)
    activation = drawn_activation(draw)
    layer = lip.SpectralConv2DTranspose(
        filters, windows, strides=strides, padding=padding, activation=activation,
        dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        kernel = effective(layer, x)
        if padding not in _MODES:
            return values.transposed(x, kernel, strides, padding)
        # The adjoint of the padded convolution of the output, as a matrix.
        sizes = (*(n * s for n, s in zip(shape[:-1], strides, strict=True)), filters)
        unit = np.eye(math.prod(sizes), dtype=x.dtype).reshape(-1, *sizes)
        matrix = values.convolved(
            _extended(unit, padding, windows, strides), kernel, strides, [1, 1]
        )
        return (x.reshape(len(x), -1) @ matrix.reshape(len(unit), -1).T).reshape(len(x), *sizes)

    return linear_layer(layer, compute, activation)


def _padded_convolution(draw: Draw, shape):
    if len(shape) != 3:
        return None
    windows, strides = [draw.size(1, 3) for _ in "xy"], [draw.size(1, 2) for _ in "xy"]
    padding, activation = draw.one_of("constant", *_MODES), drawn_activation(draw)
    modes = {"constant": "constant", **_MODES}
    layer = lip.PadConv2D(
        draw.size(1, 2), windows, strides=strides, padding=padding, activation=activation,
        dtype=draw.policy,
    )  # fmt: skip

    def compute(x):
        x = values.extended(x, [(k // 2, k // 2) for k in windows], modes[padding])
        return values.convolved(x, stored(layer, layer.kernel, x), strides, [1, 1])

    return linear_layer(layer, compute, activation)


def _recurrent(draw: Draw, shape):
    """A recurrent layer, constrained or plain, step by step."""
    if len(shape) != 2:
        return None
    activation, units = drawn_activation(draw), draw.size(1, 4)
    returns_all, backwards = draw.chance(0.5), draw.chance(0.3)
    layer = draw.one_of(lip.SpectralSimpleRNN, keras.layers.SimpleRNN)(
        units, activation=activation, return_sequences=returns_all, go_backwards=backwards,
        dtype=draw.policy,
    )  # fmt: skip

    def value(x):
        if isinstance(layer, lip.SpectralSimpleRNN):
            kernel, recurrent = np.split(effective(layer, x), [-units])
            bias = stored(layer, layer.bias, x)
        else:
            cell = layer.cell
            kernel, recurrent = (stored(cell, w, x) for w in (cell.kernel, cell.recurrent_kernel))
            bias = stored(cell, cell.bias, x)
        state, states = np.zeros((len(x), units), x.dtype), []
        for step in range(x.shape[1])[:: -1 if backwards else 1]:
            state = activated(activation, x[:, step] @ kernel + state @ recurrent + bias)
            states.append(state)
        return np.stack(states, axis=1) if returns_all else state

    return of_layer(layer, value)


def _recurrent_images(draw: Draw, shape):
    """A convolutional recurrent layer, step by step."""
    if len(shape) != 4:
        return None
    activation, size, padding = drawn_activation(draw), draw.size(1, 3), draw.one_of(*_PADDINGS)
    returns_all, filters = draw.chance(0.5), draw.size(1, 2)
    layer = lip.AOCConvRNN2D(
        filters, size, padding, activation, return_sequences=returns_all,
        k_coef_lip=draw.one_of(1.0, 0.5, 2.0), dtype=draw.policy,
    )  # fmt: skip

    def moved(x, kernel):
        x = values.extended(x, [((size - 1) // 2, size // 2)] * 2, _PADDINGS[padding])
        return values.convolved(x, kernel, [1, 1], [1, 1])

    def value(x):
        kernel, bias = effective(layer, x), stored(layer, layer.bias, x)
        of_inputs, of_state = np.split(kernel, [-filters], axis=-2)
        factor = read((id(layer), "factor"), lambda: _factor(layer), x)
        state, states = np.zeros((*x.shape[:1], *x.shape[2:-1], filters), x.dtype), []
        for step in range(x.shape[1]):
            added = moved(factor * x[:, step], of_inputs) + moved(state, of_state)
            state = activated(activation, added + bias)
            states.append(state)
        return np.stack(states, axis=1) if returns_all else state

    return of_layer(layer, value)


def _factor(layer):
    """What the inputs are multiplied by, as it is kept."""
    return keras.ops.cast(keras.ops.convert_to_tensor(layer.input_factor), layer.compute_dtype)


def _with_activation_layer(draw: Draw, shape):
    """A layer as the `activation=` of another one."""
    units = 2 * draw.size(1, 2)
    kind = draw.one_of(keras.layers.Dense, lip.SpectralDense)
    # Keras's own layer leaves an activation with weights unbuilt until it is first run.
    rows = (_sorting,) if kind is keras.layers.Dense else (_sorting, _householder, _prelu)
    inner = draw.one_of(*rows)(draw, (units,))
    layer = kind(units, activation=inner.layer, dtype=draw.policy)

    def value(x):
        is_plain = kind is keras.layers.Dense
        kernel = stored(layer, layer.kernel, x) if is_plain else effective(layer, x)
        return inner.value(x @ kernel + stored(layer, layer.bias, x))

    return of_layer(layer, value, f"{kind.__name__}({type(inner.layer).__name__})")


def _sorting(draw: Draw, shape):
    channels = shape[-1]
    sizes = [n for n in range(2, channels + 1) if channels % n == 0]
    if not sizes:
        return None
    size, k = int(draw.one_of(*sizes)), draw.one_of(1.0, 1.0, 0.7, 2.0)
    layer = lip.GroupSort(n=size, k_coef_lip=k, dtype=draw.policy)
    if size == 2 and draw.chance(0.5):
        layer = lip.GroupSort2(k_coef_lip=k, dtype=draw.policy)
    elif size == channels:
        layer = lip.FullSort(k_coef_lip=k, dtype=draw.policy)
    return of_layer(layer, lambda x: layer.k_coef_lip * values.sorted_groups(x, size))


def _max_min(draw: Draw, shape):
    data_format = draw.one_of("channels_last", "channels_last", "channels_first")
    layer = lip.MaxMin(data_format=data_format, dtype=draw.policy)
    return of_layer(
        layer,
        lambda x: (
            layer.k_coef_lip
            * changed(
                x, data_format, lambda z: np.concatenate([values.relu(z), values.relu(-z)], axis=-1)
            )
        ),
    )


def _householder(draw: Draw, shape):
    if shape[-1] % 2:
        return None
    layer = lip.Householder(k_coef_lip=draw.one_of(1.0, 0.5), dtype=draw.policy)
    return of_layer(
        layer, lambda x: layer.k_coef_lip * values.house_held(x, stored(layer, layer.theta, x))
    )


def _prelu(draw: Draw, shape):
    layer = lip.PReLUlip(k_coef_lip=draw.one_of(1.0, 2.0), dtype=draw.policy)

    def value(x):
        slope = np.clip(stored(layer, layer.alpha, x), -1, 1)
        return layer.k_coef_lip * values.relu(x, slope)

    return of_layer(layer, value)


def _centering(draw: Draw, shape):
    axis = draw.size(1, len(shape))
    k, bias = draw.one_of(1.0, 0.7), draw.chance(0.5)
    layer = lip.LayerCentering(axis=axis, k_coef_lip=k, use_bias=bias, dtype=draw.policy)

    def value(x):
        y = layer.k_coef_lip * (x - x.mean(axis=axis, keepdims=True))
        return y + stored(layer, layer.bias, x) if bias else y

    return of_layer(layer, value)


def _batch_centering(draw: Draw, shape):
    normalize = draw.chance(0.5)
    layer = draw.one_of(
        lip.BatchCentering(k_coef_lip=0.7, dtype=draw.policy),
        lip.BatchLipNorm(normalize=normalize, use_bias=draw.chance(0.5), dtype=draw.policy),
    )

    def value(x):
        factor = 1.0
        if isinstance(layer, lip.BatchLipNorm) and normalize:
            variance = stored(layer, layer.moving_variance, x).max()
            factor = 1 / np.sqrt(variance) if variance >= layer.epsilon else 1.0
        y = layer.k_coef_lip * factor * (x - stored(layer, layer.moving_mean, x))
        return y if layer.bias is None else y + stored(layer, layer.bias, x)

    return of_layer(layer, value)


def _scale_bias(draw: Draw, shape):
    layer = lip.ScaleBias(draw.number(), use_bias=draw.chance(0.5), dtype=draw.policy)

    def value(x):
        y = layer.k_coef_lip * layer.scalar * x
        return y if layer.bias is None else y + stored(layer, layer.bias, x)

    return of_layer(layer, value)


def _pooling(draw: Draw, shape):
    if len(shape) != 3:
        return None
    windows = [int(draw.one_of(*[k for k in (1, 2, 3) if k <= n])) for n in shape[:-1]]
    size, k = math.prod(windows), draw.one_of(1.0, 2.0)
    is_norm = draw.chance(0.5)
    kind = lip.ScaledL2NormPooling2D if is_norm else lip.ScaledAveragePooling2D
    layer = kind(windows, k_coef_lip=k, dtype=draw.policy)

    def value(x):
        y = values.average_pooled(x**2 if is_norm else x, windows, windows, "valid")
        root = np.sqrt(x.dtype.type(size))
        return layer.k_coef_lip * root * (np.sqrt(y) if is_norm else y)

    return of_layer(layer, value)


def _global_pooling(draw: Draw, shape):
    if len(shape) != 3:
        return None
    is_norm, size = draw.chance(0.5), shape[0] * shape[1]
    kind = lip.ScaledGlobalL2NormPooling2D if is_norm else lip.ScaledGlobalAveragePooling2D
    layer = kind(dtype=draw.policy)

    def value(x):
        if is_norm:
            return layer.k_coef_lip * np.sqrt((x**2).sum(axis=(1, 2)))
        return layer.k_coef_lip * x.sum(axis=(1, 2)) / np.sqrt(x.dtype.type(size))

    return of_layer(layer, value)


def _down_sampling(draw: Draw, shape):
    if len(shape) != 3 or shape[0] % 2 or shape[1] % 2:
        return None
    layer, (rows, columns, channels) = lip.InvertibleDownSampling(2, dtype=draw.policy), shape

    def value(x):
        x = x.reshape(-1, rows // 2, 2, columns // 2, 2, channels)
        return x.transpose(0, 1, 3, 5, 2, 4).reshape(-1, rows // 2, columns // 2, 4 * channels)

    return of_layer(layer, value)


def _bent(draw: Draw, shape):
    """An activation of each channel by itself, or of pairs, that bends more than once."""
    kinds = [lip.Abs, lip.SoftHuber, lip.NActivation, lip.LipschitzSpline]
    kind = draw.one_of(*kinds, *([] if shape[-1] % 2 else [lip.Householder]))
    arguments = {
        lip.Abs: dict(fraction=draw.one_of(0.0, 0.5, 1.0)),
        lip.SoftHuber: dict(delta=draw.one_of(0.05, 1.0)),
        lip.LipschitzSpline: dict(knots=draw.one_of(1, 3, 5), radius=draw.one_of(0.5, 2.0)),
        lip.Householder: dict(order=2),
    }
    k = draw.one_of(1.0, 1.0, 0.5, 2.0)
    layer = kind(**arguments.get(kind, {}), k_coef_lip=k, dtype=draw.policy)
    return of_layer(layer, lambda x: layer.k_coef_lip * _BENT[kind](layer, x))


def _absolute(layer, x):
    is_kept = np.arange(x.shape[-1]) < layer.kept(x.shape[-1])
    return np.where(is_kept, x, np.abs(x))


def _n(layer, x):
    low, high = np.sort(stored(layer, layer.knots, x), axis=0)
    return x - 2 * np.clip(x, low, high)


_BENT = {
    lip.Abs: _absolute,
    lip.SoftHuber: lambda layer, x: x * x / (layer.delta + np.sqrt(x * x + layer.delta**2)),
    lip.NActivation: _n,
    lip.LipschitzSpline: lambda layer, x: values.interpolated(
        x, layer.grid, stored(layer, layer.slopes, x)
    ),
    lip.Householder: lambda layer, x: values.folded(x, stored(layer, layer.theta, x)),
}


def _other_channels(draw: Draw, shape):
    kind, channels = draw.one_of(lip.FirstChannels, lip.PadChannels), shape[-1]
    n = draw.size(1, channels) if kind is lip.FirstChannels else draw.size(channels, channels + 2)
    layer = kind(n, k_coef_lip=draw.one_of(1.0, 2.0), dtype=draw.policy)
    more = [(0, 0)] * len(shape) + [(0, max(n - channels, 0))]
    return of_layer(layer, lambda x: layer.k_coef_lip * np.pad(x, more)[..., :n])


def residual(draw: Draw, shape):
    """The convex combination of two tensors of one shape."""
    layer = lip.LipResidual(k_coef_lip=draw.one_of(1.0, 2.0), dtype=draw.policy)

    def value(x, y):
        # The weight is `alpha`: the exact function takes its sigmoid exactly.
        share = values.ACTIVATIONS["sigmoid"](stored(layer, layer.alpha, x))
        return layer.k_coef_lip * (share * x + (1 - share) * y)

    return of_layer(layer, value)


ROWS = {
    _constrained_dense: 4, _recurrent: 0.7, _recurrent_images: 2,
    _with_activation_layer: 1, _constrained_convolution: 4, _constrained_depthwise: 1,
    _constrained_transposed: 1, _padded_convolution: 1.5, _sorting: 2, _max_min: 1, _householder: 1,
    _prelu: 1, _centering: 1, _batch_centering: 1, _scale_bias: 0.7, _pooling: 1,
    _global_pooling: 0.5, _down_sampling: 0.7, _bent: 2, _other_channels: 0.7,
}  # fmt: skip
MERGES = {residual: 1}
