"""The norm of an operation, bounded from above in a closed form."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf.normalizers import Operation
from deel_lip_tf.normalizers.numerics import norm_bounds
from tests._oracles import oracles
from tests._tables.cases import PADDINGS


def hard_kernel(rng, shape):
    """Random ones, isometries of patches, and what resonates at a single frequency."""
    *sizes, _, outputs = shape
    normal = rng.normal(size=shape)
    left, _, right = np.linalg.svd(normal.reshape(-1, outputs), full_matrices=False)
    turns = rng.uniform(size=2) * np.pi
    wave = np.cos(turns[0] * np.arange(sizes[0]))[:, None] * np.cos(turns[1] * np.arange(sizes[1]))
    one_tap = np.zeros(shape)
    one_tap[rng.integers(sizes[0]), rng.integers(sizes[1])] = rng.normal(size=shape[2:])
    choices = [
        normal,
        (left @ right).reshape(shape),
        np.ones(shape),
        wave[..., None, None] * np.ones(shape),
        normal * 10.0 ** rng.integers(-20, 1, size=outputs),
        one_tap,
    ]
    return choices[rng.integers(len(choices))] * rng.choice([1.0, 1e30, 1e-10])


@pytest.mark.parametrize("padding", PADDINGS)
def test_no_convolution_exceeds_its_bound(padding, rng):
    """At every size, those below the kernel's included; the oracle is a matrix in float64."""
    shares = []
    for _ in range(40):
        kernel_size, (inputs, outputs) = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
        strides = tuple(map(int, rng.integers(1, 4, 2)))
        sizes = rng.integers(kernel_size if padding == "valid" else [1, 1], 8)
        kernel = np.float32(hard_kernel(rng, (*kernel_size, inputs, outputs)))
        operation = Operation(kernel.shape[:2], strides, padding, tuple(map(int, sizes)))
        bound = float(operation.norm_bound(tf.constant(kernel)))
        matrix = oracles.matrix_of(
            lambda x, k=kernel, s=strides: oracles.conv2d(x, k, s, padding), (*sizes, inputs)
        )
        shares.append(oracles.spectral_norm(matrix) / bound if matrix.size else 0)
        assert shares[-1] <= 1, (operation, kernel)
    assert max(shares) > 0.9


def between_two_frequencies(half):
    """`I + R exp(2iw)` with a rotation R falls off as fast as any of its degree, on both sides."""
    angle = 2 * np.pi * half / 16
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.stack([np.eye(2), np.zeros((2, 2)), rotation])


RING = Operation((3,), (1,), "circular", (32,))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("half", [1, 3, 5, 27])
def test_a_symbol_that_peaks_between_two_frequencies_does_not_exceed_it(half, dtype):
    kernel = between_two_frequencies(half)
    bound = float(RING.norm_bound(tf.constant(kernel, dtype)))
    kernel = np.asarray(kernel, dtype)
    matrix = oracles.matrix_of(lambda x: oracles.conv1d(x, kernel, (1,), "circular"), (32, 2))
    norm = oracles.spectral_norm(matrix)
    assert norm == pytest.approx(2, rel=1e-6)
    # With the first angle the other singular value is nearly as large, and Gram iteration feels it.
    assert norm <= bound <= norm * (1 + (1e-2 if half == 1 else 1e-5))


def test_it_would_without_the_factor_of_what_is_between_them(monkeypatch):
    cosine = SimpleNamespace(**{**vars(math), "cos": lambda angle: 1.0})
    monkeypatch.setattr(norm_bounds, "math", cosine)
    monkeypatch.setattr(norm_bounds, "_waves", norm_bounds._waves.__wrapped__)
    assert float(RING.norm_bound(between_two_frequencies(3))) < 2 * 0.99


def supremum(kernel, strides):
    """Of the symbol, at a grid that is fine; strides by what they leave of a ring."""
    if strides == (1, 1):
        symbol = np.fft.fft2(kernel, (96, 96), axes=(0, 1))
        return np.linalg.norm(symbol, 2, axis=(2, 3)).max()
    matrix = oracles.matrix_of(
        lambda x: oracles.conv2d(x, kernel, strides, "circular"), (12, 12, kernel.shape[2])
    )
    return oracles.spectral_norm(matrix)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (3, 3, 2, 9), (1, 1, 5, 3), (2, 5, 1, 1)], ids=str)
def test_the_bound_is_near_the_norm(shape, strides, rng):
    kernel = rng.normal(size=shape)
    left, _, right = np.linalg.svd(kernel.reshape(-1, shape[-1]), full_matrices=False)
    for each in (kernel, (left @ right).reshape(shape)):
        operation = Operation(shape[:2], strides, "same", (12, 12))
        bound = float(operation.norm_bound(tf.constant(each)))
        assert 1 <= bound / supremum(each, strides) <= 1.06


def test_each_channel_of_a_depthwise_convolution_counts_by_itself(rng):
    kernel = rng.normal(size=(3, 3, 4, 2))
    operation = Operation((3, 3), (1, 1), "same", (8, 8), is_depthwise=True)
    bound = float(operation.norm_bound(tf.constant(kernel)))
    single = [float(supremum(kernel[:, :, c : c + 1], (1, 1))) for c in range(4)]
    assert 1 <= bound / max(single) <= 1.05


def test_the_bound_of_zeros_is_zero_and_so_is_its_gradient():
    for shape in ((3, 3, 2, 4), (5, 4)):
        kernel = tf.zeros(shape)
        operation = Operation(shape[:-2], (1,) * (len(shape) - 2), "same", (6,) * (len(shape) - 2))
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            bound = operation.norm_bound(kernel)
        assert float(bound) == 0
        assert not np.any(tape.gradient(bound, kernel))


@pytest.mark.parametrize(
    ("shape", "strides"), [((3, 3, 2, 3), (1, 2)), ((2, 2, 3, 2), (1, 1)), ((6, 4), ())], ids=str
)
def test_its_gradient_is_that_of_finite_differences(shape, strides, rng):
    kernel = tf.constant(rng.normal(size=shape))
    operation = Operation(shape[:-2], strides, "same", (8,) * len(strides))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        bound = operation.norm_bound(kernel)
    expected = oracles.jacobian(
        lambda k: np.array([float(operation.norm_bound(tf.constant(k)))]), kernel.numpy()
    )
    assert math.isfinite(float(bound))
    found = tape.gradient(bound, kernel).numpy().ravel()
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-6)
