"""Lowered models compute what the models compute; what cannot be lowered is named."""

import dataclasses
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import activations, layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf.semantics import functions
from deel_lip_tf.semantics.ir.arrays import NUMPY
from deel_lip_tf.semantics.ir.decompositions import sorting_network
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.semantics.ir.moves import move_of
from deel_lip_tf.semantics.ir.primitives import Gather, Pick, Reshape, Transpose
from deel_lip_tf.semantics.ir.program import Affine
from deel_lip_tf.semantics.rule import registered
from deel_lip_tf.verify import robustness
from deel_lip_tf.verify.tensorflow import TENSORFLOW, evaluate
from tests._tables import verify_cases

SAME_FLOAT64 = dict(rtol=1e-11, atol=1e-11)


def output(program, x):
    return np.asarray(evaluate(program, tf.constant(x))[program.output])


@pytest.fixture(scope="module", params=verify_cases.ROWS, ids=str)
def lowered(request):
    """A row, its model and its program: once for all that is asked of them."""
    model = request.param.model()
    return request.param, model, lower_model(model)


@pytest.fixture
def affine_nodes(lowered):
    """The affine nodes of a row, with the shapes of their parents."""
    _, _, program = lowered
    return [(n, program.shapes(n.parents)) for n in program.nodes if isinstance(n, Affine)]


def test_the_program_computes_what_the_model_computes(lowered):
    row, model, program = lowered
    x = np.random.default_rng(0).normal(size=(3, *row.shape))
    np.testing.assert_allclose(output(program, x), row.outputs(model, x), **SAME_FLOAT64)


def structure(value):
    """A program, or a part of it, with the shapes of arrays in place of their entries."""
    if isinstance(value, np.ndarray):
        return value.shape
    if isinstance(value, tuple | list):
        return tuple(map(structure, value))
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return type(value), *(structure(getattr(value, field.name)) for field in fields)
    return value


@pytest.mark.slow
def test_rows_that_are_left_out_of_bounds_are_there_but_for_numbers():
    known = {structure(lower_model(row.model()).nodes) for row in verify_cases.DISTINCT}
    for row in verify_cases.REPEATED:
        assert structure(lower_model(row.model()).nodes) in known, row


def test_other_numbers_are_no_other_structure():
    """But sizes, strides and functions are."""

    def of(*arguments, seed=0, **options):
        inputs = keras.Input((5, 2), dtype="float64")
        layer = layers.Conv1D(*arguments, dtype="float64", **options)
        model = keras.Model(inputs, layer(inputs))
        verify_cases.randomize(model, seed=seed)
        return structure(lower_model(model).nodes)

    assert of(3, 2) == of(3, 2, seed=1)
    options = ({"strides": 2}, {"padding": "same"}, {"activation": "relu"}, {"use_bias": False})
    others = [of(4, 2), of(3, 3), *(of(3, 2, **changed) for changed in options)]
    assert len({of(3, 2), *others}) == 1 + len(others)


@pytest.mark.parametrize(
    "pooling",
    [
        partial(layers.AveragePooling3D, 2),
        partial(layers.AveragePooling3D, (2, 3, 1), strides=2, padding="same"),
        partial(layers.MaxPooling3D, 2, strides=1),
        partial(layers.MaxPooling3D, (3, 2, 2), padding="same"),
    ],
)
def test_pooling_in_space_has_a_rule_in_float64(pooling):
    """TensorFlow has no such kernel on a CPU: the model itself computes in float32."""
    model = keras.Sequential([keras.Input((4, 5, 3, 2)), pooling()])
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3, 2))
    expected = np.asarray(model(x.astype("float32")))
    np.testing.assert_allclose(output(lower_model(model), x), expected, rtol=1e-5, atol=1e-6)


INTERPRETERS = {"numpy": (NUMPY, np.asarray), "tensorflow": (TENSORFLOW, tf.constant)}


def test_tensors_may_have_as_many_axes_as_tensorflow_adds_up():
    x = keras.Input((2, 1, 2, 1, 2, 1, 3), dtype="float64")
    point = np.random.default_rng(0).normal(size=(2, *x.shape[1:]))
    program = lower_model(keras.Model(x, ops.sum(x, axis=(3, 7))))
    np.testing.assert_allclose(output(program, point), point.sum(axis=(3, 7)), **SAME_FLOAT64)


