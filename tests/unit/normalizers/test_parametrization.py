import itertools

import keras
import numpy as np
import pytest

from deel_lip_tf import constraints, initializers
from deel_lip_tf.normalizers import (
    AOL,
    BRO,
    Cayley,
    Frobenius,
    Spectral,
    UnitFrobenius,
    max_duplication,
    padded_indices,
    polar_factor,
    power_iteration,
    safe_divide,
    safe_sqrt,
    spectral_norm_bound,
    transposed_max_duplication,
)
from deel_lip_tf.normalizers.numerics.norm_bounds import squarings_for
from deel_lip_tf.normalizers.polar.cubics import bjorck_cubics, minimax_cubic
from tests._oracles import oracles
from tests._oracles.tolerances import GRADIENT, SOUND

SHAPES = [(1, 1), (1, 5), (5, 1), (7, 7), (20, 6), (6, 20), (64, 8)]
PARAMETRIZATIONS = [
    Spectral(),
    Spectral(eps_bjorck=None),
    Spectral(beta_bjorck=0.3, maxiter_bjorck=30),
    Frobenius(),
    Frobenius(disjoint_neurons=False),
    UnitFrobenius(),
    AOL(),
    BRO(),
    Cayley(),
]


@pytest.mark.parametrize("squarings", range(6))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bound_is_above_the_norm_and_as_near_as_promised(shape, squarings, rng, tf):
    matrix = rng.normal(size=shape)
    norm = oracles.spectral_norm(matrix)
    bound = float(spectral_norm_bound(tf.constant(matrix), squarings))
    worst = min(shape) ** (0.5 ** (squarings + 2))
    assert norm <= bound <= norm * worst * (1 + 1e-12)


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_squarings_reach_the_tolerance_on_the_worst_matrix(size, tolerance, tf):
    bound = float(
        spectral_norm_bound(tf.eye(size, dtype="float64"), squarings_for(size, tolerance))
    )
    assert 1 <= bound <= 1 + tolerance + 1e-14


def test_bound_of_zero_is_zero(tf):
    assert float(spectral_norm_bound(tf.zeros((4, 3)), 4)) == 0


def test_power_iteration_is_an_estimate_from_below(rng, tf):
    matrix = rng.normal(size=(30, 20))
    sigma, u = power_iteration(tf.constant(matrix), eps=1e-9, maxiter=500)
    norm = oracles.spectral_norm(matrix)
    assert norm * (1 - 1e-6) <= float(sigma) <= norm * (1 + 1e-12)
    again, _ = power_iteration(tf.constant(matrix), u, maxiter=1)
    assert float(again) == pytest.approx(float(sigma), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar_factor_against_the_singular_value_decomposition(shape, rng, tf):
    matrix = rng.normal(size=shape)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    factor = polar_factor(tf.constant(matrix), bjorck_cubics(0.5, 60))
    np.testing.assert_allclose(factor, left @ right, atol=1e-9)


@pytest.mark.parametrize("parametrization", [*PARAMETRIZATIONS[:3], UnitFrobenius()], ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 1)], ids=str)
def test_stacked_matrices_are_projected_one_by_one(parametrization, shape, rng, tf):
    stack = rng.normal(size=(3, *shape)) * np.array([1e-3, 1.0, 1e3])[:, None, None]
    expected = [parametrization.project(tf.constant(matrix)) for matrix in stack]
    projected = parametrization.project(tf.constant(stack))
    np.testing.assert_allclose(projected, np.stack(expected), rtol=1e-9, atol=1e-12)


def test_a_vector_is_divided_by_its_norm(rng, tf):
    vector = rng.normal(size=(9, 1)).astype("float32")
    expected = vector / np.linalg.norm(vector.astype(np.float64))
    np.testing.assert_allclose(Spectral().project(tf.constant(vector)), expected, rtol=2e-6)


