"""Files that are read without Keras: only those that run as they are read."""

import dataclasses

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.verify import files  # noqa: E402
from deel_lip_tf.verify.specification.parsing import parsed  # noqa: E402
from deel_lip_tf.verify.specification.property import property_of  # noqa: E402
from tests.unit.formats.onnx.test_read import node, numbers, written  # noqa: E402

DENSE = [node("Gemm", ["x", "w", "b"], "h"), node("Relu", ["h"], "i"), node("Gemm", ["i", "v"])]
CONSTANTS = {"w": numbers(3, 16), "b": numbers(16), "v": numbers(16, 2)}


def question(inputs=3):
    names = [f"X_{i}" for i in range(inputs)]
    lines = [f"(declare-const {name} Real)" for name in (*names, "Y_0", "Y_1")]
    lines += [f"(assert (<= -0.5 {name} 1))" for name in names]
    return property_of(*parsed("\n".join([*lines, "(assert (>= Y_0 Y_1))"])))


@pytest.fixture
def path(tmp_path):
    onnx.save(written(DENSE, (3,), CONSTANTS), str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def test_a_file_and_its_program(path, rng):
    program, run = files.read_program(path, question())
    x = rng.normal(size=(4, 3))
    hidden = np.maximum(x @ CONSTANTS["w"] + CONSTANTS["b"], 0)
    np.testing.assert_allclose(run(x), hidden @ CONSTANTS["v"], rtol=1e-5, atol=1e-5)
    assert (program.input_shape, program.output_shape) == ((3,), (2,))


@pytest.mark.parametrize("change", [1e-3, -1.0])
def test_a_file_that_runs_otherwise_than_it_is_read(change, path, monkeypatch):
    """As if the bias, or another number, had been misread."""

    def misread(model, lower=files.lower_onnx):
        program = lower(model)
        nodes = list(program.nodes)
        nodes[1] = dataclasses.replace(nodes[1], bias=nodes[1].bias + change)
        return dataclasses.replace(program, nodes=tuple(nodes))

    monkeypatch.setattr(files, "lower_onnx", misread)
    assert files.read_program(path, question()) is None


LEFT = {
    "softmax": [*DENSE[:2], node("Gemm", ["i", "v"], "j"), node("Softmax", ["j"])],
    "erf": [*DENSE[:2], node("Erf", ["i"], "j"), node("Gemm", ["j", "v"])],
    "no formula": [DENSE[0], node("Tanh", ["h"], "i"), DENSE[2]],
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_keras(name, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(written(LEFT[name], (3,), CONSTANTS), str(path))
    assert files.read_program(path, question()) is None


def test_what_is_no_model_is_told_by_who_reads_it_then(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xfe")
    assert files.read_program(tmp_path / "broken.onnx", question()) is None
