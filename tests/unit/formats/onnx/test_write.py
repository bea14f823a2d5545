"""ONNX: files that are written compute what the model computes, files that are read likewise.

The oracles are onnxruntime, where it is installed, and ONNX's own reference implementation.
"""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from deel_lip_tf.formats.onnx.write import to_onnx  # noqa: E402
from deel_lip_tf.verify import robustness  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables import verify_cases  # noqa: E402
from tests._tables.stacks import layer, net  # noqa: E402


def randomized(model, rng):
    for weight in model.weights:
        value = 0.5 * rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def merging():
    x = keras.Input((8, 8, 4))
    a = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    b = layers.Add()([x, a])
    d = layers.Maximum()([a, layers.Minimum()([b, x])])
    e = layers.Concatenate(axis=1)([layers.Subtract()([b, d]), layers.Average()([a, b, d])])
    flat = [layers.Flatten()(t) for t in (layers.Concatenate()([a, b]), e)]
    return keras.Model(x, layers.Dense(3)(layers.Concatenate()(flat)))


def nested():
    inner = net((6,), layer(layers.Dense, 6, activation="elu"))()
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(2)(inner(inner(x))))


def residual():
    x = keras.Input((6,))
    branch = lip.layers.MaxMin()(lip.layers.SpectralDense(3)(x))
    return keras.Model(x, layers.Dense(2)(lip.layers.LipResidual()([x, branch])))


L, M = layers, lip.layers
MODELS = {
    "mlp": net((5,), layer(L.Dense, 7, "relu"), layer(L.Dense, 4, "softmax")),
    "convolution": net(
        (9, 7, 2),
        layer(L.Conv2D, 4, 3, strides=2, padding="same", activation="relu"),
        L.BatchNormalization,
        layer(L.MaxPooling2D, 2),
        L.Flatten,
        layer(L.Dense, 3),
    ),
    "padding": net(
        (9, 8, 2),
        layer(L.ZeroPadding2D, ((1, 0), (2, 1))),
        layer(L.Conv2D, 4, (3, 2), dilation_rate=2, activation="tanh"),
        layer(L.AveragePooling2D, 3, strides=2, padding="same"),
        L.GlobalAveragePooling2D,
        layer(L.Dense, 3),
    ),
    "depthwise": net(
        (8, 8, 3),
        layer(L.DepthwiseConv2D, 3, depth_multiplier=2, padding="same"),
        L.LeakyReLU,
        layer(L.MaxPooling2D, 3, strides=2, padding="same"),
        layer(L.GlobalMaxPooling2D, keepdims=True),
        L.Flatten,
        layer(L.Dense, 2, "sigmoid"),
    ),
    "sequence": net(
        (12, 3),
        layer(L.Conv1D, 4, 3, activation="softplus"),
        layer(L.AveragePooling1D, 2),
        layer(L.ELU, alpha=0.7),
        layer(L.Permute, (2, 1)),
        layer(L.Dense, 3),
        layer(L.Reshape, (-1,)),
        layer(L.Rescaling, 2.0, -1.0),
        layer(L.Dense, 2),
    ),
    "normalization": net(
        (4, 3),
        layer(L.Normalization, mean=[1.0, 2, 3], variance=[4.0, 5, 6]),
        layer(L.BatchNormalization, axis=1),
        L.Flatten,
        layer(L.Dropout, 0.5),
        layer(L.Dense, 2),
    ),
    "merging": merging,
    "nested": nested,
    "residual": residual,
    "sorting": net(
        (6,),
        layer(M.SpectralDense, 8),
        M.GroupSort2,
        layer(M.SpectralDense, 6),
        layer(M.GroupSort, n=3),
        layer(M.SpectralDense, 5),
        M.FullSort,
        layer(M.SpectralDense, 4),
        M.Householder,
        layer(M.FrobeniusDense, 3),
    ),
    "sorting images": net(
        (8, 8, 2),
        layer(M.SpectralConv2D, 4, 3),
        layer(M.GroupSort2, k_coef_lip=0.5),
        layer(M.ScaledAveragePooling2D, 2),
        M.MaxMin,
        L.Flatten,
        layer(M.SpectralDense, 3),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name, tmp_path, rng):
    model = randomized(MODELS[name](), rng)
    path = tmp_path / "model.onnx"
    to_onnx(model, path)
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs_of(onnx.load(path), x), expected, **CLOSE)
    again = from_onnx(str(path))
    assert again.input_shape == model.input_shape
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, **CLOSE)