def test_minimax_steps_equioscillate_and_beat_bjorck():
    lower, upper, delta, steps = 1e-3, 1.0, 1.0, 0
    while delta > 1e-3:
        a, b, delta = minimax_cubic(lower, upper)
        x = np.linspace(lower, upper, 20001)
        y = a * x + b * x**3
        assert y.max() - 1 == pytest.approx(1 - y.min(), abs=1e-6)
        assert delta == pytest.approx(y.max() - 1, abs=1e-6)
        lower, upper, steps = y.min(), y.max(), steps + 1
        assert steps <= 15
    x = 1e-3
    for a, b in bjorck_cubics(0.5, steps):
        x = a * x + b * x**3
    assert 1 - x > 0.5


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (24, 4), (3, 3), (1, 4)], ids=str)
def test_gradient_is_that_of_finite_differences(parametrization, shape, rng, tf):
    matrix, direction = rng.normal(size=shape), rng.normal(size=shape)
    project = tf.function(parametrization.project, autograph=False)

    def function(x):
        return np.array([np.sum(direction * project(tf.constant(x)).numpy())])

    x = tf.Variable(matrix)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(direction * project(x + 0.0))
    gradient = tape.gradient(y, x).numpy()
    expected = oracles.jacobian(function, matrix).reshape(shape)
    # A vector has one singular value: its gradient may vanish, and then only rounding is left.
    rounding = 1e-8 * np.linalg.norm(direction)
    assert np.linalg.norm(gradient - expected) <= GRADIENT * np.linalg.norm(expected) + rounding


