"""Certificates as metrics: against loops in float64, and current at every evaluation."""

import pickle

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import certificate_metrics, losses, metrics
from deel_lip_tf.certificates import certify, margin_lipschitz_constants
from deel_lip_tf.losses import Certificate_Binary, Certificate_Multiclass
from deel_lip_tf.metrics import CertifiedRobustAccuracy, certified

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

# a margin in float32 against one in float64, both near 1
FLOAT32 = 1e-5
RNG = np.random.default_rng(2)
X = RNG.normal(size=(50, 6)).astype("float32")
CLASSES = RNG.integers(0, 3, 50)
Y = np.eye(3)[CLASSES]
SIGNS = 2 * RNG.integers(0, 2, 50) - 1
# batches of unequal sizes, whose means do not average to the mean
BATCHES = [slice(0, 1), slice(1, 30), slice(30, 50)]


def network(head, kind=lip.Sequential):
    # A square kernel: of one with more columns than rows, more is known than the norms below.
    layers = [keras.Input((6,)), lip.layers.SpectralDense(6), lip.layers.GroupSort2()]
    model = kind([*layers, *head])
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


HEADS = {
    "Frobenius": lambda n: [lip.layers.FrobeniusDense(n)],
    "Spectral": lambda n: [lip.layers.SpectralDense(n)],
    "Dense": lambda n: [keras.layers.Dense(n)],
    "no linear head": lambda n: [lip.layers.SpectralDense(n), keras.layers.ReLU()],
}
HEAD = pytest.mark.parametrize("head", HEADS)


def radii_of(model, x, y, is_linear):
    """Loop in float64 with the constants of an SVD, 0 where the prediction is wrong."""
    kernels = [
        np.asarray(layer.vanilla_export().kernel if hasattr(layer, "wbar") else layer.kernel)
        for layer in model.layers
        if getattr(layer, "kernel", None) is not None
    ]
    backbone, head = np.linalg.norm(kernels[0], 2), kernels[1].astype("float64")
    whole = backbone * np.linalg.norm(head, 2)
    radii = []
    for f, true in zip(model.predict(x, verbose=0).astype("float64"), y, strict=True):
        if len(f) == 1:
            divisor = backbone * np.linalg.norm(head) if is_linear else whole
            radii.append(max(0.0, true * f[0] / divisor))
            continue
        ratios = []
        for j in range(len(f)):
            pair = backbone * np.linalg.norm(head[:, true] - head[:, j])
            divisor = min(pair, 2**0.5 * whole) if is_linear else 2**0.5 * whole
            ratios += [(f[true] - f[j]) / divisor] if j != true else []
        radii.append(max(0.0, min(ratios)))
    return np.array(radii)


def result(metric, model, x=X, y=Y, weights=None):
    metric.reset_state()
    for batch in BATCHES:
        some = None if weights is None else weights[batch]
        metric.update_state(y[batch], model(x[batch]), some)
    return float(metric.result())


# A plain head is certified by its own kernel, and warned of.
@pytest.mark.filterwarnings("ignore:Sequential model contains a layer which is not a 1-Lipschitz")
@HEAD
def test_mean_radius_of_classes(head):
    model = network(HEADS[head](3))
    radii = radii_of(model, X, CLASSES, head != "no linear head")
    assert 0.05 < (radii > 0).mean() < 0.95  # both kinds of sample
    metric = Certificate_Multiclass(model)
    for labels in (Y, 2 * Y - 1, Y.astype("int32"), CLASSES, CLASSES[:, None], 0.9 * Y + 0.03):
        assert result(metric, model, y=labels) == pytest.approx(radii.mean(), rel=FLOAT32)
    assert radii.mean() == pytest.approx(certify(model, X, Y).radius.mean(), rel=FLOAT32)


