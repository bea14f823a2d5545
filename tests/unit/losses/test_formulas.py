"""Losses against loops in float64, and as citizens of Keras: labels, dtypes, saving, fitting."""

import itertools
import math

import keras
import numpy as np
import pytest

from deel_lip_tf import losses
from deel_lip_tf.losses import formulas
from tests._oracles.loss_oracles import (
    annealing_of,
    categorical_hinge_of,
    emma_of,
    gloro_of,
    hinge_of,
    kr_of,
    lse_hkr_of,
    multi_margin_of,
    multiclass_hinge_of,
    one_hot,
    tau_bce_of,
    tau_ce_of,
    value_and_gradient,
)
from tests._tables.trainings import NOT_ON_TORCH

# float32 sums of about a hundred terms of order one
FLOAT32 = 1e-5
# float64, the same
FLOAT64 = 1e-12
INF = math.inf


RNG = np.random.default_rng(7)
CLASSES = RNG.integers(0, 4, 30)
ONE_HOT = one_hot(CLASSES, 4)
SCORES = RNG.normal(size=(30, 4))
BINARY = (RNG.uniform(size=(30, 1)) > 0.6).astype("float64")
BINARY_SCORES = RNG.normal(size=(30, 1))

# (loss, labels, scores, value by the oracle)
VALUES = {
    "KR": (losses.KR(), BINARY, BINARY_SCORES, kr_of),
    "KR-multilabel": (losses.KR(), ONE_HOT, SCORES, kr_of),
    "NegKR": (losses.NegKR(), BINARY, BINARY_SCORES, lambda y, f: -kr_of(y, f)),
    "MulticlassKR": (losses.MulticlassKR(), ONE_HOT, SCORES, kr_of),
    "HKR": (
        losses.HKR(7.0, 0.8),
        BINARY,
        BINARY_SCORES,
        lambda y, f: -kr_of(y, f) + 7 * hinge_of(y, f, m=0.8),
    ),
    "HKR-inf": (
        losses.HKR(INF, 0.8),
        BINARY,
        BINARY_SCORES,
        lambda y, f: hinge_of(y, f, m=0.8),
    ),
    "HKR-0": (losses.HKR(0), BINARY, BINARY_SCORES, lambda y, f: -kr_of(y, f)),
    "HingeMargin": (losses.HingeMargin(1.5), ONE_HOT, SCORES, lambda y, f: hinge_of(y, f, m=1.5)),
    "MulticlassHinge": (
        losses.MulticlassHinge(1.5),
        ONE_HOT,
        SCORES,
        lambda y, f: multiclass_hinge_of(y, f, m=1.5),
    ),
    "MulticlassHinge-soft": (
        losses.MulticlassHinge(1.5, soft_hinge_tau=3.0),
        ONE_HOT,
        SCORES,
        lambda y, f: multiclass_hinge_of(y, f, m=1.5, tau=3.0),
    ),
    "MulticlassHKR": (
        losses.MulticlassHKR(),
        ONE_HOT,
        SCORES,
        lambda y, f: -kr_of(y, f) + 10 * multiclass_hinge_of(y, f),
    ),
    "MulticlassHKR-soft": (
        losses.MulticlassHKR(5.0, 0.5, soft_hinge_tau=20.0),
        ONE_HOT,
        SCORES,
        lambda y, f: -kr_of(y, f) + 5 * multiclass_hinge_of(y, f, m=0.5, tau=20.0),
    ),
    "MulticlassHKR-inf": (
        losses.MulticlassHKR(INF),
        ONE_HOT,
        SCORES,
        multiclass_hinge_of,
    ),
    "MultiMargin": (
        losses.MultiMargin(1.5),
        ONE_HOT,
        SCORES,
        lambda y, f: multi_margin_of(y, f, m=1.5),
    ),
    "CategoricalHinge": (
        losses.CategoricalHinge(1.5),
        ONE_HOT,
        SCORES,
        lambda y, f: categorical_hinge_of(y, f, m=1.5),
    ),
    "TauCategoricalCrossentropy": (
        losses.TauCategoricalCrossentropy(3.0),
        ONE_HOT,
        SCORES,
        lambda y, f: tau_ce_of(y, f, tau=3.0),
    ),
    "TauSparseCategoricalCrossentropy": (
        losses.TauSparseCategoricalCrossentropy(3.0),
        CLASSES,
        SCORES,
        lambda y, f: tau_ce_of(one_hot(y, 4), f, tau=3.0),
    ),
    "TauBinaryCrossentropy": (
        losses.TauBinaryCrossentropy(3.0),
        BINARY,
        BINARY_SCORES,
        lambda y, f: tau_bce_of(y, f, tau=3.0),
    ),
    "LseHKR": (
        losses.LseHKR(4.0, 2.0, 0.7, 0.6),
        ONE_HOT,
        SCORES,
        lambda y, f: lse_hkr_of(y, f, alpha=4.0, temperature=2.0, penalty=0.7, m=0.6),
    ),
    "OffsetCrossentropy": (
        losses.OffsetCrossentropy(),
        CLASSES,
        SCORES,
        lambda y, f: annealing_of(y, f, offset=1.4142135, temperature=0.25),
    ),
    "OffsetCrossentropy-rows": (
        losses.OffsetCrossentropy(0.4, 2.0),
        ONE_HOT,
        SCORES,
        lambda y, f: annealing_of(y.argmax(1), f, offset=0.4, temperature=2.0),
    ),
    "LogitAnnealing": (
        losses.LogitAnnealing(),
        CLASSES[:, None],
        SCORES,
        lambda y, f: annealing_of(y[:, 0], f, offset=2.0, temperature=0.75, beta=5.0),
    ),
    "LogitAnnealing-rows": (
        losses.LogitAnnealing(0.5, 0.3, 1.5),
        ONE_HOT,
        SCORES,
        lambda y, f: annealing_of(y.argmax(1), f, offset=0.5, temperature=0.3, beta=1.5),
    ),
    "EMMA": (
        losses.EMMA(0.3),
        CLASSES,
        SCORES,
        lambda y, f: emma_of(y, f, radius=0.3, divisors=math.sqrt(2) * np.ones((4, 4))),
    ),
    "EMMA-annealed": (
        losses.EMMA(0.3, 2.5, 0.5, 0.7, 5.0),
        ONE_HOT,
        SCORES,
        lambda y, f: emma_of(
            y.argmax(1),
            f,
            radius=0.3,
            divisors=2.5 * math.sqrt(2) * np.ones((4, 4)),
            offset=0.5,
            temperature=0.7,
            beta=5.0,
        ),
    ),
    "GloRo": (
        losses.GloRo(0.3, 1.5),
        CLASSES,
        SCORES,
        lambda y, f: gloro_of(y, f, radius=0.3, divisors=1.5 * math.sqrt(2) * np.ones((4, 4))),
    ),
    "GloRo-trades": (
        losses.GloRo(0.3, trades=2.0),
        ONE_HOT,
        SCORES,
        lambda y, f: gloro_of(
            y.argmax(1), f, radius=0.3, divisors=math.sqrt(2) * np.ones((4, 4)), trades=2.0
        ),
    ),
    "LseHKR-default": (losses.LseHKR(), ONE_HOT, SCORES, lambda y, f: lse_hkr_of(y, f, alpha=INF)),
}
EVERY = pytest.mark.parametrize("case", VALUES)
# losses whose labels are signs, not probabilities or indices
SIGNED = [
    name
    for name, (_, labels, *_) in VALUES.items()
    if (labels is BINARY or labels is ONE_HOT) and not name.startswith("TauCategorical")
]


