"""Conformal sets: their coverage, clean and under attack, and the formula by hand."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.certificates import conformal_scores, conformal_sets

pytestmark = pytest.mark.usefixtures("keras_in_float64")


@pytest.fixture(scope="module")
def problem():
    """A 1-Lipschitz classifier of four overlapping clouds, and samples it was not fit with."""
    rng = np.random.default_rng(3)
    centers = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    y = rng.integers(0, 4, 4600)
    x = centers[y] + rng.standard_normal((4600, 2))
    model = linear(np.array([[1.0, -1, 0, 0], [0, 0, 1.0, -1]]) / np.sqrt(2))
    return model, x, y


def linear(kernel):
    layer = layers.Dense(kernel.shape[1], dtype="float64")
    model = keras.Sequential([keras.Input((len(kernel),), dtype="float64"), layer])
    model.set_weights([kernel, np.zeros(kernel.shape[1])])
    return model


def attacked(model, x, y, radius):
    """Moved by a radius to where the true logit is smallest against the others: gradients."""
    kernel, _ = model.get_weights()
    logits = np.array(model(x))
    logits[np.arange(len(y)), y] = -np.inf
    step = kernel[:, logits.argmax(axis=1)] - kernel[:, y]
    return x + radius * (1 - 1e-6) * (step / np.linalg.norm(step, axis=0)).T


@pytest.mark.parametrize("score", ["margin", "logit"])
def test_coverage_clean_and_under_attack(problem, score):
    model, x, y = problem
    sets = conformal_sets(model, x[:600], y[:600], alpha=0.1, score=score)
    rest, truth = x[600:], y[600:]
    rows = np.arange(len(truth))
    clean = sets.predict(rest)
    # Three standard deviations: of 4000 draws, and of the 600 that were calibrated with.
    spread = 3.0 * math.sqrt(0.09 * (1 / 4000 + 1 / 600))
    assert abs(clean[rows, truth].mean() - 0.9) < spread
    moved = attacked(model, rest, truth, 0.5)
    broken = sets.predict(moved)[rows, truth].mean()
    robust = sets.predict(moved, radius=0.5)
    assert broken < 0.85  # without the radius the attack succeeds
    assert robust[rows, truth].mean() >= clean[rows, truth].mean()
    # Sample by sample: what the clean set holds, the robust one of the moved sample does.
    assert (robust >= clean).all()
    assert robust.sum(axis=1).mean() < 3.5


def test_the_formula(rng):
    model = linear(np.eye(3))
    x, y = rng.standard_normal((19, 3)), rng.integers(0, 3, 19)
    margins = [max(np.delete(row, k)) - row[k] for row, k in zip(x, y, strict=True)]
    sets = conformal_sets(model, x, y, alpha=0.2)
    assert sets.threshold == pytest.approx(sorted(margins)[15])  # ceil(20 * 0.8) = 16
    assert sets.constants == pytest.approx(math.sqrt(2))
    points = rng.standard_normal((40, 3))
    wanted = [
        [max(np.delete(row, k)) - row[k] - math.sqrt(2) * 0.1 <= sets.threshold for k in range(3)]
        for row in points
    ]
    assert sets.predict(points, 0.1).tolist() == wanted
    logits = conformal_sets(model, x, y, alpha=0.2, score="logit")
    assert logits.constants == pytest.approx(1.0)
    assert logits.threshold == pytest.approx(sorted(-x[np.arange(19), y])[15])


def test_too_few_samples_give_all_labels(problem):
    model, x, y = problem
    sets = conformal_sets(model, x[:5], y[:5], alpha=0.1)
    assert sets.threshold == math.inf and sets.predict(x[:7]).all()


@pytest.mark.parametrize("score", ["margin", "logit"])
def test_puncc_calibrates_the_scores(problem, score):
    """Coverage of its sets, clean and under attack: what ours are, sample by sample."""
    conformalization = pytest.importorskip(
        "deel.puncc.api.conformalization", reason="needs puncc: pip install puncc"
    )
    from deel.puncc.api.prediction import BasePredictor

    model, x, y = problem
    rest, truth = x[600:], y[600:]
    moved = attacked(model, rest, truth, 0.5)
    sets = conformal_sets(model, x[:600], y[:600], alpha=0.1, score=score)
    coverages = []
    for radius, seen in ((0.0, rest), (0.0, moved), (0.5, moved)):
        scores = conformal_scores(model, radius, score)
        calibrated = conformalization.SplitConformalPredictor(
            BasePredictor(scores, is_trained=True),
            nonconf_score_func=scores.nonconformity,
            pred_set_func=scores.prediction_sets,
            train=False,
        )
        calibrated.fit(X_calib=x[:600], y_calib=y[:600])
        _, found = calibrated.predict(seen, alpha=0.1)
        assert found == [np.flatnonzero(row).tolist() for row in sets.predict(seen, radius)]
        coverages.append(np.mean([label in each for label, each in zip(truth, found, strict=True)]))
    clean, broken, robust = coverages
    assert broken < 0.85 < clean <= robust


def test_scores_are_calibrated_by_hand(problem):
    """The three functions by themselves, as any library would call them."""
    model, x, y = problem
    sets = conformal_sets(model, x[:600], y[:600], alpha=0.1)
    scores = conformal_scores(model, radius=0.3)
    of_labels = np.sort(scores.nonconformity(scores.predict(x[:600]), y[:600]))
    quantile = np.array(of_labels[math.ceil(601 * 0.9) - 1])
    (found,) = scores.prediction_sets(scores.predict(x[600:700]), scores_quantile=quantile)
    assert found == [np.flatnonzero(row).tolist() for row in sets.predict(x[600:700], 0.3)]
    with pytest.raises(ValueError, match="`radius` must be one number"):
        conformal_scores(model, [0.1, 0.2])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"alpha": 0.0}, "`alpha`"),
        ({"alpha": 1.0}, "`alpha`"),
        ({"alpha": None}, "`alpha` must be a number, above 0"),
        ({"alpha": [0.1, 0.2]}, "`alpha` must be a number, above 0"),
        ({"score": "softmax"}, "`score`"),
        ({"y": [0, 1, 9]}, "`y`"),
    ],
)
def test_faults(problem, arguments, text):
    model, x, y = problem
    with pytest.raises((ValueError, TypeError), match=text):
        conformal_sets(model, x[:3], **{"y": y[:3], **arguments})


def test_models_and_radii_that_do_not_fit(problem):
    model, x, y = problem
    single = linear(np.ones((2, 1)))
    with pytest.raises(ValueError, match="two logits"):
        conformal_sets(single, x[:3], y[:3] % 2)
    sets = conformal_sets(model, x[:50], y[:50])
    with pytest.raises(ValueError, match="`radius` must be one number"):
        sets.predict(x[:2], [0.1, 0.2])
    with pytest.raises(ValueError, match="`radius` must be finite"):
        sets.predict(x[:2], -0.1)


def test_a_model_that_was_changed_is_refused():
    model = linear(np.eye(2))
    x = np.random.default_rng(0).standard_normal((20, 2))
    sets = conformal_sets(model, x, np.arange(20) % 2)
    model.layers[0].bias.assign([1.0, 0.0])
    with pytest.raises(ValueError, match="when it was calibrated"):
        sets.predict(x)
