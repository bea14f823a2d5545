"""Half precision whose gradients overflow, steps without a graph, averages of kernels."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from tests._oracles.tolerances import SOUND

RNG = np.random.default_rng(3)
X = RNG.normal(size=(8, 6, 6, 2)).astype("float32")
Y = np.eye(3)[np.arange(8) % 3]


def network(kind, policy=None):
    keras.utils.set_random_seed(0)
    convolution = kind(4, 3, activation=lip.layers.GroupSort2(), dtype=policy)
    flat = [keras.layers.Flatten(), lip.layers.FrobeniusDense(3, dtype="float32")]
    return lip.Sequential([keras.Input((6, 6, 2)), convolution, *flat])


KINDS = [
    lip.layers.FrobeniusConv2D,
    pytest.param(lip.layers.SpectralConv2D, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("is_eager", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_overflow_in_half_precision_are_left_out(kind, is_eager, tf):
    """The scale begins so large that the first steps overflow, and falls until they do not."""
    model = network(kind, "mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=2**24)
    loss = lip.losses.MulticlassHKR(alpha=10.0)
    model.compile(optimizer, loss, run_eagerly=is_eager, jit_compile=False)
    before = model.get_weights()
    history = model.fit(X, Y, 4, epochs=6, verbose=0).history["loss"]
    assert float(optimizer.dynamic_scale) < 2**24
    assert np.isfinite(history).all()
    after = model.get_weights()
    assert all(np.isfinite(weight).all() for weight in after)
    assert not all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    # kernels are projected in float32, and rounded to float16 afterwards: half of 2**-10 each
    assert lip.bounds.lipschitz_bound(model).value <= 1 + 2**-10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_steps_without_a_graph_are_the_same(kind, tf):
    found = []
    for is_eager in (False, True):
        model = network(kind)
        loss = lip.losses.MulticlassHKR(alpha=10.0)
        model.compile("adam", loss, run_eagerly=is_eager, jit_compile=False)
        model.fit(X, Y, 4, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("frequency", [None, 2])
def test_averages_of_constrained_kernels_keep_the_constraint(frequency):
    """Of a layer of this library by its projection, of Keras's by `fit`, which constrains them."""
    keras.utils.set_random_seed(0)
    constraint = lip.constraints.FrobeniusConstraint()
    plain = keras.layers.Conv2D(4, 3, kernel_constraint=constraint)
    flat = [keras.layers.Flatten(), lip.layers.SpectralDense(3)]
    with pytest.warns(UserWarning, match="not a 1-Lipschitz layer"):
        model = lip.Sequential([keras.Input((6, 6, 2)), plain, *flat])
    average = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": frequency}
    loss = lip.losses.MulticlassHKR(alpha=10.0)
    model.compile(keras.optimizers.Adam(0.3, **average), loss, run_eagerly=True)
    model.fit(X, Y, 2, epochs=2, verbose=0)
    kernel = np.asarray(plain.kernel)
    np.testing.assert_allclose(kernel, constraint(kernel), atol=1e-6)
    assert lip.bounds.lipschitz_bound(model.layers[-1]).value <= SOUND
