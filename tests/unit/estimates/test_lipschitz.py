"""Estimates from below: exact for linear models, never above what is proven."""

import keras
import numpy as np
import pytest
from keras import layers as k

import deel_lip_tf as lip
from deel_lip_tf import layers, losses
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.utils import (
    evaluate_lip_const,
    evaluate_lip_const_gen,
    l2_normalize,
    process_labels_for_multi_gpu,
)
from tests._oracles.oracles import jacobian, matrix_of, spectral_norm

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

TYPES = ("jacobian_norm", "noise_norm", "attack")

# What a float64 quotient of differences of size `eps` loses.
ROUNDING = 1 + 1e-9


def linear_model():
    model = keras.Sequential([keras.Input((4, 3)), k.Dense(5), k.Flatten(), k.Dense(6)])
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(3).standard_normal(variable.shape))
    return model


def matrix(model, shape=(4, 3)):
    origin = np.asarray(model(np.zeros((1, *shape))), np.float64)
    return matrix_of(lambda x: np.asarray(model(x), np.float64) - origin, shape)


def lipschitz_model(**kwargs):
    return lip.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.SpectralConv2D(6, 3, padding="reflect"),
            layers.GroupSort2(),
            layers.ScaledL2NormPooling2D(2),
            keras.layers.Flatten(),
            layers.SpectralDense(8, activation=layers.FullSort()),
            layers.SpectralDense(3),
        ],
        **kwargs,
    )


class OwnCall(keras.Model):
    """No graph: evaluated as it is, in float32."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize("name", ["jacobian_norm", "attack"])
def test_exact_for_linear_models(name, rng):
    model = linear_model()
    x = rng.standard_normal((3, 4, 3))
    expected = spectral_norm(matrix(model))
    found = evaluate_lip_const(model, x, seed=1, evaluation_type=name)
    # the matrix of the oracle comes from a float32 model
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["jacobian_norm", "attack"])
def test_disjoint_neurons_take_the_largest_output(name, rng):
    model = linear_model()
    x = rng.standard_normal((3, 4, 3))
    found = evaluate_lip_const(model, x, seed=1, evaluation_type=name, disjoint_neurons=True)
    expected = np.linalg.norm(matrix(model), axis=1).max()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_noise_is_between_nothing_and_the_norm(rng):
    model = linear_model()
    x = rng.standard_normal((3, 4, 3))
    found = evaluate_lip_const(model, x, seed=1, evaluation_type="noise_norm")
    largest = spectral_norm(matrix(model))
    assert 0.2 * largest < found < largest
    more = evaluate_lip_const(
        model, x, seed=1, evaluation_type="noise_norm", num_noisy_samples=200, epsilon_noise=0.1
    )
    assert found < more < largest


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("k_coef_lip", [1.0, 0.3])
def test_never_above_the_proven_bound(name, k_coef_lip, rng):
    model = lipschitz_model(k_coef_lip=k_coef_lip)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
    x = rng.standard_normal((8, 6, 6, 2))
    found = evaluate_lip_const(
        model, x, seed=0, evaluation_type=name, num_iterations=20, double_attack=True
    )
    assert 0.01 * k_coef_lip < found <= lipschitz_bound(model).value * ROUNDING


def test_the_jacobian_of_a_nonlinear_model(rng):
    model = keras.Sequential(
        [keras.Input((5,), dtype="float64"), k.Dense(7, "tanh", dtype="float64")]
    )
    x = rng.standard_normal((2, 5))
    expected = [jacobian(lambda p: model(p[None]).numpy(), sample) for sample in x]
    found = evaluate_lip_const(model, x)
    np.testing.assert_allclose(found, max(map(spectral_norm, expected)), rtol=1e-6)


def test_the_attack_finds_more_than_noise_and_seeds_repeat_it(rng):
    model = lipschitz_model()
    x = rng.standard_normal((4, 6, 6, 2))

    def found(name, seed=0):
        return evaluate_lip_const(model, x, seed=seed, evaluation_type=name, num_iterations=15)

    noise, attack, jacobian_norm = found("noise_norm"), found("attack"), found("jacobian_norm")
    assert noise < attack <= jacobian_norm * 1.01
    assert attack == found("attack") != found("attack", seed=1)
    assert found("all") == max(jacobian_norm, attack, noise)


def test_a_model_of_its_own_call_is_evaluated_in_float32(rng):
    model = OwnCall()
    x = rng.standard_normal((3, 6)).astype("float32")
    model(x)
    expected = spectral_norm(model.dense.kernel)
    for name in ("jacobian_norm", "attack"):
        found = evaluate_lip_const(model, x, seed=0, evaluation_type=name)
        np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize(
    "layer",
    [
        k.Lambda(lambda x: 2 * x),
        k.Activation(lambda x: 2 * x),
        k.Normalization(mean=0.0, variance=0.25),
        k.BatchNormalization(moving_variance_initializer=keras.initializers.Constant(0.249)),
        k.Activation(k.ReLU()),
    ],
    ids=["Lambda", "function", "Normalization", "BatchNormalization", "layer"],
)
def test_layers_of_all_kinds(layer, rng):
    model = keras.Sequential([keras.Input((6,)), layer])
    expected = 1 if isinstance(getattr(layer, "activation", None), k.ReLU) else 2
    found = evaluate_lip_const(model, rng.standard_normal((2, 6)))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_adapted_statistics_reach_the_float64_copy(rng):
    layer = k.Normalization()
    layer.adapt(5 * rng.standard_normal((500, 2)))
    model = keras.Sequential([keras.Input((2,)), layer])
    found = evaluate_lip_const(model, np.zeros((1, 2)))
    np.testing.assert_allclose(found, 1 / np.sqrt(np.min(layer.variance)), rtol=1e-6)


def test_the_model_is_not_changed(rng):
    model = lipschitz_model()
    before = model.get_weights()
    x = rng.standard_normal((2, 6, 6, 2))
    evaluate_lip_const(model, x, evaluation_type="all", num_iterations=2, double_attack=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("batch", [lambda x: x, lambda x: (x, 0), lambda x: [x, 0, 0]])
def test_the_first_batch_of_a_generator(batch, rng):
    x = rng.standard_normal((2, 4, 3))
    generator = (batch(part) for part in (x, np.full_like(x, np.nan)))
    model = linear_model()
    assert evaluate_lip_const_gen(model, generator) == evaluate_lip_const(model, x)


def test_samples_can_be_drawn():
    model = linear_model()
    found = evaluate_lip_const(model, input_shape=(3, 4, 3), seed=0)
    np.testing.assert_allclose(found, spectral_norm(matrix(model)), rtol=1e-5)
    with pytest.raises(ValueError, match="expected_value"):
        evaluate_lip_const(model, input_shape=(3, 4, 3), expected_value=0.99 * found)
    evaluate_lip_const(model, input_shape=(3, 4, 3), expected_value=1.01 * found)


def test_small_helpers(rng):
    x = rng.standard_normal((3, 4))
    x[1] = 0
    expected = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(l2_normalize(keras.ops.convert_to_tensor(x), axis=1), expected)
    assert process_labels_for_multi_gpu is losses.process_labels_for_multi_gpu
