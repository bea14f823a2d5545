"""Proven norms of matrices and convolutions, against dense matrices and their singular values."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.bounds.convolutions import Convolution, convolution_bound
from deel_lip_tf.bounds.matrices import spectral_norm_bound

ORACLE = 1e-12  # relative rounding of numpy's singular values, for the sizes below
RNG = np.random.default_rng(0)


def reference(matrix):
    return np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (5, 3), (3, 50), (130, 64), (200, 200)])
def test_random_matrices(shape):
    matrix = RNG.standard_normal(shape)
    bound, norm = spectral_norm_bound(matrix), reference(matrix)
    assert norm * (1 - ORACLE) <= bound <= norm * (1 + 1e-9)


MATRICES = {
    "rank one": np.outer(RNG.standard_normal(30), RNG.standard_normal(20)),
    "clustered": np.eye(40) + 1e-9 * RNG.standard_normal((40, 40)),
    "one large": np.diag([1e8, 1.0, 1e-8]),
    "ones": np.ones((33, 21)),
    "graded": np.outer(10.0 ** -np.arange(12), 10.0 ** -np.arange(9)) * RNG.random((12, 9)),
}


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e-30, 1e30, 1e295])
@pytest.mark.parametrize("name", MATRICES)
def test_difficult_matrices_at_every_scale(name, scale):
    norm = reference(MATRICES[name]) * scale
    assert norm * (1 - ORACLE) <= spectral_norm_bound(MATRICES[name] * scale) <= norm * (1 + 1e-9)


def test_exact_integer_norms_are_never_undercut():
    for n in range(1, 40):
        assert spectral_norm_bound(np.ones((n, n))) >= n
        assert spectral_norm_bound(np.full((n, n), 0.1)) >= n * 0.1 * (1 - 2.3e-16)


def test_limits():
    assert spectral_norm_bound(np.zeros((3, 4))) == 0.0
    assert spectral_norm_bound(np.zeros((0, 4))) == 0.0
    assert spectral_norm_bound(np.full((2, 2), 5e-324)) >= 1e-323
    assert spectral_norm_bound(np.full((9, 9), 1e308)) == np.inf
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            spectral_norm_bound(np.array([[1.0, bad]]))


def test_large_orthogonal_float32_matrix():
    matrix = np.linalg.qr(RNG.standard_normal((1024, 1024)))[0].astype(np.float32)
    bound = spectral_norm_bound(matrix)
    norm = reference(matrix)
    assert norm * (1 - ORACLE) <= bound <= norm + 1e-6


def test_beyond_the_dense_order():
    matrix = RNG.standard_normal((1100, 1100)) / 33
    matrix[0, 0] = 9.0  # an outlier, so that numpy's power iteration is an oracle
    vector = np.ones(1100)
    for _ in range(300):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    norm = np.linalg.norm(matrix @ vector)
    assert norm * (1 - 1e-11) <= spectral_norm_bound(matrix) <= norm * (1 + 1e-8)


# --- convolutions ------------------------------------------------------------------------------


def dense_matrix(layer, shape):
    """(outputs, inputs) of a linear Keras layer, by pushing the identity through it in float64."""
    eye = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.asarray(keras.ops.convert_to_numpy(layer(eye))).reshape(len(eye), -1).T


def plain(cls, shape, kernel=None, **arguments):
    layer = cls(use_bias=False, dtype="float64", **arguments)
    layer.build((None, *shape))
    weights = [RNG.standard_normal(w.shape) for w in layer.weights] if kernel is None else [kernel]
    layer.set_weights(weights)
    return layer


def check(layer, shape, loosest=np.inf):
    """The bound is at least the norm of the dense matrix, and at most `loosest` times it."""
    norm = reference(dense_matrix(layer, shape))
    bound = lipschitz_bound(layer).value
    assert norm * (1 - ORACLE) <= bound
    assert bound <= norm * loosest
    return bound / norm if norm else 1.0


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", range(1, 8))
def test_convolutions(size, stride, padding):
    for image in {max(size, 3), size + 4, 1 if padding == "same" else size}:
        for channels, filters in ((1, 1), (2, 3)):
            shape = (image, image + 1, channels)
            arguments = {"filters": filters, "kernel_size": size, "strides": stride}
            check(plain(layers.Conv2D, shape, padding=padding, **arguments), shape)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_large_image_is_bounded_tightly(size):
    shape = (40, 1)
    arguments = {"filters": 2, "kernel_size": size, "padding": "same"}
    check(plain(layers.Conv1D, shape, **arguments), shape, loosest=1.01)


OTHERS = [
    (layers.Conv2DTranspose, {"filters": 2, "kernel_size": 3, "strides": 2}, (3, 4, 3)),
    (layers.Conv2DTranspose, {"filters": 2, "kernel_size": 2, "strides": 3}, (3, 3, 1)),
    (
        layers.Conv2DTranspose,
        {"filters": 2, "kernel_size": 4, "strides": 2, "padding": "same", "output_padding": 1},
        (3, 3, 2),
    ),
    (layers.Conv1DTranspose, {"filters": 2, "kernel_size": 5, "strides": 2}, (5, 2)),
    (layers.DepthwiseConv2D, {"kernel_size": 3, "depth_multiplier": 2}, (5, 5, 3)),
    (layers.DepthwiseConv2D, {"kernel_size": 3, "strides": 2, "padding": "same"}, (5, 6, 2)),
    (layers.SeparableConv2D, {"filters": 4, "kernel_size": 3}, (5, 5, 2)),
    (layers.Conv2D, {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"}, (5, 5, 4)),
    (layers.Conv2D, {"filters": 2, "kernel_size": 3, "dilation_rate": 2}, (7, 8, 2)),
    (layers.Conv1D, {"filters": 3, "kernel_size": 4, "padding": "causal", "strides": 2}, (9, 2)),
    (layers.Conv1D, {"filters": 3, "kernel_size": 3, "padding": "same", "strides": 5}, (9, 2)),
    (layers.Conv3D, {"filters": 2, "kernel_size": 2, "padding": "same"}, (3, 3, 3, 1)),
]


@pytest.mark.parametrize(("cls", "arguments", "shape"), OTHERS)
def test_other_kinds_of_convolution(cls, arguments, shape):
    check(plain(cls, shape, **arguments), shape, loosest=3.0)


def test_an_isometry_of_patches():
    # filters = kh * kw * channels: each output is one entry of the patch, so pixels are copied.
    kernel = np.eye(9).reshape(3, 3, 1, 9)
    layer = plain(layers.Conv2D, (7, 7, 1), kernel, filters=9, kernel_size=3, padding="same")
    check(layer, (7, 7, 1), loosest=1 + 1e-9)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_cosine_kernel_attains_its_supremum(size):
    # All ones: the supremum, the sum of the taps, is at frequency 0, where no grid point lies.
    convolution = Convolution(np.ones((size, 1, 1, 1)), (1,), (1,), "same", (None,))
    bound, _ = convolution_bound(convolution)
    assert size <= bound <= size * (1 + 1e-4)


@pytest.mark.parametrize("shift", range(12))
def test_a_modulated_kernel_attains_its_supremum_between_grid_points(shift):
    phase = np.exp(1j * (0.1 + 0.27 * shift) * np.arange(5))
    kernel = np.stack([[phase.real, -phase.imag], [phase.imag, phase.real]])
    kernel = np.transpose(kernel, (2, 0, 1))
    convolution = Convolution(kernel[:, None], (1,), (1,), "same", (None,))
    bound, _ = convolution_bound(convolution)
    assert 5 * (1 - ORACLE) <= bound <= 5 * (1 + 1e-4)


@pytest.mark.parametrize("smooth", [0.0, 0.7])
@pytest.mark.parametrize("channels", [16, 64])
def test_wide_layers_of_any_size_are_bounded_within_a_percent(channels, smooth):
    """Flat spectra, of random kernels, and peaked ones as training makes them."""
    rng = np.random.default_rng(channels)
    kernel = (1 - smooth) * rng.standard_normal((3, 3, channels, channels))
    window = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]) / 4
    kernel += smooth * window[..., None, None] * rng.standard_normal((channels, channels))
    offsets = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(9, 2)
    points = np.stack(np.meshgrid(*[np.arange(16)] * 2), -1).reshape(-1, 2) * (np.pi / 8)
    phases = np.exp(1j * points @ offsets.T)
    symbols = np.tensordot(phases, kernel.reshape(9, channels, channels), 1)
    attained = np.linalg.norm(symbols, 2, axis=(1, 2)).max()
    bound, method = convolution_bound(
        Convolution(kernel[..., None, :, :], (1, 1), (1, 1), "same", (None, None))
    )
    assert attained * (1 - ORACLE) <= bound <= attained * 1.01
    assert "Fourier" in method


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e290])
def test_scales(scale):
    kernel = RNG.standard_normal((3, 3, 1, 2, 3))
    convolution = Convolution(kernel, (1, 1), (1, 1), "same", (6, 6))
    scaled = Convolution(kernel * scale, (1, 1), (1, 1), "same", (6, 6))
    expected = convolution_bound(convolution)[0] * scale
    assert convolution_bound(scaled)[0] == pytest.approx(expected, rel=1e-6)


def test_zero_and_non_finite_kernels():
    shape = (5, 5, 2)
    arguments = {"filters": 2, "kernel_size": 3}
    layer = plain(layers.Conv2D, shape, np.zeros((3, 3, 2, 2)), **arguments)
    assert lipschitz_bound(layer).value == 0.0
    layer = plain(layers.Conv2D, shape, np.full((3, 3, 2, 2), np.nan), name="broken", **arguments)
    with pytest.raises(ValueError, match="'broken'.*NaN"):
        lipschitz_bound(layer)


def padded_matrix(kernel, size, stride, padding):
    """The dense matrix of a padded one-dimensional convolution, by loops over NumPy's own pads."""
    modes = {"circular": "wrap", "symmetric": "symmetric", "reflect": "reflect"}
    taps, inputs, outputs = kernel.shape
    amounts = ((taps - 1) // 2, taps // 2)
    source = np.pad(np.arange(size), amounts, mode=modes.get(padding, "edge"))
    starts = range(0, len(source) - taps + 1, stride)
    matrix = np.zeros((len(starts), outputs, size, inputs))
    for (row, start), tap in itertools.product(enumerate(starts), range(taps)):
        matrix[row, :, source[start + tap], :] += kernel[tap].T
    return matrix.reshape(len(starts) * outputs, -1)


@pytest.mark.parametrize("padding", ["circular", "symmetric", "reflect", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
def test_copying_paddings(taps, stride, padding):
    for size in (2, 3, 4, 6, 9):
        for kernel in (
            RNG.standard_normal((taps, 2, 2)),
            np.ones((taps, 1, 1)),
            np.eye(taps)[:, None, :],
        ):
            norm = reference(padded_matrix(kernel, size, stride, padding))
            for known in (size, None):
                convolution = Convolution(kernel[:, None], (stride,), (1,), padding, (known,))
                bound, _ = convolution_bound(convolution)
                assert norm * (1 - ORACLE) <= bound
                if padding == "circular" and stride == 1 and known:
                    assert bound <= norm * (1 + 1e-6) + 1e-9


def test_the_kernel_is_rounded_to_the_compute_type():
    layer = layers.Dense(2, use_bias=False, dtype="mixed_bfloat16")
    layer.build((None, 2))
    layer.set_weights([np.diag([1.0 + 2.0**-8 + 2.0**-12, 0.5])])
    assert lipschitz_bound(layer).value == pytest.approx(1.0 + 2.0**-7, rel=1e-9)
