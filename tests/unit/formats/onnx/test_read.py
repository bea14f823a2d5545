"""ONNX files that other tools write: the model computes what ONNX says, or they are refused."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import TensorProto, helper  # noqa: E402

from deel_lip_tf.bounds import lipschitz_bound  # noqa: E402
from deel_lip_tf.certificates import certify  # noqa: E402
from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from deel_lip_tf.verify import ball, decide, read_vnnlib, robustness  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables.onnx_files import FILES, IMAGE, KERNEL, file_of, node, numbers, written  # noqa: E402


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
    "a number for each sample": "an axis behind the batch",
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
    elif name == "a number for each sample":
        total = node("ReduceSum", ["x", "along"], "h", keepdims=0)
        made = written([total, node("Add", ["h", "s"])], (5,), {"s": np.float32(1), "along": [1]})
    else:
        made = written([node("Transpose", ["x"], perm=[1, 0])], (5,), {})
    return made


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_refused_with_a_reason(name):
    with pytest.raises(ValueError, match=WRONG[name]):
        from_onnx(wrong(name))


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
