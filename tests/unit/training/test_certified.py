"""`CertifiedModel`: its loss against NumPy, what `verify` proves of it, saving and going on."""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.training import CertifiedModel, Ramp
from tests.unit.training import test_bounds as networks
from tests.unit.training.test_bounds import dense_network, layerwise, vertices

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

RNG = np.random.default_rng(7)
X = RNG.normal(size=(16, 3))
Y = RNG.integers(0, 3, 16)
# Keras takes the mean of losses in float32.
FLOAT32 = 1e-6

SPARSE = keras.losses.SparseCategoricalCrossentropy


@pytest.fixture(autouse=True)
def same_networks():
    """Whichever tests ran before."""
    networks.RNG = np.random.default_rng(3)


def compiled(model, loss=None, **arguments):
    certified = CertifiedModel(model, **{"epsilon": 0.2, **arguments})
    certified.compile(
        keras.optimizers.SGD(0.05),
        loss or SPARSE(from_logits=True, dtype="float64"),
        jit_compile=False,
    )
    return certified


def logits_of(model, x):
    *hidden, (kernel, bias) = [layer.get_weights() for layer in model.layers]
    for matrix, shift in hidden:
        x = np.maximum(x @ matrix + shift, 0.0)
    return x @ kernel + bias


def cross_entropy(logits, labels):
    largest = logits.max(axis=1)
    log_sums = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return np.mean(log_sums - logits[np.arange(len(labels)), labels])


def worst_margins(model, x, radius, clip=None):
    """(n, classes) by corners, layer by layer."""
    low, high = x - radius, x + radius
    if clip is not None:
        low, high = (
            np.minimum(np.maximum(low, clip[0]), x),
            np.maximum(np.minimum(high, clip[1]), x),
        )
    rows = [np.eye(3)[label] - np.eye(3) for label in Y[: len(x)]]
    ends = zip(low, high, rows, strict=True)
    return np.array([layerwise(model, a, b, row) for a, b, row in ends])


@pytest.mark.parametrize("clip", [None, (-0.8, 0.5)])
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_that_of_the_worst_case(training, clip):
    model = dense_network((4, 5, 3))
    certified = compiled(model, kappa=0.3, growth=0.5, clip=clip)
    margins = worst_margins(model, X, 0.2 * (0.5 if training else 1.0), clip)
    expected = 0.3 * cross_entropy(logits_of(model, X), Y) + 0.7 * cross_entropy(-margins, Y)
    found = certified.compute_loss(X, Y, model(X), training=training)
    assert float(found) == pytest.approx(expected, rel=FLOAT32)
    is_verified = (margins > 0).sum(axis=1) == 2
    assert float(certified.verified_accuracy.result()) == pytest.approx(is_verified.mean())


def test_a_label_that_is_no_class_is_not_verified():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, dtype="float64")])
    model.set_weights([np.zeros((3, 3)), -np.ones(3)])  # every logit is negative
    certified = CertifiedModel(model, 0.1)
    certified.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    certified.compute_loss(X[:2], np.array([[0, 0, 0], [1, 1, 0]]), model(X[:2]))
    assert float(certified.verified_accuracy.result()) == 0.0


ENDS = {
    "softmax, one-hot": (
        [layers.Dense(3, "softmax", dtype="float64")],
        keras.losses.CategoricalCrossentropy(dtype="float64"),
        np.eye(3)[Y],
    ),
    "softmax, a layer": (
        [layers.Dense(3, dtype="float64"), layers.Softmax(dtype="float64")],
        SPARSE(dtype="float64"),
        Y[:, None],
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_encodings_and_ends_do_not_matter(end):
    parts, loss, y = ENDS[end]
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(3, dtype="float64")])
    ended = keras.Sequential([keras.Input((3,)), *parts])
    ended.set_weights(plain.get_weights())
    expected = compiled(plain).compute_loss(X, Y, plain(X))
    found = compiled(ended, loss).compute_loss(X, y, ended(X))
    assert float(found) == pytest.approx(float(expected), rel=FLOAT32)


