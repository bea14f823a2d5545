"""Claims that were false: each kind with a counter-example, and the value that is right.

All of them were false because a graph was read otherwise than Keras runs it.
"""

import warnings

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificate_metrics import Certificate_Multiclass
from deel_lip_tf.certificates import certify, class_divisors
from deel_lip_tf.model import vanillaModel
from tests._oracles import onnx_oracles

EYE = np.eye(4)[:, :3]


def output(model, x):
    return np.asarray(model(np.asarray(x, "float32"))).astype(np.float64)


# --- which output of a nested model -------------------------------------------------------------


@pytest.fixture
def second_head():
    """The outer model takes the second head, whose weights are 1000 times those of the first."""
    x, y = keras.Input((4,)), keras.Input((4,))
    small, large = layers.Dense(3), layers.Dense(3)
    inner = keras.Model(x, [small(x), large(x)])
    small.set_weights([0.01 * EYE, np.zeros(3)])
    large.set_weights([10.0 * EYE, np.zeros(3)])
    return keras.Model(y, inner(y)[1])


@pytest.mark.parametrize("semantics", ["real", "float32"])
@pytest.mark.parametrize("local", [False, True])
def test_the_head_is_that_of_the_output_that_is_taken(second_head, semantics, local):
    sample, near = [[1.0, 0, 0, 0]], [[0.4, 0.6, 0, 0]]
    assert output(second_head, near).argmax() != output(second_head, sample).argmax()
    radius = certify(second_head, sample, semantics=semantics, local=local).radius
    assert radius == pytest.approx(0.5**0.5, rel=1e-5)
    assert class_divisors(second_head)[0, 1] == pytest.approx(10 * 2**0.5)


def test_the_metric_follows_the_output_that_is_taken(second_head):
    metric = Certificate_Multiclass(second_head)
    metric.update_state(np.array([0]), output(second_head, [[1.0, 0, 0, 0]]))
    assert float(metric.result()) == pytest.approx(0.5**0.5, rel=1e-5)


def test_probabilities_are_looked_for_at_the_output_that_is_taken():
    x, y = keras.Input((2,)), keras.Input((2,))
    logits = layers.Dense(2)(x)
    inner = keras.Model(x, [layers.Softmax()(logits), logits])
    certify(keras.Model(y, inner(y)[1]), np.ones((1, 2)))
    with pytest.raises(ValueError, match="must return logits"):
        certify(keras.Model(y, layers.Dropout(0.5)(inner(y)[0])), np.ones((1, 2)))


# --- what may be dropped ------------------------------------------------------------------------


@pytest.fixture
def after_softmax():
    """The second output is computed from a softmax that the first one ends with."""
    x, y = keras.Input((2,)), keras.Input((2,))
    probabilities, last = layers.Softmax()(x), layers.Dense(2)
    inner = keras.Model(x, [probabilities, last(probabilities)])
    last.set_weights([np.array([[1.0, 0], [0, 0]]), np.array([-0.9, 0])])
    return keras.Model(y, inner(y)[1])


def test_a_softmax_inside_is_not_dropped(after_softmax):
    sample, inside = [[5.0, 0.0]], [[1.9, 0.1]]
    assert output(after_softmax, sample).argmax() == 0
    assert output(after_softmax, inside).argmax() == 1
    for ask in (
        lambda: verify.robustness(after_softmax, sample, y=[0], eps=3.2, clip=None),
        lambda: verify.bounds(after_softmax, verify.ball(sample, 3.2, clip=None)),
    ):
        with pytest.raises(ValueError, match="[Ss]oftmax"):
            ask()


