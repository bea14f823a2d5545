"""No kernel, padding, stride or size makes a constrained layer exceed its constant."""

import itertools
import math

import keras
import numpy as np
import pytest

from deel_lip_tf import layers
from deel_lip_tf.normalizers import Operation
from tests._oracles import oracles
from tests._oracles.tolerances import SOUND, TIGHT
from tests._tables.cases import CONSTRAINED, PADDINGS, UNCONSTRAINED


def matrix_of_layer(layer, shape) -> np.ndarray:
    """The float64 matrix of a built constrained layer, from its effective kernel."""
    kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
    if isinstance(layer, keras.layers.Dense):
        return np.asarray(kernel, np.float64).T
    if isinstance(layer, keras.layers.Conv2DTranspose | keras.layers.Conv3DTranspose):
        if layer.padding not in ("same", "valid"):
            return oracles.padded_transpose_matrix(kernel, shape, layer.strides, layer.padding)
        if layer.output_padding is not None:  # Keras pads, so the oracle is the layer in float64
            return oracles.matrix_of(float64_copy(layer, shape), shape)
        return oracles.matrix_of(
            lambda x: oracles.conv_transpose(x, kernel, layer.strides, layer.padding), shape
        )
    kernel = oracles.full_kernel(kernel, getattr(layer, "groups", 1), layer.dilation_rate)
    convolution = CONVOLUTION_ORACLES[type(layer)]
    return oracles.matrix_of(lambda x: convolution(x, kernel, layer.strides, layer.padding), shape)


CONVOLUTION_ORACLES = {
    layers.SpectralConv2D: oracles.convolution,
    layers.FrobeniusConv2D: oracles.convolution,
    layers.AOLConv2D: oracles.convolution,
    layers.SpectralConv1D: oracles.convolution,
    layers.SpectralConv3D: oracles.convolution,
    layers.FrobeniusConv3D: oracles.convolution,
    layers.AOCConv2D: oracles.convolution,
    layers.AOCConv1D: oracles.convolution,
    layers.BCOPConv2D: oracles.convolution,
    layers.LiResConv2D: oracles.convolution,
    layers.LipNeXtBlock: oracles.convolution,
    layers.SpectralDepthwiseConv2D: oracles.depthwise_conv2d,
}


def float64_copy(layer, shape):
    """Plain Keras in float64 with the effective kernel and no bias: pushes the identity through."""
    plain = layer.vanilla_export()
    config = {**plain.get_config(), "dtype": "float64", "use_bias": False}
    copy = type(plain).from_config(config)
    copy.build((None, *shape))
    copy.set_weights([keras.ops.convert_to_numpy(layer.effective_kernel())])
    return lambda x: keras.ops.convert_to_numpy(copy(x))


def norm_of(layer, shape) -> float:
    """What the constant of the layer bounds: the norm, or of disjoint neurons the largest row."""
    matrix = matrix_of_layer(layer, shape)
    if getattr(layer, "disjoint_neurons", False):
        return float(np.linalg.norm(matrix, axis=1).max())
    return oracles.spectral_norm(matrix)


def kernels(shape, rng):
    """Kernels that break what can be broken, flattened to (rows, columns)."""
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    normal = rng.normal(size=(rows, columns))
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    yield "random", normal
    yield "times 1e-6", normal * 1e-6
    yield "times 1e6", normal * 1e6
    yield "times 1e-38", normal * 1e-38
    yield "times 1e37", normal * 1e37
    yield "zero", np.zeros_like(normal)
    yield "rank one", np.outer(rng.normal(size=rows), rng.normal(size=columns))
    yield "isometry", left @ right
    yield "nearly singular", left @ np.diag(np.logspace(0, -7, len(right))) @ right
    yield "constant", np.ones_like(normal)
    yield "one large", normal * 1e-3 + 10 * np.eye(rows, columns)


