"""The raw kernel is the effective one, and means the same at every scale."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import layers
from tests._oracles.tolerances import SOUND
from tests._tables.cases import CONSTRAINED, LAYERS, Case

# Updates leave kernels within 5e-5 of the manifold; then twice the rounding of float32.
ON_MANIFOLD = 1e-4
METHODS = [(case, case.make().parametrization) for case in CONSTRAINED]
KEPT = [case for case, method in METHODS if method.is_retracting and method.is_scale_free]
# Paddings change the factor alone: the last row of each class, and the first one.
CLASSES = {**{str(c.cls): c for c in reversed(KEPT)}, **{f"{c.cls} last": c for c in KEPT}}


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def assert_is_effective(layer):
    raw, effective = numpy(layer.kernel), numpy(layer.effective_kernel())
    assert np.abs(raw - effective).max() <= ON_MANIFOLD * np.abs(effective).max()


def updated(layer, rate=0.01):
    """After one step of Adam along a random gradient."""
    gradient = np.random.default_rng(0).normal(size=layer.kernel.shape)
    keras.optimizers.Adam(rate).apply([keras.ops.cast(gradient, "float32")], [layer.kernel])


@pytest.mark.parametrize("k", [0.3, 1000.0])
@pytest.mark.parametrize("case", CLASSES.values(), ids=str)
def test_the_raw_kernel_is_the_effective_one(case, k):
    """After building, after a change of the constant, after an update: what a user reads of it."""
    layer = case.make(k_coef_lip=2.0)
    layer.build((None, *case.shape))
    assert_is_effective(layer)
    before = numpy(layer.kernel)
    layer.set_klip_factor(k)
    np.testing.assert_allclose(layer.kernel, before * (k / 2.0), rtol=1e-6)
    updated(layer, rate=0.01 * k)
    assert np.abs(numpy(layer.kernel) - before * (k / 2.0)).max() > 1e-3 * k * np.abs(before).max()
    assert_is_effective(layer)


@pytest.mark.parametrize(
    ("initializer", "expected"),
    [("glorot_uniform", 4 * [1 / 3]), ("zeros", 4 * [0])],
)
def test_every_initial_kernel_is_the_effective_one(initializer, expected):
    layer = layers.SpectralConv2D(4, 3, kernel_initializer=initializer)
    layer.build((None, 8, 8, 2))
    values = np.linalg.svd(numpy(layer.kernel).reshape(-1, 4), compute_uv=False)
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_a_model_shares_its_constant_with_raw_kernels():
    stack = [keras.Input((6, 6, 2)), layers.SpectralConv2D(4, 3), layers.SpectralConv2D(2, 2)]
    model = lip.Sequential([*stack, keras.layers.Flatten()], k_coef_lip=9.0)
    model.add(layers.SpectralDense(3))
    for layer in model.layers:
        if isinstance(layer, layers.Condensable):
            assert_is_effective(layer)
            updated(layer)
            assert_is_effective(layer)
    # At once: such weights pass to plain Keras as they are.
    plain = model.vanilla_export()
    plain.set_weights(model.get_weights())
    assert lip.bounds.lipschitz_bound(plain).value <= 9 * SOUND


POWERS = [0.25, 4.0]
OTHERS = [1e-6, 0.37, 1e6]


@pytest.mark.parametrize("k", [0.01, 1.5, 1000.0])
@pytest.mark.parametrize("is_orthogonal", [True, False], ids=["orthogonal", "random"])
def test_a_raw_kernel_means_the_same_at_every_scale(k, is_orthogonal, rng):
    """Earlier versions kept it at scale 1."""
    layer = layers.SpectralConv2D(4, 3, k_coef_lip=k)
    layer.build((None, 8, 8, 2))
    if not is_orthogonal:
        layer.kernel.assign(k * rng.normal(size=layer.kernel.shape))
    raw, effective = numpy(layer.kernel), numpy(layer.effective_kernel())
    for scale in (3.0 / k, *POWERS, *OTHERS):
        layer.kernel.assign(scale * raw)
        found = numpy(layer.effective_kernel())
        np.testing.assert_allclose(found, effective, rtol=1e-4, atol=1e-5 * k)
        if scale in POWERS and k == 1.5:  # nothing is rounded
            np.testing.assert_array_equal(found, effective)


def test_condensed_kernels_are_the_effective_ones():
    frobenius = Case(layers.FrobeniusConv2D, dict(filters=3, kernel_size=3), (5, 5, 2))
    for case in (frobenius, *CLASSES.values()):
        layer = case.make(k_coef_lip=0.7)
        layer.build((None, *case.shape))
        layer.kernel.assign(5.0 * layer.kernel + 0.01)
        layer.condense()
        assert_is_effective(layer)


def test_a_constraint_of_the_users_own_is_left_alone():
    """Nothing retracts the kernel then, which begins as it is drawn."""
    constraint = keras.constraints.MaxNorm(7.0)
    layer = layers.SpectralDense(4, kernel_constraint=constraint, kernel_initializer="ones")
    layer.build((None, 3))
    assert layer.kernel.constraint is constraint
    np.testing.assert_array_equal(layer.kernel, np.ones((3, 4)))


@pytest.mark.parametrize("case", {case.cls: case for case in LAYERS}.values(), ids=str)
def test_a_layer_of_float64_computes_in_float64(case, rng):
    """Steps of 1e-9 move its output, and by no more than its constant allows.

    In float32 most of them would be lost, and others be 6e-8.
    """
    layer = case.make(dtype="float64")
    x = rng.normal(size=(2, *case.shape))
    step = 1e-9 * rng.normal(size=x.shape)
    before, after = (numpy(layer(point)).reshape(2, -1) for point in (x, x + step))
    lengths = np.linalg.norm(step.reshape(2, -1), axis=1)
    growth = np.linalg.norm(after - before, axis=1)
    assert (growth > 1e-3 * lengths).all()
    if layer.is_guaranteed:
        assert (growth <= layer.lipschitz_constant() * lengths * (1 + 1e-5)).all()
