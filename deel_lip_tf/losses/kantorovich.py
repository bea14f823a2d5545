"""Losses with a Kantorovich-Rubinstein term: `KR`, `HKR` and their multiclass forms."""

import math
from typing import Any

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.base import ParametricLoss


@register
class KR(ParametricLoss):
    """Kantorovich-Rubinstein difference `E[f | y > 0] - E[f | y <= 0]`, averaged over outputs.

    The sign is positive: for 1-Lipschitz scores it is a lower bound of the Wasserstein-1 distance
    between the two classes, to be watched or maximised; `NegKR` is the form to minimise.

    One value per sample (`reduction=None`) is `B mean_c f_c (S/n_c - (1-S)/(B-n_c))`; a class
    absent from the batch contributes 0. Given as a metric in `compile`, it averages batches;
    `deel_lip_tf.metrics.KR` is exact over the epoch.

    Args:
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Call arguments: labels (positives are `> 0`) and scores, both `(B,)`, `(B, 1)` or `(B, C)`.

    Raises:
        TypeError: if `multi_gpu` is not a boolean.
        ValueError: if `reduction` is unknown, or labels and scores have different shapes.

    Example:
        >>> y_true, y_pred = np.array([1.0, 1.0, 0.0]), np.array([3.0, 1.0, -1.0])
        >>> float(lip.losses.KR()(y_true, y_pred))  # mean(3, 1) - mean(-1)
        3.0

    Source: Serrurier et al., arXiv:2006.06520.
    """

    def __init__(
        self,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "KR",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, multi_gpu)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.kr(y_true, y_pred, self.multi_gpu, self._weights())


@register
class NegKR(ParametricLoss):
    """`-KR`, the form to minimise: `E[f | y <= 0] - E[f | y > 0]`, averaged over outputs.

    At its minimum over 1-Lipschitz scores it is minus the Wasserstein-1 distance between the two
    classes.

    Args:
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `multi_gpu` is not a boolean.
        ValueError: if `reduction` is unknown, or labels and scores have different shapes.

    Example:
        >>> y_true, y_pred = np.array([1.0, 1.0, 0.0]), np.array([3.0, 1.0, -1.0])
        >>> float(lip.losses.NegKR()(y_true, y_pred)), float(lip.losses.KR()(y_true, y_pred))
        (-3.0, 3.0)
    """

    def __init__(
        self,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "NegKR",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, multi_gpu)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return -formulas.kr(y_true, y_pred, self.multi_gpu, self._weights())


