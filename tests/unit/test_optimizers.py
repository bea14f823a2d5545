"""Steepest descent on the manifold: its direction, its angle, what it leaves to Adam, its files."""

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip
from deel_lip_tf.optimizers import StiefelMuon, _even


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shape", [(5, 5), (40, 7), (7, 40), (3, 6, 4)])
def test_a_direction_has_the_singular_vectors_of_the_gradient_and_even_values(shape, scale):
    gradient = np.random.default_rng(0).normal(size=shape)
    even = ops.convert_to_numpy(_even(ops.convert_to_tensor((scale * gradient).astype("float32"))))
    left, values, right = np.linalg.svd(gradient, full_matrices=False)
    cores = np.swapaxes(left, -1, -2) @ even @ np.swapaxes(right, -1, -2)
    diagonals = np.diagonal(cores, axis1=-2, axis2=-1)
    assert np.allclose(cores, diagonals[..., None] * np.eye(values.shape[-1]), atol=1e-4)
    assert diagonals.min() > 0.65 and diagonals.max() < 1.25


def test_no_gradient_is_no_direction():
    assert not np.any(np.asarray(_even(ops.zeros((4, 3)))))


LAYERS = {
    "dense": (lambda: lip.layers.SpectralDense(6), (6,)),
    "dense, of another constant": (
        lambda: lip.layers.SpectralDense(6, k_coef_lip=3.0),
        (9,),
    ),
    "convolution": (lambda: lip.layers.SpectralConv2D(4, 3), (6, 6, 4)),
    "depthwise": (lambda: lip.layers.SpectralDepthwiseConv2D(3), (6, 6, 4)),
    "orthogonal convolution": (lambda: lip.layers.AOCConv2D(4, 3), (6, 6, 4)),
}


def singular_values(retraction, weight):
    """Of every matrix that is kept orthogonal, by NumPy."""
    found = []

    def noted(matrix):
        found.append(np.linalg.svd(ops.convert_to_numpy(matrix), compute_uv=False).ravel())
        return matrix

    retraction.on_matrices(noted, ops.convert_to_tensor(weight))
    return np.concatenate(found)


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_turns_a_kernel_by_the_learning_rate(name):
    make, shape = LAYERS[name]
    keras.utils.set_random_seed(0)
    model = lip.Sequential([keras.Input(shape), make()])
    model.compile(StiefelMuon(0.01, momentum=0.0), "mse")
    kernels = [one for one in model.trainable_variables if one.constraint is not None]
    rng = np.random.default_rng(1)
    batch = (rng.normal(size=(64, *shape)), rng.normal(size=(64, *model.output_shape[1:])))
    model.train_on_batch(*batch)  # some kernels are drawn off the manifold
    before = [ops.convert_to_numpy(kernel) for kernel in kernels]
    model.train_on_batch(*batch)
    for kernel, old in zip(kernels, before, strict=True):
        scale = singular_values(kernel.constraint, kernel)
        assert np.allclose(scale, scale[0], rtol=1e-3)  # on the manifold
        turned = singular_values(kernel.constraint, kernel - old) / scale[0]
        assert 0.6 * 0.01 < turned.max() < 1.3 * 0.01


def trained(model, optimizer, steps):
    model.compile(optimizer, "mse")
    rng = np.random.default_rng(0)
    for _ in range(steps):
        model.train_on_batch(rng.normal(size=(8, 4)), rng.normal(size=(8, 3)))
    return model


def test_plain_kernels_and_biases_are_left_to_adam():
    models = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    trained(models[0], StiefelMuon(0.1, adam_ratio=0.02), 5)
    trained(models[1], keras.optimizers.Adam(0.002), 5)
    for ours, theirs in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)


def test_training_goes_on_from_a_file_as_if_nothing_had_happened(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [lip.layers.SpectralDense(6), lip.layers.GroupSort2(), lip.layers.SpectralDense(3)]
    model = trained(lip.Sequential([keras.Input((4,)), *layers]), StiefelMuon(0.05), 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    rng = np.random.default_rng(2)
    batch = (rng.normal(size=(8, 4)), rng.normal(size=(8, 3)))
    for one in (model, loaded):
        one.train_on_batch(*batch)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)


def test_what_is_proven_of_a_layer_does_not_depend_on_the_steps():
    model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(3)])
    trained(model, StiefelMuon(100.0), 3)
    kernel = ops.convert_to_numpy(model.layers[-1].effective_kernel()).astype("float64")
    assert np.linalg.norm(kernel, 2) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"momentum": 1.0}, "`momentum` must be"), ({"adam_ratio": -1.0}, "`adam_ratio` must not")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        StiefelMuon(**arguments)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_what_has_no_gradient_stays_and_what_has_one_moves_in_every_type(dtype):
    """The bias of a unit that is never active, say."""
    variable = keras.Variable(np.ones(2), dtype=dtype)
    optimizer = lip.optimizers.StiefelMuon(0.5, adam_ratio=1.0)
    optimizer.apply([keras.ops.convert_to_tensor([0.0, 1.0], dtype)], [variable])
    found = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
    np.testing.assert_allclose(found, [1.0, 0.5], rtol=1e-2)
