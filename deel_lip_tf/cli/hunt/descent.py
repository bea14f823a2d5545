"""Gradient steps that many searches share, on the float64 function of the referee."""

from collections.abc import Callable

import numpy as np


def gradient(function: Callable, x: np.ndarray) -> np.ndarray:
    """Gradient of the sum of `function(x)`, of the shape of `x`."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        point = tf.constant(x)
        tape.watch(point)
        value = tf.reduce_sum(function(point))
    found = tape.gradient(value, point)
    return np.zeros_like(x) if found is None else found.numpy()


def on_sphere(directions: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Each of (n, ...) scaled to its radius; zeros stay zeros."""
    flat = directions.reshape(len(directions), -1)
    largest = np.abs(flat).max(axis=1, keepdims=True)
    flat = flat / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat * (radius[:, None] / np.where(norms > 0, norms, 1.0))
    return flat.reshape(directions.shape)


def most_expanded(
    function: Callable, x: np.ndarray, radius: np.ndarray, rng: np.random.Generator, steps: int
) -> np.ndarray:
    """Points at these distances from `x` whose images are far away: a power iteration.

    Ascends `||f(y) - f(x)||` along the sphere: with `f` linear, the step to the sphere along the
    gradient is a step of the power method for the largest singular value.

    Args:
        function: from a TensorFlow tensor to a tensor (n, outputs).
        x: (n, ...) float64.
        radius: (n,).
        rng: a NumPy generator.
        steps: how many gradients.
    """
    import tensorflow as tf

    image = function(tf.constant(x))
    step = on_sphere(rng.normal(size=x.shape), radius)
    for _ in range(steps):
        found = gradient(lambda y: tf.square(function(y) - image), x + step)
        found = on_sphere(found, radius)
        is_zero = np.abs(found).reshape(len(x), -1).max(axis=1) == 0
        found[is_zero] = step[is_zero]
        step = found
    return x + step


def steepest_in_ball(
    function: Callable, x: np.ndarray, radius: np.ndarray, rng: np.random.Generator, steps: int
) -> np.ndarray:
    """Points of the spheres around `x` where a function is small: projected gradient descent.

    Args:
        function: from a TensorFlow tensor to a tensor (n,).
        x: (n, ...) float64.
        radius: (n,).
        rng: a NumPy generator; starts from a random point of each sphere.
        steps: how many gradients.
    """
    step = on_sphere(rng.normal(size=x.shape), radius)
    for number in range(steps):
        down = on_sphere(gradient(function, x + step), radius)
        rate = 1.0 - number / (2.0 * steps)
        step = on_sphere((1.0 - rate) * step - rate * down, radius)
    return x + step
