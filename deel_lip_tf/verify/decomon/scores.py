"""Bounds of the outputs of a converted model over domains, whole or cut into parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.scalars import check_count
from deel_lip_tf.verify.decomon.conversion import METHODS_BY_NAME, Converted
from deel_lip_tf.verify.decomon.labels import objectives_of
from deel_lip_tf.verify.domain import Domain, box
from deel_lip_tf.verify.guard import confirmed
from deel_lip_tf.verify.methods import lower_bounds


def refine_boxes(
    x_min: ArrayLike, x_max: ArrayLike, n_sub_boxes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts each box into parts that cover it, halving the widest feature of each again and again.

    Args:
        x_min: (n, *shape) lower corners.
        x_max: (n, *shape) upper corners.
        n_sub_boxes: number of parts, rounded down to a power of two.

    Returns:
        Corners (n, parts, *shape) in float64.

    Raises:
        ValueError: inverted boxes, shapes that differ, or `n_sub_boxes` below 1.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> lower, upper = decomon.refine_boxes([[0.0, 0.0]], [[4.0, 1.0]], n_sub_boxes=2)
        >>> print(lower[0].tolist(), upper[0].tolist())  # the wider feature is halved
        [[0.0, 0.0], [2.0, 0.0]] [[2.0, 1.0], [4.0, 1.0]]
    """
    domain = box(x_min, x_max)
    check_count("n_sub_boxes", n_sub_boxes)
    count, shape = len(domain), domain.lower.shape[1:]
    lower, upper = domain.lower.reshape(count, 1, -1), domain.upper.reshape(count, 1, -1)
    while 2 * lower.shape[1] <= n_sub_boxes:
        widest = np.argmax(upper - lower, axis=2)[..., None]
        ends = (np.take_along_axis(corner, widest, axis=2) for corner in (lower, upper))
        middle = sum(0.5 * end for end in ends)
        first_upper, second_lower = upper.copy(), lower.copy()
        np.put_along_axis(first_upper, widest, middle, axis=2)
        np.put_along_axis(second_lower, widest, middle, axis=2)
        lower = np.concatenate([lower, second_lower], axis=1)
        upper = np.concatenate([first_upper, upper], axis=1)
    return lower.reshape(count, -1, *shape), upper.reshape(count, -1, *shape)


def output_range(
    converted: Converted, domain: Domain, batch_size: int, n_sub_boxes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Upper bounds (n, outputs), and lower ones."""
    eye, options = np.eye(converted.program.outputs)[None], (domain, batch_size, n_sub_boxes)
    return (
        over_parts(*options, lambda part, index: -_lower(converted, part, -eye), np.max),
        over_parts(*options, lambda part, index: _lower(converted, part, eye), np.min),
    )


def adversarial(
    converted: Converted,
    domain: Domain,
    source: ArrayLike,
    target: ArrayLike | None,
    batch_size: int,
    n_sub_boxes: int,
) -> np.ndarray:
    """Upper bounds (n,) of how far a target label can exceed a source label."""
    objectives = objectives_of(source, target, len(domain), converted.program.outputs)

    def score(part: Domain, index: np.ndarray) -> np.ndarray:
        return -_lower(converted, part, objectives[index]).min(axis=1)

    return over_parts(domain, batch_size, n_sub_boxes, score, np.max)


def _lower(converted: Converted, domain: Domain, objectives: np.ndarray) -> np.ndarray:
    """The best lower bounds (n, objectives) of the methods behind a name."""
    program = converted.program
    names = METHODS_BY_NAME[converted.method]
    found = np.max([lower_bounds(program, name, domain, objectives) for name in names], axis=0)
    # Nothing is proven where the model itself returns something else than its program.
    is_confirmed = confirmed(converted.model, program, domain.center)
    return np.where(is_confirmed[:, None], found, -np.inf)


def over_parts(
    domain: Domain, batch_size: int, n_sub_boxes: int, score: Callable, extreme: Callable
) -> np.ndarray:
    """`score(domains, sample of each)`, batch by batch, and its extreme over sub-boxes."""
    if batch_size != -1:
        check_count("batch_size", batch_size, ", or -1 for all samples")
    check_count("n_sub_boxes", n_sub_boxes)
    size = len(domain) if batch_size == -1 else batch_size
    results = []
    for start in range(0, len(domain), size):
        index = np.arange(start, min(start + size, len(domain)))
        part, count = domain[index], 1
        if n_sub_boxes > 1:
            lower, upper = refine_boxes(part.lower, part.upper, n_sub_boxes)
            count = lower.shape[1]
            part = box(*(corner.reshape(-1, *corner.shape[2:]) for corner in (lower, upper)))
        scores = score(part, np.repeat(index, count))
        results.append(extreme(scores.reshape(len(index), count, *scores.shape[1:]), axis=1))
    return np.concatenate(results)
