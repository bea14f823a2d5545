"""Answers about boxes of inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.decomon.conversion import Converted, Model, converted_of, shaped
from deel_lip_tf.verify.decomon.labels import objectives_of
from deel_lip_tf.verify.decomon.scores import adversarial, output_range, over_parts
from deel_lip_tf.verify.domain import Domain, box
from deel_lip_tf.verify.search.attack import Claims, is_found, search
from deel_lip_tf.verify.tensorflow import evaluate


def get_adv_box(
    model: Model,
    x_min: ArrayLike,
    x_max: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike | None = None,
    batch_size: int = -1,
    n_sub_boxes: int = 1,
) -> np.ndarray:
    """Upper bounds of how far a target label can exceed a source label in each box.

    A negative number proves that on the whole box every source label has a larger output than
    every target label.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        source_labels: the labels that should win: an integer for all samples, integers (n,) or
            (n, k) for k labels each, or rows of 0 and 1 (n, classes), such as one-hot.
        target_labels: those that should lose, in the same forms; all others by default.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default; the bound is the largest of the parts'.

    Returns:
        (n,) float64: upper bounds of `max(f_target - f_source)` over pairs and over the box.

    Raises:
        ValueError: inverted boxes, shapes or labels that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> lower, upper = np.array([[0.6, 0.0], [0.4, 0.0]]), np.array([[1.0, 0.5], [1.0, 0.5]])
        >>> gap = decomon.get_adv_box(model, lower, upper, source_labels=0)
        >>> print(gap.round(4))  # 0.5 - 0.6: proven; 0.5 - 0.4: not
        [-0.1  0.1]
    """
    converted = converted_of(model)
    domain = _box_domain(converted, x_min, x_max)
    return adversarial(converted, domain, source_labels, target_labels, batch_size, n_sub_boxes)


def check_adv_box(
    model: Model,
    x_min: ArrayLike,
    x_max: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike | None = None,
    batch_size: int = -1,
) -> np.ndarray:
    """Lower bounds of how far a target label exceeds a source label somewhere in each box.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        source_labels: the labels that should win: an integer for all samples, integers (n,) or
            (n, k) for k labels each, or rows of 0 and 1 (n, classes), such as one-hot.
        target_labels: those that should lose, in the same forms; all others by default.
        batch_size: samples treated together, -1, the default, for all.

    Returns:
        (n,) float64. A number that is not negative proves a counterexample: an attack has found a
        point of the box, and the model, called on it, gives a target label a larger output than a
        source label, by this much in float64. Otherwise the largest `f_target - f_source` at the
        middle of the box, and always a negative number.

    Raises:
        ValueError: inverted boxes, shapes or labels that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> lower, upper = np.array([[0.6, 0.0], [0.4, 0.0]]), np.array([[1.0, 0.5], [1.0, 0.5]])
        >>> print(decomon.check_adv_box(model, lower, upper, source_labels=0) >= 0)
        [False  True]
    """
    converted = converted_of(model)
    domain = _box_domain(converted, x_min, x_max)
    program = converted.program
    objectives = objectives_of(source_labels, target_labels, len(domain), program.outputs)

    def score(part: Domain, index: np.ndarray) -> np.ndarray:
        at_middle = -_values(program, part.center, objectives[index]).min(axis=1)
        scores = np.minimum(at_middle, -np.finfo(np.float64).tiny)
        sample, pair = np.nonzero(objectives[index].any(axis=2))
        weights = objectives[index][sample, pair][:, None]
        claims = Claims(sample, weights, np.zeros((len(sample), 1)))
        points = search(converted.model, part, claims)
        found = np.flatnonzero(is_found(points))
        if len(found):
            gaps = -_values(program, points[found], weights[found])[:, 0]
            # Where float64 disagrees with the model's own arithmetic, there is no counterexample.
            np.maximum.at(scores, sample[found], np.where(gaps > 0, gaps, -np.inf))
        return scores

    return over_parts(domain, batch_size, 1, score, np.max)


def get_range_box(
    model: Model, x_min: ArrayLike, x_max: ArrayLike, batch_size: int = -1, n_sub_boxes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """`(upper, lower)` bounds (n, classes) of the outputs in each box.

    A final softmax is left out: the bounds are those of its input.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default; the bounds are the extremes of the parts'.

    Returns:
        Two arrays (n, classes) of float64: no output of the model leaves them on the box.

    Raises:
        ValueError: inverted boxes, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, "relu", kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> upper, lower = decomon.get_range_box(model, [[0.5, 1.0]], [[0.75, 2.0]])
        >>> print(upper.round(4), lower.round(4))
        [[0.75 2.  ]] [[0.5 1. ]]
    """
    converted = converted_of(model)
    domain = _box_domain(converted, x_min, x_max)
    return output_range(converted, domain, batch_size, n_sub_boxes)


def get_upper_box(
    model: Model, x_min: ArrayLike, x_max: ArrayLike, batch_size: int = -1, n_sub_boxes: int = 1
) -> np.ndarray:
    """The upper bounds (n, classes) of the outputs in each box, see `get_range_box`.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default.

    Raises:
        ValueError: inverted boxes, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_upper_box(model, [[-1.0, 2.0]], [[0.5, 3.0]]).round(4))
        [[3.5]]
    """
    return get_range_box(model, x_min, x_max, batch_size, n_sub_boxes)[0]


def get_lower_box(
    model: Model, x_min: ArrayLike, x_max: ArrayLike, batch_size: int = -1, n_sub_boxes: int = 1
) -> np.ndarray:
    """The lower bounds (n, classes) of the outputs in each box, see `get_range_box`.

    Args:
        model: from `clone`, or a Keras model (then "crown").
        x_min: (n, ...) lower corners, of the model's input shape or flattened.
        x_max: (n, ...) upper corners, nowhere below `x_min`.
        batch_size: samples treated together, -1, the default, for all.
        n_sub_boxes: into how many parts each box is cut, rounded down to a power of two, 1 by
            default.

    Raises:
        ValueError: inverted boxes, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_lower_box(model, [[-1.0, 2.0]], [[0.5, 3.0]]).round(4))
        [[1.]]
    """
    return get_range_box(model, x_min, x_max, batch_size, n_sub_boxes)[1]


def _box_domain(converted: Converted, x_min: ArrayLike, x_max: ArrayLike) -> Domain:
    return box(shaped(converted, "x_min", x_min), shaped(converted, "x_max", x_max))


def _values(program: Program, points: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """(n, objectives) values of linear functions of the outputs at points, in float64."""
    outputs = evaluate(program, points)[program.output].numpy().reshape(len(points), -1)
    return np.einsum("nrc,nc->nr", objectives, outputs)
