"""How many pixels of a segmentation a perturbation of the whole image can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._rounding import UP, gamma
from deel_lip_tf._tables import at_most
from deel_lip_tf._validation.scalars import Rule, number
from deel_lip_tf.certificates.proofs import bounded, check_logits
from deel_lip_tf.certificates.statements.evaluation import checked_radius, outputs_with_errors
from deel_lip_tf.semantics.graph import Graph

_SHARE = Rule(lambda value: 0.0 < value <= 1.0, "above 0 and at most 1")


@dataclass(frozen=True)
class SegmentationCertificates:
    """What a perturbation of bounded norm can do to the pixels of each image.

    Attributes:
        label: (n, *image) predicted classes.
        correct: (n, *image) which pixels count as correct: those with the true class, or all
            without `y`.
        counted: (n,) how many pixels have a true class: all, but those that are ignored.
        bound: proven L2 Lipschitz constant of all logits of an image together.
        cost: (n, pixels) float64, ascending: the smallest Euclidean change of the logits of an
            image that changes 1, 2, ... of its correct pixels; infinite beyond their number.
        error: (n,) how far the logits may be from those of the exact function.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")  # each pixel by itself
        >>> model = keras.Sequential([keras.Input((1, 2, 2)), dense])
        >>> x = [[[[1.0, 0.0], [0.0, 2.0]]]]  # margins of 1 and 2
        >>> found = lip.certificates.certify_segmentation(model, x)
        >>> print(found.certified_share([0.5, 1.0, 1.5, 2.0]))
        [1.  0.5 0.5 0. ]
    """

    label: np.ndarray
    correct: np.ndarray
    counted: np.ndarray
    bound: float
    cost: np.ndarray
    error: np.ndarray

    def certified_pixels(self, radius: ArrayLike) -> np.ndarray:
        """(*radius.shape, n) how many pixels of each image stay correct within a radius.

        Args:
            radius: of the perturbation of the whole image, in the L2 norm; not negative.

        Raises:
            ValueError: a radius is negative, or not finite.
        """
        moved = (checked_radius(radius)[..., None] * self.bound * UP + self.error) * UP
        changed = (self.cost <= moved[..., None]).sum(axis=-1)
        correct = self.correct.reshape(len(self.correct), -1).sum(axis=1)
        return np.where(np.isfinite(moved), correct - changed, 0)

    def certified_share(self, radius: ArrayLike) -> np.ndarray:
        """Share of all counted pixels that stay correct within each radius; shape of `radius`.

        Each image may be perturbed by as much. Arguments and errors as `certified_pixels`.
        """
        return self.certified_pixels(radius).sum(axis=-1) / max(self.counted.sum(), 1)

    def radius(self, share: float) -> np.ndarray:
        """(n,) radii up to which at least this share of the counted pixels stays correct.

        Args:
            share: above 0, and at most 1.

        Raises:
            TypeError: the share is no number.
            ValueError: it is out of its range.
        """
        share = number("share", share, _SHARE)
        correct = self.correct.reshape(len(self.correct), -1).sum(axis=1)
        spare = correct - np.ceil(share * self.counted).astype(np.int64)
        # The first change that is one too many.
        found = np.take_along_axis(self.cost, np.maximum(spare, 0)[:, None], axis=1)[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            radius = (found * (1.0 - gamma(8)) - self.error * UP) / (self.bound * UP)
        return np.where((spare >= 0) & (radius > 0), radius * (1.0 - gamma(8)), 0.0)

    def __str__(self) -> str:
        shares = [(r, self.certified_share(r)) for r in (0.0, 0.1, 0.25, 0.5, 1.0)]
        head = f"{len(self.label)} images, Lipschitz constant at most {at_most(self.bound)}"
        return "\n".join(
            [head, "    radius  certified pixels", *(f"{r:>10.4f}  {s:>16.2%}" for r, s in shares)]
        )


def certify_segmentation(
    model: keras.Model,
    x: Any,
    y: ArrayLike | None = None,
    ignore: int | Sequence[int] | None = None,
    batch_size: int = 16,
) -> SegmentationCertificates:
    """Certifies how many pixels of each image stay correct, against L2 perturbations of the image.

    Let L be the constant of all logits of an image together. A perturbation of norm r moves them
    by at most `L r`. A pixel changes its class only if its own logits move by
    `d = (f_t - f_j) / sqrt(2)` or more, for some j (`|f|` for one logit), so that a set of pixels
    changes only if the squares of their d add up to at most `(L r)**2`: no more pixels than the
    smallest of the squares that fit. One pass over the image certifies all radii. The claim is
    about the exact function of the weights as stored, for each image by itself; logits and their
    errors are those of `certify`, and where the model differs from them nothing is certified.

    Args:
        model: a built Sequential or functional model, with one input and an output of shape
            (batch, *image, classes), or (batch, *image, 1) for two classes, that holds logits.
        x: (n, ...) real images, of the model's input shape, in the units the radius will have.
        y: (n, *image) true classes, or (n, *image, 1); None to count every prediction as correct.
        ignore: classes of `y` that do not count, such as 255 for no class; None for none.
        batch_size: images evaluated together, at most.

    Returns:
        The certificates, which answer for every radius.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: if a layer has no bound (all are named), or an argument does not fit.

    Example:
        >>> convolution = lip.layers.SpectralConv2D(3, 3, padding="circular")
        >>> model = lip.Sequential([keras.Input((6, 6, 1)), convolution])
        >>> x = np.random.default_rng(0).normal(size=(2, 6, 6, 1))
        >>> found = lip.certificates.certify_segmentation(model, x)
        >>> shares = found.certified_share([0.0, 0.1, 1.0])
        >>> bool((np.diff(shares) <= 0).all()), found.certified_pixels(0.0)
        (True, array([36, 36]))

    Source: arXiv:2512.06010.
    """
    graph, propagation, bound = bounded(model)
    _check_segments(graph)
    outputs, errors = outputs_with_errors(model, propagation, x, batch_size, _classes)
    label = _classes(outputs)
    is_counted = np.ones(label.shape, bool)
    correct = is_counted.copy()
    if y is not None:
        truth = _true_pixels(y, label.shape)
        is_counted = ~np.isin(truth, _ignored(ignore))
        correct = is_counted & (truth == label)
    cost = _ascending(_distances(outputs), correct)
    counted = is_counted.reshape(len(label), -1).sum(axis=1)
    return SegmentationCertificates(label, correct, counted, bound, cost, errors)


def _check_segments(graph: Graph) -> None:
    shapes = [value.shape for value in graph.outputs]
    if len(graph.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) < 3 or not shapes[0][-1]:
        raise ValueError(
            "`model` must have one input and one output of shape (batch, *image, classes). "
            f"Received: {len(graph.inputs)} inputs and outputs of shapes {shapes}."
        )
    check_logits(graph)


def _classes(outputs: np.ndarray) -> np.ndarray:
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0).astype(np.int64)
    return np.argmax(outputs, axis=-1)


def _distances(outputs: np.ndarray) -> np.ndarray:
    """How far the logits of each pixel have to move for another class, or less."""
    if outputs.shape[-1] == 1:
        return np.abs(outputs[..., 0])
    with np.errstate(invalid="ignore"):
        largest = np.partition(outputs, -2, axis=-1)
        gaps = (largest[..., -1] - largest[..., -2]) * (np.sqrt(0.5) * (1.0 - gamma(8)))
    return np.where(np.isfinite(gaps), gaps, 0.0)


def _ascending(distances: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(n, pixels) roots of the sums of the smallest squares, rounded downward; then infinity."""
    chosen = np.where(correct, distances, np.inf).reshape(len(distances), -1)
    chosen = np.sort(chosen, axis=1)
    with np.errstate(over="ignore"):
        sums = np.cumsum(np.square(chosen), axis=1)
    return np.sqrt(sums) * (1.0 - gamma(chosen.shape[1] + 8))


def _true_pixels(y: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    truth = np.asarray(y)
    if truth.shape == (*shape, 1):
        truth = truth[..., 0]
    if truth.shape != shape or truth.dtype.kind not in "biu":
        raise ValueError(
            f"`y` must hold the true class of each pixel, integers of shape {shape}. Received: "
            f"shape {truth.shape} of dtype {truth.dtype}."
        )
    return truth


def _ignored(ignore: int | Sequence[int] | None) -> np.ndarray:
    classes = np.asarray([] if ignore is None else ignore)
    if classes.size and classes.dtype.kind not in "iu":
        raise ValueError(
            f"`ignore` must be a class of `y`, several, or None. Received: ignore={ignore!r}."
        )
    return classes
