"""The question and the answer: statuses, witnesses, radii, and what is refused."""

import functools
import logging
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf import verify
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation.lipschitz import constants
from tests._tables import verify_cases

# Every model here is tiny, and its own.
pytestmark = pytest.mark.usefixtures("eagerly")


def classifier(outputs=3, end=None, seed=0, shape=(4, 4, 1)):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(outputs, activation=end),
        ]
    )


def images(count=12, shape=(4, 4, 1), seed=1):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype("float32")


def predictions(model, x):
    return np.asarray(model(x)).argmax(axis=1)


@pytest.mark.parametrize(
    ("method", "norm"),
    [
        ("auto", "linf"),
        ("auto", "l2"),
        ("auto", "l1"),
        ("ibp", "linf"),
        ("forward", "l2"),
        ("sdp-crown", "l2"),
    ],
)
def test_no_sample_is_both_and_no_proof_is_wrong(method, norm):
    model, x = classifier(end="softmax"), images(6)
    labels = predictions(model, x)
    eps = {"linf": 0.08, "l2": 0.3, "l1": 1.0}[norm]
    result = verify.robustness(model, x, labels, eps, norm, method=method)
    domain = verify.ball(x, eps, norm)
    robust, falsified = result.status == "robust", result.status == "falsified"
    assert set(result.status) <= {"robust", "falsified", "unknown"}
    assert (robust == (result.margin > 0)).all()
    assert np.isnan(result.witness[~falsified]).all()
    assert (predictions(model, result.witness[falsified]) != labels[falsified]).all()
    assert domain[falsified].contains(result.witness[falsified]).all()
    assert (result.method[result.status == "unknown"] == "").all()
    assert (result.seconds > 0).all()
    # Random corners of the box of a robust sample keep the label.
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = domain.center + eps * rng.uniform(-1, 1, x.shape)
        if norm != "linf":
            offset = rng.normal(size=x.shape)
            order = int(norm[1])
            length = np.linalg.norm(offset.reshape(len(x), -1), order, axis=1)
            points = domain.center + eps * offset / length.reshape(-1, 1, 1, 1)
        points = np.clip(points, 0, 1)
        assert (predictions(model, points)[robust] == labels[robust]).all()


def test_all_three_answers_occur():
    model, x = classifier(), images(40)
    result = verify.robustness(model, x, None, 0.08, method="crown")
    assert result.count("robust") and result.count("falsified")
    assert "robust" in str(result) and len(result) == 40
    tight = verify.robustness(model, x, None, 0.08, method="ibp")
    assert tight.count("robust") < result.count("robust")


def test_a_wrong_prediction_is_its_own_witness():
    model, x = classifier(), images(5)
    labels = (predictions(model, x) + 1) % 3
    result = verify.robustness(model, x, labels, 0.01)
    assert (result.status == "falsified").all() and (result.method == "prediction").all()
    np.testing.assert_array_equal(result.witness, x.astype(np.float64))


def test_eps_0_is_the_prediction():
    model, x = classifier(), images()
    for norm in ("linf", "l2", "l1"):
        result = verify.robustness(model, x, None, 0.0, norm)
        assert (result.status == "robust").all()
        logits = np.sort(np.asarray(model(x)), axis=1)
        np.testing.assert_allclose(result.margin, logits[:, -1] - logits[:, -2], atol=1e-5)


@pytest.mark.parametrize("end", [None, "softmax"])
def test_labels_in_every_encoding_get_the_same_answers(end):
    model, x = classifier(end=end), images(6)
    labels = predictions(model, x)
    labels[::3] = (labels[::3] + 1) % 3
    rows = np.eye(3)[labels]
    encodings = [labels, labels[:, None], labels.astype("float32"), list(labels), rows]
    encodings += [rows.astype(bool), 2 * rows - 1, 0.7 * rows + 0.1]  # probabilities at last
    answers = [verify.robustness(model, x, y, 0.03, method="ibp").status for y in encodings]
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
    assert (answers[0][::3] == "falsified").all()


def test_integer_labels_prove_nothing_false():
    """decomon answers "robust" for integer labels whatever the label is."""
    model, x = classifier(), images(20)
    for label in range(3):
        labels = np.full(20, label)
        result = verify.robustness(model, x, labels, 0.02, method="crown")
        wrong = predictions(model, x) != label
        assert wrong.any() and (result.status[wrong] == "falsified").all()


