"""The table of known constants, against dense grids, Jacobians and the layers' own arguments."""

import math

import keras
import numpy as np
import pytest
from keras import activations, layers

from deel_lip_tf.semantics.functions import activation_constant
from deel_lip_tf.semantics.rule import lipschitz_constant

TIGHT = 1e-6  # no constant of an elementwise function exceeds the true one by more than this share

ELEMENTWISE = [
    "linear", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "softplus", "softsign",
    "soft_shrink", "sparse_plus", "squareplus", "sigmoid", "sparse_sigmoid", "hard_sigmoid",
    "log_sigmoid", "tanh", "hard_tanh", "tanh_shrink", "silu", "hard_silu", "gelu", "mish",
]  # fmt: skip
# Everywhere; finely where slopes jump at their largest (0, and 3 for hard_silu); and far out, where
# squareplus at last reaches its limit slope.
GRIDS = [
    np.linspace(-60.0, 60.0, 2_400_001),
    np.linspace(-1e-4, 1e-4, 2001),
    np.linspace(2.9999, 3.0001, 2001),
    np.linspace(1e4, 1e4 + 1.0, 1001),
]
REFUSED = ["exponential", "glu", "hard_shrink", "threshold", "log_softmax"]


def jacobian(function, shape, points):
    """(outputs, inputs) matrices at random points, by central differences in float64."""
    rng = np.random.default_rng(0)
    for _ in range(points):
        x = rng.standard_normal(shape)
        steps = np.eye(x.size).reshape(-1, *shape) * 1e-5
        forward, backward = function(x + steps), function(x - steps)
        yield (forward - backward).reshape(x.size, -1).T / 2e-5


def call(layer):
    """The layer as a function of float64 arrays."""
    return lambda x: np.asarray(keras.ops.convert_to_numpy(layer(x)))


def matrix(layer, shape):
    """The dense matrix of an affine layer."""
    eye = np.eye(math.prod(shape)).reshape(-1, *shape)
    function = call(layer)
    return (function(eye) - function(np.zeros((1, *shape)))).reshape(len(eye), -1).T


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slope_of_every_elementwise_function(name):
    function, slopes = getattr(activations, name), []
    for grid in GRIDS:
        values = function(keras.ops.convert_to_tensor(grid))
        values = np.asarray(keras.ops.convert_to_numpy(values))
        assert values.dtype == np.float64
        # Keras computes `exp(x) - 1` with an absolute error of a few u.
        rounding = 8 * 2.0**-53 * max(np.abs(values).max(), 1.0) / (grid[1] - grid[0])
        slopes.append(np.abs(np.diff(values) / np.diff(grid)).max() - rounding)
    constant = activation_constant(function)
    assert max(slopes) <= constant <= max(slopes) * (1 + TIGHT)


def test_softmax_reaches_one_half():
    function = call(layers.Softmax(dtype="float64"))
    norms = [np.linalg.norm(j, 2) for j in jacobian(function, (4,), 200)]
    assert max(norms) <= activation_constant(activations.softmax) == 0.5
    p = np.array([0.5, 0.5])
    assert np.linalg.norm(np.diag(p) - np.outer(p, p), 2) == 0.5


@pytest.mark.parametrize("name", REFUSED)
def test_functions_without_a_constant(name):
    assert activation_constant(getattr(activations, name)) is None


def test_unknown_functions_and_subclasses():
    class Doubled(layers.ReLU):
        def call(self, inputs):
            return 2 * super().call(inputs)

    assert activation_constant(lambda x: x) is None
    assert lipschitz_constant(Doubled()) is None
    assert lipschitz_constant(layers.Activation(lambda x: 3 * x)) is None
    assert activation_constant(layers.LeakyReLU(3.0)) >= 3.0
    assert activation_constant(None) == 1.0


