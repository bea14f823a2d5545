"""A model whose float32 program rounds away what its exact function certifies."""

import keras
import numpy as np


def cancelling_model(gap, rng, size=64):
    """Two logits of many large terms that cancel against each other and against the bias.

    The columns differ by a vector of norm 2, so that the certified radius is `gap / 2`.
    """
    common, direction = rng.uniform(500, 1500, size), rng.normal(size=size)
    difference = direction / np.linalg.norm(direction)
    kernel = np.stack([common + difference, common - difference], 1).astype("float32")
    x = rng.uniform(size=size).astype("float32")
    bias = -(kernel.astype(float).T @ x.astype(float))
    bias[0] += gap
    model = keras.Sequential([keras.Input((size,)), keras.layers.Dense(2)])
    model.set_weights([kernel, bias.astype("float32")])
    return model, x
