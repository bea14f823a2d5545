"""SavedModels that are read compute what TensorFlow computes with them.

The oracle is the SavedModel itself, which TensorFlow loads and runs.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.layers.compiled import sorting
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.verify import from_saved_model, robustness
from tests._tables.cases import LAYERS, Case
from tests._tables.stacks import layer, net
from tests._tables.verify_cases import randomize

CLOSE = dict(rtol=1e-5, atol=1e-5)  # float32 sums in another order, through several layers


def merging():
    x = keras.Input((5, 4, 2))
    a = layers.Conv2D(2, 3, padding="same", activation="relu")(x)
    d = layers.Maximum()([a, layers.Minimum()([x, 0.5 - a / 3.0])])
    e = layers.Concatenate(axis=1)([layers.Subtract()([x, d]), layers.Average()([a, x, d])])
    flat = [layers.Flatten()(t) for t in (layers.Concatenate()([-a, layers.Add()([x, a])]), e)]
    return keras.Model(x, layers.Dense(3)(layers.Concatenate()(flat)))


def activated():
    names = ("relu", "relu6", "elu", "selu", "gelu", "silu", "tanh", "softplus", "softsign")
    x = keras.Input((5,))
    parts = [layers.Dense(2, name)(x) for name in (*names, "sigmoid", "hard_sigmoid")]
    parts += [layers.ELU(alpha=0.7)(x), layers.PReLU()(x), layers.ReLU(max_value=0.5)(x)]
    parts += [layers.LeakyReLU()(x), layers.Activation("exponential")(x)]
    return keras.Model(x, layers.Dense(4, "softmax")(layers.Concatenate()(parts)))


L, M = layers, lip.layers
MODELS = {
    "activations": activated,
    "images": net(
        (9, 8, 2),
        layer(L.Rescaling, 2.0, -1.0),
        layer(L.ZeroPadding2D, ((1, 0), (2, 1))),
        layer(L.Conv2D, 4, 3, strides=2, padding="same", activation="relu"),
        L.BatchNormalization,
        layer(L.MaxPooling2D, 2, padding="same"),
        layer(L.DepthwiseConv2D, 2, padding="same", depth_multiplier=2),
        layer(L.AveragePooling2D, 2, strides=1),
        layer(L.Conv2D, 4, 1),
        layer(L.Reshape, (-1, 4)),
        L.GlobalAveragePooling1D,
        layer(L.Dense, 3),
    ),
    "dilations": net(
        (9, 8, 2),
        layer(L.Conv2D, 3, (3, 2), dilation_rate=2, activation="relu"),
        layer(L.Conv2D, 3, 3, dilation_rate=(2, 3), padding="same", use_bias=False),
        layer(L.DepthwiseConv2D, 2, dilation_rate=2),
        layer(L.UpSampling2D, 2),
        layer(L.Cropping2D, ((1, 2), (0, 1))),
        L.GlobalMaxPooling2D,
    ),
    "sequence": net(
        (12, 3),
        layer(L.Normalization, mean=[1.0, 2, 3], variance=[4.0, 5, 6]),
        layer(L.Conv1D, 4, 3, activation="softplus"),
        layer(L.BatchNormalization, axis=1),
        layer(L.AveragePooling1D, 2),
        layer(L.MaxPooling1D, 2, strides=1),
        layer(L.Permute, (2, 1)),
        layer(L.Dense, 3, "tanh"),
        layer(L.Reshape, (-1,)),
        layer(L.RepeatVector, 2),
        layer(L.GlobalAveragePooling1D),
    ),
    "groups": net(
        (6, 5, 4),
        layer(L.Conv2D, 6, 3, groups=2, strides=2, padding="same", activation="relu"),
        layer(L.Reshape, (-1, 6)),
        layer(L.Conv1D, 6, 3, groups=3),
        layer(L.GlobalAveragePooling1D),
    ),
    "transposed": net(
        (3, 4, 2),
        layer(L.Conv2DTranspose, 3, 3, strides=2, padding="same", activation="relu"),
        layer(L.Conv2DTranspose, 2, (2, 3), strides=(1, 4)),
        layer(M.SpectralConv2DTranspose, 3, 3, strides=2),
        layer(L.Reshape, (-1, 6)),
        layer(L.Conv1DTranspose, 2, 4, strides=3, use_bias=False),
        layer(L.GlobalAveragePooling1D),
    ),
    "merging": merging,
    "constrained": net(
        (4, 4, 4),
        layer(M.SpectralConv2D, 4, 3),
        M.GroupSort2,
        M.MaxMin,
        layer(M.ScaledAveragePooling2D, 2),
        L.Flatten,
        layer(M.SpectralDense, 6),
        layer(M.GroupSort, n=3),
        M.PReLUlip,
        layer(M.FrobeniusDense, 5),
        M.FullSort,
    ),
}


def exported(model, folder):
    path = folder / "exported"
    model.export(path, verbose=False)
    return str(path)


def outputs_of(path, x):
    (result,) = tf.saved_model.load(path).signatures["serving_default"](tf.constant(x)).values()
    return result.numpy()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_numbers(name, tmp_path, rng):
    model = MODELS[name]()
    randomize(model, 0.5)
    path = exported(model, tmp_path)
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    expected = outputs_of(path, x)
    again = from_saved_model(path)
    assert again.input_shape == model.input_shape and np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(again.predict_on_batch(x), expected, **CLOSE)
    lower_model(again)  # raises where a part has no rule


# What is exported as operators that say nothing of what they compute.
NOT_READ = {
    M.Householder: "are not supported: .*LogicalNot|are not supported: .*LessEqual",
    M.LipschitzSpline: "are not supported: .*Floor",
    M.SoftHuber: "RealDiv .* must have one constant input",
    M.SpectralSimpleRNN: "are not supported: .*(Unpack|While)",
    M.FrobeniusConv3D: "are not supported: Conv3D",
    M.SpectralConv3D: "are not supported: Conv3D",
    M.SpectralConv3DTranspose: "are not supported: Conv3D",
}
# With some arguments.
PARTLY = "SpaceToBatchND .* must have images|Conv2DBackpropInput .* must have an output of shape"


def read_again(case, folder, rng):
    """A layer, what its export computes as it is served, and what is read of that."""
    made = case.make()
    model = lip.Sequential([keras.Input(case.shape), made])
    path = exported(model.vanilla_export(), folder)
    x = rng.normal(size=(3, *case.shape)).astype("float32")
    again = from_saved_model(path)
    np.testing.assert_allclose(again.predict_on_batch(x), outputs_of(path, x), **CLOSE)
    np.testing.assert_allclose(again.predict_on_batch(x), model(x), **CLOSE)
    return made, again


@pytest.mark.parametrize(
    "case",
    [
        Case(M.ScaledL2NormPooling2D, dict(pool_size=(2, 3)), (6, 7, 2)),
        Case(M.ScaledGlobalL2NormPooling2D, {}, (3, 2, 2)),
        Case(M.Abs, dict(fraction=0.5), (4,)),
        Case(M.LipNeXtBlock, dict(filters=8), (3, 4, 8)),
        Case(M.SpectralConv2D, dict(filters=2, kernel_size=3, padding="reflect"), (4, 3, 2)),
        Case(M.AOCConv2DTranspose, dict(filters=2, kernel_size=3, padding="circular"), (4, 3, 2)),
    ],
    ids=str,
)
def test_layers_that_are_several_operators_are_bounded_as_they_were(case, tmp_path, rng):
    made, again = read_again(case, tmp_path, rng)
    of_layer = lip.bounds.lipschitz_bound(keras.Sequential([keras.Input(case.shape), made])).value
    assert lip.bounds.lipschitz_bound(again).value <= of_layer * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
@pytest.mark.parametrize(
    "case", {(c.cls, c.kwargs.get("padding")): c for c in LAYERS}.values(), ids=str
)
def test_every_layer_is_read_again_or_said_not_to_be(case, tmp_path, rng):
    copies = case.kwargs.get("padding", "same") not in ("same", "valid")
    is_strided = copies and case.kwargs.get("strides", 1) != 1 and "Transpose" in str(case)
    in_steps = case.cls is M.SpectralConv1D and "dilation_rate" in case.kwargs
    reason = NOT_READ.get(case.cls, PARTLY if in_steps or is_strided else None)
    if reason is None:
        read_again(case, tmp_path, rng)
        return
    with pytest.raises(ValueError, match=reason):
        read_again(case, tmp_path, rng)


@pytest.mark.slow
def test_several_are_read_one_after_the_other(tmp_path, rng):
    """TensorFlow gives parts of each the same names."""
    paths = []
    for units in (4, 5, 6):
        stack = layer(M.SpectralDense, units), layer(M.SpectralDense, 3)
        paths.append(exported(net((5,), *stack)(), tmp_path / str(units)))
    x = rng.normal(size=(4, 5)).astype("float32")
    for path in paths:
        found = from_saved_model(path).predict_on_batch(x)
        np.testing.assert_allclose(found, outputs_of(path, x), **CLOSE)


def test_what_is_read_is_verified_as_the_keras_model(tmp_path, rng):
    parts = layer(L.Conv2D, 3, 2, activation="relu"), L.BatchNormalization, L.MaxPooling2D
    model = net((5, 5, 1), *parts, L.Flatten, layer(L.Dense, 3, "softmax"))()
    x = rng.uniform(size=(8, 5, 5, 1)).astype("float32")
    again = from_saved_model(exported(model, tmp_path))
    answers = [robustness(m, x, eps=5e-3, method="crown") for m in (model, again)]
    np.testing.assert_array_equal(*(answer.status for answer in answers))
    # The stored function multiplies by a rounded `gamma / sqrt(variance)`.
    np.testing.assert_allclose(*(answer.margin for answer in answers), atol=1e-6)
    assert (answers[0].status == "robust").any()


# --- functions of other tools --------------------------------------------------------------------


def saved(function, shape, folder, signatures=None, dtype=tf.float32):
    module = tf.Module()
    module.kernel = tf.Variable(np.random.default_rng(0).normal(size=(3, 3)), dtype=dtype)
    module.call = tf.function(lambda x: function(x, module.kernel)).get_concrete_function(
        *([tf.TensorSpec(shape, dtype, "x")] if signatures is None else signatures)
    )
    path = str(folder / "saved")
    tf.saved_model.save(module, path, signatures=module.call)
    return path


def normalized(x, k):
    image = tf.reshape(x, (-1, 1, 1, 3))
    return tf.squeeze(
        tf.compat.v1.nn.fused_batch_norm(image, k[0], k[1], k[2], k[0] ** 2, is_training=False)[0],
        [1, 2],
    )


FUNCTIONS = {
    "transposed kernel": lambda x, k: tf.matmul(x, k, transpose_b=True) + k[:1],
    "control flow of constants": lambda x, k: (
        x @ tf.while_loop(lambda i, m: i < 3, lambda i, m: (i + 1, m @ k), (0, k))[1]
    ),
    "padding and sums": lambda x, k: tf.reduce_sum(
        tf.pad(tf.expand_dims(x @ k, 1), [[0, 0], [1, 0], [0, 1]]), [2]
    ),
    "products of batches": lambda x, k: tf.matmul(tf.expand_dims(x, 1), k)[:, 0],
    "batch normalization": normalized,
    "padding by numbers": lambda x, k: tf.reshape(
        tf.nn.conv2d(
            tf.reshape(x, (-1, 1, 3, 1)),
            tf.reshape(k, (1, 3, 1, 3)),
            strides=1,
            padding=[[0, 0], [0, 1], [1, 0], [0, 0]],
        ),
        (-1, 12),
    ),
    "absolute values": lambda x, k: tf.abs(k[0] - x) / (1.0 + k[1] ** 2),
    "a vector of one number": lambda x, k: x * tf.sigmoid(tf.constant([1.0]) * x) * k[0, :1],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("batch", [None, 1])
def test_functions_without_keras(name, batch, tmp_path, rng):
    path = saved(FUNCTIONS[name], (batch, 3), tmp_path)
    x = rng.normal(size=(batch or 4, 3)).astype("float32")
    found = from_saved_model(path).predict_on_batch(x)
    np.testing.assert_allclose(found, outputs_of(path, x), **CLOSE)


@pytest.mark.parametrize("shape", [(6,), (3, 5, 4), (70, 60, 4)])
@pytest.mark.parametrize("form", [sorting._sort_pairs_as_complex, sorting._sort_neighbours])
def test_sorted_pairs_are_recognized_in_both_forms(form, shape, tmp_path, rng):
    """Files of earlier versions hold the pairs as complex numbers."""
    module = tf.Module()
    module.serve = tf.function(form, [tf.TensorSpec((None, *shape), "float32")], autograph=False)
    tf.saved_model.save(module, tmp_path, signatures=module.serve)
    x = rng.normal(size=(3, *shape)).astype("float32")
    again = from_saved_model(tmp_path)
    expected = np.sort(x.reshape(-1, 2), axis=-1).reshape(x.shape)
    np.testing.assert_array_equal(again.predict_on_batch(x), expected)
    assert any(isinstance(layer, lip.layers.GroupSort) for layer in again.layers)


def exchanged(first_part, mask):
    def call(x):
        rows = tf.reshape(x, (-1, 4))
        following = tf.concat([rows[:, first_part:], rows[:, :1]], axis=1)
        preceding = tf.concat([rows[:, -1:], rows[:, :-1]], axis=1)
        return tf.where([mask], tf.minimum(rows, following), tf.maximum(rows, preceding))

    return call


@pytest.mark.parametrize(
    ("first_part", "mask"), [(-3, [True, False, True, True]), (1, [False, True] * 2)]
)
def test_what_is_almost_a_sort_is_not_taken_for_one(first_part, mask, tmp_path):
    module = tf.Module()
    module.serve = tf.function(exchanged(first_part, mask), [tf.TensorSpec((None, 4), "float32")])
    tf.saved_model.save(module, tmp_path, signatures=module.serve)
    with pytest.raises(ValueError, match="SelectV2"):
        from_saved_model(tmp_path)


def test_float64_loses_nothing(tmp_path, rng):
    def function(x, k):
        return tf.reduce_max(tf.reshape(tf.tanh(x @ k) @ k + k[0], (-1, 3, 1)), 1)

    path = saved(function, (None, 3), tmp_path, dtype=tf.float64)
    x = rng.normal(size=(4, 3))
    found = from_saved_model(path).predict_on_batch(x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, outputs_of(path, x), rtol=1e-13, atol=1e-13)


def cut(x, k):
    """The adjoint of a convolution with stride 2 of an image of odd size."""
    image, kernel = tf.reshape(x, (-1, 1, 3, 1)), tf.reshape(k[0], (1, 3, 1, 1))
    sizes = tf.stack([tf.shape(x)[0], 1, 5, 1])
    return tf.nn.conv2d_transpose(image, kernel, sizes, strides=(1, 2))[:, 0, :, 0]


def changed(x, k):
    k.assign_add(k)
    return x @ k


REFUSED = {
    "unsupported": (lambda x, k: tf.cumsum(tf.sin(x) @ k), r"not supported: Sin .*; Cumsum "),
    "products": (lambda x, k: x * (x @ k), "Mul .*one constant input"),
    "cut": (cut, r"an output of shape \(1, 6, 1\)"),
    "random": (lambda x, k: x @ (k + tf.random.normal((3, 3))), "RandomStandardNormal"),
    "shapes of values": (
        lambda x, k: x[:, : tf.cast(tf.shape(tf.where(x[0] > 100.0))[0], tf.int32)] @ k[:0] + k[0],
        "Where",
    ),
    "changes": (changed, "leave its variables as they are. Received: AssignAddVariableOp"),
    "batch size": (lambda x, k: x / tf.cast(tf.shape(x)[0], x.dtype), "size of the batch"),
    "slices by the batch": (lambda x, k: x[:, : tf.shape(x)[0]] @ k[:1], "StridedSlice .*batch"),
    "mixed samples": (lambda x, k: tf.reshape(x, (3, -1)), "Reshape .*the batch first"),
    "more axes": (lambda x, k: x * tf.sigmoid(tf.ones((1, 1, 1)) * x), "Mul .*broadcasts against"),
    "over samples": (lambda x, k: tf.reduce_mean(x, 0), "Mean .*behind the batch"),
    "negative slope": (lambda x, k: tf.nn.leaky_relu(x, -0.5), "LeakyRelu .* cannot be read: "),
    "constant of samples": (lambda x, k: x + k, r"broadcasts against samples of shape \(3,\)"),
    "constant": (lambda x, k: k, "does not depend on the input"),
    "integers": (lambda x, k: x, "float32 or float64", [tf.TensorSpec((None, 3), tf.int32)]),
    "unknown shape": (lambda x, k: x, "known size", [tf.TensorSpec((None, None), tf.float32)]),
    "several inputs": (
        lambda x, k: x["a"] + x["b"],
        "one input. Received: .*a.*b",
        [{n: tf.TensorSpec((None, 3), tf.float32, n) for n in "ab"}],
    ),
    "several outputs": (lambda x, k: {"a": x, "b": x @ k}, r"one output. Received: \['a', 'b'\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(name, tmp_path):
    function, message, *signatures = REFUSED[name]
    path = saved(function, (None, 3), tmp_path, *signatures)
    with pytest.raises(ValueError, match=message):
        from_saved_model(path)


def test_no_saved_model_and_no_such_signature(tmp_path):
    with pytest.raises(ValueError, match="must be the folder of a SavedModel"):
        from_saved_model(tmp_path / "none")
    with pytest.raises(ValueError, match="is not a SavedModel"):
        from_saved_model(tmp_path)
    path = saved(lambda x, k: x @ k, (None, 3), tmp_path)
    with pytest.raises(ValueError, match=r"has \['serving_default'\]. Received: 'other'"):
        from_saved_model(path, signature="other")
