"""Hinge losses. `min_margin` is always the gap `m` between two class logits.

`HingeMargin` and `MulticlassHinge` look at each score alone and ask for `m/2`; `MultiMargin` and
`CategoricalHinge` look at differences of scores and ask for the whole `m`.
"""

from typing import Any

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.base import ParametricLoss


@register
class HingeMargin(ParametricLoss):
    """Hinge `mean_c relu(m/2 - s f)`, `s = +1` where the label is positive, `-1` elsewhere.

    Args:
        min_margin: `m > 0`, the gap between the two classes' scores; each is asked for `m/2`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `min_margin` is not a number.
        ValueError: if `min_margin` is not positive and finite.

    Example:
        >>> y_true, y_pred = np.array([[1.0], [-1.0], [1.0]]), np.array([[0.25], [-2.0], [-1.0]])
        >>> loss = lip.losses.HingeMargin(min_margin=1.0, reduction=None)
        >>> print(np.asarray(loss(y_true, y_pred)))  # too near, beyond the margin, wrong
        [0.25 0.   1.5 ]
    """

    def __init__(
        self,
        min_margin: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "HingeMargin",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, min_margin=min_margin)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.hinge_margin(y_true, y_pred, self.min_margin)


@register
class MulticlassHinge(ParametricLoss):
    """Hinge `mean_c w relu(m/2 - s f)`, `w = C - 1` on positives and 1 on negatives.

    Args:
        min_margin: `m > 0`, the gap between class logits; each score is asked for `m/2`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        soft_hinge_tau: if positive, the negatives are weighted by a softmax of this sharpness:
            `relu(m/2 - f_y) + sum_{j != y} softmax_{j != y}(tau f)_j relu(m/2 + f_j)`.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, or the scores have a single column.

    Example:
        >>> y_true, y_pred = np.array([[1.0, 0.0, 0.0]]), np.array([[0.25, -1.0, 0.0]])
        >>> loss = lip.losses.MulticlassHinge(min_margin=1.0)
        >>> round(float(loss(y_true, y_pred)), 4)  # (2 * 0.25 + 0 + 0.5) / 3
        0.3333
    """

    def __init__(
        self,
        min_margin: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MulticlassHinge",
        *,
        soft_hinge_tau: float = 0.0,
        dtype: Any = None,
    ):
        super().__init__(
            name, reduction, dtype, min_margin=min_margin, soft_hinge_tau=soft_hinge_tau
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.multiclass_hinge(y_true, y_pred, self.min_margin, self.soft_hinge_tau)


@register
class MultiMargin(ParametricLoss):
    """Hinge on every gap, `mean_c [c != y] relu(m - (f_y - f_c))`; one-hot labels.

    Args:
        min_margin: `m > 0`, asked in full of the gap between the true and every other logit.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `min_margin` is not a number.
        ValueError: if `min_margin` is not positive and finite.

    Example:
        >>> y_true, y_pred = np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 1.5, 1.75]])
        >>> loss = lip.losses.MultiMargin(min_margin=1.0)
        >>> round(float(loss(y_true, y_pred)), 4)  # (0.5 + 0.75) / 3
        0.4167
    """

    def __init__(
        self,
        min_margin: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MultiMargin",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, min_margin=min_margin)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.multi_margin(y_true, y_pred, self.min_margin)


@register
class CategoricalHinge(ParametricLoss):
    """Hinge on the smallest gap, `relu(m - (f_y - max_{j != y} f_j))`; one-hot labels.

    Args:
        min_margin: `m > 0`, asked in full of the gap between the true logit and the runner-up.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `min_margin` is not a number.
        ValueError: if `min_margin` is not positive and finite.

    Example:
        >>> y_true, y_pred = np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 1.5, -9.0]])
        >>> float(lip.losses.CategoricalHinge(min_margin=1.0)(y_true, y_pred))  # 1 - (2 - 1.5)
        0.5
    """

    def __init__(
        self,
        min_margin: float,
        reduction: str | None = "sum_over_batch_size",
        name: str = "CategoricalHinge",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, min_margin=min_margin)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.categorical_hinge(y_true, y_pred, self.min_margin)