def test_boxes_of_image_shape_prove_nothing_false():
    """decomon loses the later sub-boxes of image-shaped boxes, and calls the rest robust."""
    model, x = classifier(), images(6)
    labels = predictions(model, x)
    result = verify.prove(model, verify.box(np.zeros_like(x), np.ones_like(x)), labels, "crown")
    everywhere = images(3000, seed=5)
    assert len(set(predictions(model, everywhere))) > 1
    assert (result.status != "robust").all()
    halves = [verify.box(0 * x, 0 * x + 0.5), verify.box(0 * x + 0.5, 0 * x + 1.0)]
    for half in halves:
        status = verify.prove(model, half, labels, "crown").status
        inside = half.lower[:1] + 0.5 * everywhere
        for sample in np.flatnonzero(status == "robust"):
            assert (predictions(model, inside) == labels[sample]).all()


@pytest.mark.parametrize("method", list(verify_cases.METHODS))
def test_softplus_proves_nothing_false(method):
    """decomon's upper line of softplus lies below it."""
    x = keras.Input((2,), dtype="float64")
    hidden = layers.Dense(3, activation="softplus", dtype="float64")(x)
    model = keras.Model(x, layers.Dense(2, dtype="float64")(hidden))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) * 3)
    center = rng.uniform(-1, 1, (20, 2))
    domain = verify.ball(center, 0.7, clip=None)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 41)] * 2), -1).reshape(-1, 1, 2)
    found = np.asarray(model((center + grid).reshape(-1, 2))).reshape(-1, 20, 2)
    bounds = verify.bounds(model, domain, [[1.0, -1.0]], method)
    gap = (found[..., 0] - found[..., 1])[..., None]
    assert (bounds.lower <= gap.min(axis=0)).all() and (bounds.upper >= gap.max(axis=0)).all()


