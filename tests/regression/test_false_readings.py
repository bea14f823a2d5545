"""More claims that were false: of constants, booleans, biases, weights that broadcast inputs."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificates import certify
from deel_lip_tf.model import vanillaModel
from tests.regression.test_false_claims import output

# --- what stands beside tensors -----------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [layers.Maximum, layers.Add, layers.Minimum], ids=lambda c: c.__name__
)
def test_a_layer_that_is_given_a_constant_is_refused(make):
    """It was read as a layer of one input: `max(x, 0) - x` as 0."""
    x = keras.Input((2,))
    model = keras.Model(x, layers.Subtract()([make()([x, np.zeros((1, 2), "float32")]), x]))
    with pytest.raises(ValueError, match="a constant beside tensors"):
        verify.bounds(model, verify.box([[-2.0, -1.0]], [[4.0, 5.0]]))


@pytest.mark.parametrize("join", [ops.stack, ops.concatenate])
def test_an_operation_that_joins_a_constant_is_refused(join, tmp_path):
    x = keras.Input((1, 2))
    model = keras.Model(x, ops.sum(join([x, np.full((1, 1, 2), 3.0, "float32")], axis=1), axis=1))
    with pytest.raises(ValueError, match="a constant beside tensors"):
        verify.to_onnx(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("kept", [tf.constant, keras.Variable], ids=["tensor", "variable"])
def test_the_rounding_of_a_sum_counts_constants_that_are_tensors(kept):
    def radius(constant):
        x = keras.Input((2,))
        model = keras.Model(x, layers.Dense(2)(ops.subtract(ops.add(x, constant), constant)))
        model.layers[-1].set_weights([np.eye(2), np.zeros(2)])
        return certify(model, np.array([[1.5, 0.25]]), semantics="float32").radius[0]

    constant = np.full(2, 1e5, "float32")
    assert radius(kept(constant)) == radius(constant)


# --- booleans -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask", [lipschitz_bound, lambda m: verify.bounds(m, verify.box(-np.eye(3), np.eye(3)))]
)
def test_a_change_to_booleans_has_no_slope(ask):
    """It jumps from 0 to 1 beside 0."""
    x = keras.Input((3,))
    model = keras.Model(x, ops.cast(ops.cast(x, "bool"), "float32"))
    assert (output(model, [[1e-3, 0, 0]]) == [[1, 0, 0]]).all()
    with pytest.raises(ValueError, match="it rounds to integers"):
        ask(model)


# --- along which axis a bias is -----------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, shape",
    [
        (
            lambda: layers.DepthwiseConv1D(2, depth_multiplier=2, data_format="channels_first"),
            (2, 5),
        ),
        (lambda: layers.EinsumDense("abc,cd->abd", (4, 4), bias_axes="b"), (4, 3)),
    ],
    ids=["convolution", "einsum"],
)
def test_a_bias_that_keras_adds_along_another_axis_is_refused(layer, shape):
    one = layer()
    model = keras.Sequential([keras.Input(shape), one])
    one.bias.assign(np.arange(4.0).reshape(one.bias.shape))
    shift = output(model, np.zeros((1, *shape)))[0]
    np.testing.assert_array_equal(shift, np.tile(np.arange(4.0), (4, 1)))  # not along the first one
    with pytest.raises(ValueError, match="along the last axis"):
        verify.bounds(model, verify.box(np.zeros((1, *shape)), np.ones((1, *shape))))


# --- which axis is the batch --------------------------------------------------------------------


MATRIX = np.array([[1.0, 5.0], [0.0, 1.0]], "float32")


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: ops.einsum("xy,yz->xz", MATRIX, x),
        lambda x: ops.pad(x, [[0, 0], [0, 1]], constant_values=ops.sum(x)),
    ],
    ids=["matrix times batch", "padding by a tensor"],
)
@pytest.mark.parametrize("ask", [lipschitz_bound, lambda m: certify(m, np.eye(2))])
def test_what_mixes_the_samples_of_a_batch_is_refused(mix, ask):
    """A batch of known size is contracted as any axis; the matrix stood in the tensor's place."""
    x = keras.Input(batch_shape=(2, 2))
    model = keras.Model(x, mix(x))
    one, other = output(model, np.eye(2)), output(model, [[1.0, 0.0], [0.0, 3.0]])
    assert (one[0] != other[0]).any()  # of the first sample, which is the same in both
    with pytest.raises(ValueError, match="along one axis|pads by a tensor"):
        ask(model)