def rebuilt(loss, **changes):
    return type(loss).from_config({**loss.get_config(), **changes})


def value(loss, y, f):
    return keras.ops.convert_to_numpy(loss(y, f))


@EVERY
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FLOAT32), ("float64", FLOAT64)])
def test_value_is_that_of_the_formula(case, dtype, tolerance):
    loss, y, f, oracle = VALUES[case]
    got = value(rebuilt(loss, dtype=dtype), y, f)
    assert got.dtype == dtype and got.shape == ()
    assert got == pytest.approx(oracle(y, f), rel=tolerance, abs=tolerance)


@EVERY
@pytest.mark.parametrize("reduction", [None, "none"])
def test_unreduced_loss_has_one_value_per_sample_whose_mean_is_the_loss(case, reduction):
    loss, y, f, oracle = VALUES[case]
    values = value(rebuilt(loss, reduction=reduction), y, f)
    assert values.shape == (30,)
    assert values.mean() == pytest.approx(oracle(y, f), rel=FLOAT32, abs=FLOAT32)


@pytest.mark.parametrize("case", SIGNED)
@pytest.mark.parametrize(
    "coding",
    {
        "int": lambda y: y.astype("int32"),
        "bool": lambda y: y > 0,
        "signs": lambda y: 2 * y - 1,
        "int-signs": lambda y: (2 * y - 1).astype("int64"),
        "scaled": lambda y: 0.9 * y,
    }.items(),
    ids=lambda pair: pair[0],
)
def test_coding_of_the_labels_does_not_matter(case, coding):
    loss, y, f, _ = VALUES[case]
    assert value(loss, coding[1](y), f) == value(loss, y.astype("float32"), f)


