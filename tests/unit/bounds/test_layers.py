"""Single layers of every kind and small graphs of operations, in every norm, by dense matrices."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf._keras import float64_kept
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.errors import UnsupportedLayerError
from tests._tables.cases import LAYERS as LIBRARY

EXACT = 1 + 1e-6  # where the rule is exact: arguments are rounded outward to float32 in places
ORACLE = 1 + 1e-12
ORDERS = {"l2": 2, "linf": np.inf, "l1": 1}
F64 = {"dtype": "float64"}


def joint_matrix(function, shapes):
    """(outputs, inputs) of an affine function of tensors, by pushing the identity through it."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    points = np.concatenate([np.eye(sum(sizes)), np.zeros((1, sum(sizes)))])
    parts = np.split(points, np.cumsum(sizes)[:-1], axis=1)
    parts = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    with float64_kept():  # Keras takes means in float32, and on PyTorch products
        outputs = function(parts if len(parts) > 1 else parts[0])
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    flat = [np.asarray(ops.convert_to_numpy(y)).reshape(len(points), -1) for y in outputs]
    joint = np.concatenate(flat, axis=1)
    return (joint[:-1] - joint[-1]).T


def randomized(layer, shape, rng):
    layer.build((None, *shape))
    for weight in layer.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(rng.standard_normal(weight.shape))
    return layer


def wrapped(layer):
    return layers.TimeDistributed(layer, **F64)


