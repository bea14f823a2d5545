"""Files that are read without Keras: only those that run as they are read."""

import dataclasses

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from deel_lip_tf.verify import decide, files  # noqa: E402
from deel_lip_tf.verify.specification.parsing import parsed  # noqa: E402
from deel_lip_tf.verify.specification.property import property_of  # noqa: E402
from tests._oracles.onnx_oracles import outputs_of  # noqa: E402
from tests._tables.onnx_files import node, numbers, written  # noqa: E402

DENSE = [node("Gemm", ["x", "w", "b"], "h"), node("Relu", ["h"], "i"), node("Gemm", ["i", "v"])]
CONSTANTS = {"w": numbers(3, 16), "b": numbers(16), "v": numbers(16, 2)}


def question(inputs=3, threshold=0.0):
    """Whether `Y_0 - Y_1` reaches a threshold on a box."""
    names = [f"X_{i}" for i in range(inputs)]
    lines = [f"(declare-const {name} Real)" for name in (*names, "Y_0", "Y_1")]
    lines += [f"(assert (<= -0.5 {name} 1))" for name in names]
    return property_of(*parsed("\n".join([*lines, f"(assert (>= (- Y_0 Y_1) {threshold}))"])))


@pytest.fixture
def path(tmp_path):
    onnx.save(written(DENSE, (3,), CONSTANTS), str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def test_a_file_and_its_program(path, rng):
    program, run = files._read(path, question())
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
    assert files._read(path, question()) is None


LEFT = {
    "softmax": [*DENSE[:2], node("Gemm", ["i", "v"], "j"), node("Softmax", ["j"])],
    "erf": [*DENSE[:2], node("Erf", ["i"], "j"), node("Gemm", ["j", "v"])],
    "no formula": [DENSE[0], node("Tanh", ["h"], "i"), DENSE[2]],
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_keras(name, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(written(LEFT[name], (3,), CONSTANTS), str(path))
    assert files._read(path, question()) is None


def decided_by_both(path, asked):
    """The answer without Keras, and that of the Keras model of the same file."""
    return files.decide_file(path, asked, 60), decide(from_onnx(path), asked, time_limit=60)


@pytest.mark.parametrize("share", [0.0, 0.9, 1.1])
@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_the_keras_model(seed, share, tmp_path):
    """For thresholds in reach, close to the largest value, and beyond it."""
    constants = {"w": numbers(3, 16, seed=seed), "b": numbers(16, seed=seed + 9)}
    constants["v"] = numbers(16, 2, seed=seed + 17)
    made, path = written(DENSE, (3,), constants), tmp_path / "model.onnx"
    onnx.save(made, str(path))
    corners = np.linspace(-0.5, 1, 41)
    grid = np.stack(np.meshgrid(*[corners] * 3), -1).reshape(-1, 3).astype("float32")
    gap = np.subtract(*outputs_of(made, grid).T.astype(np.float64))
    asked = question(threshold=gap.min() + share * (gap.max() - gap.min()))
    light, heavy = decided_by_both(path, asked)
    assert light.status == heavy.status == ("unsat" if share > 1 else "sat")
    if light.status == "sat":
        replayed = outputs_of(made, light.witness.reshape(1, 3))
        np.testing.assert_allclose(replayed.ravel(), light.outputs, rtol=1e-6, atol=1e-6)
        assert asked.conjunctions[0].holds(light.witness, light.outputs)
        assert light.witness.dtype == np.float32


def test_a_witness_that_only_the_program_has_is_none(path, monkeypatch):
    """The file as it runs decides, even if nothing was found wrong with what was read."""
    asked = question(threshold=-100.0)
    assert files.decide_file(path, asked, 10).status == "sat"

    class Unlike(files.OnnxRun):
        def __call__(self, x):
            return super().__call__(x) * 0.0 + [-1000.0, 1000.0]

    monkeypatch.setattr(files, "OnnxRun", Unlike)
    monkeypatch.setattr(files, "_runs_as_read", lambda *_: True)
    assert files.decide_file(path, asked, 2).status == "unknown"


def test_a_property_of_another_network_is_refused(path):
    with pytest.raises(ValueError, match="3 inputs and 2 outputs"):
        files.decide_file(path, question(4), 10)


def test_what_is_no_model_is_told_by_who_reads_it_then(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xfe")
    assert files._read(tmp_path / "broken.onnx", question()) is None


def test_a_witness_has_the_outputs_of_inference(tmp_path):
    """Where the box is centred at the mean, training and inference agree in its middle alone."""
    nodes = [node("BatchNormalization", ["x", "one", "zero", "zero", "one"], epsilon=0.0)]
    constants = {"one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}
    onnx.save(written(nodes, (2,), constants, version=11), str(tmp_path / "model.onnx"))
    text = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    text += "(assert (<= -1 X_0 1)) (assert (<= -1 X_1 1)) (assert (>= Y_0 0.97))"
    verdict = files.decide_file(tmp_path / "model.onnx", property_of(*parsed(text)), 10.0)
    assert verdict.status == "sat"
    np.testing.assert_array_equal(verdict.outputs, verdict.witness)
