"""One truth, no side effects, serialization, types and arguments, over the table of layers."""

import math

import keras
import numpy as np
import pytest

from deel_lip_tf import bounds, layers
from tests._oracles.tolerances import CONDENSED, SAME_BFLOAT16, SAME_FLOAT32, SOUND
from tests._tables.cases import CONSTRAINED, FACTORED, IMAGE, LAYERS, PADDINGS


def batch(case, rng, dtype="float32"):
    return rng.normal(size=(4, *case.shape)).astype(dtype)


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


@pytest.fixture(scope="module", params=LAYERS, ids=str)
def called(request):
    """A row, its layer, an input and the output: once for all tests that leave the layer alone."""
    keras.utils.set_random_seed(0)
    case = request.param
    layer = case.make()
    x = batch(case, np.random.default_rng(0))
    return case, layer, x, numpy(layer(x))


def saved_and_reloaded(layer, shape, path):
    model = keras.Sequential([keras.Input(shape), layer])
    model.save(path)
    return keras.models.load_model(path)


def after_an_optimizer_step(layer, x):
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    # One step: to trace it would cost a hundred times as much. `test_contract.py` trains by graphs.
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    if layer.trainable_weights:
        before = layer.get_weights()[0]
        model.train_on_batch(x, np.ones_like(numpy(layer(x))))
        assert not (before == layer.get_weights()[0]).all()