# (layer, shape of a sample, the norms in which the bound is exact)
LINEAR = [
    (lambda: layers.Dense(3, **F64), (4,), "l2 linf l1"),
    (lambda: layers.Dense(3, **F64), (2, 4), "l2 linf l1"),
    (lambda: layers.EinsumDense("abc,cd->abd", (None, 3), **F64), (4, 5), "l2 linf l1"),
    (lambda: layers.EinsumDense("abc,bcd->abd", (4, 3), **F64), (4, 5), "l2 linf l1"),
    (lambda: layers.EinsumDense("abc,cd->ad", 3, **F64), (4, 5), "l2 linf l1"),
    (lambda: layers.EinsumDense("abc,bcde->ade", (3, 2), **F64), (4, 5), "l2 linf l1"),
    (lambda: layers.EinsumDense("...x,xy->...y", 3, **F64), (4, 5), "l2 linf l1"),
    (lambda: layers.EinsumDense("abc,dc->adb", (3, 4), **F64), (4, 5), "l2 linf l1"),
    (lambda: layers.Conv1D(3, 3, **F64), (6, 2), "l2 linf l1"),
    (lambda: layers.Conv1D(3, 2, padding="causal", dilation_rate=2, **F64), (7, 2), "l2 linf l1"),
    (lambda: layers.Conv2D(4, 2, groups=2, strides=2, **F64), (6, 4, 2), "l2 linf l1"),
    (lambda: layers.Conv2D(3, 3, padding="same", dilation_rate=2, **F64), (6, 5, 2), "l2 linf l1"),
    (lambda: layers.Conv3D(2, 2, strides=2, **F64), (4, 4, 2, 2), "l2 linf l1"),
    (lambda: layers.Conv3D(2, (2, 3, 1), padding="same", **F64), (3, 4, 2, 1), "l2 linf l1"),
    (lambda: layers.Conv1DTranspose(3, 3, strides=2, **F64), (4, 2), "l2 linf l1"),
    (
        lambda: layers.Conv2DTranspose(2, 3, strides=2, padding="same", **F64),
        (3, 4, 2),
        "l2 linf l1",
    ),
    (lambda: layers.Conv3DTranspose(2, 2, strides=2, **F64), (2, 2, 3, 2), "l2 linf l1"),
    (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2, **F64), (5, 2), "l2 linf l1"),
    (lambda: layers.DepthwiseConv2D((2, 3), strides=2, **F64), (6, 6, 2), "l2 linf l1"),
    (lambda: layers.SeparableConv1D(3, 3, **F64), (5, 2), ""),
    (lambda: layers.SeparableConv2D(3, 2, padding="same", **F64), (4, 4, 2), ""),
    (lambda: lip.PadConv2D(3, 3, padding="circular", **F64), (4, 5, 2), "l2 linf l1"),
    (lambda: lip.PadConv2D(2, 2, padding="reflect", **F64), (4, 5, 2), ""),
    (lambda: wrapped(layers.Dense(3, **F64)), (4, 5), "l2 linf l1"),
    (lambda: wrapped(layers.Conv1D(2, 3, **F64)), (3, 5, 2), "l2 linf l1"),
    (lambda: layers.SpectralNormalization(layers.Dense(3, **F64), **F64), (4,), "l2 linf l1"),
    (lambda: layers.AveragePooling2D(2, **F64), (4, 5, 2), "l2 linf l1"),
    (lambda: layers.AveragePooling2D(3, 2, padding="same", **F64), (5, 5, 2), "linf l1"),
    (lambda: layers.GlobalAveragePooling1D(**F64), (5, 2), "l2 linf l1"),
    (lambda: layers.UpSampling2D((2, 3), **F64), (2, 2, 2), "l2 linf l1"),
    (lambda: layers.UpSampling3D(2, **F64), (2, 1, 2, 1), "l2 linf l1"),
    (lambda: layers.RepeatVector(3, **F64), (4,), "l2 linf l1"),
    (lambda: layers.Permute((2, 1), **F64), (2, 3), "l2 linf l1"),
    (lambda: layers.Cropping2D(1, **F64), (3, 4, 2), "l2 linf l1"),
    (lambda: layers.ZeroPadding3D(1, **F64), (2, 2, 2, 1), "l2 linf l1"),
    (lambda: layers.Rescaling(-1 / 127.5, 1.0, **F64), (3,), "l2 linf l1"),
    (lambda: layers.Rescaling([1.0, -2.0], **F64), (3, 2), "l2 linf l1"),
    (lambda: layers.Rescaling([1.0, 1.0, 1.0], **F64), (4, 1), "l2 linf l1"),
    (lambda: layers.Rescaling(2.0, [[1.0], [2.0]], **F64), (1, 3), "l2 linf l1"),
    (lambda: layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 0.01], **F64), (3, 2), "l2 l1"),
    (lambda: lip.ScaledAveragePooling2D(2, **F64), (4, 4, 2), "l2 linf l1"),
    (lambda: lip.ScaledGlobalAveragePooling2D(**F64), (3, 4, 2), "l2 linf l1"),
    (lambda: lip.LayerCentering(**F64), (4, 4, 2), "l2"),
    (lambda: lip.InvertibleDownSampling(2, **F64), (4, 4, 2), "l2 linf l1"),
    (lambda: lip.FirstChannels(1, **F64), (4, 4, 2), "l2 linf l1"),
    (lambda: lip.PadChannels(3, k_coef_lip=2.0, **F64), (4, 4, 2), "l2 linf l1"),
    (lambda: lip.ScaleBias(3.0, **F64), (4,), "l2 linf l1"),
    (lambda: lip.SpectralConv2D(3, 3, padding="reflect", **F64), (5, 4, 2), "l2 linf l1"),
    (
        lambda: lip.SpectralConv2DTranspose(2, 3, 2, padding="circular", **F64),
        (3, 3, 2),
        "l2 linf l1",
    ),
    *[
        (
            lambda size=size, strides=strides: layers.Conv1DTranspose(
                2, size, strides=strides, padding="same", **F64
            ),
            (4, 2),
            "l2 linf l1",
        )
        for size, strides in ((1, 2), (2, 3), (4, 1), (4, 3), (5, 2))
    ],
]


@pytest.mark.parametrize("index", range(len(LINEAR)))
def test_linear_layers(index, rng):
    make, shape, exact = LINEAR[index]
    layer = make()
    if layer.name.startswith(("normalization", "spectral_normalization")):
        layer.build((None, *shape))
    else:
        randomized(layer, shape, rng)
    averages = isinstance(layer, layers.AveragePooling2D) and layer.padding == "same"
    if averages and keras.backend.backend() == "torch":  # it averages copies of the border, too
        for norm in ORDERS:
            with pytest.raises(UnsupportedLayerError, match="AveragePooling2D"):
                lipschitz_bound(layer, norm=norm)
        return
    matrix = joint_matrix(layer, [shape])
    for norm, order in ORDERS.items():
        truth, bound = np.linalg.norm(matrix, order), lipschitz_bound(layer, norm=norm).value
        assert truth <= bound * ORACLE, norm
        assert bound <= truth * (EXACT if norm in exact.split() else 3.0), norm


