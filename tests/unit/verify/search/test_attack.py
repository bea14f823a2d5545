"""The search for counterexamples: it finds what there is, and returns nothing that is not one."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.verify import ball, box
from deel_lip_tf.verify.search.attack import Claims, falsify, gradient_function, search

NORMS = {"linf": np.inf, "l2": 2, "l1": 1}


def classifier(shape=(6,), classes=4, final=None, dtype="float32", seed=0):
    """A random network; convolutional for images."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape, dtype=dtype)
    x = inputs
    if len(shape) == 3:
        x = layers.Conv2D(4, 2, activation="relu", dtype=dtype)(x)
        x = layers.Flatten(dtype=dtype)(x)
    x = layers.Dense(16, "relu", dtype=dtype)(x)
    outputs = layers.Dense(classes, final, bias_initializer="random_normal", dtype=dtype)(x)
    return keras.Model(inputs, outputs)


def labels_of(model, x):
    """Labels by the model, for one output by the sign of the logit."""
    outputs = model.predict(x, verbose=0)
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1)
    sigmoid = model.layers[-1].activation is keras.activations.sigmoid
    return (outputs[:, 0] > (0.5 if sigmoid else 0.0)).astype(int)


def found(witnesses):
    return ~np.isnan(witnesses.reshape(len(witnesses), -1)).any(axis=1)


def assert_in_ball(points, x, eps, norm):
    """By NumPy alone, in long double."""
    offset = (points.astype(np.longdouble) - x.astype(np.longdouble)).reshape(len(x), -1)
    assert (np.linalg.norm(offset.astype(np.float64), NORMS[norm], axis=1) <= eps).all()
    assert points.min() >= 0 and points.max() <= 1


@pytest.mark.parametrize(
    ("shape", "classes", "final", "dtype", "norm"),
    [
        ((6,), 4, None, "float32", "linf"),
        ((6,), 4, "softmax", "float32", "l2"),
        ((6,), 4, None, "float64", "l1"),
        ((6,), 4, None, "float64", "linf"),
        ((5, 4, 2), 3, None, "float32", "linf"),
        ((5, 4, 2), 3, None, "float32", "l2"),
        ((5, 4, 2), 3, None, "float32", "l1"),
        ((6,), 1, None, "float32", "l2"),
        ((6,), 1, "sigmoid", "float32", "linf"),
    ],
)
def test_every_witness_is_one(shape, classes, final, dtype, norm, rng):
    model = classifier(shape, classes, final, dtype)
    x = rng.uniform(size=(40, *shape)).astype(dtype)
    labels = labels_of(model, x)
    eps = {"linf": 0.2, "l2": 0.6, "l1": 1.2}[norm]
    witnesses = falsify(model, x, labels, ball(x, eps, norm))
    chosen = found(witnesses)
    assert chosen.sum() >= 3, "some of these samples lie near a boundary"
    assert witnesses.dtype == dtype and witnesses.shape == x.shape
    assert_in_ball(witnesses[chosen], x[chosen], eps, norm)
    assert (labels_of(model, witnesses[chosen]) != labels[chosen]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_exact_boundary_of_a_linear_model_is_found(norm, rng):
    """The boundary is as far as the margin over the dual norm of the difference of weights."""
    weights, bias = rng.normal(size=(8, 3)), rng.normal(size=3)
    model = keras.Sequential([keras.Input((8,), dtype="float64"), layers.Dense(3, dtype="float64")])
    model.set_weights([weights, bias])
    x = rng.uniform(-1, 1, size=(30, 8))
    logits = x @ weights + bias
    labels = logits.argmax(axis=1)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    others = [[j for j in range(3) if j != label] for label in labels]
    distances = np.array(
        [
            min(
                (logits[i, t] - logits[i, j]) / np.linalg.norm(weights[:, t] - weights[:, j], dual)
                for j in others[i]
            )
            for i, t in enumerate(labels)
        ]
    )
    beyond = falsify(model, x, labels, ball(x, 1.01 * distances, norm, clip=None))
    within = falsify(model, x, labels, ball(x, 0.9999 * distances, norm, clip=None))
    assert found(beyond).all()
    assert not found(within).any()


def test_the_exact_boundary_in_a_box(rng):
    """Of a linear model in a box with fixed features: the corner decides."""
    weights = rng.normal(size=(6, 2))
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, use_bias=False)])
    model.set_weights([weights])
    lower = rng.uniform(-1, 0.5, size=(50, 6)).astype("float32").astype("float64")
    upper = lower + rng.uniform(0, 0.5, size=lower.shape) * (rng.uniform(size=lower.shape) > 0.3)
    gap = weights[:, 0] - weights[:, 1]
    smallest = np.where(gap > 0, lower, upper) @ gap
    domain = box(lower, upper)
    got = found(falsify(model, domain.center, np.zeros(50, int), domain))
    clear = np.abs(smallest) > 1e-4
    np.testing.assert_array_equal(got[clear], smallest[clear] < 0)


