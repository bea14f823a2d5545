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
        tau: temperature: positive and finite, large for accuracy, small for robustness.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `tau` is not a number.
        ValueError: if `tau` is not positive and finite.

    Example:
        >>> y_true, y_pred = np.array([[1.0, 0.0]]), np.array([[0.5, -0.5]])
        >>> for tau in (0.1, 1.0, 10.0):  # a small one keeps asking for a larger gap
        ...     loss = lip.losses.TauCategoricalCrossentropy(tau)
        ...     print(round(float(loss(y_true, y_pred)), 4))
        6.444
        0.3133
        0.0

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
        tau: temperature: positive and finite, large for accuracy, small for robustness.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `tau` is not a number.
        ValueError: if `tau` is not positive and finite.

    Example:
        >>> scores = np.array([[0.5, -0.5, 0.0]])
        >>> sparse = lip.losses.TauSparseCategoricalCrossentropy(tau=5.0)(np.array([2]), scores)
        >>> dense = lip.losses.TauCategoricalCrossentropy(tau=5.0)(np.eye(3)[2:], scores)
        >>> float(sparse) == float(dense), round(float(sparse), 4)
        (True, 0.517)
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
        tau: temperature: positive and finite, large for accuracy, small for robustness.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `tau` is not a number.
        ValueError: if `tau` is not positive and finite.

    Example:
        >>> loss = lip.losses.TauBinaryCrossentropy(tau=4.0)
        >>> scores = np.array([[0.5], [-0.25]])
        >>> round(float(loss(np.array([[1], [0]]), scores)), 4)
        0.055
        >>> round(float(loss(np.array([[1], [-1]]), scores)), 4)  # the same labels
        0.055
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
