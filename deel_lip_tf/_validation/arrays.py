"""Data, scores and weights of samples."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf._validation.shapes import way_to_shape


def numeric(name: str, value: Any) -> Any:
    """`value`, labels or scores, if it can be made a tensor of numbers.

    Raises:
        TypeError: None, strings, or rows of different lengths.
    """
    try:
        array = value if hasattr(value, "dtype") else np.asarray(value)
        dtype = keras.backend.standardize_dtype(array.dtype)
    except (TypeError, ValueError):
        dtype = "string"
    if dtype == "string":
        raise TypeError(
            f"`{name}` must be an array or a tensor of numbers or booleans: turn names of classes "
            "into indices, e.g. with `numpy.unique(names, return_inverse=True)`. "
            f"Received: {name}={value!r:.100}."
        )
    return value


def check_finite(name: str, labels: Any) -> None:
    """Refuses labels that are not numbers, where their values can be seen.

    Those of a step that is being traced cannot: there such a label makes the loss NaN.

    Raises:
        ValueError: one of them is NaN or infinite.
    """
    if keras.backend.backend() == "tensorflow" and hasattr(labels, "numpy"):
        labels = labels.numpy()
    if not isinstance(labels, np.ndarray | list | tuple):
        return
    values = np.asarray(labels)
    # types that NumPy has not got, such as bfloat16, have no kind of a float
    if values.dtype.kind in "biuO" or np.isfinite(values := values.astype("float64")).all():
        return
    is_nan = np.isnan(values)
    kind, found = ("NaN", is_nan) if is_nan.any() else ("infinite numbers", np.isinf(values))
    raise ValueError(
        f"`{name}` must not hold {kind}: leave out the samples without a label. Received: "
        f"{found.sum()} {kind} of {values.size}, the first one in row {np.argwhere(found)[0][0]}."
    )


def samples_of(x: Any, shape: Sequence[int | None]) -> np.ndarray:
    """`x` as an array of samples, in the type that it came in.

    Args:
        x: the samples, (n, *shape).
        shape: of one of them, as the model takes it; `None` for an axis of any size.

    Raises:
        ValueError: they are not real numbers of this shape, or there are none.
    """
    samples = np.asarray(x)
    if samples.dtype.kind not in "biuf":
        hint = " Give what the function returns, not the function." if callable(x) else ""
        raise ValueError(
            f"`x` must hold real numbers. Received: dtype {samples.dtype}, of {type(x).__name__}."
            f"{hint}"
        )
    fits = samples.ndim == len(shape) + 1 and all(
        have == want or want is None for have, want in zip(samples.shape[1:], shape, strict=True)
    )
    if not fits or not len(samples):
        raise ValueError(
            f"`x` must have the shape (n, {', '.join(map(str, shape))}) with n > 0, the model's "
            f"input shape. Received: {samples.shape}.{way_to_shape(samples.shape, shape)}"
        )
    return samples


def weight_per_sample(sample_weight: Any, y_pred: Any) -> Any:
    """The weights, one for each row of the scores; `None` and a scalar stay what they are.

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
