"""A loss with a running mean: the HKR whose softmax follows the scale of the scores."""

import warnings
from typing import Any

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.distribute import replicas
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.base import ParametricLoss, warn_of_file


@register
class MulticlassSoftHKR(ParametricLoss):
    """Hinge and score differences of the true class against a softmax of the others.

    `sum_c w_c (relu(m/2 - s f) - s f / alpha)` with `w = 1` for the true class and
    `w = softmax_{j != y}(T f)` elsewhere, `T = clip(temperature m / clip(mu, m, 20000), .005, 250)`
    and `mu` a running mean of `|f|`, so that the softmax keeps its contrast as the scores grow. One
    positive label per sample. Note the scale: the hinge has weight 1 and the differences `1/alpha`;
    `alpha = inf` is the hinge alone. deel-torchlip's `alpha` `a`, in [0, 1], translates by
    `alpha_from_torchlip`, and its loss is `a` times this one.

    The running mean, `running_mean`, starts at `min_margin` and becomes
    `alpha_mean mu + (1 - alpha_mean) mean |f|` at each training step, before the loss is computed:
    the mean of all replicas, where a `tf.distribute` strategy has several.
    Only training changes it: the models of this library call `update_state` in their training step,
    and a training loop of your own must do so; under a plain Keras model it stays as it is, with a
    warning. It is saved with the compiled model; `reset_state` sets it back.

    Args:
        alpha: weight of the hinge relative to the differences, in (0, inf], 10 by default.
        min_margin: `m > 0`, the gap between class logits; each score is asked for `m/2`.
        alpha_mean: inertia of the running mean, in [0, 1), 0.99 by default.
        temperature: sharpness of the softmax for scores of the size of the margin, positive.
        reduction: "sum_over_batch_size", the default, for the mean over the samples, another name
            that Keras knows, or "none" or `None` for one value per sample.
        name: name of the loss, as Keras reports it.
        dtype: dtype of the computation, float32 at least; `keras.config.floatx()` by default.

    Raises:
        TypeError: if a parameter is not a number.
        ValueError: if a parameter is out of range, or the scores have a single column.

    Example:
        >>> loss = lip.losses.MulticlassSoftHKR(alpha=10.0, min_margin=1.0, alpha_mean=0.5)
        >>> y_true, y_pred = np.eye(3), 2.0 * np.eye(3) - 1.0  # scores 1 and -1: beyond the margin
        >>> loss.update_state(3.0 * y_pred)  # the models of this library do so while training
        >>> float(loss.running_mean)  # 0.5 * 1 + 0.5 * 3
        2.0
        >>> round(float(loss(y_true, y_pred)), 4)  # hinge 0, less the differences (1 + 1) / 10
        -0.2
        >>> loss.alpha = np.inf
        >>> float(loss(y_true, y_pred))  # the hinge alone
        0.0
    """

    def __init__(
        self,
        alpha: float = 10.0,
        min_margin: float = 1.0,
        alpha_mean: float = 0.99,
        temperature: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "MulticlassSoftHKR",
        *,
        dtype: Any = None,
    ):
        self.check_parameter("alpha", alpha)
        super().__init__(
            name,
            reduction,
            dtype,
            alpha=alpha,
            min_margin=min_margin,
            alpha_mean=alpha_mean,
            temperature=temperature,
        )
        self.running_mean = keras.Variable(
            float(min_margin), dtype=self.dtype, trainable=False, autocast=False, name="mean"
        )
        self._is_updated = False

    def check_parameter(self, name: str, value: float) -> None:
        """Raises a `ValueError` or `TypeError` if the parameter `name` must not take `value`."""
        super().check_parameter(name, value)
        if name == "alpha" and float(value) == 0:
            raise ValueError(
                "`alpha` must be positive: the loss holds `1 / alpha`. For the differences alone "
                f"use `NegKR`. Received: alpha={value!r}."
            )

    def build(self, outputs: int) -> None:
        """Called by the models that update the running mean; creates nothing."""
        self._is_updated = True

    def get_non_trainable_variables(self) -> list[keras.Variable]:
        """Returns what a training step changes without a gradient, first the running mean."""
        return [self.running_mean, *super().get_non_trainable_variables()]

    def update_state(self, y_pred) -> None:
        """Takes the scores of a training batch into the running mean."""
        self._is_updated = True
        sizes = ops.abs(ops.cast(ops.stop_gradient(ops.convert_to_tensor(y_pred)), self.dtype))
        count = ops.cast(ops.size(sizes), self.dtype)
        total, count = replicas.summed([ops.sum(sizes), count])
        step = ops.divide_no_nan(total, count) - self.running_mean
        # an empty batch, as of one replica among several, tells nothing
        rate = ops.where(count > 0, 1 - ops.convert_to_tensor(self.alpha_mean), 0.0)
        replicas.assign(self.running_mean, self.running_mean + rate * step)

    def reset_state(self) -> None:
        """Sets the running mean back to `min_margin`."""
        # the sum is a tensor of its own: JAX gives buffers away, and no two variables may share one
        self.running_mean.assign(ops.convert_to_tensor(self.min_margin) + 0.0)

    def call(self, y_true, y_pred):
        """Returns one value per sample, shape `(B,)`; changes nothing."""
        if not self._is_updated:
            warnings.warn(
                f"The running mean of {self.name!r} stays as it is: train with a model of this "
                "library, e.g. `Sequential`, or call "
                "`loss.update_state(y_pred)` in each step of your own training loop.",
                stacklevel=2,
            )
            self._is_updated = True  # once is enough
        known = (self.running_mean, self.temperature, self.min_margin)
        sharpness = formulas.soft_sharpness(*map(ops.convert_to_tensor, known))
        return formulas.multiclass_soft_hkr(y_true, y_pred, sharpness, self.alpha, self.min_margin)

    def save_own_variables(self, store) -> None:
        """Writes the running mean into the file of the compiled model."""
        store["running_mean"] = self.running_mean

    def load_own_variables(self, store) -> None:
        """Reads the running mean; a file without one leaves it as it is, with a warning.

        Another warns of a mean that is none of sizes: negative, infinite or NaN.
        """
        if "running_mean" not in store.keys():  # noqa: SIM118 - a store is not a dictionary
            warn_of_file(self.name, "running mean", "has no")
            return
        self.running_mean.assign(store["running_mean"])
        value = float(ops.convert_to_numpy(self.running_mean))
        if not 0 <= value < float("inf"):
            warn_of_file(self.name, f"running mean {value}", "has, out of its range, the")