@pytest.mark.parametrize("k", [0.37, pytest.param(5.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CONSTRAINED, ids=str)
def test_norm_never_exceeds_the_constant(case, k, rng):
    layer = case.make(k_coef_lip=k)
    layer.build((None, *case.shape))
    raw = layer.raw_weights.values()
    shapes = [tuple(weight.shape) or (1, 1) for weight in raw]  # a number, too, is drawn
    for drawn in zip(*(kernels(shape, rng) for shape in shapes), strict=True):
        for weight, (_, matrix) in zip(raw, drawn, strict=True):
            weight.assign(matrix.reshape(weight.shape))
        assert norm_of(layer, case.linear_shape) <= k * SOUND, drawn[0][0]
    # What is projected does not depend on the constant, which multiplies it last of all.
    layer.set_klip_factor(1.0)
    assert norm_of(layer, case.linear_shape) <= SOUND


@pytest.mark.parametrize("case", CONSTRAINED, ids=str)
def test_the_oracle_is_the_layer(case, rng):
    layer = case.make(use_bias=False)
    x = rng.normal(size=(2, *case.shape)).astype("float32")
    y = keras.ops.convert_to_numpy(layer(x))
    shape = case.linear_shape
    expected = x.reshape(-1, math.prod(shape)) @ matrix_of_layer(layer, shape).T
    np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def isometry_of_patches(k, channels=1):
    """A kernel with as many filters as a patch has entries, whose matrix is orthogonal."""
    size = k * k * channels
    matrix = np.linalg.qr(np.random.default_rng(k).normal(size=(size, size)))[0]
    return matrix.reshape(k, k, channels, size)


def worst_patch_isometry(padding, sizes=range(1, 9), kernel_sizes=range(1, 8), strides=(1, 2, 3)):
    """The largest norm over sizes, kernels and strides, and where it was found."""
    worst = (0.0, None)
    for k in kernel_sizes:
        kernel = isometry_of_patches(k)
        for n, s in itertools.product(sizes, strides):
            if padding == "valid" and n < k:
                continue
            layer = layers.SpectralConv2D(k * k, k, s, padding, use_bias=False)
            layer.build((None, n, n, 1))
            layer.kernel.assign(kernel)
            effective = keras.ops.convert_to_numpy(layer.effective_kernel())
            matrix = oracles.matrix_of(
                lambda x, e=effective, s=s: oracles.conv2d(x, e, (s, s), padding), (n, n, 1)
            )
            worst = max(worst, (oracles.spectral_norm(matrix.T @ matrix) ** 0.5, (n, k, s)))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
def test_isometries_of_patches_stay_below_one(padding):
    norm, where = worst_patch_isometry(padding)
    assert norm <= SOUND, where
    # The count is not pessimistic either: somewhere the bound is reached.
    assert norm >= 1 - TIGHT


def test_the_test_above_fails_with_the_average_overlap(monkeypatch):
    """deel-lip's factor divides by the average number of patches on a pixel: no upper bound."""

    def average(self):
        n, k = self.sizes[0], self.kernel_size[0]
        half = (k - 1) / 2
        return (k - half * (half + 1) / n,) * 2

    monkeypatch.setattr(Operation, "patch_counts", property(average))
    norm, _ = worst_patch_isometry("same", sizes=(5,), kernel_sizes=(3,), strides=(1,))
    assert norm == pytest.approx(15 / 13, abs=1e-3)
    assert norm > SOUND


TRANSPOSED_COUNTEREXAMPLES = [(6, 3, 1, 1, 9), (6, 3, 2, 1, 9), (6, 5, 2, 1, 12), (6, 4, 2, 2, 32)]


@pytest.mark.parametrize(("n", "k", "s", "inputs", "filters"), TRANSPOSED_COUNTEREXAMPLES)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_transposed_convolutions_that_break_the_other_flattening(
    n, k, s, inputs, filters, padding, rng
):
    layer = layers.SpectralConv2DTranspose(filters, k, s, padding=padding)
    layer.build((None, n, n, inputs))
    rows = rng.normal(size=(k * k * inputs, filters))
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    kernel = (left @ right).reshape(k, k, inputs, filters).transpose(0, 1, 3, 2)
    layer.kernel.assign(kernel)
    assert norm_of(layer, (n, n, inputs)) <= SOUND


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_built_for_any_size_it_is_sound_at_every_size(padding, data_format):
    layer = layers.SpectralConv2D(9, 3, padding=padding, data_format=data_format, use_bias=False)
    shape = (None, None, None, 1) if data_format == "channels_last" else (None, 1, None, None)
    layer.build(shape)
    layer.kernel.assign(isometry_of_patches(3))
    kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
    for n in range(3 if padding == "valid" else 1, 10):
        matrix = oracles.matrix_of(lambda x: oracles.conv2d(x, kernel, (1, 1), padding), (n, n, 1))
        assert oracles.spectral_norm(matrix) <= SOUND


ORTHOGONAL = [
    case
    for case in CONSTRAINED
    if "Spectral" in case.cls.__name__
    and not {"eps_bjorck", "gain", "parametrization"} & set(case.kwargs)
]


@pytest.mark.parametrize("case", ORTHOGONAL, ids=str)
def test_singular_values_reach_the_gain(case, rng):
    layer = case.make(k_coef_lip=2.0)
    layer.build((None, *case.shape))
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
    if isinstance(layer, layers.SpectralDepthwiseConv2D):
        kernel = np.moveaxis(kernel, 2, 0)  # one matrix for each channel
    else:
        kernel = kernel[None]
    matrices = kernel.reshape(len(kernel), -1, kernel.shape[-1])
    values = oracles.singular_values(matrices) * math.prod(layer.operation.patch_counts) ** 0.5 / 2
    np.testing.assert_allclose(values, 1, atol=TIGHT)


@pytest.mark.parametrize("k", [1.0, 0.37, 5.0])
@pytest.mark.parametrize("case", UNCONSTRAINED, ids=str)
def test_jacobian_of_the_others_never_exceeds_the_constant(case, k, rng):
    layer = case.make(k_coef_lip=k, dtype="float64")
    layer.build((None, *case.shape))
    for weight in layer.weights:
        weight.assign(3 * rng.normal(size=weight.shape))

    def function(x):
        return keras.ops.convert_to_numpy(layer(x))

    for _ in range(3):
        point = rng.normal(size=case.shape)
        assert oracles.spectral_norm(oracles.jacobian_by_batch(function, point)) <= k * SOUND


@pytest.mark.parametrize("k", [1.0, 0.37, 5.0])
@pytest.mark.parametrize("case", UNCONSTRAINED, ids=str)
def test_distances_of_the_others_never_grow(case, k, rng):
    layer = case.make(k_coef_lip=k, dtype="float64")
    scales = 10.0 ** rng.integers(-12, 3, size=(300, *[1] * len(case.shape)))
    x = rng.normal(size=(300, *case.shape)) * scales
    # Near the kinks: steps as small as the points, and points on the kinks themselves.
    y = np.where(rng.random(x.shape) < 0.3, 0.0, x + scales * rng.normal(size=x.shape))
    difference = keras.ops.convert_to_numpy(layer(x)) - keras.ops.convert_to_numpy(layer(y))
    out = np.linalg.norm(difference.reshape(300, -1), axis=1)
    assert (out <= k * SOUND * np.linalg.norm((x - y).reshape(300, -1), axis=1)).all()


def test_a_size_with_more_overlap_than_built_for_is_refused():
    layer = layers.SpectralConv2D(4, 5)
    layer.build((None, 2, 2, 1))
    layer(np.zeros((1, 2, 2, 1), "float32"))
    with pytest.raises(ValueError, match="built for inputs of shape"):
        layer(np.zeros((1, 8, 8, 1), "float32"))
    layer = layers.SpectralConv2D(4, 5)
    layer.build((None, 8, 8, 1))
    layer(np.zeros((1, 2, 2, 1), "float32"))
