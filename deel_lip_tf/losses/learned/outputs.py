"""Learned margins of outputs that are binary tasks of their own."""

from typing import Any

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.learned.margins import LearnedMargins


class _PerOutput(LearnedMargins):
    """Each output is a binary task of its own."""

    def stationary_fraction(self, outputs: int) -> float:
        """`2 outputs alpha_margin`, the fraction `P(s f_c < theta_c / 2)` of every output."""
        return 2.0 * outputs * float(ops.convert_to_numpy(self.alpha_margin))


@register
class HingeMarginAuto(_PerOutput):
    """Hinge with learned margins, `mean_c relu(theta_c/2 - s f) - alpha_margin sum_c theta_c`.

    Training leads to `P(s f_c < theta_c/2) = 2 C alpha_margin` for each of the `C` outputs: twice
    `alpha_margin` for one output, so that the margin is twice the `2 alpha_margin`-quantile of
    `s f`. deel-lip calls `alpha_margin` the fraction itself; the factor comes from the halves in
    `theta/2`.

    Args:
        min_margin: smallest margin, and the first value of all: positive, 1 by default.
        max_margin: largest margin: at least `min_margin`, 200 by default.
        alpha_margin: weight of the reward for large margins: at least 0, 0.1 by default; below `1 /
            (2 C)`, or the margins grow up to `max_margin`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, `max_margin < min_margin`, or the number of
            outputs changes.

    Example:
        >>> y_true, y_pred = np.array([[1.0], [-1.0]]), np.array([[0.25], [-2.0]])
        >>> loss = lip.losses.HingeMarginAuto(min_margin=1.0, alpha_margin=0.1)
        >>> float(lip.losses.HingeMargin(min_margin=1.0)(y_true, y_pred))
        0.125
        >>> round(float(loss(y_true, y_pred)), 4)  # less the reward 0.1 * 1 for the margin
        0.025
    """

    def __init__(
        self,
        min_margin: float = 1.0,
        max_margin: float = 200.0,
        alpha_margin: float = 0.1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "HingeMarginAuto",
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
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        margins = self._margins_for(y_pred)
        return formulas.hinge_margin_auto(y_true, y_pred, margins, self.alpha_margin)


@register
class HKRauto(_PerOutput):
    """HKR with learned margins, `-KR + alpha HingeMarginAuto`.

    Args:
        alpha: weight of the hinge, in [0, inf]: 0 is -KR alone and leaves the margins where they
            are, inf is the hinge alone.
        min_margin: smallest margin, and the first value of all: positive, 1 by default.
        max_margin: largest margin: at least `min_margin`, 200 by default.
        alpha_margin: weight of the reward for large margins: at least 0, 0.1 by default.
        multi_gpu: whether the labels come from `process_labels_for_multi_gpu`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number, or `multi_gpu` not a boolean.
        ValueError: if a parameter is out of range, `max_margin < min_margin`, or the number of
            outputs changes.

    Example:
        >>> y_true, y_pred = np.array([[1.0], [-1.0]]), np.array([[0.25], [-2.0]])
        >>> loss = lip.losses.HKRauto(alpha=10.0, min_margin=1.0, alpha_margin=0.0)
        >>> float(loss(y_true, y_pred)), float(lip.losses.HKR(alpha=10.0)(y_true, y_pred))
        (-1.0, -1.0)
        >>> [margin] = loss.get_trainable_variables()
        >>> print(np.asarray(margin))  # for each output, from here on learned
        [1.]
    """

    def __init__(
        self,
        alpha: float,
        min_margin: float = 1.0,
        max_margin: float = 200.0,
        alpha_margin: float = 0.1,
        multi_gpu: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "HKRauto",
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
        )

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        margins = self._margins_for(y_pred)
        hinge = formulas.hinge_margin_auto(y_true, y_pred, margins, self.alpha_margin)
        kr = formulas.kr(y_true, y_pred, self.multi_gpu, self._weights())
        return formulas.regularized(kr, hinge, self.alpha)
