"""The exact Kantorovich-Rubinstein difference of an epoch."""

from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import float64_kept
from deel_lip_tf._registration import PACKAGE
from deel_lip_tf._validation.arrays import weight_per_sample
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf.losses import formulas


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
            sample_weight = weight_per_sample(sample_weight, scores)
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
        with float64_kept():
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
