"""Sets of labels that hold the true one with a given probability, under perturbations too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._rounding import UP
from deel_lip_tf._validation.labels import true_classes
from deel_lip_tf._validation.scalars import Rule, check_choice, number
from deel_lip_tf.certificates.fingerprints import model_fingerprint
from deel_lip_tf.certificates.proofs import Proof, bounded, output_constants, prove
from deel_lip_tf.certificates.radii import predicted
from deel_lip_tf.certificates.statements.evaluation import checked_radius, outputs_with_errors

_LEVEL = Rule(lambda value: 0.0 < value < 1.0, "above 0 and below 1")


@dataclass(frozen=True)
class ConformalScores:
    """Scores of labels under perturbations, in the form that `puncc` calibrates.

    Attributes:
        model: the classifier.
        radius: by how much samples may have been moved, at most, in the L2 norm.
        score: "logit" or "margin".
        constants: (classes,) proven Lipschitz constants of the scores.
        model_fingerprint: SHA-256 of the model that they were proven for.
        batch_size: samples evaluated together, at most.

    Example:
        >>> model = lip.Sequential([keras.Input((3,)), lip.layers.SpectralDense(3)])
        >>> scores = lip.certificates.conformal_scores(model, radius=0.5, score="logit")
        >>> ends = scores.predict(np.eye(3))  # smallest and largest score of each label
        >>> ends.shape, bool(np.allclose(ends[..., 1] - ends[..., 0], 0.5, atol=1e-4))
        ((3, 3, 2), True)
        >>> sets = scores.prediction_sets(ends, scores_quantile=np.inf)
        >>> sets
        ([[0, 1, 2], [0, 1, 2], [0, 1, 2]],)
    """

    model: keras.Model
    radius: float
    score: str
    constants: np.ndarray
    model_fingerprint: str
    batch_size: int = 256

    def predict(self, X: Any) -> np.ndarray:
        """The scores of all labels, computed in float64.

        Args:
            X: (n, ...) samples as they are seen, of the model's input shape.

        Returns:
            (n, classes, 2): the smallest score that the label may have had before the sample was
            moved by `radius`, and the largest that it has as it is seen; rounding counts in both.

        Raises:
            ValueError: an argument does not fit, or the model has other weights than when its
                constants were proven.
        """
        if model_fingerprint(self.model) != self.model_fingerprint:
            raise ValueError(
                "`model` must be what it was when it was calibrated. Received: "
                f"{self.model.name!r} with other weights or another architecture. Call "
                "`conformal_sets` or `conformal_scores` again."
            )
        _, propagation, _ = bounded(self.model)
        logits, errors = outputs_with_errors(self.model, propagation, X, self.batch_size, predicted)
        scores, errors = _scores(logits, self.score), 2.0 * errors[:, None]
        with np.errstate(invalid="ignore"):
            rounded = np.abs(scores) * (UP - 1.0)
            least = scores - (self.constants * self.radius + errors) * UP - rounded
            ends = np.stack([least, scores + errors * UP + rounded], axis=-1)
        return np.where(np.isnan(ends), [-np.inf, np.inf], ends)

    def nonconformity(self, y_pred: ArrayLike, y_true: ArrayLike) -> np.ndarray:
        """The scores of true labels: `nonconf_score_func` of `puncc`.

        Args:
            y_pred: (n, classes, 2) what `predict` gave for samples that nobody moved.
            y_true: (n,) their labels, in any encoding that `certify` takes.

        Returns:
            (n,) float64.
        """
        largest = np.asarray(y_pred)[..., 1]
        truth = true_classes(y_true, *largest.shape)
        return np.take_along_axis(largest, truth[:, None], axis=1)[:, 0]

    def prediction_sets(self, y_pred: ArrayLike, scores_quantile: Any) -> tuple[list[list[int]]]:
        """The sets of labels that may have a score of at most a quantile: `pred_set_func`.

        Args:
            y_pred: (n, classes, 2) what `predict` gave.
            scores_quantile: of the scores of true labels.

        Returns:
            A tuple of one list, with the labels of each sample.
        """
        inside = ~(np.asarray(y_pred)[..., 0] > np.squeeze(scores_quantile))
        return ([np.flatnonzero(row).tolist() for row in inside],)


def conformal_scores(
    model: keras.Model, radius: float = 0.0, score: str = "margin", batch_size: int = 256
) -> ConformalScores:
    """Scores whose sets hold the true label under perturbations, for `puncc` to calibrate.

    What `conformal_sets` does by itself, in three functions, so that the strategies of calibration
    of `puncc` (`pip install puncc`), weights of samples or a choice of `alpha` afterwards, can be
    used: `predict` is that of a predictor, `nonconformity` its `nonconf_score_func` and
    `prediction_sets` its `pred_set_func`. Calibrated with samples that nobody moved, sets of
    moved samples hold whatever those of the samples as they were would hold.

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, classes), at least two, that holds logits, not probabilities.
        radius: by how much the samples of `predict` may have been moved; not negative.
        score: "margin" or "logit", see `conformal_sets`.
        batch_size: samples evaluated together, at most.

    Returns:
        The functions.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if a layer has no bound (all are named), or an argument does not fit.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> scores = lip.certificates.conformal_scores(model, radius=1.0)
        >>> x, y = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), [0, 0, 1, 0]
        >>> scores.nonconformity(scores.predict(x), y).round(6).tolist()
        [-1.0, -2.0, -1.0, -0.5]
        >>> scores.prediction_sets(scores.predict([[0.6, 0.0]]), scores_quantile=-0.5)
        ([[0, 1]],)

    Source: Massena et al., 2025, arXiv:2506.05434; Mendil et al., 2023, PMLR 204.
    """
    proof = prove(model)
    if len(proof.divisors) < 2:
        raise ValueError("`model` must have two logits or more. Received: one.")
    check_choice("score", score, ("margin", "logit"))
    constants, fingerprint = _constants(proof, score), model_fingerprint(model)
    return ConformalScores(model, _one_radius(radius), score, constants, fingerprint, batch_size)


@dataclass(frozen=True)
class ConformalSets:
    """A calibrated model that answers with sets of labels.

    Attributes:
        model: the classifier.
        alpha: the probability that a set lacks the true label, at most.
        threshold: the largest score of a label in a set; infinite where there were too few samples
            for `alpha`, so that every set holds all labels.
        score: "logit" or "margin".
        constants: (classes,) proven Lipschitz constants of the scores.
        model_fingerprint: SHA-256 of the model that was calibrated.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> model = lip.Sequential([keras.Input((3,)), lip.layers.SpectralDense(3)])
        >>> x = rng.normal(size=(200, 3))
        >>> sets = lip.certificates.conformal_sets(model, x, rng.integers(0, 3, 200), alpha=0.2)
        >>> clean, robust = sets.predict(x), sets.predict(x, radius=0.1)
        >>> clean.shape, bool((robust >= clean).all())  # robust sets hold the others
        ((200, 3), True)
    """

    model: keras.Model
    alpha: float
    threshold: float
    score: str
    constants: np.ndarray
    model_fingerprint: str

    def predict(self, x: Any, radius: float = 0.0, batch_size: int = 256) -> np.ndarray:
        """The sets of labels of samples.

        Of a sample that somebody has moved by at most `radius` in the L2 norm, the set holds
        whatever the set of the sample as it was would hold.

        Args:
            x: (n, ...) samples as they are seen, of the model's input shape.
            radius: by how much they may have been moved, at most; not negative.
            batch_size: samples evaluated together, at most.

        Returns:
            (n, classes) booleans.

        Raises:
            ValueError: an argument does not fit, or the model has other weights than when it was
                calibrated.
        """
        given = self.score, self.constants, self.model_fingerprint, batch_size
        scores = ConformalScores(self.model, _one_radius(radius), *given)
        # What is not known is in the set.
        return ~(scores.predict(x)[..., 0] > self.threshold)


def conformal_sets(
    model: keras.Model,
    x: Any,
    y: ArrayLike,
    alpha: float = 0.1,
    score: str = "margin",
    batch_size: int = 256,
) -> ConformalSets:
    """Calibrates sets of labels that hold the true one, also where inputs are perturbed.

    The score s of a sample and a label is small where the label fits. From the scores of n samples
    with their true labels comes the threshold q, the `ceil((n + 1) (1 - alpha))`-th smallest. For
    another sample (x, y) that is exchangeable with these, `s(x, y) <= q` holds with probability
    at least `1 - alpha` (over the samples, not for each one). With a score that is K-Lipschitz, the
    set `{y : s(x', y) - K radius <= q}` of a moved sample x', `||x' - x|| <= radius`, holds the
    true label whenever that of x does, so that the probability is the same, whoever moves it.
    Constants are proven; scores are computed in float64, and their rounding errors make sets
    larger.

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, classes), at least two, that holds logits, not probabilities.
        x: (n, ...) samples for calibration, which the model was not trained with.
        y: (n,) their true labels, in any encoding that `certify` takes.
        alpha: above 0 and below 1.
        score: "margin", the largest other logit minus the one of the label, or "logit", the
            negative logit of the label, which varies less with the input.
        batch_size: samples evaluated together, at most.

    Returns:
        The calibrated sets: `predict(x, radius)`.

    Raises:
        TypeError: if `model` is not a Keras model, or `alpha` no number.
        ValueError: if a layer has no bound (all are named), or an argument does not fit.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
        >>> sets = lip.certificates.conformal_sets(model, x, [0, 0, 1, 0], alpha=0.25)
        >>> round(sets.threshold, 6)  # of the scores -1, -2, -1 and -0.5
        -0.5
        >>> sets.predict([[0.6, 0.0]]).tolist(), sets.predict([[0.6, 0.0]], radius=1.0).tolist()
        ([[True, False]], [[True, True]])

    Source: Massena et al., 2025, arXiv:2506.05434.
    """
    alpha = number("alpha", alpha, _LEVEL)
    scores = conformal_scores(model, 0.0, score, batch_size)
    largest = np.sort(scores.nonconformity(scores.predict(x), y))
    rank = math.ceil((len(largest) + 1) * (1.0 - alpha))
    threshold = float(largest[rank - 1]) if rank <= len(largest) else math.inf
    return ConformalSets(model, alpha, threshold, score, scores.constants, scores.model_fingerprint)


def _one_radius(radius: float) -> float:
    moved = checked_radius(radius)
    if moved.ndim:
        raise ValueError(f"`radius` must be one number. Received: shape {moved.shape}.")
    return float(moved)


def _scores(logits: np.ndarray, score: str) -> np.ndarray:
    """(n, classes) float64; two roundings at most."""
    if score == "logit":
        return -logits
    two = np.partition(logits, -2, axis=1)[:, -2:]
    is_first = np.arange(logits.shape[1]) == np.argmax(logits, axis=1)[:, None]
    return np.where(is_first, two[:, :1], two[:, 1:]) - logits


def _constants(proof: Proof, score: str) -> np.ndarray:
    """(classes,) how fast the score of each label may change."""
    if score == "logit":
        return np.broadcast_to(output_constants(*bounded(proof.model)), len(proof.divisors))
    off = proof.divisors.copy()
    np.fill_diagonal(off, 0.0)
    return off.max(axis=1)  # of a largest of functions, the largest constant
