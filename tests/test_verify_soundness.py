"""No point of a domain leaves its bounds: every layer and activation, by every method."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import verify_cases
from deel_lip_tf import verify

POINTS = 5000  # of each of two samples, for each of a hundred rows
STARTS, STEPS = 4, 8
FUNCTIONS = np.concatenate([np.eye(3), [[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]])


@pytest.fixture
def eagerly():
    """Without traces: these models are tiny, and each would be traced for every method."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def with_head(row):
    """The row, an activation, and a dense head: what is nonlinear lies inside."""
    inputs = keras.Input(row.shape, dtype="float64")
    hidden = layers.Flatten(dtype="float64")(row.apply(inputs))
    hidden = layers.Dense(4, activation="relu", dtype="float64")(hidden)
    model = keras.Model(inputs, layers.Dense(3, dtype="float64")(hidden))
    verify_cases.randomize(model, 0.5)
    return model


def values(model, x):
    """Outputs at (count, n, *shape) points, by Keras itself."""
    flat = model(x.reshape(-1, *x.shape[2:]), training=False)
    return np.asarray(flat).reshape(*x.shape[:2], *flat.shape[1:])


def descended(model, domain):
    """Ends of projected gradient searches for the smallest and the largest of each output."""
    outputs = model.outputs[0].shape[-1]
    x = verify_cases.points(domain, 2 * outputs * STARTS, seed=1)
    signs = tf.repeat(tf.concat([np.eye(outputs), -np.eye(outputs)], 0), STARTS, axis=0)
    signs = tf.repeat(signs, len(domain), axis=0)
    width = (domain.upper - domain.lower)[None]
    for step in range(STEPS):
        point = tf.constant(x.reshape(-1, *x.shape[2:]))
        with tf.GradientTape() as tape:
            tape.watch(point)
            output = tf.reduce_sum(signs * model(point, training=False))
        slope = np.asarray(tape.gradient(output, point)).reshape(x.shape)
        x = verify_cases.project(domain, x - 0.5 * 0.7**step * width * np.sign(slope))
    return x


def ends(row, model, domain, count):
    """Smallest and largest of `FUNCTIONS` found on each domain, (n, functions)."""
    x = verify_cases.points(domain, count)
    if "groups" not in row.name:  # TensorFlow has no gradient of these on a CPU
        x = np.concatenate([x, descended(model, domain)])
    found = values(model, x) @ FUNCTIONS.T
    return found.min(axis=0), found.max(axis=0)


def check(model, domain, method, least, most):
    bounds = verify.bounds(model, domain, FUNCTIONS, method)
    assert not np.isnan(bounds.lower).any(), method
    assert (bounds.lower <= least).all(), method
    assert (bounds.upper >= most).all(), method
    # They say something, unless the layer has no Lipschitz constant.
    assert np.isfinite(bounds.lower).all() or method == "lipschitz", method
    assert (bounds.lower <= bounds.upper).all(), method


@pytest.mark.parametrize("row", verify_cases.ROWS, ids=str)
def test_no_point_of_a_box_leaves_the_bounds(row, eagerly):
    model, domain = with_head(row), verify_cases.domains(row.shape)["box"]
    least, most = ends(row, model, domain, POINTS)
    for method in verify_cases.METHODS:
        check(model, domain, method, least, most)


def test_the_table_is_large_enough():
    assert POINTS * 2 * len(verify_cases.ROWS) >= 1_000_000


BALLS = [
    row
    for row in verify_cases.ROWS
    if str(row).startswith(("Dense(units=4", "residual", "GroupSort2", "ScaledL2NormPooling2D"))
]


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
@pytest.mark.parametrize("row", BALLS, ids=str)
def test_no_point_of_a_ball_leaves_the_bounds(row, kind, eagerly):
    model, domain = with_head(row), verify_cases.domains(row.shape)[kind]
    least, most = ends(row, model, domain, POINTS)
    for method in verify_cases.METHODS:
        check(model, domain, method, least, most)


@pytest.mark.parametrize("row", verify_cases.ROWS[::17], ids=str)
def test_no_layer_leaves_its_bounds(row, eagerly):
    model, domain = with_head(row), verify_cases.domains(row.shape)["box"]
    x = verify_cases.points(domain, 500)
    for method in verify_cases.METHODS:
        layers_of = verify.bounds(model, domain, method=method, per_layer=True).layers
        for layer in model.layers[1:]:
            if isinstance(layer, keras.layers.Layer) and layer.name in layers_of:
                found = values(keras.Model(model.inputs, layer.output), x)
                low, high = layers_of[layer.name]
                assert (low <= found).all() and (high >= found).all(), (method, layer.name)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_scales_change_nothing(scale, eagerly):
    row = verify_cases.ACTIVATION_LAYERS[0]
    model, domain = with_head(row), verify_cases.domains(row.shape, scale=scale)["box"]
    least, most = ends(row, model, domain, POINTS)
    for method in verify_cases.METHODS:
        check(model, domain, method, least, most)


@pytest.mark.parametrize("method", list(verify_cases.METHODS))
def test_a_point_is_bounded_by_its_value(method, eagerly):
    row = verify_cases.ROWS[0]
    model, x = with_head(row), np.random.default_rng(0).normal(size=(3, *row.shape))
    bounds = verify.bounds(model, verify.ball(x, 0.0, clip=None), method=method)
    expected = np.asarray(model(x))
    assert (bounds.lower <= expected).all() and (bounds.upper >= expected).all()
    np.testing.assert_allclose(bounds.upper, bounds.lower, rtol=0, atol=1e-9)
