"""What losses and metrics do with weights of samples, with NaN labels, and in float64.

The oracles are NumPy's weighted means, and arithmetic in float64.
"""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import losses, metrics
from tests._oracles.tolerances import SAME_FLOAT32
from tests._tables.all_losses import ALL_LOSSES, needed_by

BINARY = ("KR", "NegKR", "HKR", "HingeMargin", "HingeMarginAuto", "HKRauto")
WITH_KR = [loss for loss in ALL_LOSSES if "KR" in loss.__name__ and "Lse" not in loss.__name__]
WITH_KR.remove(losses.MulticlassSoftHKR)  # differences of scores of one sample


def kr_alone(make, **options):
    """The loss without its hinge, and the sign of its KR term."""
    names = make.__init__.__code__.co_varnames
    only_kr = {"alpha": 0.0} if "alpha" in names else {}
    sign = 1 if make in (losses.KR, losses.MulticlassKR) else -1
    return make(**only_kr, **options), sign


def batch(make, rng, samples=12):
    columns = 1 if make.__name__ in BINARY or "Binary" in make.__name__ else 3
    classes = np.arange(samples) % max(columns, 2)
    labels = np.eye(3)[classes] if columns == 3 else classes[:, None].astype("float64")
    if "Sparse" in make.__name__:
        labels = classes.astype("float64")
    return labels, rng.normal(size=(samples, columns))


def weighted_difference(y, f, w):
    terms = []
    for label, score in zip(y.T > 0, f.T, strict=True):
        means = [np.average(score[one], weights=w[one]) for one in (label, ~label)]
        terms.append(means[0] - means[1])
    return np.mean(terms)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
@pytest.mark.parametrize("make", WITH_KR)
def test_weights_are_those_of_the_means(make, reduction, shape, rng, tf):
    y, f = batch(make, rng)
    w = rng.uniform(0.1, 3, size=len(y))
    loss, sign = kr_alone(make, reduction=reduction)
    factor = len(y) if reduction == "sum" else 1
    expected = sign * factor * weighted_difference(y, f, w)
    found = tf.function(loss)(y, f, w.reshape(shape))
    np.testing.assert_allclose(found, expected, **SAME_FLOAT32)


@pytest.mark.parametrize("make", WITH_KR)
def test_weights_of_classes_change_no_difference_of_means(make, rng):
    y, f = batch(make, rng)
    if y.shape[1] > 1:
        y, f = np.repeat(y[:, :1], 2, 1) * [1, -1] + [0, 1], f[:, :2]
    loss, _ = kr_alone(make)
    weights = np.where(y[:, 0] > 0, 8.0, 1.0)
    expected, weighted, moved = (
        keras.ops.convert_to_numpy(value)
        for value in (loss(y, f), loss(y, f, weights), loss(y, f + 5, weights))
    )
    np.testing.assert_allclose(weighted, expected, **SAME_FLOAT32)
    # a bias of the network moves no difference of means
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)


def test_weights_multiply_the_hinge(rng):
    y, f = batch(losses.HKR, rng)
    w = rng.uniform(0.1, 3, size=len(y))
    hinges = np.maximum(0, 0.5 - (2 * y - 1) * f)[:, 0]
    expected = -weighted_difference(y, f, w) + 7 * np.mean(w * hinges)
    np.testing.assert_allclose(losses.HKR(7.0)(y, f, w), expected, **SAME_FLOAT32)
    np.testing.assert_allclose(losses.HKR(7.0)(y, f, 2.0), 2 * losses.HKR(7.0)(y, f), rtol=1e-6)


def test_weights_do_not_last(rng):
    y, f = (x.astype("float32") for x in batch(losses.HKR, rng))
    loss = losses.HKR(7.0)
    before = loss.call(y, f)
    loss(y, f, np.linspace(1, 2, len(y)))
    np.testing.assert_array_equal(loss.call(y, f), before)


def test_labels_of_a_global_batch_cannot_be_balanced(rng):
    y, f = batch(losses.HKR, rng)
    labels = losses.process_labels_for_multi_gpu(y)
    with pytest.warns(UserWarning, match="multi_gpu"):
        losses.HKR(7.0, multi_gpu=True)(labels, f, np.ones(len(y)))


def test_class_weight_does_not_silence_a_class(rng):
    x = rng.normal(size=(300, 4)).astype("float32")
    y = (x[:, :1] > 1).astype("float32")
    keras.utils.set_random_seed(0)
    layers = lip.layers
    model = lip.Sequential([keras.Input((4,)), layers.SpectralDense(16), layers.GroupSort2()])
    model.add(layers.SpectralDense(1))
    model.compile(keras.optimizers.Adam(1e-2), losses.HKR(alpha=10, min_margin=0.3))
    model.fit(x, y, epochs=40, batch_size=100, verbose=0, class_weight={0: 1.0, 1: 8.0})
    assert (model.predict(x, verbose=0)[y == 0] < 0).mean() > 0.9


@pytest.mark.parametrize("make", ALL_LOSSES)
def test_a_nan_label_is_refused(make, rng):
    y, f = batch(make, rng)
    y[4, ...] = np.nan
    loss = make(**needed_by(make))
    for labels in (y, y.astype("float32"), y.tolist()):
        with pytest.raises(ValueError, match="`y_true` must not hold NaN.*row 4"):
            loss(labels, f)


