"""The nearest orthogonal kernel: soundness, its gradient, and the retraction after updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import layers
from deel_lip_tf.layers.compiled import sorting
from deel_lip_tf.layers.compiled.xla import is_worth_compiling
from deel_lip_tf.normalizers import Spectral
from deel_lip_tf.normalizers.polar import factor
from tests._oracles import oracles
from tests._oracles.tolerances import GRADIENT, SOUND, TIGHT

SHAPES = [(7, 7), (20, 6), (6, 20), (64, 8), (2, 9, 4), (400, 390)]


def with_singular_values(rng, shape, values):
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return (left * values) @ right


KERNELS = {
    "Gaussian": lambda rng, shape: rng.normal(size=shape),
    "orthogonal": lambda rng, shape: oracles.polar(rng.normal(size=shape)),
    "orthogonal, scaled": lambda rng, shape: 1e3 * oracles.polar(rng.normal(size=shape)),
    "nearly orthogonal": lambda rng, shape: (
        oracles.polar(rng.normal(size=shape)) + 3e-6 * rng.normal(size=shape)
    ),
    "one step away": lambda rng, shape: (
        oracles.polar(rng.normal(size=shape)) + 1e-4 * rng.normal(size=shape)
    ),
    "one direction a step away": lambda rng, shape: with_singular_values(
        rng, shape, 1 + 5e-4 * np.eye(1, min(shape[-2:]))[0]
    ),
    "an update away": lambda rng, shape: (
        oracles.polar(rng.normal(size=shape)) + 0.3 * rng.normal(size=shape) / np.sqrt(shape[-2])
    ),
    "nearly orthogonal, small": lambda rng, shape: (
        0.0102 * (oracles.polar(rng.normal(size=shape)) + 1e-5 * rng.normal(size=shape))
    ),
    "huge": lambda rng, shape: 1e30 * rng.normal(size=shape),
    "tiny": lambda rng, shape: 1e-30 * rng.normal(size=shape),
    "ill-conditioned": lambda rng, shape: with_singular_values(
        rng, shape, np.geomspace(1, 1e-3, min(shape[-2:]))
    ),
}
LIMIT = {
    "as bad as is promised": lambda rng, shape: with_singular_values(
        rng, shape, np.geomspace(1, 1.01e-4, min(shape[-2:]))
    ),
}
SINGULAR = {
    "zero": lambda rng, shape: np.zeros(shape),
    "rank one": lambda rng, shape: with_singular_values(rng, shape, np.eye(1, min(shape[-2:]))[0]),
    "one direction lost": lambda rng, shape: with_singular_values(
        rng, shape, 1 - np.eye(1, min(shape[-2:]))[0]
    ),
    "constant": lambda rng, shape: np.ones(shape),
}


@pytest.mark.parametrize(
    ("shape", "compiled"), [*((shape, "graph") for shape in SHAPES), ((20, 6), "XLA")], ids=str
)
def test_norm_is_at_most_one_and_singular_values_are_equal(shape, compiled, rng):
    for function in (Spectral().project, Spectral().retract):
        function = tf.function(function, autograph=False, jit_compile=compiled == "XLA")
        for name, draw in {**KERNELS, **LIMIT, **SINGULAR}.items():
            kernel = draw(rng, shape).astype("float32")
            values = np.linalg.svd(function(kernel).numpy().astype("float64"), compute_uv=False)
            assert values.max() <= SOUND, name
            if name not in SINGULAR:
                assert values.min() >= 1 - TIGHT, name
                distance = np.abs(
                    function(kernel).numpy() - oracles.polar(kernel.astype("float64"))
                )
                assert distance.max() <= TIGHT, name


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KERNELS, *SINGULAR])
def test_gradient_is_that_of_the_singular_value_decomposition(name, rng):
    for shape in [(6, 3), (5, 5), (3, 6), (2, 4, 3)]:
        kernel = {**KERNELS, **SINGULAR}[name](rng, shape)
        upstream = tf.constant(rng.normal(size=shape))
        x = tf.constant(kernel)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = Spectral().project(x)
        gradient = tape.gradient(y, x, upstream).numpy()
        assert np.isfinite(gradient).all()
        if name in SINGULAR:
            continue  # the polar factor has no derivative there
        scale = np.abs(kernel).max()

        def function(direction, kernel=kernel, upstream=upstream, scale=scale):
            return np.array([np.sum(upstream * oracles.polar(kernel / scale + direction))])

        expected = oracles.jacobian(function, np.zeros(shape)).reshape(shape) / scale
        error = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
        assert error <= GRADIENT, (shape, error)


def test_gradient_of_a_kernel_whose_squares_overflow():
    """Also after a gradient inside a graph: TensorFlow then builds the function differently."""

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = Spectral().project(x)
        return tape.gradient(y, x)

    tf.function(gradient, autograph=False)(tf.ones((5, 3)))
    assert np.isfinite(gradient(tf.fill((5, 3), 1e30))).all()


def test_one_trace_serves_all_small_kernels():
    from deel_lip_tf.normalizers.polar.tf_graphs import _traced

    Spectral().project(tf.ones((9, 4)))
    before = _traced.cache_info().misses
    for shape in [(10, 5), (8, 3), (3, 8), (100, 50)]:
        assert Spectral().project(tf.ones(shape)).shape == shape
    assert _traced.cache_info().misses == before


def test_a_kernel_that_is_not_finite_does_not_hang():
    kernel = tf.constant([[1.0, np.nan], [2.0, 3.0]])
    for function in (Spectral().project, Spectral().retract):
        assert np.isnan(tf.function(function, autograph=False)(kernel)).any()


# --- retraction ------------------------------------------------------------------------------

LAYERS = {
    "dense": (lambda **k: layers.SpectralDense(6, **k), (8,)),
    "wide dense": (lambda **k: layers.SpectralDense(9, **k), (4,)),
    "convolution": (lambda **k: layers.SpectralConv2D(4, 3, **k), (5, 5, 3)),
    "transposed": (lambda **k: layers.SpectralConv2DTranspose(4, 3, strides=2, **k), (5, 5, 3)),
}


def trained(make, shape, **arguments):
    layer = make(**arguments)
    model = keras.Sequential([keras.Input(shape), layer])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, *shape))
    model.fit(x, rng.normal(size=(16, *model.output_shape[1:])), epochs=2, verbose=0)
    return layer


def raw_and_effective(layer):
    raw = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    return raw.reshape(-1, raw.shape[-1])


# One over the root of the number of patches that share a pixel: 3x3, and 2x2 with strides of 2.
GAINS = {"convolution": 1 / 3, "transposed": 1 / 2}


@pytest.mark.parametrize("name", LAYERS)
def test_training_leaves_the_raw_kernel_on_the_manifold(name):
    make, shape = LAYERS[name]
    layer = trained(make, shape)
    values = oracles.singular_values(raw_and_effective(layer))
    np.testing.assert_allclose(values, GAINS.get(name, 1), rtol=TIGHT)
    assert layer.kernel_constraint is None
    assert layer.get_config()["kernel_constraint"] is None


def test_depthwise_kernels_are_retracted_one_by_one():
    layer = layers.SpectralDepthwiseConv2D(3, depth_multiplier=2)
    trained(lambda: layer, (5, 5, 3))
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    for channel in range(3):
        values = oracles.singular_values(kernel[:, :, channel].reshape(9, 2))
        np.testing.assert_allclose(values, 1 / 3, rtol=TIGHT)


class Counted(keras.constraints.Constraint):
    """A user's own constraint, which leaves the kernel as it is."""

    def __init__(self):
        self.calls = 0

    def __call__(self, w):
        self.calls += 1
        return w


