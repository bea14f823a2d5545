"""ONNX files that other tools write: each operator computes what ONNX says, or is refused."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from deel_lip_tf.verify import ball, robustness  # noqa: E402
from deel_lip_tf.verify.onnx_import import from_onnx  # noqa: E402
from onnx_oracles import CLOSE, outputs_of  # noqa: E402


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
