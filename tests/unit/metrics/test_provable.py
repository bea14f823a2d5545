"""Metrics against loops in float64: label codings, unequal batches, weights, saving, tracing."""

import math

import keras
import numpy as np
import pytest

from deel_lip_tf import losses, metrics
from tests._tables.trainings import NOT_ON_TORCH

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

# float32 sums of about a hundred terms of order one
FLOAT32 = 1e-5
RNG = np.random.default_rng(11)
CLASSES = RNG.integers(0, 4, 37)
ONE_HOT = np.eye(4)[CLASSES]
# half of the samples are classified correctly, with various margins
SCORES = (RNG.normal(size=(37, 4)) + 1.2 * ONE_HOT).astype("float32")
BINARY = (RNG.uniform(size=(37, 1)) > 0.5).astype("int32")
BINARY_SCORES = (RNG.normal(size=(37, 1)) + BINARY - 0.5).astype("float32")
WEIGHTS = RNG.uniform(size=37)
# batches of unequal sizes, whose means do not average to the mean
BATCHES = [slice(0, 1), slice(1, 20), slice(20, 22), slice(22, 37)]


def gaps(y, f):
    """f_y - max of the others, row by row; `y` are class indices."""
    pairs = zip(y, f, strict=True)
    return [row[c] - max(v for j, v in enumerate(row) if j != c) for c, row in pairs]


def signed(y, f):
    return [(1 if a > 0 else -1) * b for a, b in zip(np.ravel(y), np.ravel(f), strict=True)]


def kr_of(y, f, weights):
    total = 0.0
    for c in range(f.shape[1]):
        for sign, rows in (
            (1, [i for i in range(len(f)) if y[i, c] > 0]),
            (-1, [i for i in range(len(f)) if y[i, c] <= 0]),
        ):
            count = sum(weights[i] for i in rows)
            total += sign * sum(weights[i] * f[i, c] for i in rows) / count if rows else 0.0
    return total / f.shape[1]


def mean_of(value, samples):
    """Weighted mean of `value` over the scalar `samples(y, f)`."""
    return lambda y, f, w: np.average([value(r) for r in samples(y, f)], weights=w)


def from_one_hot(y, f):
    return gaps(np.argmax(y, axis=1), f)


# (metric, labels, scores, weighted value by the oracle)
CASES = {
    "CategoricalProvableRobustAccuracy": (
        metrics.CategoricalProvableRobustAccuracy(),
        ONE_HOT,
        SCORES,
        mean_of(lambda r: r / 2 > 36 / 255, from_one_hot),
    ),
    "CategoricalProvableRobustAccuracy-joint": (
        metrics.CategoricalProvableRobustAccuracy(0.3, 1.7, disjoint_neurons=False),
        ONE_HOT,
        SCORES,
        mean_of(lambda r: r / (math.sqrt(2) * 1.7) > 0.3, from_one_hot),
    ),
    "BinaryProvableRobustAccuracy": (
        metrics.BinaryProvableRobustAccuracy(0.2, 1.5),
        BINARY,
        BINARY_SCORES,
        mean_of(lambda r: r / 1.5 > 0.2, signed),
    ),
    "CategoricalProvableAvgRobustness": (
        metrics.CategoricalProvableAvgRobustness(),
        ONE_HOT,
        SCORES,
        mean_of(lambda r: max(r, 0) / 2, from_one_hot),
    ),
    "CategoricalProvableAvgRobustness-joint": (
        metrics.CategoricalProvableAvgRobustness(3.0, False, True),
        ONE_HOT,
        SCORES,
        mean_of(lambda r: r / (math.sqrt(2) * 3), from_one_hot),
    ),
    "BinaryProvableAvgRobustness": (
        metrics.BinaryProvableAvgRobustness(0.5),
        BINARY,
        BINARY_SCORES,
        mean_of(lambda r: max(r, 0) / 0.5, signed),
    ),
    "BinaryProvableAvgRobustness-negative": (
        metrics.BinaryProvableAvgRobustness(0.5, negative_robustness=True),
        BINARY,
        BINARY_SCORES,
        mean_of(lambda r: r / 0.5, signed),
    ),
    "KR": (metrics.KR(), BINARY, BINARY_SCORES, kr_of),
    "MulticlassKR": (metrics.MulticlassKR(), ONE_HOT, SCORES, kr_of),
    "MulticlassKR-declared": (metrics.MulticlassKR(num_classes=4), ONE_HOT, SCORES, kr_of),
}
EVERY = pytest.mark.parametrize("case", CASES)
CATEGORICAL = [name for name in CASES if name.startswith("Categorical")]