@pytest.mark.parametrize("end", [None, "sigmoid"])
def test_a_single_output_has_two_classes(end):
    model, x = classifier(1, end), images(20)
    threshold = 0.5 if end else 0.0
    labels = (np.asarray(model(x))[:, 0] > threshold).astype(int)
    result = verify.robustness(model, x, labels, 0.01)
    assert result.count("robust") > 0
    wide = verify.robustness(model, x, labels, 0.5, method="crown")
    refuted = wide.method == "attack"
    assert refuted.any(), "the attack knows no single output"
    outputs = np.asarray(model(wide.witness[refuted]))[:, 0]
    assert ((outputs > threshold) != labels[refuted]).all()
    assert (verify.robustness(model, x, 1 - labels, 0.01).status == "falsified").all()
    assert (verify.robustness(model, x, None, 0.01).status == result.status).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_domain_ends_at_the_data_range(norm, side):
    """The label changes beyond the range only, a little way off."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(2)])
    model.set_weights([np.array([[0.0, side]]), np.array([0.55, -0.5 * side])])
    x = np.array([[0.5 + 0.4 * side]])
    within = verify.robustness(model, x, [0], 0.3, norm)
    assert within.status[0] == "robust"
    np.testing.assert_allclose(within.margin, 0.05, atol=1e-6)
    beyond = verify.robustness(model, x, [0], 0.3, norm, clip=None)
    assert beyond.status[0] == "falsified" and abs(beyond.witness[0, 0] - 0.5) > 0.55


def test_boxes_of_balls_are_rounded_outward():
    x, eps = np.random.default_rng(0).uniform(size=(50, 4)), 0.1
    domain = verify.ball(x, eps, clip=None)
    for middle, low, high in zip(x.flat, domain.lower.flat, domain.upper.flat, strict=True):
        assert Fraction(low) <= Fraction(middle) - Fraction(eps)
        assert Fraction(high) >= Fraction(middle) + Fraction(eps)
        assert high - low < 0.2 + 1e-15


def test_time_is_limited():
    model, x = classifier(), images()
    result = verify.robustness(model, x, None, 0.05, time_limit=1e-9)
    assert (result.status == "unknown").all() and (result.margin == -np.inf).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("clip", [(0, 1), None])
def test_certified_radii_are_proven_and_nearly_the_largest(norm, clip):
    tf.config.run_functions_eagerly(False)  # one graph for forty radii, and for both ranges
    model, x = shared_lipschitz_classifier(), images(4, (6,))
    radius = verify.certified_radius(model, x, norm=norm, clip=clip, method="crown")
    assert (radius > 0).all() and np.isfinite(radius).all()
    proven = verify.robustness(model, x, None, radius, norm, clip, "crown")
    assert (proven.status == "robust").all()
    beyond = verify.robustness(model, x, None, radius * 1.01 + 1e-9, norm, clip, "crown")
    farthest = verify.ball(x, 1e9, norm, clip)
    all_of_it = verify.prove(model, farthest, None, "crown").status == "robust" if clip else False
    assert ((beyond.status != "robust") | all_of_it).all()


def test_a_wrong_label_has_radius_0():
    model, x = classifier(), images(5)
    labels = (predictions(model, x) + 1) % 3
    assert (verify.certified_radius(model, x, labels) == 0).all()


def test_a_constant_classifier_is_robust_on_all_data():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model.set_weights([np.zeros((3, 2)), np.array([1.0, 0.0])])
    radius = verify.certified_radius(model, np.full((1, 3), 0.2), norm="linf")
    assert radius[0] >= 0.8


def lipschitz_classifier():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            lip.SpectralDense(8),
            lip.GroupSort2(),
            lip.SpectralDense(8),
            lip.MaxMin(),
            lip.SpectralDense(3),
        ]
    )


@functools.cache
def shared_lipschitz_classifier():
    """One for the tests that do not change it: its graphs are kept."""
    return lipschitz_classifier()


def test_proven_constants_make_relaxations_tighter(monkeypatch):
    model, x = lipschitz_classifier(), images(10, (6,))
    domain = verify.ball(x, 2.0, "l2", None)
    rows = [[1.0, -1.0, 0.0]]
    tight = verify.bounds(model, domain, rows, "crown").lower
    by_constant = verify.bounds(model, domain, rows, "lipschitz").lower
    monkeypatch.setattr(
        "deel_lip_tf.verify.propagation.lipschitz.has_small_constants", lambda program: False
    )
    program_of(model).compiled.clear()
    alone = verify.bounds(model, domain, rows, "crown").lower
    assert (tight >= alone - 1e-9).all() and (tight > alone + 1e-6).any()
    assert (by_constant > alone).any()
    program_of(model).compiled.clear()


def test_the_bound_by_the_constant_is_that_of_the_certificates():
    model, x = lipschitz_classifier(), images(10, (6,))
    radius = verify.certified_radius(model, x, norm="l2", clip=None, method="lipschitz")
    logits = np.sort(np.asarray(model(x)), axis=1)
    # The head is orthogonal: two of its columns are at a distance of sqrt(2).
    expected = (logits[:, -1] - logits[:, -2]) / np.sqrt(2)
    np.testing.assert_allclose(radius, expected, rtol=3e-3)
    assert constants(program_of(model))[0] == 1.0


def test_a_model_that_learned_is_lowered_again():
    model, x = classifier(), images(4)
    before = verify.robustness(model, x, None, 0.0).margin
    model.layers[-1].kernel.assign(3.0 * model.layers[-1].kernel)
    after = verify.robustness(model, x, None, 0.0).margin
    np.testing.assert_allclose(after, 3.0 * before, rtol=1e-4)
    assert program_of(model) is program_of(model)
    assert program_of(model) is program_of(model, model.input_shape[1:])
    own = lipschitz_classifier()
    first = program_of(own)
    own.layers[0].set_klip_factor(0.5)
    assert program_of(own) is not first


def test_the_model_is_never_changed():
    model, x = classifier(end="softmax"), images(4)
    before, outputs = model.to_json(), np.asarray(model(x))
    weights = model.get_weights()
    verify.robustness(model, x, None, 0.05)
    assert model.to_json() == before
    np.testing.assert_array_equal(np.asarray(model(x)), outputs)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bounds_of_layers_are_named():
    model, x = classifier(), images(2)
    bounds = verify.bounds(model, verify.ball(x, 0.01), per_layer=True)
    assert bounds.lower.shape == (2, 3)
    assert {name: low.shape for name, (low, _) in bounds.layers.items()} == {
        layer.name: (2, *layer.output.shape[1:]) for layer in model.layers
    }
    other = verify.bounds(model, verify.ball(x, 0.01), np.ones((2, 4, 3)))
    assert other.lower.shape == (2, 4) and other.layers is None


def test_traced_and_eager_bounds_agree():
    model, x = classifier(), images(3)
    domain = verify.ball(x, 0.05, "l2")
    eager = verify.bounds(model, domain)
    tf.config.run_functions_eagerly(False)
    program_of(model).compiled.clear()
    traced = verify.bounds(model, domain)
    np.testing.assert_allclose(traced.lower, eager.lower, rtol=1e-12, atol=1e-12)


def test_methods_one_after_the_other_are_traced_without_a_warning(caplog):
    """TensorFlow warns where a function is traced again and again; a graph is traced once."""
    tf.config.run_functions_eagerly(False)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    with caplog.at_level(logging.WARNING):
        for count in (1, 3):
            for method in (*verify_cases.METHODS, "auto"):
                verify.robustness(model, images(count, (2,)), None, 0.5, method=method)
    assert "retracing" not in caplog.text


def test_blocks_of_rows_change_nothing(monkeypatch):
    model, x = classifier(shape=(6, 6, 1)), images(3, (6, 6, 1))
    domain = verify.ball(x, 0.05)
    whole = verify.bounds(model, domain)
    monkeypatch.setattr("deel_lip_tf.verify.propagation.backward._MEMORY", 300)
    monkeypatch.setattr("deel_lip_tf.verify.methods._ENTRIES", 300)
    program_of(model).compiled.clear()
    parts = verify.bounds(model, domain)
    np.testing.assert_allclose(parts.lower, whole.lower, rtol=1e-12, atol=1e-12)
    program_of(model).compiled.clear()


ONE = np.full((1, 4, 4, 1), 0.5)
REFUSED = {
    "NaN": (dict(x=ONE * np.nan), "finite"),
    "infinite": (dict(x=ONE * np.inf), "finite"),
    "text": (dict(x=np.array([["a"]])), "real numbers"),
    "no samples": (dict(x=ONE[:0]), "n > 0"),
    "one image alone": (dict(x=ONE[0]), "shape"),
    "flat": (dict(x=ONE.reshape(1, 16)), "input shape"),
    "negative eps": (dict(eps=-0.1), "eps"),
    "NaN eps": (dict(eps=np.nan), "eps"),
    "eps for others": (dict(eps=[0.1, 0.2]), "eps"),
    "unknown norm": (dict(norm="l3"), "linf, l2, l1"),
    "inverted range": (dict(clip=(1, 0)), "clip"),
    "out of range": (dict(x=ONE * 300), "data range"),
    "labels of others": (dict(y=[0, 1]), "1 samples"),
    "label too large": (dict(y=[3]), "0 to 2"),
    "negative label": (dict(y=[-1]), "0 to 2"),
    "fractional label": (dict(y=[0.5]), "0 to 2"),
    "two classes": (dict(y=[[1, 1, 0]]), "one-hot"),
    "no class": (dict(y=[[0, 0, 0]]), "one-hot"),
    "equal probabilities": (dict(y=[[0.2, 0.4, 0.4]]), "one-hot"),
    "NaN label": (dict(y=[np.nan]), "finite"),
    "too many columns": (dict(y=[[0, 1, 0, 0]]), "shape"),
    "unknown method": (dict(method="magic"), "'crown'"),
    "no time": (dict(time_limit=0), "time_limit"),
    "no number of seconds": (dict(time_limit="1"), "time_limit"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_mistakes_are_told(name):
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        verify.robustness(classifier(), **{"x": ONE, "eps": 0.1, **arguments})


def test_impossible_domains_are_told():
    with pytest.raises(ValueError, match="exchanged"):
        verify.box(np.ones((1, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="same shape"):
        verify.box(np.ones((1, 3)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="finite"):
        verify.box(np.full((1, 3), -np.inf), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="center"):
        verify.box(np.zeros((1, 3)), np.ones((1, 3)), np.full((1, 3), 2.0))
    with pytest.raises(ValueError, match="`outputs`"):
        verify.bounds(classifier(), verify.ball(ONE, 0.1), np.ones((2, 5)))


def test_what_is_no_classifier_is_told():
    model = keras.Sequential([keras.Input((4,)), layers.Reshape((2, 2))])
    with pytest.raises(ValueError, match="classifier"):
        verify.robustness(model, np.zeros((1, 4)), None, 0.1)
    x, y = keras.Input((4,)), keras.Input((4,))
    both = keras.Model([x, y], layers.Add()([x, y]))
    with pytest.raises(ValueError, match="2 inputs"):
        verify.robustness(both, np.zeros((1, 4)), None, 0.1)
    with pytest.raises(TypeError, match="Keras model"):
        verify.robustness(ops.relu, np.zeros((1, 4)), None, 0.1)


def test_fixed_features_stay_fixed():
    model, x = classifier(), images(3)
    lower, upper = x - 0.3, x + 0.3
    lower[:, 1:], upper[:, 1:] = x[:, 1:], x[:, 1:]
    fixed = verify.bounds(model, verify.box(lower, upper))
    free = verify.bounds(model, verify.box(x - 0.3, x + 0.3))
    assert (fixed.upper - fixed.lower < free.upper - free.lower).all()
