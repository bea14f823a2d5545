"""Learned margins: formulas, the models that train them, and the fraction they converge to."""

import math

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import losses
from tests._oracles.loss_oracles import hinge_of, kr_of, multiclass_hinge_of, one_hot, per_row
from tests._oracles.tolerances import SOUND

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

# float32 sums of about a hundred terms of order one
FLOAT32 = 1e-5
# an event of probability 0.2 in 1797 samples moves by 0.01 when a margin moves by its last steps
STATIONARY = 0.015

RNG = np.random.default_rng(5)
THETA = np.array([0.3, 2.0, 1.1, 0.7])
ONE_HOT = one_hot([0, 2, 2, 3, 0, 2, 3, 0], 4)  # class 1 is absent
SCORES = RNG.normal(size=(8, 4))
BINARY, BINARY_SCORES = (SCORES[:, 3:] > 0.2).astype("float64"), SCORES[:, :1]
X = RNG.normal(size=(32, 6)).astype("float32")
Y = one_hot(RNG.integers(0, 3, 32), 3)


@per_row
def hinge_auto_of(y, f, theta, a):
    parts = [
        max(0.0, t / 2 - (1 if label > 0 else -1) * score)
        for label, score, t in zip(y, f, theta, strict=True)
    ]
    return sum(parts) / len(parts) - a * sum(theta)


def multiclass_hinge_auto_of(y, f, theta, a, tau=0.0):
    present = sorted({int(np.argmax(row)) for row in y})
    hinges = [
        multiclass_hinge_of(y[i : i + 1], f[i : i + 1], m=theta[np.argmax(y[i])], tau=tau)
        for i in range(len(f))
    ]
    return sum(hinges) / len(hinges) - a * sum(theta[c] for c in present) / len(present)


# (loss, labels, scores, margins, value by the oracle)
VALUES = {
    "HingeMarginAuto": (
        losses.HingeMarginAuto(0.1, 5.0, 0.02),
        (ONE_HOT, SCORES, THETA),
        lambda y, f, t: hinge_auto_of(y, f, theta=t, a=0.02),
    ),
    "HingeMarginAuto-binary": (
        losses.HingeMarginAuto(),
        (BINARY, BINARY_SCORES, THETA[1:2]),
        lambda y, f, t: hinge_auto_of(y, f, theta=t, a=0.1),
    ),
    "HKRauto": (
        losses.HKRauto(7.0, alpha_margin=0.03),
        (BINARY, BINARY_SCORES, THETA[1:2]),
        lambda y, f, t: -kr_of(y, f) + 7 * hinge_auto_of(y, f, theta=t, a=0.03),
    ),
    "HKRauto-inf": (
        losses.HKRauto(math.inf),
        (BINARY, BINARY_SCORES, THETA[1:2]),
        lambda y, f, t: hinge_auto_of(y, f, theta=t, a=0.1),
    ),
    "HKRauto-0": (
        losses.HKRauto(0.0),
        (BINARY, BINARY_SCORES, THETA[1:2]),
        lambda y, f, t: -kr_of(y, f),
    ),
    "MulticlassHingeAuto": (
        losses.MulticlassHingeAuto(0.1),
        (ONE_HOT, SCORES, THETA),
        lambda y, f, t: multiclass_hinge_auto_of(y, f, t, 0.1),
    ),
    "MulticlassHingeAuto-soft": (
        losses.MulticlassHingeAuto(0.1, 200.0, 0.3, 4.0),
        (ONE_HOT, SCORES, THETA),
        lambda y, f, t: multiclass_hinge_auto_of(y, f, t, 0.3, tau=4.0),
    ),
    "MulticlassHKRauto": (
        losses.MulticlassHKRauto(min_margin=0.1),
        (ONE_HOT, SCORES, THETA),
        lambda y, f, t: -kr_of(y, f) + 10 * multiclass_hinge_auto_of(y, f, t, 0.1),
    ),
    "MulticlassHKRauto-soft": (
        losses.MulticlassHKRauto(5.0, 0.1, 9.0, 0.2, 20.0),
        (ONE_HOT, SCORES, THETA),
        lambda y, f, t: -kr_of(y, f) + 5 * multiclass_hinge_auto_of(y, f, t, 0.2, tau=20.0),
    ),
}
EVERY = pytest.mark.parametrize("case", VALUES)
CLASSES = [
    lambda **kw: losses.HingeMarginAuto(**kw),
    lambda **kw: losses.HKRauto(5.0, **kw),
    lambda **kw: losses.MulticlassHingeAuto(**kw),
    lambda **kw: losses.MulticlassHKRauto(**kw),
]
IDS = ["HingeMarginAuto", "HKRauto", "MulticlassHingeAuto", "MulticlassHKRauto"]


