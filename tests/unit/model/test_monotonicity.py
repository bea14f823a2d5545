"""Networks that grow: trained on what falls, judged by pairs of points and by `verify.monotone`."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.constraints import AbsoluteSumConstraint, apply_constraints

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

RNG = np.random.default_rng(11)
X = RNG.uniform(-3, 3, size=(256, 3)).astype("float32")
# Falls with the first feature and the third, and grows with the second.
Y = (2.0 * X @ [[-1.0], [1.0], [-1.0]]).astype("float32")
# Differences of two float32 outputs of order ten.
NOISE = 1e-5


def limited(outputs=1):
    options = dict(kernel_constraint=AbsoluteSumConstraint())
    layers = []
    for units in (16, 16):
        layers += [keras.layers.Dense(units, **options), lip.layers.GroupSort2()]
    network = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(outputs, **options)])
    apply_constraints(network)
    return network


@pytest.fixture(scope="module")
def trained():
    """As well as it may, to fall with the first feature, which it must not."""
    keras.utils.set_random_seed(0)
    model = lip.model.monotonic(limited(), ["increasing", -1, 0])
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=64, epochs=10, verbose=0)
    return model


def steepest(model, feature, sign):
    """The largest step in the wrong direction, over pairs that differ in one feature."""
    first, second = X.copy(), X.copy()
    first[:, feature] -= RNG.uniform(0.0, 3.0, len(X))
    second[:, feature] += RNG.uniform(0.0, 3.0, len(X))
    steps = np.asarray(model(second)) - np.asarray(model(first))
    return float((-sign * steps).max())


def test_no_pair_of_points_contradicts(trained):
    assert steepest(trained, 0, 1.0) <= NOISE
    assert steepest(trained, 1, -1.0) <= NOISE
    assert steepest(trained, 2, 1.0) > 0.5


def test_it_is_proven_on_a_large_box(trained, tf):
    domain = lip.verify.box([[-50.0] * 3], [[50.0] * 3])
    found = [lip.verify.monotone(trained, i, domain, i == 0).status[0] for i in (0, 1)]
    assert found == ["proven", "proven"]


def test_the_constant_is_proven_everywhere(trained):
    network = trained.layers[1]
    assert lip.bounds.lipschitz_bound(network, norm="l1").value <= 1.0


def test_the_slopes_are_the_signs_and_stay():
    model = lip.model.monotonic(limited(outputs=2), [1, "decreasing", "none"], k_coef_lip=0.5)
    slopes = model.get_layer("slopes").kernel
    np.testing.assert_array_equal(slopes, [[0.5, 0.5], [-0.5, -0.5], [0.0, 0.0]])
    assert all(weight is not slopes for weight in model.trainable_weights)


def test_it_is_saved_with_what_it_keeps(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(loaded(X)), np.asarray(trained(X)))
    assert isinstance(loaded.layers[1].layers[0].kernel_constraint, AbsoluteSumConstraint)


WRONG = {
    "a feature too few": ([1, 0], 1.0, "each of the 3 features"),
    "a sign of 2": ([1, 2, 0], 1.0, "`monotonicities` must hold 1, 0, -1"),
    "a flag": ([1, True, 0], 1.0, "`monotonicities` must hold 1, 0, -1"),
    "a word": ([1, "up", 0], 1.0, "`monotonicities` must hold 1, 0, -1"),
    "a constant": ([1, 0, 0], 0.0, "`k_coef_lip` must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_out_of_range_are_named(name):
    monotonicities, constant, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        lip.model.monotonic(limited(), monotonicities, constant)


def test_networks_of_images_are_refused():
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="`network` must map vectors to vectors"):
        lip.model.monotonic(network, [1])
