"""Singular values against dense matrices, obtained by pushing the identity through the layer."""

import keras
import numpy as np
import pytest
from keras import layers as k

from deel_lip_tf import layers
from deel_lip_tf.compute_layer_sv import compute_layer_sv, compute_model_sv
from deel_lip_tf.estimates import operator as operators
from tests._oracles.oracles import conv2d, matrix_of, pad, singular_values
from tests._oracles.tolerances import SOUND
from tests._tables.cases import IMAGE, PADDINGS, Case

# Both sides are float64; squares of singular values lose half of the digits near zero.
EXACT = dict(rtol=1e-9, atol=1e-12)

# Biases and activations are there to be left out.
NOISY = dict(bias_initializer="random_normal", activation="relu")


def conv(filters, size, **kwargs):
    return dict(filters=filters, kernel_size=size, **NOISY, **kwargs)


SEQUENCE = (9, 3)
LINEAR = [
    Case(k.Dense, dict(units=5, **NOISY)),
    Case(k.Dense, dict(units=5, **NOISY), (3, 8)),
    Case(layers.SpectralDense, dict(units=5, k_coef_lip=0.5, **NOISY)),
    Case(layers.FrobeniusDense, dict(units=12)),
    Case(k.Conv1D, conv(4, 3, padding="causal", dilation_rate=2), SEQUENCE),
    Case(k.Conv1D, conv(4, 3, padding="same", strides=2), SEQUENCE),
    Case(k.Conv2D, conv(4, 3, padding="same"), IMAGE),
    Case(k.Conv2D, conv(4, (2, 3), strides=(2, 3)), IMAGE),
    Case(k.Conv2D, conv(4, 3, padding="same", dilation_rate=2), IMAGE),
    Case(k.Conv2D, conv(6, 3, groups=3, padding="same"), IMAGE),
    Case(k.Conv3D, conv(2, 2, padding="same"), (3, 4, 3, 2)),
    Case(k.Conv1DTranspose, conv(4, 3, strides=2, padding="same"), SEQUENCE),
    Case(k.Conv2DTranspose, conv(2, 3), IMAGE),
    Case(k.Conv2DTranspose, conv(2, (4, 3), strides=2, padding="same"), IMAGE),
    Case(k.Conv2DTranspose, conv(2, 3, strides=2, padding="same", output_padding=1), IMAGE),
    Case(k.DepthwiseConv2D, dict(kernel_size=3, depth_multiplier=2, **NOISY), IMAGE),
    Case(k.DepthwiseConv1D, dict(kernel_size=3, strides=2, padding="same"), SEQUENCE),
    Case(k.SeparableConv1D, conv(4, 3, depth_multiplier=2), SEQUENCE),
    Case(k.SeparableConv2D, conv(4, 3, padding="same"), IMAGE),
    *[Case(layers.SpectralConv2D, conv(4, 3, padding=p), IMAGE) for p in PADDINGS],
    Case(layers.SpectralConv2D, conv(4, 3, strides=2, padding="circular"), (6, 4, 2)),
    Case(layers.SpectralConv2D, conv(4, 3, strides=2, padding="circular"), IMAGE),
    Case(layers.FrobeniusConv2D, conv(30, 3, k_coef_lip=2.0), IMAGE),
    Case(layers.SpectralConv2DTranspose, conv(2, 3, strides=2), IMAGE),
    Case(layers.SpectralConv2DTranspose, conv(2, 3, strides=2, padding="circular"), IMAGE),
    Case(layers.SpectralConv2DTranspose, conv(2, 3, padding="reflect"), IMAGE),
    Case(layers.SpectralConv1D, conv(4, 3, padding="circular"), SEQUENCE),
    Case(layers.SpectralConv1D, conv(4, 3, padding="causal", strides=2), SEQUENCE),
    Case(layers.SpectralDepthwiseConv2D, dict(kernel_size=3, depth_multiplier=2), IMAGE),
    Case(layers.PadConv2D, conv(4, 3, padding="circular"), IMAGE),
    Case(layers.PadConv2D, conv(4, 2, padding="replicate", strides=2), IMAGE),
    Case(layers.PadConv2D, conv(4, 3, padding="constant", dilation_rate=2), IMAGE),
    Case(layers.LayerCentering, dict(k_coef_lip=2.0), IMAGE),
    Case(layers.ScaleBias, dict(scalar=-3.0), IMAGE),
    Case(k.AveragePooling1D, dict(pool_size=3, strides=2, padding="same"), SEQUENCE),
    Case(k.AveragePooling2D, dict(pool_size=3, strides=(1, 2), padding="same"), IMAGE),
    Case(k.AveragePooling2D, dict(pool_size=2), IMAGE),
    Case(k.GlobalAveragePooling2D, {}, IMAGE),
    Case(layers.ScaledAveragePooling2D, dict(pool_size=2, k_coef_lip=0.5), IMAGE),
    Case(layers.ScaledGlobalAveragePooling2D, {}, IMAGE),
    Case(layers.InvertibleDownSampling, dict(pool_size=(3, 5)), IMAGE),
    Case(k.BatchNormalization, dict(gamma_initializer="random_normal"), IMAGE),
    Case(k.Rescaling, dict(scale=(3.0, -0.5, 1.0), offset=1.0), IMAGE),
    Case(k.UpSampling2D, dict(size=(2, 3)), IMAGE),
    Case(k.ZeroPadding2D, {}, IMAGE),
    Case(k.Cropping2D, {}, IMAGE),
    Case(k.Flatten, {}, IMAGE),
    Case(k.RepeatVector, dict(n=3)),
]