def value(loss, y, f):
    return float(keras.ops.convert_to_numpy(loss(y.astype("float32"), f.astype("float32"))))


def network(kind, **kwargs):
    layers = [keras.Input((6,)), lip.layers.SpectralDense(4), lip.layers.FrobeniusDense(3)]
    if kind == "sequential":
        return lip.LossVariableSequential(layers, **kwargs)
    hidden = layers[2](layers[1](layers[0]))
    return lip.LossVariableModel(layers[0], hidden, **kwargs)


KINDS = pytest.mark.parametrize("kind", ["sequential", "functional"])


def a_loss(**kwargs):
    return losses.MulticlassHKRauto(
        **{**dict(alpha=5.0, min_margin=0.01, max_margin=3.0), **kwargs}
    )


def fit(model, epochs=1, **kwargs):
    return model.fit(X, Y, epochs=epochs, batch_size=8, shuffle=False, verbose=0, **kwargs)


@EVERY
@pytest.mark.parametrize("labels", [lambda y: y, lambda y: 2 * y - 1, lambda y: y.astype("int32")])
def test_values(case, labels):
    loss, (y, f, theta), oracle = VALUES[case]
    loss.build(len(theta))
    loss.hinge_margins.assign(theta)
    assert value(loss, labels(y), f) == pytest.approx(oracle(y, f, theta), rel=FLOAT32, abs=FLOAT32)


@EVERY
def test_values_per_sample_average_to_the_loss(case):
    loss, (y, f, theta), oracle = VALUES[case]
    copy = type(loss).from_config({**loss.get_config(), "reduction": "none"})
    copy.build(len(theta))
    copy.hinge_margins.assign(theta)
    samples = keras.ops.convert_to_numpy(copy(y, f))
    assert samples.shape == (len(y),)
    assert samples.mean() == pytest.approx(oracle(y, f, theta), rel=FLOAT32, abs=FLOAT32)


def test_equal_margins_give_the_losses_of_one_margin():
    auto, plain = losses.HingeMarginAuto(1.5, alpha_margin=0.0), hinge_of(ONE_HOT, SCORES, m=1.5)
    assert value(auto, ONE_HOT, SCORES) == pytest.approx(plain, rel=FLOAT32)
    auto = losses.MulticlassHingeAuto(1.5, alpha_margin=0.0)
    assert value(auto, ONE_HOT, SCORES) == pytest.approx(
        multiclass_hinge_of(ONE_HOT, SCORES, m=1.5), rel=FLOAT32
    )


@EVERY
def test_config_holds_plain_scalars_and_rebuilds(case):
    loss = VALUES[case][0]
    config = loss.get_config()
    assert all(type(v) in (float, str, bool) for v in config.values())
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(copy) is type(loss) and copy.get_config() == config


def test_margins_belong_to_one_number_of_outputs():
    loss = a_loss()
    assert loss.hinge_margins is None and loss.get_trainable_variables() == []
    loss.build(3)
    loss.build(3)
    assert loss.hinge_margins.numpy() == pytest.approx([0.01] * 3)
    with pytest.raises(ValueError, match="use a new loss"):
        loss(one_hot([0, 1], 4), np.ones((2, 4)))


@pytest.mark.parametrize(
    ("loss", "outputs", "fraction", "largest"),
    [
        (losses.HingeMarginAuto(alpha_margin=0.5), 1, 1.0, "0.5"),
        (losses.HKRauto(5.0, alpha_margin=0.1), 10, 2.0, "0.05"),
        (losses.MulticlassHingeAuto(alpha_margin=0.6), 2, 1.2, "0.5"),
        (losses.MulticlassHKRauto(alpha_margin=1.0, soft_hinge_tau=3.0), 5, 1.0, "1"),
    ],
    ids=IDS,
)
def test_a_fraction_that_cannot_be_reached_warns(loss, outputs, fraction, largest):
    assert loss.stationary_fraction(outputs) == pytest.approx(fraction)
    with pytest.warns(UserWarning, match=f"Choose `alpha_margin` below {largest}[.]"):
        loss.build(outputs)


@KINDS
def test_compile_creates_the_margins_and_training_moves_them(kind):
    model, loss = network(kind), a_loss()
    model.compile("adam", loss, None, ["accuracy"])  # positional arguments, as in Keras
    assert model.trainable_variables[-1] is loss.hinge_margins
    assert len(model.trainable_weights) == 5 and len(model.weights) == 4
    loss.hinge_margins.assign([1.0, 2.0, 3.0])
    assert "accuracy" in fit(model).history
    assert (loss.hinge_margins.numpy() != [1.0, 2.0, 3.0]).all()


