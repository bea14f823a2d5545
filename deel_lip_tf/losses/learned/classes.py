"""Learned margins of outputs that are classes, one of which is true."""

from typing import Any

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.learned.margins import LearnedMargins


class _PerClass(LearnedMargins):
    """The outputs are classes, one of which is true."""

    def stationary_fraction(self, outputs: int) -> float:
        """The fraction `Q_c` of the table of `losses.learned`, for classes of equal frequency."""
        fraction = float(ops.convert_to_numpy(self.alpha_margin))
        is_plain = float(ops.convert_to_numpy(self.soft_hinge_tau)) == 0
        return fraction * outputs / max(outputs - 1, 1) if is_plain else fraction


@register
class MulticlassHingeAuto(_PerClass):
    """`MulticlassHinge` with the learned margin `theta_y` of the true class; one-hot labels.

    `sum_{j != y} w_j (relu(theta_y/2 - f_y) + relu(theta_y/2 + f_j))` minus `alpha_margin` times
    the mean of `theta_c` over the classes in the batch, with `w_j = 1/C`, or a softmax of the
    negatives if `soft_hinge_tau > 0`. Where classes are equally frequent, training leads to
    `Q = alpha_margin C / (C - 1)` (`alpha_margin` with a softmax), the mean of the share of samples
    whose true class and of the share of the other classes that lie inside the margin.

    Args:
        min_margin: smallest margin, and the first value of all: positive, 1 by default.
        max_margin: largest margin: at least `min_margin`, 200 by default.
        alpha_margin: weight of the reward for large margins: at least 0, 0.1 by default.
        soft_hinge_tau: sharpness of the softmax by which the negatives are weighted: at least 0; 0,
            the default, weights them alike.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, `max_margin < min_margin`, the number of outputs
            changes, or the scores have a single column.

    Example:
        >>> y_true, y_pred = np.eye(3), 5.0 * np.eye(3) - 3.0  # beyond the margins
        >>> loss = lip.losses.MulticlassHingeAuto(min_margin=1.0, alpha_margin=0.1)
        >>> round(float(loss(y_true, y_pred)), 4)  # the reward alone: -0.1 times the mean margin
        -0.1
        >>> [margins] = loss.get_trainable_variables()
        >>> tuple(margins.shape)  # one for each class
        (3,)
    """

    def __init__(
        self,
        min_margin: float = 1.0,
        max_margin: float = 200.0,
        alpha_margin: float = 0.1,
        soft_hinge_tau: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MulticlassHingeAuto",
        *,
        dtype: Any = None,
    ):
        super().__init__(
            name,
            reduction,
            dtype,
            min_margin=min_margin,
            max_margin=max_margin,
            alpha_margin=alpha_margin,
            soft_hinge_tau=soft_hinge_tau,
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        margins = self._margins_for(y_pred)
        return formulas.multiclass_hinge_auto(
            y_true, y_pred, margins, self.alpha_margin, self.soft_hinge_tau
        )


@register
class MulticlassHKRauto(_PerClass):
    """Multiclass HKR with learned margins, `-MulticlassKR + alpha MulticlassHingeAuto`.

    Args:
        alpha: weight of the hinge, in [0, inf]: 0 is -KR alone and leaves the margins where they
            are, inf is the hinge alone.
        min_margin: smallest margin, and the first value of all: positive, 1 by default.
        max_margin: largest margin: at least `min_margin`, 200 by default.
        alpha_margin: weight of the reward for large margins: at least 0, 0.1 by default.
        soft_hinge_tau: sharpness of the softmax by which the negatives are weighted: at least 0; 0,
            the default, weights them alike.
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number, or `multi_gpu` not a boolean.
        ValueError: if a parameter is out of range, `max_margin < min_margin`, the number of outputs
            changes, or the scores have a single column.

    Example:
        >>> y_true, y_pred = np.eye(3), 2.0 * np.eye(3) - 1.0
        >>> loss = lip.losses.MulticlassHKRauto(alpha=10.0, alpha_margin=0.1)
        >>> kr = float(lip.losses.MulticlassKR()(y_true, y_pred))
        >>> hinge = float(lip.losses.MulticlassHingeAuto(alpha_margin=0.1)(y_true, y_pred))
        >>> kr, round(hinge, 4), round(float(loss(y_true, y_pred)), 4)
        (2.0, -0.1, -3.0)
    """

    def __init__(
        self,
        alpha: float = 10.0,
        min_margin: float = 1.0,
        max_margin: float = 200.0,
        alpha_margin: float = 0.1,
        soft_hinge_tau: float = 0.0,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MulticlassHKRauto",
        *,
        dtype: Any = None,
    ):
        super().__init__(
            name,
            reduction,
            dtype,
            multi_gpu,
            alpha=alpha,
            min_margin=min_margin,
            max_margin=max_margin,
            alpha_margin=alpha_margin,
            soft_hinge_tau=soft_hinge_tau,
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        margins = self._margins_for(y_pred)
        hinge = formulas.multiclass_hinge_auto(
            y_true, y_pred, margins, self.alpha_margin, self.soft_hinge_tau
        )
        kr = formulas.kr(y_true, y_pred, self.multi_gpu, self._weights())
        return formulas.regularized(kr, hinge, self.alpha)
