"""Large dense layers take the gradient of their kernel through the batch: it is the same one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import layers
from deel_lip_tf.normalizers import Spectral
from deel_lip_tf.normalizers.polar import dense_product
from tests._oracles.oracles import polar
from tests._oracles.tolerances import GRADIENT

SHAPES = [(9, 6), (6, 9), (7, 7)]


@pytest.fixture(autouse=True)
def small_kernels_too(monkeypatch):
    monkeypatch.setattr(dense_product, "SMALLEST_SPLIT", 2)


def gradients(function, x, kernel, upstream):
    x, kernel = tf.constant(x), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = function(x, kernel)
    return y.numpy(), *(g.numpy() for g in tape.gradient(y, [x, kernel], upstream))


@pytest.mark.parametrize("batch", [1, 4, 50])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("distance", [0.0, 0.3])
def test_the_gradient_is_that_of_the_two_factors_apart(shape, batch, distance, rng):
    """On the manifold and off it, with few samples and with many."""
    kernel = 1.7 * polar(rng.normal(size=shape)) + distance * rng.normal(size=shape)
    x = rng.normal(size=(batch, 2, shape[0]))
    upstream = rng.normal(size=(batch, 2, shape[1]))
    project = Spectral().project

    def together(x, kernel):
        return dense_product.dense_product(x, 2.5 * project(kernel), kernel, 2.5, 1e-3)

    found = gradients(tf.function(together, autograph=False), x, kernel, upstream)
    expected = gradients(lambda x, w: x @ (2.5 * project(w)), x, kernel, upstream)
    for a, b in zip(found, expected, strict=True):
        assert np.linalg.norm(a - b) <= GRADIENT * np.linalg.norm(b)


@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_bfloat16"])
def test_layers_with_and_without_it_learn_the_same(policy, rng, monkeypatch):
    x, y = rng.normal(size=(12, 8)), rng.normal(size=(12, 3))
    kernels = []
    for threshold in (2, 1000):
        monkeypatch.setattr(dense_product, "SMALLEST_SPLIT", threshold)
        keras.utils.set_random_seed(1)
        made = [layers.SpectralDense(6, k_coef_lip=2.0, dtype=policy) for _ in range(2)]
        model = keras.Sequential([keras.Input((8,)), *made, keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        kernels.append([np.asarray(layer.kernel) for layer in made])
    # Both take a kernel for orthogonal that is so up to a tenth of `eps_bjorck`.
    for a, b in zip(*kernels, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2 if "bfloat16" in policy else 1e-4)


def test_gradients_of_gradients_reach_the_kernel(rng):
    """A penalty on the gradient with respect to the inputs is a function of the kernel."""
    kernel, x = tf.constant(rng.normal(size=(5, 4))), tf.constant(rng.normal(size=(2, 5)))
    weights = tf.constant(rng.normal(size=(2, 4)))
    project = Spectral().project

    def penalty(function):
        with tf.GradientTape() as outer:
            outer.watch(kernel)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(weights * tf.tanh(function(x, kernel)))
            loss = tf.reduce_sum(inner.gradient(y, x) ** 4)
        return outer.gradient(loss, kernel).numpy()

    expected = penalty(lambda x, w: x @ project(w))
    found = penalty(lambda x, w: dense_product.dense_product(x, project(w), w, 1.0, 1e-3))
    assert np.linalg.norm(found - expected) <= GRADIENT * np.linalg.norm(expected)
