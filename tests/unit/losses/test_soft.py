"""The loss with a running mean: its formula, and the state that only training changes."""

import math

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import losses
from tests._oracles.loss_oracles import one_hot, per_row
from tests._tables.trainings import NOT_ON_TORCH

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

# float32 sums of about a hundred terms of order one
FLOAT32 = 1e-5

RNG = np.random.default_rng(3)
ONE_HOT = one_hot(RNG.integers(0, 4, 12), 4)
SCORES = RNG.normal(size=(12, 4))
X = RNG.normal(size=(32, 6)).astype("float32")
Y = one_hot(RNG.integers(0, 3, 32), 3)


@per_row
def soft_hkr_of(y, f, mean, alpha=10.0, m=1.0, temperature=1.0):
    sharpness = min(max(temperature * m / min(max(mean, m), 20000), 0.005), 250)
    true = int(np.argmax(y))
    others = [j for j in range(len(f)) if j != true]
    partition = sum(math.exp(sharpness * f[j]) for j in others)
    weights = {j: math.exp(sharpness * f[j]) / partition for j in others}
    hinge = max(0.0, m / 2 - f[true])
    hinge += sum(weights[j] * max(0.0, m / 2 + f[j]) for j in others)
    difference = f[true] - sum(weights[j] * f[j] for j in others)
    return hinge if math.isinf(alpha) else hinge - difference / alpha


def value(loss, y=ONE_HOT, f=SCORES):
    return float(keras.ops.convert_to_numpy(loss(y.astype("float32"), f.astype("float32"))))


def soft_loss(**arguments):
    """A loss that does not warn: something has announced that it updates the running mean."""
    loss = losses.MulticlassSoftHKR(**arguments)
    loss.build(3)
    return loss


def network(layer=lip.layers.SpectralDense):
    return lip.Sequential([keras.Input((6,)), layer(3)])


def fit(model, **kwargs):
    return model.fit(X, Y, **{**dict(batch_size=32, shuffle=False, verbose=0), **kwargs})


@pytest.mark.parametrize("labels", [lambda y: y, lambda y: 2 * y - 1, lambda y: y.astype("int32")])
@pytest.mark.parametrize("alpha", [0.5, 10.0, math.inf])
@pytest.mark.parametrize("mean", [0.01, 1.0, 7.0, 1e6])
@pytest.mark.parametrize("temperature", [1e-4, 1.0, 50.0, 1e4])
def test_values(mean, alpha, temperature, labels):
    loss = soft_loss(alpha=alpha, min_margin=0.8, temperature=temperature)
    loss.running_mean.assign(mean)
    expected = soft_hkr_of(ONE_HOT, SCORES, mean=mean, alpha=alpha, m=0.8, temperature=temperature)
    assert value(loss, labels(ONE_HOT)) == pytest.approx(expected, rel=FLOAT32, abs=FLOAT32)


@pytest.mark.parametrize("alpha", [10.0, math.inf])
def test_one_value_per_sample(alpha):
    samples = keras.ops.convert_to_numpy(soft_loss(alpha=alpha, reduction="none")(ONE_HOT, SCORES))
    assert samples.shape == (12,)
    expected = soft_hkr_of(ONE_HOT, SCORES, mean=1.0, alpha=alpha)
    assert samples.mean() == pytest.approx(expected, rel=FLOAT32)


def test_two_classes_and_huge_scores_are_finite():
    y, f = one_hot([0, 1, 1], 2), RNG.normal(size=(3, 2))
    assert value(soft_loss(), y, f) == pytest.approx(soft_hkr_of(y, f, mean=1.0), rel=FLOAT32)
    assert math.isfinite(value(soft_loss(temperature=1e9), ONE_HOT, 1e6 * SCORES))


def test_the_value_of_torchlip_is_proportional():
    a = 0.8
    alpha = losses.alpha_from_torchlip(a)
    hinge = soft_hkr_of(ONE_HOT, SCORES, mean=1.0, alpha=math.inf)
    difference = (hinge - soft_hkr_of(ONE_HOT, SCORES, mean=1.0, alpha=1.0)) * 1.0
    theirs = (1 - a) * -difference + a * hinge
    assert theirs == pytest.approx(a * value(soft_loss(alpha=alpha)), rel=FLOAT32)


def test_config_holds_plain_scalars_and_rebuilds():
    loss = losses.MulticlassSoftHKR(5.0, 0.3, 0.9, 20.0)
    config = loss.get_config()
    assert all(type(v) in (float, str, bool) for v in config.values())
    assert [config[k] for k in ("alpha", "min_margin", "alpha_mean", "temperature")] == [
        5.0,
        0.3,
        0.9,
        20.0,
    ]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(copy) is type(loss) and copy.get_config() == config


