"""ONNX: files that are written compute what the model computes, files that are read likewise.

The oracles are onnxruntime, where it is installed, and ONNX's own reference implementation.
"""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from deel_lip_tf.verify import ball, robustness  # noqa: E402
from deel_lip_tf.verify.onnx_export import to_onnx  # noqa: E402
from deel_lip_tf.verify.onnx_import import from_onnx  # noqa: E402

CLOSE = dict(rtol=1e-4, atol=1e-4)  # float32 sums in another order, through several layers


def outputs_of(model, x):
    """By onnxruntime if it is there: faster, and what users run."""
    feed = {model.graph.input[0].name: x}
    try:
        import onnxruntime
    except ImportError:
        return ReferenceEvaluator(model).run(None, feed)[0]
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]


def randomized(model, rng):
    for weight in model.weights:
        value = 0.5 * rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def net(shape, *parts):
    return lambda: keras.Sequential([keras.Input(shape), *(part() for part in parts)])


def layer(cls, *args, **kwargs):
    return lambda: cls(*args, **kwargs)


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


class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_layers_that_cannot_be_written_are_all_named(tmp_path):
    model = net((4, 4, 1), L.UpSampling2D, Doubled, L.Flatten, layer(L.Dense, 2, "mish"))()
    with pytest.raises(ValueError, match=r"up_sampling2d.*doubled.*mish.*tf2onnx") as caught:
        to_onnx(model, tmp_path / "model.onnx")
    assert "flatten" not in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()


# --- files of other tools ------------------------------------------------------------------------


def written(nodes, shape, constants, dtype=np.float32, version=14, classes=None):
    """An ONNX model of some operators, from `x` to `y`, of one sample with channels first.

    ONNX's own evaluator takes batch normalization for training below version 14.
    """
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def node(kind, inputs, output="y", **attributes):
    return helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