@pytest.mark.parametrize("case", ["KR", "NegKR", "HKR", "HKR-inf", "TauBinaryCrossentropy"])
def test_vectors_and_columns_of_binary_labels_agree(case):
    loss, y, f, oracle = VALUES[case]
    for labels, scores in itertools.product((y, y[:, 0]), (f, f[:, 0])):
        assert value(loss, labels, scores) == pytest.approx(oracle(y, f), rel=FLOAT32)


@pytest.mark.parametrize("case", ["KR", "NegKR", "HKR", "HKR-inf", "TauBinaryCrossentropy"])
def test_several_labels_are_the_mean_of_the_binary_losses(case):
    loss = VALUES[case][0]
    y, f = (RNG.uniform(size=(20, 3)) > 0.5).astype("int32"), RNG.normal(size=(20, 3))
    columns = [value(loss, y[:, [c]], f[:, [c]]) for c in range(3)]
    assert value(loss, y, f) == pytest.approx(np.mean(columns), rel=FLOAT32, abs=FLOAT32)


@pytest.mark.parametrize("y", [np.zeros((6, 1)), np.ones((6, 1))], ids=["negatives", "positives"])
def test_kr_of_a_single_class_is_its_mean(y):
    f = np.arange(6.0).reshape(6, 1)
    assert value(losses.KR(), y, f) == pytest.approx(2.5 if y[0] else -2.5, rel=FLOAT32)


def test_kr_has_no_bias_on_large_scores():
    y, f = np.array([1, 0, 0]), np.array([3e6, 1.0, 2.0])
    assert value(losses.KR(dtype="float64"), y, f) == 3e6 - 1.5


def test_soft_hinge_of_a_row_without_negatives_is_finite():
    got = formulas.multiclass_hinge(np.ones((1, 3)), np.zeros((1, 3)), 1.0, 5.0)
    assert keras.ops.convert_to_numpy(got) == pytest.approx([1.5])


# of the ratio in EMMA no gradient is taken
@pytest.mark.parametrize("case", [n for n in VALUES if n != "HKR-0" and "EMMA" not in n])
def test_gradients_match_finite_differences(case):
    loss, y, f, _ = VALUES[case]
    loss = rebuilt(loss, dtype="float64")
    f = f[:5] + 0.0123
    y = y[:5]
    _, gradient = value_and_gradient(lambda scores: loss(y, scores), f)
    step = 1e-6
    for i, c in np.ndindex(*f.shape):
        shift = np.zeros_like(f)
        shift[i, c] = step
        slope = (value(loss, y, f + shift) - value(loss, y, f - shift)) / (2 * step)
        assert gradient[i, c] == pytest.approx(slope, abs=1e-7)


@EVERY
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e6])
def test_gradients_are_finite_at_the_extremes(case, scale):
    loss, y, f, _ = VALUES[case]
    for labels in (y, np.zeros_like(y), np.ones_like(y)):
        found = value_and_gradient(lambda f, y=labels: loss(y, f), (scale * f).astype("float32"))
        assert all(np.isfinite(part).all() for part in found)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.0, 3.0, INF])
