"""ONNX files as programs: what ONNX's runtime computes, and what the Keras model is lowered to."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.formats.onnx.lowering.program import lower_onnx  # noqa: E402
from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from deel_lip_tf.semantics.ir.lowering import lower_model  # noqa: E402
from deel_lip_tf.verify.propagation.interval import propagate  # noqa: E402
from deel_lip_tf.verify.tensorflow import evaluate  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables.onnx_files import (  # noqa: E402
    FILES,
    IMAGE,
    file_of,
    node,
    numbers,
    written,
)

REFUSED = {
    **dict.fromkeys(("conv, auto_pad", "conv, lower"), "auto_pad"),
    **dict.fromkeys(("activations", "smooth", "smooth, with numbers"), "not supported"),
    **dict.fromkeys(("mean of an image", "mean of columns", "sum"), "not supported"),
    "sum and mean of tensors": "Mean",
    "softmax": "Softmax",
    "cast": "Cast",
    "transposed convolution": "ConvTranspose",
    "transposed convolution, larger strides": "ConvTranspose",
    "transposed convolution of sequences": "ConvTranspose",
}
"""What only `from_onnx` reads."""

LOWERED = [name for name in FILES if name not in REFUSED]
# Differences of float64 in another order of sums, of numbers of size 1.
EXACT = dict(rtol=1e-12, atol=1e-12)


def flat(x):
    return np.asarray(x).reshape(len(x), -1)


@pytest.mark.parametrize("name", LOWERED)
def test_a_program_computes_what_the_file_says(name, rng):
    """By ONNX's runtime in float32, and by the Keras model of the same file in float64."""
    model = file_of(name)
    x = rng.normal(size=(3, *FILES[name][1])).astype("float32")
    program, read = lower_onnx(model), lower_model(from_onnx(model))
    samples = x.reshape(3, *program.input_shape)
    got = flat(evaluate(program, samples)[program.output])
    expected = np.concatenate([flat(outputs_of(model, x[i : i + 1])) for i in range(3)])
    np.testing.assert_allclose(got, expected, **CLOSE)
    np.testing.assert_allclose(got, flat(evaluate(read, x)[read.output]), **EXACT)


@pytest.mark.parametrize("name", LOWERED)
def test_its_boxes_are_those_of_the_keras_model(name, rng):
    """Where a bias is added elsewhere an interval is rounded elsewhere: no more than that."""
    model = file_of(name)
    x = rng.normal(size=(2, *FILES[name][1]))
    ends = []
    for program in (lower_onnx(model), lower_model(from_onnx(model))):
        low, high = ((x + shift).reshape(2, *program.input_shape) for shift in (-0.125, 0.25))
        found = propagate(program, low, high)[program.output]
        ends.append([flat(found.lower), flat(found.upper)])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_left_to_the_keras_model(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        lower_onnx(file_of(name))


VECTORS = {
    "dense": [node("MatMul", ["w", "x"], "h"), node("Relu", ["h"])],
    "from the right": [node("MatMul", ["x", "v"], "h"), node("Add", ["h", "b"])],
    "gets a batch": [node("Reshape", ["x", "row"], "h"), node("Gemm", ["h", "v", "b"])],
}


@pytest.mark.parametrize("name", VECTORS)
def test_inputs_without_a_batch(name, rng):
    constants = {"w": numbers(4, 5), "v": numbers(5, 4), "b": numbers(4), "row": np.array([1, -1])}
    used = {i for one in VECTORS[name] for i in one.input}
    made = written(VECTORS[name], (), {k: v for k, v in constants.items() if k in used})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    program, x = lower_onnx(made), rng.normal(size=5).astype("float32")
    assert program.input_shape == (5,)
    got = flat(evaluate(program, x[None])[program.output])
    np.testing.assert_allclose(got, outputs_of(made, x).reshape(1, -1), **CLOSE)


MOVES = {
    "gather": ([node("Gather", ["x", "picked"], axis=2)], {"picked": np.array([4, 0, 0])}),
    "turned with its batch": ([node("Transpose", ["x"], perm=[3, 0, 2, 1])], {}),
    "tiled": ([node("Tile", ["x", "times"])], {"times": np.array([1, 2, 1, 1])}),
    "size from a shape": (
        [
            node("Shape", ["x"], "h"),
            node("Gather", ["h", "first"], "i"),
            node("Concat", ["i", "rest"], "j", axis=0),
            node("Reshape", ["x", "j"]),
        ],
        {"first": np.array([0]), "rest": np.array([-1])},
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_entries_of_one_sample(name, rng):
    """Also where `from_onnx`, whose models take batches, has no rule."""
    nodes, constants = MOVES[name]
    made = written(nodes, IMAGE, constants)
    program, x = lower_onnx(made), rng.normal(size=(1, *IMAGE)).astype("float32")
    got = flat(evaluate(program, x.reshape(1, *program.input_shape))[program.output])
    np.testing.assert_array_equal(got.astype("float32"), outputs_of(made, x).reshape(1, -1))


def test_a_constant_of_another_type_is_not_rounded():
    made = written([node("Add", ["x", "c"])], (5,), {"c": np.float64(0.1)})
    with pytest.raises(ValueError, match="float32"):
        lower_onnx(made)


def test_a_factor_is_not_rounded_either():
    """In float64 a product of two numbers has no room: alpha of a double file is refused."""
    nodes = [node("Gemm", ["x", "w"], alpha=0.1)]
    single = lower_onnx(written(nodes, (5,), {"w": numbers(5, 4)}))
    alpha = float(np.float32(0.1))
    np.testing.assert_array_equal(
        single.nodes[1].map.matrix, alpha * numbers(5, 4).astype(np.float64)
    )
    with pytest.raises(ValueError, match="products"):
        lower_onnx(written(nodes, (5,), {"w": numbers(5, 4).astype(np.float64)}, np.float64))
