"""Gradients on the backend that Keras runs on."""

import keras
import numpy as np


def value_and_gradient(function, x):
    """The values of a function of one tensor at an array, and the gradient of their sum there."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        point = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(point)
            values = function(point)
        slopes = tape.gradient(values, point)
    elif backend == "jax":
        import jax

        values, pulled_back = jax.vjp(function, jax.numpy.asarray(x))
        (slopes,) = pulled_back(jax.numpy.ones_like(values))
    else:
        import torch

        point = torch.tensor(x, requires_grad=True)
        values = function(point)
        (slopes,) = torch.autograd.grad(values.sum(), point)
    return np.asarray(values), np.asarray(slopes)
