"""Steps of Keras layers without a window: rows `(draw, shape) -> Step`, or None where it cannot be.

Shapes are those of one sample.
"""

import math

import numpy as np
from keras import layers

from tests.fuzz.models import values
from tests.fuzz.models.steps import Draw, Step, activated, drawn_activation, of_layer, read, stored

__all__ = ["ROWS", "dense", "flatten", "identity", "softmax"]


def dense(draw: Draw, shape, units: int | None = None, activation: str | None = "draw"):
    """The last axis times a matrix."""
    activation = drawn_activation(draw) if activation == "draw" else activation
    units = units or draw.size(1, 6)
    layer = layers.Dense(units, activation=activation, use_bias=draw.chance(0.7), dtype=draw.policy)

    def value(x):
        y = x @ stored(layer, layer.kernel, x)
        return activated(activation, y if layer.bias is None else y + stored(layer, layer.bias, x))

    return of_layer(layer, value)


def _einsum_dense(draw: Draw, shape):
    if len(shape) != 2:
        return None
    equation, output = draw.one_of(
        ("abc,cd->abd", (shape[0], 3)), ("abc,bd->adc", (2, shape[1])), ("abc,bcd->ad", (3,))
    )
    layer = layers.EinsumDense(equation, output, dtype=draw.policy)
    return of_layer(layer, lambda x: np.einsum(equation, x, stored(layer, layer.kernel, x)))


def identity(draw: Draw, shape):
    choices = [layers.Identity, layers.Dropout, layers.GaussianNoise, layers.ActivityRegularization]
    kind = draw.one_of(*choices)
    arguments = {layers.Dropout: {"rate": 0.5}, layers.GaussianNoise: {"stddev": 1.0}}
    return of_layer(kind(dtype=draw.policy, **arguments.get(kind, {})), lambda x: x)


def flatten(draw: Draw, shape):
    layer = layers.Flatten(dtype=draw.policy)
    return of_layer(layer, lambda x: x.reshape(len(x), -1))


