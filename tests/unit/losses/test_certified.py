"""Losses for certified training: extremes, what gradients flow through, and what training gains."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import layers, losses
from deel_lip_tf.losses import formulas
from deel_lip_tf.model import gap_constants
from tests._oracles.loss_oracles import emma_of, gloro_of, value_and_gradient

RNG = np.random.default_rng(11)
CLASSES = RNG.integers(0, 3, 20)
SCORES = RNG.normal(size=(20, 3))
DIVISORS = RNG.uniform(0.2, 2.0, size=(3, 3))
DIVISORS = DIVISORS + DIVISORS.T
np.fill_diagonal(DIVISORS, 1.0)  # the gap of a class with itself is 0 whatever stands there

# float32 sums of about a hundred terms of order one
FLOAT32 = 1e-5
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# --- extremes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e6, 1e30, 1e37])
@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 5.0])
def test_no_logits_and_no_temperature_are_too_large_or_too_small(scale, temperature, beta):
    loss = losses.LogitAnnealing(0.5, temperature, beta, reduction=None)
    scores = (scale * SCORES).astype("float32")
    values, slopes = value_and_gradient(lambda f: loss(CLASSES, f), scores)
    assert np.isfinite(values).all() and np.isfinite(slopes).all()
    assert (values >= 0).all()


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_a_small_temperature_leaves_the_hinge(beta):
    lead = np.array([[2.0, -1.0], [0.25, -1.0], [-3.0, -4.0]])  # of class 0
    scores = np.concatenate([np.zeros((3, 1)), -lead], axis=1)
    loss = losses.LogitAnnealing(0.5, 1e-20, beta, reduction=None)
    expected = np.maximum(0.0, 0.5 - lead.min(axis=1))
    np.testing.assert_allclose(loss(np.zeros(3, "int32"), scores), expected, rtol=1e-6)


def test_nothing_cancels_where_the_lead_is_large():
    """Of a lead of 50 softmax is 1 in float64; the loss is exp(-50), its slope as well."""
    loss = losses.OffsetCrossentropy(0.0, 1.0, dtype="float64")
    value, slope = value_and_gradient(lambda f: loss([0], f), np.array([[50.0, 0.0]]))
    assert value == pytest.approx(np.exp(-50.0), rel=1e-12)
    np.testing.assert_allclose(slope, [[-np.exp(-50.0), np.exp(-50.0)]], rtol=1e-12)


def test_an_index_that_is_no_class_makes_the_loss_nan():
    for make, label in itertools.product(
        (losses.OffsetCrossentropy, losses.LogitAnnealing, losses.EMMA, losses.GloRo),
        (3, -1, 0.5),
    ):
        arguments = (
            {} if make in (losses.OffsetCrossentropy, losses.LogitAnnealing) else {"radius": 1}
        )
        values = make(reduction=None, **arguments)(np.array([label, 1]), SCORES[:2])
        np.testing.assert_array_equal(np.isnan(values), [True, False])


# --- constants of the gaps ----------------------------------------------------------------------


def test_values_with_a_constant_for_each_gap():
    emma = formulas.emma(CLASSES, SCORES, 0.4, DIVISORS)
    assert np.mean(np.asarray(emma)) == pytest.approx(
        emma_of(CLASSES, SCORES, radius=0.4, divisors=DIVISORS)
    )
    for trades in (None, 1.5):
        gloro = formulas.gloro(CLASSES, SCORES, 0.4, DIVISORS, trades)
        expected = gloro_of(CLASSES, SCORES, radius=0.4, divisors=DIVISORS, trades=trades)
        assert np.mean(np.asarray(gloro)) == pytest.approx(expected)


def test_the_two_forms_of_gloro_are_one_at_weight_1():
    loss = losses.GloRo(0.4, dtype="float64", reduction=None)
    other = losses.GloRo(0.4, trades=1.0, dtype="float64", reduction=None)
    np.testing.assert_allclose(loss(CLASSES, SCORES), other(CLASSES, SCORES), rtol=1e-12)


def emma_with_ratio_of(y, f, radius, divisors, fixed):
    """The cross-entropy of EMMA, its ratio computed from other scores and constants."""
    total = 0.0
    for label, scores, given in zip(y, f, fixed[0], strict=True):
        reach = radius * divisors[label]
        ratio = np.clip((given[label] - given) / (radius * fixed[1][label]), 0.01, 1.0)
        moved = scores - scores[label] + ratio * reach
        moved[label] = 0.0
        total += np.log(np.exp(moved).sum())
    return total / len(y)


def test_the_gradient_of_emma_is_that_for_a_fixed_ratio(tf):
    scores, divisors = tf.constant(SCORES), tf.constant(DIVISORS)
    with tf.GradientTape() as tape:
        tape.watch([scores, divisors])
        total = tf.reduce_mean(formulas.emma(CLASSES, scores, 0.4, divisors))
    slopes = [tf.convert_to_tensor(slope) for slope in tape.gradient(total, [scores, divisors])]
    for which, (array, slope) in enumerate(zip((SCORES, DIVISORS), slopes, strict=True)):
        for place in np.ndindex(*array.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [SCORES.copy(), DIVISORS.copy()]
                moved[which][place] += step
                ends.append(
                    emma_with_ratio_of(CLASSES, *(moved[0], 0.4, moved[1]), (SCORES, DIVISORS))
                )
            expected = (ends[0] - ends[1]) / 2e-6
            assert np.asarray(slope)[place] == pytest.approx(expected, abs=1e-8)


def chain(*of, shape=(6,), make=keras.Sequential):
    keras.utils.set_random_seed(5)
    model = make([keras.Input(shape), *of])
    for layer in model.layers:
        for weight in layer.trainable_variables:
            weight.assign(RNG.normal(size=weight.shape))
    return model


K = keras.layers
# How many times the proven constants the measured ones may be: Gram iteration stops at n^(1/64) for
# n equal singular values, and the kernel of a convolution is bounded as a matrix of patches.
CHAINS = {
    "dense": (lambda: chain(K.Dense(9, activation="relu"), K.Dense(3)), 1.02),
    "no head": (lambda: chain(K.Dense(9), K.Dense(3, activation="tanh")), 1.05),
    "orthogonal": (lambda: chain(layers.SpectralDense(9), layers.SpectralDense(3)), 1.001),
    "wide": (lambda: chain(layers.SpectralDense(2), layers.SpectralDense(3)), 1.001),
    "by output": (lambda: chain(layers.FrobeniusDense(9), layers.FrobeniusDense(3)), 1.03),
    "doubled": (lambda: chain(layers.SpectralDense(9, k_coef_lip=2.0), K.Dense(3)), 1.001),
    "convolutions": (
        lambda: chain(
            *(K.Conv2D(4, 3, padding="same"), K.ReLU(), K.Conv2D(4, 3, strides=2)),
            *(K.Flatten(), K.Dropout(0.5), K.Dense(3)),
            shape=(8, 8, 2),
        ),
        6.0,
    ),
}


@pytest.fixture
def by_product(monkeypatch):
    """What is proven by the product of norms alone, which is what is measured in a step."""
    for module in ("deel_lip_tf.bounds.propagation", "deel_lip_tf.certificates.proofs"):
        monkeypatch.setattr(f"{module}.find_chains", lambda *_: {})
    monkeypatch.setattr("deel_lip_tf.certificates.proofs.find_tail", lambda _: None)


@pytest.mark.parametrize("name", CHAINS)
def test_measured_constants_are_not_below_the_proven_ones(name, by_product):
    make, slack = CHAINS[name]
    model = make()
    proven = lip.certificates.class_divisors(model)
    found = np.broadcast_to(gap_constants(model), (3, 3))
    apart = ~np.eye(3, dtype=bool)
    ratio = found[apart] / proven[apart]
    # the proven ones are rounded upward, by less than this
    assert ratio.min() >= 1 - 1e-5 and ratio.max() <= slack


def test_gradients_flow_to_every_kernel_that_is_free(tf):
    model = CHAINS["convolutions"][0]()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(gap_constants(model))
    kernels = [weight for weight in model.trainable_variables if len(weight.shape) > 1]
    for kernel, slope in zip(kernels, tape.gradient(total, kernels), strict=True):
        assert np.isfinite(slope).all() and np.abs(slope).max() > 0, kernel.path


def residual():
    inputs = keras.Input((6,))
    return keras.Model(inputs, K.Dense(3)(K.Add()([inputs, K.Dense(6)(inputs)])))


REFUSED = {
    "a chain": residual,
    "Received: layer 'norm' of type LayerNormalization": lambda: chain(
        K.LayerNormalization(name="norm"), K.Dense(3)
    ),
    "Received: layer 'batch' of type BatchNormalization": lambda: chain(
        K.BatchNormalization(name="batch"), K.Dense(3)
    ),
    "Received: layer 'slopes' of type PReLU": lambda: chain(
        K.Dense(4, activation=K.PReLU(name="slopes")), K.Dense(3)
    ),
    "Received: layer 'grouped'": lambda: chain(
        K.Conv2D(4, 3, groups=2, name="grouped"), K.Flatten(), K.Dense(3), shape=(6, 6, 2)
    ),
    "Received: layer 'exp'": lambda: chain(
        K.Dense(4, activation="exponential", name="exp"), K.Dense(3)
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_models_that_cannot_be_measured_are_named(words):
    with pytest.raises(ValueError, match=words):
        gap_constants(REFUSED[words]())


def test_a_loss_that_has_nothing_to_measure_says_so():
    loss = losses.EMMA(0.1, "measured")
    with pytest.raises(ValueError, match="has none: compile it in a model of this library"):
        loss(CLASSES, SCORES)
    loss.attach(lambda: DIVISORS)
    expected = emma_of(CLASSES, SCORES, radius=0.1, divisors=DIVISORS)
    assert float(loss(CLASSES, SCORES)) == pytest.approx(expected, rel=FLOAT32)


@pytest.mark.filterwarnings("ignore:Sequential model contains a layer")
@pytest.mark.parametrize("make", [losses.EMMA, losses.GloRo])
def test_measured_constants_are_those_of_the_model_as_it_is(make, tmp_path, by_product):
    """In a step already traced, after the weights have changed, and after reloading."""
    model = chain(K.Dense(5, activation="relu"), K.Dense(3), make=lip.Sequential)
    model.compile(keras.optimizers.SGD(0.0), make(0.1, "measured"))
    x = RNG.normal(size=(20, 6)).astype("float32")
    oracle = {losses.EMMA: emma_of, losses.GloRo: gloro_of}[make]
    for factor in (0.3, 2.0):
        model.layers[0].kernel.assign(factor * model.layers[0].kernel)
        proven = lip.certificates.class_divisors(model)
        expected = oracle(CLASSES, model.predict(x, verbose=0), radius=0.1, divisors=proven)
        found = model.fit(x, CLASSES, batch_size=20, verbose=0).history["loss"]
        assert found == pytest.approx([expected], rel=0.02)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.loss.lipschitz == "measured"
    assert loaded.evaluate(x, CLASSES, verbose=0) == model.evaluate(x, CLASSES, verbose=0)


@pytest.mark.filterwarnings("ignore:Model model contains a layer")
def test_a_plain_model_is_measured_and_a_loss_may_be_a_metric():
    model, loss = CHAINS["dense"][0](), losses.EMMA(0.1, "measured")
    loss.attach(lambda: gap_constants(model))
    model.compile("sgd", loss)
    x = RNG.normal(size=(20, 6)).astype("float32")
    expected = model.evaluate(x, CLASSES, verbose=0)
    inputs = keras.Input((6,))
    ours = lip.Model(inputs, model(inputs))
    ours.compile("sgd", CROSSENTROPY, metrics=[losses.EMMA(0.1, "measured", name="emma")])
    report = ours.evaluate(x, CLASSES, verbose=0, return_dict=True)
    assert report["emma"] == pytest.approx(expected, rel=FLOAT32)


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16"])
def test_measured_constants_of_other_types(policy, by_product):
    model = chain(K.Dense(5, dtype=policy), layers.FrobeniusDense(4), K.Dense(3, dtype=policy))
    proven = lip.certificates.class_divisors(model)
    loss = losses.GloRo(0.1, "measured")
    loss.attach(lambda: gap_constants(model))
    model.compile(keras.optimizers.SGD(0.0), loss)
    x = RNG.normal(size=(20, 6)).astype("float32")
    expected = gloro_of(CLASSES, np.asarray(model(x), "float64"), radius=0.1, divisors=proven)
    history = model.fit(x, CLASSES, batch_size=20, verbose=0).history
    assert history["loss"] == pytest.approx([expected], rel=0.02)


# --- training -----------------------------------------------------------------------------------

RADIUS = 0.05
POINTS = RNG.uniform(-1, 1, size=(400, 2)).astype("float32")
SIDES = (np.sin(4 * POINTS[:, 0]) / 2 > POINTS[:, 1]).astype("int32")
SIDES += (POINTS[:, 0] > 0.6).astype("int32")


@functools.cache
def certified_after_training(make, loss, radius, *callbacks):
    """Share of the samples whose labels are proven in the ball of this radius."""
    keras.utils.set_random_seed(1)
    model = lip.Sequential([keras.Input((2,)), make(24), layers.GroupSort2(), make(24)])
    model.add(layers.GroupSort2())
    model.add(make(3))
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(POINTS, SIDES, batch_size=40, epochs=12, verbose=0, callbacks=list(callbacks))
    return lip.certificates.certify(model, POINTS, SIDES).certified_accuracy([radius])[0]


# the gap of two logits changes by at most sqrt(2) per unit
REACH = math.sqrt(2) * RADIUS
OF_1_LIPSCHITZ = [
    losses.OffsetCrossentropy(REACH, 0.1),
    pytest.param(losses.LogitAnnealing(2 * REACH, 0.05, 2.0), marks=pytest.mark.slow),
    losses.EMMA(RADIUS, temperature=0.05),
]


@pytest.mark.parametrize("loss", OF_1_LIPSCHITZ, ids=lambda loss: loss.name)
def test_more_is_certified_than_after_the_crossentropy(loss):
    plain = certified_after_training(layers.SpectralDense, CROSSENTROPY, RADIUS)
    # .765 against .89
    assert certified_after_training(layers.SpectralDense, loss, RADIUS) > plain + 0.05


@pytest.mark.filterwarnings("ignore:Sequential model contains a layer")
@pytest.mark.parametrize("make", [losses.EMMA, pytest.param(losses.GloRo, marks=pytest.mark.slow)])
def test_networks_without_constraint_learn_a_constant(make):
    """The radius grows in the first half of the training."""
    plain = certified_after_training(keras.layers.Dense, CROSSENTROPY, 2 * RADIUS)
    loss = make(RADIUS, "measured")
    schedule = lip.callbacks.LossParamScheduler("radius", [RADIUS / 5, 2 * RADIUS], [0, 60])
    found = certified_after_training(keras.layers.Dense, loss, 2 * RADIUS, schedule)
    assert loss.radius.numpy() == pytest.approx(2 * RADIUS)
    # .60 against .78
    assert found > plain + 0.1
