"""Labels as decomon's users write them, and the differences of outputs that they stand for."""

import numpy as np
from numpy.typing import ArrayLike


def objectives_of(
    source: ArrayLike, target: ArrayLike | None, samples: int, classes: int
) -> np.ndarray:
    """(n, pairs, classes) objectives `f_source - f_target`, one for each pair of labels."""
    wins = _mask("source_labels", source, samples, classes)
    loses = ~wins if target is None else _mask("target_labels", target, samples, classes)
    if (both := (wins & loses).any(axis=1)).any() or not (
        wins.any(axis=1) & loses.any(axis=1)
    ).all():
        raise ValueError(
            "Every sample must have a source label and a target label, and none that is both. "
            f"Received: {int(both.sum())} samples with a label that is both."
        )
    eye = np.eye(classes)
    pairs = [eye[w][:, None] - eye[t][None] for w, t in zip(wins, loses, strict=True)]
    rows = [pair.reshape(-1, classes) for pair in pairs]
    most = max(map(len, rows))
    # The last pair again, so that all samples have as many.
    return np.stack([np.concatenate([r, np.repeat(r[-1:], most - len(r), axis=0)]) for r in rows])


def _mask(name: str, labels: ArrayLike, samples: int, classes: int) -> np.ndarray:
    """(n, classes) booleans, from integers or from rows of 0 and 1."""
    values = np.asarray(labels)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold integers or masks. Received: dtype {values.dtype}.")
    if values.ndim == 0:
        values = np.full((samples, 1), values)
    elif values.shape == (classes,) and samples == 1:
        values = values[None] if classes > 1 else values
    columns = values[:, None] if values.ndim == 1 else values
    if columns.ndim != 2 or len(columns) != samples:
        raise ValueError(
            f"`{name}` must be an integer, integers of shape ({samples},) or ({samples}, k), or "
            f"rows of 0 and 1 of shape ({samples}, {classes}). Received: shape {np.shape(labels)}."
        )
    if columns.shape[1] == classes and np.isin(columns, (0, 1)).all():
        return columns.astype(bool)
    if not np.isin(columns, np.arange(classes)).all():
        strange = columns[~np.isin(columns, np.arange(classes))][0]
        raise ValueError(
            f"`{name}` must hold classes 0 to {classes - 1}, or be rows of 0 and 1 of shape "
            f"({samples}, {classes}). Received: {strange!r}."
        )
    mask = np.zeros((samples, classes), bool)
    np.put_along_axis(mask, columns.astype(np.int64), True, axis=1)
    return mask