def test_padding_of_the_batch_is_refused():
    """It had the constant 1, and made of a sample the one behind it."""
    x = keras.Input((2,))
    model = keras.Model(x, ops.pad(x, [[1, 0], [0, 0]]))
    assert len(output(model, np.eye(2))) > 2
    with pytest.raises(ValueError, match="pads the batch"):
        lipschitz_bound(model)


@pytest.fixture
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


def test_a_rescaling_follows_the_channels_of_images(channels_first):
    """Keras looks where they are when it calls the layer; around 0 nothing else showed it."""
    parts = [layers.Rescaling([2.0, -30.0]), layers.Reshape((8,)), layers.Dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((2, 2, 2)), *parts])
    model.set_weights([np.eye(8)[:, 1:2]])  # of the first channel, last along the last axis
    ones = np.ones((1, 2, 2, 2))
    for places, largest in (("channels_first", 2.0), ("channels_last", 30.0)):
        keras.config.set_image_data_format(places)
        assert abs(output(model, ones).item()) == largest
        upper = verify.bounds(model, verify.box(-ones, ones)).upper
        assert upper.item() == pytest.approx(largest, rel=1e-9)


# --- weights that broadcast an input ------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        layers.PReLU,
        *(lip.layers.PReLUlip, lip.layers.ScaleBias, lip.layers.BatchCentering),
        *(lip.layers.BatchLipNorm, lip.layers.LayerCentering, lip.layers.Householder),
        partial(lip.layers.Householder, order=2),
    ],
    ids=lambda c: getattr(c, "__name__", "order 2"),
)
def test_weights_that_broadcast_an_input_copy_it(layer):
    """A layer of six channels that is called on one, or on a pair."""
    one = layer()
    one.build((None, 3, 6))
    shape = (1, 3, 2 if isinstance(one, lip.layers.Householder) else 1)
    x = keras.Input(shape[1:])
    model = keras.Model(x, one(x))
    a, b = np.random.default_rng(0).uniform(size=(2, *shape))
    assert np.linalg.norm(output(model, a) - output(model, b)) > 1.1 * np.linalg.norm(a - b)
    for ask in (lipschitz_bound, lambda model: verify.bounds(model, verify.box(a - 1.0, a + 1.0))):
        with pytest.raises(ValueError, match="No Lipschitz|broadcast"):
            ask(model)


# --- channels ------------------------------------------------------------------------------------


def test_layers_that_find_their_channels_along_different_axes_are_no_potential(rng):
    """The kernels are those of a gradient, and the bound was theirs."""
    x = keras.Input((4, 4))
    kernel = rng.normal(size=(3, 4, 4)) / 4.0
    first = layers.Conv1D(4, 3, padding="same", activation="relu")
    second = layers.Conv1D(4, 3, padding="same", use_bias=False, data_format="channels_first")
    model = keras.Model(x, layers.Add()([x, second(first(x))]))
    first.set_weights([kernel, np.full(4, 1e3)])
    second.set_weights([-2.0 * kernel[::-1].swapaxes(1, 2)])
    points = np.concatenate([np.zeros((1, 4, 4)), np.eye(16).reshape(16, 4, 4)])
    values = output(model, points.astype("float32")).reshape(17, -1).astype(float)
    # All hidden units are active around 0: the function is affine.
    assert np.linalg.norm(values[1:] - values[0], 2) <= lipschitz_bound(model).value * 1.001


# --- what is rounded to the type of a model of mixed precision, and what is not -------------------


@pytest.fixture
def half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def _steepness(model, distance=1000.0):
    low, high = output(model, [[0.0], [distance]])
    return abs(high - low).item() / distance