CHANGES = {
    "nothing": lambda layer, x: None,
    "set_weights": lambda layer, x: layer.set_weights([w + 0.3 for w in layer.get_weights()]),
    "assign": lambda layer, x: [w.assign(2.0 * w + 0.1) for w in layer.weights],
    "klip": lambda layer, x: layer.set_klip_factor(3.0),
    "optimizer": after_an_optimizer_step,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_one_truth(case, rng, tmp_path):
    x = batch(case, rng)
    layer = case.make()
    layer(x)
    model = keras.Sequential([keras.Input(case.shape), layer])
    for change, make in CHANGES.items():
        make(layer, x)
        if change == "klip":  # what a plain Keras model has traced keeps the old constant
            model = keras.Sequential([keras.Input(case.shape), layer])
        expected = numpy(layer(x))
        others = {
            "training": layer(x, training=True) if case in CONSTRAINED else layer(x),
            "export": layer.vanilla_export()(x),
            "predict": model.predict_on_batch(x),
            "reloaded": saved_and_reloaded(layer, case.shape, tmp_path / "layer.keras")(x),
        }
        for name, other in others.items():
            message = f"{name} after {change}"
            np.testing.assert_allclose(numpy(other), expected, err_msg=message, **SAME_FLOAT32)


@pytest.mark.parametrize("case", CONSTRAINED, ids=str)
def test_the_bound_is_of_the_same_kernel(case, rng):
    layer = case.make()
    layer.build((None, *case.shape))
    for change in ("nothing", "assign", "klip"):
        CHANGES[change](layer, None)
        bound = bounds.lipschitz_bound(layer).value
        # The export of an extending padding is a model, bounded without knowing its structure.
        if case.kwargs.get("padding", "same") in ("same", "valid"):
            exported = bounds.lipschitz_bound(layer.vanilla_export()).value
            assert bound == pytest.approx(exported, rel=1e-6)
        limit = layer.k_coef_lip * (
            math.sqrt(layer.units) if getattr(layer, "disjoint_neurons", False) else 1
        )
        assert 0 < bound <= limit * SOUND


def is_fixed(layer, kernel):
    """Whether the kernel that a layer projects to is projected to itself; factors each are."""
    if layer.raw_weights["kernel"].shape != kernel.shape:
        return True
    weights = {**layer.raw_weights, "kernel": kernel}
    again = layer.parametrization.projected(weights, layer.operation).kernel
    return np.linalg.norm(numpy(again) - numpy(kernel)) <= 5e-3 * np.linalg.norm(numpy(kernel))


@pytest.mark.parametrize("case", CONSTRAINED, ids=str)
def test_condensing_changes_the_raw_kernel_only(case, rng):
    x = batch(case, rng)
    layer = case.make(k_coef_lip=2.0)
    layer(x)
    for weight in layer.raw_weights.values():
        weight.assign(3.0 * rng.normal(size=weight.shape))
    before, raw = numpy(layer(x)), [numpy(w) for w in layer.raw_weights.values()]
    once = layer.parametrization.projected(layer.raw_weights, layer.operation).kernel
    layer.condense()
    is_written = [
        not np.allclose(w, numpy(layer.raw_weights[n]))
        for n, w in zip(layer.raw_weights, raw, strict=True)
        if n != "k"  # which is what kernels are divided to
    ]
    # Where what is projected twice is not what is projected once, nothing may be written.
    weights = layer.raw_weights
    is_kept = layer.parametrization.condensed(weights, layer.operation) is weights
    assert any(is_written) == all(is_written) != is_kept
    assert is_kept or is_fixed(layer, once)
    tolerance = CONDENSED if "Spectral" in case.cls.__name__ else SAME_FLOAT32
    np.testing.assert_allclose(numpy(layer(x)), before, **tolerance)
    np.testing.assert_allclose(numpy(layer.vanilla_export()(x)), numpy(layer(x)), **SAME_FLOAT32)


def test_inference_changes_no_variable(called):
    case, layer, x, _ = called
    before = [numpy(v).copy() for v in layer.variables]
    for training in (None, False):
        layer(x) if training is None or case not in CONSTRAINED else layer(x, training=training)
    layer.vanilla_export()
    assert len(layer.variables) == len(before)
    assert all((a == numpy(b)).all() for a, b in zip(before, layer.variables, strict=True))


@pytest.mark.parametrize("case", [case for case in CONSTRAINED if case not in FACTORED], ids=str)
def test_weights_are_those_of_the_plain_layer(case):
    layer = case.make()
    layer.build((None, *case.shape))
    plain = layer.plain_class(
        **{
            name: value
            for name, value in case.kwargs.items()
            if name in ("units", "filters", "kernel_size", "use_bias", "depth_multiplier")
        }
    )
    plain.build((None, *[max(size, 7) for size in case.shape[:-1]], case.shape[-1]))
    learned = [n for n in ("gamma", "k") if getattr(layer.parametrization, f"learns_{n}", False)]
    kept = [w for w in layer.weights if w.name not in learned]
    assert [w.shape for w in kept] == [w.shape for w in plain.weights]
    assert len(kept) == len(layer.weights) - len(learned)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_config_is_of_python_scalars_and_round_trips(case):
    layer = case.make(k_coef_lip=1.5, name="it")
    config = layer.get_config()

    def check(value):
        if isinstance(value, dict):
            return all(check(v) for v in value.values())
        if isinstance(value, (list, tuple)):
            return all(check(v) for v in value)
        return value is None or type(value) in (str, int, float, bool)

    assert check(config), config
    assert type(layer).from_config(config).get_config() == config
    assert config["k_coef_lip"] == 1.5


def test_shapes(called):
    case, layer, x, y = called
    assert y.shape == tuple(layer.compute_output_shape(x.shape))
    symbolic = keras.Input(case.shape)
    assert tuple(case.make()(symbolic).shape[1:]) == y.shape[1:]


@pytest.mark.parametrize(
    "dtype", ["float64", "mixed_bfloat16", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_policies(called, dtype):
    case, reference, x, expected = called
    layer = case.make(dtype=dtype)
    layer.build((None, *case.shape))
    layer.set_weights(reference.get_weights())
    y = layer(keras.ops.cast(x, layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    tolerance = SAME_FLOAT32 if dtype == "float64" else SAME_BFLOAT16
    scale = np.abs(expected).max()
    np.testing.assert_allclose(numpy(y) / scale, expected / scale, **tolerance)
    exported = layer.vanilla_export()(keras.ops.cast(x, layer.compute_dtype))
    np.testing.assert_allclose(numpy(exported) / scale, numpy(y) / scale, **tolerance)


OF_EACH_PADDING = {(case.cls, case.kwargs.get("padding")): case for case in LAYERS}


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_EACH_PADDING.values(), ids=str)
def test_compiled_by_xla(case, rng, tf):
    layer = case.make()
    x = batch(case, rng)
    expected = numpy(layer(x))
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(numpy(compiled(x)), expected, **SAME_FLOAT32)


CHANNELS_FIRST = [
    case
    for case in LAYERS
    if (len(case.shape) == 3 and case.cls not in (layers.PReLUlip, layers.SpectralDense))
    or case.cls is layers.SpectralConv1D
]
# There the axes themselves would have to move.
CHANNELS_FIRST = [case for case in CHANNELS_FIRST if "axis" not in case.kwargs]


@pytest.mark.parametrize("called", CHANNELS_FIRST, ids=str, indirect=True)
def test_channels_first_is_the_transposed_problem(called):
    case, last, x, expected = called
    first = case.make(data_format="channels_first")
    first.build((None, case.shape[-1], *case.shape[:-1]))
    first.set_weights(last.get_weights())
    moved = np.moveaxis(x, -1, 1)
    found = y = numpy(first(moved))
    if isinstance(last, (layers.InvertibleDownSampling, layers.InvertibleUpSampling)):
        assert y.shape[1] == expected.shape[-1]
    y = np.moveaxis(y, 1, -1) if y.ndim > 2 else y
    np.testing.assert_allclose(y, expected, **SAME_FLOAT32)
    exported = numpy(first.vanilla_export()(moved))
    np.testing.assert_allclose(exported, found, **SAME_FLOAT32)


@pytest.mark.parametrize("padding", PADDINGS)
def test_unknown_sizes(padding, rng):
    layer = layers.SpectralConv2D(4, 3, padding=padding)
    model = keras.Sequential(
        [keras.Input((None, None, 2)), layer, layers.InvertibleDownSampling(2)]
    )
    model.add(layers.GroupSort2())
    model.add(layers.ScaledL2NormPooling2D())
    model.add(layers.ScaledGlobalAveragePooling2D())
    for size in (10, 14):
        x = rng.normal(size=(2, size, size, 2)).astype("float32")
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(model(x)), **SAME_FLOAT32)


def overlap_of(layer):
    """What a layer divides its kernel by, for the size it was built for."""
    return math.prod(layer.operation.patch_counts) ** 0.5 if hasattr(layer, "operation") else 1


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: layers.SpectralConv2DTranspose(4, 3, 2, p),
        lambda p: layers.SpectralDepthwiseConv2D(3, 1, p, 2),
        lambda p: layers.PadConv2D(4, 4, 1, p),
    ],
    ids=["transposed", "depthwise", "pad"],
)
def test_unknown_sizes_give_the_same_function(make, padding, rng):
    layer = make(padding)
    model = keras.Sequential([keras.Input((None, None, 2)), layer])
    for size in (4, 7):
        x = rng.normal(size=(2, size, size, 2)).astype("float32")
        known = make(padding)
        known.build(x.shape)
        known.set_weights(layer.get_weights())
        gain = overlap_of(known) / overlap_of(layer)
        assert gain <= 1
        expected = numpy(known(x)) * gain
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, **SAME_FLOAT32)
        np.testing.assert_allclose(numpy(model(x)), expected, **SAME_FLOAT32)
        np.testing.assert_allclose(numpy(layer.vanilla_export()(x)), expected, **SAME_FLOAT32)