def test_a_model_without_input_shape_creates_them_in_its_first_step():
    model = lip.LossVariableSequential([lip.layers.SpectralDense(3)])
    loss = a_loss(min_margin=0.5, alpha_margin=0.5)
    model.compile("adam", loss)
    assert loss.hinge_margins is None
    fit(model, callbacks=[lip.callbacks.LossParamLog("hinge_margins")])
    assert model.optimizer.variables[-1].shape == (3,)
    assert (loss.hinge_margins.numpy() != 0.5).any()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(100.0),
        lambda: keras.optimizers.Adam(100.0, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(100.0)),
    ],
    ids=["SGD", "accumulated", "scaled"],
)
def test_margins_stay_in_their_interval(optimizer):
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if hasattr(self.model, "jax_state_sync"):  # there a step keeps what it has changed
                self.model.jax_state_sync()
            seen.append(loss.hinge_margins.numpy())

    model, loss = network("sequential"), a_loss(min_margin=0.2, max_margin=0.7, alpha_margin=0.5)
    model.compile(optimizer(), loss)
    fit(model, epochs=3, callbacks=[Record()])
    assert np.min(seen) >= np.float32(0.2) and np.max(seen) <= np.float32(0.7)
    assert np.ptp(seen) > 0.4


@KINDS
def test_optim_margin_false_leaves_them(kind, tmp_path):
    model, loss = network(kind, optim_margin=False), a_loss(min_margin=0.5)
    model.compile("adam", loss)
    fit(model)
    assert (loss.hinge_margins.numpy() == 0.5).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and loaded.optim_margin is False


@KINDS
def test_training_resumes_bit_for_bit_from_a_file(kind, tmp_path):
    model = network(kind)
    model.compile("adam", a_loss(min_margin=0.5))
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model) and loaded.optim_margin is True
    assert (loaded.loss.hinge_margins.numpy() == model.loss.hinge_margins.numpy()).all()
    assert fit(loaded, epochs=2).history == fit(model, epochs=2).history
    for ours, theirs in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        assert (ours.numpy() == theirs.numpy()).all()


@pytest.mark.filterwarnings("ignore:The file has no learned margins:UserWarning")
def test_weights_files_hold_the_margins_and_those_without_leave_them(tmp_path):
    model = network("sequential")
    model.save_weights(tmp_path / "without.weights.h5")
    model.compile("adam", a_loss())
    model.loss.hinge_margins.assign([0.4, 0.5, 0.6])
    model.save_weights(tmp_path / "with.weights.h5")
    model.loss.hinge_margins.assign([1.0, 1.0, 1.0])
    model.load_weights(tmp_path / "without.weights.h5")
    assert (model.loss.hinge_margins.numpy() == 1.0).all()
    model.load_weights(tmp_path / "with.weights.h5")
    assert model.loss.hinge_margins.numpy() == pytest.approx([0.4, 0.5, 0.6])


