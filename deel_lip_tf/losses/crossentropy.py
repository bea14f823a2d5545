"""Cross-entropies with a temperature; the scores are logits (no softmax or sigmoid before)."""

from typing import Any

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.base import ParametricLoss


@register
class TauCategoricalCrossentropy(ParametricLoss):
    """Cross-entropy `CE(y, softmax(tau f)) / tau` with one-hot or smoothed probabilities `y`.

    A 1-Lipschitz network cannot scale its logits at will: `tau` trades accuracy (large) against
    robustness (small). Labels must be probabilities; {-1, +1} is not accepted by its meaning.

    Args:
        tau: temperature, positive and finite.
        reduction: see `ParametricLoss`.
        name: name of the loss.
        dtype: dtype of the computation.

    Raises:
        ValueError: if `tau` is not positive and finite.

    Source: Béthune et al., arXiv:2104.05097.
    """

    def __init__(
        self,
        tau: float,
        reduction: str | None = "sum_over_batch_size",
        name: str = "TauCategoricalCrossentropy",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, tau=tau)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.tau_categorical_crossentropy(y_true, y_pred, self.tau)


@register
class TauSparseCategoricalCrossentropy(ParametricLoss):
    """`TauCategoricalCrossentropy` for class indices of shape `(B,)` or `(B, 1)`.

    Args:
        tau: temperature, positive and finite: large for accuracy, small for robustness.
        reduction: see `ParametricLoss`.
        name: name of the loss.
        dtype: dtype of the computation.

    Raises:
        ValueError: if `tau` is not positive and finite.
    """

    def __init__(
        self,
        tau: float,
        reduction: str | None = "sum_over_batch_size",
        name: str = "TauSparseCategoricalCrossentropy",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, tau=tau)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.tau_sparse_categorical_crossentropy(y_true, y_pred, self.tau)


@register
class TauBinaryCrossentropy(ParametricLoss):
    """Binary cross-entropy `mean_c BCE([y > 0], sigmoid(tau f)) / tau`.

    Labels in {0, 1} and {-1, +1} are both accepted; `reduction=None` gives one value per sample,
    shape `(B,)`.

    Args:
        tau: temperature, positive and finite: large for accuracy, small for robustness.
        reduction: see `ParametricLoss`.
        name: name of the loss.
        dtype: dtype of the computation.

    Raises:
        ValueError: if `tau` is not positive and finite.
    """

    def __init__(
        self,
        tau: float,
        reduction: str | None = "sum_over_batch_size",
        name: str = "TauBinaryCrossentropy",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, tau=tau)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.tau_binary_crossentropy(y_true, y_pred, self.tau)