def built(case, **more):
    layer = case.make(dtype="float64", **more)
    model = keras.Sequential([keras.Input(case.shape, dtype="float64"), layer])
    for variable in layer.non_trainable_variables:
        variable.assign(np.random.default_rng(1).uniform(0.5, 2.0, variable.shape))
    return layer, model


def linear_part(case):
    """The matrix of a layer: its float64 differences with the activation taken away."""
    layer, model = built(case)
    if hasattr(layer, "activation"):
        layer.activation = keras.activations.linear
    origin = np.zeros((1, *case.shape))
    return layer, matrix_of(lambda x: np.asarray(model(x) - model(origin)), case.shape)


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_extremes_are_those_of_the_dense_matrix(case):
    layer, matrix = linear_part(case)
    values = singular_values(matrix)
    np.testing.assert_allclose(compute_layer_sv(layer), (values.min(), values.max()), **EXACT)


@pytest.mark.parametrize("case", [c for c in LINEAR if "Conv" in c.cls.__name__], ids=str)
def test_estimates_come_from_inside_and_close(case, monkeypatch):
    """The ways for large operators, on small ones."""
    layer, matrix = linear_part(case)
    values = singular_values(matrix)
    monkeypatch.setattr(operators, "DENSE_ENTRIES", 0)
    monkeypatch.setattr(operators, "_FOURIER_WORK", 0)
    smallest, largest = compute_layer_sv(layer)
    assert values.min() - 1e-9 * values.max() <= smallest
    assert largest <= values.max() * (1 + 1e-9)
    np.testing.assert_allclose(largest, values.max(), rtol=1e-6)
    np.testing.assert_allclose(smallest, values.min(), atol=0.02 * values.max())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (k.ReLU(), (4,), (1, 1)),
        (k.Activation("tanh"), (4,), (1, 1)),
        (k.Softmax(), (4,), (0.5, 0.5)),
        (layers.GroupSort(2), (4,), (1, 1)),
        (layers.GroupSort2(k_coef_lip=3.0), (4,), (3, 3)),
        (layers.FullSort(), (4,), (1, 1)),
        (layers.MaxMin(), (4,), (1, 1)),
        (layers.Householder(), (4,), (1, 1)),
        (layers.Householder(order=2), (4,), (1, 1)),
        (layers.Abs(0.5), (4,), (1, 1)),
        (layers.SoftHuber(k_coef_lip=2.0), (4,), (2, 2)),
        (layers.NActivation(), (4,), (1, 1)),
        (layers.LipschitzSpline(), (4,), (1, 1)),
        (layers.PReLUlip(), (4,), (1, 1)),
        (layers.ScaledL2NormPooling2D(2), (4, 4, 1), (1, 1)),
        (layers.ScaledGlobalL2NormPooling2D(), (4, 4, 1), (1, 1)),
        (k.MaxPooling2D(2), (4, 4, 1), (1, 1)),
        (k.MaxPooling2D(3, strides=1), (4, 4, 1), (None, None)),
        (k.Dropout(0.5), (4,), (1, 1)),
        (k.Activation("exponential"), (4,), (None, None)),
        (k.LayerNormalization(), (4,), (None, None)),
        (k.Conv2D(2, 3), (None, None, 1), (None, None)),
        (k.GlobalAveragePooling2D(), (None, None, 1), (None, None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, keras.layers.Layer) else None,
)
def test_layers_without_kernel(layer, shape, expected):
    layer(keras.Input(shape))
    assert compute_layer_sv(layer) == expected


def test_normalization_is_read_from_its_statistics():
    layer = k.Normalization(mean=[1.0, 2.0], variance=[4.0, 0.25])
    layer.build((None, 2))
    np.testing.assert_allclose(compute_layer_sv(layer), (0.5, 2.0), rtol=1e-6)


