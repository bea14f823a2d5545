"""The unsound constants of other libraries, each by its counter-example.

Every test takes the kernel, the weights or the graph for which a known library claims too small a
constant, shows by a float64 oracle that its claim is exceeded (where that can be computed here),
and that ours is not.
"""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.bounds.norms.convolution import convolution_bound
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.semantics.operators import Convolution
from tests._oracles import oracles
from tests._oracles.tolerances import SOUND

ROUNDING = 1 + 1e-12
COPYING = ("circular", "symmetric", "reflect", "replicate")


def norm_of(kernel, size, strides=(1, 1), padding="same"):
    """Norm of a convolution of images (size, size), from its dense matrix."""
    shape = (size, size, kernel.shape[2])
    return oracles.spectral_norm(
        oracles.matrix_of(lambda x: oracles.conv2d(x, kernel, strides, padding), shape)
    )


def bounds_of(kernel, size, strides=(1, 1), padding="same", transposed=False):
    """Our bounds of a convolution: for images of this size, and of any size."""
    fields = kernel[..., None, :, :], strides, (1, 1), padding
    sizes = ((size, size), (None, None))
    return [convolution_bound(Convolution(*fields, one, transposed))[0] for one in sizes]


def with_kernel(layer, shape, kernel):
    layer.build((None, *shape))
    layer.kernel.assign(kernel)
    return layer


def isometry(size):
    """Every entry of a patch is an output of its own: pixels are copied, not mixed."""
    return np.eye(size * size).reshape(size, size, 1, size * size)


# --- convolutions: how often a pixel is used ---------------------------------------------------


def average_overlap_gain(n, k):
    """The factor that deel-lip multiplies a kernel of spectral norm 1 with, for stride 1."""
    half = (k - 1) // 2
    return n / (k * n - half * (half + 1))


@pytest.mark.parametrize(("n", "exceeded"), [(16, 1.0199), (28, 1.0164), (32, 1.0151)])
def test_average_overlap_with_a_kernel_of_ones(n, exceeded):
    """A one-channel 3x3 kernel of ones, which deel-lip claims to be 1-Lipschitz."""
    kernel = np.ones((3, 3, 1, 1)) / 3.0 * average_overlap_gain(n, 3)
    # Padded with zeros it is a tensor product of tridiagonal matrices of ones.
    ones = np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)
    norm = oracles.spectral_norm(ones) ** 2 / 3.0 * average_overlap_gain(n, 3)
    assert norm == pytest.approx(exceeded, abs=1e-4)
    assert all(norm <= bound * ROUNDING <= norm * 1.04 for bound in bounds_of(kernel, n))


@pytest.mark.parametrize(
    ("n", "k", "exceeded"),
    [(28, 3, 1.0244), (14, 3, 1.05), (7, 3, 1.1053), (5, 3, 1.1538), (4, 3, 1.2), (3, 3, 1.2857),
     (28, 5, 1.0448), (14, 5, 1.0938), (7, 5, 1.2069), (5, 5, 1.3158), (28, 7, 1.0652),
     (7, 7, 1.3243)],
)  # fmt: skip
def test_average_overlap_with_an_isometry_of_patches(n, k, exceeded):
    """As many filters as a patch has entries: the most used pixel decides, not the average one."""
    kernel = isometry(k) * average_overlap_gain(n, k)
    # The operator copies each pixel as often as patches hold it: the norm is the largest root.
    norm = np.convolve(np.ones(n), np.ones(k), "same").max() * average_overlap_gain(n, k)
    if n < 15:
        assert norm_of(kernel, n) == pytest.approx(norm, rel=1e-9)
    assert norm == pytest.approx(exceeded, abs=1e-4)
    assert all(norm <= bound * ROUNDING for bound in bounds_of(kernel, n))
    layer = lip.SpectralConv2D(k * k, k, use_bias=False, dtype="float64")
    with_kernel(layer, (n, n, 1), isometry(k))
    assert lipschitz_bound(layer).value <= SOUND