AFFINE = [
    (layers.AveragePooling1D(3, 2, padding="same"), (n, 1)) for n in range(1, 10)
] + [
    (layers.AveragePooling1D(4, 1, padding="same"), (n, 1)) for n in range(1, 12)
] + [
    (layers.AveragePooling1D(4, 3, padding="valid"), (n, 2)) for n in range(4, 12)
] + [
    (layers.AveragePooling2D(2), (6, 6, 2)),
    (layers.AveragePooling2D((3, 2), (1, 2), padding="same"), (5, 4, 1)),
    (layers.GlobalAveragePooling2D(), (3, 5, 2)),
    (layers.GlobalAveragePooling1D(), (7, 2)),
    (layers.ZeroPadding2D(2), (3, 3, 1)),
    (layers.Cropping2D(1), (4, 4, 2)),
    (layers.UpSampling2D((2, 3)), (2, 3, 2)),
    (layers.UpSampling1D(3), (2, 3)),
    (layers.RepeatVector(5), (4,)),
    (layers.Flatten(), (2, 3)),
    (layers.Permute((2, 1)), (2, 3)),
    (layers.Rescaling([0.5, -2.0], offset=1.0), (3, 2)),
    (layers.Normalization(mean=[1.0, 2.0], variance=[0.25, 9.0]), (3, 2)),
    (layers.Normalization(mean=[1.0, 2.0], variance=[0.25, 9.0], invert=True), (3, 2)),
    (layers.Dropout(0.5), (6,)),
    (layers.GaussianNoise(1.0), (6,)),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shape"), AFFINE, ids=lambda v: getattr(v, "name", str(v)))
def test_affine_layers_against_their_matrix(layer, shape):
    copy = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
    copy.build((None, *shape))
    norm = np.linalg.norm(matrix(copy, shape), 2)
    known, generic = lipschitz_constant(copy, (None, *shape)), lipschitz_constant(copy)
    assert norm <= known * (1 + 1e-13)  # the rounding of the oracle
    assert known <= generic
    if not isinstance(layer, layers.AveragePooling1D | layers.AveragePooling2D):
        assert known <= norm * (1 + 1e-6)


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize(("pool", "stride"), [(2, 1), (3, 1), (3, 2), (5, 2), (2, 3), (4, 4)])
def test_average_pooling_of_unknown_size_covers_every_size(pool, stride, size):
    layer = layers.AveragePooling1D(pool, stride, padding="same", dtype="float64")
    assert np.linalg.norm(matrix(layer, (size, 1)), 2) <= lipschitz_constant(layer) * (1 + 1e-13)


def test_average_pooling_is_exact_without_overlap():
    assert lipschitz_constant(layers.AveragePooling2D(2)) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("pool", "stride", "expected"), [(2, 2, 1.0), (3, 1, 3.0), (3, 2, 2.0), (2, 3, 1.0)]
)
def test_max_pooling_is_reached_by_one_pixel(pool, stride, expected):
    layer = layers.MaxPooling2D(pool, stride, dtype="float64")
    one_pixel = np.eye(49).reshape(49, 7, 7, 1)
    outputs = call(layer)(one_pixel).reshape(49, -1)
    assert np.linalg.norm(outputs, axis=1).max() == lipschitz_constant(layer) == expected


def test_layers_whose_constant_depends_on_their_arguments():
    assert lipschitz_constant(layers.ReLU(threshold=1.0)) is None
    assert lipschitz_constant(layers.ReLU(negative_slope=0.5, max_value=6)) == 1.0
    assert 2.0 <= lipschitz_constant(layers.ELU(alpha=2.0)) < 2.000001
    assert lipschitz_constant(layers.UpSampling2D(2, interpolation="bilinear")) is None
    assert lipschitz_constant(layers.Softmax(axis=0)) is None
    assert lipschitz_constant(layers.Softmax(axis=-2)) is None
    assert lipschitz_constant(layers.Softmax(axis=-2), (None, 3, 4)) == 0.5
    assert lipschitz_constant(layers.Softmax(axis=-2), (None, 3)) is None


@pytest.mark.parametrize(
    "layer", [layers.LayerNormalization(), layers.UnitNormalization(), layers.Masking()]
)
def test_layers_without_a_constant(layer):
    layer.build((None, 3, 4))
    assert lipschitz_constant(layer) is None


def test_layers_with_state():
    batch = layers.BatchNormalization(epsilon=0.01)
    prelu = layers.PReLU()
    assert lipschitz_constant(batch) is None
    assert lipschitz_constant(prelu) is None
    batch.build((None, 2))
    batch.set_weights(np.array([[-3.0, 1.0], [0.0, 0.0], [5.0, 5.0], [0.24, 0.99]]))
    assert lipschitz_constant(batch) == pytest.approx(3.0 / 0.5, rel=1e-6)
    assert lipschitz_constant(batch) >= np.abs(matrix(batch, (2,))).max()
    prelu.build((None, 2))
    prelu.set_weights(np.array([[-2.5, 0.5]]))
    assert lipschitz_constant(prelu) == pytest.approx(2.5, rel=1e-6)
