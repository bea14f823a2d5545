"""Local Lipschitz constants: above every quotient that is found, exact where that is known."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf import bounds
from tests.unit.verify.properties.test_ranges import MODELS, network

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


def steepest(model, x, radius, norm, count=3000):
    """Largest quotient found near a sample: of pairs of points, and norms of Jacobians."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, x.size))
    if norm == "linf":
        points = rng.uniform(-1, 1, size=points.shape)
    length = np.linalg.norm(points, ORDERS[norm], axis=1, keepdims=True)
    points = x.ravel() + radius * points / np.maximum(length, 1.0)
    inputs = tf.constant(points.reshape(-1, *x.shape[1:]), model.inputs[0].dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs = tf.reshape(model(inputs), (count, -1))
        columns = tf.unstack(outputs, axis=1)
    jacobians = np.stack([tape.gradient(c, inputs).numpy() for c in columns], axis=1)
    jacobians = jacobians.reshape(count, len(columns), -1).astype(np.float64)
    norms = np.linalg.norm(jacobians, ORDERS[norm], axis=(1, 2))
    values = np.asarray(outputs, np.float64)
    first, second = rng.integers(0, count, (2, count))
    apart = np.linalg.norm(points[first] - points[second], ORDERS[norm], axis=1)
    risen = np.linalg.norm(values[first] - values[second], ORDERS[norm], axis=1)
    far = apart > 0.1 * radius
    noise = 1e-6 * abs(values).max()  # of float32
    return max(norms.max(), ((risen[far] - noise) / apart[far]).max())


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_no_quotient_exceeds_the_constant(name, norm):
    model = MODELS[name]()
    for radius in (0.01, 0.2):
        x = np.array([[0.4, -0.3]])
        (constant,) = bounds.local_lipschitz(model, x, radius, norm)
        found = steepest(model, x, radius, norm)
        assert constant >= found * (1.0 - 1e-5)
        assert constant <= bounds.lipschitz_bound(model, norm).value
        assert constant <= 3.0 * found or radius > 0.1


def test_an_image_network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).uniform(size=(2, 6, 6, 1))
    for norm in ORDERS:
        constants = bounds.local_lipschitz(model, x, 0.01, norm)
        found = [steepest(model, x[[i]], 0.01, norm, 200) for i in range(2)]
        assert (constants >= np.array(found) * (1.0 - 1e-5)).all()
        assert (constants < bounds.lipschitz_bound(model, norm).value).all()


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_exact_enumeration_of_a_small_network(norm, seed):
    """The constant of `W2 relu(W1 x)` is the largest norm over the patterns that occur.

    In a ball so small that no sign changes there is one pattern, and the constant is its norm.
    """
    rng = np.random.default_rng(seed)
    model = network(seed=seed)
    x = rng.uniform(-1, 1, size=(1, 2))
    weights = [w.astype(np.float64) for w in model.get_weights()]
    hidden, jacobian = x[0], np.eye(2)
    for kernel, bias in zip(weights[:4:2], weights[1:4:2], strict=True):
        hidden = hidden @ kernel + bias
        jacobian = (jacobian @ kernel) * (hidden > 0)
        hidden = np.maximum(hidden, 0)
    exact = np.linalg.norm((jacobian @ weights[4]).T, ORDERS[norm])
    (constant,) = bounds.local_lipschitz(model, x, 1e-7, norm)
    assert exact <= constant <= exact * (1.0 + 1e-6)


def test_all_patterns_of_a_layer():
    """With all signs open, linf and l1 are sums of the largest entries over all patterns."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5)), rng.normal(size=(5, 1))
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(5, "relu", use_bias=False),
            layers.Dense(1, use_bias=False),
        ]
    )
    model.set_weights([first, second])
    first, second = (w.astype(np.float64) for w in model.get_weights())
    patterns = [first * np.array(m) @ second for m in itertools.product((0, 1), repeat=5)]
    largest = np.abs(np.stack(patterns)).max(axis=0)[:, 0]
    (constant,) = bounds.local_lipschitz(model, [[0.0, 0.0]], 1.0, "linf")
    everywhere = bounds.lipschitz_bound(model, "linf").value
    np.testing.assert_allclose(constant, min(largest.sum(), everywhere), rtol=1e-6)


def test_layers_without_a_constant_of_their_own():
    """An exponential has no constant anywhere but one in every ball."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, "exponential")])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    with pytest.raises(ValueError, match="No Lipschitz bound is known"):
        bounds.lipschitz_bound(model)
    (constant,) = bounds.local_lipschitz(model, [[0.5]], 0.5)
    assert np.e <= constant <= np.e * (1.0 + 1e-6)


@pytest.mark.parametrize(("units", "end"), [(1, "sigmoid"), (3, "softmax")])
def test_probabilities_are_flatter_than_logits(units, end):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4, "relu"), layers.Dense(units, end)])
    x = np.array([[0.5, 0.5]])
    for norm in ORDERS:
        (constant,) = bounds.local_lipschitz(model, x, 0.1, norm)
        found = steepest(model, x, 0.1, norm)
        assert found * (1.0 - 1e-5) <= constant <= bounds.lipschitz_bound(model, norm).value


def test_one_lipschitz_networks_keep_their_constant():
    keras.utils.set_random_seed(0)
    parts = [lip.layers.SpectralDense(8), lip.layers.GroupSort2(), lip.layers.SpectralDense(1)]
    model = lip.Sequential([keras.Input((4,)), *parts])
    x = np.random.default_rng(0).uniform(size=(3, 4))
    constants = bounds.local_lipschitz(model, x, np.array([0.01, 0.5, 5.0]))
    assert (constants <= 1.0 + 1e-6).all() and (constants > 0.5).all()


def test_arguments():
    model = network()
    with pytest.raises(ValueError, match="`norm` must be one of"):
        bounds.local_lipschitz(model, [[0.0, 0.0]], 0.1, "l3")
    with pytest.raises(ValueError, match="`method` must be one of"):
        bounds.local_lipschitz(model, [[0.0, 0.0]], 0.1, method="auto")
    with pytest.raises(ValueError, match="`eps` must be"):
        bounds.local_lipschitz(model, [[0.0, 0.0]], -0.1)
