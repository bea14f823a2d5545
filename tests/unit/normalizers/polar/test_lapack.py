"""The nearest orthogonal matrix of numbers at hand: the same matrix as the graph's, without one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deel_lip_tf as lip
from deel_lip_tf import layers
from deel_lip_tf.initializers import SpectralInitializer
from deel_lip_tf.normalizers import AOC, Spectral
from deel_lip_tf.normalizers.polar import tf_graphs
from deel_lip_tf.normalizers.polar.lapack import by_lapack, exact_factor
from tests._oracles.oracles import polar
from tests._oracles.tolerances import SOUND, TIGHT
from tests.unit.normalizers.polar.test_factor import KERNELS, LIMIT, SHAPES, SINGULAR

ROUNDING = {"float32": 2e-4, "float64": 1e-10}  # of kernels 1e4 times nearer to a singular one


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_factor_is_that_of_the_decomposition_and_of_the_graph(shape, dtype, rng):
    for name, draw in {**KERNELS, **LIMIT}.items():
        kernel = draw(rng, shape).astype(dtype)
        factor = exact_factor(kernel)
        assert factor.dtype == dtype
        values = np.linalg.svd(factor.astype("float64"), compute_uv=False)
        assert values.max() <= SOUND, name
        assert values.min() >= 1 - ROUNDING[dtype], name
        expected = polar(kernel.astype("float64"))
        np.testing.assert_allclose(factor, expected, atol=ROUNDING[dtype], err_msg=name)
        graph = Spectral().project(tf.constant(kernel))
        np.testing.assert_allclose(factor, graph, atol=TIGHT, err_msg=name)


@pytest.mark.parametrize("name", SINGULAR)
def test_directions_that_are_lost_stay_lost(name, rng):
    for shape in SHAPES:
        kernel = SINGULAR[name](rng, shape).astype("float32")
        values = np.linalg.svd(exact_factor(kernel).astype("float64"), compute_uv=False)
        ranks = np.linalg.matrix_rank(kernel)
        expected = np.arange(values.shape[-1]) < np.asarray(ranks)[..., None]
        np.testing.assert_allclose(values, expected, atol=TIGHT)
        assert values.max() <= SOUND


def test_each_matrix_of_a_stack_is_by_itself(rng):
    good = rng.normal(size=(5, 3))
    stack = np.array([good, np.zeros((5, 3)), np.full((5, 3), np.nan), 1e-30 * good, good * np.inf])
    found = exact_factor(stack)
    np.testing.assert_allclose(found[0], polar(good), atol=1e-12)
    np.testing.assert_allclose(found[3], polar(good), atol=1e-12)
    assert not found[1].any()
    assert np.isnan(found[[2, 4]]).all()


# --- where it is computed so ---------------------------------------------------------------------


@pytest.fixture
def graphs():
    """The number of graphs that have been traced since."""
    tf_graphs._calls.cache_clear()
    tf_graphs._traced.cache_clear()
    return lambda: tf_graphs._traced.cache_info().misses


BUILT = {
    "dense": (lambda **k: layers.SpectralDense(6, **k), (8,)),
    "wide dense": (lambda **k: layers.SpectralDense(9, **k), (4,)),
    "convolution": (lambda **k: layers.SpectralConv2D(4, 3, **k), (5, 5, 3)),
    "depthwise": (
        lambda **k: layers.SpectralDepthwiseConv2D(3, depth_multiplier=2, **k),
        (5, 5, 3),
    ),
    "of another base": (
        lambda **k: layers.SpectralDense(6, kernel_initializer="glorot_normal", **k),
        (8,),
    ),
}


@pytest.mark.parametrize("name", BUILT)
def test_building_and_condensing_trace_no_graph(name, graphs):
    make, shape = BUILT[name]
    layer = make()
    layer.build((None, *shape))
    drawn = keras.ops.convert_to_numpy(layer.kernel)
    layer.condense()
    assert graphs() == 0
    np.testing.assert_allclose(layer.kernel, drawn, atol=1e-5)  # it was the effective kernel
    for taken in range(tf_graphs._WITHOUT_TRACE + 1):  # in eager mode one by one, until it pays
        kernel = layer.wbar
        assert (graphs() > 0) == (taken == tf_graphs._WITHOUT_TRACE)
    np.testing.assert_allclose(kernel, drawn, atol=1e-5)


def test_condensing_factors_traces_no_graph(graphs):
    layer = layers.SpectralConv2D(4, 3, parametrization=AOC())
    layer.build((None, 8, 8, 4))
    expected = keras.ops.convert_to_numpy(layer.wbar)
    traced = graphs()
    layer.condense()
    assert graphs() == traced
    np.testing.assert_allclose(layer.wbar, expected, atol=TIGHT)


def test_what_is_traced_is_computed_as_elsewhere(rng):
    kernel = rng.normal(size=(8, 5)).astype("float32")

    @tf.function(autograph=False)
    def projected(x):
        with by_lapack():
            return Spectral().project(x)

    np.testing.assert_array_equal(projected(kernel), Spectral().project(tf.constant(kernel)))


def test_drawing_inside_of_a_graph():
    initializer = SpectralInitializer(base_initializer=keras.initializers.Orthogonal(seed=3))
    drawn = tf.function(lambda: initializer((8, 5)), autograph=False)()
    np.testing.assert_allclose(drawn, initializer((8, 5)), atol=1e-5)


def test_outside_of_it_gradients_flow(rng):
    x = tf.constant(rng.normal(size=(8, 5)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Spectral().project(x)
    assert np.abs(tape.gradient(y, x, x + 1)).max() > 0


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (3, 3, 2, 4)], ids=str)
def test_the_draw_is_that_of_the_base(shape):
    base = keras.initializers.Orthogonal(seed=7)
    drawn = SpectralInitializer(base_initializer=base)(shape, dtype="float64")
    np.testing.assert_allclose(drawn, base(shape, dtype="float64"), atol=1e-13)
    again = SpectralInitializer(base_initializer=base)(shape, dtype="float64")
    np.testing.assert_array_equal(drawn, again)


def test_one_seed_draws_one_network_and_float64_is_float64():
    def kernels():
        keras.utils.set_random_seed(5)
        dense = [layers.SpectralDense(4, dtype="float64", k_coef_lip=2.0) for _ in range(2)]
        model = lip.Sequential([keras.Input((6,)), *dense])
        return model.get_weights()

    for one, other in zip(kernels(), kernels(), strict=True):
        assert one.dtype == "float64"
        np.testing.assert_array_equal(one, other)
    values = np.linalg.svd(kernels()[0], compute_uv=False)
    np.testing.assert_allclose(values, values[0], rtol=1e-12)