def _reshape(draw: Draw, shape):
    entries = math.prod(shape)
    divisors = [n for n in range(1, entries + 1) if entries % n == 0]
    first = int(draw.one_of(*divisors))
    target = draw.one_of((entries,), (first, entries // first), (entries // first, first, 1))
    layer = layers.Reshape(target, dtype=draw.policy)
    return of_layer(layer, lambda x: x.reshape(len(x), *target))


def _permute(draw: Draw, shape):
    if len(shape) < 2:
        return None
    order = [int(i) + 1 for i in draw.rng.permutation(len(shape))]
    layer = layers.Permute(order, dtype=draw.policy)
    return of_layer(layer, lambda x: x.transpose(0, *order))


def _repeat(draw: Draw, shape):
    if len(shape) != 1 or shape[0] > 6:
        return None
    layer = layers.RepeatVector(2, dtype=draw.policy)
    return of_layer(layer, lambda x: np.repeat(x[:, None], 2, axis=1))


def _activation(draw: Draw, shape):
    name = draw.one_of(*(name for name in values.ACTIVATIONS if name != "exponential"))
    layer = layers.Activation(name, dtype=draw.policy)
    return of_layer(layer, values.ACTIVATIONS[name], f"Activation({name})")


def _relu(draw: Draw, shape):
    slope, largest = draw.one_of(0.0, 0.0, 0.3, 0.1, 1.7), draw.one_of(None, None, 0.7, 1.1)
    layer = layers.ReLU(max_value=largest, negative_slope=slope, dtype=draw.policy)
    return of_layer(layer, lambda x: values.relu(x, slope, largest))


def _leaky_relu(draw: Draw, shape):
    slope = draw.one_of(0.3, 0.1, 1.3)
    layer = layers.LeakyReLU(negative_slope=slope, dtype=draw.policy)
    return of_layer(layer, lambda x: values.relu(x, slope))


def _elu(draw: Draw, shape):
    alpha = draw.one_of(1.0, 1.4, 0.3)
    layer = layers.ELU(alpha=alpha, dtype=draw.policy)
    return of_layer(layer, lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def _prelu(draw: Draw, shape):
    axes = None if len(shape) == 1 else draw.one_of(None, [1])
    layer = layers.PReLU(shared_axes=axes, dtype=draw.policy)
    return of_layer(layer, lambda x: values.relu(x, stored(layer, layer.alpha, x)))


def softmax(draw: Draw, shape):
    layer = layers.Softmax(dtype=draw.policy)
    return of_layer(layer, values.ACTIVATIONS["softmax"])


def _batch_normalization(draw: Draw, shape):
    axis = draw.size(1, len(shape))
    layer = layers.BatchNormalization(
        axis=axis if draw.chance(0.5) else axis - len(shape) - 1,
        center=draw.chance(0.7), scale=draw.chance(0.7), epsilon=draw.one_of(1e-3, 0.1),
        dtype=draw.policy,
    )  # fmt: skip
    along = (1, *(shape[i - 1] if i == axis else 1 for i in range(1, len(shape) + 1)))

    def value(x):
        def of(variable):
            return stored(layer, variable, x).reshape(along)

        y = (x - of(layer.moving_mean)) / np.sqrt(of(layer.moving_variance) + layer.epsilon)
        y = y * of(layer.gamma) if layer.scale else y
        return y + of(layer.beta) if layer.center else y

    return of_layer(layer, value)


def _rescaling(draw: Draw, shape):
    scale, offset = draw.number(), draw.one_of(0.0, draw.number())
    if draw.chance(0.3):
        scale = draw.array(shape[-1]).tolist()
    layer = layers.Rescaling(scale, offset, dtype=draw.policy)
    return of_layer(layer, lambda x: x * np.asarray(scale, x.dtype) + np.asarray(offset, x.dtype))


def _normalization(draw: Draw, shape):
    """With given statistics, adapted ones, or those of another layer by `set_weights`.

    Keras computes with the tensors `mean` and `variance`, which `set_weights` leaves as they are.
    """
    how = draw.one_of("given", "adapted", "set")
    if how == "given":
        mean, variance = (draw.array(shape[-1]), draw.array(shape[-1]) ** 2 + 0.01)
        mean, variance = mean.astype(np.float32), variance.astype(np.float32)
        invert = draw.chance(0.3)
        layer = layers.Normalization(mean=mean, variance=variance, invert=invert, dtype=draw.policy)
    else:
        layer = layers.Normalization(dtype=draw.policy)
        layer.adapt(draw.array(20, *shape) * draw.one_of(0.1, 3.0) + draw.number())
        if how == "set":
            other = layers.Normalization(dtype=draw.policy)
            other.adapt(draw.array(20, *shape) * draw.one_of(0.01, 5.0) + 1.0)
            layer.set_weights(other.get_weights())

    def value(x):
        if how == "given":  # arguments count as they are written
            deviation = np.sqrt(variance.astype(x.dtype))
            return mean + x * deviation if layer.invert else (x - mean) / deviation
        centre = read((id(layer), "mean"), lambda: layer.mean, x)
        spread = np.sqrt(read((id(layer), "variance"), lambda: layer.variance, x))
        return (x - centre) / np.maximum(spread, x.dtype.type(1e-7))

    return of_layer(layer, value, f"Normalization({how})")


def _replaced_call(draw: Draw, shape) -> Step:
    """A layer whose `call` was replaced on the instance: what Keras runs is the replacement."""
    step = dense(draw, shape, shape[-1])
    original, factor = step.layer.call, draw.one_of(3.0, -1.0)

    def replaced(inputs, training=None):
        return factor * original(inputs)

    step.layer.call = replaced
    return Step("replaced call", step.apply, lambda x: factor * step.value(x), step.layer)


ROWS = {
    dense: 6, _einsum_dense: 1, identity: 1, flatten: 2, _reshape: 1, _permute: 1, _repeat: 0.5,
    _activation: 3, _relu: 2, _leaky_relu: 1, _elu: 1, _prelu: 1, softmax: 0.7,
    _batch_normalization: 2, _rescaling: 2, _normalization: 2, _replaced_call: 0.1,
}  # fmt: skip
"""With their weights."""