def test_export_of_the_extending_paddings_loads_without_this_library(rng, tmp_path):
    x = rng.normal(size=(2, *IMAGE)).astype("float32")
    for padding in PADDINGS:
        layer = layers.SpectralConv2D(4, 3, padding=padding, activation="relu")
        expected = numpy(layer(x))
        exported = layer.vanilla_export()
        assert exported.name == layer.name
        model = keras.Sequential([keras.Input(IMAGE), exported])
        assert "deel_lip_tf" not in model.to_json()
        model.save(tmp_path / "model.keras")
        reloaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(numpy(reloaded(x)), expected, **SAME_FLOAT32)


COPIED = (layers.GroupSort, layers.MaxMin, layers.Householder, layers.SoftHuber)
COPIED += (layers.NActivation, layers.LipschitzSpline)
KERAS_OWN = [case for case in LAYERS if not issubclass(case.cls, COPIED)]


@pytest.mark.parametrize("case", KERAS_OWN, ids=str)
def test_exports_have_no_trace_of_the_library(case, rng):
    layer = case.make(k_coef_lip=2.0)
    layer.build((None, *case.shape))
    model = keras.Sequential([keras.Input(case.shape), layer.vanilla_export()])
    assert "deel_lip_tf" not in model.to_json()


@pytest.mark.parametrize("activation", ["relu", "sorted", "householder"])
def test_activations_inside_a_layer(activation, rng, tmp_path):
    made = {"relu": "relu", "sorted": layers.GroupSort2(), "householder": layers.Householder()}
    layer = layers.SpectralConv2D(4, 3, activation=made[activation], k_coef_lip=2.0)
    x = rng.normal(size=(2, *IMAGE)).astype("float32")
    expected = numpy(layer(x))
    np.testing.assert_allclose(numpy(layer.vanilla_export()(x)), expected, **SAME_FLOAT32)
    reloaded = saved_and_reloaded(layer, IMAGE, tmp_path / "layer.keras")
    np.testing.assert_allclose(numpy(reloaded(x)), expected, **SAME_FLOAT32)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_gradient_of_sorted_pairs_is_a_permutation_also_at_ties(dtype, jit_compile, rng, tf):
    values = rng.integers(-2, 3, size=(50, 4, 6)).astype("float32")
    upstream = rng.permutation(np.arange(values.size)).reshape(values.shape) % 128
    layer = layers.GroupSort2(dtype=dtype)

    @tf.function(jit_compile=jit_compile)
    def run(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, x, upstream)

    y, gradient = map(numpy, run(tf.cast(values, dtype), tf.cast(upstream, dtype)))
    np.testing.assert_array_equal(y, np.sort(values.reshape(50, 4, 3, 2), axis=-1).reshape(y.shape))
    pairs, sorted_pairs = values.reshape(-1, 2), np.sort(values.reshape(-1, 2), axis=-1)
    swapped = (pairs != sorted_pairs).any(axis=-1, keepdims=True)
    pushed = upstream.reshape(-1, 2)
    expected = np.where(swapped, pushed[:, ::-1], pushed)
    np.testing.assert_array_equal(gradient.reshape(-1, 2), expected)