@pytest.mark.parametrize("name", LAYERS)
def test_a_constraint_of_the_user_takes_the_place_of_the_retraction(name):
    make, shape = LAYERS[name]
    constraint = Counted()
    argument = "kernel_constraint"
    layer = trained(make, shape, **{argument: constraint})
    assert constraint.calls > 0
    assert np.abs(oracles.singular_values(raw_and_effective(layer)) - 1).max() > TIGHT


@pytest.mark.parametrize("arguments", [dict(eps_bjorck=None), dict(beta_bjorck=0.3)], ids=str)
def test_kernels_that_are_not_orthogonal_are_not_retracted(arguments):
    make, shape = LAYERS["dense"]
    layer = trained(make, shape, **arguments)
    assert np.abs(oracles.singular_values(raw_and_effective(layer)) - 1).max() > TIGHT


@pytest.mark.parametrize("distance", [0.158, 0.22])
def test_one_step_is_enough_after_a_retraction(distance, rng, monkeypatch):
    """Of a large kernel too, whose error is small in the spectral norm alone."""
    values = np.sqrt(1 + np.linspace(-distance, distance, 390))
    away = with_singular_values(rng, (400, 390), values).astype("float32")
    monkeypatch.setattr(factor, "_many_steps", None)
    kernel = Spectral().project(Spectral().retract(away))
    values = oracles.singular_values(kernel.numpy().astype("float64"))
    assert values.max() <= SOUND and values.min() >= 1 - TIGHT / 10


def test_retraction_changes_the_outputs_as_little_as_is_asked(rng):
    layer = layers.SpectralDense(6, use_bias=False)
    layer.build((None, 8))
    moved = rng.normal(size=(8, 6)).astype("float32")
    layer.kernel.assign(moved)
    before = keras.ops.convert_to_numpy(layer.wbar)
    layer.kernel.assign(layer.kernel.constraint(layer.kernel))
    np.testing.assert_allclose(layer.wbar, before, atol=TIGHT)


# --- the sort that is compiled in training -----------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("has_nan", [False, True])
def test_the_compiled_sort_is_the_sort(dtype, has_nan, rng):
    # Few values, hence many ties, among them infinities.
    values = [-np.inf, -1, 0, 2, np.nan if has_nan else np.inf]
    x = tf.constant(rng.choice(values, size=(3, 32, 32, 4)).astype(dtype))
    upstream = tf.constant(rng.normal(size=x.shape).astype(dtype))
    assert is_worth_compiling(x, True)
    results = []
    for training in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = sorting.sort_pairs(x, training)
        results.append((y.numpy(), tape.gradient(y, x, upstream).numpy()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    if not has_nan:
        expected = np.sort(x.numpy().reshape(-1, 2), axis=-1).reshape(x.shape)
        np.testing.assert_array_equal(results[0][0], expected)


def test_only_training_on_large_samples_compiles(monkeypatch, rng):
    def refuse(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(sorting, "_compiled_sort", refuse)
    large, small = rng.normal(size=(2, 4096)), rng.normal(size=(2, 1024))
    layer = layers.GroupSort2()
    layer(large)
    layer(large, training=False)
    layer(small, training=True)
    with pytest.raises(AssertionError, match="compiled"):
        layer(large, training=True)