def test_the_factor_of_a_batch_norm_is_read_from_its_state():
    layer = layers.BatchLipNorm(normalize=True)
    layer.build((None, 3))
    layer.moving_variance.assign([1.0, 16.0, 4.0])
    np.testing.assert_allclose(compute_layer_sv(layer), (0.25, 0.25), rtol=1e-6)


class Subclass(k.Dense):
    pass


def test_a_subclass_is_unknown_until_it_is_given():
    layer = Subclass(2)
    layer.build((None, 3))
    assert compute_layer_sv(layer) == (None, None)
    assert compute_layer_sv(layer, {Subclass: lambda given: (0.0, given.units)}) == (0.0, 2)
    assert compute_layer_sv(layer, supplementary_type2sv={}) == (None, None)


def small_model():
    inputs = keras.Input((8, 8, 3))
    first = layers.SpectralConv2D(4, 3, name="first")(inputs)
    second = layers.SpectralConv2D(4, 3, name="second", bias_initializer="ones")(inputs)
    tensor = k.Add(name="sum")([first, second, first])
    head = keras.Sequential([k.Flatten(name="flat"), layers.SpectralDense(2, name="dense")])
    head.name = "head"
    return keras.Model(inputs, head(tensor))


def test_a_model_is_listed_by_name_and_left_as_it_was():
    model = small_model()
    for layer in (model.get_layer("first"), model.get_layer("second")):
        layer.kernel.assign(5 * layer.kernel)
    before = [np.array(weight) for weight in model.get_weights()]
    values = dict(compute_model_sv(model))
    assert list(values)[1:] == ["first", "second", "sum", "head/flat", "head/dense"]
    assert values["sum"] == (3.0, 3.0)
    assert values["first"] == compute_layer_sv(model.get_layer("first"))
    assert 0 < values["first"][0] < values["first"][1] <= SOUND
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_large_convolution_needs_no_matrix():
    """40000 x 40000 entries would be 12 GiB; a box filter has its norm at constant images."""
    layer = k.Conv2D(16, 3, padding="same", use_bias=False)
    layer.build((None, 50, 50, 16))
    layer.kernel.assign(np.ones((3, 3, 1, 1)) * np.eye(16))
    axis = np.eye(50) + np.eye(50, k=1) + np.eye(50, k=-1)
    _, largest = compute_layer_sv(layer)
    np.testing.assert_allclose(largest, singular_values(axis).max() ** 2, rtol=1e-6)


def test_circular_frequencies_of_a_large_image(rng):
    kernel = rng.standard_normal((3, 3, 2, 3))
    layer = layers.SpectralConv2D(3, 3, padding="circular", dtype="float64")
    layer.build((None, 24, 24, 2))
    layer.kernel.assign(kernel)
    effective = np.asarray(layer.effective_kernel())
    centred = np.zeros((24, 24, 2, 3))
    for i, j in np.ndindex(3, 3):
        centred[i - 1, j - 1] += effective[i, j]
    values = np.linalg.svd(np.fft.fft2(centred, axes=(0, 1)), compute_uv=False)
    np.testing.assert_allclose(compute_layer_sv(layer), (values.min(), values.max()), **EXACT)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_the_operator_and_its_adjoint(padding, strides, rng):
    kernel = rng.standard_normal((3, 2, 3, 4))
    operator = operators.ConvolutionOperator(kernel[:, :, None], strides, (1, 1), padding, (6, 5))
    x = rng.standard_normal(IMAGE)
    y = conv2d(x[None], kernel, strides, padding)[0]
    mine = operator.apply(x.reshape(1, 30, 3))
    np.testing.assert_allclose(mine.reshape(y.shape), y, **EXACT)
    z = rng.standard_normal(mine.shape)
    back = operator.adjoint(z).ravel()
    np.testing.assert_allclose(back @ x.ravel(), z.ravel() @ mine.ravel(), **EXACT)
    assert pad(x[None], (3, 2), strides, padding).shape[1:3] == tuple(
        len(sources) for sources, _ in operator._axes
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0, 0.0], (0, 0)),
        ([2.0, 2.0, 2.0], (2, 2)),
        ([3.0, 1.0, 0.0], (0, 3)),
        ([1e-9, 1.0, 1e3], (1e-9, 1e3)),
    ],
)
def test_bidiagonalization_of_simple_operators(values, expected):
    def times(x):
        return np.array(values) * x

    found = operators.lanczos_extremes(times, times, (3,), 20)
    np.testing.assert_allclose(found, expected, atol=1e-12)
