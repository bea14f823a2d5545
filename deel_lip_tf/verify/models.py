"""What is asked of a model itself: its program, which is kept, its outputs and their labels."""

import hashlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from deel_lip_tf._validation.labels import true_classes
from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.semantics.graph import graph_of, is_readable
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.semantics.ir.primitives import Shape
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.semantics.state import state_of
from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.graphs import LRUCache

FLOATS = ("float16", "float32", "float64")
"""The types of inputs that counterexamples are searched for in."""

_PROGRAMS = LRUCache(4)


def program_of(model: keras.Model, input_shape: Shape | None = None) -> Program:
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
    return _PROGRAMS.get(_digest(model, input_shape), lambda: lower_model(model, input_shape))


def configuration(model: Any) -> str | None:
    """All that graphs depend on besides the weights, or `None` where it cannot be written down."""
    if not isinstance(model, keras.Model) or not model.built:
        return None
    # What layers ask Keras for when they are called: see `Rescaling` and `Normalization`.
    asked = keras.config.image_data_format(), keras.config.epsilon()
    try:
        return f"{model.to_json()}{tf.config.functions_run_eagerly()}{asked}"
    except (NotImplementedError, TypeError, ValueError):
        return None  # not every custom part can be written down


def _digest(model: Any, input_shape: Shape | None) -> str | None:
    if (config := configuration(model)) is None or not is_readable(model):
        return None
    shape = model.inputs[0].shape[1:] if input_shape is None else input_shape
    digest = hashlib.sha256(f"{config}{tuple(shape)}".encode())
    for call in graph_of(model).calls:
        digest.update(f"{call.unsupported}".encode())
        arguments = keras.tree.flatten((call.args, call.kwargs))
        # Variables among them are rounded as the model rounds them, which it may be told to do.
        constants = [x for x in arguments if isinstance(x, np.ndarray)]
        for array in (*constants, *state_of(call.operation)):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def input_type(model: keras.Model) -> str:
    """The type of the input of a model."""
    return keras.backend.standardize_dtype(model.inputs[0].dtype)


def output_values(model: keras.Model, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Outputs of a model at inference, in its own arithmetic."""
    parts = [
        np.asarray(keras.ops.convert_to_numpy(model(x[i : i + batch_size], training=False)))
        for i in range(0, len(x), batch_size)
    ]
    return np.concatenate(parts)


def classified(
    model: keras.Model, domain: Domain, y: ArrayLike | None
) -> tuple[Program, np.ndarray, np.ndarray, np.ndarray]:
    """A classifier at the centers of domains: its program, outputs, predictions, and the labels.

    These are `y`, or what the model predicts.

    Raises:
        TypeError, ValueError: as of `program_of`; labels, or an output, that do not fit.
    """
    program = program_of(model, domain.lower.shape[1:])
    check_classifier_shape(program.output_shape)
    outputs = output_values(model, domain.center)
    predicted = predicted_labels(program, outputs)
    labels = predicted if y is None else true_classes(y, len(domain), program.outputs)
    return program, outputs, predicted, labels


def predicted_labels(program: Program, outputs: np.ndarray) -> np.ndarray:
    """(n,) classes that outputs of the model stand for.

    The first of the largest outputs; for a single output whether it is positive, or above 1/2
    where a sigmoid makes it.
    """
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1)
    threshold = 0.5 if program.dropped == "sigmoid" else 0.0
    return (outputs[:, 0] > threshold).astype(np.int64)


def margin_objectives(labels: np.ndarray, outputs: int) -> np.ndarray:
    """(n, classes - 1, outputs) rows that are all positive where the label is predicted.

    `f_label - f_other` for every other class; `f` or `-f` for a single output.
    """
    if outputs == 1:
        return np.where(labels > 0, 1.0, -1.0).reshape(-1, 1, 1)
    eye = np.eye(outputs)
    others = np.array([[j for j in range(outputs) if j != label] for label in labels])
    return eye[labels][:, None] - eye[others]