def rebuilt(metric):
    return type(metric).from_config(metric.get_config())


def accumulate(metric, y, f, weights=None, batches=BATCHES):
    for rows in batches:
        metric.update_state(y[rows], f[rows], None if weights is None else weights[rows])
    return float(metric.result())


@EVERY
def test_value_is_exact_over_unequal_batches(case):
    metric, y, f, oracle = CASES[case]
    assert isinstance(metric, keras.metrics.Metric)
    metric = rebuilt(metric)
    expected = oracle(y, f, np.ones(37))
    assert accumulate(metric, y, f) == pytest.approx(expected, rel=FLOAT32)
    metric.reset_state()
    assert float(metric.result()) == 0.0
    assert accumulate(metric, y[:9], f[:9], batches=[slice(0, 9)]) == pytest.approx(
        oracle(y[:9], f[:9], np.ones(9)), rel=FLOAT32
    )


@EVERY
@pytest.mark.parametrize("shape", [(37,), (37, 1)])
def test_sample_weights(case, shape):
    metric, y, f, oracle = CASES[case]
    got = accumulate(rebuilt(metric), y, f, WEIGHTS.reshape(shape))
    assert got == pytest.approx(oracle(y, f, WEIGHTS), rel=FLOAT32)


@EVERY
@pytest.mark.parametrize("dtype", ["bool", "int64", "float64"])
@pytest.mark.parametrize("signs", [False, True])
def test_coding_of_the_labels_does_not_matter(case, dtype, signs):
    metric, y, f, _ = CASES[case]
    if signs and dtype == "bool":
        dtype = "int8"
    coded = (2 * y - 1 if signs else y).astype(dtype)
    assert accumulate(rebuilt(metric), coded, f) == accumulate(rebuilt(metric), y, f)


@pytest.mark.parametrize("case", CATEGORICAL)
@pytest.mark.parametrize(
    "labels",
    [CLASSES, CLASSES.reshape(-1, 1), CLASSES.astype("float32"), 0.9 * ONE_HOT + 0.025],
    ids=["indices", "column", "float-indices", "smoothed"],
)
def test_sparse_and_smoothed_labels(case, labels):
    metric, y, f, _ = CASES[case]
    assert accumulate(rebuilt(metric), labels, f) == accumulate(rebuilt(metric), y, f)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(("Binary", "KR"))])
def test_vectors_and_columns_of_binary_labels_agree(case):
    metric, y, f, _ = CASES[case]
    expected = accumulate(rebuilt(metric), y, f)
    assert accumulate(rebuilt(metric), y[:, 0], f[:, 0]) == expected
    assert accumulate(rebuilt(metric), y[:, 0], f) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("negative", [False, True])
def test_scores_that_are_not_finite_certify_nothing(bad, negative):
    f = np.array([[bad, 0.0, 0.0], [1.0, bad, 0.0], [1.0, 0.0, 0.0]])
    robust = metrics.CategoricalProvableRobustAccuracy(0.1)
    average = metrics.CategoricalProvableAvgRobustness(negative_robustness=negative)
    for metric, expected in ((robust, 1 / 3), (average, 0.5 / 3)):
        assert float(metric(np.zeros(3), f)) == pytest.approx(expected)
    labels, scores = np.array([1, 0, 1]), np.array([bad, bad, 1.0])
    robust = metrics.BinaryProvableRobustAccuracy(0.1)
    average = metrics.BinaryProvableAvgRobustness(negative_robustness=negative)
    for metric in (robust, average):
        assert float(metric(labels, scores)) == pytest.approx(1 / 3)


def test_ties_and_the_radius_itself_are_not_robust():
    tie = np.array([[1.0, 1.0], [1.0, 0.5]])
    assert float(metrics.CategoricalProvableRobustAccuracy(0.0)(np.zeros(2), tie)) == 0.5
    assert float(metrics.CategoricalProvableRobustAccuracy(0.25)(np.zeros(2), tie)) == 0.0
    assert metrics.BinaryProvableRobustAccuracy(0.0)(np.ones(2), np.array([0.0, 1.0])) == 0.5
    assert metrics.BinaryProvableRobustAccuracy(0.5)(np.zeros(2), np.array([-0.5, -1.0])) == 0.5