@pytest.mark.parametrize("name", list(INTERPRETERS))
def test_the_adjoint_is_the_transpose(affine_nodes, name):
    (arrays, tensor), rng = INTERPRETERS[name], np.random.default_rng(0)
    for node, shapes in affine_nodes:
        x = [rng.normal(size=(2, *shape)) for shape in shapes]
        y = rng.normal(size=(2, *node.shape))
        forth = np.asarray(node.map.apply(arrays, list(map(tensor, x))))
        back = node.map.adjoint(arrays, tensor(y), shapes)
        assert [part.shape for part in back] == [part.shape for part in x]
        expected = sum((np.asarray(a) * b).sum() for a, b in zip(back, x, strict=True))
        np.testing.assert_allclose((forth * y).sum(), expected, rtol=1e-10)


def test_both_interpreters_apply_the_same_maps(affine_nodes):
    rng = np.random.default_rng(0)
    for node, shapes in affine_nodes:
        x = [rng.normal(size=(2, *shape)) for shape in shapes]
        for method in (node.map.apply, node.map.absolute):
            found = np.asarray(method(TENSORFLOW, list(map(tf.constant, x))))
            assert found.shape[1:] == node.shape
            np.testing.assert_allclose(method(NUMPY, x), found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(INTERPRETERS))
def test_absolute_maps_have_absolute_coefficients(affine_nodes, name):
    """With respect to each parent, entry by entry of the matrix."""
    arrays, tensor = INTERPRETERS[name]
    for node, shapes in affine_nodes:
        for position, shape in enumerate(shapes):
            eye = np.eye(int(np.prod(shape))).reshape(-1, *shape)
            x = [np.zeros((len(eye), *other)) for other in shapes]
            x[position] = eye
            x = list(map(tensor, x))
            matrix = np.abs(np.asarray(node.map.apply(arrays, x)))
            absolute = np.asarray(node.map.absolute(arrays, x))
            assert (absolute >= matrix * (1 - 1e-12)).all()
            np.testing.assert_allclose(absolute, matrix, rtol=1e-12, atol=1e-15)


def test_exact_maps_only_move_entries(affine_nodes):
    rng = np.random.default_rng(0)
    for node, shapes in affine_nodes:
        if node.is_exact:
            x = [rng.normal(size=(1, *shape)) for shape in shapes]
            found = np.asarray(node.map.apply(NUMPY, x)).ravel()
            given = np.concatenate([part.ravel() for part in x])
            moved = found[found != 0.0]
            assert np.isin(moved, given).all()
            assert np.unique(moved).size == moved.size


MORE_THAN_MOVES = {
    "sorts": lambda x: np.sort(x, axis=-1),
    "takes the largest": lambda x: np.maximum.accumulate(x, axis=-1),
    "cuts off": lambda x: np.maximum(x, 0.0),
    "rounds": np.round,
    "adds": lambda x: x + np.roll(x, 1) * 0.0 + (x < 0),
    "puts a constant": lambda x: np.pad(x, [(0, 0), (0, 0), (1, 0)], constant_values=1.0),
    "mixes samples": lambda x: np.concatenate([x, x]),
    "doubles": lambda x: 2.0 * x,
}


@pytest.mark.parametrize("name", list(MORE_THAN_MOVES))
def test_what_does_more_than_move_is_found(name):
    assert move_of(MORE_THAN_MOVES[name], (2, 3)) is None


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x.reshape(1, 3, 2), Reshape),
        (lambda x: x.transpose(0, 2, 1), Transpose),
        (lambda x: x[:, ::-1], Gather),
        (lambda x: np.pad(x, [(0, 0), (1, 0), (0, 2)]), Gather),
        (lambda x: x.repeat(2, axis=2), Gather),
        (lambda x: x.reshape(1, 6)[:, [5, 0, 0, 2]], Pick),
    ],
)
def test_what_moves_is_the_plainest_map(function, kind):
    move = move_of(function, (2, 3))
    x = np.random.default_rng(1).normal(size=(1, 2, 3))
    assert type(move) is kind
    np.testing.assert_array_equal(move.apply(NUMPY, [x]), function(x))


