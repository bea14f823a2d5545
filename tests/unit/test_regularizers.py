"""The penalties against dense matrices in float64, and through training."""

import itertools
import warnings

import keras
import numpy as np
import pytest

from deel_lip_tf import layers, regularizers
from tests._oracles import oracles
from tests._oracles.tolerances import GRADIENT

# rows, columns, inputs, outputs, stride: row orthogonal, column orthogonal, square.
SHAPES = [
    (3, 3, 4, 2, 1),
    (3, 3, 2, 5, 1),
    (3, 3, 3, 3, 1),
    (5, 3, 2, 3, 1),
    (3, 3, 2, 5, 2),
    (3, 3, 1, 6, 2),
    (3, 3, 2, 8, 2),
    (5, 5, 2, 7, 3),
    (1, 1, 4, 3, 1),
]


def lorth(shape, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return regularizers.Lorth2D(shape[:4], shape[4], **kwargs)


def circular_matrix(kernel, stride, outputs):
    """The convolution of an image of `stride * outputs` pixels that goes round, by its matrix."""
    size = stride * outputs
    k = kernel.shape[0], kernel.shape[1]

    def convolution(x):
        y = np.zeros((len(x), outputs, outputs, kernel.shape[-1]))
        for i, j, a, b in itertools.product(*map(range, (outputs, outputs, *k))):
            pixel = x[:, (stride * i + a) % size, (stride * j + b) % size]
            y[:, i, j] += pixel @ kernel[a, b]
        return y

    return oracles.matrix_of(convolution, (size, size, kernel.shape[2]))


def penalty_of_matrix(matrix, positions):
    """`||A A' - I||**2`, or `||A' A - I||**2` on the smaller side, per output position."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return np.sum((gram - np.eye(len(gram))) ** 2) / positions


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lorth_is_the_distance_of_the_operator(shape, rng):
    kernel = 0.3 * rng.normal(size=shape[:4])
    # Large enough that a patch does not meet itself when it goes round.
    outputs = 2 * ((max(shape[:2]) - 1) // shape[4]) + 2
    expected = penalty_of_matrix(circular_matrix(kernel, shape[4], outputs), outputs**2)
    assert float(lorth(shape).compute_lorth(kernel)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_alpha_bounds_the_singular_values(shape, rng):
    for scale in (0.05, 0.3, 2.0):
        kernel = scale * rng.normal(size=shape[:4])
        penalty = lorth(shape)
        values = oracles.singular_values(circular_matrix(kernel, shape[4], 6))
        limit = np.sqrt(penalty.alphaNormSpectral * float(penalty.compute_lorth(kernel)))
        assert np.abs(values**2 - 1).max() <= limit * (1 + 1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_kernel_is_that_of_the_adjoint(stride, rng):
    layer = keras.layers.Conv2DTranspose(5, 3, stride)
    layer.build((None, 6, 6, 2))
    kernel = rng.normal(size=layer.kernel.shape)
    adjoint = regularizers.Lorth2D(stride=stride)
    transposed = regularizers.Lorth2D(stride=stride, conv_transpose=True)
    assert float(transposed.compute_lorth(kernel)) == float(adjoint.compute_lorth(kernel))
    matrix = circular_matrix(kernel, stride, 6).T
    expected = penalty_of_matrix(matrix, 36)
    assert float(transposed.compute_lorth(kernel)) == pytest.approx(expected, rel=1e-10)


def test_orthogonal_kernels_have_no_penalty(rng):
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    kernel = np.zeros((3, 3, 4, 4))
    kernel[1, 1] = rotation
    for shift in ((1, 1), (0, 2)):
        moved = np.roll(kernel, (shift[0] - 1, shift[1] - 1), axis=(0, 1))
        assert float(lorth((3, 3, 4, 4, 1)).compute_lorth(moved)) == pytest.approx(0, abs=1e-12)
    down = np.zeros((3, 3, 1, 4))
    for channel, (i, j) in enumerate(itertools.product(range(2), range(2))):
        down[i, j, 0, channel] = 1
    assert float(lorth((3, 3, 1, 4, 2)).compute_lorth(down)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (3, 3, 2, 5)], ids=str)
def test_dense_penalty_is_on_the_smaller_side(shape, rng):
    kernel = rng.normal(size=shape)
    values = oracles.singular_values(kernel.reshape(-1, shape[-1]))
    expected = 2.5 * np.sum((values**2 - 1) ** 2)
    assert float(regularizers.OrthDenseRegularizer(2.5)(kernel)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("penalty", "shape"),
    [
        (regularizers.LorthRegularizer(stride=2, lambda_lorth=0.7), (3, 3, 2, 5)),
        (regularizers.OrthDenseRegularizer(0.7), (4, 3)),
    ],
)
def test_gradients_are_those_of_finite_differences(penalty, shape, rng, tf):
    kernel = rng.normal(size=shape)
    variable = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        value = penalty(variable)
    expected = oracles.jacobian(lambda x: np.array([float(penalty(x))]), kernel).reshape(shape)
    gradient = tape.gradient(value, variable).numpy()
    assert np.linalg.norm(gradient - expected) <= GRADIENT * np.linalg.norm(expected)


MODELS = {
    "convolution": lambda r: keras.layers.Conv2D(3, 3, kernel_regularizer=r, use_bias=False),
    "pad": lambda r: layers.PadConv2D(
        3, 3, padding="circular", kernel_regularizer=r, use_bias=False
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_training_with_the_penalty_makes_the_convolution_orthogonal(name, rng, tmp_path):
    layer = MODELS[name](regularizers.LorthRegularizer(lambda_lorth=10.0))
    model = keras.Sequential([keras.Input((6, 6, 4)), layer])
    x = rng.normal(size=(16, 6, 6, 4)).astype("float32")
    y = 0.01 * rng.normal(size=model(x).shape)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    before = float(layer.losses[0])
    model.fit(x, y, epochs=150, batch_size=16, verbose=0)
    assert float(layer.losses[0]) < 1e-2 * before
    matrix = circular_matrix(keras.ops.convert_to_numpy(layer.kernel).astype(float), 1, 6)
    np.testing.assert_allclose(oracles.singular_values(matrix), 1, atol=0.1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").layers[0].kernel_regularizer
    assert again.get_config() == layer.kernel_regularizer.get_config()


@pytest.mark.parametrize(
    "penalty",
    [
        regularizers.LorthRegularizer([3, 3, 2, 4], 1, 0.5, conv_transpose=True),
        regularizers.LorthRegularizer(),
        regularizers.OrthDenseRegularizer(3),
    ],
)
def test_configurations_round_trip(penalty):
    again = keras.regularizers.deserialize(keras.regularizers.serialize(penalty))
    assert type(again) is type(penalty)
    assert again.get_config() == penalty.get_config()


def test_low_precision_kernels_are_penalised_in_float32(rng):
    kernel = rng.normal(size=(3, 3, 2, 4)).astype("float32")
    low = keras.ops.cast(kernel, "bfloat16")
    for penalty in (regularizers.LorthRegularizer(), regularizers.OrthDenseRegularizer()):
        value = penalty(low)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        wide = penalty(keras.ops.cast(low, "float32"))
        assert float(value) == float(wide)


def test_a_square_configuration_is_warned_of():
    with pytest.warns(UserWarning, match="hard to optimize"):
        regularizers.LorthRegularizer((3, 3, 2, 8), stride=2)
