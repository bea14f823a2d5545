"""Samples as vectors, and gradients of functions of them on every backend of Keras."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def norms(array: np.ndarray) -> np.ndarray:
    """(n,) Euclidean norms of samples (n, ...), in float64."""
    return np.linalg.norm(np.reshape(array, (len(array), -1)).astype(np.float64), axis=1)


def column(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(n,) numbers that broadcast against samples (n, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def directions(array: np.ndarray) -> np.ndarray:
    """Each sample divided by its norm; zeros stay zeros."""
    lengths = norms(array)
    return array / column(np.where(lengths > 0.0, lengths, 1.0), array)


def gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """The gradient of a scalar function of one tensor; Keras has no such operation of its own.

    Raises:
        ValueError: if the backend has no gradients.
    """
    tensor = ops.convert_to_tensor(x)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        return tape.gradient(value, tensor, unconnected_gradients="zero").numpy()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(function)(tensor))
    if backend == "torch":
        tensor = tensor.detach().clone().requires_grad_()
        function(tensor).backward()
        return ops.convert_to_numpy(tensor.grad)
    raise ValueError(
        f"Gradients are known on the backends tensorflow, jax and torch. Received: {backend!r}."
    )
