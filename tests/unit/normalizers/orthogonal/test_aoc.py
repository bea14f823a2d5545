"""Orthogonal convolutions: singular values, and what no weights and no size may break."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import bounds, layers
from deel_lip_tf.normalizers import AOC, AOL, BCOP, Operation
from deel_lip_tf.normalizers.orthogonal import aoc
from tests._oracles import oracles
from tests._oracles.tolerances import GRADIENT, SOUND
from tests._tables.cases import PADDINGS

ONE = 1e-5  # how far from 1 the singular values may be: the rounding of a float32 kernel


def drawn(method, operation, shape, rng, kind="normal", dtype="float32"):
    """Raw weights of one of the kinds that break bounds."""
    weights = {}
    for name, size in method.weights_for(operation, shape).items():
        values = rng.normal(size=size)
        if kind == "rank one":
            values = np.ones(size) * rng.normal(size=(*size[:-1], 1))
        elif kind == "nearly singular":
            values[..., 1:] = values[..., :1] + 1e-6 * values[..., 1:]
        elif kind == "zero":
            values = np.zeros(size)
        elif kind != "normal":
            values = values * float(kind)
        weights[name] = tf.constant(values, dtype)
    return weights


def kernel_of(method, operation, shape, rng, kind="normal"):
    """The effective kernel of random weights, in float64, without dilation and groups."""
    projected = method.projected(drawn(method, operation, shape, rng, kind), operation)
    effective = np.asarray(projected.kernel, np.float64) / projected.bound
    assert effective.shape == shape
    assert np.isfinite(effective).all()
    dilation = operation.dilation or (1,) * len(operation.kernel_size)
    return oracles.full_kernel(effective, operation.groups, dilation)


def values_of(kernel, operation):
    """All singular values on an image of the sizes of the operation."""
    shape = (*operation.sizes, kernel.shape[-2])
    matrix = oracles.matrix_of(
        lambda x: oracles.conv2d(x, kernel, operation.strides, operation.padding), shape
    )
    return oracles.singular_values(matrix) if matrix.size else np.zeros(1)


# kernel size, strides, inputs, outputs, sizes
ISOMETRIES = [
    ((3, 3), (1, 1), 4, 4, (5, 7)),
    ((3, 3), (1, 1), 3, 8, (4, 5)),
    ((5, 5), (1, 1), 5, 2, (5, 3)),
    ((1, 1), (1, 1), 3, 5, (2, 3)),
    ((2, 4), (1, 1), 3, 3, (5, 4)),
    ((1, 7), (1, 1), 2, 2, (1, 9)),
    ((3, 3), (1, 1), 1, 1, (4, 4)),
    ((4, 4), (2, 2), 3, 5, (6, 4)),
    ((4, 4), (2, 2), 3, 12, (4, 6)),
    ((4, 4), (2, 2), 2, 27, (4, 6)),
    ((6, 2), (3, 1), 2, 7, (6, 3)),
]
ONLY_AOC = [
    ((3, 3), (2, 2), 3, 8, (6, 4)),
    ((3, 5), (2, 2), 2, 31, (4, 6)),
    ((5, 3), (2, 3), 2, 9, (4, 6)),
]


@pytest.mark.parametrize(
    ("method", "case"),
    [(AOC(), case) for case in ISOMETRIES + ONLY_AOC] + [(BCOP(), case) for case in ISOMETRIES],
    ids=str,
)
def test_singular_values_are_1_with_circular_padding(method, case, rng):
    size, strides, inputs, outputs, sizes = case
    operation = Operation(size, strides, "circular", sizes)
    for kind in ("normal", "1e30", "1e-30"):
        kernel = kernel_of(method, operation, (*size, inputs, outputs), rng, kind)
        np.testing.assert_allclose(values_of(kernel, operation), 1, atol=ONE)
    # No tap is left out: the convolution is one of this size.
    assert (np.abs(kernel).max(axis=(-2, -1)) > 1e-3).all() or inputs == outputs == 1


@pytest.mark.parametrize(("groups", "dilation"), [(2, (1, 1)), (1, (2, 3)), (3, (2, 1))])
def test_groups_and_dilation_keep_the_singular_values(groups, dilation, rng):
    operation = Operation((3, 3), (1, 1), "circular", (5, 4), groups=groups, dilation=dilation)
    kernel = kernel_of(AOC(), operation, (3, 3, 2, 2 * groups), rng)
    np.testing.assert_allclose(values_of(kernel, operation), 1, atol=ONE)


@pytest.mark.parametrize("stride", [1, 2])
def test_singular_values_of_the_transposed_layer_are_1(stride, rng):
    layer = layers.AOCConv2DTranspose(2, 3, stride, padding="circular", use_bias=False)
    layer.build((None, 4, 3, 5))
    for weight in layer.raw_weights.values():
        weight.assign(rng.normal(size=weight.shape))
    matrix = oracles.padded_transpose_matrix(
        np.asarray(layer.effective_kernel()), (4, 3, 5), (stride, stride), "circular"
    )
    values = oracles.singular_values(matrix)[: 12 * min(5, 2 * stride**2)]
    np.testing.assert_allclose(values, 1, atol=ONE)


KINDS = ("normal", "rank one", "nearly singular", "zero", "1e30", "1e-30")


@pytest.mark.parametrize("method", [AOC(), BCOP()], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_no_weights_and_no_size_exceed_1(method, padding, rng):
    """Sizes go from 1 to beyond the kernel, rings that no patches tile included."""
    norms = []
    for _ in range(40):
        strides = rng.integers(1, 4, 2)
        size = rng.integers(1, 5, 2) if method == AOC() else strides * rng.integers(1, 3, 2)
        least = size if padding == "valid" else 1
        sizes = rng.integers(least, np.maximum(least, 6) + 1, 2)
        size, strides, sizes = (tuple(map(int, one)) for one in (size, strides, sizes))
        inputs, outputs = map(int, rng.integers(1, 5, 2))
        operation = Operation(size, strides, padding, sizes)
        kind = KINDS[rng.integers(len(KINDS))]
        kernel = kernel_of(method, operation, (*size, inputs, outputs), rng, kind)
        norms.append(values_of(kernel, operation).max())
        assert norms[-1] <= SOUND, (operation, inputs, outputs, kind)
    assert max(norms) > 0.99


def test_a_ring_that_patches_do_not_tile_exceeds_1_without_its_factor(monkeypatch, rng):
    operation = Operation((3, 3), (2, 2), "circular", (5, 5))
    kernel = kernel_of(AOC(), operation, (3, 3, 2, 8), rng)
    assert 0.7 < values_of(kernel, operation).max() <= SOUND
    monkeypatch.setattr(Operation, "excess", property(lambda self: (1, 1)))
    kernel = kernel_of(AOC(), operation, (3, 3, 2, 8), rng)
    assert values_of(kernel, operation).max() > 1.4


def test_the_rounding_of_many_factors_stays_below_1(monkeypatch, rng):
    """At the frequencies of a grid; without the slack the same kernels exceed 1."""

    def norm():
        operation = Operation((7, 7), (1, 1), "circular", (8, 8))
        weights = drawn(AOC(), operation, (7, 7, 32, 32), np.random.default_rng(0))
        kernel = np.asarray(AOC().projected(weights, operation).kernel, np.float64)
        symbols = np.fft.fft2(kernel, (8, 8), axes=(0, 1))
        return np.linalg.svd(symbols, compute_uv=False).max()

    assert 1 - ONE <= norm() <= 1
    monkeypatch.setattr(aoc, "slack", lambda width, factors: 0.0)
    assert norm() > 1


@pytest.mark.parametrize(
    ("method", "size", "strides", "shape"),
    [
        (AOC(), (3, 2), (1, 1), (3, 2, 3, 3)),
        (AOC(), (3, 3), (1, 1), (3, 3, 2, 5)),
        (AOC(), (3, 3), (2, 2), (3, 3, 1, 9)),
        (BCOP(), (4, 4), (2, 2), (4, 4, 1, 3)),
    ],
    ids=str,
)
def test_gradient_is_that_of_finite_differences(method, size, strides, shape, rng):
    operation = Operation(size, strides, "same", (6, 6))
    weights = drawn(method, operation, shape, rng, dtype="float64")
    direction = rng.normal(size=shape)
    assert len(weights) > 1

    @tf.function(autograph=False)
    def value(weights):
        return tf.reduce_sum(direction * method.projected(weights, operation).kernel)

    with tf.GradientTape() as tape:
        tape.watch(weights)
        y = value(weights)
    for name, gradient in tape.gradient(y, weights).items():
        expected = oracles.jacobian(
            lambda w, name=name: np.array([value({**weights, name: tf.constant(w)})]),
            weights[name].numpy(),
        ).reshape(gradient.shape)
        error = np.linalg.norm(gradient - expected)
        assert error <= GRADIENT * np.linalg.norm(expected) + 1e-7, name
        assert np.linalg.norm(expected) > 1e-2, name


def test_gradients_at_degenerate_weights_are_finite(rng):
    operation = Operation((3, 3), (1, 1), "same", (6, 6))
    for kind in KINDS:
        weights = drawn(AOC(), operation, (3, 3, 4, 3), rng, kind)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            kernel = AOC().projected(weights, operation).kernel
        gradients = tape.gradient(kernel, weights).values()
        assert all(np.isfinite(one).all() for one in [kernel, *gradients]), kind


def test_equal_pairs_of_projectors_leave_the_middle_tap_alone(rng):
    operation = Operation((5, 3), (1, 1), "same", (6, 6))
    weights = drawn(AOC(), operation, (5, 3, 4, 4), rng)
    half = weights["projectors"][:, :3]
    weights["projectors"] = tf.concat([half, half[:, ::-1]], axis=1)
    kernel = np.array(AOC().projected(weights, operation).kernel)
    np.testing.assert_allclose(oracles.singular_values(kernel[2, 1]), 1, atol=ONE)
    kernel[2, 1] = 0
    assert np.abs(kernel).max() < ONE


def test_the_bound_of_the_layer_is_1_to_rounding(rng):
    for layer in (layers.AOCConv2D(24, 3), layers.AOCConv2D(24, 4, 2, "circular")):
        layer.build((None, 12, 12, 24))
        for weight in layer.raw_weights.values():
            weight.assign(rng.normal(size=weight.shape))
        assert 1 - ONE <= bounds.lipschitz_bound(layer).value <= 1 + ONE


def test_training_keeps_the_factors_on_their_manifold(rng):
    x = rng.normal(size=(16, 6, 6, 4)).astype("float32")
    model = keras.Sequential([keras.Input((6, 6, 4)), layers.AOCConv2D(8, 3, 2)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    first, *_, last = model.fit(x, np.ones((16, 3, 3, 8)), epochs=4, verbose=0).history["loss"]
    assert last < first
    raw = {n: np.asarray(w) for n, w in model.layers[0].raw_weights.items()}
    matrices = [raw["kernel"].reshape(-1, 8), *raw["projectors"][0]]
    for matrix in matrices:
        np.testing.assert_allclose(oracles.singular_values(matrix), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.BCOPConv2D(4, 3, 2), "multiple of the stride: use AOC"),
        (lambda: layers.SpectralDepthwiseConv2D(3, parametrization=AOC()), "nothing but a shift"),
        (lambda: layers.AOCConv2D(4, 3, groups=2, parametrization=AOL()), "no bound with `groups`"),
        (lambda: layers.AOCConv2DTranspose(4, 3, dilation_rate=2), "no bound with `dilation_rate`"),
    ],
)
def test_what_is_not_covered_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make().build((None, 8, 8, 4))