def test_lowering_leaves_the_model_alone():
    model = verify_cases.own(verify_cases.cases.CONVOLUTIONS[0]).model()
    before, config = [w.numpy().copy() for w in model.weights], model.to_json()
    lower_model(model)
    assert all((w.numpy() == b).all() for w, b in zip(model.weights, before, strict=True))
    assert model.to_json() == config


def dense(units, **arguments):
    return layers.Dense(units, dtype="float64", **arguments)


def inner_softmax(x):
    inner = keras.Sequential([keras.Input((4,), dtype="float64"), dense(3, activation="softmax")])
    return inner(dense(4)(x))


ENDS = {
    "activation=": lambda x: dense(3, activation="softmax")(x),
    "layer": lambda x: layers.Softmax(dtype="float64")(dense(3)(x)),
    "Activation": lambda x: layers.Activation("softmax", dtype="float64")(dense(3)(x)),
    "operation": lambda x: ops.softmax(dense(3)(x)),
    "log": lambda x: ops.log_softmax(dense(3)(x)),
    "nested": inner_softmax,
    "before identities": lambda x: layers.Flatten(dtype="float64")(
        layers.Dropout(0.5, dtype="float64")(dense(3, activation="softmax")(x))
    ),
}


@pytest.mark.parametrize("name", list(ENDS))
def test_a_final_softmax_is_left_out(name):
    x = keras.Input((4,), dtype="float64")
    model = keras.Model(x, ENDS[name](x))
    verify_cases.randomize(model)
    points = np.random.default_rng(0).normal(size=(5, 4))
    logits = output(lower_model(model), points)
    normalized = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.asarray(model(points))
    expected = np.exp(expected) if name == "log" else expected
    np.testing.assert_allclose(normalized, expected, rtol=1e-10)
    assert np.ptp(logits.sum(axis=1)) > 1e-3, "these are not logits"


def test_the_sigmoid_of_one_output_is_left_out():
    x = keras.Input((4,), dtype="float64")
    model = keras.Model(x, dense(1, activation="sigmoid")(x))
    points = np.random.default_rng(0).normal(size=(5, 4))
    logits = output(lower_model(model), points)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.asarray(model(points)), rtol=1e-10)


def test_what_has_no_rule_is_named_all_at_once():
    x = keras.Input((4, 4, 2))
    y = layers.LayerNormalization(name="first")(x)
    y = layers.Softmax(name="second")(layers.Flatten()(y))
    y = layers.Dense(3, activation=lambda z: z**2, name="third")(y)
    inner = keras.Sequential(
        [keras.Input((3,)), layers.UnitNormalization(name="fourth")], name="in"
    )
    y = layers.ReLU(threshold=1.0, name="fifth")(inner(y))
    model = keras.Model(x, layers.Multiply(name="sixth")([y, y]))
    with pytest.raises(ValueError, match="cannot be verified") as error:
        lower_model(model)
    for name in ("first", "second", "third", "in/fourth", "fifth", "sixth"):
        assert f"{name!r}" in str(error.value)
    assert "softmax" in str(error.value).lower()


