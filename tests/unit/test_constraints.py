"""Keras's exponential moving averages of weights, and the constraints that averages do not keep."""

from fractions import Fraction

import keras
import numpy as np
import pytest

from deel_lip_tf import LossVariableSequential, Sequential, constraints, layers, losses

EXACT = 1e-5
"""Rounding of a float32 projection."""


def trained(model, rng, loss="mse", **ema):
    model.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.6, **ema), loss)
    x = rng.normal(size=(64, 6))
    y = np.eye(4)[rng.integers(0, 4, 64)]
    model.fit(x, 3 * y, batch_size=16, epochs=2, verbose=0)
    return model


def constrained(constraint):
    return [keras.Input((6,)), keras.layers.Dense(4, kernel_constraint=constraint)]


def singular_values(kernel):
    return np.linalg.svd(np.asarray(kernel, "float64"), compute_uv=False)


def norm_of(constraint, kernel):
    """What the constraint bounds by 1."""
    if isinstance(constraint, constraints.WeightClipConstraint):
        return np.abs(kernel).max() / constraint.c
    return np.linalg.norm(kernel, 2)


ALL = [
    constraints.SpectralConstraint(),
    constraints.SpectralConstraint(eps_bjorck=None),
    constraints.FrobeniusConstraint(),
    constraints.WeightClipConstraint(0.1),
    constraints.AutoWeightClipConstraint(),
]


@pytest.mark.parametrize("frequency", [None, 3])
@pytest.mark.parametrize("constraint", ALL, ids=lambda one: type(one).__name__)
def test_models_of_this_library_end_within_the_constraint(constraint, frequency, rng):
    with pytest.warns(UserWarning, match="not a 1-Lipschitz layer"):  # a constraint is no promise
        model = Sequential(constrained(constraint))
    trained(model, rng, ema_overwrite_frequency=frequency)
    kernel = model.layers[-1].kernel.numpy()
    assert norm_of(constraint, kernel) <= 1 + EXACT
    if constraint is ALL[0]:
        np.testing.assert_allclose(singular_values(kernel), 1, atol=1e-3)


def test_a_plain_model_is_brought_back_by_one_call(rng):
    model = trained(keras.Sequential(constrained(constraints.SpectralConstraint())), rng)
    away = np.abs(singular_values(model.layers[-1].kernel) - 1).max()
    constraints.apply_constraints(model)
    back = np.abs(singular_values(model.layers[-1].kernel) - 1).max()
    assert back < 1e-3 < away
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        constraints.apply_constraints(model.layers[-1])


@pytest.mark.parametrize("frequency", [None, 3])
def test_layers_of_this_library_keep_their_bound(frequency, rng):
    model = Sequential([keras.Input((6,)), layers.SpectralDense(8), layers.SpectralDense(4)])
    trained(model, rng, ema_overwrite_frequency=frequency)
    x = np.eye(6, dtype="float32")
    matrix = np.asarray(model(x)) - np.asarray(model(0 * x))
    assert singular_values(matrix).max() <= 1 + EXACT


def test_learned_margins_end_in_their_interval(rng):
    loss = losses.MulticlassHKRauto(10.0, min_margin=0.2, max_margin=0.25, alpha_margin=0.5)
    model = LossVariableSequential([keras.Input((6,)), layers.SpectralDense(4)])
    trained(model, rng, loss)
    margins = loss.hinge_margins.numpy()
    assert (margins >= np.float32(0.2)).all() and (margins <= 0.25).all()


KERNELS = {
    "random": lambda rng: rng.normal(size=(5, 40)),
    "large": lambda rng: 1e30 * rng.normal(size=(5, 40)),
    "at the bound": lambda rng: np.full((5, 40), 0.025),
    "one entry": lambda rng: 7.0 * np.eye(5, 40),
    "small and zero": lambda rng: 1e-30 * np.outer([0, 1, 2, 0, 3], rng.normal(size=40)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", KERNELS)
def test_absolute_sums_do_not_exceed_the_constant(name, dtype, rng):
    """The sums are those of fractions: not one digit above."""
    largest = np.finfo(dtype).max / 50
    kernel = np.clip(KERNELS[name](rng), -largest, largest).astype(dtype)
    for constant in (1.0, 0.3):
        found = np.asarray(constraints.AbsoluteSumConstraint(constant)(kernel))
        sums = [sum(map(Fraction, np.abs(row).astype("float64"))) for row in found]
        assert found.dtype == kernel.dtype and max(sums) <= Fraction(constant)
        before = np.abs(kernel.astype("float64")).sum(axis=1)
        np.testing.assert_array_equal(
            found[before < 0.9 * constant], kernel[before < 0.9 * constant]
        )
        assert (np.array(sums, float)[before > constant] > 0.95 * constant).all()


def test_absolute_sums_keep_constants_that_are_below_the_normal_numbers():
    """1e-7 is 1.19e-7 in float16."""
    found = np.asarray(constraints.AbsoluteSumConstraint(1e-7)(np.array([[5.0]], "float16")))
    assert Fraction(float(found[0, 0])) <= Fraction(1e-7)


def test_absolute_sums_are_of_matrices():
    with pytest.raises(ValueError, match="for the kernel .*Received: a kernel of shape"):
        constraints.AbsoluteSumConstraint()(np.ones((3, 3, 1, 2)))
