"""ONNX files as they run, sample by sample."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.formats.onnx.running import OnnxRun  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables.onnx_files import (  # noqa: E402
    FILES,
    IMAGE,
    file_of,
    node,
    numbers,
    written,
)


@pytest.mark.parametrize("name", ["gemm", "matmul used twice", "conv", "maximum", "transpose"])
def test_samples_of_any_shape(name, rng):
    model = file_of(name)
    x = rng.normal(size=(3, *FILES[name][1])).astype("float32")
    run = OnnxRun(model)
    got = run(x.reshape(3, -1))
    assert got.dtype == run.dtype == np.float32
    np.testing.assert_allclose(got, outputs_of(model, x).reshape(3, -1), **CLOSE)


def test_an_input_without_a_batch():
    made = written([node("MatMul", ["w", "x"])], (), {"w": numbers(4, 5)})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    expected = np.tile(numbers(4, 5).sum(axis=1), (2, 1))
    np.testing.assert_allclose(OnnxRun(made)(np.ones((2, 5))), expected, **CLOSE)


def test_what_cannot_run_says_so():
    made = written([node("Reshape", ["x", "to"])], IMAGE, {"to": np.array([5, -1])})
    with pytest.raises(ValueError, match="cannot be run"):
        OnnxRun(made)(np.zeros((1, *IMAGE)))
