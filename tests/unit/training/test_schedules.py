"""Ramps by steps."""

import keras
import numpy as np
import pytest

from deel_lip_tf.training import Ramp


def test_a_ramp_stays_moves_and_stays():
    ramp = Ramp(1.0, 0.25, steps=30, begin=10)
    steps = np.arange(0, 60, 7)
    expected = np.interp(steps, [10, 40], [1.0, 0.25])
    np.testing.assert_allclose([float(ramp(step)) for step in steps], expected, rtol=1e-6)


def test_it_is_a_schedule_of_keras():
    described = keras.saving.serialize_keras_object(Ramp(0, 1, 5, begin=2))
    again = keras.saving.deserialize_keras_object(described)
    assert described["registered_name"] == "deel_lip_tf>Ramp"
    assert again.get_config() == {"start": 0.0, "end": 1.0, "steps": 5, "begin": 2}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((np.nan, 1, 5), "start"),
        ((0, np.inf, 5), "end"),
        ((0, 1, 0), "steps"),
        ((0, 1, 5, -1), "begin"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Ramp(*arguments)
