"""Answers about balls of inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf.verify.decomon.conversion import Converted, Model, converted_of, shaped
from deel_lip_tf.verify.decomon.scores import adversarial, output_range
from deel_lip_tf.verify.domain import Domain, ball

_NORMS = {np.inf: "linf", 2: "l2", 1: "l1"}


def get_adv_noise(
    model: Model,
    x: ArrayLike,
    source_labels: ArrayLike,
    eps: float = 0.0,
    p: float = np.inf,
    target_labels: ArrayLike | None = None,
    batch_size: int = -1,
) -> np.ndarray:
    """Upper bounds of how far a target label can exceed a source label in each ball.

    A ball holds the points at a distance of at most `eps` from its center in the Lp norm. A
    negative number proves that on the whole ball every source label has a larger output than every
    target label.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        source_labels: the labels that should win: an integer for all samples, integers (n,) or
            (n, k) for k labels each, or rows of 0 and 1 (n, classes), such as one-hot.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        target_labels: those that should lose, in the same forms; all others by default.
        batch_size: samples treated together, -1, the default, for all.

    Returns:
        (n,) float64: upper bounds of `max(f_target - f_source)` over pairs and over the ball.

    Raises:
        ValueError: another `p`, a negative `eps`, shapes or labels that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> for p in (np.inf, 2):  # the gap is 0.5, and changes by 0.3 times 2 or sqrt(2)
        ...     gap = decomon.get_adv_noise(model, [[0.75, 0.25]], source_labels=0, eps=0.3, p=p)
        ...     print(gap.round(4))
        [0.1]
        [-0.0757]
    """
    converted = converted_of(model, "crown-forward-hybrid")
    domain = _ball_domain(converted, x, eps, p)
    return adversarial(converted, domain, source_labels, target_labels, batch_size, 1)


def get_range_noise(
    model: Model, x: ArrayLike, eps: float, p: float = np.inf, batch_size: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """`(upper, lower)` bounds (n, classes) of the outputs in each ball, in the Lp norm.

    A final softmax is left out: the bounds are those of its input.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        batch_size: samples treated together, -1, the default, for all.

    Returns:
        Two arrays (n, classes) of float64: no output of the model leaves them on the ball.

    Raises:
        ValueError: another `p`, a negative `eps`, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> upper, lower = decomon.get_range_noise(model, [[0.5, 1.5]], eps=0.25)
        >>> print(upper.round(4), lower.round(4))
        [[0.75 1.75]] [[0.25 1.25]]
    """
    converted = converted_of(model, "crown-forward-hybrid")
    return output_range(converted, _ball_domain(converted, x, eps, p), batch_size, 1)


def get_upper_noise(
    model: Model, x: ArrayLike, eps: float, p: float = np.inf, batch_size: int = -1
) -> np.ndarray:
    """The upper bounds (n, classes) of the outputs in each ball, see `get_range_noise`.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        batch_size: samples treated together, -1, the default, for all.

    Raises:
        ValueError: another `p`, a negative `eps`, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_upper_noise(model, [[0.5, 1.5]], eps=0.25, p=2).round(4))
        [[2.3536]]
    """
    return get_range_noise(model, x, eps, p, batch_size)[0]


def get_lower_noise(
    model: Model, x: ArrayLike, eps: float, p: float = np.inf, batch_size: int = -1
) -> np.ndarray:
    """The lower bounds (n, classes) of the outputs in each ball, see `get_range_noise`.

    Args:
        model: from `clone`, or a Keras model (then "crown-forward-hybrid").
        x: (n, ...) centers, of the model's input shape or flattened.
        eps: radius, not negative.
        p: `numpy.inf`, the default, 2 or 1. As decomon does, no ball is cut to a data range.
        batch_size: samples treated together, -1, the default, for all.

    Raises:
        ValueError: another `p`, a negative `eps`, or shapes that do not fit.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> print(decomon.get_lower_noise(model, [[0.5, 1.5]], eps=0.25, p=1).round(4))
        [[1.75]]
    """
    return get_range_noise(model, x, eps, p, batch_size)[1]


def _ball_domain(converted: Converted, x: ArrayLike, eps: float, p: float) -> Domain:
    if not isinstance(p, int | float) or p not in _NORMS:
        raise ValueError(f"`p` must be 1, 2 or numpy.inf. Received: p={p!r}.")
    return ball(shaped(converted, "x", x), eps, _NORMS[p], clip=None)
