"""The VNN-LIB format: reading properties, and counterexamples.

Version 1.0 of the format (`declare-const`) is read here: the package `vnnlib` reads it no more
since its own release 1.0. Files of version 2.0 (`declare-network`) are parsed and checked by that
package; of its results only the syntax tree is used, because its transformation into boxes turns
several assertions, which all have to hold, into alternatives.

Numbers are the float64 nearest to their digits, as in other tools; what is computed from them is
exact.
"""

import decimal
from pathlib import Path

import numpy as np

from deel_lip_tf._files.reading import content_of
from deel_lip_tf.verify.specification.parsing import parsed, without_collections
from deel_lip_tf.verify.specification.property import Property, property_of


def read_vnnlib(path: str | Path) -> Property:
    """Reads a property: what a counterexample satisfies.

    Variables are `X_0 ...` and `Y_0 ...` (in version 2.0 the entries of one input and one output
    tensor), the entries of the model's input and output in their own order. Assertions are made of
    `and`, `or`, `<=`, `>=`, `<`, `>`, `=`, and of linear terms of `+`, `-`, `*`. Every input has a
    lower and an upper bound; besides, several inputs may be compared with each other, as in
    `(<= X_0 (+ X_1 0.5))`, and with outputs.

    Args:
        path: a file (`.vnnlib`, or `.vnnlib.gz`) of version 1.0 or, with the package `vnnlib`,
            2.0.

    Returns:
        The property.

    Raises:
        OSError: the file cannot be read.
        ImportError: a file of version 2.0 without the package `vnnlib`.
        ValueError: the file is no such property, or an input has no bounds.

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
    lines = [f"(X_{i} {digits_of(value)})" for i, value in enumerate(np.ravel(x))]
    lines += [f"(Y_{i} {digits_of(value)})" for i, value in enumerate(np.ravel(y))]
    return "(" + "\n ".join(lines) + ")"


def digits_of(value: float) -> str:
    """The shortest digits that give the float64 back, without an exponent."""
    text = format(decimal.Decimal(repr(float(value))), "f")
    return text if "." in text else text + ".0"
