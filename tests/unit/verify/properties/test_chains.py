"""Local constants of chains: attacked by gradients in the ball, and smaller than by intervals."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deel_lip_tf.verify.domain import ball
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation.gradients import gradient_bounds
from deel_lip_tf.verify.properties.chains import chain_constants
from deel_lip_tf.verify.properties.gradients import node_intervals


def dense(activation):
    stack = [layers.Dense(24, activation) for _ in range(3)]
    return keras.Sequential([keras.Input((10,)), *stack, layers.Dense(3)])


def convolutional():
    stack = [layers.Conv2D(4, 3, 2, "same", activation="relu"), layers.Flatten()]
    stack += [layers.Dense(12), layers.LeakyReLU(negative_slope=0.1), layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 1)), *stack])


MODELS = {
    "relu": lambda: dense("relu"),
    "tanh": lambda: dense("tanh"),
    "gelu": lambda: dense("gelu"),
    "convolutions": convolutional,
}


def steepest(model, x, radius, rng):
    """The largest norm of a Jacobian that a random search finds in a ball."""
    best, found, spread = x[None], 0.0, radius
    for _ in range(4):
        points = x + _inside(best - x + spread * rng.normal(size=(64, *x.shape)), radius)
        with tf.GradientTape() as tape:
            inputs = tf.constant(points.astype("float32"))
            tape.watch(inputs)
            outputs = model(inputs)
        jacobian = np.asarray(tape.batch_jacobian(outputs, inputs)).reshape(64, 3, -1)
        norms = np.linalg.norm(jacobian, 2, axis=(1, 2))
        found, best, spread = max(found, norms.max()), points[[np.argmax(norms)]], spread / 4
    return found


def _inside(steps, radius):
    norms = np.linalg.norm(steps.reshape(len(steps), -1), axis=1)
    factor = np.minimum(1.0, radius / np.maximum(norms, 1e-12))
    return steps * factor.reshape(-1, *[1] * (steps.ndim - 1))


@pytest.mark.parametrize(
    "name", ["relu", *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS if n != "relu")]
)
def test_no_gradient_exceeds_the_constant(name, rng):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    program = program_of(model, model.input_shape[1:])
    x = rng.normal(size=(2, *model.input_shape[1:])).astype("float32")
    for radius in (0.1, 1.0):
        intervals = node_intervals(program, ball(x, radius, "l2", None), "crown")
        constants = chain_constants(program, intervals)
        for sample, constant in zip(x, constants, strict=True):
            assert steepest(model, sample, 0.999 * radius, rng) <= constant < np.inf
        if radius == 0.1:
            lower, upper = gradient_bounds(program, intervals, np.eye(3)[None])
            largest = np.maximum(-lower, upper).reshape(2, 3, -1)
            assert (constants < np.linalg.norm(largest, 2, axis=(1, 2))).all()


def test_of_what_is_no_chain_nothing_is_said():
    x = keras.Input((4,))
    hidden = layers.Dense(4, "relu")(x)
    residual = keras.Model(x, layers.Dense(2)(layers.Add()([x, hidden])))
    linear = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    large = keras.Sequential([keras.Input((4,)), layers.Dense(2000, "relu"), layers.Dense(2)])
    for model in (residual, linear, large):
        program = program_of(model, (4,))
        intervals = node_intervals(program, ball(np.zeros((3, 4)), 0.1, "l2", None), "crown")
        assert (chain_constants(program, intervals) == np.inf).all()
