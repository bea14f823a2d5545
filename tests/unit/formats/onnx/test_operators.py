"""Each operator computes what ONNX says, with or without a batch, or is refused by its name."""

import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import helper  # noqa: E402

from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables.onnx_files import CONSTANTS, IMAGE, KERNEL, node, numbers, written  # noqa: E402


def test_average_without_counting_pads_of_another_kind_is_refused():
    nodes = [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[2, 2, 2, 2])]
    with pytest.raises(ValueError, match="AveragePool.*padding"):
        from_onnx(written(nodes, IMAGE, {}))


def test_maximum_with_zeros_at_the_border_is_refused():
    """A pad of a maximum is minus infinity, not 0."""
    nodes = [node("MaxPool", ["x"], kernel_shape=[3, 3], pads=[2, 0, 0, 0])]
    with pytest.raises(ValueError, match="MaxPool.*padding"):
        from_onnx(written(nodes, IMAGE, {}))


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
