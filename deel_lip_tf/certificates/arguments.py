"""Samples and labels that a user gives, checked and brought to one form."""

import keras
import numpy as np

from deel_lip_tf.semantics.integers import is_within, of_dtype

__all__ = ["checked_samples", "is_signed", "true_classes"]


def checked_samples(model: keras.Model, x) -> np.ndarray:
    """The samples as float64.

    Raises:
        ValueError: if they are not real numbers of the model's input shape, or there are none.
    """
    samples = np.asarray(x)
    if samples.dtype.kind not in "biuf":
        raise ValueError(f"`x` must hold real numbers. Received: dtype {samples.dtype}.")
    wanted = model.inputs[0].shape[1:]
    fits = samples.ndim == len(wanted) + 1 and all(
        have == want or want is None for have, want in zip(samples.shape[1:], wanted, strict=True)
    )
    if not fits or not len(samples):
        raise ValueError(
            f"`x` must have the shape (n, *{tuple(wanted)}) with n > 0, the model's input shape. "
            f"Received: {samples.shape}."
        )
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    limits = of_dtype(dtype)
    if limits is not None and not is_within(samples, limits):
        raise ValueError(
            f"`x` must hold integers of the type of the model's input, {dtype}: the model would "
            f"round others. Received: values from {samples.min()} to {samples.max()} of dtype "
            f"{samples.dtype}."
        )
    return samples.astype(np.float64)


def true_classes(y, samples: int, count: int) -> np.ndarray:
    """(n,) integers, whatever the encoding; 0 and 1 for one output.

    Raises:
        ValueError: if the labels do not fit the number of samples or of classes.
    """
    labels = np.asarray(y)
    columns = labels[:, None] if labels.ndim == 1 else labels
    fits = columns.ndim == 2 and len(columns) == samples and columns.shape[1] in (1, count)
    if not fits or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"`y` must hold numbers, with the shape ({samples},), ({samples}, 1) or "
            f"({samples}, {count}). Received: shape {labels.shape}, dtype {labels.dtype}."
        )
    if not np.isfinite(columns).all():
        strange = columns[~np.isfinite(columns)]
        raise ValueError(
            f"`y` must hold finite numbers. Received: {strange[0]} in {len(strange)} of "
            f"{columns.size} entries. Leave out the samples that have no label, or certify all of "
            "them without `y`."
        )
    if columns.shape[1] > 1:
        largest = columns.max(axis=1, keepdims=True)
        if not ((columns == largest).sum(axis=1) == 1).all():
            raise ValueError("`y` must be one-hot: exactly one largest entry in each row.")
        return columns.argmax(axis=1)
    values = columns[:, 0]
    allowed = np.array([-1, 1]) if is_signed(y, count) else np.arange(max(count, 2))
    if not np.isin(values, allowed).all():
        strange = values[~np.isin(values, allowed)][0]
        raise ValueError(
            f"`y` must hold classes 0 to {max(count, 2) - 1}"
            f"{', or -1 and 1' if count == 1 else ''}. Received: {strange!r}."
        )
    return (values > 0).astype(np.int64) if is_signed(y, count) else values.astype(np.int64)


def is_signed(y, count: int) -> bool:
    """Whether the labels of a model with one output are -1 and 1."""
    return count == 1 and y is not None and bool((np.asarray(y) == -1).any())
