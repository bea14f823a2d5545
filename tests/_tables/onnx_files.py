"""ONNX files as other tools write them: operators, the shape of a sample, sizes of constants."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def written(nodes, shape, constants, dtype=np.float32, version=14):
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
    "clipped": (
        [
            node("Clip", ["x", "low", "high"], "h"),
            node("Clip", ["h", "", "half"], "i"),
            node("Clip", ["i", "low"], "j"),
            node("Clip", ["j"]),
        ],
        IMAGE,
        {},
    ),
    "signs": ([node("Neg", ["x"], "h"), node("Abs", ["h"])], IMAGE, {}),
    "extremes with constants": (
        [node("Conv", ["x", "k"], "h"), node("Max", ["h", "b4"], "i"), node("Min", ["half", "i"])],
        IMAGE,
        {},
    ),
    "sum and mean of tensors": (
        [node("Neg", ["x"], "h"), node("Sum", ["x", "h", "x"], "i"), node("Mean", ["i", "h"])],
        IMAGE,
        {},
    ),
    "mean of an image": ([node("ReduceMean", ["x"], axes=[2, -1], keepdims=0)], IMAGE, {}),
    "mean of columns": ([node("ReduceMean", ["x"], axes=[-1])], IMAGE, {}),
    "sum": ([node("ReduceSum", ["x", "axes"], keepdims=0)], IMAGE, {}),
    "slices": (
        [
            node("Slice", ["x", "begins", "ends", "axes12"], "h"),
            node("Slice", ["h", "last", "before", "last", "back"]),
        ],
        IMAGE,
        {},
    ),
    "split": (
        [
            helper.make_node("Split", ["x", "parts"], ["h", "i"], axis=2),
            node("Relu", ["i"], "j"),
            node("Concat", ["j", "h"], axis=2),
        ],
        IMAGE,
        {},
    ),
    "split evenly": (
        [helper.make_node("Split", ["x"], ["h", "i", "y"], axis=1)],
        IMAGE,
        {},
    ),
    "slopes": ([node("PRelu", ["x", "mean"], "h"), node("PRelu", ["h", "each"])], IMAGE, {}),
    "slopes, channels last": (
        [node("Conv", ["x", "k"], "h"), node("PRelu", ["h", "b4"])],
        IMAGE,
        {},
    ),
    "transposed convolution": (
        [
            node(
                "ConvTranspose",
                ["x", "t", "b5"],
                strides=[2, 1],
                pads=[1, 0, 0, 2],
                output_padding=[0, 0],
            )
        ],
        IMAGE,
        {},
    ),
    "transposed convolution, larger strides": (
        [
            node(
                "ConvTranspose",
                ["x", "t"],
                strides=[4, 2],
                output_padding=[1, 1],
                pads=[0, 1, 0, 1],
            )
        ],
        IMAGE,
        {},
    ),
    "transposed convolution of sequences": (
        [node("ConvTranspose", ["x", "t1"], strides=[2], pads=[1, 1], output_padding=[1])],
        (3, 7),
        {},
    ),
    "smooth": (
        [node("Selu", ["x"], "h"), node("HardSigmoid", ["h"], "i", alpha=0.3), node("Exp", ["i"])],
        (5,),
        {},
    ),
    "smooth, with numbers": (
        [
            node("Selu", ["x"], "h", alpha=1.5, gamma=0.7),
            node("Softsign", ["h"], "i"),
            node("HardSwish", ["i"], "j"),
            node("Celu", ["j"], alpha=0.5),
        ],
        (5,),
        {},
    ),
    "cast": (
        [
            node("Cast", ["x"], to=TensorProto.FLOAT),
        ],
        (5,),
        {},
    ),
    "matrix from the left": ([node("MatMul", ["v", "x"])], (2, 5, 3), {}),
    "matrix from the left, scalar added": (
        [node("MatMul", ["v", "x"], "h"), node("Add", ["h", "s"])],
        (2, 5, 3),
        {},
    ),
    "conv, lower": ([node("Conv", ["x", "k"], auto_pad="SAME_LOWER", strides=[2, 1])], IMAGE, {}),
    "volumes": (
        [
            node("Conv", ["x", "k3"], "h", pads=[0, 1, 0, 1, 0, 1]),
            node("MaxPool", ["h"], "i", kernel_shape=[1, 2, 2]),
            node("GlobalAveragePool", ["i"]),
        ],
        (2, 3, 4, 5),
        {},
    ),
    "pad of channels": ([node("Pad", ["x", "pads3"])], IMAGE, {}),
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
    "low": np.float32(-0.75),
    "high": np.float32(1.25),
    "half": np.float32(0.5),
    "b4": numbers(4, 1, 1),
    "b5": numbers(5),
    "t": numbers(3, 5, 3, 2),
    "t1": numbers(3, 4, 3),
    "k3": numbers(4, 2, 1, 2, 2),
    "pads3": np.array([0, 1, 0, 0, 0, 0, 1, 0], np.int64),
    "begins": np.array([-3, 1], np.int64),
    "ends": np.array([2**63 - 1, -1], np.int64),
    "axes12": np.array([1, 2], np.int64),
    "last": np.array([-1], np.int64),
    "before": np.array([-(2**63) + 1], np.int64),
    "back": np.array([-2], np.int64),
    "parts": np.array([2, 5], np.int64),
    "axes1": np.array([1], np.int64),
    **SHAPES,
}
# Since these versions of an operator, what was an attribute is an input.
NEWER = {"mean of an image": 13, "mean of columns": 13}


def file_of(name, dtype=np.float32):
    nodes, shape, sizes = FILES[name]
    given = {"w": numbers(5, 4), "b": numbers(4), **CONSTANTS}
    used = {i for n in nodes for i in n.input} & set(given)
    constants = {k: given[k] for k in used}
    if dtype != np.float32:
        constants = {k: v if v.dtype == np.int64 else v.astype(dtype) for k, v in constants.items()}
    return written(nodes, shape, constants, dtype, NEWER.get(name, 14))
