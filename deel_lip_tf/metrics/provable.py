"""Provable robustness: the radii of margins, for a Lipschitz constant that the user gives."""

import math
from typing import Any

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.arrays import check_finite, numeric, weight_per_sample
from deel_lip_tf._validation.labels import class_mask
from deel_lip_tf._validation.scalars import NOT_NEGATIVE, POSITIVE, flag, number
from deel_lip_tf.losses import formulas


def _true_class(y_true: Any, y_pred: Any) -> Any:
    """Booleans `(B, C)`: where the class of each row of labels is, by `_validation.labels`.

    Nowhere, where the labels name no class, or the largest entry of a row is not positive.
    """
    check_finite("y_true", numeric("y_true", y_true))
    labels = ops.convert_to_tensor(y_true)
    scores = ops.convert_to_tensor(numeric("y_pred", y_pred))
    if len(scores.shape) != 2 or scores.shape[-1] == 1:
        raise ValueError(
            "`y_pred` must have shape (batch, classes) with at least two classes: for one output "
            "use the metric of the same name that starts with `Binary`. Received: "
            f"y_pred.shape={tuple(scores.shape)}."
        )
    if len(labels.shape) == 1 or labels.shape[-1] == 1:
        return class_mask(ops.reshape(labels, (-1, 1)), ops.shape(scores)[-1])
    return ops.logical_and(class_mask(labels, labels.shape[-1]), ops.greater(labels, 0))


def classified(y_true: Any, y_pred: Any) -> tuple[Any, Any, Any]:
    """One-hot labels and scores, `(B, C)` of one dtype, and `(B,)` where one may be certified.

    That is where all scores of the row are finite and its labels name a class.
    """
    labels, scores = formulas.aligned(_true_class(y_true, y_pred), y_pred)
    is_finite, has_class = ops.all(ops.isfinite(scores), axis=-1), ops.any(labels > 0, axis=-1)
    return labels, scores, ops.logical_and(is_finite, has_class)


def _margin(y_true: Any, y_pred: Any) -> Any:
    """Returns the gap `f_y - max_{j != y} f_j`, and 0 where nothing can be certified."""
    labels, scores, valid = classified(y_true, y_pred)
    return ops.where(valid, formulas.categorical_margin(labels, scores), 0.0)


def signed_scores(y_true: Any, y_pred: Any) -> Any:
    """Returns `s f` with `s = +1` where the label is positive, and 0 where `f` is not finite."""
    labels, scores = formulas.aligned(y_true, y_pred)
    signed = ops.where(ops.greater(labels, 0), scores, -scores)
    return ops.where(ops.isfinite(scores), signed, ops.zeros_like(scores))


class _MeanRadius(keras.metrics.Mean):
    """Mean over samples of a function of their radius."""

    _arguments: tuple[str, ...]  # of the constructor, which are attributes, besides name and dtype

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        values = ops.cast(self._values(self._radius(y_true, y_pred)), self.dtype)
        super().update_state(values, weight_per_sample(sample_weight, y_pred))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **{name: getattr(self, name) for name in self._arguments}}


class _OfClasses(_MeanRadius):
    def _radius(self, y_true, y_pred):
        # a step d moves one logit by at most lip |d|, hence a difference of two by 2 lip |d|; if
        # the logits are jointly lip-Lipschitz, the difference moves by sqrt(2) lip |d| only
        factor = 2.0 if self.disjoint_neurons else math.sqrt(2.0)
        return _margin(y_true, y_pred) / (factor * self.lip_const)


class _OfSigns(_MeanRadius):
    def _radius(self, y_true, y_pred):
        return signed_scores(y_true, y_pred) / self.lip_const