# A plain head is certified by its own kernel, and warned of.
@pytest.mark.filterwarnings("ignore:Sequential model contains a layer which is not a 1-Lipschitz")
@HEAD
def test_mean_radius_of_two_signs(head):
    model = network(HEADS[head](1))
    radii = radii_of(model, X, SIGNS, head != "no linear head")
    metric = Certificate_Binary(model)
    for labels in (SIGNS, SIGNS[:, None], (SIGNS > 0), (SIGNS > 0).astype("float32")[:, None]):
        assert result(metric, model, y=labels) == pytest.approx(radii.mean(), rel=FLOAT32)


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(("outputs", "labels"), [(3, CLASSES), (1, SIGNS)])
def test_share_of_certified_samples(outputs, labels, radius):
    model = network(HEADS["Frobenius"](outputs))
    expected = certify(model, X, labels).certified_accuracy(radius)
    metric = CertifiedRobustAccuracy(model, radius)
    assert result(metric, model, y=labels) == pytest.approx(expected, rel=FLOAT32)
    radii = radii_of(model, X, labels, True)
    if radius > 0:
        assert expected == (radii >= radius).mean() > 0


def test_sample_weights():
    model, weights = network(HEADS["Spectral"](3)), RNG.uniform(size=50)
    expected = np.average(radii_of(model, X, CLASSES, True), weights=weights)
    metric = Certificate_Multiclass(model)
    assert result(metric, model, weights=weights) == pytest.approx(expected, rel=FLOAT32)


def test_nothing_is_certified_without_finite_scores_label_or_margin():
    model = network(HEADS["Spectral"](3))
    y = np.eye(3)[[0, 0, 0, 1]]
    y[2] = 0
    f = np.array([[np.nan, 0, 0], [np.inf, 0, 0], [1, 0, 0], [2, 2, 0]], "float32")
    for metric in (Certificate_Multiclass(model), CertifiedRobustAccuracy(model, 0.01)):
        metric.update_state(y, f)
        assert float(metric.result()) == 0


def test_constants_are_rounded_upward():
    model = network(HEADS["Dense"](3), keras.Sequential)
    exact = Certificate_Multiclass(model, dtype="float64").divisors.numpy()
    rounded = Certificate_Multiclass(model).divisors.numpy()
    assert rounded.dtype == "float32" and (rounded.astype("float64") >= exact).all()
    assert rounded == pytest.approx(exact, rel=2e-7)
    assert Certificate_Multiclass(model, dtype="bfloat16").divisors.dtype == "float32"


OPTIONS = [dict(), dict(jit_compile=True), dict(run_eagerly=True), dict(steps_per_execution=3)]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_evaluation_reads_the_model_as_it_is(options):
    model = network(HEADS["Spectral"](3))
    metric = Certificate_Multiclass(model)

    def compile_again():
        shuffle()
        model.compile("adam", losses.HKR(1.0), metrics=[metric], **options)
        shuffle()

    def shuffle():
        model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])

    changes = [
        compile_again,
        shuffle,
        lambda: model.fit(X, Y, verbose=0),
        lambda: model.layers[0].set_klip_factor(3.0),
        lambda: model.layers[2].kernel.assign(-model.layers[2].kernel),
        compile_again,  # Keras does not reset a metric before its first use
    ]
    if "jit_compile" in options:  # XLA takes half a minute for the others
        changes = changes[:3]
    seen = []
    for change in changes:
        change()
        seen.append(model.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)[metric.name])
        assert seen[-1] == pytest.approx(radii_of(model, X, CLASSES, True).mean(), rel=FLOAT32)
    assert len({round(value, 6) for value in seen}) == len(changes)


@pytest.fixture
def proofs(monkeypatch):
    """The models of which constants were proven, one for each proof."""
    found, prove = [], certified.prove
    monkeypatch.setattr(
        certified, "prove", lambda m, **how: found.append(m.name) or prove(m, **how)
    )
    return found