@pytest.mark.parametrize("parametrization", [BRO(), Cayley()], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthogonal_maps_have_singular_values_of_1_in_float32(parametrization, shape, rng, tf):
    for scale in (1e-30, 1e-3, 1.0, 30.0, 1e30):
        matrix = tf.constant(scale * rng.normal(size=shape), "float32")
        values = oracles.singular_values(parametrization.project(matrix))
        assert values.max() <= SOUND
        np.testing.assert_allclose(values, 1, atol=1e-5)


def test_reflections_turn_what_one_reflection_cannot(rng, tf):
    """A single block reflection is symmetric; a product of two need not be."""
    projected = BRO().project(tf.constant(rng.normal(size=(4, 4)))).numpy()
    assert np.linalg.det(projected) == pytest.approx(1, abs=1e-9)
    assert np.abs(projected - projected.T).max() > 0.1


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
def test_degenerate_kernels_have_finite_values_and_gradients(parametrization, tf):
    kernels = [
        np.zeros((4, 3)),
        np.ones((4, 3)),
        np.eye(4, 3),
        np.full((4, 3), 1e30),
        np.ones((3, 4)),
    ]
    for kernel in [*kernels, np.full((4, 3), 1e-30)]:
        x = tf.Variable(kernel.astype("float32"))
        with tf.GradientTape() as tape:
            y = parametrization.project(x + 0.0)
        assert np.isfinite(y).all()
        assert np.isfinite(tape.gradient(y, x)).all()


def test_safe_operations_at_zero(tf):
    x = tf.Variable([0.0, 4.0])
    with tf.GradientTape() as tape:
        y = safe_sqrt(x + 0.0)
    np.testing.assert_allclose(y, [0, 2])
    np.testing.assert_allclose(tape.gradient(y, x), [0, 0.25])
    np.testing.assert_allclose(
        safe_divide(tf.constant([1.0, 6.0]), tf.constant([0.0, 2.0])), [0, 3]
    )


NUMPY_MODES = dict(circular="wrap", symmetric="symmetric", reflect="reflect", replicate="edge")


@pytest.mark.parametrize("mode", NUMPY_MODES)
def test_padded_indices_are_those_of_numpy(mode, tf):
    for size, before, after in itertools.product(range(1, 6), range(7), range(7)):
        expected = np.pad(np.arange(size), (before, after), mode=NUMPY_MODES[mode])
        np.testing.assert_array_equal(padded_indices(size, before, after, mode), expected)
        dynamic = padded_indices(tf.constant(size), before, after, mode, keras.ops)
        np.testing.assert_array_equal(dynamic, expected)


KNOWN_COUNTS = [
    # size, kernel, stride, padding, count
    (28, 3, 1, "same", 3),
    (2, 3, 1, "same", 2),
    (1, 7, 1, "same", 1),
    (28, 3, 2, "same", 2),
    (28, 5, 2, "valid", 3),
    (3, 3, 1, "valid", 1),
    (28, 3, 1, "circular", 3),
    (5, 7, 2, "circular", 5),
    (28, 3, 1, "reflect", 4),
    (4, 5, 1, "reflect", 7),
    (4, 7, 1, "reflect", 9),
    (28, 3, 2, "reflect", 3),
    (28, 7, 2, "reflect", 5),
    (28, 3, 1, "replicate", 3),
    (28, 5, 1, "replicate", 6),
    (28, 7, 1, "replicate", 10),
    (28, 5, 2, "replicate", 4),
    (28, 7, 2, "replicate", 6),
    (28, 3, 1, "causal", 3),
    (28, 5, 2, "causal", 3),
    (2, 5, 1, "causal", 2),
]


@pytest.mark.parametrize(("size", "k", "s", "padding", "count"), KNOWN_COUNTS)
def test_known_counts(size, k, s, padding, count):
    assert max_duplication(size, k, s, padding) == count
    assert max_duplication(None, k, s, padding) >= count


@pytest.mark.parametrize("padding", ["same", "valid", "causal", *NUMPY_MODES])
def test_unknown_size_is_the_worst_of_all_sizes(padding):
    for k, s in itertools.product(range(1, 8), range(1, 4)):
        worst = max(max_duplication(n, k, s, padding) for n in range(1, 100))
        assert max_duplication(None, k, s, padding) == worst


def test_transposed_counts():
    assert transposed_max_duplication(8, 3, 2) == 2
    assert transposed_max_duplication(1, 3, 1) == 1
    assert transposed_max_duplication(None, 5, 2) == 3


CONSTRAINTS = [
    (constraints.SpectralConstraint(2.0), 2.0),
    (constraints.SpectralConstraint(eps_bjorck=None), 1.0),
    (constraints.FrobeniusConstraint(), 1.0),
    (constraints.AutoWeightClipConstraint(0.5), 2.0),
]


@pytest.mark.parametrize(("constraint", "norm"), CONSTRAINTS)
@pytest.mark.parametrize("shape", [(6, 4), (3, 3, 2, 5)])
def test_constraints_bound_the_flattened_kernel(constraint, norm, shape, rng):
    for scale in (1e-3, 1.0, 1e3):
        kernel = keras.Variable(scale * rng.normal(size=shape))
        constrained = keras.ops.convert_to_numpy(constraint(kernel))
        assert constrained.shape == shape
        assert oracles.spectral_norm(constrained.reshape(-1, shape[-1])) <= norm * SOUND
    again = type(constraint).from_config(constraint.get_config())
    assert again.get_config() == constraint.get_config()


def test_weight_clip(tf):
    clipped = constraints.WeightClipConstraint(0.5)(tf.constant([-3.0, 0.2, 0.7]))
    np.testing.assert_allclose(clipped, [-0.5, 0.2, 0.5])
    with pytest.raises(ValueError, match="`c`"):
        constraints.WeightClipConstraint(-1)


def test_constraint_keeps_a_plain_layer_bounded_through_training(rng, tmp_path):
    x, y = rng.normal(size=(64, 6)), rng.normal(size=(64, 4))
    layer = keras.layers.Dense(4, kernel_constraint=constraints.SpectralConstraint())
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    assert oracles.spectral_norm(layer.kernel) <= SOUND
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(reloaded.layers[0].kernel_constraint, constraints.SpectralConstraint)


@pytest.mark.parametrize("base", ["orthogonal", "glorot_uniform", keras.initializers.HeNormal(1)])
def test_spectral_initializer(base):
    initializer = initializers.SpectralInitializer(k_coef_lip=2.0, base_initializer=base)
    kernel = keras.ops.convert_to_numpy(initializer((3, 3, 2, 4)))
    np.testing.assert_allclose(oracles.singular_values(kernel.reshape(-1, 4)), 2, rtol=1e-3)
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    assert again.get_config() == initializer.get_config()
    initializer = initializers.SpectralInitializer(base_initializer=base, depthwise=True)
    kernel = keras.ops.convert_to_numpy(initializer((3, 3, 2, 4)))
    for channel in range(2):
        values = oracles.singular_values(kernel[:, :, channel].reshape(9, 4))
        np.testing.assert_allclose(values, 1, rtol=1e-3)
    with pytest.raises(ValueError, match="two axes"):
        initializer((4,))
