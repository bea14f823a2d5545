"""Bounds with gradients: NumPy's corners, layers of verification, finite differences."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from deel_lip_tf.training.arrays import KerasOps
from deel_lip_tf.training.bounds import followed_program, intervals, margins
from tests._oracles.tolerances import GRADIENT

RNG = np.random.default_rng(3)
# Float64 sums of a few products; arguments of layers, which Keras keeps in float32.
FLOAT64, ARGUMENTS = 1e-9, 1e-6


def dense_network(units=(4, 3), activation="relu"):
    """Random weights, in float64: some neurons bend on a ball of radius 0.3, and some do not."""
    hidden = [layers.Dense(n, activation, dtype="float64") for n in units[:-1]]
    last = layers.Dense(units[-1], dtype="float64")
    model = keras.Sequential([keras.Input((3,), dtype="float64"), *hidden, last])
    model.set_weights([RNG.normal(size=weight.shape) for weight in model.weights])
    return model


def bounded(model, x, radius, objectives=None, is_relaxed=False):
    """Ends of the output, and bounds of objectives."""
    program, arrays = followed_program(model), KerasOps("float64")
    found = intervals(program, arrays, ops.convert_to_tensor(x - radius), x + radius)
    if objectives is None:
        return [ops.convert_to_numpy(end) for end in found[program.output]]
    rows = ops.convert_to_tensor(np.repeat(objectives[None], len(x), axis=0))
    return ops.convert_to_numpy(margins(program, arrays, found, rows, is_relaxed))


def vertices(lower, upper):
    """All corners of a box (n,), in NumPy."""
    return np.array(list(itertools.product(*zip(lower, upper, strict=True))))


def layerwise(model, lower, upper, objectives):
    """The smallest values of objectives by intervals of layers, each by its corners."""
    *hidden, last = [layer.get_weights() for layer in model.layers]
    for kernel, bias in hidden:
        corners = np.maximum(vertices(lower, upper) @ kernel + bias, 0.0)
        lower, upper = corners.min(axis=0), corners.max(axis=0)
    kernel, bias = last
    return ((vertices(lower, upper) @ kernel + bias) @ objectives.T).min(axis=0)


OBJECTIVES = np.array([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 1.0]])


def test_intervals_are_those_of_the_corners_layer_by_layer():
    model, x = dense_network((4, 5, 3)), RNG.normal(size=(5, 3))
    expected = [layerwise(model, a - 0.3, a + 0.3, OBJECTIVES) for a in x]
    np.testing.assert_allclose(bounded(model, x, 0.3, OBJECTIVES), expected, atol=FLOAT64)


def crown(model, x, radius, objectives):
    """CROWN of one hidden layer, neuron by neuron."""
    (kernel, bias), (last, shift) = (layer.get_weights() for layer in model.layers)
    found = []
    for row in objectives:
        slopes, total = np.zeros(len(x)), row @ shift
        for j, weight in enumerate(last @ row):
            middle, spread = x @ kernel[:, j] + bias[j], radius * np.abs(kernel[:, j]).sum()
            low, high = middle - spread, middle + spread
            if low >= 0 or high <= 0:
                slope, offset = float(low >= 0), 0.0
            elif weight < 0:
                slope, offset = high / (high - low), -low * high / (high - low)
            else:
                slope, offset = float(high > -low), 0.0
            slopes += weight * slope * kernel[:, j]
            total += weight * (slope * bias[j] + offset)
        found.append(total + slopes @ x - radius * np.abs(slopes).sum())
    return found


def test_lines_are_those_of_the_paper():
    model, x = dense_network((6, 3)), RNG.normal(size=(5, 3))
    expected = [crown(model, a, 0.3, OBJECTIVES) for a in x]
    found = bounded(model, x, 0.3, OBJECTIVES, is_relaxed=True)
    np.testing.assert_allclose(found, expected, atol=FLOAT64)


@pytest.fixture(scope="module")
def network():
    """What is convolved, normalized, pooled and added up, in float64."""
    keras.config.set_dtype_policy("float64")
    try:
        return image_network()
    finally:
        keras.config.set_dtype_policy("float32")


def image_network():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.Add()([x, layers.BatchNormalization()(x)])
    x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.SeparableConv2D(4, 2, padding="same", activation="silu")(x)
    x = layers.Conv2DTranspose(2, 2, strides=2, activation="leaky_relu")(x)
    x = layers.DepthwiseConv2D(2, dilation_rate=2, activation="sigmoid")(x)
    outputs = layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5)(x)))
    model = keras.Model(inputs, outputs)
    for weight in model.weights:
        noise = RNG.normal(size=weight.shape)
        weight.assign(np.abs(noise) + 0.5 if "variance" in weight.path else 0.7 * noise)
    return model


@pytest.mark.parametrize("is_relaxed", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.2])
def test_no_point_leaves_its_bounds(network, radius, is_relaxed):
    x = RNG.normal(size=(2, 6, 6, 2))
    low = bounded(network, x, radius, OBJECTIVES, is_relaxed)
    steps = RNG.choice([-1.0, 0.3, 1.0], size=(200, *x.shape)) * radius
    outputs = ops.convert_to_numpy(network((x + steps).reshape(-1, *x.shape[1:])))
    smallest = (outputs @ OBJECTIVES.T).reshape(200, 2, 3).min(axis=0)
    assert (low <= smallest + ARGUMENTS).all()
    if radius == 0.0:
        np.testing.assert_allclose(low, smallest, atol=ARGUMENTS)


@pytest.mark.parametrize("is_relaxed", [False, True])
def test_gradients_are_finite_differences(network, is_relaxed, tf):
    program, x = followed_program(network), RNG.normal(size=(2, 6, 6, 2))
    rows = ops.convert_to_tensor(np.repeat(OBJECTIVES[None], 2, axis=0))
    weights = network.trainable_weights

    def value():
        arrays = KerasOps("float64")
        found = intervals(program, arrays, ops.convert_to_tensor(x - 0.1), x + 0.1)
        return ops.sum(margins(program, arrays, found, rows, is_relaxed))

    with tf.GradientTape() as tape:
        result = value()
    gradients = tape.gradient(result, [weight.value for weight in weights])
    # Each weight in one of two directions, so that none hides behind the others.
    for part in (slice(0, None, 2), slice(1, None, 2)):
        moved = [
            (weight, weight.numpy(), RNG.normal(size=weight.shape)) for weight in weights[part]
        ]
        slope = sum(float(np.sum(g * d)) for g, (*_, d) in zip(gradients[part], moved, strict=True))
        sides = []
        for sign in (1.0, -1.0, 0.0):
            for weight, start, direction in moved:
                weight.assign(start + sign * 1e-6 * direction)
            sides.append(float(value()))
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(slope, rel=GRADIENT, abs=GRADIENT)


class Scaled(layers.Layer):
    def call(self, x):
        return 2.0 * x


REFUSED = {
    "PReLU": layers.PReLU(name="bent"),
    "LayerNormalization": layers.LayerNormalization(name="bent"),
    "Scaled": Scaled(name="bent"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_rule_is_named(kind):
    model = keras.Sequential([keras.Input((4,)), REFUSED[kind], layers.Dense(2)])
    with pytest.raises(ValueError, match=rf"cannot be trained .*'bent' \({kind}"):
        followed_program(model)


def rows_of_verification():
    from tests._tables import verify_cases

    return verify_cases.ROWS


@pytest.mark.slow
def test_every_layer_of_verification_is_enclosed_or_refused(tf):
    refused = 0
    for row in rows_of_verification():
        model = row.model(0.5)
        try:
            followed_program(model)
        except ValueError as error:
            assert "cannot be trained" in str(error)
            refused += 1
            continue
        x = RNG.normal(size=(2, *row.shape))
        low, high = bounded(model, x, 0.2)
        steps = 0.2 * RNG.choice([-1.0, 0.3, 1.0], size=(20, *x.shape))
        outputs = np.stack([row.outputs(model, point) for point in x + steps])
        slack = ARGUMENTS * (1.0 + np.abs(outputs).max())
        assert (low <= outputs.min(axis=0) + slack).all(), row
        assert (high >= outputs.max(axis=0) - slack).all(), row
    assert 0 < refused < 0.15 * len(rows_of_verification())
