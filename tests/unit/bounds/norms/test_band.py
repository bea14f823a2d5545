"""Convolutions of images with zeros around them, against their dense matrices and closed forms."""

import itertools
import math

import numpy as np
import pytest

from deel_lip_tf.bounds.norms import band
from deel_lip_tf.bounds.norms import convolution as convolutions
from deel_lip_tf.bounds.norms.convolution import convolution_bound
from deel_lip_tf.semantics.operators import Convolution
from tests._oracles.random_convolutions import Geometry

ORACLE = 1e-12  # relative rounding of numpy's singular values, for the sizes below


@pytest.fixture(autouse=True)
def without_matrices_of_small_images(monkeypatch):
    """They would hide what is tested."""
    monkeypatch.setattr(convolutions, "matrix_bound", lambda *_: None)


def reference(matrix):
    return np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)[0]


def kernels(rng, size, inputs, outputs):
    """Kernels (*size, inputs, outputs) that are made to break a bound."""
    shape, taps = (*size, inputs, outputs), math.prod(size)
    yield rng.standard_normal(shape)
    yield np.ones(shape)
    yield np.multiply.outer(rng.standard_normal(size), rng.standard_normal((inputs, outputs)))
    yield np.linalg.qr(rng.standard_normal((taps * inputs, outputs)))[0].reshape(shape)
    single = np.zeros(shape)
    single[-1, 0, 0, -1] = -1.0  # a shift out of the image
    yield single
    yield rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 1, shape)


IMAGES = [
    ((4, 6), (3, 3), (1, 1), False),
    ((1, 9), (1, 4), (1, 2), False),
    ((5, 4), (4, 2), (2, 1), False),
    ((7, 5), (3, 2), (3, 3), False),
    ((3, 2), (5, 5), (1, 1), False),
    ((3, 4), (3, 4), (2, 2), True),
    ((4, 3), (2, 3), (1, 1), True),
]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("image", "size", "strides", "transposed"), IMAGES)
def test_no_dense_matrix_exceeds_the_bound(image, size, strides, transposed, padding):
    rng = np.random.default_rng(0)
    if padding == "valid" and not transposed:
        image = tuple(max(pair) for pair in zip(image, size, strict=True))
    geometry = Geometry(image, size, strides, padding, transposed=transposed)
    for index, kernel in enumerate(kernels(rng, size, 3, 2)):
        kernel = kernel * (1.0, 1e30, 1e-30)[index % 3]
        norm = reference(geometry.matrices(kernel[None])[0])
        assert norm * (1 - ORACLE) <= geometry.bound(kernel, budget=0.05)


def test_groups_and_other_ranks():
    rng = np.random.default_rng(1)
    kernel = rng.standard_normal((3, 3, 2, 2, 2))
    matrices = Geometry((6, 5), (3, 3)).matrices(np.moveaxis(kernel, 2, 0))
    convolution = Convolution(kernel, (1, 1), (1, 1), "same", (6, 5))
    norm = max(map(reference, matrices))
    assert norm * (1 - ORACLE) <= convolution_bound(convolution)[0] <= norm * 1.005
    # Each output of a causal convolution reads itself and the three before.
    kernel = rng.standard_normal((4, 1, 2, 3))
    matrix = np.zeros((9, 3, 9, 2))
    for output, tap in itertools.product(range(9), range(4)):
        if output + tap >= 3:
            matrix[output, :, output + tap - 3] = kernel[tap, 0].T
    norm = reference(matrix.reshape(27, 18))
    bound, _ = convolution_bound(Convolution(kernel, (1,), (1,), "causal", (9,)))
    assert norm * (1 - ORACLE) <= bound <= norm * 1.0001
    window = np.array([1.0, 2.0, 1.0]) / 4
    cube = np.multiply.outer(np.multiply.outer(window, window), window)[..., None, None, None]
    norm = ((1 + math.cos(math.pi / 6)) / 2) ** 3
    bound, _ = convolution_bound(Convolution(cube, (1,) * 3, (1,) * 3, "same", (5,) * 3))
    assert norm * (1 - ORACLE) <= bound <= norm * 1.0001


@pytest.mark.parametrize("sizes", [(14, 14), (5, 30), (1, 8)])
def test_the_zeros_around_an_image_count(sizes):
    """A binomial window has the norm `(1 + cos(pi / (n + 1))) / 2` on n places, and 1 on many."""
    window = np.array([1.0, 2.0, 1.0]) / 4
    kernel = np.outer(window, window)[..., None, None, None]
    norm = math.prod((1 + math.cos(math.pi / (n + 1))) / 2 for n in sizes)
    bound, method = convolution_bound(Convolution(kernel, (1, 1), (1, 1), "same", sizes))
    assert norm * (1 - ORACLE) <= bound <= norm * (1 + 1e-4)
    assert "zeros" in method


def test_a_layer_of_many_channels_is_bounded_within_half_a_percent():
    rng = np.random.default_rng(2)
    kernel = rng.standard_normal((3, 3, 8, 6)) + 2 * rng.standard_normal((8, 6))
    norm = reference(Geometry((7, 7), (3, 3)).matrices(kernel[None])[0])
    fields = kernel[:, :, None], (1, 1), (1, 1), "same"
    bound, _ = convolution_bound(Convolution(*fields, (7, 7)))
    unknown, _ = convolution_bound(Convolution(*fields, (None, None)))
    assert norm * (1 - ORACLE) <= bound <= norm * 1.005 < unknown


def test_a_ring_that_is_too_short_is_found(monkeypatch):
    """The oracle sees a bound that is too small."""
    monkeypatch.setattr(
        band._Axis, "frequencies", lambda axis, twist: 2 * np.pi * (np.arange(5) + twist) / 5
    )
    kernel = np.array([1.0, 2.0, 1.0]).reshape(1, 3, 1, 1, 1) / 4
    kernel = np.concatenate([0 * kernel, kernel, 0 * kernel])
    norm = (1 + math.cos(math.pi / 6)) / 2
    assert convolution_bound(Convolution(kernel, (1, 1), (1, 1), "same", (5, 5)))[0] < norm


def test_a_wrong_factor_proves_nothing_that_is_false(monkeypatch):
    rng = np.random.default_rng(3)
    diagonal = [rng.standard_normal((1, 4, 4)) for _ in range(5)]
    diagonal = [block + band._adjoint(block) for block in diagonal]
    above = [rng.standard_normal((1, 4, 4)) for _ in range(4)]
    whole = np.zeros((20, 20))
    for i, block in enumerate(diagonal):
        whole[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = block[0]
    for i, block in enumerate(above):
        whole[4 * i : 4 * i + 4, 4 * i + 4 : 4 * i + 8] = block[0]
        whole[4 * i + 4 : 4 * i + 8, 4 * i : 4 * i + 4] = block[0].T
    largest = np.linalg.eigvalsh(whole)[-1]
    matrix = band.Band(diagonal, above, 0.0)
    assert largest <= matrix.eigenvalue_bound(largest * 1.0001) <= largest * 1.0002
    assert matrix.eigenvalue_bound(largest * 0.9999) == math.inf
    eye = np.eye(4)[None]
    for factor in (eye, 2 * eye, eye * np.nan):
        monkeypatch.setattr(np.linalg, "cholesky", lambda _, factor=factor: factor)
        for shift in (0.0, 1.0, largest * 0.99):
            assert matrix.eigenvalue_bound(shift) >= largest