def test_a_softmax_inside_is_written(after_softmax, tmp_path):
    path = tmp_path / "model.onnx"
    verify.to_onnx(after_softmax, path, drop_softmax=True)
    x = np.array([[1.9, 0.1]], "float32")
    written = onnx_oracles.outputs_of(onnx.load(path), x)
    np.testing.assert_allclose(written, output(after_softmax, x), **onnx_oracles.CLOSE)


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """A layer with an `activation` that it does not end with."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.softmax

    def call(self, x):
        return -3.0 * self.activation(x)


def test_an_attribute_of_another_layer_is_no_final_softmax():
    model = keras.Sequential([keras.Input((2,)), Scaled()])
    with pytest.raises(ValueError, match="Scaled"):
        verify.robustness(model, [[1.0, 0.0]], eps=0.1, clip=None)


# --- arithmetic of integers ---------------------------------------------------------------------

WRAPPING = {
    "x - 128, cast": lambda x: ops.cast(x - 128, "float32"),
    "x + 128": lambda x: x + 128,
    "2 * x": lambda x: 2 * x,
    "-x": lambda x: -x,
    "abs of int8": lambda x: ops.absolute(ops.cast(ops.cast(x, "int32") - 128, "int8")),
    "Add": lambda x: layers.Add()([x, x]),
    "Average": lambda x: layers.Average()([x, x]),
    "Subtract": lambda x: layers.Subtract()([x, ops.flip(x, 1)]),
    "after a Dropout": lambda x: layers.Dropout(0.5)(x) + x,
    "mean": lambda x: ops.mean(x, axis=1, keepdims=True),
    "nested integers": lambda x: keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Dense(2)]
    )(ops.cast(x, "float32") / 7),
    "a layer of integers": lambda x: layers.Identity(dtype="int32")(ops.cast(x, "float32") / 7),
}


@pytest.mark.parametrize("name", WRAPPING)
def test_integers_that_wrap_or_round_are_refused(name):
    x = keras.Input((3,), dtype="uint8")
    model = keras.Model(x, WRAPPING[name](x))
    with pytest.raises(ValueError, match="integers"):
        lipschitz_bound(model)
    with pytest.raises(ValueError, match="integers"):
        verify.bounds(model, verify.box(np.zeros((1, 3)), np.ones((1, 3))))


FITTING = {
    "cast, then - 128": lambda x: ops.cast(x, "float32") - 128,
    "int32 - 128": lambda x: ops.cast(ops.cast(x, "int32") - 128, "float32"),
    "x / 255": lambda x: x / 255,
    "x * 0.5": lambda x: x * 0.5,
    "Rescaling": lambda x: layers.Rescaling(1 / 255, offset=-1.0)(x),
    "Normalization": lambda x: layers.Normalization(mean=[3.0] * 3, variance=[4.0] * 3)(x),
    "Dense": lambda x: layers.Dense(3)(x),
    "moved": lambda x: layers.Dense(2)(ops.flip(layers.Reshape((3,))(x), 1)),
    "nested integers": lambda x: keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Dense(2)]
    )(x),
}


@pytest.mark.parametrize("name", FITTING)
def test_integers_that_fit_are_bounded(name):
    x = keras.Input((3,), dtype="uint8")
    model = keras.Model(x, FITTING[name](x))
    points = np.random.default_rng(0).integers(0, 256, (200, 3)).astype("uint8")
    values = np.asarray(model(points)).astype(np.float64)
    distances = np.linalg.norm(points[1:].astype(float) - points[0], axis=1)
    slopes = np.linalg.norm(values[1:] - values[0], axis=1) / distances
    assert slopes.max() <= lipschitz_bound(model).value * (1 + 1e-5)
    found = verify.bounds(model, verify.box(np.zeros((1, 3)), np.full((1, 3), 255.0)))
    assert (found.lower[0] - 1e-3 <= values).all() and (values <= found.upper[0] + 1e-3).all()


def test_samples_of_integer_inputs_are_integers():
    x = keras.Input((3,), dtype="uint8")
    model = keras.Model(x, layers.Dense(2)(x))
    assert (certify(model, np.array([[1, 2, 3]])).radius >= 0).all()
    for samples in ([[0.5, 1, 2]], [[-1, 1, 2]], [[256, 1, 2]]):
        with pytest.raises(ValueError, match="integers"):
            certify(model, np.array(samples))


# --- state beside the weights -------------------------------------------------------------------


def normalized(scale, shift, wrap=lambda layer: layer, shape=(3,)):
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).standard_normal((100, 3)) * scale + shift)
    stack = [wrap(layer), layers.Flatten(), layers.Dense(3, use_bias=False)]
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=["plain", "in TimeDistributed"])
def test_set_weights_does_not_change_what_a_normalization_computes(shape):
    wrap = layers.TimeDistributed if len(shape) > 1 else (lambda layer: layer)
    old, new = normalized(2.0, 5.0, wrap, shape), normalized(0.01, 0.0, wrap, shape)
    new.set_weights(old.get_weights())
    x = np.random.default_rng(1).standard_normal((50, *shape)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        certificates = certify(new, x)
    assert (certificates.label == output(new, x).argmax(axis=1)).all()
    assert (certificates.radius > 0).all()


def test_a_program_is_not_kept_when_a_state_has_changed():
    model = normalized(2.0, 5.0)
    layer, point = model.layers[0], np.ones((1, 3), "float32")
    for _ in range(2):
        found = verify.bounds(model, verify.box(point, point))
        assert found.lower == pytest.approx(output(model, point), rel=1e-4, abs=1e-4)
        layer.adapt_mean.assign([40.0, 50.0, 60.0])
        found = verify.bounds(model, verify.box(point, point))
        assert found.lower == pytest.approx(output(model, point), rel=1e-4, abs=1e-4)
        layer.finalize_state()


def test_an_export_keeps_the_statistics(tmp_path):
    old, new = normalized(2.0, 5.0), normalized(0.01, 0.0)
    new.set_weights(old.get_weights())
    x = np.random.default_rng(1).standard_normal((5, 3)).astype("float32")
    for model in (old, new):
        exported = vanillaModel(model)
        assert output(exported, x) == pytest.approx(output(model, x), rel=1e-5)
        exported.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert output(loaded, x) == pytest.approx(output(model, x), rel=1e-5)


# --- vacuous questions --------------------------------------------------------------------------

ENDS = {
    "Dropout": lambda x: layers.Dropout(0.5)(layers.Dense(1, activation="sigmoid")(x)),
    "Identity": lambda x: layers.Identity()(layers.Dense(1, activation="sigmoid")(x)),
    "operation": lambda x: ops.sigmoid(layers.Dense(1)(x)),
    "Activation": lambda x: layers.Activation("sigmoid")(layers.Dense(1)(x)),
    "nested": lambda x: keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, activation="sigmoid"), layers.Identity()]
    )(x),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_sigmoid_has_one_threshold_everywhere(name, tmp_path):
    x = keras.Input((1,))
    model = keras.Model(x, ENDS[name](x))
    model.set_weights([np.ones((1, 1)), np.array([-0.5])])
    sample, path = np.array([[0.6]], "float32"), tmp_path / "question.vnnlib"
    verify.to_vnnlib(path, model, sample[0], label=1, eps=0.3)
    assert "(<= Y_0 0.5)" in path.read_text()
    assert verify.robustness(model, sample, eps=0.3).status == "falsified"
    assert verify.robustness(model, sample, eps=0.05).status == "robust"
    witness = verify.falsify(model, sample, [1], verify.ball(sample, 0.3))
    assert output(model, witness) <= 0.5


# --- sums that Keras does not broadcast ----------------------------------------------------------


MISPLACED = {
    "Add": lambda x: layers.Add()([x, x[:, :, :1]]),
    "Average": lambda x: layers.Average()([x, x[:, :, :1]]),
    "x + y": lambda x: x + x[:, :, :1],
    "one number of each sample": lambda x: x + x[:, :1, :1],
    "x + c": lambda x: x + np.array([[[1.0], [-3.0]]], "float32"),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_an_operand_that_keras_takes_for_a_bias_is_refused(name):
    """It is added along the last axis, for a batch of one sample."""
    x = keras.Input((2, 2))
    model = keras.Model(x, layers.Flatten()(MISPLACED[name](x)))
    point = np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32")
    with pytest.raises(ValueError, match="another axis"):
        verify.bounds(model, verify.box(point, point))
    with pytest.raises(ValueError, match="another axis"):
        lipschitz_bound(model)


BROADCAST = {
    "last": lambda x: layers.Add()([x, x[:, :1]]),
    "number": lambda x: x + 1.0,
    "vector": lambda x: x + np.array([1.0, -3.0], "float32"),
    "larger": lambda x: layers.Add()([x[:, :1], x]),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_operands_that_keras_broadcasts_are_bounded(name):
    x = keras.Input((2, 2))
    model = keras.Model(x, layers.Flatten()(BROADCAST[name](x)))
    for count in (1, 3):
        points = np.random.default_rng(0).normal(size=(count, 2, 2)).astype("float32")
        found = verify.bounds(model, verify.box(points, points))
        assert found.lower == pytest.approx(output(model, points), abs=1e-5)


@pytest.mark.parametrize("cls", [lip.layers.SpectralConv2D, lip.layers.PadConv2D])
def test_a_bias_is_added_to_the_channels(cls):
    """Also where images are as wide as there are filters, which Keras's own layers mistake."""
    layer = cls(4, 3, data_format="channels_first", bias_initializer="random_normal")
    x = np.random.default_rng(0).normal(size=(2, 2, 6, 4)).astype("float32")
    with_bias = np.asarray(layer(x))
    bias = keras.ops.convert_to_numpy(layer.bias)
    layer.bias.assign(np.zeros(4))
    expected = np.asarray(layer(x)) + bias[:, None, None]
    assert with_bias == pytest.approx(expected, abs=1e-5)


