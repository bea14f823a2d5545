"""How far a sample may move before a label is no longer among the k largest logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from deel_lip_tf._tables import at_most
from deel_lip_tf._validation.labels import true_classes
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.certificates.radii import Evaluated, downward, gap_radii, predicted
from deel_lip_tf.certificates.statements.evaluation import outputs_with_errors


@dataclass(frozen=True)
class TopKCertificates:
    """Certified radii of labels among the k largest logits.

    Attributes:
        label: (n,) the class that is certified: the true one where `y` was given, else the one that
            the model predicts.
        radius: (n,) float64, in units of the model's input: at a distance of at most `radius` in
            the L2 norm the label is among the k largest logits. 0 where nothing is certified.
        k: how many.
        bound: proven L2 Lipschitz constant of the model.

    Example:
        >>> dense = keras.layers.Dense(3, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> found = lip.certificates.certify_top_k(model, [[3.0, 2.0, 0.0]], k=2, y=[1])
        >>> print(found.label, found.radius.round(4))
        [1] [1.4142]
    """

    label: np.ndarray
    radius: np.ndarray
    k: int
    bound: float

    def certified_accuracy(self, radii: float | Sequence[float]) -> np.ndarray:
        """Share of samples whose label is certified at each radius; shape of `radii`."""
        at = np.asarray(radii, dtype=np.float64)[..., None]
        return ((self.radius > 0) & (self.radius >= at)).mean(axis=-1)

    def __str__(self) -> str:
        bound, share = at_most(self.bound), self.certified_accuracy(0.0)
        return (
            f"{len(self.label)} samples, Lipschitz constant at most {bound}\n"
            f"label among the {self.k} largest logits: {share:.2%}, certified up to a mean radius "
            f"of {self.radius.mean():.4g}"
        )


def certify_top_k(
    model: keras.Model, x: Any, k: int, y: Any = None, batch_size: int = 256
) -> TopKCertificates:
    """Certifies that a label stays among the k largest logits, against L2 perturbations.

    With r_j the radius within which logit j stays below that of the label (that of `certify`, for
    one j alone; 0 if it is not below), fewer than k of the others can be above it at a distance
    below the k-th smallest r_j, which is the radius. k = 1 is `certify`. The claim is about the
    exact function of the weights as stored; logits and their errors are those of `certify`.

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, classes) that holds logits, not probabilities.
        x: (n, ...) real samples, of the model's input shape, in the units the radius will have.
        k: at least 1, and less than the number of classes.
        y: true labels in any encoding that `certify` takes, or None for those that the model
            predicts.
        batch_size: samples evaluated together, at most.

    Returns:
        The certificates.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if a layer has no bound (all are named), or an argument does not fit.

    Example:
        >>> model = lip.Sequential([keras.Input((3,)), lip.layers.SpectralDense(5)])
        >>> x = np.random.default_rng(0).normal(size=(8, 3))
        >>> radii = [lip.certificates.certify_top_k(model, x, k).radius for k in (1, 2, 3)]
        >>> bool((radii[0] <= radii[1]).all() and (radii[1] <= radii[2]).all())
        True
    """
    proof = prove(model)
    classes, k = len(proof.divisors), whole_number("k", k)
    if not k < classes:
        raise ValueError(
            f"`k` must be less than the number of classes, {classes}: among all of them a label "
            f"always is. Received: k={k}."
        )
    logits, errors = outputs_with_errors(model, proof.propagation, x, batch_size, predicted)
    label = predicted(logits) if y is None else true_classes(y, len(logits), classes)
    evaluated = Evaluated(logits, errors, 0.0, np.full(len(logits), np.inf))
    _, ratios = gap_radii(evaluated, label, proof.divisors[label])
    kth = np.partition(np.maximum(ratios, 0.0), k - 1, axis=1)[:, k - 1]
    return TopKCertificates(label, downward(kth, logits, errors), k, proof.bound)