NONLINEAR = [
    (lambda: layers.MaxPooling2D(3, 1, **F64), (5, 5, 2)),
    (lambda: layers.GlobalMaxPooling1D(**F64), (5, 2)),
    (lambda: layers.Softmax(**F64), (4,)),
    (lambda: layers.PReLU(**F64), (4,)),
    (lambda: layers.LeakyReLU(negative_slope=2.0, **F64), (4,)),
    (lambda: layers.Dense(3, activation="selu", **F64), (4,)),
    (lambda: layers.Conv1D(3, 2, activation="gelu", **F64), (4, 2)),
    (lambda: lip.GroupSort2(**F64), (3, 4)),
    (lambda: lip.FullSort(**F64), (5,)),
    (lambda: lip.MaxMin(**F64), (3, 4)),
    (lambda: lip.Householder(theta_initializer="random_normal", **F64), (3, 4)),
    (lambda: lip.Householder(order=2, **F64), (3, 4)),
    (lambda: lip.Abs(0.5, k_coef_lip=2.0, **F64), (3, 4)),
    (lambda: lip.SoftHuber(0.5, **F64), (4,)),
    (lambda: lip.NActivation(**F64), (3, 4)),
    (lambda: lip.LipschitzSpline(5, **F64), (3, 4)),
    (lambda: lip.PReLUlip(**F64), (4,)),
    (lambda: lip.ScaledL2NormPooling2D(2, **F64), (4, 4, 2)),
    (lambda: lip.ScaledGlobalL2NormPooling2D(**F64), (3, 4, 2)),
]


@pytest.mark.parametrize("index", range(len(NONLINEAR)))
def test_nonlinear_layers_between_random_pairs(index, rng):
    make, shape = NONLINEAR[index]
    layer = randomized(make(), shape, rng)
    x = rng.standard_normal((400, *shape))
    steps = 10.0 ** rng.uniform(-5, 1, (400, *[1] * len(shape)))
    # Single entries too: in l1 they are the corners of the ball, and in linf signs are.
    directions = rng.standard_normal(x.shape)
    sparse = directions * (rng.random(x.shape) < 0.15)
    directions = np.where(rng.random(steps.shape) < 0.5, sparse, np.sign(directions))
    y = x + steps * directions
    with float64_kept():
        out, moved = (ops.convert_to_numpy(layer(point)).reshape(400, -1) for point in (x, y))
    for norm, order in ORDERS.items():
        apart = np.linalg.norm((x - y).reshape(400, -1), order, axis=1)
        growth = np.linalg.norm(out - moved, order, axis=1)
        bound = lipschitz_bound(layer, norm=norm).value
        assert (growth <= bound * apart * ORACLE + 1e-13).all(), norm
        assert growth.max() > 0.0


def test_layers_without_a_constant_in_a_norm_are_refused_by_name():
    x = keras.Input((4, 4, 2))
    model = keras.Model(x, ops.sqrt(ops.sum(ops.square(x), axis=(1, 2))))
    assert 1.0 <= lipschitz_bound(model).value <= EXACT
    with pytest.raises(ValueError, match="Sqrt.*linf"):
        lipschitz_bound(model, norm="linf")
    pooling = lip.ScaledGlobalAveragePooling2D(name="whole")
    pooling.build((None, None, None, 2))
    with pytest.raises(ValueError, match="'whole'.*no l1 constant"):
        lipschitz_bound(pooling, norm="l1")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LayerNormalization(name="odd"), "standard deviation"),
        (layers.GroupNormalization(2, name="odd"), "standard deviation"),
        (layers.UnitNormalization(name="odd"), "its own norm"),
        (layers.Lambda(lambda x: x, name="odd"), "anything"),
        (layers.Masking(name="odd"), "jumps"),
        (layers.LSTM(3, name="odd"), "recurrent"),
        (layers.EinsumDense("ab,ab->ab", 4, name="odd"), "mixes samples"),
        (layers.EinsumDense("ab,cb->ca", 5, name="odd"), "mixes samples"),
        (layers.Activation("exponential", name="odd"), "exponential"),
    ],
    ids=lambda value: getattr(value, "__class__", type(value)).__name__,
)
def test_refusals_name_the_layer_and_the_reason(layer, reason):
    shape = (4, 4) if isinstance(layer, layers.LSTM | layers.Masking) else (4,)
    if isinstance(layer, layers.EinsumDense):
        layer.build((5, 4))
    else:
        layer.build((None, *shape))
    with pytest.raises(ValueError, match=f"'odd'.*{reason}"):
        lipschitz_bound(layer)


