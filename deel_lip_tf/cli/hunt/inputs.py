"""Where searches start: near samples, far from them, and at the ends of the number range."""

import numpy as np


def random_samples(shape: tuple, count: int, rng: np.random.Generator) -> np.ndarray:
    """Samples for a model without data: uniform in [0, 1], where images live."""
    return rng.uniform(size=(count, *shape))


def random_starts(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A third each: samples, samples with noise of many sizes, and noise alone."""
    drawn = x[rng.integers(0, len(x), count)]
    scale = 10.0 ** rng.uniform(-3, 2, (count, *[1] * (x.ndim - 1)))
    noise = rng.normal(size=drawn.shape) * scale
    kind = np.arange(count).reshape(scale.shape) % 3
    return np.where(kind == 0, drawn, np.where(kind == 1, drawn + noise, noise))


def extreme_inputs(shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """Constants, signs and single entries of every size, and what is not finite."""
    signs = rng.choice([-1.0, 1.0], size=shape)
    single = np.zeros(shape)
    single.flat[rng.integers(single.size)] = 1.0
    patterns = (np.ones(shape), signs, single, np.zeros(shape))
    sizes = (1.0, 1e-42, 1e-310, 5e-324, 1e-30, 1e30, 3e38, 1e-6, 255.0)
    inputs = [size * pattern for pattern in patterns for size in sizes]
    inputs += [np.where(single > 0, value, signs) for value in (np.nan, np.inf, -np.inf, 1e300)]
    return np.stack(inputs)