# --- the program itself is wrong ----------------------------------------------------------------


def planted(monkeypatch):
    """Dense layers that compute something else in float32, as a faulty program would."""
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(3)]
    )
    true = layers.Dense.call

    def call(self, inputs, training=None):
        return true(self, inputs) + (0.05 if self.compute_dtype == "float32" else 0.0)

    monkeypatch.setattr(layers.Dense, "call", call)
    return model


@pytest.mark.parametrize("semantics", ["real", "float32"])
@pytest.mark.parametrize("local", [False, True])
def test_a_program_that_differs_is_not_certified(semantics, local, monkeypatch):
    model, x = planted(monkeypatch), np.random.default_rng(0).normal(size=(20, 4))
    with pytest.warns(RuntimeWarning, match=r"first layer that does is 'dense"):
        certificates = certify(model, x, semantics=semantics, local=local)
    assert (certificates.radius == 0).all()


def test_a_program_that_differs_is_not_verified(monkeypatch, tmp_path):
    model, x = planted(monkeypatch), np.random.default_rng(0).uniform(size=(5, 4))
    with pytest.warns(RuntimeWarning, match=r"first layer that does is 'dense"):
        answers = verify.robustness(model, x, eps=1e-4)
    assert (answers.status == "unknown").all()
    with pytest.warns(RuntimeWarning):
        assert np.isinf(verify.bounds(model, verify.ball(x, 1e-4)).lower).all()
    with pytest.warns(RuntimeWarning):
        assert (verify.certified_radius(model, x) == 0).all()
    path = tmp_path / "question.vnnlib"
    verify.to_vnnlib(path, model, x[0], label=0, eps=1e-4)
    with pytest.warns(RuntimeWarning):
        assert verify.decide(model, verify.read_vnnlib(path)).status == "unknown"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_program_without_numbers_is_not_believed(value, monkeypatch):
    """As one that returns what was in memory before."""
    model, x = keras.Sequential([keras.Input((4,)), layers.Dense(3)]), np.eye(4)
    true = layers.Dense.call

    def call(self, inputs, training=None):
        return true(self, inputs) + (value if self.compute_dtype == "float32" else 0.0)

    monkeypatch.setattr(layers.Dense, "call", call)
    with pytest.warns(RuntimeWarning, match="dense"):
        assert (certify(model, x).radius == 0).all()
    with pytest.warns(RuntimeWarning, match="dense"):
        assert np.isinf(verify.bounds(model, verify.ball(x, 1e-4)).lower).all()


def test_certificates_never_contradict_the_model_at_the_sample():
    """TensorFlow with oneDNN reads other pixels for this shape; without, all is well."""
    keras.utils.set_random_seed(0)
    convolution = layers.Conv2D(2, (2, 3), strides=(1, 2))
    model = keras.Sequential(
        [keras.Input((5, 4, 1)), convolution, layers.Flatten(), layers.Dense(3)]
    )
    x = np.random.default_rng(0).standard_normal((50, 5, 4, 1)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        certificates = certify(model, x)
    is_certified = certificates.radius > 0
    assert (certificates.label == output(model, x).argmax(axis=1))[is_certified].all()
