"""LipNeXt's block as one layer: its activation, its bound, certificates, files."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import bounds, layers
from tests._oracles.oracles import spectral_norm


@pytest.fixture
def model(rng):
    body = [layers.LipNeXtBlock(8), layers.LipNeXtBlock(8, share=0.25, padding="same")]
    head = [keras.layers.Flatten(), layers.FrobeniusDense(3)]
    model = lip.Sequential([keras.Input((4, 4, 8)), *body, *head])
    for layer in body:
        layer.bias.assign(rng.normal(size=8))
    return model


def test_the_activation_is_the_absolute_value_of_half_of_the_channels(rng):
    block = layers.LipNeXtBlock(8)
    x = rng.normal(size=(2, 4, 4, 8)).astype("float32")
    y = np.asarray(block(x))
    linear = layers.LipNeXtBlock(8, activation="linear")
    linear.build(x.shape)
    linear.set_weights(block.get_weights())
    z = np.asarray(linear(x))
    np.testing.assert_allclose(y, np.concatenate([z[..., :4], np.abs(z[..., 4:])], -1), atol=1e-6)
    assert (z[..., 4:] < 0).any()


def test_channels_first(rng):
    x = rng.normal(size=(2, 8, 4, 4)).astype("float32")
    first = layers.LipNeXtBlock(8, data_format="channels_first")
    first.build(x.shape)
    last = layers.LipNeXtBlock(8)
    last.build((2, 4, 4, 8))
    last.set_weights(first.get_weights())
    assert first.activation.data_format == "channels_first"
    assert first.get_config()["activation"]["config"]["fraction"] == 0.5
    np.testing.assert_array_equal(first.effective_kernel(), last.effective_kernel())


def test_what_is_proven_is_of_the_model(model, rng):
    """Bound, certificates in float32 and verification, against the gradients of the model."""
    assert 0.99 < bounds.lipschitz_bound(model).value <= 1 + 1e-6
    x = rng.normal(size=(3, 4, 4, 8)).astype("float32")
    labels = np.argmax(model.predict(x, verbose=0), -1)
    certificates = lip.certify(model, x, semantics="float32")
    assert (certificates.radius > 0).all()
    for _ in range(64):
        step = rng.normal(size=x.shape)
        step *= (certificates.radius / np.linalg.norm(step.reshape(3, -1), axis=1))[
            :, None, None, None
        ]
        near = np.argmax(model.predict((x + 0.999 * step).astype("float32"), verbose=0), -1)
        assert (near == labels).all()


def test_files_and_exports_compute_the_same(model, rng, tmp_path):
    onnx = pytest.importorskip("onnx")
    from tests._oracles import onnx_oracles

    x = rng.normal(size=(2, 4, 4, 8)).astype("float32")
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    plain = model.vanilla_export()
    for other in (loaded, plain):
        np.testing.assert_allclose(other.predict(x, verbose=0), expected, atol=1e-5)
    lip.verify.to_onnx(model, tmp_path / "model.onnx")
    found = onnx_oracles.outputs_of(onnx.load(tmp_path / "model.onnx"), x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (kernel,) = (w for w in plain.layers[1].weights if len(w.shape) == 4)
    assert spectral_norm(np.asarray(kernel)[1, 1]) <= 1


def test_a_training_step_keeps_its_factors_orthogonal(model, rng):
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = rng.normal(size=(8, 4, 4, 8)).astype("float32")
    model.fit(x, rng.normal(size=(8, 3)), epochs=2, verbose=0)
    rotation = np.asarray(model.layers[0].raw_weights["rotation"])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-3)
