"""Proven norms of matrices and convolutions, against dense matrices and their singular values."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.bounds.norms import absolute_sums as sums
from deel_lip_tf.bounds.norms import convolution as convolutions
from deel_lip_tf.bounds.norms import residual as residuals
from deel_lip_tf.bounds.norms.convolution import convolution_bound
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.semantics.norms import L1, LINF
from deel_lip_tf.semantics.operators import Convolution
from tests._oracles import oracles

ORACLE = 1e-12  # relative rounding of numpy's singular values, for the sizes below
ORACLE_UP = 1 + 1e-14  # of sums of a few dozen terms
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


def nearly_orthogonal(kind):
    """A kernel (taps, inputs, outputs) whose Gram matrices are near the identity, and how near."""
    if kind == "rotation":  # its largest Gram matrix lies halfway between the points of the grid
        cosine = np.sqrt(0.5)
        return np.stack([np.eye(2), np.zeros((2, 2)), 1e-3 * cosine * np.array([[1, -1], [1, 1]])])
    projector = np.linalg.qr(RNG.standard_normal((6, 3)))[0]
    projector = projector @ projector.T
    kernel = np.stack([projector, np.eye(6) - projector])
    if kind == "smaller":  # more outputs than inputs
        kernel = kernel[:, :4]
    noise = {"exact": 0.0, "float32": 1e-7}.get(kind, 1e-3)
    return kernel + noise * RNG.standard_normal(kernel.shape)


@pytest.mark.parametrize("kind", ["exact", "float32", "noisy", "smaller", "rotation"])
def test_the_distance_from_orthogonality_bounds_every_frequency(kind, monkeypatch):
    kernel = nearly_orthogonal(kind)
    one_axis = Convolution(kernel[:, None], (1,), (1,), "same", (None,))
    symbol = convolutions._symbol(convolutions._polyphase(one_axis))
    true = reference_of_symbols(np.fft.fft(kernel, 4096, axis=0))
    bound = residuals.residual_bound(symbol)
    assert true * (1 - ORACLE) <= bound <= 1 + 8 * abs(true - 1) + 1e-12
    if kind == "rotation":
        monkeypatch.setattr(
            residuals, "_grid", lambda lengths, of=residuals._grid: (of(lengths)[0], 1.0)
        )
        assert residuals.residual_bound(symbol) < true


def reference_of_symbols(symbols):
    return np.linalg.svd(symbols, compute_uv=False).max()


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


@pytest.mark.parametrize("padding", ["symmetric", "reflect", "replicate"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_the_count_of_copies_bounds_every_size(stride, dilation, padding, monkeypatch):
    """Without the matrices of small images, which would hide it; kernels that reach the count."""
    monkeypatch.setattr(convolutions, "matrix_bound", lambda *_: None)
    for taps, size in itertools.product((2, 3, 5), (1, 2, 3, 4, 6, 9)):
        kernels = [RNG.standard_normal((taps, 2, 2)), np.ones((taps, 1, 1))]
        kernels += [np.eye(taps)[:, :1, None], np.eye(taps)[:, -1:, None], np.eye(taps)[:, None, :]]
        for kernel in kernels:
            dilated = np.zeros(((taps - 1) * dilation + 1, *kernel.shape[1:]))
            dilated[::dilation] = kernel
            norm = reference(padded_matrix(dilated, size, stride, padding))
            for known in (size, None):
                fields = ((stride,), (dilation,), padding, (known,))
                bound, _ = convolution_bound(Convolution(kernel[:, None], *fields), 0.001)
                assert norm * (1 - ORACLE) <= bound
                if padding != "replicate" and stride == 1:
                    plain = Convolution(kernel[:, None], *fields[:2], "same", (None,))
                    largest, _ = convolution_bound(plain, 0.001)
                    assert bound <= np.sqrt(2) * largest * (1 + 1e-12)


def test_a_shift_reaches_the_count_of_copies():
    for padding, copies in (("symmetric", 2), ("reflect", 2), ("replicate", 3)):
        for first in (0, 4):
            kernel = np.eye(5)[:, first].reshape(5, 1, 1, 1)
            norm = reference(padded_matrix(kernel[:, 0], 9, 1, padding))
            assert norm == pytest.approx(np.sqrt(copies))
            convolution = Convolution(kernel, (1,), (1,), padding, (None,))
            assert norm <= convolution_bound(convolution)[0] <= norm * (1 + 1e-9)


# --- sums of absolute values -------------------------------------------------------------------


def sums_and_bounds(kernel, size, strides, dilation, padding, transposed):
    """The largest row and column sums of the dense matrix of an image, and the bounds of them.

    `kernel` is (*kernel_size, groups, inputs, outputs); `size` is that of the convolution, also
    where its adjoint is meant. The last bounds are for any size.
    """
    wide = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
    dilated = np.zeros((*wide, *kernel.shape[2:]))
    dilated[:: dilation[0], :: dilation[1]] = kernel
    exact = []
    for group in range(kernel.shape[2]):
        one = dilated[:, :, group]
        shape = (*size, kernel.shape[3])
        matrix = oracles.matrix_of(lambda x, k=one: oracles.conv2d(x, k, strides, padding), shape)
        matrix = np.abs(matrix.T if transposed else matrix)
        exact.append([matrix.sum(axis=axis).max(initial=0.0) for axis in (1, 0)])
    if transposed and padding in ("same", "valid"):  # named by what it reads
        axes = zip(size, wide, strides, strict=True)
        read = [[n - k + s, n][padding == "same"] for n, k, s in axes]
        size = [n // s for n, s in zip(read, strides, strict=True)]
    bounds = [
        [
            operator_bound(Convolution(kernel, strides, dilation, padding, sizes, transposed), n)[0]
            for n in (LINF, L1)
        ]
        for sizes in (tuple(size), (None, None))
    ]
    return np.max(exact, axis=0), *map(np.array, bounds)


EVERY_PADDING = ("same", "valid", "causal", "circular", "symmetric", "reflect", "replicate")


def sum_cases(padding):
    """Kernels of one to five taps on rows of one to nine elements, and on small images."""
    taps, strides, rates, lengths = (1, 2, 3, 5), (1, 2, 3), (1, 2), (1, 2, 3, 4, 6, 9)
    for k, s, d, n in itertools.product(taps, strides, rates, lengths):
        yield (1, k), (1, n), (1, s), (1, d)
    for k, s, n in itertools.product((2, 3), (1, 2), ((1, 2), (2, 5), (4, 3))):
        yield (3, k), n, (s, 1), (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("padding", EVERY_PADDING)
def test_sums_of_absolute_values_are_exact(padding, transposed):
    groups = itertools.cycle((1, 2))
    for kernel_size, size, strides, dilation in sum_cases(padding):
        reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
        if padding == "valid" and any(n < k for n, k in zip(size, reach, strict=True)):
            continue
        if transposed and padding in ("same", "valid"):  # images that a transposed one writes
            lost = [0 if padding == "same" else k - s for k, s in zip(reach, strides, strict=True)]
            steps = zip(size, lost, strides, strict=True)
            if any((n - gone) % s or n <= gone for n, gone, s in steps):
                continue
        kernel = RNG.standard_normal((*kernel_size, next(groups), 2, 2))
        arguments = (size, strides, dilation, padding, transposed)
        exact, known, unknown = sums_and_bounds(kernel, *arguments)
        assert (exact <= known * ORACLE_UP).all(), arguments
        assert (known <= exact * (1 + 1e-12)).all(), arguments
        assert (exact <= unknown * ORACLE_UP).all(), arguments


@pytest.mark.parametrize("padding", ["circular", "symmetric", "reflect", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_sums_for_any_size_are_reached_by_one(stride, padding):
    """The largest of all sizes, not a bound of each by the worst of its parts."""
    kernel = RNG.standard_normal((1, 4, 1, 2, 3))
    sizes = [(1, n) for n in range(1, 25)]
    cases = [sums_and_bounds(kernel, n, (1, stride), (1, 1), padding, False) for n in sizes]
    largest = np.max([exact for exact, _, _ in cases], axis=0)
    assert cases[0][2] == pytest.approx(largest, rel=1e-12)


def test_a_long_axis_has_the_sums_of_a_short_one():
    """Neither their number nor the work grows with the size."""
    kernel = RNG.standard_normal((5, 1, 2, 3))
    for padding, stride in itertools.product(EVERY_PADDING, (1, 3)):
        for norm in (LINF, L1):
            short, long = (
                operator_bound(Convolution(kernel, (stride,), (1,), padding, (n,)), norm)[0]
                for n in (40, 3 * 10**8 + 40)
            )
            assert short == long


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e300, 1e308])
def test_sums_at_every_scale(scale):
    kernel = np.array([1.0, -1.0, 1.0, 1.0]).reshape(4, 1, 1, 1) * scale
    convolution = Convolution(kernel, (1,), (1,), "symmetric", (3,))
    ones = Convolution(kernel / scale, (1,), (1,), "symmetric", (3,))
    for norm in (LINF, L1):
        expected = round(operator_bound(ones, norm)[0]) * scale
        assert expected <= operator_bound(convolution, norm)[0] <= expected * (1 + 1e-12) + 1e-322


def test_a_place_that_is_left_out_is_found(monkeypatch):
    """The oracle sees the sums at the border, which differ from those between."""
    kernel = np.abs(RNG.standard_normal((1, 3, 1, 1, 1)))
    arguments = ((1, 6), (1, 1), (1, 1), "symmetric", False)
    exact, known, _ = sums_and_bounds(kernel, *arguments)
    assert (exact <= known * ORACLE_UP).all()
    monkeypatch.setattr(sums, "_undominated", lambda found: [np.eye(found[0].shape[1], dtype=bool)])
    exact, known, _ = sums_and_bounds(kernel, *arguments)
    assert not (exact <= known * ORACLE_UP).all()


def test_the_kernel_is_rounded_to_the_compute_type():
    layer = layers.Dense(2, use_bias=False, dtype="mixed_bfloat16")
    layer.build((None, 2))
    layer.set_weights([np.diag([1.0 + 2.0**-8 + 2.0**-12, 0.5])])
    assert lipschitz_bound(layer).value == pytest.approx(1.0 + 2.0**-7, rel=1e-9)
