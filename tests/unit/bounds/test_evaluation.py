"""The float64 evaluation behind the certificates: its error bounds hold, against NumPy alone."""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates import certify

KERNEL = np.random.default_rng(3).normal(size=(4, 3))


def sequential(*stack, shape=(5,)):
    return keras.Sequential([keras.Input(shape, dtype="float64"), *stack])


def evaluated(model, x):
    walk = LipschitzPropagation()
    walk.model(model)
    walk.unsupported.raise_if_any()
    return Float64Evaluator(model, walk)(x)


def float32(number):
    return float(np.float32(number))


def gelu(x, root):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / root))


# A layer, and what it computes with each number as written or rounded to float32.
WRITTEN = {
    "Rescaling": (
        lambda: layers.Rescaling(1 / 255, offset=-0.3, dtype="float64"),
        lambda x, kept: x * kept(1 / 255) + kept(-0.3),
    ),
    "Normalization": (
        lambda: layers.Normalization(mean=[0.3] * 5, variance=[0.1] * 5, dtype="float64"),
        lambda x, kept: (x - kept(0.3)) / math.sqrt(kept(0.1)),
    ),
    "ReLU": (
        lambda: layers.ReLU(max_value=0.7, negative_slope=0.1, dtype="float64"),
        lambda x, kept: np.where(x > 0, np.minimum(x, kept(0.7)), kept(0.1) * x),
    ),
    "LeakyReLU": (
        lambda: layers.LeakyReLU(negative_slope=0.3, dtype="float64"),
        lambda x, kept: np.where(x > 0, x, kept(0.3) * x),
    ),
    "leaky_relu": (
        lambda: layers.Activation("leaky_relu", dtype="float64"),
        lambda x, kept: np.where(x > 0, x, kept(0.2) * x),
    ),
    "gelu": (
        lambda: layers.Activation("gelu", dtype="float64"),
        lambda x, kept: gelu(x, kept(2**0.5)),
    ),
    "ELU": (
        lambda: layers.ELU(1.3, dtype="float64"),
        lambda x, kept: np.where(x > 0, x, 1.3 * np.expm1(x)),
    ),
}


@pytest.mark.parametrize("kept", [float, float32])
@pytest.mark.parametrize("name", WRITTEN)
def test_numbers_in_arguments_count_as_written_and_as_kept(name, kept, rng):
    layer, function = WRITTEN[name]
    x = rng.normal(size=(50, 5)) * 10.0 ** rng.integers(-3, 3, (50, 1))
    outputs, errors = evaluated(sequential(layer()), x)
    distance = np.linalg.norm(outputs - function(x, kept), axis=1)
    assert (distance <= errors).all()
    assert (errors < 1e-5 * (1 + np.linalg.norm(x, axis=1))).all()


def graph(function, shape=(2, 4)):
    x = keras.Input(shape, dtype="float64")
    return keras.Model(x, function(x))


def dense(**arguments):
    layer = layers.Dense(3, dtype="float64", **arguments)
    layer.build((None, 4))
    layer.set_weights([KERNEL, np.array([1.0, 2.0, 3.0])])
    return layer


def exported_pooling():
    pooling = lip.layers.ScaledL2NormPooling2D(2, dtype="float64")
    return lip.vanillaModel(sequential(pooling, shape=(4, 4, 2)))


def pooled(x):
    windows = x.reshape(len(x), 2, 2, 2, 2, 2)
    return np.sqrt(np.square(windows).sum(axis=(2, 4)))


def exported_centering():
    layer = lip.layers.LayerCentering(axis=-1, use_bias=False, dtype="float64")
    return lip.vanillaModel(sequential(layer, shape=(6,)))


def halves(x):
    first, second = ops.split(x, 2, axis=-1)
    return ops.maximum(first, 2.0 * second)


