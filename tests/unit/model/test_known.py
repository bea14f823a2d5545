"""Steps of training take a kernel for orthogonal where its numbers say so, and no other one."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.normalizers.polar import dense_product
from deel_lip_tf.normalizers.polar.factor import retracted_and_known
from deel_lip_tf.normalizers.polar.inverse_root import KNOWN_ERROR
from deel_lip_tf.normalizers.polar.known import KnownKernel, factor_of_known
from tests._oracles.oracles import polar, singular_values
from tests._oracles.tolerances import SOUND

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends prove it in each step"
)
BATCH = 8
# What rounding leaves of the small kernels here, with room for the sums over them.
ROUNDING = 1e-4


@pytest.fixture(autouse=True)
def small_kernels_too(monkeypatch):
    monkeypatch.setattr(dense_product, "SMALLEST_SPLIT", 2)


def network(make=lip.Sequential, rate=1e-3, **arguments):
    keras.utils.set_random_seed(1)
    hidden = [lip.layers.SpectralDense(units, k_coef_lip=2.0) for units in (6, 6, 9)]
    model = make([keras.Input((8,)), *hidden])
    for layer in hidden:  # this library's shares out a constant of its own
        layer.set_klip_factor(2.0)
    model.compile(keras.optimizers.Adam(rate), "mse", **arguments)
    return model, hidden


def batches(rng):
    return rng.normal(size=(4 * BATCH, 8)), rng.normal(size=(4 * BATCH, 9))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"steps_per_execution": 3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kernels_and_losses_are_those_of_steps_that_know_nothing(arguments, rng, tf):
    x, y = batches(rng)
    found = []
    for make in (keras.Sequential, lip.Sequential):
        model, hidden = network(make, **arguments)
        history = model.fit(x, y, batch_size=BATCH, epochs=5, verbose=0, shuffle=False)
        found.append([*model.get_weights(), history.history["loss"]])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING)
    known = model._known_kernels._known
    assert all(known[layer].is_known(tf.convert_to_tensor(layer.kernel)) for layer in hidden)


ASSIGNED = {
    "another one": lambda rng, kernel: rng.normal(size=kernel.shape),
    "one number": lambda rng, kernel: kernel + (kernel == kernel[-1, 0]),
    "a multiple": lambda rng, kernel: 3 * kernel,
    "huge": lambda rng, kernel: 1e30 * rng.normal(size=kernel.shape),
    "zero": lambda rng, kernel: 0 * kernel,
}


def test_no_assignment_goes_unnoticed(rng):
    x, y = (part[:BATCH] for part in batches(rng))
    model, hidden = network(rate=1e-6)
    for name, assigned in ASSIGNED.items():
        for _ in range(2):
            model.train_on_batch(x, y)
        for layer in hidden:
            layer.kernel.assign(assigned(rng, np.asarray(layer.kernel)))
        expected = np.mean((model.vanilla_export()(x) - y) ** 2)
        np.testing.assert_allclose(
            model.train_on_batch(x, y), expected, rtol=ROUNDING, err_msg=name
        )
    hidden[1].set_klip_factor(0.5)
    expected = np.mean((model.vanilla_export()(x) - y) ** 2)
    np.testing.assert_allclose(model.train_on_batch(x, y), expected, rtol=ROUNDING)


@pytest.mark.parametrize("shape", [(40, 40), (30, 50), (90, 20)], ids=str)
def test_what_is_known_is_true(shape, rng, tf):
    """From far away nothing is known; whatever is, no singular value is above the factor's."""
    factor = polar(rng.normal(size=shape))
    retract = tf.function(lambda kernel: retracted_and_known(kernel, 1e-3, 15), autograph=False)
    found = []
    for distance in (0, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 1, 1e3):
        kernel = factor + distance * rng.normal(size=shape) / max(shape) ** 0.5
        result, is_known = retract(kernel.astype("float32"))
        values = singular_values(np.asarray(result, np.float64))
        assert values.max() <= SOUND
        found.append(bool(is_known))
        if is_known:
            assert values.max() <= (1 + KNOWN_ERROR) * values.min(), distance
    assert found[:5] == [True] * 5
    assert not found[-1]
    for singular in (0 * factor, np.outer(factor[:, 0], factor[0]), np.nan * factor):
        assert not retract(singular.astype("float32"))[1]


@pytest.mark.parametrize("shape", [(8, 8), (90, 20)], ids=str)
def test_the_factor_of_what_is_known_has_no_norm_above_1(shape, rng):
    """Where one singular value is as far above all others as it may be."""
    u, values, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values[:] = 3.0
    values[0] *= 1 + KNOWN_ERROR
    found = singular_values(np.asarray(factor_of_known((u * values @ v).astype("float32")), float))
    assert found.min() > 1 - 4 * KNOWN_ERROR and found.max() <= 1


def test_what_is_not_a_number_is_not_known(tf):
    kernel = tf.Variable([[np.nan, 0.0], [0.0, 1.0]])
    known = KnownKernel(kernel)
    known.remember(kernel, True)
    assert not known.is_known(kernel)


def test_a_class_of_others_is_left_alone(rng):
    class Theirs(lip.Sequential):
        """It may keep what it has traced."""

    model, hidden = network(Theirs)
    model.train_on_batch(*(part[:BATCH] for part in batches(rng)))
    assert hidden[0] not in model._known_kernels._known


def test_numbers_alone_do_not_make_a_kernel_known(rng):
    """What a retraction left may be far from orthogonal, as nothing at all is."""
    kernel = keras.Variable(np.zeros((3, 2), "float32"))
    known = KnownKernel(kernel)
    assert not bool(known.is_known(kernel))
    for numbers, is_orthogonal in ((rng.normal(size=(3, 2)), False), (np.eye(3, 2), True)):
        kernel.assign(numbers)
        known.remember(kernel, is_orthogonal)
        assert bool(known.is_known(kernel)) is is_orthogonal
        assert not bool(known.is_known(kernel + 1e-6))
