"""Calls that are overridden or replaced: what was claimed of the model was about another one."""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificates import certify
from deel_lip_tf.model import vanillaModel
from tests.regression.test_false_claims import output


class Doubled(keras.Model):
    """A functional model whose call is not its graph."""

    def __call__(self, *args, **kwargs):
        return 2.0 * super().__call__(*args, **kwargs)


def overridden_call():
    x = keras.Input((2,))
    return Doubled(x, layers.Dense(2)(x))


def replaced_on_a_layer():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    model.layers[0].call = lambda x, training=None: 100.0 * x
    return model


def replaced_on_a_model():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    model.call = lambda x, training=None, mask=None: 100.0 * x
    return model


def replaced_inside_a_wrapper():
    inner = layers.Dense(2)
    model = keras.Sequential(
        [keras.Input((2,)), layers.Reshape((1, 2)), layers.TimeDistributed(inner), layers.Flatten()]
    )
    inner.call = lambda x, training=None: 100.0 * x
    return model


def replaced_on_an_activation():
    activation = layers.ReLU()
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, activation=activation)])
    activation.call = lambda x: 100.0 * x
    return model


def nested_and_replaced():
    x, inner = keras.Input((2,)), keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    inner.call = lambda x, training=None, mask=None: 100.0 * x
    return keras.Model(x, layers.Dense(2)(inner(x)))


@pytest.mark.parametrize(
    "make",
    [
        overridden_call,
        replaced_on_a_layer,
        replaced_on_a_model,
        replaced_inside_a_wrapper,
        replaced_on_an_activation,
        nested_and_replaced,
    ],
)
def test_overridden_calls_are_refused(make, tmp_path):
    model, point = make(), np.ones((1, 2))
    for ask in (
        lambda: lipschitz_bound(model),
        lambda: certify(model, point),
        lambda: verify.bounds(model, verify.box(point, point)),
        lambda: verify.to_onnx(model, tmp_path / "model.onnx"),
        lambda: vanillaModel(model),
    ):
        with pytest.raises(ValueError):
            ask()


class DoubledDense(lip.layers.SpectralDense):
    """A layer of another function, which it knows how to export, or not."""

    def call(self, inputs):
        return 2.0 * super().call(inputs)


class ExportedDense(DoubledDense):
    def vanilla_export(self, factor=2.0):
        plain = super().vanilla_export()
        plain.set_weights([factor * weight for weight in plain.get_weights()])
        return plain


def test_an_export_does_not_lose_what_a_class_overrides():
    exported = keras.Sequential([keras.Input((2,)), ExportedDense(2)])
    plain = vanillaModel(exported)
    np.testing.assert_allclose(output(plain, np.eye(2)), output(exported, np.eye(2)), rtol=1e-6)
    with pytest.raises(ValueError, match="`call` of its own"):
        vanillaModel(keras.Sequential([keras.Input((2,)), DoubledDense(2)]))


class DoubledConv2D(lip.layers.SpectralConv2D):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


class HalvedSort(lip.layers.GroupSort2):
    """Exported as a copy of its own class, which loses nothing."""

    def call(self, inputs):
        return 0.5 * super().call(inputs)


def test_a_layer_by_itself_loses_no_overridden_call_either():
    padded = DoubledConv2D(2, 3, padding="circular")  # whose class asks its parent for a part of it
    for layer, shape in ((DoubledDense(2), (None, 2)), (padded, (None, 4, 4, 1))):
        layer.build(shape)
        with pytest.raises(ValueError, match="`call` of its own"):
            layer.vanilla_export()
    replaced = lip.layers.GroupSort2()
    replaced.call = lambda x: 2.0 * x
    with pytest.raises(ValueError, match="`call` of its own"):
        replaced.vanilla_export()
    x = np.array([[1.0, -1.0]])
    exported, halved = ExportedDense(2), HalvedSort()
    plain = exported(x), exported.vanilla_export(factor=1.0)(x)
    np.testing.assert_allclose(plain[0], 2.0 * plain[1], rtol=1e-6)
    for layer in (exported, halved):
        expected = np.asarray(layer(x))
        np.testing.assert_allclose(layer.vanilla_export()(x), expected, rtol=1e-6)
        whole = vanillaModel(keras.Sequential([keras.Input((2,)), layer]))
        np.testing.assert_allclose(whole(x), expected, rtol=1e-6)


def test_a_replaced_call_is_seen_by_a_model_that_was_verified_before():
    model, point = keras.Sequential([keras.Input((2,)), layers.Dense(2)]), np.ones((1, 2))
    verify.bounds(model, verify.box(point, point))
    model.layers[0].call = lambda x, training=None: 100.0 * x
    with pytest.raises(ValueError, match="was replaced"):
        verify.bounds(model, verify.box(point, point))
