"""Lipschitz constants near samples, from gradients that `deel_lip_tf.verify` bounds."""

from __future__ import annotations

import importlib

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.backends import tensorflow_for

_GRADIENTS = "deel_lip_tf.verify.properties.gradients"  # stands above, and needs TensorFlow


def local_lipschitz(
    model: keras.Model,
    x: ArrayLike,
    radius: ArrayLike,
    norm: str = "l2",
    clip: tuple | None = None,
    method: str = "crown",
) -> np.ndarray:
    """Proven Lipschitz constants of a model in balls around samples.

    `||f(a) - f(b)||_p <= K ||a - b||_p` for all a and b in the ball of the same p-norm around a
    sample. The claim is about the exact function of the weights as stored, at inference, and K is
    rounded upward. All gradients that the function can have in the ball are bounded entry by entry,
    from the slopes that each activation can have there, and K is the norm of the matrix of these
    bounds: exact for "linf" and "l1"; in "l2" the better one of the norm of the largest entries and
    of the sum of the norms of their middles and of their half widths, or what one matrix inequality
    proves of a chain of layers with the same slopes (`bounds.sectors`). Where the constant of the
    whole space (`lipschitz_bound`) is smaller, it is that one.

    Args:
        model: a Sequential or functional model with one input and one output, of any shape, of
            layers that `verify` reads: no constant of a layer needs to be known.
        x: (n, *shape) finite samples, of the model's input shape.
        radius: of the balls, not negative, a number or one for each sample, in the units of `x`.
        norm: "l2", the default, "linf" or "l1", of inputs and outputs, flattened.
        clip: smallest and largest value of the data, which the balls are cut to, or `None`, the
            default.
        method: a name of `verify.METHODS`, by which the layers are bounded.

    Returns:
        (n,) float64; inf where nothing is known.

    Raises:
        ImportError: without TensorFlow.
        TypeError: `model` is not a Keras model.
        ValueError: an argument out of its range, another backend than TensorFlow, or a model with
            several inputs or with layers that have no rule: all of them are named.

    Example:
        >>> first = keras.layers.Dense(2, "relu", kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), first, keras.layers.Dense(1)])
        >>> model.layers[1].set_weights([np.array([[3.0], [4.0]]), np.zeros(1)])
        >>> for radius in (0.25, 0.75):  # near (-0.5, 1) only the second ReLU is on
        ...     print(lip.bounds.local_lipschitz(model, [[-0.5, 1.0]], radius).round(4))
        [4.]
        [5.]

    Source: Weng et al., 2018, arXiv:1804.09699; Xu and Sivaranjani, 2025, arXiv:2510.05261.
    """
    tensorflow_for("`bounds.local_lipschitz` needs")
    constants = importlib.import_module(_GRADIENTS).lipschitz_constants
    return constants(model, x, radius, norm, clip, method)
