"""Programs at points in NumPy: what the model gives, and how far float32 may be from it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import UNITS
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.evaluation import evaluated, rounding_errors
from deel_lip_tf.semantics.ir.lowering import lower_model
from tests._tables.verify_cases import randomize

PARTS = {
    "dense": [layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(3)],
    "convolution": [layers.Conv2D(4, 3, padding="same"), layers.ReLU(1.0), layers.Flatten()],
    "leaky": [layers.Conv2D(2, 3), layers.LeakyReLU(0.25), layers.PReLU(), layers.Flatten()],
    "pooling": [layers.AveragePooling2D(2), layers.MaxPooling2D(2), layers.Flatten()],
    "sorted": [layers.Flatten(), layers.Dense(6), lip.GroupSort(n=3), layers.Dense(2)],
}


def model_of(name, dtype):
    inputs = x = keras.Input((5, 4, 2), dtype=dtype)
    for part in PARTS[name]:
        x = type(part).from_config({**part.get_config(), "dtype": dtype})(x)
    model = keras.Model(inputs, ops.clip(x, -0.5, 0.75))
    randomize(model)
    return model


@pytest.mark.parametrize("name", PARTS)
def test_values_are_those_of_the_model(name, rng):
    model = model_of(name, "float64")
    x = rng.normal(size=(4, 5, 4, 2))
    program = lower_model(model)
    got = evaluated(program, x)[program.output]
    np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_float32_stays_within_its_rounding_errors(name, rng):
    """Which are no excuse: values are of size 1 to 50 before they are clipped."""
    model = model_of(name, "float32")
    program = lower_model(model)
    x = rng.normal(size=(50, 5, 4, 2)).astype("float32")
    values = evaluated(program, x)
    errors = rounding_errors(program, values, UNITS["float32"])[program.output]
    assert (np.abs(np.asarray(model(x)) - values[program.output]) <= errors).all()
    assert errors.max() < 0.02


def test_a_function_without_a_formula_is_refused():
    inputs = keras.Input((3,))
    program = lower_model(keras.Model(inputs, ops.tanh(inputs)))
    with pytest.raises(UnsupportedLayerError, match="no formula"):
        evaluated(program, np.zeros((1, 3)))
