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
        reduction: see `ParametricLoss`.
        name: name of the loss.
        dtype: dtype of the computation.

    Raises:
        ValueError: if `min_margin` is not positive and finite.
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
        reduction: see `ParametricLoss`.
        name: name of the loss.
        soft_hinge_tau: if positive, the negatives are weighted by a softmax of this sharpness:
            `relu(m/2 - f_y) + sum_{j != y} softmax_{j != y}(tau f)_j relu(m/2 + f_j)`.
        dtype: dtype of the computation.

    Raises:
        ValueError: if a parameter is out of range, or the scores have a single column.
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
        reduction: see `ParametricLoss`.
        name: name of the loss.
        dtype: dtype of the computation.

    Raises:
        ValueError: if `min_margin` is not positive and finite.
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
        reduction: see `ParametricLoss`.
        name: name of the loss.
        dtype: dtype of the computation.

    Raises:
        ValueError: if `min_margin` is not positive and finite.
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