IMAGE = (3, 7, 6)
KERNEL = numbers(4, 3, 3, 3)
SHAPES = {
    "flatten": np.array([-1, 126], np.int64),
    "keep": np.array([0, 0, -1], np.int64),
    "first": np.array([1, 6, 21], np.int64),
}
FILES = {
    "gemm": ([node("Gemm", ["x", "w", "b"], alpha=0.5, beta=2.0)], (5,), {"w": 5, "b": 4}),
    "gemm, transposed": ([node("Gemm", ["x", "v"], transB=1)], (5,), {}),
    "gemm, scalar bias": ([node("Gemm", ["x", "w", "s"])], (5,), {"w": 5}),
    "matmul, add": (
        [node("MatMul", ["x", "w"], "h"), node("Add", ["b", "h"])],
        (5,),
        {"w": 5, "b": 4},
    ),
    "matmul used twice": (
        [
            node("MatMul", ["x", "w"], "h"),
            node("Add", ["h", "b"], "i"),
            node("Sub", ["i", "h"], "j"),
            node("Add", ["j", "h"]),
        ],
        (5,),
        {"w": 5, "b": 4},
    ),
    "conv": ([node("Conv", ["x", "k", "b"], pads=[1, 0, 1, 2], strides=[2, 1])], IMAGE, {"b": 4}),
    "conv, same": ([node("Conv", ["x", "k"], pads=[1, 1, 1, 1])], IMAGE, {}),
    "conv, symmetric pads of an even stride": (
        [node("Conv", ["x", "k"], pads=[1, 1, 1, 1], strides=[2, 2])],
        IMAGE,
        {},
    ),
    "conv, auto_pad": (
        [node("Conv", ["x", "k"], auto_pad="SAME_UPPER", strides=[2, 2])],
        IMAGE,
        {},
    ),
    "conv, dilated": ([node("Conv", ["x", "k"], dilations=[2, 2])], IMAGE, {}),
    "conv, depthwise": ([node("Conv", ["x", "d"], group=3)], IMAGE, {}),
    "average, padded": (
        [
            node(
                "AveragePool",
                ["x"],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[1, 1],
                count_include_pad=1,
            )
        ],
        IMAGE,
        {},
    ),  # fmt: skip
    "average, not counting pads": (
        [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])],
        IMAGE,
        {},
    ),
    "maximum": ([node("MaxPool", ["x"], kernel_shape=[2, 3], strides=[2, 2])], IMAGE, {}),
    "global": ([node("GlobalAveragePool", ["x"], "h"), node("Flatten", ["h"])], IMAGE, {}),
    "global maximum": ([node("GlobalMaxPool", ["x"])], IMAGE, {}),
    "batch normalization": (
        [node("BatchNormalization", ["x", "c", "c2", "c3", "p"], epsilon=1e-3)],
        IMAGE,
        {},
    ),
    "flatten keeps ONNX's order": (
        [node("Conv", ["x", "k"], "h"), node("Relu", ["h"], "i"), node("Flatten", ["i"])],
        IMAGE,
        {},
    ),
    "reshape": ([node("Reshape", ["x", "flatten"])], IMAGE, {}),
    "reshape with zeros": ([node("Reshape", ["x", "keep"])], IMAGE, {}),
    "reshape with a batch of 1": ([node("Reshape", ["x", "first"])], IMAGE, {}),
    "transpose": ([node("Transpose", ["x"], perm=[0, 2, 3, 1])], IMAGE, {}),
    "transpose after convolution": (
        [
            node("Conv", ["x", "k"], "h"),
            node("Transpose", ["h"], "i", perm=[0, 2, 3, 1]),
            node("Tanh", ["i"], "j"),
            node("Transpose", ["j"], perm=[0, 3, 2, 1]),
        ],
        IMAGE,
        {},
    ),
    "concat": (
        [
            node("Conv", ["x", "k"], "h"),
            node("Sigmoid", ["h"], "i"),
            node("Concat", ["h", "i"], "j", axis=1),
            node("Concat", ["j", "j"], axis=-1),
        ],
        IMAGE,
        {},
    ),
    "normalized image": (
        [node("Sub", ["x", "mean"], "h"), node("Div", ["h", "deviation"])],
        IMAGE,
        {},
    ),
    "per entry": ([node("Mul", ["x", "each"], "h"), node("Add", ["h", "each"])], IMAGE, {}),
    "per column": ([node("Mul", ["row", "x"])], IMAGE, {}),
    "constant minus input": ([node("Sub", ["s", "x"])], IMAGE, {}),
    "a mean of the input's rank": ([node("Sub", ["x", "mean4"])], IMAGE, {}),
    "sum and difference": (
        [node("Relu", ["x"], "h"), node("Add", ["h", "x"], "i"), node("Sub", ["i", "h"])],
        IMAGE,
        {},
    ),
    "extremes": (
        [node("Tanh", ["x"], "h"), node("Max", ["x", "h"], "i"), node("Min", ["i", "h", "x"])],
        IMAGE,
        {},
    ),
    "activations": (
        [
            node("LeakyRelu", ["x"], "h", alpha=0.3),
            node("Elu", ["h"], "i", alpha=0.6),
            node("Softplus", ["i"], "j"),
            node("Dropout", ["j"], "k1"),
            node("Identity", ["k1"]),
        ],
        (5,),
        {},
    ),
    "softmax": ([node("Softmax", ["x"], axis=-1)], (5,), {}),
    "pad": ([node("Pad", ["x", "pads"])], IMAGE, {}),
    "squeeze": (
        [node("GlobalAveragePool", ["x"], "h"), node("Squeeze", ["h", "axes"])],
        IMAGE,
        {},
    ),
    "unsqueeze": ([node("Unsqueeze", ["x", "axes1"])], (5,), {}),
    "constant": (
        [
            helper.make_node("Constant", [], ["v0"], value=numpy_helper.from_array(numbers(5))),
            node("Add", ["x", "v0"], "h"),
            helper.make_node("Constant", [], ["v1"], value_float=2.0),
            node("Mul", ["h", "v1"]),
        ],
        (5,),
        {},
    ),
}
CONSTANTS = {
    "v": numbers(4, 5),
    "s": np.float32(1.5),
    "k": KERNEL,
    "d": numbers(6, 1, 3, 3),
    "c": numbers(3),
    "c2": numbers(3, seed=1),
    "c3": numbers(3, seed=2),
    "p": np.abs(numbers(3)) + 0.5,
    "mean": numbers(3, 1, 1),
    "mean4": numbers(1, 3, 1, 1),
    "deviation": np.array([0.5, 2.0, -3.0], np.float32).reshape(3, 1, 1),
    "each": numbers(*IMAGE),
    "row": numbers(6),
    "pads": np.array([0, 0, 1, 0, 0, 0, 2, 3], np.int64),
    "axes": np.array([2, -1], np.int64),
    "axes1": np.array([1], np.int64),
    **SHAPES,
}


