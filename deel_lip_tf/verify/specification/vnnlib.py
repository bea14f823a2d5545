"""The VNN-LIB format: reading properties, writing the robustness question, and counterexamples.

Version 1.0 of the format (`declare-const`) is read here: the package `vnnlib` reads it no more
since its own release 1.0. Files of version 2.0 (`declare-network`) are parsed and checked by that
package; of its results only the syntax tree is used, because its transformation into boxes turns
several assertions, which all have to hold, into alternatives.

Numbers are the float64 nearest to their digits, as in other tools; what is computed from them is
exact.
"""

import decimal
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.models import check_one_to_one
from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.formats.compression import content_of
from deel_lip_tf.semantics.ends import threshold
from deel_lip_tf.semantics.graph import graph_of
from deel_lip_tf.verify.domain import Domain, ball
from deel_lip_tf.verify.specification.parsing import parsed, without_collections
from deel_lip_tf.verify.specification.property import (
    Property,
    property_of,
)

__all__ = ["counterexample", "read_vnnlib", "to_vnnlib"]

_VERSIONS = ("1.0", "2.0")


def read_vnnlib(path: str | Path) -> Property:
    """Reads a property: what a counterexample satisfies.

    Variables are `X_0 ...` and `Y_0 ...` (in version 2.0 the entries of one input and one output
    tensor), the entries of the model's input and output in their own order. Assertions are made of
    `and`, `or`, `<=`, `>=`, `<`, `>`, `=`, and of linear terms of `+`, `-`, `*`.

    Args:
        path: a file (`.vnnlib`, or `.vnnlib.gz`) of version 1.0 or, with the package `vnnlib`,
            2.0.

    Returns:
        The property.

    Raises:
        OSError: the file cannot be read.
        ImportError: a file of version 2.0 without the package `vnnlib`.
        ValueError: the file is no such property, or one whose inputs are not bounded one by one.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "question.vnnlib"
        >>> text = "(declare-const X_0 Real) (declare-const Y_0 Real) "
        >>> text += "(assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (>= Y_0 3.0))"
        >>> _ = path.write_text(text)
        >>> question = lip.verify.read_vnnlib(path)
        >>> [part] = question.conjunctions
        >>> question.inputs, question.outputs, part.lower.tolist(), part.upper.tolist()
        (1, 1, [0.0], [1.0])
    """
    text = content_of(path).decode("utf-8")
    with without_collections():
        return property_of(*parsed(text))


def to_vnnlib(
    path: str | Path,
    model: keras.Model,
    x: ArrayLike,
    label: int,
    eps: float,
    norm: str = "linf",
    clip: tuple | None = (0.0, 1.0),
    version: str = "1.0",
) -> None:
    """Writes whether `model` keeps a label around one input, for other verifiers.

    The box is that of `ball(x, eps, norm, clip)` to the last digit of float64, and a
    counterexample is an input of the box where another output is at least as large as that of the
    label: `unsat` means robust.

    Args:
        path: of the file.
        model: a Keras model with one input and one output.
        x: one sample, of the model's input shape, with or without a batch axis of size 1.
        label: the class that is claimed; of a single output, 1 says that it is positive (of a
            sigmoid: above 0.5).
        eps: radius.
        norm: "linf"; the format has no other balls.
        clip: data range.
        version: of the format, "1.0" or "2.0".

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: a model with another number of inputs or outputs or that is no classifier,
            another norm or version, more than one sample, a label out of range.

    Example:
        >>> import pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "question.vnnlib"
        >>> lip.verify.to_vnnlib(path, model, np.array([0.5, 0.25]), label=0, eps=0.25)
        >>> print(path.read_text())
        (declare-const X_0 Real)
        (declare-const X_1 Real)
        (declare-const Y_0 Real)
        (declare-const Y_1 Real)
        (assert (>= X_0 0.24999999999999997))
        (assert (<= X_0 0.7500000000000001))
        (assert (>= X_1 0.0))
        (assert (<= X_1 0.5000000000000001))
        (assert (or (and (>= Y_1 Y_0))))
    """
    if norm != "linf":
        raise ValueError(
            f'`norm` must be "linf": VNN-LIB describes boxes. Received: norm={norm!r}.'
        )
    if version not in _VERSIONS:
        raise ValueError(f"`version` must be one of {_VERSIONS}. Received: version={version!r}.")
    check_one_to_one(model)
    check_classifier_shape(model.outputs[0].shape[1:])
    shape = tuple(model.inputs[0].shape[1:])
    sample = np.asarray(x)
    sample = sample[None] if sample.shape == shape else sample
    if sample.shape != (1, *shape):
        raise ValueError(
            f"`x` must be one sample of shape {shape}. Received: shape {np.shape(x)}. Write one "
            "file for each sample."
        )
    classes = model.outputs[0].shape[-1]
    given = np.asarray(label)
    if given.ndim or given.dtype.kind not in "iuf" or given not in range(max(classes, 2)):
        raise ValueError(
            f"`label` must be a class from 0 to {max(classes, 2) - 1}. Received: label={label!r}."
        )
    domain = _writable(ball(sample, eps, norm, clip))
    write = {"1.0": _first_text, "2.0": _second_text}[version]
    rivals = _rivals(model, int(label))
    Path(path).write_text(write(domain, classes, rivals), encoding="utf-8")