@pytest.mark.parametrize(
    ("padding", "k", "n", "exceeded"),
    [("reflect", 3, 5, 1.104), ("reflect", 3, 8, 1.062), ("replicate", 5, 9, 1.0)],
)
def test_copying_paddings_use_a_pixel_more_often(padding, k, n, exceeded):
    """deel-torchlip divides by sqrt(k * k), right for zeros alone."""
    kernel = isometry(k) / k
    norm = norm_of(kernel, n, padding=padding)
    assert norm > exceeded
    assert all(norm <= bound * ROUNDING for bound in bounds_of(kernel, n, padding=padding))
    layer = lip.SpectralConv2D(k * k, k, padding=padding, use_bias=False, dtype="float64")
    with_kernel(layer, (n, n, 1), isometry(k))
    assert lipschitz_bound(layer).value <= SOUND


def test_circular_padding_with_a_stride_that_does_not_divide_the_size():
    """n = 5, k = 7, stride 2: a pixel lies in 5 patches, not in ceil(7 / 2) = 4."""
    kernel = np.eye(7).reshape(1, 7, 1, 7) / 2.0
    shape = (1, 5, 1)
    matrix = oracles.matrix_of(lambda x: oracles.conv2d(x, kernel, (1, 2), "circular"), shape)
    norm = oracles.spectral_norm(matrix)
    assert norm == pytest.approx(math.sqrt(5) / 2)
    convolution = Convolution(kernel[..., None, :, :], (1, 2), (1, 1), "circular", (1, 5))
    assert norm <= convolution_bound(convolution)[0] * ROUNDING


def test_circular_norm_does_not_bound_zero_padding():
    """The largest singular value on the grid of the image itself is that of wrapping round."""
    worst = 0.0
    for seed in range(30):
        kernel = np.random.default_rng(seed).standard_normal((3, 3, 2, 2))
        zeros, wrapped = norm_of(kernel, 4), norm_of(kernel, 4, padding="circular")
        worst = max(worst, zeros / wrapped)
        assert all(zeros <= bound * ROUNDING for bound in bounds_of(kernel, 4))
    assert worst > 1.005


def test_dilation_with_a_stride_is_counted():
    """deel-torchlip accepts dilation 2 with stride 2 and divides as without: 1.5 times too much."""
    kernel = isometry(3) / 2.0  # ceil(3 / 2) patches along each axis, were it not dilated
    wide = np.zeros((5, 5, 1, 9))
    wide[::2, ::2] = kernel
    norm = norm_of(wide, 9, (2, 2))
    assert norm == pytest.approx(1.5)
    for sizes in ((9, 9), (None, None)):
        convolution = Convolution(kernel[..., None, :, :], (2, 2), (2, 2), "same", sizes)
        assert norm <= convolution_bound(convolution)[0] * ROUNDING
    with pytest.raises(ValueError, match="dilation"):
        lip.SpectralConv2D(9, 3, strides=1, dilation_rate=2)


TRANSPOSED = [
    (6, 3, 1, 1, 9, 1.125),
    (6, 3, 2, 1, 9, 1.5),
    (6, 5, 2, 1, 12, 1.226),
    (6, 4, 2, 2, 32, 2.0),
    (6, 2, 2, 1, 4, 2.0),
]


