"""The checker reads what ONNX says, and nothing that it does not know."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.external_data_helper import set_external_data  # noqa: E402

from deel_lip_tf.checking.network import Rejected, read_network  # noqa: E402
from deel_lip_tf.checking.proof import MALFORMED, read  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables.onnx_files import node, numbers  # noqa: E402
from tests.unit.checking.files import question, written  # noqa: E402

CONSTANTS = {
    "w": numbers(6, 4),
    "v": numbers(4, 6),
    "b": numbers(4, seed=1),
    "c": numbers(6, seed=2),
}
CONSTANTS |= {"one": np.float32(0.5).reshape(1), "column": numbers(6, 1), "flat": numbers(1, 6)}
CONSTANTS |= {"k": numbers(3, 2, 2, 3), "l": numbers(2, 3, 2, 2), "three": numbers(3)}
CONSTANTS |= {"line": numbers(4, 2, 3), "cube": numbers(2, 2, 2, 1, 2), "four": numbers(4)}
READ = {
    "gemm": ((6,), [node("Gemm", ["x", "w", "b"])]),
    "gemm, transposed": ((6,), [node("Gemm", ["x", "v", "b"], transB=1, alpha=1.0, beta=1.0)]),
    "gemm, one bias": ((6,), [node("Gemm", ["x", "w", "one"])]),
    "gemm, no bias": ((6,), [node("Gemm", ["x", "w"], transA=0)]),
    "matmul, add": ((6,), [node("MatMul", ["x", "w"], "h"), node("Add", ["b", "h"])]),
    "two additions": (
        (6,),
        [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "i"), node("Sub", ["i", "one"])],
    ),
    "relu, relu": (
        (6,),
        [node("Gemm", ["x", "w", "b"], "h"), node("Relu", ["h"], "i"), node("Relu", ["i"])],
    ),
    "relu, then a sum": (
        (6,),
        [node("Gemm", ["x", "w"], "h"), node("Relu", ["h"], "i"), node("Add", ["i", "b"])],
    ),
    "relu first": ((6,), [node("Relu", ["x"], "h"), node("Gemm", ["h", "w", "b"])]),
    "convolution": (
        (2, 5, 6),
        [
            node("Conv", ["x", "k", "three"], "h", group=1, auto_pad="NOTSET"),
            node("Relu", ["h"], "i"),
            node("Conv", ["i", "l"], "j", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
            node("Relu", ["j"], "o"),
            node("Flatten", ["o"]),
        ],
    ),
    "convolution of a line": (
        (2, 9),
        [node("Conv", ["x", "line"], kernel_shape=[3], strides=[2], pads=[0, 1])],
    ),
    "convolution of a volume": (
        (2, 3, 4, 4),
        [node("Conv", ["x", "cube"], pads=[1, 0, 0, 0, 0, 1], dilations=[1, 1, 3])],
    ),
    "image": (
        (1, 2, 3),
        [
            node("Sub", ["x", "one"], "h"),
            node("Flatten", ["h"], "i"),
            node("Dropout", ["i"], "j"),
            node("Identity", ["j"], "k"),
            node("Gemm", ["k", "w", "b"]),
        ],
    ),
}


def outputs(layers, x):
    x = x.reshape(len(x), -1).astype(np.float64)
    for weight, bias, is_relu in layers:
        x = x @ weight.T + bias
        x = np.maximum(x, 0.0) if is_relu else x
    return x


def data_of(path):
    return path.read_bytes()


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_runs(name, tmp_path):
    shape, nodes = READ[name]
    path = written(tmp_path / "model.onnx", nodes, shape, CONSTANTS, "y")
    x = 2.0 * numbers(1, *shape, seed=5)
    expected = outputs_of(onnx.load(str(path)), x)
    np.testing.assert_allclose(
        outputs(read_network(data_of(path)), x), expected.reshape(1, -1), **CLOSE
    )


def residual():
    gemm = node("Gemm", ["x", "s"], "h")
    return [gemm, node("Relu", ["h"], "i"), node("Add", ["i", "x"])]


REFUSED = {
    "residual": ((6,), residual()),
    "an operator": ((6,), [node("Gemm", ["x", "w"], "h"), node("Tanh", ["h"])]),
    "a factor": ((6,), [node("Gemm", ["x", "w"], alpha=2.0)]),
    "a transposed input": ((6,), [node("Gemm", ["x", "w"], transA=1)]),
    "an attribute": ((6,), [node("Relu", ["x"], alpha=0.1)]),
    "leaky": ((6,), [node("LeakyRelu", ["x"], alpha=0.1)]),
    "the input twice": ((6,), [node("Add", ["x", "x"])]),
    "a difference to the input": ((6,), [node("Sub", ["c", "x"])]),
    "a product from the left": ((6,), [node("MatMul", ["v", "x"])]),
    "an input that is broadcast": ((6,), [node("Add", ["x", "column"])]),
    "rows": ((2, 6), [node("MatMul", ["x", "w"])]),
    "an operator of another domain": ((6,), [node("Relu", ["x"], domain="other")]),
    "an end that is no output": ((6,), [node("Relu", ["x"], "y"), node("Relu", ["y"], "z")]),
    "groups": ((4, 5, 5), [node("Conv", ["x", "k"], group=2)]),
    "other channels": ((4, 5, 5), [node("Conv", ["x", "k"])]),
    "another bias": ((2, 5, 5), [node("Conv", ["x", "k", "four"])]),
    "padding by name": ((2, 5, 5), [node("Conv", ["x", "k"], auto_pad="SAME_UPPER")]),
    "a kernel of another shape": ((2, 5, 5), [node("Conv", ["x", "k"], kernel_shape=[3, 2])]),
    "a kernel that is larger": ((2, 1, 5), [node("Conv", ["x", "k"])]),
    "steps back": ((2, 5, 5), [node("Conv", ["x", "k"], strides=[-1, 1])]),
    "one stride": ((2, 5, 5), [node("Conv", ["x", "k"], strides=[2])]),
    "gaps backwards": ((2, 5, 5), [node("Conv", ["x", "k"], dilations=[1, -1])]),
    "padding that cuts": ((2, 5, 5), [node("Conv", ["x", "k"], pads=[0, -1, 0, 0])]),
    "more padding than axes": ((2, 5, 5), [node("Conv", ["x", "k"], pads=[0, 0, 0, 0, 1, 1])]),
    "an image beyond all limits": ((2, 40000, 40000), [node("Conv", ["x", "k"])]),
    "padding beyond all limits": ((2, 5, 5), [node("Conv", ["x", "k"], pads=[0, 0, 9**9, 9**9])]),
    "a matrix beyond all limits": ((2, 400, 400), [node("Conv", ["x", "k"])]),
    "a vector beyond all limits": ((10**6,), [node("Relu", ["x"])]),
    "an unknown size": ((0,), [node("Relu", ["x"])]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    shape, nodes = REFUSED[name]
    constants = {**CONSTANTS, "s": numbers(6, 6)}
    path = written(tmp_path / "model.onnx", nodes, shape, constants, "y")
    (tmp_path / "question.vnnlib").write_text(question(6, 4))
    with pytest.raises((Rejected, *MALFORMED)):
        read(path, tmp_path / "question.vnnlib")


def altered(change):
    """The bytes of a model that was valid."""
    graph = helper.make_graph(
        [node("Gemm", ["x", "w"])],
        "test",
        [helper.make_tensor_value_info("x", 1, [1, 6])],
        [helper.make_tensor_value_info("y", 1, [1, 4])],
        [numpy_helper.from_array(CONSTANTS["w"], "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    change(model)
    return model.SerializeToString()


def elsewhere(tensor):
    """The numbers are in a file beside the model, as `external_data` says; one lies here, too."""
    set_external_data(tensor, "numbers.bin")
    tensor.ClearField("raw_data")


CHANGES = {
    "an old version": lambda m: setattr(m.opset_import[0], "version", 6),
    "no version": lambda m: m.opset_import.pop(),
    "two outputs": lambda m: m.graph.output.append(m.graph.output[0]),
    "two inputs": lambda m: m.graph.input.append(helper.make_tensor_value_info("z", 1, [1, 6])),
    "an operator of its own": lambda m: m.functions.add(name="Gemm", domain=""),
    "integers": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 7),
    "numbers of another file": lambda m: elsewhere(m.graph.initializer[0]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_models_that_say_something_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.bin").write_bytes(np.zeros((6, 4), np.float32).tobytes())
    assert len(read_network(altered(lambda model: None))) == 1
    (tmp_path / "question.vnnlib").write_text(question(6, 4))
    (tmp_path / "model.onnx").write_bytes(altered(CHANGES[name]))
    with pytest.raises((Rejected, *MALFORMED)):
        read(tmp_path / "model.onnx", tmp_path / "question.vnnlib")
