"""Projected gradient ascent in the graph of a training step, on every backend."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any


def ascended(
    loss: Callable[[Tensor], Tensor], start: Tensor, lower: Tensor, upper: Tensor, steps: int
) -> Tensor:
    """A point of a box with a larger loss: `steps` steps of signs, which together cross it once.

    Args:
        loss: the sum, or the mean, over the samples.
        start: (batch, *shape) points of the box.
        lower: its lower ends.
        upper: its upper ends.
        steps: how many.
    """
    step = (upper - lower) / steps
    x = start
    for _ in range(steps):
        moved = x + step * ops.sign(_gradient(loss, x))
        x = ops.stop_gradient(ops.minimum(ops.maximum(moved, lower), upper))
    return x


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    if backend == "torch":
        x = x.detach().requires_grad_()
        function(x).backward(inputs=[x])
        return x.grad
    raise ValueError(
        "`attack_steps` needs the backend tensorflow, jax or torch, for gradients. "
        f"Received: {backend!r}. Use `attack_steps=0`."
    )