def test_small_domains_have_exact_witnesses_or_none():
    """Ends that float32 cannot hold are not stepped over."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[0.0, 1.0]])])
    lower, upper = np.array([[0.1]]), np.array([[0.1 + 1e-12]])
    assert float(np.float32(0.1)) != 0.1
    assert not found(falsify(model, lower, np.array([0]), box(lower, upper))).any()
    wide = falsify(model, lower, np.array([0]), box(lower, lower + 1e-7))
    assert found(wide).all() and 0.1 <= float(wide[0, 0]) <= 0.1 + 1e-7


def test_a_tie_is_no_witness(rng):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.set_weights([np.ones((3, 2)), np.zeros(2)])
    x = rng.uniform(size=(4, 3))
    assert not found(falsify(model, x, np.zeros(4, int), ball(x, 0.3))).any()


def test_saturated_probabilities_are_no_obstacle(rng):
    """Where softmax is 1 in float32 its gradient is 0; that of its logits is not."""
    weights = 300 * rng.normal(size=(4, 3))
    models = [keras.Sequential([keras.Input((4,)), layers.Dense(3, f)]) for f in (None, "softmax")]
    for model in models:
        model.set_weights([weights, np.zeros(3)])
    x = rng.uniform(size=(30, 4)).astype("float32")
    labels = labels_of(models[0], x)
    domain = ball(x, 0.2)
    by_logits, by_probabilities = (found(falsify(m, x, labels, domain)) for m in models)
    assert by_logits.sum() > 5
    np.testing.assert_array_equal(by_probabilities, by_logits)


def test_corners_of_a_small_network_are_not_better(rng):
    """Brute force over a fine grid of the box finds nothing where the search did not."""
    model = classifier((2,), 3, seed=3)
    x = rng.uniform(size=(60, 2)).astype("float32")
    labels = labels_of(model, x)
    domain = ball(x, 0.1)
    got = found(falsify(model, x, labels, domain))
    steps = np.array(list(itertools.product(np.linspace(0, 1, 41), repeat=2)))
    grid = domain.lower[:, None] + steps * (domain.upper - domain.lower)[:, None]
    outputs = model.predict(grid.reshape(-1, 2), batch_size=10000, verbose=0).astype(np.float64)
    outputs = outputs.reshape(60, -1, 3)
    own = np.take_along_axis(outputs, labels[:, None, None], axis=2)[..., 0]
    best_other = np.where(np.eye(3)[labels][:, None] == 1, -np.inf, outputs).max(axis=2)
    by_grid = (best_other - own > 1e-5).any(axis=1)
    assert by_grid.sum() >= 5
    assert (got >= by_grid).all()


def test_conjunctions(rng):
    """All rows at once, on outputs as they are."""
    model = keras.Sequential([keras.Input((2,), dtype="float64"), layers.Dense(2, dtype="float64")])
    model.set_weights([np.eye(2), np.zeros(2)])
    domain = box(np.zeros((1, 2)), np.ones((1, 2)))
    # 0.7 < y0 < 0.8 and y1 < 0.1; and one that contradicts itself.
    weights = np.array([[[-1.0, 0], [1, 0], [0, 1]], [[-1.0, 0], [1, 0], [0, 1]]])
    offsets = np.array([[0.7, -0.8, -0.1], [0.8, -0.7, -0.1]])
    points = search(model, domain, Claims(np.zeros(2, int), weights, offsets), restarts=8)
    assert found(points).tolist() == [True, False]
    assert 0.7 < points[0, 0] < 0.8 and points[0, 1] < 0.1


def test_no_time_no_descent(rng):
    model = classifier()
    x = rng.uniform(size=(10, 6)).astype("float32")
    wrong = (labels_of(model, x) + 1) % 4
    assert found(falsify(model, x, wrong, ball(x, 0.1))).all()
    assert not found(falsify(model, x, wrong, ball(x, 0.1), time_limit=1e-9)).any()


@pytest.mark.parametrize("final", [None, "softmax"])
def test_a_softmax_is_left_out_where_there_is_one(final, rng):
    """Else both questions have one graph, which is traced once."""
    model = classifier(final=final)
    same = gradient_function(model, True) is gradient_function(model, False)
    assert same == (final is None)
    x, weights = rng.normal(size=(1, 6)).astype("float32"), np.eye(4, dtype="float32")[None, :1]
    (logit, _), (own, _) = (
        gradient_function(model, drop)(keras.ops.convert_to_tensor(x), weights, np.zeros((1, 1)))
        for drop in (True, False)
    )
    np.testing.assert_allclose(own, model(x)[:, 0], rtol=1e-5)
    assert np.allclose(logit, own) == (final is None)


def test_the_model_is_not_changed_and_runs_repeat(rng):
    model = classifier()
    before = [w.numpy().copy() for w in model.weights]
    x = rng.uniform(size=(20, 6)).astype("float32")
    runs = [falsify(model, x, labels_of(model, x), ball(x, 0.2), seed=4) for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