@pytest.mark.parametrize(
    "labels",
    [np.array([-1, 3]), np.zeros((2, 3)), -np.ones((2, 3))],
    ids=["out-of-range", "zeros", "minus-ones"],
)
def test_rows_without_a_true_class_certify_nothing(labels):
    f = np.array([[5.0, 0.0, 1.0], [5.0, 0.0, 1.0]])
    assert float(metrics.CategoricalProvableRobustAccuracy(0.1)(labels, f)) == 0.0
    assert float(metrics.CategoricalProvableAvgRobustness()(labels, f)) == 0.0


@EVERY
def test_config_rebuilds_the_same_metric(case):
    metric = CASES[case][0]
    config = metric.get_config()
    assert all(value is None or type(value) in (str, bool, float, int) for value in config.values())
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric) and copy.get_config() == config
    assert metric.name == type(metric).__name__


def linear_model(outputs, metric, **arguments):
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs)])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=[metric], **arguments)
    return model


X = RNG.normal(size=(37, 3)).astype("float32")


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, "graph") for case in CASES]
    + [
        pytest.param(case, mode, marks=NOT_ON_TORCH if mode == "xla" else ())
        for case in ("MulticlassKR", "CategoricalProvableAvgRobustness")
        for mode in ("eager", "xla")
    ],
)
def test_fit_reports_the_exact_value_and_a_saved_model_too(case, mode, tmp_path):
    metric, y, _, oracle = CASES[case]
    arguments = {"run_eagerly": mode == "eager", "jit_compile": mode == "xla"}
    model = linear_model(y.shape[1], rebuilt(metric), **arguments)
    expected = oracle(y, model.predict(X, verbose=0), np.ones(37))
    history = model.fit(X, y, batch_size=10, epochs=2, verbose=0).history
    assert history[metric.name] == pytest.approx([expected] * 2, rel=FLOAT32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    report = loaded.evaluate(X, y, batch_size=10, verbose=0, return_dict=True)
    assert report[metric.name] == pytest.approx(expected, rel=FLOAT32)


@EVERY
def test_first_update_inside_a_traced_function(case, tf):
    metric, y, f, oracle = CASES[case]
    metric = rebuilt(metric)

    @tf.function
    def update(labels, scores):
        metric.update_state(labels, scores)

    for rows in BATCHES:
        update(tf.constant(y[rows], "float32"), tf.constant(f[rows]))
    assert float(metric.result()) == pytest.approx(oracle(y, f, np.ones(37)), rel=FLOAT32)


def test_stateless_update_with_a_declared_number_of_classes():
    metric = metrics.MulticlassKR(num_classes=4)
    state = [v.value for v in metric.variables]
    for rows in BATCHES:
        state = metric.stateless_update_state(state, ONE_HOT[rows], SCORES[rows])
    expected = kr_of(ONE_HOT, SCORES, np.ones(37))
    assert float(metric.stateless_result(state)) == pytest.approx(expected, rel=FLOAT32)
    assert float(metric.result()) == 0.0


def test_epoch_kr_differs_from_the_mean_of_the_batches_where_that_is_wrong():
    exact = accumulate(metrics.MulticlassKR(), ONE_HOT, SCORES)
    averaged = np.mean([losses.MulticlassKR()(ONE_HOT[b], SCORES[b]) for b in BATCHES])
    assert exact == pytest.approx(kr_of(ONE_HOT, SCORES, np.ones(37)), rel=FLOAT32)
    assert abs(averaged - exact) > 0.05


def test_kr_of_float64_is_computed_in_float64():
    got = accumulate(metrics.MulticlassKR(dtype="float64"), ONE_HOT, SCORES.astype("float64"))
    exact = kr_of(ONE_HOT, SCORES.astype("float64"), np.ones(37))
    assert got == pytest.approx(exact, rel=1e-14)


def test_kr_reads_the_labels_preprocessed_for_several_replicas():
    weighted = keras.ops.convert_to_numpy(losses.process_labels_for_multi_gpu(ONE_HOT))
    got = accumulate(metrics.MulticlassKR(), weighted, SCORES)
    assert got == accumulate(metrics.MulticlassKR(), ONE_HOT, SCORES)


def test_loss_and_metric_of_the_same_name_are_different_registered_classes():
    for name in ("KR", "MulticlassKR"):
        loss, metric = getattr(losses, name)(), getattr(metrics, name)()
        for original in (loss, metric):
            config = keras.saving.serialize_keras_object(original)
            assert type(keras.saving.deserialize_keras_object(config)) is type(original)


def test_scores_in_bfloat16_are_compared_in_float32(tf):
    scores = tf.constant([[1.0, 0.75]], "bfloat16")
    got = metrics.CategoricalProvableAvgRobustness()(np.array([0]), scores)
    assert got.dtype == "float32" and float(got) == 0.125