def test_lse_hkr_is_finite_for_few_classes(classes, alpha):
    y, f = one_hot([0, 1, 1], classes), RNG.normal(size=(3, classes))
    got = value(losses.LseHKR(alpha), y, f)
    assert got == pytest.approx(lse_hkr_of(y, f, alpha=alpha), rel=FLOAT32, abs=FLOAT32)


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, 1.0])
def test_alpha_of_torchlip_translates_to_a_proportional_loss(a):
    y, f = BINARY, BINARY_SCORES
    theirs = (1 - a) * -kr_of(y, f) + a * hinge_of(y, f)
    ours = value(losses.HKR(losses.alpha_from_torchlip(a)), y, f)
    assert theirs == pytest.approx(ours if a == 1 else (1 - a) * ours, rel=FLOAT32, abs=FLOAT32)


@pytest.mark.parametrize(
    "loss",
    [losses.KR, losses.NegKR, losses.MulticlassKR, losses.MulticlassHKR]
    + [lambda **kw: losses.HKR(alpha=5.0, **kw)],
    ids=["KR", "NegKR", "MulticlassKR", "MulticlassHKR", "HKR"],
)
@pytest.mark.parametrize("dtype", ["int32", "float32", "bool"])
def test_processed_labels_give_the_value_of_the_global_batch_from_its_parts(loss, dtype):
    weights = losses.process_labels_for_multi_gpu(ONE_HOT.astype(dtype))
    parts = [slice(0, 7), slice(7, 30)]
    sums = [value(loss(multi_gpu=True, reduction="sum"), weights[p], SCORES[p]) for p in parts]
    assert sum(sums) / 30 == pytest.approx(value(loss(), ONE_HOT, SCORES), rel=FLOAT32)


def test_processed_labels_keep_shape_and_handle_absent_classes():
    assert losses.process_labels_for_multi_gpu(np.array([1, 0, 0, 1])).shape == (4,)
    got = keras.ops.convert_to_numpy(losses.process_labels_for_multi_gpu(one_hot([0, 0], 2)))
    np.testing.assert_array_equal(got, [[1, -1], [1, -1]])


@EVERY
def test_config_holds_plain_scalars_and_rebuilds_the_same_loss(case):
    loss, y, f, _ = VALUES[case]
    config = loss.get_config()
    assert all(type(v) in (float, str, bool) for v in config.values())
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(copy) is type(loss) and copy.get_config() == config
    assert value(copy, y, f) == value(loss, y, f)


def test_default_names_and_parameters():
    for name in losses.__all__:
        cls = getattr(losses, name)
        if isinstance(cls, type) and cls is not losses.ParametricLoss:
            required = {
                "HKR": {"alpha": 1.0},
                "HKRauto": {"alpha": 1.0},
                "CategoricalHinge": {"min_margin": 1.0},
                "EMMA": {"radius": 1.0},
                "GloRo": {"radius": 1.0},
            }
            arguments = required.get(name, {"tau": 1.0} if name.startswith("Tau") else {})
            assert cls(**arguments).name == name
    loss = losses.MulticlassHKR()
    assert (loss.alpha.numpy(), loss.min_margin.numpy()) == (10.0, 1.0)
    assert losses.HKR(0.1).get_config()["alpha"] == 0.1
    assert losses.KR(reduction="auto").reduction == "sum_over_batch_size"


def test_sizes_unknown_while_tracing_are_not_broadcast(tf):
    loss, unknown = losses.KR(), tf.TensorSpec((None, None), "float32")
    graph = tf.function(lambda y, f: loss(y, f), input_signature=[unknown, unknown])
    got = graph(ONE_HOT.astype("float32"), SCORES.astype("float32")).numpy()
    assert got == pytest.approx(kr_of(ONE_HOT, SCORES), rel=FLOAT32)
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph(np.zeros((5, 1), "float32"), np.zeros((5, 3), "float32"))


