"""Maps in parts without negative coefficients, and differences of two maps."""

import numpy as np
import pytest

from deel_lip_tf.semantics.ir.arrays import NUMPY
from deel_lip_tf.semantics.ir.primitives import (
    AxisProducts,
    Centering,
    Conv,
    Diagonal,
    Gather,
    MatMul,
    Scale,
)
from deel_lip_tf.semantics.ir.signs import SMALLEST, is_same, map_difference, signed_parts

MAPS = [
    (MatMul(np.array([[1.0, -2.0], [0.0, 3.0], [-1.0, 0.5]])), (3,)),
    (Diagonal(np.array([[1.0, -2.0, 0.0]])), (3,)),
    (Scale(-1.5), (3,)),
    (Scale(0.0), (3,)),
    (Centering((1,), 2.0), (3,)),
    (Centering((1, 2), -0.5), (3, 2)),
    (
        AxisProducts((np.array([[1.0, -1.0], [2.0, 0.5]]), None, np.array([[1.0], [-3.0]]))),
        (2, 2, 2),
    ),
    (Conv(np.arange(-4.0, 5.0).reshape(3, 1, 3, 1), (1,), (1,), ((1, 1),), (5,)), (5, 3)),
    (Gather((np.array([0, 0, -1, 2]),)), (3,)),
]


@pytest.mark.parametrize(("linear", "shape"), MAPS, ids=lambda one: type(one).__name__)
def test_parts_are_not_negative_and_make_up_the_map(linear, shape):
    size = int(np.prod(shape))
    eye = np.eye(size).reshape(size, *shape)
    positive, negative = signed_parts(linear, shape)
    images = [[one.apply(NUMPY, [eye]) for one in part] for part in (positive, negative)]
    whole = linear.apply(NUMPY, [eye])
    assert all((image >= 0).all() for part in images for image in part)
    total = sum(images[0], np.zeros_like(whole)) - sum(images[1], np.zeros_like(whole))
    np.testing.assert_allclose(total, whole, atol=1e-15)
    assert is_same(linear, linear)


def test_differences_of_maps():
    first, second = MatMul(np.eye(2)), MatMul(np.ones((2, 2)))
    assert map_difference(first, second).matrix.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert map_difference(first, Scale(1.0)) is None
    assert map_difference(first, MatMul(np.ones((2, 3)))) is None
    assert map_difference(Scale(1.0), Scale(3.0)).factor == 2.0
    assert map_difference(first, MatMul(np.eye(2))).factor == 0.0
    assert np.isnan(signed_parts(MatMul(np.full((1, 1), 0.5 * SMALLEST)), (1,))[0][0].matrix).all()
