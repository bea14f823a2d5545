"""Labels and scores brought to one form, whatever their encoding."""

import math
from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import float32_at_least
from deel_lip_tf._validation.arrays import check_finite, numeric
from deel_lip_tf._validation.labels import check_not_swapped, class_mask
from deel_lip_tf.distribute import replicas

Tensor = Any


def floating(x: Tensor) -> Tensor:
    """The tensor in a floating type, float32 at least."""
    x = ops.convert_to_tensor(x)
    # Scores keep their type, at least float32: a loss of its own dtype has cast them to it.
    given = x.dtype if keras.backend.is_float_dtype(x.dtype) else keras.config.floatx()
    return ops.cast(x, float32_at_least(given))


def aligned(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Returns labels and scores as two `(B, C)` tensors of one floating dtype.

    The scores of a row with a label that is NaN or infinite are NaN.

    Raises:
        TypeError: if one of them does not consist of numbers.
        ValueError: if the shapes differ (nothing is broadcast), or have more than two axes; if a
            label is NaN or infinite and its value can be seen.
    """
    scores = floating(numeric("y_pred", y_pred))
    check_finite("y_true", numeric("y_true", y_true))
    check_not_swapped(y_true, y_pred)
    labels = ops.cast(ops.convert_to_tensor(y_true), scores.dtype)
    shapes = f"y_true.shape={tuple(labels.shape)}, y_pred.shape={tuple(scores.shape)}"
    labels, scores = (ops.expand_dims(x, -1) if len(x.shape) == 1 else x for x in (labels, scores))
    if len(scores.shape) != 2:
        raise ValueError(
            "`y_pred` must have shape (batch,), (batch, 1) or (batch, classes): flatten the "
            f"model's output, e.g. with a `Flatten` layer. Received: {shapes}."
        )
    pairs = list(zip(labels.shape, scores.shape, strict=False))
    if len(labels.shape) != 2 or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(
            "`y_true` and `y_pred` must have the same shape: one label per score. Turn class "
            "indices into one-hot labels with `keras.utils.to_categorical(y, num_classes)`, or use "
            f"`TauSparseCategoricalCrossentropy`, which reads indices. Received: {shapes}."
        )
    if None in pairs[1]:
        # sizes known only at run time: the reshape fails there instead of broadcasting a column
        labels = ops.reshape(labels, ops.shape(scores))
    if may_be_nan(y_true):
        is_finite = ops.all(ops.isfinite(labels), axis=-1, keepdims=True)
        scores = ops.where(is_finite, scores, ops.full_like(scores, math.nan))
    return labels, scores


def may_be_nan(labels: Tensor) -> bool:
    """Whether the type of the labels has a NaN."""
    return keras.backend.is_float_dtype(ops.convert_to_tensor(labels).dtype)


def positives(labels: Tensor) -> Tensor:
    """1 where a label is positive, else 0."""
    return ops.cast(labels > 0, labels.dtype)


def process_labels_for_multi_gpu(labels: Tensor) -> Tensor:
    """Weights each label by the class counts of the whole batch, for losses with `multi_gpu=True`.

    The losses count the classes of the global batch by themselves; this does it once, in the
    pipeline of the data, for a training loop of another engine. `B (S / n_c - (1 - S) / (B - n_c))`
    with `n_c` the number of positives of class `c` among the `B` rows. A replica that sees a part
    of the batch then only averages `f * weights`, and the sum over replicas is the
    Kantorovich-Rubinstein difference of the global batch. Apply it to each global batch, e.g. by
    `dataset.batch(B).map(lambda x, y: (x, process_labels(y)))`.

    Args:
        labels: `(B,)` or `(B, C)`; positives are `> 0`; integers and booleans are accepted.

    Returns:
        A floating tensor of the same shape. Its signs are those of the labels, and an absent class
        (or a class with no negatives) contributes 0.

    Raises:
        TypeError: if the labels are not numbers.
        ValueError: if they have another number of axes, or are NaN or infinite.

    Example:
        >>> labels, scores = np.array([1.0, 1.0, 0.0]), np.array([3.0, 1.0, -1.0])
        >>> weights = lip.losses.process_labels_for_multi_gpu(labels)
        >>> print(np.asarray(weights))
        [ 1.5  1.5 -3. ]
        >>> float(np.mean(scores * weights)), float(lip.losses.KR()(labels, scores))
        (3.0, 3.0)
    """
    check_finite("labels", numeric("labels", labels))
    labels = floating(labels)
    positive = positives(labels)
    is_known = getattr(positive.shape, "rank", 0) is not None
    if is_known and len(positive.shape) not in (1, 2):
        raise ValueError(
            "`labels` must have shape (batch,) or (batch, classes). Received: labels.shape="
            f"{tuple(positive.shape)}."
        )
    return ops.where(ops.isfinite(labels), balanced(positive), ops.full_like(labels, math.nan))


def balanced(positive: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """`B (S / n_c - (1 - S) / (B - n_c))`, with sums of weights for the counts.

    `B` and the counts are those of the global batch, where replicas share it.
    """
    negative = 1 - positive
    weights = 1 if sample_weight is None else ops.reshape(sample_weight, (-1, 1))
    batch = ops.cast(ops.shape(positive)[0], positive.dtype)
    counts = [ops.sum(weights * positive, axis=0), ops.sum(weights * negative, axis=0)]
    batch, positives, negatives = replicas.summed([batch, *counts])
    toward = ops.divide_no_nan(positive, positives)
    away = ops.divide_no_nan(negative, negatives)
    return batch * (toward - away)


def several_classes(scores: Tensor, use_instead: str) -> None:
    """Raises a `ValueError` for a single column of scores, which is for the loss `use_instead`."""
    if scores.shape[-1] == 1:
        raise ValueError(
            f"`y_pred` must have at least two columns, one per class: with one output use "
            f"{use_instead}. Received: y_pred.shape={tuple(scores.shape)}."
        )


def true_class(labels: Tensor) -> Tensor:
    """Boolean `(B, C)` mask of the largest label of each row (the first one if several)."""
    columns = ops.arange(ops.shape(labels)[-1], dtype="int32")
    return ops.equal(columns, ops.expand_dims(ops.cast(ops.argmax(labels, -1), "int32"), -1))


def true_score(scores: Tensor, true: Tensor) -> Tensor:
    """Returns the score of the true class of each row, `(B,)`."""
    # a selection, not a product: 0 * inf would spoil the row
    return ops.sum(ops.where(true, scores, ops.zeros_like(scores)), axis=-1)


def one_class_each(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """The true class of each row and the scores, for class indices as well as one-hot rows.

    Args:
        y_true: indices `(B,)` or `(B, 1)`, or rows `(B, C)` whose largest entry is the class (the
            first one if several).
        y_pred: scores `(B, C)`, `C >= 2`: so the shape tells which labels they are.

    Returns:
        A boolean mask and scores, both `(B, C)`. The scores of a row are NaN where its label is, or
        is no class: an index that is negative, too large or not whole.

    Raises:
        TypeError, ValueError: as `aligned`; and for a single column of scores.
    """
    labels = ops.convert_to_tensor(numeric("y_true", y_true))
    scores = floating(numeric("y_pred", y_pred))
    are_indices = len(labels.shape) == 1 or (len(labels.shape) == 2 and labels.shape[1] == 1)
    if len(scores.shape) != 2 or not are_indices:
        rows, scores = aligned(y_true, y_pred)
        several_classes(scores, "`TauBinaryCrossentropy`")
        return true_class(rows), scores
    several_classes(scores, "`TauBinaryCrossentropy`")
    check_finite("y_true", labels)
    mask = class_mask(ops.reshape(labels, (-1, 1)), ops.shape(scores)[1])
    rows, scores = aligned(mask, scores)
    true = rows > 0
    is_class = ops.any(true, axis=-1, keepdims=True)
    return true, ops.where(is_class, scores, ops.full_like(scores, math.nan))
