"""`PadConv2D` against NumPy's paddings, and its bound against its matrix."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import bounds, layers
from tests._oracles import oracles
from tests._oracles.tolerances import SAME_FLOAT32, SOUND
from tests._tables.cases import IMAGE

MODES = dict(
    constant="constant",
    circular="wrap",
    symmetric="symmetric",
    reflect="reflect",
    replicate="edge",
)
ARGUMENTS = [
    dict(kernel_size=3),
    dict(kernel_size=5, strides=2),
    dict(kernel_size=(2, 3)),
    dict(kernel_size=4, strides=(2, 1)),
    dict(kernel_size=3, dilation_rate=2),
]


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x), np.float64)


def expected_of(layer, x, padding):
    """NumPy pads `k // 2` on every side; the convolution is a "valid" one."""
    kernel, (dh, dw) = numpy(layer.kernel), layer.dilation_rate
    dilated = np.zeros(
        ((kernel.shape[0] - 1) * dh + 1, (kernel.shape[1] - 1) * dw + 1, *kernel.shape[2:])
    )
    dilated[::dh, ::dw] = kernel
    widths = [(0, 0), *[(k // 2, k // 2) for k in layer.kernel_size], (0, 0)]
    padded = np.pad(x, widths, mode=MODES[padding])
    return oracles.conv2d(padded, dilated, layer.strides, "valid")


@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_against_numpy(padding, arguments, rng, tmp_path):
    x = rng.normal(size=(3, *IMAGE)).astype("float32")
    layer = layers.PadConv2D(4, padding=padding.upper(), bias_initializer="ones", **arguments)
    y = numpy(layer(x))
    expected = expected_of(layer, x, padding) + 1
    np.testing.assert_allclose(y, expected, **SAME_FLOAT32)
    assert y.shape == layer.compute_output_shape(x.shape)
    exported = layer.vanilla_export()
    assert exported.name == layer.name
    np.testing.assert_allclose(numpy(exported(x)), expected, **SAME_FLOAT32)
    inputs = keras.Input(IMAGE)
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(reloaded(x)), expected, **SAME_FLOAT32)
    plain = lip.vanillaModel(model)
    assert "deel_lip_tf" not in plain.to_json()
    np.testing.assert_allclose(numpy(plain(x)), expected, **SAME_FLOAT32)


@pytest.mark.parametrize("padding", ["same", "valid", *MODES])
@pytest.mark.parametrize("kernel_size", [3, 4])
def test_channels_first(padding, kernel_size, rng):
    x = rng.normal(size=(3, *IMAGE)).astype("float32")
    last = layers.PadConv2D(4, kernel_size, padding=padding)
    expected = numpy(last(x))
    first = layers.PadConv2D(4, kernel_size, padding=padding, data_format="channels_first")
    moved = np.moveaxis(x, -1, 1)
    first.build(moved.shape)
    first.set_weights(last.get_weights())
    for function in (first, first.vanilla_export()):
        y = np.moveaxis(numpy(function(moved)), 1, -1)
        np.testing.assert_allclose(y, expected, **SAME_FLOAT32)


@pytest.mark.parametrize("padding", ["same", "valid", *MODES])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_bound_is_proven_and_not_far_away(padding, arguments, rng):
    layer = layers.PadConv2D(
        4, padding=padding, use_bias=False, dtype="float64", activation="relu", **arguments
    )
    layer.build((None, *IMAGE))
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    linear = layers.PadConv2D.from_config({**layer.get_config(), "activation": None})
    linear.build((None, *IMAGE))
    linear.set_weights(layer.get_weights())
    norm = oracles.spectral_norm(oracles.matrix_of(lambda x: numpy(linear(x)), IMAGE))
    bound = bounds.lipschitz_bound(layer).value
    assert norm <= bound * SOUND
    # Even kernels and dilation are bounded through the copies that the padding makes: on an image
    # that is about as small as the kernel up to 3 of a pixel along each axis.
    assert bound <= norm * 3


def test_condensing_and_certificates(rng):
    x = rng.normal(size=(4, *IMAGE)).astype("float32")
    layer = layers.PadConv2D(4, 3, padding="reflect")
    model = keras.Sequential(
        [keras.Input(IMAGE), layer, layers.ScaledGlobalAveragePooling2D(), layers.SpectralDense(3)]
    )
    before = model.predict(x, verbose=0)
    layer.condense()
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    radius = lip.certificates.certify(model, x).radius
    scores = np.sort(before, axis=1)
    bound = bounds.lipschitz_bound(layer).value
    assert (radius >= (scores[:, -1] - scores[:, -2]) / np.sqrt(2) / bound * (1 - 1e-2)).all()


def test_models_warn_that_it_is_not_constrained():
    layer = layers.PadConv2D(4, 3)
    with pytest.warns(UserWarning, match=layer.name):
        lip.Sequential([keras.Input(IMAGE), layer])