@pytest.mark.parametrize("make", ALL_LOSSES)
def test_a_nan_label_is_refused_or_seen(make, rng, tf):
    y, f = batch(make, rng)
    y[4, ...] = np.nan
    loss = make(**needed_by(make))
    if hasattr(loss, "build"):
        loss.build(f.shape[1])
    with pytest.raises(ValueError, match="`y_true` must not hold NaN.*row 4"):
        loss(tf.constant(y), f)
    traced = tf.function(loss)
    assert np.isnan(traced(tf.constant(y), tf.constant(f)))
    for value in (np.inf, -np.inf):
        y[4, ...] = value
        with pytest.raises(ValueError, match="`y_true` must not hold infinite numbers.*row 4"):
            loss(y, f)
        assert np.isnan(traced(tf.constant(y), tf.constant(f)))
    y[4, ...] = 1
    assert np.isfinite(traced(tf.constant(y), tf.constant(f)))


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("make", [one for one in ALL_LOSSES if one.__name__ not in BINARY])
def test_one_nan_in_a_row_is_enough(make, column, rng, tf):
    y, f = batch(make, rng)
    if y.shape != f.shape or f.shape[1] == 1:
        return
    y[4, column] = np.nan
    loss = make(**needed_by(make))
    if hasattr(loss, "build"):
        loss.build(f.shape[1])
    assert np.isnan(tf.function(loss)(tf.constant(y), tf.constant(f)))


def test_training_on_nan_labels_stops(rng):
    model = lip.Sequential([keras.Input((6,)), lip.layers.SpectralDense(1)])
    model.compile("sgd", losses.HKR(10.0, 1.0))
    stop = keras.callbacks.TerminateOnNaN()
    y = np.full((8, 1), np.nan)
    history = model.fit(rng.normal(size=(8, 6)), y, epochs=5, verbose=0, callbacks=[stop]).history
    assert len(history["loss"]) == 1 and np.isnan(history["loss"]).all()


def test_processed_labels_keep_a_nan(rng, tf):
    y, f = batch(losses.HKR, rng)
    y[4] = np.nan
    with pytest.raises(ValueError, match="`labels` must not hold NaN"):
        losses.process_labels_for_multi_gpu(y)
    labels = tf.function(losses.process_labels_for_multi_gpu)(tf.constant(y))
    assert np.isnan(labels).sum() == 1 and np.isnan(tf.function(losses.KR(True))(labels, f))


METRICS = [
    (metrics.KR, losses.KR),
    (metrics.MulticlassKR, losses.MulticlassKR),
    (metrics.BinaryProvableAvgRobustness, losses.KR),
    (metrics.BinaryProvableRobustAccuracy, losses.KR),
    (metrics.CategoricalProvableAvgRobustness, losses.MulticlassKR),
    (metrics.CategoricalProvableRobustAccuracy, losses.MulticlassKR),
    (metrics.CategoricalProvableRobustAccuracy, losses.TauSparseCategoricalCrossentropy),
]


@pytest.mark.parametrize(("make", "like"), METRICS)
def test_metrics_refuse_nan_labels(make, like, rng):
    y, f = batch(like, rng)
    y[4, ...] = np.nan
    with pytest.raises(ValueError, match="`y_true` must not hold NaN"):
        make().update_state(y, f)


@pytest.fixture
def float64():
    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # Keras makes one of `floatx` at its first use only
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "bool"])
@pytest.mark.parametrize("make", ALL_LOSSES)
def test_losses_in_float64(make, kind, float64, rng, tf):
    y, f = batch(make, rng)
    loss = make(**needed_by(make))
    if hasattr(loss, "build"):
        loss.build(f.shape[1])
    y = y if "Sparse" in make.__name__ else y.astype(kind)
    found = tf.function(loss)(y, f, np.ones(len(y)))
    assert found.dtype == "float64"
    narrow = make(**needed_by(make), dtype="float32")
    if hasattr(narrow, "build"):
        narrow.build(f.shape[1])
    np.testing.assert_allclose(found, narrow(y, f.astype("float32")), **SAME_FLOAT32)


@pytest.mark.parametrize("make", ALL_LOSSES)
def test_losses_of_float64_keep_it_on_every_backend(make, rng):
    """Steps that float32 would not see change the loss, and steps of twice their length twice."""
    y, f = batch(make, rng)
    loss = make(**needed_by(make), dtype="float64")
    if hasattr(loss, "build"):
        loss.build(f.shape[1])
    step = 1e-9 * rng.normal(size=f.shape)
    values = [loss(y, scores) for scores in (f, f + step, f + 2 * step)]
    assert {keras.backend.standardize_dtype(value.dtype) for value in values} == {"float64"}
    first, second, third = (float(keras.ops.convert_to_numpy(value)) for value in values)
    assert second != first
    assert third - first == pytest.approx(2 * (second - first), rel=1e-3, abs=0.0)


@pytest.mark.parametrize(("make", "like"), METRICS)
def test_metrics_in_float64(make, like, float64, rng):
    y, f = batch(like, rng)
    wide, narrow = make(), make(dtype="float32")
    for metric in (wide, narrow):
        metric.update_state(y, f)
    if keras.backend.backend() != "torch":  # there Keras's sums of float64 are float32
        assert wide.result().dtype == "float64"
    np.testing.assert_allclose(wide.result(), narrow.result(), **SAME_FLOAT32)


@pytest.mark.parametrize("k_gram", [4, 40], ids=["square", "tall"])
def test_training_in_float64(k_gram, float64, rng):
    model = lip.Sequential([keras.Input((k_gram,)), lip.layers.SpectralDense(4)])
    model.compile("sgd", losses.MulticlassHKR(5.0), metrics=[metrics.MulticlassKR()])
    history = model.fit(rng.normal(size=(8, k_gram)), np.eye(4)[[0, 1, 2, 3] * 2], verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.predict(np.zeros((1, k_gram)), verbose=0).dtype == "float64"
    assert np.linalg.norm(keras.ops.convert_to_numpy(model.layers[-1].wbar), 2) <= 1 + 1e-12
