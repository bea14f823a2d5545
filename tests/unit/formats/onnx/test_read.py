"""ONNX files that other tools write: each operator computes what ONNX says, or is refused."""

import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from deel_lip_tf.bounds import lipschitz_bound  # noqa: E402
from deel_lip_tf.certificates import certify  # noqa: E402
from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from deel_lip_tf.verify import ball, decide, read_vnnlib, robustness  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402


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


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_tools(name, rng):
    model = file_of(name)
    samples = 1 if "batch of 1" in name else 3
    x = rng.normal(size=(samples, *FILES[name][1])).astype("float32")
    expected = outputs_of(model, x)
    got = from_onnx(model)(x, training=False).numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, **CLOSE)


NOT_IN_FLOAT64 = {
    "cast": "to float32",
    "constant": "its constants are float32",
    "volumes": "TensorFlow's CPU has no maximum of float64 volumes",
}


@pytest.mark.parametrize("name", sorted(FILES.keys() - NOT_IN_FLOAT64))
def test_files_in_float64_lose_nothing(name, rng):
    model = file_of(name, np.float64)
    x = rng.normal(size=(1, *FILES[name][1]))
    got = from_onnx(model)(x, training=False).numpy()
    assert got.dtype == np.float64
    # The reference has some constants of ONNX in float32; sums are in another order.
    expected = outputs_of(model, x)
    np.testing.assert_allclose(got, expected, rtol=1e-6 if "smooth" in name else 1e-12, atol=1e-12)


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


def refused_file(name):
    """A file of one operator that is at training, or that Keras has not got."""
    weights = ["c", "c2", "c3", "p"]
    yes = {"yes": np.array(True)}
    many = helper.make_node("BatchNormalization", ["x", *weights], ["y", "m", "v"], name="bn")
    image = {k: CONSTANTS[k] for k in weights}
    return {
        "batch normalization": (
            [node("BatchNormalization", ["x", *weights], training_mode=1)], IMAGE, image, 15,
        ),
        "batch normalization of several outputs": ([many], IMAGE, image, 9),
        "batch normalization of version 6": (
            [node("BatchNormalization", ["x", *weights])], IMAGE, image, 6,
        ),
        "batch normalization of each entry": (
            [node("BatchNormalization", ["x", *weights], spatial=0)], IMAGE, image, 7,
        ),
        "dropout": ([node("Dropout", ["x", "", "yes"])], (5,), yes, 13),
        "dropout of unknown mode": ([node("Dropout", ["x", "", "x"])], (5,), {}, 13),
        "dropout of version 6": ([node("Dropout", ["x"])], (5,), {}, 6),
        "sum along another axis": (
            [node("Add", ["x", "c"], broadcast=1, axis=1)], IMAGE, {"c": numbers(3)}, 6,
        ),
        "negative slope": ([node("LeakyRelu", ["x"], alpha=-0.5)], (5,), {}, 14),
        "strides and dilations": (
            [node("Conv", ["x", "k"], strides=[2, 2], dilations=[2, 2])], IMAGE, {"k": KERNEL}, 14,
        ),
        "constants in a maximum": ([node("Max", ["x", "s", "s"])], (5,), {"s": np.float32(1)}, 14),
        "a constant for each sample": ([node("Add", ["x", "m"])], (5,), {"m": numbers(2, 5)}, 14),
        "a constant of more axes": (
            [node("Mul", ["x", "m"])], (5,), {"m": numbers(1, 1, 5)}, 14,
        ),
        "a constant that is larger": ([node("Sub", ["x", "m"])], (1,), {"m": numbers(4)}, 14),
        "a bias for each sample": (
            [node("Gemm", ["x", "w", "m"])], (5,), {"w": numbers(5, 4), "m": numbers(4, 1)}, 14,
        ),
        "division by zero": ([node("Div", ["x", "z"])], (5,), {"z": np.zeros(5, "float32")}, 14),
        "constants of another type": ([node("Mul", ["x", "m"])], (5,), {"m": np.array(0.1)}, 14),
        "inputs of different ranks": (
            [node("Flatten", ["x"], "h"), node("Add", ["h", "x"])], (5, 1), {}, 14,
        ),
        "no axis": ([node("Concat", ["x", "x"])], (5,), {}, 14),
        "constants alone": ([node("Mul", ["s", "s"])], (5,), {"s": np.float32(2)}, 14),
    }[name]  # fmt: skip