def test_metrics_of_several_radii_share_one_proof_an_epoch(proofs):
    model, radii = network(HEADS["Spectral"](3)), (0.0, 0.05, 0.1, 0.3)
    at = [CertifiedRobustAccuracy(radius=r, name=f"at {r}") for r in radii]
    model.compile("sgd", losses.MulticlassHKR(), metrics=at)
    assert len(proofs) == 1
    history = model.fit(X, Y, validation_data=(X, Y), epochs=3, verbose=0).history
    assert len(proofs) == 4
    shares = [history[f"val_at {radius}"][-1] for radius in radii]
    expected = certify(model, X, CLASSES).certified_accuracy(list(radii))
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    assert shares[0] > shares[-1]


CHANGES = {
    "weights": lambda model: model.set_weights([2.0 * w + 1.0 for w in model.get_weights()]),
    "constant": lambda model: model.layers[0].set_klip_factor(3.0),
    "activation": lambda model: setattr(model.layers[-1], "activation", keras.activations.selu),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_proven_is_not_said_of_a_changed_model(change, proofs):
    model = network(HEADS["Spectral"](3))
    metric = CertifiedRobustAccuracy(model)
    metric.reset_state()
    assert len(proofs) == 1
    CHANGES[change](model)
    metric.reset_state()
    assert len(proofs) == 2
    expected = margin_lipschitz_constants(model)
    np.testing.assert_allclose(metric.divisors, expected, rtol=1e-6, atol=1e-40)


def test_a_call_that_is_replaced_later_is_refused_as_ever():
    model = network(HEADS["Spectral"](3))
    metric = CertifiedRobustAccuracy(model)
    model.layers[-1].call = lambda x: 100.0 * x[:, :3]
    with pytest.raises(ValueError, match="replaced|call"):
        metric.reset_state()


def test_weights_loaded_after_compile_and_before_the_first_evaluation(tmp_path):
    model = network(HEADS["Dense"](3), keras.Sequential)
    model.save_weights(tmp_path / "these.weights.h5")
    other = network(HEADS["Dense"](3), keras.Sequential)
    other.compile("adam", "mse", metrics=[Certificate_Multiclass(other)])
    other.load_weights(tmp_path / "these.weights.h5")
    got = other.evaluate(X, Y, verbose=0)[1]
    assert got == pytest.approx(radii_of(model, X, CLASSES, True).mean(), rel=FLOAT32)


def test_fit_reports_them_by_name():
    model = network(HEADS["Frobenius"](3))
    both = [Certificate_Multiclass(model), CertifiedRobustAccuracy(model, 0.1)]
    model.compile(keras.optimizers.Adam(0.05), losses.MulticlassHKR(5.0), metrics=both)
    history = model.fit(X, Y, epochs=3, validation_data=(X, Y), verbose=0).history
    certificates = certify(model, X, Y)
    got = history["val_Certificate_Multiclass"]
    assert got[-1] == pytest.approx(certificates.radius.mean(), rel=FLOAT32)
    assert len(set(got)) == 3
    expected = certificates.certified_accuracy(0.1)
    assert history["val_CertifiedRobustAccuracy"][-1] == pytest.approx(expected, rel=FLOAT32)
    assert "Certificate_Multiclass" in history


def functional(layers):
    x = output = layers[0]
    for layer in layers[1:]:
        output = layer(output)
    return lip.Model(x, output)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [lip.Sequential, functional])