@register
class MulticlassKR(ParametricLoss):
    """`KR` of each class against the others, averaged over classes; one-hot labels `(B, C)`.

    Given as a metric, `compile(metrics=[losses.MulticlassKR()])`, it is reported as "MulticlassKR"
    and averages the values of the batches, which is not the KR of the epoch (class proportions and
    batch sizes vary). `deel_lip_tf.metrics.MulticlassKR` accumulates sums and counts and is exact.

    Args:
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `multi_gpu` is not a boolean.
        ValueError: if `reduction` is unknown, or labels and scores have different shapes.

    Example:
        >>> y_true, y_pred = np.eye(3), 5.0 * np.eye(3)
        >>> float(lip.losses.MulticlassKR()(y_true, y_pred))  # a score of 5 for the class, else 0
        5.0
    """

    def __init__(
        self,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MulticlassKR",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, multi_gpu)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.kr(y_true, y_pred, self.multi_gpu, self._weights())


@register
class HKR(ParametricLoss):
    """Hinge-regularised Kantorovich-Rubinstein loss `-KR + alpha mean relu(m/2 - s f)`.

    `alpha` follows deel-lip: in [0, inf], `alpha = 0` is `-KR` and `alpha = inf` the hinge alone.
    deel-torchlip's, in [0, 1], translates by `alpha_from_torchlip`. The loss may be negative.

    Args:
        alpha: weight of the hinge, at least 0.
        min_margin: `m > 0`, the gap between the two classes' scores; each is asked for `m/2`.
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number, or `multi_gpu` not a boolean.
        ValueError: if `alpha` is negative or NaN, or `min_margin` is not positive and finite.

    Example:
        >>> y_true, y_pred = np.array([[1.0], [-1.0]]), np.array([[0.25], [-2.0]])
        >>> kr = float(lip.losses.NegKR()(y_true, y_pred))
        >>> hinge = float(lip.losses.HingeMargin(min_margin=1.0)(y_true, y_pred))
        >>> kr, hinge, float(lip.losses.HKR(alpha=10.0, min_margin=1.0)(y_true, y_pred))
        (-2.25, 0.125, -1.0)

    Source: Serrurier et al., arXiv:2006.06520.
    """

    def __init__(
        self,
        alpha: float,
        min_margin: float = 1.0,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "HKR",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, multi_gpu, alpha=alpha, min_margin=min_margin)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        weights = self._weights()
        return formulas.hkr(y_true, y_pred, self.alpha, self.min_margin, self.multi_gpu, weights)


@register
class MulticlassHKR(ParametricLoss):
    """Multiclass HKR loss `-MulticlassKR + alpha MulticlassHinge`; one-hot labels `(B, C)`.

    Args:
        alpha: weight of the hinge, in [0, inf]: 0 is -KR alone, inf the hinge alone.
        min_margin: `m > 0`, the gap between class logits.
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        soft_hinge_tau: sharpness of the softmax by which the negatives are weighted: at least 0; 0,
            the default, weights them alike.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number, or `multi_gpu` not a boolean.
        ValueError: if a parameter is out of range, or the scores have a single column.

    Example:
        >>> y_true, y_pred = np.eye(3), 2.0 * np.eye(3) - 1.0  # scores 1 and -1
        >>> float(lip.losses.MulticlassHKR(min_margin=2.0)(y_true, y_pred))  # -KR: the hinge is 0
        -2.0
        >>> wide = lip.losses.MulticlassHKR(alpha=10.0, min_margin=4.0)
        >>> round(float(wide(y_true, y_pred)), 4)  # -2 + 10 * 4 / 3
        11.3333
    """

    def __init__(
        self,
        alpha: float = 10.0,
        min_margin: float = 1.0,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MulticlassHKR",
        *,
        soft_hinge_tau: float = 0.0,
        dtype: Any = None,
    ):
        super().__init__(
            name,
            reduction,
            dtype,
            multi_gpu,
            alpha=alpha,
            min_margin=min_margin,
            soft_hinge_tau=soft_hinge_tau,
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.multiclass_hkr(
            y_true,
            y_pred,
            self.alpha,
            self.min_margin,
            self.multi_gpu,
            self.soft_hinge_tau,
            self._weights(),
        )


@register
class LseHKR(ParametricLoss):
    """HKR of the true score against a smooth maximum of the others: no batch statistics.

    Its value on a sample does not depend on the rest of the batch, so that it needs no care on
    several replicas. Formula: `formulas.lse_hkr`. deel-torchlip's default, `alpha = 1` in its own
    convention, is `alpha = inf` here: the hinge alone.

    Args:
        alpha: weight of the hinge, in [0, inf]: 0 is -KR alone, inf the hinge alone.
        temperature: factor of the scores, positive.
        penalty: how far, in units of `m/2`, the smooth maximum may lie above the maximum.
        min_margin: `m > 0`, the gap between class logits, after the temperature.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, or the scores have a single column.

    Example:
        >>> y_true = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> y_pred = np.array([[2.0, -1.0, -1.0], [0.0, 0.1, 0.0]])
        >>> loss = lip.losses.LseHKR(alpha=10.0, reduction=None)
        >>> values = np.asarray(loss(y_true, y_pred))
        >>> bool(values[0] < values[1])  # the first is further from the other classes
        True
        >>> np.allclose(values[:1], loss(y_true[:1], y_pred[:1]))  # whatever else is in the batch
        True
    """

    def __init__(
        self,
        alpha: float = math.inf,
        temperature: float = 1.0,
        penalty: float = 1.0,
        min_margin: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "LseHKR",
        *,
        dtype: Any = None,
    ):
        super().__init__(
            name,
            reduction,
            dtype,
            alpha=alpha,
            temperature=temperature,
            penalty=penalty,
            min_margin=min_margin,
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.lse_hkr(
            y_true, y_pred, self.alpha, self.temperature, self.penalty, self.min_margin
        )