@pytest.mark.parametrize("nesting", ["alone", "inside a float32 model", "around a float32 model"])
def test_a_variable_in_an_operation_is_rounded_as_its_model_rounds_it(half_precision, nesting):
    """It was read unrounded: 1.00075, which is 1.0009765625 in float16."""
    variable = keras.Variable(1.00075, dtype="float32")
    inside, outside = ("float16", "float32") if "inside" in nesting else ("float32", "float16")
    types = ["float16"] if nesting == "alone" else [inside, outside]
    model = None
    for dtype in types:
        keras.config.set_dtype_policy({"float16": "mixed_float16"}.get(dtype, dtype))
        x = keras.Input((1,), dtype="float32")
        model = keras.Model(x, (x if model is None else model(x)) * variable)
    steepness = _steepness(model)
    assert steepness > 1.00075 ** len(types) * (1 + 1e-4)
    assert lipschitz_bound(model).value == pytest.approx(steepness, rel=1e-6)
    domain = verify.box([[0.0]], [[1000.0]])
    assert verify.bounds(model, domain).upper == pytest.approx(1000.0 * steepness, rel=1e-6)
    keras.config.set_dtype_policy("float32")
    unrounded = keras.Model(x := keras.Input((1,)), x * 1.00075 ** len(types))
    assert verify.equivalent(model, unrounded, domain, 0.01).status == ["falsified"]
    assert verify.equivalent(model, vanillaModel(model), domain, 1e-6).status == ["proven"]


def test_a_program_is_not_kept_for_a_model_of_another_precision(half_precision):
    """Its configuration is the same, and so is the variable."""
    x = keras.Input((1,), dtype="float32")
    model = keras.Model(x, x * keras.Variable(1.00075, dtype="float32"), name="one")
    domain, ends = verify.box([[0.0]], [[1000.0]]), []
    for policy in ("mixed_float16", "float32"):
        model.dtype_policy = keras.dtype_policies.get(policy)
        ends.append(verify.bounds(model, domain).upper.item())
        assert ends[-1] == pytest.approx(1000.0 * _steepness(model), rel=1e-6)
    assert ends[0] > ends[1] + 0.2