def test_a_scheduled_zero_is_refused():
    model = network()
    model.compile("adam", soft_loss())
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        fit(model, callbacks=[lip.callbacks.LossParamScheduler("alpha", [0.0, 1.0], [0, 5])])


def mean_after(model, steps, start=1.0, inertia=0.9):
    """Running mean after some steps whose predictions are always the same."""
    size = np.abs(model.predict(X, verbose=0)).astype("float64").mean()
    return inertia**steps * start + (1 - inertia**steps) * size


OPTIONS = [
    dict(),
    pytest.param(dict(jit_compile=True), marks=NOT_ON_TORCH),
    dict(run_eagerly=True),
    pytest.param(dict(steps_per_execution=2), marks=NOT_ON_TORCH),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training_and_nothing_else_moves_the_running_mean(options):
    # The loss is meant: an orthogonalization takes XLA longer to compile than all the rest.
    model = network(lip.layers.FrobeniusDense)
    loss = losses.MulticlassSoftHKR(alpha_mean=0.9)
    model.compile(keras.optimizers.SGD(0.0), loss, **options)
    fit(model, epochs=4, validation_data=(X, Y))
    expected = mean_after(model, 4)
    assert abs(expected - 1) > 0.05
    assert loss.running_mean.numpy() == pytest.approx(expected, rel=FLOAT32)
    before = loss.running_mean.numpy()
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    value(loss)
    assert loss.running_mean.numpy() == before
    loss.reset_state()
    assert loss.running_mean.numpy() == 1.0


def test_the_step_uses_the_mean_it_has_just_updated():
    model, loss = network(), losses.MulticlassSoftHKR(alpha_mean=0.0)
    model.compile(keras.optimizers.SGD(0.0), loss)
    scores = 4.0 * model.predict(X, verbose=0)
    history = model.fit(4.0 * X, Y, batch_size=32, verbose=0).history["loss"]
    expected = soft_hkr_of(Y, scores, mean=np.abs(scores).mean())
    assert history == pytest.approx([expected], rel=1e-4)
    assert expected != pytest.approx(soft_hkr_of(Y, scores, mean=1.0), rel=1e-3)


def test_it_is_saved_and_training_resumes_bit_for_bit(tmp_path):
    model = network()
    model.compile("adam", losses.MulticlassSoftHKR(temperature=20.0))
    fit(model, epochs=2, batch_size=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.running_mean.numpy() == model.loss.running_mean.numpy() != 1.0
    assert fit(loaded, epochs=2).history == fit(model, epochs=2).history
    assert loaded.loss.running_mean.numpy() == model.loss.running_mean.numpy()


def test_a_model_lists_it_among_what_training_changes():
    model, loss = network(), losses.MulticlassSoftHKR()
    model.compile("adam", loss)
    assert any(v is loss.running_mean for v in model.non_trainable_variables)
    assert not any(v is loss.running_mean for v in model.trainable_variables)


def test_under_a_plain_model_it_stays_and_warns_once(recwarn):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    loss = losses.MulticlassSoftHKR()
    model.compile("adam", loss)
    with pytest.warns(UserWarning, match="running mean of 'MulticlassSoftHKR' stays as it is"):
        fit(model)
    recwarn.clear()
    fit(model)
    value(loss)
    assert not [w for w in recwarn if "running mean" in str(w.message)]
    assert loss.running_mean.numpy() == 1.0


def test_an_assigned_zero_is_refused():
    loss = losses.MulticlassSoftHKR()
    with pytest.raises(ValueError, match="`alpha` must be positive"):
        loss.alpha = 0.0


def test_a_training_loop_of_ones_own(recwarn):
    loss = losses.MulticlassSoftHKR(alpha_mean=0.75)
    loss.update_state(np.array([[1.0, -3.0], [2.0, 6.0]]))
    assert loss.running_mean.numpy() == pytest.approx(0.75 + 0.25 * 3.0)
    value(loss)
    assert not [w for w in recwarn if "running mean" in str(w.message)]


def test_float64_and_mixed_precision():
    assert soft_loss(dtype="float64").running_mean.dtype == "float64"
    x = keras.Input((6,))
    model = lip.Model(x, lip.layers.SpectralDense(3, dtype="mixed_bfloat16")(x))
    model.compile("adam", losses.MulticlassSoftHKR())
    assert np.isfinite(fit(model).history["loss"]).all()
    assert model.loss.running_mean.dtype == "float32"
