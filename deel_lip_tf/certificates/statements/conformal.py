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

__all__ = ["ConformalSets", "conformal_sets"]

_LEVEL = Rule(lambda value: 0.0 < value < 1.0, "above 0 and below 1")


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
        if model_fingerprint(self.model) != self.model_fingerprint:
            raise ValueError(
                "`model` must be what it was when it was calibrated. Received: "
                f"{self.model.name!r} with other weights or another architecture. Call "
                "`conformal_sets` again."
            )
        moved = checked_radius(radius)
        if moved.ndim:
            raise ValueError(f"`radius` must be one number. Received: shape {moved.shape}.")
        _, propagation, _ = bounded(self.model)
        logits, errors = outputs_with_errors(self.model, propagation, x, batch_size, predicted)
        scores, shift = _scores(logits, self.score), self.constants * moved
        with np.errstate(invalid="ignore"):
            least = scores - (shift + 2.0 * errors[:, None]) * UP - np.abs(scores) * (UP - 1.0)
        # What is not known is in the set.
        return ~(least > self.threshold)


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
    proof = prove(model)
    classes = len(proof.divisors)
    if classes < 2:
        raise ValueError("`model` must have two logits or more. Received: one.")
    check_choice("score", score, ("margin", "logit"))
    alpha = number("alpha", alpha, _LEVEL)
    logits, errors = outputs_with_errors(model, proof.propagation, x, batch_size, predicted)
    truth = true_classes(y, len(logits), classes)
    own = np.take_along_axis(_scores(logits, score), truth[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):
        largest = own + 2.0 * errors * UP + np.abs(own) * (UP - 1.0)
    largest = np.sort(np.where(np.isnan(largest), np.inf, largest))
    rank = math.ceil((len(largest) + 1) * (1.0 - alpha))
    threshold = float(largest[rank - 1]) if rank <= len(largest) else math.inf
    constants, fingerprint = _constants(proof, score), model_fingerprint(model)
    return ConformalSets(model, alpha, threshold, score, constants, fingerprint)


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