@EVERY
def test_value_under_xla(case, tf):
    loss, y, f, _ = VALUES[case]
    compiled = tf.function(lambda a, b: loss(a, b), jit_compile=True)
    arguments = tf.constant(y), tf.constant(f, "float32")
    assert compiled(*arguments).numpy() == pytest.approx(value(loss, *arguments), rel=FLOAT32)


def test_scores_in_bfloat16_give_a_loss_in_float32(tf):
    scores = tf.cast(tf.constant(SCORES), "bfloat16")
    exact = tf.cast(scores, "float64").numpy()
    assert losses.MulticlassKR()(ONE_HOT, scores).dtype == "float32"
    assert losses.MulticlassKR(dtype="bfloat16").dtype == "float32"
    got = formulas.kr(ONE_HOT, scores).numpy()
    assert got.mean() == pytest.approx(kr_of(ONE_HOT, exact), rel=FLOAT32)


def linear_model(outputs, loss, **compile_arguments):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs)])
    model.compile(keras.optimizers.SGD(0.0), loss, **compile_arguments)
    return model


X = RNG.normal(size=(30, 3)).astype("float32")


ON_JAX = pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="a compiled step of a model of Keras's own keeps the parameters of its loss",
)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=[ON_JAX, NOT_ON_TORCH])])
def test_assigned_parameter_takes_effect_in_a_step_already_traced(jit_compile):
    loss = losses.HKR(2.0)
    model = linear_model(1, loss, jit_compile=jit_compile)
    f = model.predict(X, verbose=0)
    kr, hinge = kr_of(BINARY, f), hinge_of(BINARY, f)
    seen = []

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            loss.alpha.assign([2.0, 5.0, 0.0, INF][epoch])

        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["loss"])

    model.fit(X, BINARY, batch_size=30, epochs=4, verbose=0, callbacks=[Change()])
    assert seen == pytest.approx([-kr + 2 * hinge, -kr + 5 * hinge, -kr, hinge], rel=FLOAT32)
    loss.alpha = 3.0
    assert model.train_on_batch(X, BINARY) == pytest.approx(-kr + 3 * hinge, rel=FLOAT32)


@EVERY
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_training_under_other_dtypes_gives_a_loss_in_float32(case, policy):
    loss, y, f, oracle = VALUES[case]
    model = keras.Sequential([keras.layers.Dense(f.shape[1], dtype=policy)])
    model.compile(keras.optimizers.SGD(0.0), rebuilt(loss))
    scores = keras.ops.convert_to_numpy(keras.ops.cast(model(X), "float64"))
    got = model.fit(X, y, batch_size=30, verbose=0).history["loss"]
    assert got == pytest.approx([oracle(y, scores)], rel=FLOAT32, abs=FLOAT32)


@EVERY
def test_compiled_model_survives_saving_with_the_changed_parameters(case, tmp_path):
    loss, y, f, _ = VALUES[case]
    loss = rebuilt(loss)
    if "min_margin" in loss.get_config():
        loss.min_margin.assign(0.3)
    model = linear_model(f.shape[1], loss)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.evaluate(X, y, verbose=0) == model.evaluate(X, y, verbose=0)


def test_loss_given_as_a_metric_is_reported_by_its_name():
    model = linear_model(4, losses.MulticlassHKR(), metrics=["accuracy", losses.MulticlassKR()])
    report = model.evaluate(X, ONE_HOT, batch_size=30, verbose=0, return_dict=True)
    f = model.predict(X, verbose=0)
    assert report["MulticlassKR"] == pytest.approx(kr_of(ONE_HOT, f), rel=FLOAT32, abs=FLOAT32)
    assert set(report) == {"loss", "accuracy", "MulticlassKR"}


def test_sample_weights_multiply_the_values():
    weights = RNG.uniform(size=30)
    per_sample = value(losses.MulticlassHinge(reduction=None), ONE_HOT, SCORES)
    got = losses.MulticlassHinge()(ONE_HOT, SCORES, sample_weight=weights)
    assert float(got) == pytest.approx(np.mean(weights * per_sample), rel=FLOAT32)