GRAPHS = {
    "time distributed": (
        lambda: graph(layers.TimeDistributed(dense(activation="relu"), dtype="float64")),
        lambda x: np.maximum(x @ KERNEL + [1, 2, 3], 0),
    ),
    "spectral normalization": (
        lambda: graph(layers.SpectralNormalization(dense(), dtype="float64"), (4,)),
        lambda x: x @ KERNEL + [1, 2, 3],
    ),
    "exported pooling": (exported_pooling, pooled),
    "exported centering": (
        exported_centering,
        lambda x: x - x.mean(axis=-1, keepdims=True),
    ),
    "split": (
        lambda: graph(halves, (6,)),
        lambda x: np.maximum(x[:, :3], 2.0 * x[:, 3:]),
    ),
    "cast": (
        lambda: graph(lambda x: ops.cast(ops.cast(x, "bfloat16"), "float64") - 0.5, (4,)),
        lambda x: x - 0.5,
    ),
    "tanh": (lambda: graph(ops.tanh, (4,)), np.tanh),
    "einsum": (
        lambda: graph(lambda x: ops.einsum("ab,bc->ac", x, KERNEL), (4,)),
        lambda x: x @ KERNEL,
    ),
    "einsum layer": (
        lambda: graph(layers.EinsumDense("abc,cd->ad", output_shape=3, dtype="float64")),
        None,
    ),
}


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e100])
@pytest.mark.parametrize("name", GRAPHS)
def test_calls_that_are_not_simple_layers(name, scale, rng):
    make, function = GRAPHS[name]
    model = make()
    if function is None:
        kernel = ops.convert_to_numpy(model.layers[-1].kernel)
        function = lambda x: x.sum(axis=1) @ kernel  # noqa: E731
    x = scale * rng.normal(size=(20, *model.input_shape[1:]))
    outputs, errors = evaluated(model, x)
    expected = function(x)
    assert outputs.shape == expected.shape
    distance = np.linalg.norm((outputs - expected).reshape(20, -1), axis=1)
    # the oracle rounds too
    assert (distance <= 2 * errors).all()
    sizes = (np.linalg.norm(values.reshape(20, -1), axis=1) for values in (x, expected))
    assert (errors <= 1e-9 * (1 + sum(sizes))).all()


def test_roots_of_squares_that_underflow():
    """1e-170 squared is 0 in float64: the norm is wrong by itself, and the bound says so."""
    x = np.full((1, 4, 4, 2), 1e-170)
    for model in (
        exported_pooling(),
        sequential(lip.layers.ScaledL2NormPooling2D(2, dtype="float64"), shape=(4, 4, 2)),
    ):
        outputs, errors = evaluated(model, x)
        assert 1e-171 < np.abs(outputs - 2e-170).max() <= errors[0] < 1e-140


def test_a_split_model_is_certified():
    x = keras.Input((6,), dtype="float64")
    model = keras.Model(x, layers.Dense(2, dtype="float64")(halves(x)))
    assert (certify(model, np.random.default_rng(0).normal(size=(9, 6))).radius > 0).all()


def exact_last_state(layer, sequence):
    """By rational numbers."""
    kernel, recurrent, bias = (np.vectorize(Fraction)(w) for w in layer.get_weights())
    state = 0 * bias
    for x in np.vectorize(Fraction)(sequence):
        state = x @ kernel + state @ recurrent + bias
    return state


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])  # states that shrink, stay and grow
def test_rounding_is_counted_through_time(factor, rng):
    layer = layers.SimpleRNN(3, activation=None, dtype="float64")
    model = sequential(layer, shape=(12, 2))
    recurrent = factor * np.linalg.qr(rng.normal(size=(3, 3)))[0]
    layer.set_weights([rng.normal(size=(2, 3)), recurrent, rng.normal(size=3)])
    x = rng.normal(size=(5, 12, 2))
    outputs, errors = evaluated(model, x)
    for sequence, output, error in zip(x, outputs, errors, strict=True):
        distance = np.vectorize(Fraction)(output) - exact_last_state(layer, sequence)
        assert 0 < sum(distance**2) <= Fraction(float(error)) ** 2
        assert error <= 1e-8 * np.linalg.norm(output)
