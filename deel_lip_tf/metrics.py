"""Metrics: provable robustness and the exact Kantorovich-Rubinstein difference of an epoch.

All are `keras.metrics.Metric`: they accumulate sums and counts, so that the value is exact over
batches of unequal sizes and with sample weights. A NaN label is refused where its value can be
seen; in a traced step such a sample counts as not certified, and makes a Kantorovich-Rubinstein
difference NaN. They trust the Lipschitz constant they are given and compute in the metric's dtype;
`deel_lip_tf.certificates.certify` proves the constant and rounds outward.
"""

import math
from typing import Any

import keras
from keras import ops

from deel_lip_tf._registration import PACKAGE, register
from deel_lip_tf.losses import formulas
from deel_lip_tf.losses.arguments import flag, number, numeric, refuse_nan, whole_number


def _encoded(y_true: Any, y_pred: Any) -> Any:
    """Returns labels with one column per class; class indices `(B,)` or `(B, 1)` become one-hot."""
    labels = ops.convert_to_tensor(numeric("y_true", y_true))
    refuse_nan("y_true", labels)
    scores = ops.convert_to_tensor(numeric("y_pred", y_pred))
    if len(scores.shape) != 2 or scores.shape[-1] == 1:
        raise ValueError(
            "`y_pred` must have shape (batch, classes) with at least two classes: for one output "
            "use the metric of the same name that starts with `Binary`. Received: "
            f"y_pred.shape={tuple(scores.shape)}."
        )
    if len(labels.shape) == 1 or labels.shape[-1] == 1:
        indices = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
        return ops.equal(ops.arange(ops.shape(scores)[-1], dtype="int32"), indices)
    return labels


def _margin(y_true: Any, y_pred: Any) -> Any:
    """Returns the gap `f_y - max_{j != y} f_j`, and 0 where nothing can be certified.

    That is: a score of the row is not finite, or no label of the row is positive.
    """
    labels, scores = formulas.aligned(_encoded(y_true, y_pred), y_pred)
    valid = ops.logical_and(
        ops.all(ops.isfinite(scores), axis=-1), ops.any(ops.greater(labels, 0), axis=-1)
    )
    margin = formulas.categorical_margin(labels, scores)
    return ops.where(valid, margin, ops.zeros_like(margin))


def _signed_scores(y_true: Any, y_pred: Any) -> Any:
    """Returns `s f` with `s = +1` where the label is positive, and 0 where `f` is not finite."""
    labels, scores = formulas.aligned(y_true, y_pred)
    signed = ops.where(ops.greater(labels, 0), scores, -scores)
    return ops.where(ops.isfinite(scores), signed, ops.zeros_like(scores))


def _weight_per_sample(sample_weight: Any, y_pred: Any) -> Any:
    """Returns the weights, one for each row of the scores; `None` and a scalar stay what they are.

    Raises:
        TypeError: if they are not numbers.
        ValueError: if they have another shape than `(B,)` or `(B, 1)`.
    """
    if sample_weight is None:
        return None
    weights = ops.convert_to_tensor(numeric("sample_weight", sample_weight))
    if getattr(weights.shape, "rank", 0) is None:
        return weights  # known at run time only
    shape, batch = tuple(weights.shape), ops.convert_to_tensor(y_pred).shape[0]
    fits = (
        shape == ()
        or (len(shape) == 1 or shape[1:] == (1,))
        and (None in (shape[0], batch) or shape[0] == batch)
    )
    if not fits:
        raise ValueError(
            "`sample_weight` must hold one weight per sample, shape (batch,) or (batch, 1). "
            f"Received: sample_weight.shape={shape} for a batch of {batch}."
        )
    return weights


def _class_divisor(lip_const: float, disjoint_neurons: bool) -> float:
    # a step d moves one logit by at most lip |d|, hence a difference of two logits by 2 lip |d|;
    # if the logits are jointly lip-Lipschitz, the difference moves by sqrt(2) lip |d| only
    return (2.0 if disjoint_neurons else math.sqrt(2.0)) * lip_const


