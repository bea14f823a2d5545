"""What ONNX files compute from constants and shapes, and how older versions say the same."""

import gzip

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from deel_lip_tf.formats import reader_of  # noqa: E402
from deel_lip_tf.formats.onnx.read import from_onnx  # noqa: E402
from deel_lip_tf.verify import bounds, box  # noqa: E402
from tests._oracles.onnx_oracles import CLOSE, outputs_of  # noqa: E402
from tests._tables.onnx_files import FILES, IMAGE, file_of, node, numbers, written  # noqa: E402

A, B, WHOLE = numbers(2, 3), numbers(2, 3, seed=1), np.arange(6).reshape(2, 3)
SIZES = {k: np.array(v, np.int64) for k, v in {
    "i1": [1], "i0": [0], "i2": [2], "m1": [-1], "i6": [6], "i32": [3, 2], "i22": [2, 2],
    "minus7": [-7], "i13": [1, 3], "i223": [2, 2, 3],
}.items()}  # fmt: skip
FLOAT = TensorProto.FLOAT
FOLDED = {
    "transpose": ([node("Transpose", ["a"], "c")], A.T),
    "reshape": ([node("Reshape", ["a", "i32"], "c")], A.reshape(3, 2)),
    "flatten": ([node("Flatten", ["a"], "c", axis=0)], A.reshape(1, 6)),
    "unsqueeze, squeeze": (
        [node("Unsqueeze", ["a", "i0"], "h"), node("Squeeze", ["h", "i0"], "c")], A,
    ),
    "concat": ([node("Concat", ["a", "b"], "c", axis=-1)], np.concatenate([A, B], axis=1)),
    "gather": ([node("Gather", ["a", "i1"], "c", axis=1)], A[:, [1]]),
    "slice": ([node("Slice", ["a", "i1", "i6", "m1"], "c")], A[:, 1:]),
    "split": ([helper.make_node("Split", ["a"], ["h", "c"], axis=0)], A[1:]),
    "expand": ([node("Expand", ["a", "i223"], "c")], np.stack([A, A])),
    "tile": ([node("Tile", ["a", "i22"], "c")], np.tile(A, (2, 2))),
    "where": (
        [node("Cast", ["i"], "h", to=TensorProto.BOOL), node("Where", ["h", "a", "b"], "c")],
        np.where(WHOLE > 0, A, B),
    ),
    "filled": ([node("ConstantOfShape", ["i32"], "c", value=numpy_helper.from_array(
        np.array([0.5], np.float32)))], np.full((3, 2), 0.5)),
    "signs": ([node("Neg", ["a"], "h"), node("Abs", ["h"], "c")], np.abs(A)),
    "extremes": ([node("Max", ["a", "b"], "h"), node("Min", ["h", "s"], "c")],
                 np.minimum(np.maximum(A, B), np.float32(0.5))),
    "steps": ([node("Floor", ["a"], "h"), node("Ceil", ["b"], "i1"), node("Sub", ["h", "i1"], "c")],
              np.floor(A) - np.ceil(B)),
    "identity of a constant": ([node("Identity", ["a"], "h"), node("Identity", ["h"], "c")], A),
    "arithmetic of float32": (
        [node("Add", ["a", "b"], "h"), node("Mul", ["h", "b"], "j"), node("Div", ["j", "a"], "k"),
         node("Abs", ["k"], "l"), node("Sqrt", ["l"], "c")],
        np.sqrt(np.abs((A + B) * B / A)),
    ),
    "rounded as the file says": (
        [node("Cast", ["tenth"], "c", to=FLOAT)], np.array([0.1]).astype(np.float32),
    ),
    "summed, then rounded": (
        [node("Add", ["tenth", "tiny"], "h"), node("Cast", ["h"], "c", to=FLOAT)],
        np.array([0.1 + 1e-9]).astype(np.float32),
    ),
    "shape of a constant": (
        [node("Shape", ["a"], "h"), node("ReduceProd", ["h"], "j", keepdims=0),
         node("Div", ["j", "i2"], "k"), node("Cast", ["k"], "c", to=FLOAT)],
        np.array([3.0]),
    ),
}  # fmt: skip


def constants_of(nodes, **more):
    given = {"a": A, "b": B, "i": WHOLE, "s": np.float32(0.5), "tenth": np.array(0.1), "tiny":
             np.array(1e-9), "ones": np.ones(3, np.float32), **SIZES, **more}  # fmt: skip
    made = {name for n in nodes for name in n.output}
    return {k: v for k, v in given.items() if k in {i for n in nodes for i in n.input} - made}


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_computed_from_constants(name):
    """To the last bit: the sum with a zero is the constant."""
    nodes, expected = FOLDED[name]
    nodes = [*nodes, node("Add", ["x", "c"])]
    model = from_onnx(written(nodes, expected.shape, constants_of(nodes)))
    zero = np.zeros((1, *expected.shape), np.float32)
    np.testing.assert_array_equal(model(zero).numpy()[0], expected)


