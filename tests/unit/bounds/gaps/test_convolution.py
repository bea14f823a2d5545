"""Convolutions with a weight for each entry of the output, against their dense matrices."""

import math

import numpy as np
import pytest

from deel_lip_tf.bounds.gaps.convolution import Weighted
from deel_lip_tf.semantics.operators import Convolution
from tests._oracles.random_convolutions import Geometry
from tests.unit.bounds.norms.test_band import kernels, reference

ORACLE = 1e-12  # relative rounding of numpy's singular values, for the sizes below

IMAGES = [
    ((4, 6), (3, 3), (1, 1), "same"),
    ((1, 9), (1, 4), (1, 2), "same"),
    ((5, 4), (4, 2), (2, 1), "valid"),
    ((7, 5), (3, 2), (3, 3), "same"),
    ((3, 2), (5, 5), (1, 1), "same"),
]


def weighted(kernel, strides, padding, image):
    return Weighted.of(Convolution(kernel[:, :, None], strides, (1, 1), padding, image))


def drawn_weights(rng, shape):
    yield np.ones(shape)
    yield rng.uniform(0.2, 2.0, shape)
    yield 10.0 ** rng.uniform(-3, 3, shape)


@pytest.mark.parametrize(("image", "size", "strides", "padding"), IMAGES)
def test_no_dense_matrix_exceeds_the_bound(image, size, strides, padding):
    rng = np.random.default_rng(0)
    geometry = Geometry(image, size, strides, padding)
    for kernel in kernels(rng, size, 3, 2):
        convolution = weighted(kernel, strides, padding, image)
        for weights in drawn_weights(rng, convolution.output_shape):
            matrix = np.sqrt(weights.reshape(-1, 1)) * geometry.matrices(kernel[None])[0]
            norm, bound = reference(matrix), math.sqrt(convolution.squared_norm_bound(weights))
            assert norm * (1 - ORACLE) <= bound
            assert bound <= norm * 1.02 or norm == 0.0  # of nothing, nothing is proven


def test_forward_and_adjoint_are_the_matrix():
    rng = np.random.default_rng(1)
    for image, size, strides, padding in IMAGES:
        kernel = rng.standard_normal((*size, 3, 2))
        convolution = weighted(kernel, strides, padding, image)
        (matrix,) = Geometry(image, size, strides, padding).matrices(kernel[None])
        inputs, outputs = (rng.standard_normal((4, n)) for n in matrix.shape[::-1])
        images = inputs.reshape(4, *image, 3).transpose(1, 2, 0, 3)
        found = convolution.forward(images).transpose(2, 0, 1, 3).reshape(4, -1)
        np.testing.assert_allclose(found, inputs @ matrix.T, atol=1e-12)
        images = outputs.reshape(4, *convolution.output_shape).transpose(1, 2, 0, 3)
        found = convolution.adjoint(images).transpose(2, 0, 1, 3).reshape(4, -1)
        np.testing.assert_allclose(found, outputs @ matrix, atol=1e-12)


@pytest.mark.parametrize("part", [0.0, 0.4, 0.9, 1.1])
def test_what_is_proven_does_not_rest_on_the_guess(part, monkeypatch):
    rng = np.random.default_rng(2)
    kernel, image = rng.standard_normal((3, 3, 2, 3)), (5, 6)
    convolution = weighted(kernel, (1, 1), "same", image)
    weights = rng.uniform(0.5, 2.0, convolution.output_shape)
    matrix = Geometry(image, (3, 3)).matrices(kernel[None])[0]
    square = reference(np.sqrt(weights.reshape(-1, 1)) * matrix) ** 2
    monkeypatch.setattr(Weighted, "_estimate", lambda *_: part * square)
    assert convolution.squared_norm_bound(weights) >= square * (1 - ORACLE)


@pytest.mark.parametrize(
    "changed",
    [
        {"padding": "circular"},
        {"dilation": (2, 1)},
        {"transposed": True},
        {"sizes": (None, 8)},
        {"kernel": np.ones((3, 3, 2, 2, 2))},
        {"kernel": np.ones((3, 1, 2, 2)), "strides": (1,), "dilation": (1,), "sizes": (8,)},
        {"sizes": (500, 500)},
    ],
)
def test_others_are_left_to_the_norm_of_the_whole(changed):
    fields = {
        "kernel": np.ones((3, 3, 1, 2, 2)),
        "strides": (1, 1),
        "dilation": (1, 1),
        "padding": "same",
        "sizes": (8, 8),
    }
    assert Weighted.of(Convolution(**fields)) is not None
    assert Weighted.of(Convolution(**{**fields, **changed})) is None