def test_a_rescaling_that_is_not_built_is_bounded_for_the_shape_of_its_arguments():
    layer = layers.Rescaling([1.0, -2.0], **F64)
    assert 2.0 <= lipschitz_bound(layer).value <= 2.0 * EXACT
    x = keras.Input((None, 1), **F64)
    with pytest.raises(ValueError, match="Rescaling"):
        lipschitz_bound(keras.Model(x, layers.Rescaling(np.ones((3, 1)), **F64)(x)))


# --- graphs ------------------------------------------------------------------------------------


def dense(units, scale):
    initializer = keras.initializers.Constant(0.0)
    layer = layers.Dense(units, use_bias=False, kernel_initializer=initializer, **F64)
    layer.build((None, units))
    layer.kernel.assign(scale * np.eye(units))
    return layer


def graph(*shapes):
    """Makes a model of the function that is decorated."""

    def build(function):
        inputs = [keras.Input(shape, **F64) for shape in shapes]
        model = keras.Model(inputs if len(inputs) > 1 else inputs[0], function(*inputs))
        model.exact = function.__doc__.split()
        return pytest.param(model, id=function.__name__)

    return build


@graph((4,))
def slices_apart(x):
    """l2 linf l1"""
    return layers.Concatenate(**F64)([dense(2, 3.0)(x[:, :2]), dense(2, 4.0)(x[:, 2:])])


@graph((4,))
def sum_of_slices(x):
    """l2 linf l1"""
    first, second = ops.split(x, 2, axis=1)
    return layers.Add(**F64)([dense(2, 3.0)(first), dense(2, 4.0)(second)])


@graph((4,))
def slices_that_overlap(x):
    """linf"""
    return layers.Concatenate(**F64)([dense(3, 3.0)(x[:, :3]), dense(3, 4.0)(x[:, 1:])])


@graph((3,), (3,))
def sum_of_inputs(x, y):
    """l2 linf l1"""
    return layers.Add(**F64)([dense(3, 3.0)(x), dense(3, 4.0)(y)])


@graph((3,), (3,))
def outputs_of_inputs(x, y):
    """l2 linf l1"""
    return [dense(3, 3.0)(x), dense(3, 4.0)(y)]


@graph((3,))
def outputs_of_one_input(x):
    """l2 linf l1"""
    return [dense(3, 3.0)(x), dense(3, 4.0)(x)]


@graph((4, 3))
def centered(x):
    """l2"""
    return x - ops.mean(x, axis=1, keepdims=True)


@graph((4, 3))
def reordered(x):
    """l2 linf l1"""
    moved = ops.squeeze(ops.expand_dims(ops.transpose(x, (0, 2, 1)), 2), 2)
    return ops.flip(ops.reshape(moved, (-1, 12)), 1) * -2.0


GRAPHS = [
    slices_apart,
    sum_of_slices,
    slices_that_overlap,
    sum_of_inputs,
    outputs_of_inputs,
    outputs_of_one_input,
    centered,
    reordered,
]


@pytest.mark.parametrize("model", GRAPHS)
def test_graphs(model):
    matrix = joint_matrix(model, [tensor.shape[1:] for tensor in model.inputs])
    for norm, order in ORDERS.items():
        truth, bound = np.linalg.norm(matrix, order), lipschitz_bound(model, norm=norm).value
        assert truth <= bound * ORACLE, norm
        assert bound <= truth * (EXACT if norm in model.exact else 3.0), norm