@register
class CategoricalProvableRobustAccuracy(_OfClasses):
    """Fraction of samples classified correctly and provably so within an L2 ball of radius epsilon.

    Mean of `1[(f_y - max_{j != y} f_j) / L > epsilon]`, a strict inequality: a tie certifies
    nothing, even at `epsilon = 0`, and neither does a row with a score that is not finite.
    `L = 2 lip_const` if every output neuron is `lip_const`-Lipschitz by itself
    (`disjoint_neurons`, e.g. a `FrobeniusDense` head), `L = sqrt(2) lip_const` if the output as a
    whole is (e.g. a `SpectralDense` head).

    Labels: class indices `(B,)` or `(B, 1)`, or `(B, C)` of any coding whose largest entry, which
    must be positive, is the true class: one-hot, {-1, +1}, smoothed. Scores: `(B, C)`, `C >= 2`.

    Args:
        epsilon: radius, in the units of the model's input: at least 0, 36 / 255 by default.
        lip_const: Lipschitz constant of the model, in the L2 norm: positive, 1 by default. It is
            trusted.
        disjoint_neurons: whether each output neuron has that constant by itself (True, the
            default), or the output as a whole.
        name: name under which the value is reported.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        ValueError: if `epsilon` is negative, `lip_const` is not positive, one of them is not
            finite, or the shapes of labels, scores and weights do not fit.
        TypeError: if one of the numbers is not one, or `disjoint_neurons` not a boolean.

    Example:
        >>> Metric = lip.metrics.CategoricalProvableRobustAccuracy
        >>> metric = Metric(epsilon=0.5, disjoint_neurons=False)
        >>> scores = np.array([[2.0, 0.0], [0.0, 0.5], [0.0, 2.0]])  # gaps 2, 0.5, -2
        >>> metric.update_state([0, 1, 0], scores)
        >>> round(float(metric.result()), 4)  # 2 / sqrt(2) > 0.5, 0.5 / sqrt(2) < 0.5, wrong
        0.3333

    Source: Tsuzuku et al., arXiv:1802.04034.
    """

    _arguments = ("epsilon", "lip_const", "disjoint_neurons")

    def __init__(
        self,
        epsilon: float = 36 / 255,
        lip_const: float = 1.0,
        disjoint_neurons: bool = True,
        name: str = "CategoricalProvableRobustAccuracy",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = number("epsilon", epsilon, NOT_NEGATIVE)
        self.lip_const = number("lip_const", lip_const, POSITIVE)
        self.disjoint_neurons = flag("disjoint_neurons", disjoint_neurons)

    def _values(self, radius):
        return ops.greater(radius, self.epsilon)


@register
class BinaryProvableRobustAccuracy(_OfSigns):
    """Fraction of samples whose sign is right and provably so within an L2 ball of radius epsilon.

    Mean of `1[s f / lip_const > epsilon]` (strict) with `s = +1` where the label is positive and -1
    elsewhere. Labels and scores `(B,)` or `(B, 1)`; several columns are as many binary tasks,
    averaged.

    Args:
        epsilon: radius, in the units of the model's input: at least 0, 36 / 255 by default.
        lip_const: Lipschitz constant of each output, in the L2 norm: positive, 1 by default. It is
            trusted.
        name: name under which the value is reported.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        ValueError: if `epsilon` is negative, `lip_const` is not positive, one of them is not
            finite, or the shapes of labels, scores and weights do not fit.
        TypeError: if one of the numbers is not one.

    Example:
        >>> metric = lip.metrics.BinaryProvableRobustAccuracy(epsilon=0.5)
        >>> metric.update_state([1, 0, 1, 0], np.array([0.75, -0.25, -2.0, -1.0]))
        >>> float(metric.result())  # certified, too near to 0, wrong, certified
        0.5
    """

    _arguments = ("epsilon", "lip_const")

    def __init__(
        self,
        epsilon: float = 36 / 255,
        lip_const: float = 1.0,
        name: str = "BinaryProvableRobustAccuracy",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = number("epsilon", epsilon, NOT_NEGATIVE)
        self.lip_const = number("lip_const", lip_const, POSITIVE)

    def _values(self, radius):
        return ops.greater(radius, self.epsilon)


@register
class CategoricalProvableAvgRobustness(_OfClasses):
    """Mean certified radius `relu(f_y - max_{j != y} f_j) / L`, in the units of the model's input.

    `L = 2 lip_const` if every output neuron is `lip_const`-Lipschitz by itself
    (`disjoint_neurons`), `L = sqrt(2) lip_const` if the output as a whole is. Labels: class indices
    `(B,)` or `(B, 1)`, or `(B, C)` whose largest entry, which must be positive, is the true class.
    Scores: `(B, C)`, `C >= 2`. A misclassified sample counts 0, or with `negative_robustness` minus
    the radius within which it provably stays wrong.

    Args:
        lip_const: Lipschitz constant of the model, in the L2 norm: positive, 1 by default. It is
            trusted.
        disjoint_neurons: whether each output neuron has that constant by itself (True, the
            default), or the output as a whole.
        negative_robustness: whether misclassified samples count negatively instead of 0; False by
            default.
        name: name under which the value is reported.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        ValueError: if `lip_const` is not positive and finite, or the shapes of labels, scores and
            weights do not fit.
        TypeError: if `lip_const` is not a number, or one of the others not a boolean.

    Example:
        >>> scores = np.array([[2.0, 0.0], [0.0, 2.0]])
        >>> for negative in (False, True):
        ...     metric = lip.metrics.CategoricalProvableAvgRobustness(negative_robustness=negative)
        ...     metric.update_state([0, 0], scores)  # radii 2 / 2, and 0 or -2 / 2
        ...     print(float(metric.result()))
        0.5
        0.0
    """

    _arguments = ("lip_const", "disjoint_neurons", "negative_robustness")

    def __init__(
        self,
        lip_const: float = 1.0,
        disjoint_neurons: bool = True,
        negative_robustness: bool = False,
        name: str = "CategoricalProvableAvgRobustness",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.lip_const = number("lip_const", lip_const, POSITIVE)
        self.disjoint_neurons = flag("disjoint_neurons", disjoint_neurons)
        self.negative_robustness = flag("negative_robustness", negative_robustness)

    def _values(self, radius):
        return radius if self.negative_robustness else ops.relu(radius)


@register
class BinaryProvableAvgRobustness(_OfSigns):
    """Mean certified radius `relu(s f) / lip_const` of binary decisions.

    `s = +1` where the label is positive and -1 elsewhere. Labels and scores `(B,)` or `(B, 1)`;
    several columns are as many binary tasks, averaged. In the units of the model's input.

    Args:
        lip_const: Lipschitz constant of each output, in the L2 norm: positive, 1 by default. It is
            trusted.
        negative_robustness: whether misclassified samples count negatively instead of 0; False by
            default.
        name: name under which the value is reported.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        ValueError: if `lip_const` is not positive and finite, or the shapes of labels, scores and
            weights do not fit.
        TypeError: if `lip_const` is not a number, or `negative_robustness` not a boolean.

    Example:
        >>> metric = lip.metrics.BinaryProvableAvgRobustness(lip_const=2.0)
        >>> metric.update_state([1, -1, 1], np.array([3.0, -1.0, -4.0]))
        >>> round(float(metric.result()), 4)  # (3 / 2 + 1 / 2 + 0) / 3
        0.6667
    """

    _arguments = ("lip_const", "negative_robustness")

    def __init__(
        self,
        lip_const: float = 1.0,
        negative_robustness: bool = False,
        name: str = "BinaryProvableAvgRobustness",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.lip_const = number("lip_const", lip_const, POSITIVE)
        self.negative_robustness = flag("negative_robustness", negative_robustness)

    def _values(self, radius):
        return radius if self.negative_robustness else ops.relu(radius)
