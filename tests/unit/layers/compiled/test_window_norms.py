"""The L2-norm pooling that is compiled in training: the same function, the same gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import layers
from deel_lip_tf.layers.compiled.window_norms import can_compile_norms
from tests._oracles.tolerances import SAME_FLOAT32


def value_and_gradient(function, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y.numpy(), tape.gradient(y, x, upstream).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("pool_size", "shape"), [((2, 2), (32, 32, 4)), ((3, 2), (31, 33, 5)), ((1, 4), (8, 64, 8))]
)
def test_against_numpy(pool_size, shape, dtype, rng):
    x = rng.normal(size=(3, *shape))
    x[0, :6, :6] = 0  # windows of nothing but zeros
    layer = layers.ScaledL2NormPooling2D(pool_size, k_coef_lip=1.5, dtype=dtype)
    images = tf.constant(x, dtype)
    assert can_compile_norms(images, True, "channels_last")

    rows, columns = shape[0] // pool_size[0], shape[1] // pool_size[1]
    inside = x[:, : rows * pool_size[0], : columns * pool_size[1]]
    windows = inside.reshape(3, rows, pool_size[0], columns, pool_size[1], shape[2])
    norms = np.sqrt((windows**2).sum(axis=(2, 4)))
    upstream = rng.normal(size=norms.shape)
    directions = np.divide(
        windows, norms[:, :, None, :, None], out=np.zeros_like(windows), where=windows != 0
    )
    expected = np.zeros_like(x)
    expected[:, : inside.shape[1], : inside.shape[2]] = (
        1.5 * directions * upstream[:, :, None, :, None]
    ).reshape(inside.shape)

    for training in (True, False):
        found = value_and_gradient(
            lambda x, training=training: layer(x, training=training),
            images,
            tf.constant(upstream, dtype),
        )
        np.testing.assert_allclose(found[0], 1.5 * norms, **SAME_FLOAT32)
        np.testing.assert_allclose(found[1], expected, **SAME_FLOAT32)


def test_what_is_not_compiled(rng):
    x = tf.zeros((2, 32, 32, 4))
    assert not can_compile_norms(x, None, "channels_last")
    assert not can_compile_norms(x, False, "channels_last")
    assert not can_compile_norms(x, True, "channels_first")
    assert not can_compile_norms(x[:, :8, :8], True, "channels_last")
    assert not can_compile_norms(tf.cast(x, "bfloat16"), True, "channels_last")
    assert not can_compile_norms(keras.Input((None, None, 4)), True, "channels_last")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_trains_with_batches_of_several_sizes(jit_compile, rng):
    model = keras.Sequential(
        [keras.Input((33, 32, 4)), layers.ScaledL2NormPooling2D(), layers.GroupSort2()]
    )
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x = rng.normal(size=(7, 33, 32, 4))
    before = model.evaluate(x, np.ones(7), verbose=0)
    model.fit(x, np.ones(7), batch_size=4, verbose=0)
    assert model.evaluate(x, np.ones(7), verbose=0) != before