def test_sorted_pairs_have_jacobians_of_a_batch(rng, tf):
    x = tf.constant(rng.normal(size=(3, 6)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layers.GroupSort2(dtype="float64")(x)
    jacobians = tape.batch_jacobian(y, x).numpy()
    np.testing.assert_allclose(
        jacobians @ jacobians.transpose(0, 2, 1), np.tile(np.eye(6), (3, 1, 1))
    )


def test_sorting_against_numpy(rng):
    x = rng.normal(size=(5, 4, 3, 12))
    for n in (1, 2, 3, 4, 6, 12, 20, None):
        size = min(n or 12, 12)
        expected = np.sort(x.reshape(5, 4, 3, 12 // size, size), axis=-1).reshape(x.shape)
        np.testing.assert_array_equal(layers.GroupSort(n, dtype="float64")(x), expected)


def test_invertible_down_sampling_order(rng):
    x = rng.normal(size=(2, 6, 4, 3)).astype("float32")
    y = numpy(layers.InvertibleDownSampling((3, 2))(x))
    for c, i, j, row, column in np.ndindex(3, 3, 2, 2, 2):
        expected = x[:, row * 3 + i, column * 2 + j, c]
        np.testing.assert_array_equal(y[:, row, column, c * 6 + i * 2 + j], expected)
    np.testing.assert_array_equal(layers.InvertibleUpSampling((3, 2))(y), x)


def test_householder_at_its_default_angle_is_minimum_and_maximum(rng):
    x = rng.normal(size=(7, 6)).astype("float32")
    expected = np.concatenate([np.minimum(x[:, :3], x[:, 3:]), np.maximum(x[:, :3], x[:, 3:])], 1)
    np.testing.assert_allclose(layers.Householder()(x), expected, rtol=1e-6, atol=1e-6)


def test_l2_norm_pooling_at_zero_is_zero_with_zero_gradient(tf):
    for layer in (layers.ScaledL2NormPooling2D(), layers.ScaledGlobalL2NormPooling2D()):
        x = tf.Variable(np.zeros((1, 4, 4, 2), "float32"))
        exported = layer
        for function in (layer, exported):
            with tf.GradientTape() as tape:
                y = function(x)
            assert (numpy(y) == 0).all()
            assert (numpy(tape.gradient(y, x)) == 0).all()
        layer = layer.vanilla_export()


def test_equal_pool_size_and_strides_in_any_spelling():
    for pool in (
        layers.ScaledL2NormPooling2D(2, strides=(2, 2)),
        layers.ScaledAveragePooling2D((2, 2), strides=2, padding="VALID"),
    ):
        assert tuple(pool.pool_size) == tuple(pool.strides) == (2, 2)


def test_the_parents_arguments_are_taken():
    layer = layers.SpectralConv2D(
        4,
        3,
        (1, 1),
        "SAME",
        data_format="channels_last",
        activation="relu",
        use_bias=True,
        kernel_initializer="he_normal",
        bias_initializer="ones",
        kernel_regularizer="l2",
        bias_regularizer="l1",
        activity_regularizer="l2",
        kernel_constraint="max_norm",
        bias_constraint="non_neg",
        dtype="float32",
        name="conv",
    )
    layer(np.zeros((1, *IMAGE), "float32"))
    assert layer.padding == "same"
    assert len(layer.losses) == 3
    exported = layer.vanilla_export()
    assert exported.kernel_regularizer is None
    assert exported.name == "conv"
    assert isinstance(exported, keras.layers.Conv2D)