@pytest.mark.slow
@pytest.mark.parametrize("case", LIBRARY, ids=str)
def test_an_export_is_bounded_as_tightly_as_its_layer(case, rng):
    """Its operations are recognized together: paddings, roots of squares, centering."""
    layer = randomized(case.make(), case.shape, rng)
    exported = layer.vanilla_export()
    if not exported.built:
        exported.build((None, *case.shape))
    bound = lipschitz_bound(layer).value
    assert lipschitz_bound(exported).value == pytest.approx(bound, rel=1e-4)


def squares_used_twice(x):
    squares = ops.square(x)
    return [ops.sqrt(ops.sum(squares, axis=1)), squares]


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (squares_used_twice, "Square"),
        (lambda x: ops.sqrt(ops.sum(x, axis=1)), "Sqrt"),
        (lambda x: ops.sqrt(ops.sum(ops.square(x), axis=0)), "Sqrt"),
        (lambda x: ops.where(x > 1, ops.sqrt(x), ops.zeros_like(x)), "Where"),
        (lambda x: x - ops.mean(x, axis=0, keepdims=True), "Mean"),
        (lambda x: ops.mean(x, axis=1, keepdims=True) - x, "Mean"),
        (lambda x: ops.reshape(x, (-1, 2)), "Reshape"),
        (lambda x: ops.transpose(x, (1, 0, 2)), "Transpose"),
        (lambda x: x[0], "GetItem"),
        (lambda x: ops.cast(x, "int32"), "Cast"),
        (lambda x: ops.flip(x), "Flip"),
        (lambda x: ops.roll(x, 1), "Roll"),
        (lambda x: ops.roll(x, 1, axis=(0, 1)), "Roll"),
    ],
)
def test_operations_without_a_rule_are_refused(function, refused):
    x = keras.Input((4, 4))
    with pytest.raises(ValueError, match=refused):
        lipschitz_bound(keras.Model(x, function(x)))


def test_a_fold_that_is_no_padding_keeps_its_own_bound(rng):
    """A transposed convolution and an `einsum` with another matrix are not taken for a padding."""
    x = keras.Input((4, 2), **F64)
    y = layers.Conv1DTranspose(2, 3, use_bias=False, **F64)(x)
    matrix = np.zeros((6, 4))
    matrix[:, 0] = 1.0
    model = keras.Model(x, ops.einsum("abc,bz->azc", y, matrix))
    truth = np.linalg.norm(joint_matrix(model, [(4, 2)]), 2)
    assert truth <= lipschitz_bound(model).value * ORACLE


def test_a_relu_between_convolution_and_fold_is_no_adjoint(rng):
    x = keras.Input((4, 1), **F64)
    y = layers.Conv1DTranspose(1, 3, use_bias=False, activation="relu", **F64)(x)
    matrix = np.eye(6, 4, k=-1)
    matrix[0, 3] = matrix[5, 0] = 1.0
    model = keras.Model(x, ops.einsum("abc,bz->azc", y, matrix))
    model.layers[1].set_weights([np.array([1.0, -2.0, 1.0]).reshape(3, 1, 1)])
    entries = [entry.method for entry in lipschitz_bound(model).per_layer]
    assert not any("padding" in method for method in entries)


@pytest.mark.parametrize("budget", [1e-4, 0.01, 1.0, 4.0])
def test_every_budget_is_sound_and_more_is_never_looser(budget, rng):
    kernel = rng.standard_normal((3, 3, 6, 6))
    layer = layers.Conv2D(6, 3, padding="same", use_bias=False, **F64)
    layer.build((None, None, None, 6))
    layer.kernel.assign(kernel)
    offsets = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(9, 2)
    points = rng.uniform(-np.pi, np.pi, (4000, 2))
    symbols = np.einsum("ft,tio->fio", np.exp(1j * points @ offsets.T), kernel.reshape(9, 6, 6))
    attained = np.linalg.norm(symbols, 2, axis=(1, 2)).max()
    bound = lipschitz_bound(layer, budget=budget).value
    assert attained <= bound * ORACLE
    assert bound <= attained * (1.01 if budget >= 1.0 else 1.6)
    assert bound >= lipschitz_bound(layer, budget=8.0).value * (1 - 1e-6)
    assert lipschitz_bound(layer, budget=budget).value == bound
