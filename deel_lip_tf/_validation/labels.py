"""Labels of a classifier, in every encoding that Keras's users have, read in one way.

| labels             | shape                  | the true class                            |
|--------------------|------------------------|-------------------------------------------|
| classes            | (n,) or (n, 1)         | the number itself, of any type: 2 or 2.0  |
| rows               | (n, classes)           | the place of the one largest entry        |
| of a single output | (n,) or (n, 1)         | 0 and 1, or -1 and 1: whether it is 1     |

So rows of 0 and 1, of -1 and 1, of booleans, smoothed ones and probabilities mean what
`keras.metrics.CategoricalAccuracy` takes them for, with one exception. A row that has its largest
entry twice (several classes, none at all, [0.5, 0.5]) names no class: Keras takes the first, and a
certificate must not, because nobody gave that answer. Neither do a number that is no class (3 of 3
classes, -1, 0.5) and a row that holds a NaN.
"""

from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops


def class_mask(labels: Any, classes: int, xp: ModuleType = ops) -> Any:
    """Where the true class of each row is, by the table of this module.

    Args:
        labels: tensor (n, 1) or (n, classes), also of a step that is being traced.
        classes: their number, at least 2.
        xp: `keras.ops` for tensors, `numpy` for arrays, whose float64 every backend keeps so.

    Returns:
        Booleans (n, classes): one of each row is true, or none where the labels name no class.
    """
    if labels.shape[-1] == 1:
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(labels.dtype)):
            # a class above 2048 is no number of float16, one above 256 none of bfloat16
            labels = xp.add(labels, xp.zeros((), dtype="float32"))
        return xp.equal(xp.arange(classes, dtype="int32"), labels)
    is_largest = xp.equal(labels, xp.max(labels, axis=-1, keepdims=True))
    names_one = xp.equal(xp.sum(is_largest, axis=-1, keepdims=True), 1)
    has_no_nan = xp.all(xp.equal(labels, labels), axis=-1, keepdims=True)
    return xp.logical_and(is_largest, xp.logical_and(names_one, has_no_nan))


def true_classes(y: Any, samples: int, outputs: int, name: str = "y") -> np.ndarray:
    """The classes as integers (n,), by the table of this module; 0 and 1 for a single output.

    Args:
        y: the labels.
        samples: n.
        outputs: of the model, that is the number of classes, or 1.
        name: of the argument.

    Raises:
        ValueError: the labels have another shape, are not finite numbers, or one of them names no
            class.
    """
    labels = np.asarray(y)
    if labels.dtype.name == "bfloat16":
        labels = labels.astype(np.float32)  # NumPy does not count it among its own floats
    columns = labels[:, None] if labels.ndim == 1 else labels
    fits = columns.ndim == 2 and len(columns) == samples and columns.shape[1] in (1, outputs)
    if not fits or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` must hold the labels of {samples} samples: classes of shape ({samples},) or "
            f"({samples}, 1), or one-hot rows of shape ({samples}, {outputs}). "
            f"Received: shape {labels.shape}, dtype {labels.dtype}."
        )
    if not np.isfinite(columns).all():
        strange = columns[~np.isfinite(columns)]
        raise ValueError(
            f"`{name}` must hold finite numbers. Received: {strange[0]} in {len(strange)} of "
            f"{columns.size} entries. Leave out the samples that have no label."
        )
    # of -1, 1 and others: 0, 1 and what is no class
    counted = (columns + 1.0) / 2 if is_signed(labels, outputs) else columns
    mask = class_mask(counted, max(outputs, 2), np)
    if not (names_one := mask.any(axis=1)).all():
        raise ValueError(_names_no_class(name, columns[~names_one][0], outputs))
    return mask.argmax(axis=1)


def _names_no_class(name: str, row: np.ndarray, outputs: int) -> str:
    if len(row) > 1:
        return (
            f"`{name}` must be one-hot, or name a class by the one largest entry of each row. "
            f"Received: {row.max()!r} in {(row == row.max()).sum()} of {len(row)} entries of a row."
        )
    signed = ", or -1 and 1" if outputs == 1 else ""
    return f"`{name}` must hold classes 0 to {max(outputs, 2) - 1}{signed}. Received: {row[0]!r}."


def is_signed(y: Any, outputs: int) -> bool:
    """Whether the labels of a model with one output are -1 and 1."""
    return outputs == 1 and y is not None and bool((np.asarray(y) == -1).any())


def check_not_swapped(y_true: Any, y_pred: Any) -> None:
    """Refuses scores in the place of labels, where the values can be seen and leave no doubt.

    There is none where the scores are one-hot rows, or a column of both classes, and the labels
    have fractions and are neither within 0 and 1 nor, as rows, shares of 1.

    Raises:
        ValueError: so it is.
    """
    labels, scores = _values_of(y_true), _values_of(y_pred)
    if labels is None or scores is None or labels.shape != scores.shape:
        return
    if _are_plain_labels(scores) and _can_only_be_scores(labels):
        raise ValueError(
            "`y_true` comes first and `y_pred` second: `loss(y_true, y_pred)`, where PyTorch has "
            f"them the other way round. Received: y_true={labels[0].tolist()!r:.60}... and "
            f"y_pred={scores[0].tolist()!r:.60}..."
        )


def _values_of(values: Any) -> np.ndarray | None:
    """(n, columns) in float64, or `None` for a tensor of a step that is being traced."""
    if keras.backend.backend() == "tensorflow" and hasattr(values, "numpy"):
        values = values.numpy()
    if not isinstance(values, np.ndarray | list | tuple):
        return None
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _are_plain_labels(values: np.ndarray) -> bool:
    found = set(np.unique(values).tolist())
    if found not in ({0.0, 1.0}, {-1.0, 1.0}):
        return False
    return values.shape[1] == 1 or bool(((values == 1).sum(axis=1) == 1).all())


def _can_only_be_scores(values: np.ndarray) -> bool:
    if not np.isfinite(values).all() or (values == np.round(values)).all():
        return False
    if values.min() < 0 or values.max() > 1:
        return True
    return values.shape[1] > 1 and not np.allclose(values.sum(axis=1), 1, atol=1e-2)