@pytest.mark.parametrize(
    ("make", "outputs", "labels"),
    [
        (Certificate_Multiclass, 3, Y),
        (Certificate_Binary, 1, SIGNS),
        (lambda model: CertifiedRobustAccuracy(model, 0.07, name="at"), 3, Y),
    ],
    ids=["Certificate_Multiclass", "Certificate_Binary", "CertifiedRobustAccuracy"],
)
def test_saved_and_loaded_with_the_compiled_model(kind, make, outputs, labels, tmp_path):
    model = network(HEADS["Spectral"](outputs), kind)
    model.compile("adam", "mse", metrics=[make(model)])
    model.fit(X, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.evaluate(X, labels, verbose=0, return_dict=True)
    assert loaded.evaluate(X, labels, verbose=0, return_dict=True) == pytest.approx(expected)
    loaded.layers[-1].bias.assign(loaded.layers[-1].bias + 0.5)
    after = loaded.evaluate(X, labels, verbose=0, return_dict=True)
    assert after != pytest.approx(expected)
    metric = make(loaded)
    assert after[metric.name] == pytest.approx(result(metric, loaded, y=labels), rel=FLOAT32)


def test_a_metric_without_a_model_says_so(tmp_path):
    model = network(HEADS["Spectral"](3), keras.Sequential)
    model.compile("adam", "mse", metrics=[Certificate_Multiclass(model)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="has no model to certify"):
        loaded.evaluate(X, Y, verbose=0)
    loaded.compile("adam", "mse", metrics=[Certificate_Multiclass(loaded)])
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0))


def test_a_metric_keeps_no_model_alive():
    metric = Certificate_Multiclass(network(HEADS["Spectral"](3)))
    with pytest.raises(ValueError, match="keep a reference"):
        keras.utils.clear_session()
        metric.reset_state()


def small(*layers):
    return keras.Sequential([keras.Input((6,)), *layers])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Certificate_Multiclass("model"), TypeError, "`model` must be a Keras model"),
        (
            lambda: Certificate_Multiclass(keras.Sequential([keras.layers.Dense(3)])),
            ValueError,
            "`model` must be built",
        ),
        (
            lambda: Certificate_Multiclass(small(keras.layers.Dense(3, "softmax"))),
            ValueError,
            "must return logits",
        ),
        (
            lambda: CertifiedRobustAccuracy(small(keras.layers.Dense(3, "exponential"))),
            ValueError,
            "No Lipschitz bound is known for",
        ),
        (
            lambda: Certificate_Multiclass(small(keras.layers.Dense(1))),
            ValueError,
            "use `Certificate_Binary`",
        ),
        (
            lambda: Certificate_Binary(small(keras.layers.Dense(2))),
            ValueError,
            "use `Certificate_Multiclass`",
        ),
        (
            lambda: CertifiedRobustAccuracy(small(keras.layers.Dense(2)), -0.1),
            ValueError,
            "`radius` must be finite and at least 0",
        ),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", certificate_metrics.__all__)
def test_they_are_found_among_losses_and_metrics(name):
    cls = getattr(certificate_metrics, name)
    assert getattr(losses, name) is cls is getattr(metrics, name)
    assert issubclass(cls, keras.metrics.Metric) and cls().name == name
    assert name in dir(losses) and name in dir(metrics)
    written = keras.saving.serialize_keras_object(cls())
    assert written["registered_name"] == f"deel_lip_tf>{name}"
    assert type(keras.saving.deserialize_keras_object(written)) is cls


@pytest.mark.parametrize(
    "name", ["KR", "BinaryProvableAvgRobustness", *certificate_metrics.__all__]
)
def test_classes_are_pickled_under_their_new_and_their_former_modules(name):
    cls = getattr(metrics, name)
    assert pickle.loads(pickle.dumps(cls)) is cls
    former = "certificate_metrics" if name in certificate_metrics.__all__ else "metrics"
    assert pickle.loads(f"cdeel_lip_tf.{former}\n{name}\n.".encode()) is cls


@pytest.mark.parametrize("room", [losses, metrics])
def test_other_names_are_missed_as_in_any_module(room):
    with pytest.raises(AttributeError, match=f"'{room.__name__}' has no attribute 'Certificate'"):
        _ = room.Certificate
    assert {"__all__", "__file__", *room.__all__} <= set(dir(room))


def test_what_is_imported_with_a_star():
    names: dict = {}
    exec("from deel_lip_tf.metrics import *", names)  # what a notebook does
    assert names["Certificate_Binary"] is Certificate_Binary and names["KR"] is metrics.KR
