"""Cross-entropies with a temperature; the scores are logits (no softmax or sigmoid before)."""

import math
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


@register
class OffsetCrossentropy(ParametricLoss):
    """Cross-entropy `T CE(y, softmax((f - offset 1_y) / T))`: the true logit owes an offset.

    The loss of a sample falls off, at the rate of the temperature, only where the true logit leads
    by more than `offset`. The gap of two logits of a network whose constant is `L` changes by at
    most `sqrt(2) L` per unit of the input, so that a lead of `sqrt(2) L r` certifies the radius
    `r`: the default, of the networks of AOL layers, aims at the radius 1, and `2 sqrt(2) r` is a
    usual choice for small ones (0.4 for 36/255), which leaves as much again for unseen samples.

    Labels: class indices `(B,)` or `(B, 1)`, or one-hot rows `(B, C)` of any coding, of which the
    largest entry is taken (smoothed labels are read so, too). Scores: logits `(B, C)`, `C >= 2`.
    An index that is no class makes the loss NaN.

    Args:
        offset: what is taken from the logit of the true class: finite, at least 0.
        temperature: `T`, positive and finite; as it falls to 0, the loss becomes the hinge
            `max(0, offset - (f_y - max_{j != y} f_j))`. The factor `T` keeps the gradient's scale.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, or the scores have a single column.

    Example:
        >>> loss = lip.losses.OffsetCrossentropy(offset=0.5, temperature=0.25, reduction=None)
        >>> scores = np.array([[2.0, 0.0, 0.0], [0.5, 0.0, 0.0]])  # the second leads by the offset
        >>> print(np.round(loss(np.array([0, 0]), scores), 4))
        [0.0012 0.2747]
        >>> print(np.round(loss(np.eye(3)[[0, 0]], scores), 4))  # the same labels
        [0.0012 0.2747]
        >>> model = lip.Sequential([keras.Input((3,)), lip.layers.SpectralDense(3)])
        >>> model.compile("sgd", lip.losses.OffsetCrossentropy(), run_eagerly=True)
        >>> history = model.fit(np.eye(3), np.array([0, 1, 2]), epochs=5, verbose=0).history
        >>> history["loss"][-1] < history["loss"][0]
        True

    Source: Prach and Lampert, arXiv:2208.03160, whose temperature is 1/4.
    """

    def __init__(
        self,
        offset: float = math.sqrt(2.0),
        temperature: float = 0.25,
        reduction: str | None = "sum_over_batch_size",
        name: str = "OffsetCrossentropy",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, offset=offset, temperature=temperature)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.offset_crossentropy(y_true, y_pred, self.offset, self.temperature)


@register
class LogitAnnealing(ParametricLoss):
    """`-T (1 - p)^beta log p` with `p = softmax_y((f - offset 1_y) / T)`: enough is enough.

    As `OffsetCrossentropy`, but the factor `(1 - p)^beta` takes the loss away from samples that
    lead by more than the offset, so that a network of little capacity, as 1-Lipschitz ones are,
    spends it on those that do not yet. The gradient is that of the whole product.

    Labels and scores as in `OffsetCrossentropy`. The defaults are those of BRONet on CIFAR-10;
    LipConvNets were trained with a quarter of the loss.

    Args:
        offset: what is taken from the logit of the true class: finite, at least 0.
        temperature: `T`, positive and finite.
        beta: how fast the loss is annealed: finite, at least 0, which is `OffsetCrossentropy`.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, or the scores have a single column.

    Example:
        >>> y_true, y_pred = np.array([0, 0]), np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> plain = lip.losses.LogitAnnealing(beta=0.0, reduction=None)(y_true, y_pred)
        >>> annealed = lip.losses.LogitAnnealing(beta=5.0, reduction=None)(y_true, y_pred)
        >>> print(np.round(annealed / plain, 3))  # what leads is left alone, what does not is not
        [0.    0.843]

    Source: Lai et al., arXiv:2505.15174.
    """

    def __init__(
        self,
        offset: float = 2.0,
        temperature: float = 0.75,
        beta: float = 5.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "LogitAnnealing",
        *,
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype, offset=offset, temperature=temperature, beta=beta)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`."""
        return formulas.logit_annealing(y_true, y_pred, self.offset, self.temperature, self.beta)