class Doubled(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


REFUSED = {
    "a subclass": lambda x: Doubled(3)(x),
    "training": lambda x: layers.Dropout(0.5)(x, training=True),
    "product": lambda x: x * layers.Dense(4)(x),
    "batch axis": lambda x: ops.reshape(x, (4, -1)),
    "batch sum": lambda x: ops.sum(x, axis=0, keepdims=True) + x,
    "slice of the batch": lambda x: x[::2, :],
    "bilinear": lambda x: layers.UpSampling2D(2, interpolation="bilinear")(
        layers.Reshape((2, 2, 1))(x)
    ),
    "batches of one size": lambda x: ops.take(x, [2, 0, 1], axis=0),
    "diagonal": lambda x: ops.einsum("bii,ik->bk", layers.Reshape((2, 2))(x), np.ones((2, 3))),
    "nothing left": lambda x: x[:, 2:2],
    "infinite": lambda x: ops.maximum(x, -np.inf),
    "constants that broadcast": lambda x: layers.Rescaling([1.0, 2.0])(layers.Reshape((4, 1))(x)),
    "activation that is not built": lambda x: layers.Dense(4, activation=layers.PReLU())(x),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_has_no_sound_rule_is_refused(name):
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="cannot be verified"):
        lower_model(keras.Model(x, REFUSED[name](x)))


def test_models_that_are_no_graph_of_one_input_are_refused():
    x, y = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(ValueError, match="2 inputs"):
        lower_model(keras.Model([x, y], layers.Add()([x, y])))
    with pytest.raises(ValueError, match="2 outputs"):
        lower_model(keras.Model(x, [layers.Dense(2)(x), layers.Dense(3)(x)]))
    with pytest.raises(TypeError, match="Keras model"):
        lower_model(layers.Dense(3))
    with pytest.raises(ValueError, match="built"):
        lower_model(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="known sizes"):
        lower_model(keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 2)]))


def test_open_sizes_are_those_of_the_samples():
    model = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 2), layers.Flatten()])
    assert lower_model(model, (5, 3)).outputs == 8


@pytest.mark.parametrize("size", range(2, 12))
def test_sorting_networks_sort(size):
    x = np.random.default_rng(0).permuted(np.tile(np.arange(size), (500, 1)), axis=1)
    for pairs in sorting_network(size):
        assert len({i for pair in pairs for i in pair}) == 2 * len(pairs)
        for i, j in pairs:
            x[:, [i, j]] = np.sort(x[:, [i, j]], axis=1)
    assert (x == np.arange(size)).all()


def test_channels_first_needs_no_gpu():
    case = dict(filters=3, kernel_size=3, padding="same", data_format="channels_first")
    x = keras.Input((2, 5, 4), dtype="float64")
    program = lower_model(keras.Model(x, lip.SpectralConv2D(dtype="float64", **case)(x)))
    assert program.nodes[program.output].shape == (3, 5, 4)


def test_lower_precision_is_verified_with_the_rounded_kernel():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3, dtype="mixed_bfloat16")(x))
    kernel = model.layers[1].kernel
    rounded = np.asarray(ops.convert_to_numpy(ops.cast(ops.cast(kernel, "bfloat16"), "float64")))
    np.testing.assert_array_equal(output(lower_model(model), np.eye(4)), rounded)
    assert robustness(model, np.full((1, 4), 0.5), None, 0.01).status[0] in ("robust", "unknown")


def test_what_has_a_constant_has_a_rule():
    """Except what may only end a model, and products, which have no constant either."""
    missing = {function for function, row in functions.FUNCTIONS.items() if row.function is None}
    assert missing == {activations.linear, activations.softmax}
    unverified = {
        kind
        for kind, rule in registered().items()
        if isinstance(kind, type)
        and any(map(rule.knows, ("lipschitz", "operators", "merge")))
        and not rule.knows("lower")
    }
    assert unverified == {layers.Multiply, layers.Dot}


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: ops.clip(x, np.zeros(6), 1.0), "limits"),
        (lambda x: ops.clip(x, 1.0, 0.0), "not below"),
        (lambda x: ops.soft_shrink(x, -0.5), "`threshold`"),
        (lambda x: ops.celu(x, -1.0), "`alpha`"),
        (lambda x: ops.squareplus(x, -1), "`b`"),
        (lambda x: layers.TimeDistributed(layers.Softmax())(x[:, None]), "may only end"),
        (lambda x: layers.TimeDistributed(model_of_six())(x[:, None]), "no rule"),
        (
            lambda x: layers.SpectralNormalization(layers.Dense(3, dtype="float64"))(x),
            "another type",
        ),
    ],
)
def test_arguments_without_a_rule_are_named(operation, reason):
    inputs = keras.Input((6,), dtype="float64")
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(operation(inputs))))
    with pytest.raises(ValueError, match=f"cannot be verified.*{reason}"):
        lower_model(model)


def model_of_six():
    return keras.Sequential([keras.Input((6,)), layers.Dense(3)])
