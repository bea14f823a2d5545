"""Writes the question of robustness in the VNN-LIB format, for other verifiers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._files.writing import whole_file
from deel_lip_tf._validation.models import check_one_to_one
from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.semantics.ends import threshold
from deel_lip_tf.semantics.graph import graph_of
from deel_lip_tf.verify.domain import Domain, ball
from deel_lip_tf.verify.specification.vnnlib import digits_of

_VERSIONS = ("1.0", "2.0")


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
    # Of these comparisons, `(relation, output, output)`, a counterexample satisfies one.
    rivals = [(">=", f"Y_{j}", f"Y_{int(label)}") for j in range(classes) if j != label]
    if classes == 1:
        relation = "<=" if label == 1 else ">="
        rivals = [(relation, "Y_0", digits_of(threshold(graph_of(model))))]
    with whole_file(path) as file:
        file.write(write(domain, classes, rivals).encode())


def _writable(domain: Domain) -> Domain:
    """The domain with its subnormal bounds moved outward: not every parser reads such numbers."""
    smallest = np.finfo(np.float64).tiny
    small = [np.abs(end) < smallest for end in (domain.lower, domain.upper)]
    lower = np.where(small[0], np.where(domain.lower < 0, -smallest, 0.0), domain.lower)
    upper = np.where(small[1], np.where(domain.upper > 0, smallest, 0.0), domain.upper)
    return replace(domain, lower=lower, upper=upper)


def _first_text(domain: Domain, classes: int, rivals: list[tuple[str, str, str]]) -> str:
    bounds = list(zip(np.ravel(domain.lower), np.ravel(domain.upper), strict=True))
    lines = [f"(declare-const X_{i} Real)" for i in range(len(bounds))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(classes)]
    for i, (low, high) in enumerate(bounds):
        lines += [f"(assert (>= X_{i} {digits_of(low)}))", f"(assert (<= X_{i} {digits_of(high)}))"]
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
        lines += [
            f"(assert (>= {name} {digits_of(low)}))",
            f"(assert (<= {name} {digits_of(high)}))",
        ]
    terms = [f"({relation} {_indexed(a)} {_indexed(b)})" for relation, a, b in rivals]
    body = f"(or {' '.join(terms)})" if len(terms) > 1 else terms[0]
    return "\n".join([*lines, f"(assert {body})"]) + "\n"


def _indexed(name: str) -> str:
    return re.sub(r"Y_(\d+)", r"Y[0,\1]", name)
