"""Losses that learn their margins, one per output, together with the network.

The hinge wants small margins `theta`, a reward of weight `alpha_margin` wants large ones; where
they balance, a known fraction of the samples lies inside the margin, and this fraction is what
`alpha_margin` really sets:

| loss                                      | fraction inside | reached value              |
|-------------------------------------------|-----------------|----------------------------|
| `HingeMarginAuto`, `HKRauto`, `C` outputs | `P_c`           | `2 C alpha_margin`         |
| `Multiclass...Auto`, `soft_hinge_tau = 0` | `Q_c`           | `alpha_margin C / (C - 1)` |
| `Multiclass...Auto`, `soft_hinge_tau > 0` | `Q_c`           | `alpha_margin`             |

`P_c = P(s f_c < theta_c / 2)`, and among the samples of class `c`
`Q_c = E[1[f_c < theta_c/2] + mean_{j != c} 1[-f_j < theta_c/2]] / 2`, with the weights of the
softmax in the mean where there is one. The rows on `Q_c` hold for batches that contain all classes
and classes of frequency `1/C`; for another frequency `p_c`, `Q_c` is larger by `1 / (C p_c)`.

Derivation: the derivative of the expected loss in `theta_c` is half the weight of the active hinges
minus the weight of the reward; set it to zero. A fraction of 1 or more cannot be reached: the
margins then grow up to `max_margin`, and a warning says so. The weight `alpha` of the HKR forms
multiplies both terms and changes no fraction; with `alpha = 0` the margins stay as they are.

Two limits. A network that leaves more samples than that inside `min_margin` already keeps its
margins at `min_margin`. And where `2 C alpha_margin` exceeds the share of the rarer label of an
output, the hinge alone is content with one answer for all, and the margin grows to `max_margin`;
the KR term works against that.
"""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.base import ParametricLoss, plain
from deel_lip_tf.losses.tracing import outside_of_graphs


class LearnedMargins(ParametricLoss):
    """Base of the losses with learned margins; not a loss by itself.

    The margins are a trainable variable of shape `(outputs,)` in the loss's dtype, float32 at
    least. They start at `min_margin`, and every optimizer keeps them in `[min_margin, max_margin]`
    after each update, as `fit` does with the averages of Keras's `use_ema`. `LossVariableModel` and
    `LossVariableSequential` create them from their output shape and train them with their own
    optimizer; under any other model they keep their values. Compiled models save and restore them.
    """

    def __init__(self, name, reduction, dtype, multi_gpu=None, **parameters):
        super().__init__(name, reduction, dtype, multi_gpu, **parameters)
        self._margins: Any = None  # a variable, once the number of outputs is known
        self.check_parameter("max_margin", parameters["max_margin"])

    def check_parameter(self, name: str, value: float) -> None:
        """Raises a `ValueError` or `TypeError` if the parameter `name` must not take `value`."""
        super().check_parameter(name, value)
        if name not in ("min_margin", "max_margin"):
            return
        limits = {one: plain(getattr(self, one)) for one in ("min_margin", "max_margin")}
        # rounded as the variables are: an interval of one point stays one
        limits[name] = plain(np.asarray(value, self.dtype))
        if limits["min_margin"] > limits["max_margin"]:
            raise ValueError(
                "`max_margin` must be at least `min_margin`. Received: min_margin="
                f"{limits['min_margin']:g}, max_margin={limits['max_margin']:g}."
            )

    @property
    def hinge_margins(self) -> keras.Variable | None:
        """The margins, `loss.hinge_margins.numpy()`; None while the number of outputs is unknown.

        A model that is built creates them in `compile`, another one in its first training step.
        """
        return self._margins

    def get_trainable_variables(self) -> list[keras.Variable]:
        """Returns what a training step must learn: the margins, once they exist."""
        return [] if self._margins is None else [self._margins]

    def get_non_trainable_variables(self) -> list[keras.Variable]:
        """Returns what a compiled step is handed on JAX: all parameters but the limits.

        These are read by the optimizer, which is handed what it trains alone: they stay as they are
        in a step that has been traced.
        """
        limits = {id(self.min_margin), id(self.max_margin)}
        return [v for v in super().get_non_trainable_variables() if id(v) not in limits]

    def stationary_fraction(self, outputs: int) -> float:
        """Returns the fraction of samples inside the margins that training leads to, see above."""
        raise NotImplementedError

    def build(self, outputs: int) -> None:
        """Creates the margins of a model with this number of outputs; repeating it does nothing.

        Raises:
            ValueError: if the loss already has the margins of another number of outputs.
        """
        if self._margins is None:
            # a model without an input shape comes here while its first step is traced
            with outside_of_graphs(), keras.name_scope(self.name):
                self._warn_if_unreachable(outputs)
                self._margins = keras.Variable(
                    keras.initializers.Constant(float(ops.convert_to_numpy(self.min_margin))),
                    shape=(outputs,),
                    dtype=self.dtype,
                    autocast=False,
                    name="hinge_margins",
                )
            self._margins.constraint = self._clipped
        elif self._margins.shape[0] != outputs:
            raise ValueError(
                f"The loss {self.name!r} has learned the margins of {self._margins.shape[0]} "
                f"outputs: use a new loss for another model. Received: {outputs} outputs."
            )

    def _clipped(self, margins):
        # tensors: JAX compiles `clip`, and takes no variables there
        limits = map(ops.convert_to_tensor, (self.min_margin, self.max_margin))
        return ops.clip(ops.convert_to_tensor(margins), *limits)

    def _warn_if_unreachable(self, outputs: int) -> None:
        fraction = self.stationary_fraction(outputs)
        if fraction >= 1:
            alpha_margin = float(ops.convert_to_numpy(self.alpha_margin))
            warnings.warn(
                f"`alpha_margin`={alpha_margin:g} asks that {fraction:.0%} of the samples lie "
                f"inside the margins of {outputs} outputs: the margins of {self.name!r} will grow "
                f"up to `max_margin`. Choose `alpha_margin` below {alpha_margin / fraction:.3g}.",
                stacklevel=3,
            )

    def _margins_for(self, y_pred):
        # a scalar is refused by the formula, with the shapes that fit
        self.build(1 if len(y_pred.shape) < 2 else y_pred.shape[-1])
        return self._margins

    def save_own_variables(self, store) -> None:
        """Writes the margins into the file of the compiled model."""
        if self._margins is not None:
            store["hinge_margins"] = self._margins

    def load_own_variables(self, store) -> None:
        """Reads the margins; a file without any leaves them as they are."""
        if "hinge_margins" in store.keys():  # noqa: SIM118 - a store is not a dictionary
            values = store["hinge_margins"]
            self.build(values.shape[0])
            self._margins.assign(values)


class _PerOutput(LearnedMargins):
    """Each output is a binary task of its own."""

    def stationary_fraction(self, outputs: int) -> float:
        """`2 outputs alpha_margin`, the fraction `P(s f_c < theta_c / 2)` of every output."""
        return 2.0 * outputs * float(ops.convert_to_numpy(self.alpha_margin))


class _PerClass(LearnedMargins):
    """The outputs are classes, one of which is true."""

    def stationary_fraction(self, outputs: int) -> float:
        """The fraction `Q_c` of the module's table, for classes of equal frequency."""
        fraction = float(ops.convert_to_numpy(self.alpha_margin))
        is_plain = float(ops.convert_to_numpy(self.soft_hinge_tau)) == 0
        return fraction * outputs / max(outputs - 1, 1) if is_plain else fraction


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