def counterexample(x: np.ndarray, y: np.ndarray) -> str:
    """An input and its outputs in the form of the verification competitions.

    Args:
        x: an input, any shape; its entries are numbered in their order.
        y: its outputs.

    Returns:
        The text `((X_0 ...) ... (Y_0 ...) ...)`, each float64 in the shortest digits that give it
        back.

    Example:
        >>> print(lip.verify.counterexample(np.array([0.25, 0.5]), np.array([1.0, 2.0])))
        ((X_0 0.25)
         (X_1 0.5)
         (Y_0 1.0)
         (Y_1 2.0))
    """
    lines = [f"(X_{i} {_digits(value)})" for i, value in enumerate(np.ravel(x))]
    lines += [f"(Y_{i} {_digits(value)})" for i, value in enumerate(np.ravel(y))]
    return "(" + "\n ".join(lines) + ")"


# --- writing -------------------------------------------------------------------------------------


def _digits(value: float) -> str:
    """The shortest digits that give the float64 back, without an exponent."""
    text = format(decimal.Decimal(repr(float(value))), "f")
    return text if "." in text else text + ".0"


def _writable(domain: Domain) -> Domain:
    """The domain with its subnormal bounds moved outward: not every parser reads such numbers."""
    smallest = np.finfo(np.float64).tiny
    small = [np.abs(end) < smallest for end in (domain.lower, domain.upper)]
    lower = np.where(small[0], np.where(domain.lower < 0, -smallest, 0.0), domain.lower)
    upper = np.where(small[1], np.where(domain.upper > 0, smallest, 0.0), domain.upper)
    return replace(domain, lower=lower, upper=upper)


def _rivals(model: keras.Model, label: int) -> list[tuple[str, str, str]]:
    """Comparisons of which a counterexample satisfies one: `(relation, output, output)`."""
    classes = model.outputs[0].shape[-1]
    if classes > 1:
        return [(">=", f"Y_{j}", f"Y_{label}") for j in range(classes) if j != label]
    return [("<=" if label == 1 else ">=", "Y_0", _digits(threshold(graph_of(model))))]


def _first_text(domain: Domain, classes: int, rivals: list[tuple[str, str, str]]) -> str:
    bounds = list(zip(np.ravel(domain.lower), np.ravel(domain.upper), strict=True))
    lines = [f"(declare-const X_{i} Real)" for i in range(len(bounds))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(classes)]
    for i, (low, high) in enumerate(bounds):
        lines += [f"(assert (>= X_{i} {_digits(low)}))", f"(assert (<= X_{i} {_digits(high)}))"]
    terms = " ".join(f"(and ({relation} {a} {b}))" for relation, a, b in rivals)
    return "\n".join([*lines, f"(assert (or {terms}))"]) + "\n"


def _second_text(domain: Domain, classes: int, rivals: list[tuple[str, str, str]]) -> str:
    shape = (1, *domain.lower.shape[1:])
    bounds = zip(np.ravel(domain.lower), np.ravel(domain.upper), strict=True)
    lines = ["(vnnlib-version <2.0>)", "(declare-network N"]
    lines += [f"  (declare-input X float32 {list(shape)})".replace(", ", ",")]
    lines += [f"  (declare-output Y float32 [1,{classes}])", ")"]
    for i, (low, high) in enumerate(bounds):
        name = f"X[{','.join(str(int(n)) for n in np.unravel_index(i, shape))}]"
        lines += [f"(assert (>= {name} {_digits(low)}))", f"(assert (<= {name} {_digits(high)}))"]
    terms = [f"({relation} {_indexed(a)} {_indexed(b)})" for relation, a, b in rivals]
    body = f"(or {' '.join(terms)})" if len(terms) > 1 else terms[0]
    return "\n".join([*lines, f"(assert {body})"]) + "\n"


def _indexed(name: str) -> str:
    return re.sub(r"Y_(\d+)", r"Y[0,\1]", name)