@pytest.mark.parametrize("signs", [(0, 1), (-1, 1)])
def test_a_single_output(signs):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, "sigmoid", dtype="float64")])
    y = np.array(signs)[(X[:, :1] > 0).astype(int)]
    certified = compiled(model, lambda y, p: -keras.ops.log(keras.ops.where(y > 0, p, 1.0 - p)))
    kernel, bias = model.get_weights()
    sign = np.where(y > 0, 1.0, -1.0)
    natural = sign * (X @ kernel + bias)
    worst = natural - 0.2 * np.abs(kernel).sum()
    expected = np.mean([np.log1p(np.exp(-margin)) for margin in (natural, worst)])
    assert float(certified.compute_loss(X, y, model(X))) == pytest.approx(expected, rel=FLOAT32)


def test_a_smoothed_label_of_a_single_output_is_the_class_that_it_is_nearer_to():
    """0.1 was class 1, as all that is positive; NaN was class 0."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, dtype="float64")])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    certified = compiled(model, lambda y, p: p)
    for label, verified in ((0.1, 0.0), (0.9, 1.0), (1.0, 1.0), (-1.0, 0.0), (np.nan, 0.0)):
        certified.verified_accuracy.reset_state()
        certified.compute_loss(np.ones((1, 1)), np.array([[label]]), np.ones((1, 1)))
        assert float(certified.verified_accuracy.result()) == verified
    certified.verified_accuracy.reset_state()
    certified.compute_loss(-np.ones((1, 1)), np.array([[np.nan]]), np.ones((1, 1)))
    assert float(certified.verified_accuracy.result()) == 0.0


def test_statistics_are_those_that_the_model_was_adapted_to_last():
    """They were those of when it was wrapped."""
    normalization = layers.Normalization()
    normalization.adapt(np.array([[0.0], [2.0]]))
    model = keras.Sequential([keras.Input((1,)), normalization, layers.Dense(1)])
    model.layers[-1].set_weights([np.ones((1, 1)), -np.ones(1)])
    certified = CertifiedModel(model, 0.1)
    certified.compile("sgd", keras.losses.MeanSquaredError(), run_eagerly=True)
    x, shares = np.array([[4.0]], "float32"), []
    for statistics in ([[0.0], [2.0]], [[0.0], [20.0]]):
        normalization.adapt(np.array(statistics))
        found = certified.evaluate(x, np.ones((1, 1)), verbose=0, return_dict=True)
        shares.append((found["verified_accuracy"], float(model(x)[0, 0]) > 0.0))
    assert shares == [(1.0, True), (0.0, False)]


def test_an_attacked_point_is_worse_and_no_worse_than_the_bounds():
    model = dense_network((8, 3))
    certified = compiled(model, kappa=1.0, attack_steps=4)
    attacked = float(certified.compute_loss(X, Y, model(X)))
    assert cross_entropy(logits_of(model, X), Y) < attacked
    assert attacked < cross_entropy(-worst_margins(model, X, 0.2), Y)


CENTERS = np.array([[-0.6, 0.0], [0.6, 0.0]], "float32")[np.arange(64) % 2]
SIDES = np.arange(64) % 2


def trainable():
    kernel = lip.initializers.IBPInitializer(seed=3)
    dense = layers.Dense(8, "relu", kernel_initializer=kernel, kernel_regularizer="l2")
    parts = [dense, layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(2)]
    return keras.Sequential([keras.Input((2,)), *parts])


METHODS = [
    pytest.param(dict(kappa=Ramp(1.0, 0.5, 20)), id="IBP"),
    pytest.param(dict(kappa=0.0, beta=Ramp(1.0, 0.0, 20)), id="CROWN-IBP", marks=pytest.mark.slow),
    pytest.param(dict(kappa=0.5, attack_steps=2), id="MTL-IBP", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_is_proven(method, tf):
    model = trainable()
    certified = CertifiedModel(model, 0.5, growth=Ramp(0, 1, 20), **method)
    certified.compile(
        keras.optimizers.Adam(0.05),
        SPARSE(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    certified.fit(CENTERS, SIDES, 16, 10, verbose=0)
    found = certified.evaluate(CENTERS, SIDES, verbose=0, return_dict=True)
    assert found["verified_accuracy"] == 1.0 == found["accuracy"]
    answer = lip.verify.robustness(model, CENTERS[:2], SIDES[:2], 0.5, clip=None, method="ibp")
    assert answer.status.tolist() == ["robust", "robust"]


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_metric_counts_no_sample_that_a_corner_refutes(beta):
    model = dense_network((6, 3))
    y = logits_of(model, X).argmax(axis=-1)
    found = []
    for radius in (0.02, 0.2, 0.8):
        certified = compiled(model, epsilon=radius, beta=beta)
        certified.compute_loss(X, y, model(X), training=False)
        found.append(float(certified.verified_accuracy.result()))
        corners = np.array([vertices(x - radius, x + radius) for x in X])
        labels = logits_of(model, corners).argmax(axis=-1)
        assert found[-1] <= np.mean((labels == y[:, None]).all(axis=1)) + FLOAT32
    assert found[0] > found[2]


def test_the_metric_counts_no_more_than_verify_proves(tf):
    model = dense_network((6, 3))
    y = logits_of(model, X).argmax(axis=-1)
    certified = compiled(model)
    certified.compute_loss(X, y, model(X), training=False)
    answer = lip.verify.robustness(model, X, y, 0.2, clip=None, method="ibp")
    proven = np.mean(answer.status == "robust")
    assert 0.0 < float(certified.verified_accuracy.result()) <= proven + FLOAT32


def train(certified, epochs):
    certified.fit(CENTERS, SIDES, 16, epochs, shuffle=False, verbose=0)


def test_training_goes_on_where_a_file_ends(tmp_path):
    """Schedules, batch statistics and the optimizer, after two of four epochs."""
    model = trainable()
    model.layers[2].rate = 0.0  # two processes draw other masks
    start = model.get_weights()
    settings = dict(
        epsilon=0.5, growth=Ramp(0, 1, 12), kappa=Ramp(1, 0, 15), clip=(-1, 1), name="c"
    )
    certified = CertifiedModel(model, **settings)
    certified.compile(keras.optimizers.Adam(0.05), SPARSE(from_logits=True), jit_compile=False)
    train(certified, 4)
    expected, steps = model.get_weights(), int(certified.steps)

    again = keras.Sequential.from_config(model.get_config())
    again.set_weights(start)
    first = CertifiedModel(again, **settings)
    first.compile(keras.optimizers.Adam(0.05), SPARSE(from_logits=True), jit_compile=False)
    train(first, 2)
    first.save(tmp_path / "half.keras")
    second = keras.saving.load_model(tmp_path / "half.keras")
    described = [{**one.get_config(), "model": 0, "name": 0} for one in (first, second)]
    assert described[0] == described[1]
    train(second, 2)
    assert int(second.steps) == steps == 16
    for found, wanted in zip(second.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_model_is_a_plain_one(tmp_path):
    model = trainable()
    certified = CertifiedModel(model, 0.1)
    np.testing.assert_array_equal(certified(CENTERS), model(CENTERS))
    model.save(tmp_path / "plain.keras")
    assert type(keras.saving.load_model(tmp_path / "plain.keras")) is keras.Sequential


def test_constrained_kernels_are_followed():
    """Of a constrained layer the effective kernel is bounded, and the raw one is trained."""
    constrained = lip.layers.FrobeniusDense(4, activation="relu"), lip.layers.FrobeniusDense(3)
    model = keras.Sequential([keras.Input((3,)), *constrained])
    certified = compiled(model, SPARSE(from_logits=True), kappa=0.0)
    exported = keras.Sequential([keras.Input((3,)), *(x.vanilla_export() for x in constrained)])
    plain = compiled(exported, SPARSE(from_logits=True), kappa=0.0)
    losses = [float(one.compute_loss(X, Y, one(X), training=False)) for one in (certified, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    before = model.get_weights()[0]
    certified.fit(X.astype("float32"), Y, epochs=1, verbose=0)
    assert np.abs(model.get_weights()[0] - before).max() > 0.0


WRONG = {
    "epsilon": dict(epsilon=0.0),
    "growth": dict(growth=1.5),
    "kappa": dict(kappa=-0.1),
    "beta": dict(beta=np.nan),
    "attack_steps": dict(attack_steps=-1),
    "clip": dict(clip=(1.0, 0.0)),
}


@pytest.mark.parametrize("clip", [3, "ab", (None, 1.0), (0.0,), (0.0, 1.0, 2.0), (np.nan, 1.0)])
def test_a_range_is_a_pair_of_numbers(clip):
    with pytest.raises(ValueError, match="`clip` must be the smallest"):
        CertifiedModel(dense_network(), 0.1, clip=clip)


@pytest.mark.parametrize("name", WRONG)
def test_arguments_out_of_range_are_named(name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        CertifiedModel(dense_network(), **{"epsilon": 0.1, **WRONG[name]})


def test_only_models_are_trained():
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        CertifiedModel(layers.Dense(2), 0.1)