@pytest.mark.parametrize("form", ["list", "dict"])
def test_several_outputs_have_their_own_margins(form, tmp_path):
    x = keras.Input((6,))
    outputs = [lip.layers.SpectralDense(3, name="a")(x), lip.layers.SpectralDense(1, name="b")(x)]
    model = lip.LossVariableModel(x, outputs)
    pair = [a_loss(), losses.HKRauto(5.0, 0.5)]
    model.compile("adam", pair if form == "list" else dict(zip("ab", pair, strict=True)))
    assert [v.shape for v in model.trainable_variables[-2:]] == [(3,), (1,)]
    model.fit(X, [Y, Y[:, :1]], batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(
        model.trainable_variables[-2:], loaded.trainable_variables[-2:], strict=True
    ):
        assert (ours.numpy() == theirs.numpy()).all()


@pytest.mark.parametrize("loss", ["mse", losses.HKR(5.0)], ids=["string", "HKR"])
def test_a_loss_without_parameters_warns(loss, recwarn):
    model = network("functional")
    with pytest.warns(UserWarning, match="the loss has no trainable parameters"):
        model.compile("adam", loss)
    fit(model)
    recwarn.clear()
    network("functional", optim_margin=False).compile("adam", loss)
    network("functional").compile("adam", a_loss())
    assert not [w for w in recwarn if "trainable parameters" in str(w.message)]


def test_a_loss_of_the_users_own_takes_part():
    class Shifted(keras.losses.Loss):
        def __init__(self):
            super().__init__()
            self.shift = keras.Variable(0.0)

        def get_trainable_variables(self):
            return [self.shift]

        def call(self, y_true, y_pred):
            return (y_pred - y_true - self.shift) ** 2

    model, loss = network("sequential"), Shifted()
    model.compile("adam", loss)
    fit(model)
    assert loss.shift.numpy() != 0


def test_under_a_plain_model_they_keep_their_values(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("adam", a_loss(min_margin=0.5))
    fit(model)
    assert (model.loss.hinge_margins.numpy() == 0.5).all()


@pytest.mark.slow
def test_xla_and_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, loss = network("sequential"), a_loss(min_margin=0.5, alpha_margin=0.5)
        model.compile("adam", loss, jit_compile=True)
        fit(model)
    finally:
        keras.config.set_dtype_policy(before)
    assert loss.hinge_margins.dtype == "float32"
    assert (loss.hinge_margins.numpy() != 0.5).any()


def test_nested_models_train_only_the_margins_of_the_outer_one(tmp_path):
    inner = network("sequential")
    inner.compile("adam", a_loss())
    x = keras.Input((6,))
    outer = lip.LossVariableModel(x, lip.layers.SpectralDense(3)(inner(x)))
    outer.compile("adam", a_loss(min_margin=0.5))
    kept = inner.loss.hinge_margins.numpy()
    fit(outer)
    assert len(outer.trainable_variables) == 7
    assert (inner.loss.hinge_margins.numpy() == kept).all()
    outer.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.loss.hinge_margins.numpy() == outer.loss.hinge_margins.numpy()).all()


@KINDS
def test_the_rest_of_the_library_knows_these_models(kind, tmp_path, tf):
    model = network(kind)
    model.compile("adam", a_loss())
    fit(model)
    # each of three neurons is 1-Lipschitz
    assert 1 <= lip.certificates.certify(model, X).bound <= 3**0.5 * SOUND
    exported = model.vanilla_export()
    assert exported(X).numpy() == pytest.approx(model(X).numpy(), abs=1e-5)
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    assert saved.serve(X).numpy() == pytest.approx(model(X).numpy(), abs=1e-5)


def test_k_coef_lip_of_a_sequential():
    assert lip.bounds.lipschitz_bound(network("sequential", k_coef_lip=3.0)).value > 2


def fraction_per_output(y, f, theta):
    return (np.where(y > 0, f, -f) < theta / 2).mean(axis=0)


def fraction_per_class(tau):
    def fraction(y, f, theta):
        found = []
        for c, margin in enumerate(theta):
            rows = f[y[:, c] > 0]
            others = np.delete(rows, c, axis=1)
            weights = np.exp(tau * (others - others.max(axis=1, keepdims=True)))
            weights /= weights.sum(axis=1, keepdims=True)
            inside = (weights * (-others < margin / 2)).sum(axis=1)
            found.append(((rows[:, c] < margin / 2).mean() + inside.mean()) / 2)
        return np.array(found)

    return fraction


# (loss, is it binary, measured fraction, its value by the formula)
STATIONARITY = {
    "HKRauto": (losses.HKRauto(10.0, 0.01, 10.0, 0.1), True, fraction_per_output, 2 * 0.1),
    "HingeMarginAuto": (
        losses.HingeMarginAuto(0.01, 10.0, 0.003),
        False,
        fraction_per_output,
        2 * 10 * 0.003,
    ),
    "MulticlassHingeAuto": (
        losses.MulticlassHingeAuto(0.01, 10.0, 0.2),
        False,
        fraction_per_class(0.0),
        0.2 * 10 / 9,
    ),
    "MulticlassHKRauto": (
        losses.MulticlassHKRauto(10.0, 0.01, 10.0, 0.2, 20.0),
        False,
        fraction_per_class(20.0),
        0.2,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", STATIONARITY)
def test_margins_of_real_data_reach_the_fraction_of_the_formula(case):
    loss, is_binary, measure, expected = STATIONARITY[case]
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (digits.data / 16).astype("float32"), one_hot(digits.target, 10)
    y = (digits.target[:, None] % 2).astype("float64") if is_binary else y
    layers = [lip.layers.FrobeniusDense(32), lip.layers.GroupSort2()]
    model = lip.LossVariableSequential(
        [keras.Input((64,)), *layers, lip.layers.FrobeniusDense(y.shape[1])]
    )
    rate = keras.optimizers.schedules.CosineDecay(5e-2, 600)
    model.compile(keras.optimizers.Adam(rate), loss, steps_per_execution=6)
    model.fit(x, y, epochs=100, batch_size=300, verbose=0)
    theta = loss.hinge_margins.numpy().astype("float64")
    scores = model.predict(x, batch_size=2000, verbose=0)
    assert loss.stationary_fraction(y.shape[1]) == pytest.approx(expected)
    # equal frequencies are exact within 3 % here, which moves a fraction by 0.007
    assert measure(y, scores, theta) == pytest.approx(expected, abs=STATIONARY)
    assert (theta > 0.01).all() and (theta < 10.0).all()
    assert is_binary or theta.max() > 2 * theta.min()