@pytest.mark.parametrize(
    "ask", [lipschitz_bound, lambda m: verify.bounds(m, verify.box([[0.0]], [[1.0]]))]
)
def test_a_layer_that_rounds_its_weights_or_not_is_refused(half_precision, ask):
    """It was read as rounded, which it is only where no model of mixed precision is around it."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, autocast=False)])
    model.set_weights([np.array([[1.00045]]), np.zeros(1)])
    kernel = float(ops.cast(model.weights[0], "float16")[0, 0])
    assert _steepness(model) > kernel * (1 + 1e-4)
    with pytest.raises(ValueError, match="leave out `autocast=False`"):
        ask(model)


@pytest.mark.parametrize(
    "make, written",
    [
        (lambda x: layers.Rescaling(9e-8, dtype="float16")(x), 9e-8),
        (lambda x: layers.Rescaling(np.array([9e-8]), dtype="float16")(x), 9e-8),
        (lambda x: x * 9e-8, 9e-8),
        (lambda x: x / 1.4e-7, 1 / 1.4e-7),
    ],
    ids=["Rescaling", "Rescaling by an array", "product", "quotient"],
)
def test_numbers_below_the_normal_ones_are_rounded_by_more_than_a_digit(make, written):
    """In float16 9e-8 is 1.19e-7."""
    x = keras.Input((1,), dtype="float16")
    model = keras.Model(x, ops.cast(make(x), "float32"))
    distance = 16.0 if written < 1.0 else 2.0**-10
    low, high = output(model, [[0.0], [distance]])
    found = (high - low).item() / distance
    assert found > written * 1.05
    assert found <= lipschitz_bound(model).value <= found * 1.1


@pytest.mark.parametrize(
    "make, point, value",
    [
        (lambda: layers.Rescaling(1e-40), 1e30, 1e-10),
        (lambda: layers.Rescaling(1.0, offset=1e-40), 0.0, 1e-40),
        (lambda: layers.Normalization(mean=-1e-40, variance=1.0, axis=None), 0.0, 1e-40),
    ],
    ids=["scale", "offset", "mean"],
)
def test_numbers_that_are_zero_in_float32_are_arguments_as_they_are_written(make, point, value):
    """The evaluation in float64 took 0 in their place, as TensorFlow does, and certified that."""
    head, factor = layers.Dense(2), 1e38 * min(1.0, 1e-28 / value)
    model = keras.Sequential([keras.Input((1,)), make(), layers.Rescaling(factor), head])
    head.set_weights([np.array([[1.0, 0.0]]), np.array([0.0, 0.5 * factor * value])])
    # The first logit is `factor * value`, and larger.
    found = certify(model, np.array([[point]]))
    assert found.label == 0 or found.radius == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_the_slope_that_a_monotonic_model_adds_is_not_rounded_down(dtype):
    """0.7 is less in float32: the sum fell, with a network that is proven to keep to 0.7."""
    exact = keras.layers.Dense(1, use_bias=False, dtype="float64")
    network = keras.Sequential([keras.Input((1,), dtype="float64"), exact])
    exact.set_weights([np.array([[-0.7]])])
    assert lipschitz_bound(network, norm="l1").value <= 0.7
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = lip.model.monotonic(network, [1], k_coef_lip=0.7)
    finally:
        keras.config.set_dtype_policy(before)
    slope = float(ops.cast(model.get_layer("slopes").kernel, "float64")[0, 0])
    assert 0.7 <= slope <= 0.7 * (1 + 2.0**-7)
    model = lip.model.monotonic(network, [1], k_coef_lip=0.5)  # a number of every type
    assert float(model.get_layer("slopes").kernel[0, 0]) == 0.5


# --- what has no configuration --------------------------------------------------------------------


def test_models_that_clip_to_arrays_have_fingerprints():
    """Keras has no configuration of `clip` with arrays, and `certify` failed."""

    def radius_and_fingerprint(largest):
        x = keras.Input((2,))
        clipped = ops.clip(x, np.zeros(2), np.array([1.0, largest]))
        found = certify(keras.Model(x, clipped), np.array([[0.25, 0.75]]))
        return found.radius[0], found.model_fingerprint

    radius, fingerprint = radius_and_fingerprint(2.0)
    assert radius == pytest.approx(0.5**1.5)
    assert radius_and_fingerprint(2.0)[1] == fingerprint
    assert radius_and_fingerprint(2.0 + 1e-12)[1] != fingerprint


@pytest.mark.parametrize(
    "layer, reason",
    [
        (partial(layers.Conv2DTranspose, 1, 2, dilation_rate=2), "no dilated transposed"),
        (partial(layers.DepthwiseConv2D, 1, strides=(1, 2)), "no depthwise .* differ"),
        (partial(layers.SeparableConv2D, 1, 1, strides=(1, 2)), "no depthwise .* differ"),
    ],
    ids=["transposed", "depthwise", "separable"],
)
def test_a_convolution_that_is_not_computed_in_float64_is_refused_by_name(layer, reason):
    """TensorFlow computes it in float32, and failed in the middle of a float64 evaluation."""
    model = keras.Sequential([keras.Input((2, 2, 1)), layer(), layers.Flatten()])
    with pytest.raises(ValueError, match=reason):
        certify(model, np.zeros((1, 2, 2, 1)))


# --- what has the name of something else ---------------------------------------------------------


def _beyond(function, x):
    """A function of Keras up to 1, and something else beyond."""
    return ops.where(ops.max(x, axis=-1, keepdims=True) > 1.0, -function(x), function(x))


def softmax(x):
    return _beyond(keras.activations.softmax, x)


def log_softmax(x):
    return _beyond(keras.activations.log_softmax, x)


def sigmoid(x):
    return _beyond(keras.activations.sigmoid, x)


@pytest.mark.parametrize("function", [softmax, log_softmax, sigmoid], ids=lambda f: f.__name__)
@pytest.mark.parametrize("end", ["activation", "layer"])
def test_a_function_is_not_known_by_its_name(function, end, tmp_path):
    """It was left out as the function of Keras that has that name, which it is at the center."""
    units = 1 if function is sigmoid else 2
    parts = [layers.Dense(units, function)]
    if end == "layer":
        parts = [layers.Dense(units), layers.Activation(function)]
    model = keras.Sequential([keras.Input((1,)), *parts])
    model.set_weights([np.eye(1, units), np.zeros(units)])
    x = np.array([[0.5]])
    labels = [_label(output(model, point)) for point in (x, x + 1.0)]
    assert labels[0] != labels[1]
    asked = (
        lambda: verify.robustness(model, x, eps=2.0, clip=None, time_limit=1.0),
        lambda: verify.to_onnx(model, tmp_path / "model.onnx"),
        lambda: certify(model, x),
    )
    for ask in asked:
        with pytest.raises(ValueError, match=function.__name__):
            ask()


def _label(outputs):
    return int(outputs[0].argmax()) if outputs.size > 1 else int(outputs.item() > 0.5)
