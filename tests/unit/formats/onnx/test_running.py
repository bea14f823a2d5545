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


@pytest.mark.parametrize("version", [7, 8, 9, 13, 14, 15])
@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2)])
def test_batch_normalization_is_that_of_inference(shape, version, rng):
    """ONNX's own implementation mixes the sample into the statistics below version 14."""
    constants = {name: numbers(3, seed=i) for i, name in enumerate("sbm")}
    constants["v"] = np.square(numbers(3, seed=4))
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=0.25)]
    x = rng.normal(size=(2, *shape)).astype("float32")
    s, b, m, v = (constants[k].reshape(3, *[1] * (len(shape) - 1)) for k in "sbmv")
    expected = s * (x - m) / np.sqrt(v + 0.25) + b
    got = OnnxRun(written(nodes, shape, constants, version=version))(x)
    np.testing.assert_allclose(got, expected.reshape(2, -1), **CLOSE)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 2, 3)])
def test_the_largest_entry_of_each_channel(shape, rng):
    """ONNX's own implementation takes it over other axes, unless there are two."""
    x = rng.normal(size=(2, *shape)).astype("float32")
    got = OnnxRun(written([node("GlobalMaxPool", ["x"])], shape, {}))(x)
    np.testing.assert_array_equal(got, x.reshape(2, 3, -1).max(axis=-1))
