"""Exports become LiteRT (TensorFlow Lite) models of built-in operators alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import Sequential, layers
from tests._oracles.tolerances import SAME_FLOAT32
from tests._tables.cases import ACTIVATIONS, POOLINGS, Case

lite = getattr(tf, "lite", None)
pytestmark = pytest.mark.skipif(
    not (hasattr(lite, "TFLiteConverter") and hasattr(lite, "Interpreter")),
    reason="this TensorFlow comes without LiteRT",
)

CHANNELS_FIRST = [
    Case(cls, dict(data_format="channels_first"), (6, 4, 3))
    for cls in (layers.GroupSort2, layers.FullSort, layers.MaxMin, layers.Householder)
]
PAIRS = [
    Case(layers.GroupSort, dict(n=2)),
    Case(layers.GroupSort2, dict(k_coef_lip=0.5), (70, 60, 4)),
    Case(layers.SpectralDense, dict(units=4, activation=layers.GroupSort2())),
]


def model_of(case):
    return Sequential([keras.Input(case.shape), case.make()], k_coef_lip=0.7)


def outputs_of(content, x):
    interpreter = lite.Interpreter(model_content=content)
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(wanted["index"])


@pytest.mark.parametrize("case", [*POOLINGS, *ACTIVATIONS, *CHANNELS_FIRST, *PAIRS], ids=str)
def test_an_export_computes_the_same(case, tmp_path, rng):
    model = model_of(case)
    model.vanilla_export().export(tmp_path, verbose=False)
    content = lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    x = rng.normal(size=(3, *case.shape)).astype("float32")
    np.testing.assert_allclose(outputs_of(content, x), model(x), **SAME_FLOAT32)


def test_so_does_a_model_that_was_not_exported(rng):
    model = model_of(PAIRS[-1])
    x = rng.normal(size=(3, 8)).astype("float32")
    content = lite.TFLiteConverter.from_keras_model(model).convert()
    np.testing.assert_allclose(outputs_of(content, x), model(x), **SAME_FLOAT32)
