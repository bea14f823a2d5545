"""vanillaModel: a plain copy of a whole model."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import layers
from tests.unit.model.test_lipschitz import MODELS, SHAPE, compiled, functional, weights_of


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_export_is_a_plain_copy(make):
    model = compiled(make())
    before = weights_of(model)
    exported = lip.vanillaModel(model)
    assert exported.name == model.name
    assert not exported.compiled
    for weight in exported.weights:
        weight.assign(0 * weight)
    for a, b in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)
    names = {
        type(layer).__name__
        for layer in exported._flatten_layers()
        if type(layer).__module__.startswith("deel_lip_tf")
    }
    assert names <= {"GroupSort2", "FullSort", "Householder"}


def test_export_keeps_shared_layers_shared():
    model = functional()
    shared = [layer for layer in model.layers if isinstance(layer, layers.GroupSort2)]
    exported = [
        layer for layer in model.vanilla_export().layers if isinstance(layer, layers.GroupSort2)
    ]
    assert len(shared) == len(exported) == 1
    assert exported[0] is not shared[0]


def test_export_without_a_trace_of_the_library():
    model = lip.Sequential(
        [
            keras.Input(SHAPE),
            layers.SpectralConv2D(4, 3, padding="reflect", activation="relu"),
            layers.PReLUlip(),
            layers.ScaledAveragePooling2D(),
            layers.ScaledL2NormPooling2D(),
            layers.InvertibleDownSampling(2),
            layers.ScaledGlobalL2NormPooling2D(),
            layers.SpectralDense(4),
        ],
        k_coef_lip=2.0,
    )
    compiled(model)
    assert "deel_lip" not in model.vanilla_export().to_json()


def test_subclassed_models_are_refused_with_the_way_out():
    class Custom(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.SpectralDense(3)

        def call(self, x):
            return self.dense(x)

    model = Custom()
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="functional API"):
        lip.vanillaModel(model)
    with pytest.raises(TypeError, match=r"subclass keras\.Model"):
        lip.Model()
    with pytest.raises(TypeError, match="Keras model"):
        lip.vanillaModel(layers.SpectralDense(3))