@pytest.mark.parametrize(("n", "k", "s", "inputs", "filters", "exceeded"), TRANSPOSED)
def test_transposed_convolutions_with_the_other_flattening(n, k, s, inputs, filters, exceeded, rng):
    """deel-lip orthogonalises (k * k * inputs, filters), where the adjoint needs filters first."""
    left, _, right = np.linalg.svd(rng.normal(size=(k * k * inputs, filters)), full_matrices=False)
    kernel = (left @ right).reshape(k, k, inputs, filters).transpose(0, 1, 3, 2)
    for padding in ("same", "valid"):
        layer = layers.Conv2DTranspose(
            filters, k, s, padding=padding, use_bias=False, dtype="float64"
        )
        with_kernel(layer, (n, n, inputs), kernel)
        norm = oracles.spectral_norm(
            oracles.matrix_of(
                lambda x, p=padding: oracles.conv_transpose(x, kernel, (s, s), p), (n, n, inputs)
            )
        )
        assert norm <= lipschitz_bound(layer).value * ROUNDING
        ours = lip.SpectralConv2DTranspose(filters, k, s, padding=padding, use_bias=False)
        assert lipschitz_bound(with_kernel(ours, (n, n, inputs), kernel)).value <= SOUND
    if k * k * inputs == filters:  # the other flattening is square: deel-lip leaves it as it is
        gain = average_overlap_gain(n, k) if s == 1 else 1 / -(-k // s)
        assert norm * gain == pytest.approx(exceeded, abs=1e-3)


def test_groups_take_the_largest_norm_not_their_product():
    """orthogonium multiplies the norms of the groups: two halves make a quarter."""
    kernel = np.zeros((1, 1, 2, 4))
    kernel[0, 0] = 0.5 * np.tile(np.eye(2), 2)
    layer = layers.Conv2D(4, 1, groups=2, use_bias=False, dtype="float64")
    layer = with_kernel(layer, (4, 4, 4), kernel)
    points = np.eye(64).reshape(-1, 4, 4, 4)
    norm = oracles.spectral_norm(np.reshape(ops.convert_to_numpy(layer(points)), (64, -1)))
    assert norm == pytest.approx(0.5)
    assert 0.5 <= lipschitz_bound(layer).value <= 0.5 * (1 + 1e-9)


@pytest.mark.parametrize("size", [2, 4])
def test_even_kernels_that_wrap_round(size, rng):
    """orthogonium warns that its values may be too low here."""
    for n in (3, 4, 5):
        kernel = rng.standard_normal((size, size, 2, 2))
        norm = norm_of(kernel, n, padding="circular")
        assert all(norm <= bound * ROUNDING for bound in bounds_of(kernel, n, padding="circular"))


# --- norms estimated from below ----------------------------------------------------------------


def power_iteration(matrix, steps):
    """What GloRo, deel-lip, LiResNet and CPL take for the spectral norm."""
    vector = np.random.default_rng(0).standard_normal(matrix.shape[1])
    for _ in range(steps):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    return np.linalg.norm(matrix @ vector)


@pytest.mark.parametrize("steps", [10, 30, 100])
def test_power_iteration_is_below_the_norm(steps, rng):
    matrix = rng.standard_normal((256, 256))
    norm = oracles.spectral_norm(matrix)
    assert power_iteration(matrix, steps) < norm <= spectral_norm_bound(matrix) * ROUNDING


def test_power_iteration_that_starts_orthogonal_to_the_largest_direction():
    """Warm starts can stay where they are for ever; a proof cannot."""
    matrix = np.diag([3.0, 1.0])
    vector = np.array([0.0, 1.0])
    assert np.linalg.norm(matrix @ vector) == 1.0
    assert spectral_norm_bound(matrix) >= 3.0


def test_unfoldings_need_norms_from_above(rng):
    """sqrt(k k) times the smallest unfolding norm is a bound, with estimated norms it is none."""
    kernel = rng.standard_normal((3, 3, 4, 4))
    norm = norm_of(kernel, 6)
    assert all(norm <= bound * ROUNDING for bound in bounds_of(kernel, 6))
    # A one-step estimate of the unfoldings falls below on kernels of low rank.
    ones = np.ones((3, 3, 1, 1))
    assert all(bound >= norm_of(ones, 12) / ROUNDING for bound in bounds_of(ones, 12))


def test_a_nearly_orthogonal_kernel_is_not_taken_for_orthogonal(rng):
    """A Cholesky or Bjorck projection that stopped early leaves a norm above 1."""
    matrix = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    for excess in (1e-7, 1e-4, 0.05):
        scaled = matrix * (1 + excess)
        layer = layers.Dense(16, use_bias=False, dtype="float64")
        with_kernel(layer, (16,), scaled)
        assert lipschitz_bound(layer).value >= oracles.spectral_norm(scaled) / ROUNDING > 1.0


# --- Keras layers with a constant of their own -------------------------------------------------


@pytest.mark.parametrize("weight", [1e-3, 1e-6, 1e-12, 1e-30])
def test_tiny_weights_are_not_lost_in_an_epsilon(weight):
    """GloRo normalises by `x / sqrt(max(sum(x * x), 1e-12))`: small layers seem smaller still."""
    first = layers.Dense(2, use_bias=False, dtype="float64")
    with_kernel(first, (2,), weight * np.eye(2))
    last = layers.Dense(2, use_bias=False, dtype="float64")
    with_kernel(last, (2,), np.eye(2) / weight)
    model = keras.Sequential([keras.Input((2,), dtype="float64"), first, last])
    assert lipschitz_bound(first).value >= weight
    assert 1.0 <= lipschitz_bound(model).value <= 1.0 + 1e-9


@pytest.mark.parametrize(("pool", "stride"), [(3, 1), (3, 2), (2, 1), (5, 2)])
def test_overlapping_max_pooling_counts_a_pixel_often(pool, stride):
    """GloRo takes 1; a single large pixel is the largest of several windows."""
    layer = layers.MaxPooling2D(pool, stride, dtype="float64")
    size = 4 * pool
    x, y = np.zeros((2, 1, size, size, 1))
    y[0, 2 * pool, 2 * pool] = 1.0
    for row, column in itertools.product(range(2), repeat=2):
        moved = np.roll(y, (row, column), axis=(1, 2))
        growth = np.linalg.norm(ops.convert_to_numpy(layer(moved)) - layer(x))
        assert growth <= lipschitz_bound(layer).value * ROUNDING
    assert lipschitz_bound(layer).value == pytest.approx(-(-pool // stride))


def test_an_unknown_layer_is_refused_and_not_taken_for_1():
    class Doubled(layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    x = keras.Input((3,))
    with pytest.raises(ValueError, match="Doubled"):
        lipschitz_bound(keras.Model(x, Doubled()(x)))


def test_an_input_scaling_takes_its_smallest_deviation():
    """SOC accounts for (x - mean) / std by 1 / max(std): right only where all are equal."""
    mean, deviation = [0.5, 0.4, 0.3], np.array([0.25, 0.5, 0.1])
    layer = layers.Normalization(mean=mean, variance=deviation**2, dtype="float64")
    layer.build((None, 2, 2, 3))
    step = np.zeros((1, 2, 2, 3))
    step[..., 2] = 1.0
    growth = np.linalg.norm(layer(step) - layer(0 * step)) / np.linalg.norm(step)
    assert growth == pytest.approx(10.0)
    assert growth <= lipschitz_bound(layer).value * ROUNDING


def test_batch_norm_of_a_small_variance_is_counted():
    """deel-torchlip's BatchLipNorm has the gain 1 / sqrt(variance), and claims 1."""
    layer = lip.BatchLipNorm(normalize=True, dtype="float64")
    layer.build((None, 3))
    layer.moving_variance.assign([1e-4, 5e-5, 1e-4])
    x = np.zeros((1, 3))
    growth = np.linalg.norm(layer(x + 1.0) - layer(x)) / math.sqrt(3)
    assert growth == pytest.approx(100.0)
    assert growth <= lipschitz_bound(layer).value * ROUNDING


def test_the_average_of_the_whole_image_keeps_its_gain_after_reloading(tmp_path):
    """deel-lip gives the layer the model's input shape, and multiplies by 4 after loading."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.AveragePooling2D(4),
            lip.ScaledGlobalAveragePooling2D(),
        ]
    )
    before = lipschitz_bound(model).value
    model.save(tmp_path / "model.keras")
    after = keras.models.load_model(tmp_path / "model.keras")
    assert lipschitz_bound(after).value == before
    ones = np.ones((1, 8, 8, 1), "float32")
    np.testing.assert_allclose(model(ones), after(ones))
    assert np.linalg.norm(after(ones)) <= before * 8.0 * (1 + 1e-6)


def test_the_bound_follows_every_assignment():
    """The peers cache the projected kernel: it is stale after a step, or not there before one."""
    layer = lip.SpectralDense(4, use_bias=False, dtype="float64")
    layer.build((None, 4))
    plain = layers.Dense(4, use_bias=False, dtype="float64")
    plain.build((None, 4))
    for scale in (1.0, 7.0, 1e-3):
        layer.kernel.assign(scale * np.eye(4))
        plain.kernel.assign(scale * np.eye(4))
        assert lipschitz_bound(layer).value <= SOUND
        assert scale <= lipschitz_bound(plain).value <= scale * (1 + 1e-9)
    layer.set_klip_factor(4.0)
    assert lipschitz_bound(layer).value == pytest.approx(4.0, rel=1e-3)


def test_the_sparsemax_of_keras_is_not_the_projection_it_is_named_after():
    """Keras 3.15 adds up the sums of the support instead of its entries: slopes exceed 1."""
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((4000, 4))
    y = x + 0.05 * rng.standard_normal(x.shape)
    f = [
        ops.convert_to_numpy(keras.activations.sparsemax(ops.convert_to_tensor(p))) for p in (x, y)
    ]
    growth = np.linalg.norm(f[0] - f[1], axis=1) / np.linalg.norm(x - y, axis=1)
    if growth.max() > 1 + 1e-9:  # a later Keras may have mended it
        with pytest.raises(ValueError, match="sparsemax"):
            lipschitz_bound(layers.Activation("sparsemax"))