def test_float64_loses_nothing(tmp_path, rng):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = randomized(MODELS["convolution"](), rng)
        to_onnx(model, tmp_path / "model.onnx")
        x = rng.normal(size=(3, 9, 7, 2))
        again = from_onnx(tmp_path / "model.onnx").predict(x, verbose=0)
        expected = model.predict(x, verbose=0)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert again.dtype == np.float64
    np.testing.assert_allclose(again, expected, rtol=1e-12, atol=1e-12)


def test_a_norm_pooling_is_written(tmp_path, rng):
    parts = layer(M.ScaledL2NormPooling2D, 2), L.Flatten, layer(L.Dense, 2)
    model = randomized(net((6, 4, 2), *parts)(), rng)
    to_onnx(model, tmp_path / "model.onnx")
    x = rng.normal(size=(3, 6, 4, 2)).astype("float32")
    written = outputs_of(onnx.load(tmp_path / "model.onnx"), x)
    np.testing.assert_allclose(written, model.predict(x, verbose=0), **CLOSE)


def test_softmax_can_be_left_out(tmp_path, rng):
    model = randomized(MODELS["mlp"](), rng)
    to_onnx(model, tmp_path / "model.onnx", drop_softmax=True)
    x = rng.normal(size=(3, 5)).astype("float32")
    logits = outputs_of(onnx.load(tmp_path / "model.onnx"), x)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, model.predict(x, verbose=0), **CLOSE)
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3


def test_what_is_read_can_be_verified(tmp_path, rng):
    """Sorting written as relus keeps its labels where the model itself keeps them."""
    parts = layer(M.SpectralDense, 6), M.GroupSort2, layer(M.FrobeniusDense, 3)
    model = net((6,), *parts)()
    to_onnx(model, tmp_path / "model.onnx")
    x = rng.uniform(size=(8, 6)).astype("float32")
    again = from_onnx(tmp_path / "model.onnx")
    answers = [robustness(m, x, eps=1e-3).status for m in (model, again)]
    np.testing.assert_array_equal(*answers)
    assert (answers[0] == "robust").any()


# Every other row takes part in the slow tests alone.
ROWS = [
    pytest.param(row, marks=pytest.mark.slow) if index % 2 else row
    for index, row in enumerate(verify_cases.ROWS)
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_is_verified_can_be_written(row, tmp_path, rng):
    """In float64, so that nothing but the order of sums differs from the model."""
    model = row.model()
    to_onnx(model, tmp_path / "model.onnx")
    x = rng.normal(size=(3, *row.shape))
    written = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, {"X": x})[0]
    expected = row.outputs(model, x)
    np.testing.assert_allclose(written, expected, rtol=1e-6, atol=1e-6)


def test_a_softmax_inside_a_model_is_written(tmp_path, rng):
    parts = layer(L.Dense, 4, "softmax"), L.Softmax, layer(L.Dense, 2, "softmax")
    model = randomized(net((5,), *parts)(), rng)
    to_onnx(model, tmp_path / "model.onnx")
    x = rng.normal(size=(3, 5)).astype("float32")
    written = outputs_of(onnx.load(tmp_path / "model.onnx"), x)
    np.testing.assert_allclose(written, model.predict(x, verbose=0), **CLOSE)


class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_layers_that_cannot_be_written_are_all_named(tmp_path):
    parts = L.LayerNormalization, Doubled, L.Flatten, layer(L.Dense, 2, "log_softmax"), L.ReLU
    model = net((4, 4, 1), *parts)()
    expected = r"layer_normalization.*doubled.*log_softmax.*tf2onnx"
    with pytest.raises(ValueError, match=expected) as caught:
        to_onnx(model, tmp_path / "model.onnx")
    assert "flatten" not in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()