def file_of(name, dtype=np.float32):
    nodes, shape, sizes = FILES[name]
    given = {"w": numbers(5, 4), "b": numbers(4), **CONSTANTS}
    used = {i for n in nodes for i in n.input} & set(given)
    constants = {k: given[k] for k in used}
    if dtype != np.float32:
        constants = {k: v if v.dtype == np.int64 else v.astype(dtype) for k, v in constants.items()}
    return written(nodes, shape, constants, dtype)


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_tools(name, rng):
    model = file_of(name)
    samples = 1 if "batch of 1" in name else 3
    x = rng.normal(size=(samples, *FILES[name][1])).astype("float32")
    expected = outputs_of(model, x)
    got = from_onnx(model)(x, training=False).numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, **CLOSE)


def test_average_without_counting_pads_of_another_kind_is_refused():
    nodes = [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[2, 2, 2, 2])]
    with pytest.raises(ValueError, match="AveragePool.*padding"):
        from_onnx(written(nodes, IMAGE, {}))


def test_maximum_with_zeros_at_the_border_is_refused():
    """A pad of a maximum is minus infinity, not 0."""
    nodes = [node("MaxPool", ["x"], kernel_shape=[3, 3], pads=[2, 0, 0, 0])]
    with pytest.raises(ValueError, match="MaxPool.*padding"):
        from_onnx(written(nodes, IMAGE, {}))


def test_unknown_operators_are_all_named():
    nodes = [node("Erf", ["x"], "h"), node("Gather", ["h", "i"], "j"), node("Erf", ["j"])]
    with pytest.raises(ValueError, match=r"Erf \('Erf_h', 'Erf_y'\); Gather \('Gather_j'\)"):
        from_onnx(written(nodes, (5,), {"i": np.array(0, np.int64)}))


WRONG = {
    "two outputs": "one output",
    "no shape": "known size",
    "integers": "float or double",
    "two inputs": "one input",
    "product of tensors": "one constant input",
    "division by the input": "constant second",
    "softmax of an image": "vector of scores",
    "batch transposed": "batch axis",
}


def wrong(name):
    relu = [node("Relu", ["x"])]
    made = written(relu, (5,), {})
    if name == "two outputs":
        made.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    elif name == "no shape":
        made.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    elif name == "integers":
        made.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    elif name == "two inputs":
        other = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 5])
        made.graph.input.append(other)
    elif name == "product of tensors":
        made = written([node("Mul", ["x", "x"])], (5,), {})
    elif name == "division by the input":
        made = written([node("Div", ["s", "x"])], (5,), {"s": np.float32(1)})
    elif name == "softmax of an image":
        made = written([node("Softmax", ["x"])], (3, 5), {})
    else:
        made = written([node("Transpose", ["x"], perm=[1, 0])], (5,), {})
    return made


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_refused_with_a_reason(name):
    with pytest.raises(ValueError, match=WRONG[name]):
        from_onnx(wrong(name))


def test_a_file_that_is_no_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xfenothing of the kind")
    with pytest.raises(ValueError, match="not an ONNX model"):
        from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")


def test_an_imported_convolution_is_verified_in_its_own_order(rng):
    """Channels first outside: the box is about ONNX's entries."""
    nodes = [
        node("Conv", ["x", "k"], "h"),
        node("Relu", ["h"], "i"),
        node("Flatten", ["i"], "j"),
        node("MatMul", ["j", "w"]),
    ]
    model = from_onnx(written(nodes, IMAGE, {"k": KERNEL, "w": numbers(80, 3)}))
    x = rng.normal(size=(4, *IMAGE)).astype("float32")
    answer = robustness(model, x, eps=1e-3, clip=None)
    assert (answer.status == "robust").any()
    domain = ball(x, 1e-3, clip=None)
    random = rng.uniform(domain.lower, domain.upper, size=(100, *x.shape)).astype("float32")
    outputs = model.predict(random.reshape(-1, *IMAGE), verbose=0).reshape(100, 4, 3)
    labels = model.predict(x, verbose=0).argmax(axis=1)
    kept = (outputs.argmax(axis=2) == labels).all(axis=0)
    assert kept[answer.status == "robust"].all()
