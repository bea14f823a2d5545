"""Gradients of gradients, as a gradient penalty takes them, on every path of every layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import layers
from tests._tables.cases import ACTIVATIONS, LAYERS, POOLINGS, Case

STEP = 1e-5
DIFFERENCES = dict(rtol=2e-5, atol=2e-7)
"""Central differences of float64 gradients: errors of the step squared, and of rounding over it."""

PATHS = [case for case in LAYERS if case in POOLINGS or case in ACTIVATIONS]
# Large enough to be compiled in training.
LARGE = [
    Case(layers.GroupSort2, {}, (16, 16, 16)),
    Case(layers.ScaledL2NormPooling2D, dict(pool_size=(2, 3)), (25, 25, 8)),
]
LARGE_KERNEL = Case(layers.SpectralDense, dict(units=64), (80,))
CHANNELS_FIRST = [
    Case(layers.GroupSort2, dict(data_format="channels_first"), (6, 4, 3)),
    Case(layers.GroupSort, dict(n=3, data_format="channels_first"), (6, 4, 3)),
]


def network(case, rng):
    """A smooth function of the layer between two weights, and a batch."""
    x = rng.normal(size=(3, *case.shape))
    layer = case.make(dtype="float64")
    scale = tf.Variable(rng.normal(size=case.shape))
    layer.build((None, *case.shape))
    # Almost-orthogonal kernels start with orthogonal channels, where their formula has a kink.
    for weight in layer.trainable_variables:
        weight.assign_add(0.1 * rng.normal(size=weight.shape))
    outputs = layer.compute_output_shape((3, *case.shape))[1:]
    head = tf.constant(rng.normal(size=outputs))
    axes = list(range(1, len(outputs) + 1))

    def function(x, training):
        return tf.reduce_sum(tf.sin(layer(x * scale, training=training) * head), axes)

    return function, x, [scale, *layer.trainable_variables]


def gradient_norms(function, x, training):
    """The squared norms of the gradients of the samples, as in a penalty, and what they are of."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        values = function(x, training)
    return tf.reduce_sum(tape.gradient(values, x) ** 2)


def penalty_gradients(function, x, variables, training):
    with tf.GradientTape() as tape:
        tape.watch(x)
        penalty = gradient_norms(function, x, training)
    return tape.gradient(penalty, [x, *variables], unconnected_gradients="zero")


def check(case, is_traced, training, rng):
    """Compares the derivative in a random direction of all inputs and weights at once."""
    function, x, variables = network(case, rng)

    def derivatives(x):
        return penalty_gradients(function, x, variables, training)

    x = tf.constant(x)
    found = (tf.function(derivatives) if is_traced else derivatives)(x)
    directions = [tf.constant(rng.normal(size=gradient.shape)) for gradient in found]
    before = [tf.identity(variable) for variable in variables]
    ends = []
    for sign in (STEP, -STEP):
        for variable, value, direction in zip(variables, before, directions[1:], strict=True):
            variable.assign(value + sign * direction)
        ends.append(gradient_norms(function, x + sign * directions[0], training))
    along = sum(tf.reduce_sum(g * d) for g, d in zip(found, directions, strict=True))
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * STEP), **DIFFERENCES)


@pytest.mark.parametrize("training", [None, True], ids=["inference", "training"])
@pytest.mark.parametrize("is_traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("case", [*PATHS, *LARGE, *CHANNELS_FIRST], ids=str)
def test_activations_and_poolings(case, is_traced, training, rng):
    check(case, is_traced, training, rng)


ONE_OF_EACH = list({case.cls: case for case in LAYERS if case not in PATHS}.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", [*ONE_OF_EACH, LARGE_KERNEL], ids=str)
def test_the_other_layers(case, rng):
    check(case, False, None, rng)


@pytest.mark.parametrize("training", [None, True], ids=["inference", "training"])
@pytest.mark.parametrize("size", [4, 32], ids=["plain", "compiled"])
@pytest.mark.parametrize("cls", [layers.ScaledL2NormPooling2D, layers.ScaledGlobalL2NormPooling2D])
def test_a_window_of_zeros_has_finite_derivatives(cls, size, training):
    x = tf.zeros((2, size, size, 8))
    with tf.GradientTape() as outer:
        outer.watch(x)
        penalty = gradient_norms(lambda x, training: cls()(x, training=training), x, training)
    assert np.isfinite(outer.gradient(penalty, x)).all()


def test_a_penalty_trains_a_critic(rng):
    """The loop of WGAN-GP, as its users write it."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), layers.GroupSort2()])
    model.add(keras.layers.Dense(1))
    optimizer = keras.optimizers.Adam(0.05)
    x = tf.constant(rng.normal(size=(16, 4)), "float32")

    @tf.function
    def step():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                scores = model(x)
            norms = tf.norm(inner.gradient(scores, x), axis=1)
            penalty = tf.reduce_mean((norms - 1) ** 2)
        optimizer.apply(outer.gradient(penalty, model.trainable_variables[::2]), model.weights[::2])
        return penalty

    penalties = [float(step()) for _ in range(60)]
    assert penalties[-1] < penalties[0] / 10