REFUSED = {
    "a sum in some order": ([node("ReduceSum", ["a"], "c")], "ReduceSum.*integers"),
    "a product of matrices": (
        [node("Transpose", ["a"], "h"), node("MatMul", ["h", "a"], "c")], "MatMul.*input",
    ),
    "random numbers": ([node("RandomNormalLike", ["a"], "c")], "RandomNormalLike"),
    "a quotient of negative integers": (
        [node("Div", ["minus7", "i2"], "h"), node("Cast", ["h"], "c", to=FLOAT)],
        "Div.*at least 0",
    ),
    "an integer that is none": (
        [node("Cast", ["s"], "h", to=TensorProto.INT64), node("Cast", ["h"], "j", to=FLOAT),
         node("Cast", ["huge"], "k", to=TensorProto.INT32), node("Cast", ["k"], "c", to=FLOAT)],
        "Cast.*int32 can hold",
    ),
    "shapes that do not fit": ([node("Reshape", ["a", "i22"], "c")], "Reshape.*cannot be read"),
    "the size of the batch as a number": (
        [node("Shape", ["x"], "h"), node("Gather", ["h", "i0"], "j"),
         node("Cast", ["j"], "c", to=FLOAT)],
        "Cast.*float32 can hold",
    ),
    "an operator on the size of the batch": (
        [node("Shape", ["x"], "h"), node("Mul", ["h", "i2"], "j"),
         node("Cast", ["j"], "c", to=FLOAT)],
        "Mul.*size of the batch",
    ),
    "a constant for each sample": (
        [node("Shape", ["x"], "h"), node("Reshape", ["a", "h"], "c")], "Reshape.*size of the batch",
    ),
    "a float64 number as it is": (
        [node("Identity", ["tenth"], "c")], "float32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_runtimes_may_answer_differently_is_refused(name):
    nodes, reason = REFUSED[name]
    nodes = [*nodes, node("Mul", ["x", "c"])]
    constants = constants_of(nodes, huge=np.array(1e20, np.float32))
    with pytest.raises(ValueError, match=reason):
        from_onnx(written(nodes, (3,), constants))


DYNAMIC = {
    "PyTorch's flatten": [
        node("Shape", ["h"], "s"), node("Gather", ["s", "zero"], "g"),
        node("Unsqueeze", ["g", "i0"], "u"), node("Concat", ["u", "m1"], "t", axis=0),
        node("Reshape", ["h", "t"]),
    ],
    "PyTorch's view": [
        node("Shape", ["h"], "s"), node("Gather", ["s", "zero"], "g"),
        node("Gather", ["s", "i1"], "g1"), node("Gather", ["s", "i2"], "g2"),
        node("Gather", ["s", "i3"], "g3"), node("Mul", ["g1", "g2"], "p"),
        node("Mul", ["p", "g3"], "q"), node("Unsqueeze", ["g", "i0"], "u"),
        node("Concat", ["u", "q"], "t", axis=0), node("Reshape", ["h", "t"]),
    ],
    "tf2onnx's flatten": [
        node("Shape", ["h"], "s"), node("Cast", ["s"], "w", to=TensorProto.INT64),
        node("Slice", ["w", "i0", "i1", "i0"], "g"), node("Concat", ["g", "m1"], "t", axis=0),
        node("Reshape", ["h", "t"]),
    ],
    "a part of the batch": [
        node("Shape", ["h"], "s"), node("Slice", ["s", "i0", "i2"], "e"),
        node("Slice", ["h", "starts", "e"]),
    ],
    "a shape's end": [
        node("Shape", ["h"], "s", start=0, end=1), node("Concat", ["s", "m1"], "t", axis=0),
        node("Reshape", ["h", "t"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", DYNAMIC)
def test_shapes_with_the_batch_in_them(name, rng):
    nodes = [node("Conv", ["x", "k"], "h"), *DYNAMIC[name]]
    integers = {"zero": 0, "starts": [0, 1], "i3": [3]}
    integers = {key: np.array(value, np.int64) for key, value in integers.items()}
    constants = constants_of(nodes, k=numbers(4, 3, 3, 3), **integers)
    made = written(nodes, IMAGE, constants, version=18)
    model = from_onnx(made)
    for samples in (1, 4):
        x = rng.normal(size=(samples, *IMAGE)).astype("float32")
        np.testing.assert_allclose(model(x).numpy(), outputs_of(made, x), **CLOSE)


def test_a_product_with_the_batch_is_refused():
    nodes = [
        node("Shape", ["x"], "s"), node("Gather", ["s", "i0"], "g"), node("Mul", ["g", "i2"], "p"),
        node("Concat", ["p", "m1"], "t", axis=0), node("Reshape", ["x", "t"]),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Mul.*size of the batch"):
        from_onnx(written(nodes, (4, 2), constants_of(nodes)))


PADS = [0, 0, 1, 0, 0, 0, 2, 3]
OLD = {
    "squeeze": (node("Unsqueeze", ["x"], axes=[1, 4]), {"new": [1, 4]}, 11),
    "pad": (node("Pad", ["x"], pads=PADS), {"new": PADS}, 10),
    "slice": (
        node("Slice", ["x"], starts=[1], ends=[3], axes=[2]),
        {"new": [1], "new2": [3], "new3": [2]},
        9,
    ),
    "reshape": (node("Reshape", ["x"], shape=[0, -1]), {"new": [0, -1]}, 4),
    "split": (
        helper.make_node("Split", ["x"], ["y", "z"], axis=1, split=[2, 1]), {"new": [2, 1]}, 2,
    ),
    "sum": (node("ReduceSum", ["x"], axes=[1, 3]), {"new": [1, 3]}, 11),
    "mean": (node("ReduceMean", ["x"], axes=[1]), {"new": [1]}, 11),
    "upper limit": (node("Clip", ["x"], max=0.25), {"": None, "new": 0.25}, 6),
    "limits": (node("Clip", ["x"], max=0.25, min=-0.5), {"new": -0.5, "new2": 0.25}, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_older_versions_of_an_operator(name, rng):
    """What was an attribute once is an input of the oracle's."""
    old, inputs, version = OLD[name]
    keeps = {"axis": 1} if name == "split" else {}
    new = helper.make_node(old.op_type, ["x", *inputs], list(old.output), **keeps)
    kind = np.float32 if old.op_type == "Clip" else np.int64
    arrays = {key: np.array(value, kind) for key, value in inputs.items() if key}
    x = rng.normal(size=(2, *IMAGE)).astype("float32")
    expected = outputs_of(written([new], IMAGE, arrays, version=18), x)
    model = from_onnx(written([old], IMAGE, {}, version=version))
    np.testing.assert_allclose(model(x).numpy(), expected, **CLOSE)


UNSUPPORTED = {
    "a cast to another type": (node("Cast", ["x"], to=TensorProto.DOUBLE), "float32 to cast to"),
    "limits of each entry": (node("Clip", ["x", "a"]), "one number as each limit"),
    "limits in disorder": (node("Clip", ["x", "s", "minus"]), "the lower one first"),
    "a part of the samples": (node("Slice", ["x", "i1", "i2", "i0"]), "all samples of the batch"),
    "no entries": (node("Slice", ["x", "i2", "i1", "i1"]), "an entry at least"),
    "a sum of samples": (node("ReduceSum", ["x", "i0"]), "axes behind the batch"),
    "a sum of everything": (node("ReduceMean", ["x"]), "axes behind the batch"),
    "samples apart": (helper.make_node("Split", ["x"], ["y", "z"], name="Split_y"), "the batch"),
    "groups": (node("ConvTranspose", ["x", "t"], group=3), "group=1"),
    "more than is cut": (
        node("ConvTranspose", ["x", "t"], output_padding=[1, 0], strides=[2, 1]), "output_padding",
    ),
    "a matrix that mixes samples": (node("MatMul", ["a", "flat"]), "mixes samples"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_an_operator_is_refused_for_names_it(name):
    last, reason = UNSUPPORTED[name]
    nodes = [node("Flatten", ["x"], "flat"), last]
    constants = constants_of(nodes, t=numbers(3, 5, 2, 2), minus=np.float32(-0.5))
    with pytest.raises(ValueError, match=rf"{last.op_type} .*{reason}"):
        from_onnx(written(nodes, IMAGE, constants))


@pytest.mark.parametrize("name", [name for name in FILES if name != "softmax"])
def test_what_is_read_has_true_bounds(name, rng):
    """Of each operator, on boxes of which one is a point. Softmax is left out of bounds."""
    model, shape = from_onnx(file_of(name)), FILES[name][1]
    x = rng.normal(size=(2, *shape)).astype("float32")
    radius = np.array([0.0, 0.1]).reshape(2, *[1] * len(shape))
    found = bounds(model, box(x - radius, x + radius), method="crown-ibp")
    points = x + radius * rng.uniform(-1, 1, size=(20, *x.shape))
    values = np.stack([model(p.astype("float32")).numpy() for p in points])
    lower, upper = (end.reshape(values.shape[1:]) for end in (found.lower, found.upper))
    assert (values >= lower - 1e-4).all() and (values <= upper + 1e-4).all()


def test_compressed_files(tmp_path, rng):
    path = tmp_path / "model.v2.onnx.gz"
    made = file_of("gemm")
    path.write_bytes(gzip.compress(made.SerializeToString()))
    x = rng.normal(size=(3, 5)).astype("float32")
    np.testing.assert_allclose(reader_of(path)(path)(x).numpy(), outputs_of(made, x), **CLOSE)
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="not compressed by gzip"):
        from_onnx(path)
    path.write_bytes(gzip.compress(b"\xff\xfenothing of the kind"))
    with pytest.raises(ValueError, match="not an ONNX model"):
        from_onnx(path)