@register
class CategoricalProvableRobustAccuracy(keras.metrics.Mean):
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

    def __init__(
        self,
        epsilon: float = 36 / 255,
        lip_const: float = 1.0,
        disjoint_neurons: bool = True,
        name: str = "CategoricalProvableRobustAccuracy",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = number("epsilon", epsilon)
        self.lip_const = number("lip_const", lip_const)
        self.disjoint_neurons = flag("disjoint_neurons", disjoint_neurons)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        radius = _margin(y_true, y_pred) / _class_divisor(self.lip_const, self.disjoint_neurons)
        weights = _weight_per_sample(sample_weight, y_pred)
        super().update_state(ops.cast(radius > self.epsilon, self.dtype), weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "epsilon": self.epsilon,
            "lip_const": self.lip_const,
            "disjoint_neurons": self.disjoint_neurons,
        }


@register
class BinaryProvableRobustAccuracy(keras.metrics.Mean):
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

    def __init__(
        self,
        epsilon: float = 36 / 255,
        lip_const: float = 1.0,
        name: str = "BinaryProvableRobustAccuracy",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = number("epsilon", epsilon)
        self.lip_const = number("lip_const", lip_const)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        radius = _signed_scores(y_true, y_pred) / self.lip_const
        weights = _weight_per_sample(sample_weight, y_pred)
        super().update_state(ops.cast(radius > self.epsilon, self.dtype), weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon, "lip_const": self.lip_const}


@register
class CategoricalProvableAvgRobustness(keras.metrics.Mean):
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

    def __init__(
        self,
        lip_const: float = 1.0,
        disjoint_neurons: bool = True,
        negative_robustness: bool = False,
        name: str = "CategoricalProvableAvgRobustness",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.lip_const = number("lip_const", lip_const)
        self.disjoint_neurons = flag("disjoint_neurons", disjoint_neurons)
        self.negative_robustness = flag("negative_robustness", negative_robustness)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        radius = _margin(y_true, y_pred) / _class_divisor(self.lip_const, self.disjoint_neurons)
        values = radius if self.negative_robustness else ops.relu(radius)
        super().update_state(values, _weight_per_sample(sample_weight, y_pred))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "lip_const": self.lip_const,
            "disjoint_neurons": self.disjoint_neurons,
            "negative_robustness": self.negative_robustness,
        }


@register
class BinaryProvableAvgRobustness(keras.metrics.Mean):
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

    def __init__(
        self,
        lip_const: float = 1.0,
        negative_robustness: bool = False,
        name: str = "BinaryProvableAvgRobustness",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.lip_const = number("lip_const", lip_const)
        self.negative_robustness = flag("negative_robustness", negative_robustness)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        radius = _signed_scores(y_true, y_pred) / self.lip_const
        values = radius if self.negative_robustness else ops.relu(radius)
        super().update_state(values, _weight_per_sample(sample_weight, y_pred))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "lip_const": self.lip_const,
            "negative_robustness": self.negative_robustness,
        }


class _EpochKR(keras.metrics.Metric):
    """Sums and weighted counts per class; the Kantorovich-Rubinstein value is their ratio."""

    def __init__(self, num_classes: int | None, name: str, dtype: Any):
        super().__init__(name=name, dtype=dtype)
        if num_classes is not None:
            num_classes = whole_number("num_classes", num_classes)
        self.num_classes = num_classes
        self._columns: int | None = None
        if num_classes is not None:
            self._create(num_classes)

    def _create(self, columns: int) -> None:
        names = ("positive_sum", "positive_count", "negative_sum", "negative_count")
        for name in names:
            setattr(self, name, self.add_variable((columns,), "zeros", self.dtype, name=name))
        self._columns = columns

    def _require(self, columns: int | None) -> None:
        if self._columns is None:
            if columns is None:
                raise ValueError(
                    "The number of columns of `y_pred` is unknown: give `num_classes`. Received: "
                    "num_classes=None."
                )
            self._create(columns)
        elif columns not in (None, self._columns):
            raise ValueError(
                "`y_pred` must keep its number of columns: use one metric per output. Received: "
                f"{columns} columns, where this metric accumulates {self._columns}."
            )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch; `sample_weight` has shape `(B,)` or `(B, 1)`."""
        labels, scores = formulas.aligned(y_true, y_pred)
        self._require(scores.shape[-1])
        positive = ops.cast(ops.greater(labels, 0), scores.dtype)
        weights = ops.ones_like(scores)
        if sample_weight is not None:
            sample_weight = _weight_per_sample(sample_weight, scores)
            weights *= ops.reshape(ops.cast(sample_weight, scores.dtype), (-1, 1))
        for prefix, chosen in (("positive", positive), ("negative", 1 - positive)):
            chosen = weights * chosen
            count = ops.cast(ops.sum(chosen, axis=0), self.dtype)
            total = ops.cast(ops.sum(chosen * scores, axis=0), self.dtype)
            getattr(self, prefix + "_count").assign_add(count)
            getattr(self, prefix + "_sum").assign_add(total)

    def result(self):
        """Returns the value over everything since the last reset; 0 before the first batch."""
        if self._columns is None:
            return ops.zeros((), self.dtype)
        toward = ops.divide_no_nan(self.positive_sum, self.positive_count)
        away = ops.divide_no_nan(self.negative_sum, self.negative_count)
        return ops.mean(toward - away)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes}


# the losses hold the names `KR` and `MulticlassKR` in the package's registry
@keras.saving.register_keras_serializable(package=PACKAGE, name="metrics.KR")
class KR(_EpochKR):
    """Exact Kantorovich-Rubinstein difference `E[f | y > 0] - E[f | y <= 0]` of all samples seen.

    Averaging the KR of batches is not the KR of the epoch, because both expectations are ratios;
    this metric accumulates their numerators and denominators. A class never seen contributes 0.
    Labels in {0, 1}, {-1, +1}, booleans or those of `process_labels_for_multi_gpu`; labels and
    scores `(B,)`, `(B, 1)` or `(B, C)` (then averaged over columns).

    Args:
        num_classes: number of columns of the scores; taken from the first batch by default. Needed
            by `stateless_update_state`, whose number of variables cannot grow.
        name: name under which the value is reported.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `num_classes` is not an integer.
        ValueError: if shapes differ, or the number of columns changes between batches.

    Example:
        >>> metric = lip.metrics.KR()
        >>> metric.update_state([1, 1, 0], np.array([3.0, 1.0, -1.0]))
        >>> metric.update_state([1, 0, 0], np.array([5.0, 0.0, 0.0]))
        >>> round(float(metric.result()), 4)  # mean(3, 1, 5) - mean(-1, 0, 0), of both batches
        3.3333
    """

    def __init__(self, num_classes: int | None = None, name: str = "KR", dtype: Any = None):
        super().__init__(num_classes, name, dtype)


@keras.saving.register_keras_serializable(package=PACKAGE, name="metrics.MulticlassKR")
class MulticlassKR(_EpochKR):
    """Exact `mean_c(E[f_c | y = c] - E[f_c | y != c])` of all samples seen; one-hot labels.

    What `losses.MulticlassKR` averages batch by batch when it is given as a metric.

    Args:
        num_classes: number of columns of the scores; taken from the first batch by default. Needed
            by `stateless_update_state`, whose number of variables cannot grow.
        name: name under which the value is reported.
        dtype: dtype of the accumulators; `keras.config.floatx()` by default.

    Raises:
        TypeError: if `num_classes` is not an integer.
        ValueError: if shapes differ, or the number of columns changes between batches.

    Example:
        >>> metric = lip.metrics.MulticlassKR()
        >>> metric.update_state(np.eye(3), 5.0 * np.eye(3))
        >>> metric.update_state(np.eye(3)[:1], np.array([[1.0, 0.0, 0.0]]))
        >>> round(float(metric.result()), 4)  # ((5 + 1) / 2 + 5 + 5) / 3
        4.3333
    """

    def __init__(
        self, num_classes: int | None = None, name: str = "MulticlassKR", dtype: Any = None
    ):
        super().__init__(num_classes, name, dtype)