REFUSED = {
    "batch normalization": "training_mode=0",
    "batch normalization of several outputs": "one output, since several mean training",
    "batch normalization of version 6": "is_test=1",
    "batch normalization of each entry": "spatial=1",
    "dropout": "no training mode",
    "dropout of unknown mode": "a constant as input 2",
    "dropout of version 6": "is_test=1",
    "sum along another axis": "broadcast=0",
    "negative slope": "an alpha of at least 0",
    "strides and dilations": "no strides together with dilations",
    "constants in a maximum": "no constant input",
    "a constant for each sample": "the same for every sample",
    "a constant of more axes": "broadcasts against samples",
    "a constant that is larger": "broadcasts against samples",
    "a bias for each sample": "the same for every sample",
    "division by zero": "no zero",
    "constants of another type": "float32",
    "inputs of different ranks": "as many axes",
    "no axis": "the attribute 'axis'",
    "constants alone": "does not depend on the input",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_operator_is_refused_for_names_it(name):
    nodes, shape, constants, version = refused_file(name)
    last = nodes[-1]
    with pytest.raises(ValueError, match=re.escape(f"{last.op_type} ('{last.name}')")) as error:
        from_onnx(written(nodes, shape, constants, version=version))
    assert REFUSED[name] in str(error.value)


@pytest.mark.parametrize("version", [6, 9, 14])
def test_batch_normalization_at_inference(version, rng):
    attributes = {"is_test": 1} if version < 7 else {}
    weights = ["c", "c2", "c3", "p"]
    nodes = [node("BatchNormalization", ["x", *weights], epsilon=1e-3, **attributes)]
    constants = {k: CONSTANTS[k] for k in weights}
    x = rng.normal(size=(2, *IMAGE)).astype("float32")
    scale, shift, mean, variance = (constants[k].reshape(3, 1, 1) for k in weights)
    expected = (x - mean) / np.sqrt(variance + 1e-3) * scale + shift
    model = from_onnx(written(nodes, IMAGE, constants, version=version))
    np.testing.assert_allclose(model(x).numpy(), expected, **CLOSE)


def test_constants_with_a_batch_axis_that_are_alike(rng):
    """Of a file whose batch is fixed, with one row for each sample."""
    row = numbers(5)
    made = written([node("Mul", ["m", "x"])], (5,), {"m": np.stack([row, row])})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    x = rng.normal(size=(2, 5)).astype("float32")
    np.testing.assert_array_equal(from_onnx(made)(x).numpy(), outputs_of(made, x))


VECTORS = {
    "elementwise": [
        node("Relu", ["x"], "h"), node("Mul", ["h", "b5"], "i"), node("Sub", ["s", "i"]),
    ],
    "product": [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"])],
    "two branches": [
        node("Tanh", ["x"], "h"), node("Max", ["x", "h"], "i"), node("Div", ["i", "b5"]),
    ],
    "unsqueezed": [node("Unsqueeze", ["x", "first"], "h"), node("Gemm", ["h", "w"])],
    "reshaped": [node("Reshape", ["x", "row"], "h"), node("Softmax", ["h"])],
    "flattened": [node("Flatten", ["x"], "h", axis=0), node("Gemm", ["h", "w", "b"])],
}  # fmt: skip


def without_batch(nodes):
    given = {
        "w": numbers(5, 4), "b": numbers(4), "b5": numbers(5), "s": np.float32(1.5),
        "first": np.array([0], np.int64), "row": np.array([1, -1], np.int64),
        "column": np.array([-1, 1], np.int64),
    }  # fmt: skip
    used = {i for n in nodes for i in n.input} & set(given)
    made = written(nodes, (5,), {k: given[k] for k in used})
    del made.graph.input[0].type.tensor_type.shape.dim[0]
    return made


@pytest.mark.parametrize("name", VECTORS)
def test_an_input_without_a_batch_is_one_sample(name, rng):
    made = without_batch(VECTORS[name])
    x = rng.normal(size=(3, 5)).astype("float32")
    expected = np.stack([outputs_of(made, row).ravel() for row in x])
    np.testing.assert_allclose(from_onnx(made)(x).numpy(), expected, **CLOSE)


@pytest.mark.parametrize(
    "last",
    [
        node("Concat", ["x", "x"], axis=0),
        node("Softmax", ["x"], axis=0),
        node("Reshape", ["x", "column"]),
        node("Flatten", ["x"], axis=1),
        node("Transpose", ["x"]),
        node("Gemm", ["x", "w"]),
    ],
    ids=lambda last: last.op_type,
)
def test_operators_that_need_a_batch_say_so(last):
    with pytest.raises(ValueError, match=f"{last.op_type} .*batch axis"):
        from_onnx(without_batch([last]))


def test_a_quotient_is_decided_where_it_is_exact(tmp_path):
    """25 / 25 is 1, and 25 times the float32 next to 1 / 25 is less."""
    made = written([node("Div", ["x", "c"])], (1,), {"c": np.array([25.0], np.float32)})
    path = tmp_path / "question.vnnlib"
    path.write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= 0 X_0 25))(assert (>= Y_0 1))"
    )
    answer = decide(from_onnx(made), read_vnnlib(path), time_limit=10)
    assert (answer.status, answer.witness) == ("sat", 25.0)


@pytest.mark.parametrize("divisor", [25.0, [3.0, -0.7, 9.0]])
def test_a_quotient_has_a_bound_and_certificates(divisor, rng):
    """The smallest divisor counts."""
    made = written(
        [node("Div", ["x", "c"], "h"), node("Gemm", ["h", "w"])],
        (3,),
        {"c": np.array(divisor, np.float32), "w": numbers(3, 2)},
    )
    model = from_onnx(made)
    matrix = numbers(3, 2).astype(np.float64) / np.broadcast_to(np.float32(divisor), 3)[:, None]
    bound = lipschitz_bound(model).value
    assert np.linalg.norm(matrix, 2) <= bound <= np.linalg.norm(numbers(3, 2), 2) / 0.7 * (1 + 1e-6)
    found = certify(model, rng.normal(size=(3, 3)).astype("float32"))
    assert (found.radius > 0).any()


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
