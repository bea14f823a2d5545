"""Checks of what users give, and programs that are kept for the next question."""

import hashlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from deel_lip_tf.semantics.graph import graph_of, is_readable
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.semantics.state import state_of
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.graphs import Kept

__all__ = [
    "check_method",
    "check_shape",
    "check_time_limit",
    "configuration",
    "labels_of",
    "output_values",
    "predicted_labels",
    "program_of",
]

_KEPT = Kept(4)


def program_of(model: keras.Model, input_shape: Sequence[int] | None = None) -> Program:
    """The program of a model as it is now; one that is known is not lowered and traced again.

    A program is known by the model's configuration and a digest of all that its calls compute with.

    Raises:
        TypeError, ValueError: as in `lower_model`; another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Verification needs Keras on TensorFlow. Received: the backend "
            f"{keras.backend.backend()!r}. Save the model, and verify it in a process with "
            "KERAS_BACKEND=tensorflow."
        )
    return _KEPT.get(_digest(model, input_shape), lambda: lower_model(model, input_shape))


def configuration(model) -> str | None:
    """All that graphs depend on besides the weights, or `None` where it cannot be written down."""
    if not isinstance(model, keras.Model) or not model.built:
        return None
    try:
        return f"{model.to_json()}{tf.config.functions_run_eagerly()}"
    except (NotImplementedError, TypeError, ValueError):
        return None  # not every custom part can be written down


def _digest(model, input_shape) -> str | None:
    if (config := configuration(model)) is None or not is_readable(model):
        return None
    digest = hashlib.sha256(f"{config}{input_shape}".encode())
    for call in graph_of(model).calls:
        digest.update(f"{call.refusal}".encode())
        for array in state_of(call.operation):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_shape(program: Program, domain: Domain) -> None:
    """Refuses samples of another shape than the model's input.

    Raises:
        ValueError: they differ.
    """
    if domain.lower.shape[1:] != program.input_shape:
        raise ValueError(
            f"Samples must have the shape (n, *{program.input_shape}), the model's input shape. "
            f"Received: {domain.lower.shape}. Reshape them; a single sample is `x[None]`."
        )


def check_classifier(program: Program) -> None:
    """Refuses a model whose output is not one row of classes.

    Raises:
        ValueError: it has another shape.
    """
    shape = program.nodes[program.output].shape
    if len(shape) != 1:
        raise ValueError(
            "`model` must be a classifier, with an output of shape (batch, classes) or (batch, 1). "
            f"Received: an output of shape (batch, {', '.join(map(str, shape))}). For other "
            "outputs, use `bounds`."
        )


def labels_of(y, samples: int, outputs: int) -> np.ndarray:
    """(n,) classes as integers, whatever the encoding.

    Args:
        y: integers (n,) or (n, 1), or one-hot rows (n, outputs).
        samples: n.
        outputs: of the model; a single one has the classes 0 and 1.

    Raises:
        ValueError: another shape, values that are not classes, or rows that are not one-hot.
    """
    labels = np.asarray(y)
    classes = max(outputs, 2)
    columns = labels[:, None] if labels.ndim == 1 else labels
    fits = columns.ndim == 2 and len(columns) == samples and columns.shape[1] in (1, outputs)
    if not fits or labels.dtype.kind not in "biuf":
        raise ValueError(
            f"`y` must hold the labels of {samples} samples: integers of shape ({samples},) or "
            f"({samples}, 1), or one-hot rows of shape ({samples}, {outputs}). "
            f"Received: shape {labels.shape}, dtype {labels.dtype}."
        )
    if columns.shape[1] > 1:
        if not (((columns == 0) | (columns == 1)).all() and (columns.sum(axis=1) == 1).all()):
            raise ValueError(
                "`y` must be one-hot: one 1 and zeros in each row. For probabilities, pass "
                "`y.argmax(axis=1)`."
            )
        return columns.argmax(axis=1)
    values = columns[:, 0]
    if not np.isin(values, np.arange(classes)).all():
        strange = values[~np.isin(values, np.arange(classes))][0]
        raise ValueError(f"`y` must hold classes 0 to {classes - 1}. Received: {strange!r}.")
    return values.astype(np.int64)


def output_values(model: keras.Model, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Outputs of a model at inference, in its own arithmetic."""
    parts = [
        np.asarray(keras.ops.convert_to_numpy(model(x[i : i + batch_size], training=False)))
        for i in range(0, len(x), batch_size)
    ]
    return np.concatenate(parts)


def predicted_labels(program: Program, outputs: np.ndarray) -> np.ndarray:
    """(n,) classes that outputs of the model stand for.

    The first of the largest outputs; for a single output whether it is positive, or above 1/2
    where a sigmoid makes it.
    """
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1)
    threshold = 0.5 if program.dropped == "sigmoid" else 0.0
    return (outputs[:, 0] > threshold).astype(np.int64)


def margin_rows(labels: np.ndarray, outputs: int) -> np.ndarray:
    """(n, classes - 1, outputs) rows that are all positive where the label is predicted.

    `f_label - f_other` for every other class; `f` or `-f` for a single output.
    """
    if outputs == 1:
        return np.where(labels > 0, 1.0, -1.0).reshape(-1, 1, 1)
    eye = np.eye(outputs)
    others = np.array([[j for j in range(outputs) if j != label] for label in labels])
    return eye[labels][:, None] - eye[others]


def check_method(method: str, methods: Sequence[str]) -> None:
    """Refuses an unknown method.

    Raises:
        ValueError: it is none of `methods`.
    """
    if method not in methods:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, methods))}. Received: {method!r}."
        )


def check_time_limit(time_limit) -> None:
    """Refuses a limit that is not a positive number.

    Raises:
        ValueError: it is something else.
    """
    is_number = isinstance(time_limit, int | float) and not isinstance(time_limit, bool)
    if time_limit is not None and not (is_number and time_limit > 0):
        raise ValueError(
            "`time_limit` must be a positive number of seconds, or None. "
            f"Received: time_limit={time_limit!r}."
        )
