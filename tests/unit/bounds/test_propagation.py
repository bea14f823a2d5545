"""Bounds of whole models, against the Jacobians of models in float64."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.bounds import LipschitzBound, lipschitz_bound

EXACT = 1e-9  # where the rule is exact, the bound may exceed the oracle by this share


def dense(matrix, **arguments):
    """A linear layer with a given matrix (inputs, outputs)."""
    matrix = np.asarray(matrix, dtype=np.float64)
    layer = layers.Dense(matrix.shape[1], use_bias=False, dtype="float64", **arguments)
    layer.build((None, matrix.shape[0]))
    layer.set_weights([matrix])
    return layer


def oracle(model):
    """Largest singular value of the joint Jacobian of an affine model in float64."""
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    sizes = [int(np.prod(shape)) for shape in shapes]
    # The last point is the origin, to take the offset away.
    eye = np.split(np.eye(sum(sizes) + 1, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    inputs = [part.reshape(-1, *shape) for part, shape in zip(eye, shapes, strict=True)]
    outputs = model(inputs if len(inputs) > 1 else inputs[0])
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    flat = [np.asarray(ops.convert_to_numpy(y)).reshape(sum(sizes) + 1, -1) for y in outputs]
    joint = np.concatenate(flat, axis=1)
    return np.linalg.norm(joint[:-1] - joint[-1], 2)


def inputs(*shape):
    return keras.Input(shape, dtype="float64")


def random(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns))


def chain():
    return keras.Sequential([inputs(4), dense(random(4, 5)), dense(random(5, 3))])


def residual():
    x = inputs(4)
    return keras.Model(x, layers.Add(dtype="float64")([x, dense(np.eye(4))(x)]))


def difference():
    x = inputs(4)
    branches = [x, dense(-np.eye(4))(x)]
    return keras.Model(x, layers.Subtract(dtype="float64")(branches))


def shared():
    x, layer = inputs(4), dense(np.diag([3.0, 1.0, 1.0, 2.0]))
    return keras.Model(x, layer(layer(x)))


def average():
    x = inputs(3)
    branches = [x, dense(2 * np.eye(3))(x), dense(6 * np.eye(3))(x)]
    return keras.Model(x, layers.Average(dtype="float64")(branches))


def concatenation():
    x = inputs(3)
    branches = [dense(3 * np.eye(3))(x), dense(4 * np.eye(3))(x)]
    return keras.Model(x, layers.Concatenate(dtype="float64")(branches))


def two_outputs():
    x = inputs(3)
    return keras.Model(x, [dense(3 * np.eye(3))(x), dense(4 * np.eye(3))(x)])


def two_inputs():
    a, b = inputs(2), inputs(3)
    joined = layers.Concatenate(dtype="float64")([a, b])
    return keras.Model([a, b], dense(random(5, 4))(joined))


def nested():
    x = inputs(4)
    return keras.Model(x, dense(np.eye(3))(chain()(x)))


def operations():
    x = inputs(3)
    return keras.Model(x, 0.5 * x + (x / 4.0) - (-x) + 1.0)


def twice():
    x = inputs(3)
    return keras.Model(x, ops.maximum(x + x, -1e9))


def broadcast():
    x = inputs(3, 1)
    y = layers.Cropping1D((0, 2), dtype="float64")(x)
    return keras.Model(x, layers.Concatenate(dtype="float64")([x, layers.Add()([y, x]) * 0.0 + x]))


def copies():
    x = inputs(4)
    return keras.Model(x, ops.take(x, [0, 1, 1, 3, 1], axis=1))


@pytest.mark.parametrize(
    "build",
    [residual, difference, shared, average, concatenation, two_outputs, operations, copies, twice],
)
def test_rules_that_are_exact_here(build):
    model = build()
    bound, norm = lipschitz_bound(model).value, oracle(model)
    assert norm * (1 - 1e-14) <= bound <= norm * (1 + EXACT)


@pytest.mark.parametrize("build", [chain, two_inputs, nested, broadcast])
def test_rules_that_are_upper_bounds(build):
    model = build()
    bound, norm = lipschitz_bound(model).value, oracle(model)
    assert norm * (1 - 1e-14) <= bound <= norm * 3


@pytest.mark.parametrize("cls", [layers.Maximum, layers.Minimum])
def test_maximum_of_branches(cls):
    x = inputs(2)
    model = keras.Model(x, cls(dtype="float64")([dense(3 * np.eye(2))(x), dense(4 * np.eye(2))(x)]))
    assert 4.0 <= lipschitz_bound(model).value == pytest.approx(5.0, rel=EXACT)


def test_broadcasting_counts_copies():
    x = inputs(4, 1)
    row = layers.Cropping1D((0, 3), dtype="float64")(x)
    model = keras.Model(x, layers.Subtract(dtype="float64")([row, 0.0 * x]))
    assert oracle(model) == pytest.approx(2.0)
    assert 2.0 <= lipschitz_bound(model).value <= 2.0 * (1 + EXACT)


def test_random_convolutional_models_against_their_jacobian():
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        x = inputs(6, 6, 2)
        kind = {"padding": "same", "dtype": "float64", "use_bias": False}
        y = layers.Conv2D(3, 3, strides=1 + seed % 2, **kind)(x)
        z = layers.Conv2D(3, 2, **kind)(y)
        y = layers.Add(dtype="float64")([y, z])
        y = layers.AveragePooling2D(2, 1, dtype="float64")(y)
        model = keras.Model(x, layers.Flatten()(y))
        bound = lipschitz_bound(model).value
        assert oracle(model) <= bound <= oracle(model) * 5


LIBRARY = [
    (lip.layers.SpectralDense, {"units": 5}, (7,)),
    (lip.layers.FrobeniusDense, {"units": 5}, (7,)),
    (lip.layers.SpectralConv2D, {"filters": 9, "kernel_size": 3}, (5, 5, 1)),
    (lip.layers.SpectralConv2D, {"filters": 3, "kernel_size": 2, "strides": 2}, (5, 4, 2)),
    (lip.layers.FrobeniusConv2D, {"filters": 3, "kernel_size": 3}, (5, 5, 2)),
    (lip.layers.SpectralConv2DTranspose, {"filters": 2, "kernel_size": 3, "strides": 2}, (3, 3, 2)),
    (lip.layers.ScaledAveragePooling2D, {"pool_size": 2}, (4, 4, 2)),
    (lip.layers.ScaledGlobalAveragePooling2D, {}, (4, 4, 2)),
    (lip.layers.InvertibleDownSampling, {"pool_size": 2}, (4, 4, 2)),
    *[
        (
            lip.layers.SpectralConv2D,
            {"filters": 2, "kernel_size": 3, "strides": stride, "padding": padding},
            (4, 5, 2),
        )
        for padding in ("valid", "circular", "symmetric", "reflect", "replicate")
        for stride in (1, 2)
    ],
]


@pytest.mark.parametrize(("cls", "arguments", "shape"), LIBRARY)
@pytest.mark.parametrize("k", [1.0, 0.3])
def test_layers_of_this_library(cls, arguments, shape, k):
    layer = cls(**arguments, k_coef_lip=k, dtype="float64")
    layer.build((None, *shape))
    matrix = ops.convert_to_numpy(layer(np.eye(int(np.prod(shape))).reshape(-1, *shape)))
    norm = np.linalg.norm(np.reshape(matrix, (np.prod(shape), -1)), 2)
    bound = lipschitz_bound(layer).value
    assert norm * (1 - 1e-14) <= bound <= k * (1 + 1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        lip.layers.SpectralConv2D(3, 3, padding="circular"),
        lip.layers.SpectralConv2D(3, 3, strides=2),
        lip.layers.SpectralDense(4),
        lip.layers.FrobeniusDense(4),
    ],
    ids=lambda layer: layer.name,
)
def test_an_export_has_the_bound_of_its_layer(layer):
    layer.build((None, 6, 6, 2))
    exported = lipschitz_bound(layer.vanilla_export()).value
    bound = lipschitz_bound(layer).value
    assert exported >= bound * (1 - 1e-9)
    if getattr(layer, "padding", None) != "circular":  # its export copies pixels
        assert exported == pytest.approx(bound, rel=1e-6)


def test_entries_names_and_text():
    x = inputs(4)
    inner = keras.Sequential([inputs(4), dense(np.eye(4), name="first")], name="inner")
    model = keras.Model(x, dense(2 * np.eye(4), name="second")(inner(x)))
    result = lipschitz_bound(model)
    assert isinstance(result, LipschitzBound)
    assert isinstance(result.value, float)
    assert [entry.name for entry in result.per_layer] == ["inner/first", "second"]
    assert [entry.layer_type for entry in result.per_layer] == ["Dense", "Dense"]
    lines = str(result).splitlines()
    assert any("inner/first" in line and "Dense" in line for line in lines)
    assert lines[-1].startswith("total")
    assert len({line.index("  spectral norm") for line in lines if "  spectral norm" in line}) == 1


def test_a_shared_layer_has_one_entry_for_each_call():
    assert len(lipschitz_bound(shared()).per_layer) == 2


def test_activation_and_pooling_multiply():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 255),
            layers.MaxPooling2D(3, 1),
            layers.Flatten(),
            layers.Dense(3, activation="sigmoid", kernel_initializer="identity"),
        ]
    )
    values = [entry.value for entry in lipschitz_bound(model).per_layer]
    assert values == pytest.approx([1 / 255, 3.0, 1.0, 0.25], rel=1e-6)


def test_everything_without_a_bound_is_named_at_once():
    x = keras.Input((4,))
    y = layers.LayerNormalization(name="centre")(x)
    z = layers.Multiply(name="gate")([y, layers.Dense(4, activation=ops.exp, name="odd")(x)])
    model = keras.Model(x, ops.sin(z))
    with pytest.raises(ValueError) as error:
        lipschitz_bound(model)
    for part in ("centre", "LayerNormalization", "gate", "Multiply", "odd", "exp", "Sin"):
        assert part in str(error.value)


def test_a_subclass_is_unknown():
    class Scaled(layers.Dense):
        def call(self, inputs):
            return 7 * super().call(inputs)

    class Tripled(keras.Model):
        def call(self, inputs):
            return 3 * inputs

    x = keras.Input((4,))
    with pytest.raises(ValueError, match="'mine' .Scaled"):
        lipschitz_bound(keras.Model(x, Scaled(2, name="mine")(x)))
    with pytest.raises(ValueError, match="'whole' .Tripled"):
        lipschitz_bound(Tripled(name="whole"))


def test_training_mode_fixed_in_a_call_is_refused():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="training=True"):
        lipschitz_bound(keras.Model(x, layers.BatchNormalization()(x, training=True)))


def test_sizes_that_may_broadcast_are_refused():
    x, y = keras.Input((None, 3)), keras.Input((None, 3))
    with pytest.raises(ValueError, match="unknown size"):
        lipschitz_bound(keras.Model([x, y], layers.Add()([x, y])))


def contraction(subscripts, matrix):
    x = inputs(4, 5)
    return keras.Model(x, ops.einsum(subscripts, x, matrix))


def padded(**arguments):
    x = inputs(4, 5)
    return keras.Model(x, ops.pad(x, ((0, 0), (1, 2), (0, 3)), **arguments))


@pytest.mark.parametrize(
    "model",
    [
        contraction("abc,bz->azc", random(4, 6)),
        contraction("abc,cz->abz", random(5, 2)),
        padded(),
        padded(constant_values=3.0),
    ],
)
def test_contractions_and_paddings_are_exact(model, tmp_path):
    norm, bound = oracle(model), lipschitz_bound(model).value
    assert norm * (1 - EXACT) <= bound <= norm * (1 + EXACT)
    model.save(tmp_path / "model.keras")
    assert lipschitz_bound(keras.models.load_model(tmp_path / "model.keras")).value == bound


@pytest.mark.parametrize(
    "make",
    [
        lambda: contraction("abc,bz->ac", random(4, 6)),
        lambda: contraction("abc,bc->abc", random(4, 5)),
        lambda: contraction("abc,cb->a", random(5, 4)),
        lambda: padded(mode="reflect"),
    ],
)
def test_other_contractions_and_paddings_are_refused(make):
    with pytest.raises(ValueError, match="Einsum|Pad"):
        lipschitz_bound(make())


def test_unbuilt_and_wrong_arguments():
    with pytest.raises(ValueError, match="build"):
        lipschitz_bound(layers.Dense(3))
    with pytest.raises(ValueError, match="Input"):
        lipschitz_bound(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="norm"):
        lipschitz_bound(layers.Flatten(), norm="l3")
    for budget in (0, -1.0, float("nan"), float("inf"), True, "much"):
        with pytest.raises(ValueError, match="budget"):
            lipschitz_bound(layers.Flatten(), budget=budget)
    with pytest.raises(TypeError, match="Keras layer"):
        lipschitz_bound(np.eye(3))


def test_nothing_is_changed():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(2, 3, name="convolution"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    before = [(w.path, ops.convert_to_numpy(w)) for w in model.weights]
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    assert lipschitz_bound(model).value == lipschitz_bound(model).value
    after = [(w.path, ops.convert_to_numpy(w)) for w in model.weights]
    assert [name for name, _ in before] == [name for name, _ in after]
    assert all((a == b).all() for (_, a), (_, b) in zip(before, after, strict=True))
    assert calls == [len(layer._inbound_nodes) for layer in model.layers]
