"""Random ONNX files: what is imported computes what ONNX's own reference evaluator computes."""

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from deel_lip_tf import verify
from tests.fuzz import properties
from tests.fuzz.tally import Tally, short

__all__ = ["about_files", "written_model"]

_OPSET = 15  # before it, the reference evaluator always trains a batch normalization


@dataclass(eq=False)
class Drawing:
    """A graph that grows: nodes, constants, and the shape of the last tensor without its batch."""

    rng: np.random.Generator
    dtype: str
    shape: tuple
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)
    tensors: list = field(default_factory=list)  # (name, shape)

    def __post_init__(self):
        self.tensors = [("X", self.shape)]

    @property
    def name(self) -> str:
        return self.tensors[-1][0]

    def constant(self, values, dtype=None) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(
            numpy_helper.from_array(np.asarray(values, dtype or self.dtype), name)
        )
        return name

    def put(self, kind: str, inputs: list[str], shape, outputs: int = 1, **attributes) -> None:
        names = [f"t{len(self.nodes)}", *(f"u{len(self.nodes)}_{i}" for i in range(outputs - 1))]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        self.tensors.append((names[0], tuple(shape)))
        self.shape = tuple(shape)

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def model(self, opset: int):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        first, last = self.tensors[0][1], self.tensors[-1]
        graph = helper.make_graph(
            self.nodes, "drawn",
            [helper.make_tensor_value_info("X", kind, ["n", *first])],
            [helper.make_tensor_value_info(last[0], kind, ["n", *last[1]])],
            self.constants,
        )  # fmt: skip
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )


def _number(d: Drawing) -> float:
    return d.one_of(25.0, 3.0, 0.1, -7.0, 255.0, float(d.rng.normal()) + 0.01)


def _dense(d: Drawing) -> None:
    units, size = int(d.rng.integers(1, 5)), d.shape[-1]
    kernel = d.constant(d.rng.normal(size=(size, units)) / np.sqrt(size))
    d.put("MatMul", [d.name, kernel], (*d.shape[:-1], units))
    if d.rng.random() < 0.6:
        d.put("Add", [d.name, d.constant(d.rng.normal(size=units))][:: d.one_of(1, -1)], d.shape)


def _gemm(d: Drawing) -> None:
    if len(d.shape) != 1:
        return
    units, turned = int(d.rng.integers(1, 5)), int(d.rng.integers(2))
    kernel = d.rng.normal(size=(units, d.shape[0]) if turned else (d.shape[0], units))
    inputs = [d.name, d.constant(kernel / np.sqrt(d.shape[0]))]
    if d.rng.random() < 0.7:
        inputs.append(d.constant(d.rng.normal(size=d.one_of((units,), (1, units), (1,)))))
    factors = {"alpha": d.one_of(1.0, 0.1, 1 / 3), "beta": d.one_of(1.0, 0.7)}
    d.put("Gemm", inputs, (units,), transB=turned, **factors)


def _arithmetic(d: Drawing) -> None:
    kind = d.one_of("Add", "Sub", "Mul", "Div", "Div")
    shape = d.one_of((), (1,), d.shape[-1:], d.shape, (1, *d.shape))
    values = d.rng.normal(size=shape)
    values = (
        np.full(shape, _number(d))
        if d.rng.random() < 0.6
        else np.where(abs(values) < 0.1, 1, values)
    )
    inputs = [d.name, d.constant(values)]
    d.put(kind, inputs if kind == "Div" else inputs[:: d.one_of(1, 1, -1)], d.shape)


def _activation(d: Drawing) -> None:
    kind = d.one_of("Relu", "Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Softplus", "Identity")
    attributes = {"LeakyRelu": {"alpha": d.one_of(0.1, 0.01)}, "Elu": {"alpha": d.one_of(1.0, 0.3)}}
    d.put(kind, [d.name], d.shape, **attributes.get(kind, {}))


def _dropout(d: Drawing) -> None:
    """At inference, or, rarely, in training mode: then it is random, and no reader may take it."""
    inputs = [d.name]
    if d.rng.random() < 0.3:
        inputs += [d.constant(0.5, "float32"), d.constant(d.rng.random() < 0.7, "bool")]
    d.put("Dropout", inputs, d.shape)


def _batch_normalization(d: Drawing) -> None:
    channels = d.shape[0]
    vectors = [d.rng.normal(size=channels) for _ in "abc"] + [d.rng.random(channels) + 0.05]
    trains = bool(d.rng.random() < 0.1)
    more = {"training_mode": 1} if trains else {}
    d.put("BatchNormalization", [d.name, *map(d.constant, vectors)], d.shape, 3 if trains else 1,
          epsilon=d.one_of(1e-5, 0.01), **more)  # fmt: skip


def _convolution(d: Drawing) -> None:
    if not 2 <= len(d.shape) <= 3:
        return
    sizes, channels = d.shape[1:], d.shape[0]
    windows = [int(d.rng.integers(1, min(3, n) + 1)) for n in sizes]
    strides = [int(d.rng.integers(1, 3)) for _ in sizes]
    pads = [int(n) for n in d.rng.integers(0, 2, 2 * len(sizes))] if d.rng.random() < 0.6 else None
    groups = channels if d.rng.random() < 0.2 else 1
    filters = groups * int(d.rng.integers(1, 3))
    inputs = [d.name, d.constant(d.rng.normal(size=(filters, channels // groups, *windows)))]
    inputs += [d.constant(d.rng.normal(size=filters))] if d.rng.random() < 0.6 else []
    shape = _swept(sizes, windows, strides, pads)
    more = {"pads": pads} if pads else {}
    d.put(
        "Conv",
        inputs,
        (filters, *shape),
        strides=strides,
        kernel_shape=windows,
        group=groups,
        **more,
    )


def _swept(sizes, windows, strides, pads) -> list[int]:
    pads = pads or [0] * 2 * len(sizes)
    added = [a + b for a, b in zip(pads[: len(sizes)], pads[len(sizes) :], strict=True)]
    return [(n + p - k) // s + 1 for n, p, k, s in zip(sizes, added, windows, strides, strict=True)]


def _pooling(d: Drawing) -> None:
    if not 2 <= len(d.shape) <= 3:
        return
    sizes = d.shape[1:]
    if d.rng.random() < 0.3:
        d.put(
            # Of sequences, ONNX's reference evaluator takes the largest entry of all channels.
            d.one_of("GlobalAveragePool", "GlobalMaxPool") if len(sizes) > 1 else _MEAN,
            [d.name],
            (d.shape[0], *[1] * len(sizes)),
        )
        return
    windows = [int(d.rng.integers(1, min(3, n) + 1)) for n in sizes]
    strides = [int(d.rng.integers(1, 3)) for _ in sizes]
    kind, more = d.one_of("MaxPool", "AveragePool"), {}
    if kind == "AveragePool" and d.rng.random() < 0.4:
        more = {"pads": [k // 2 for k in windows] * 2, "count_include_pad": d.one_of(1, 1, 0)}
    shape = _swept(sizes, windows, strides, more.get("pads"))
    d.put(kind, [d.name], (d.shape[0], *shape), kernel_shape=windows, strides=strides, **more)


_MEAN = "GlobalAveragePool"


def _shape(d: Drawing) -> None:
    size, rank = int(np.prod(d.shape)), len(d.shape) + 1
    kind = d.one_of("Flatten", "Reshape", "Transpose", "Unsqueeze", "Pad", "Softmax")
    if kind == "Flatten":
        d.put(kind, [d.name], (size,), axis=1)
    elif kind == "Reshape":
        first = int(d.one_of(*[n for n in range(1, size + 1) if size % n == 0]))
        target = d.one_of([first, size // first], [size], [size // first, -1])
        known = [size // -int(np.prod(target)) if n == -1 else n for n in target]
        d.put(
            kind,
            [d.name, d.constant([d.one_of(-1, 0) if -1 not in target else 0, *target], "int64")],
            known,
        )
    elif kind == "Transpose" and rank > 2:
        order = [0, *(int(i) + 1 for i in d.rng.permutation(rank - 1))]
        d.put(kind, [d.name], [d.shape[i - 1] for i in order[1:]], perm=order)
    elif kind == "Unsqueeze" and rank < 4:
        d.put(kind, [d.name, d.constant([d.one_of(1, rank, -1)], "int64")], d.shape)
        axis = int(numpy_helper.to_array(d.constants[-1])[0]) % (rank + 1)
        d.shape = (*d.shape[: axis - 1], 1, *d.shape[axis - 1 :])
        d.tensors[-1] = (d.name, d.shape)
    elif kind == "Pad" and 3 <= rank <= 4 and size <= 12:
        pads = [0, 0, *[1] * (rank - 2), 0, 0, *d.rng.integers(0, 2, rank - 2)]
        shape = [
            d.shape[0],
            *(n + 1 + b for n, b in zip(d.shape[1:], pads[rank + 2 :], strict=True)),
        ]
        d.put(kind, [d.name, d.constant(pads, "int64")], [int(n) for n in shape])


def _merge(d: Drawing) -> None:
    same = [name for name, shape in d.tensors if shape == d.shape]
    others = [d.one_of(*same), d.name][:: d.one_of(1, -1)]
    kind = d.one_of("Add", "Sub", "Max", "Min", "Concat")
    if kind == "Concat":
        axis = int(d.rng.integers(1, len(d.shape) + 1))
        shape = [2 * n if i + 1 == axis else n for i, n in enumerate(d.shape)]
        d.put(kind, others, shape, axis=d.one_of(axis, axis - len(shape) - 1))
    else:
        d.put(kind, others, d.shape)


_NODES = (_dense, _gemm, _arithmetic, _arithmetic, _activation, _activation, _convolution, _pooling)
_NODES += (_shape, _shape, _merge, _batch_normalization, _dropout)


def written_model(seed):
    """`(model, shape of a sample, type)`."""
    rng = np.random.default_rng(seed)
    shapes = [(3,), (6,), (2, 4), (1, 3, 3), (2, 3, 2)]
    d = Drawing(
        rng, "float64" if rng.random() < 0.3 else "float32", shapes[rng.integers(len(shapes))]
    )
    first = d.shape
    for _ in range(40):
        if len(d.nodes) >= 5:
            break
        before = (len(d.nodes), len(d.constants), len(d.tensors), d.shape)
        _NODES[rng.integers(len(_NODES))](d)
        if np.prod(d.shape) > 40 or min(d.shape) < 1:
            for part, length in zip((d.nodes, d.constants, d.tensors), before[:3], strict=True):
                del part[length:]
            d.shape = before[3]
    if len(d.shape) != 1:
        d.put("Flatten", [d.name], (int(np.prod(d.shape)),), axis=1)
    return d.model(_OPSET), first, d.dtype


class _Asking:
    """One file: its questions, and where the answers go."""

    def __init__(self, seed: int, tally: Tally):
        self.proto, self.shape, self.dtype = written_model([seed, 4])
        self.rng, self.tally, self.case = np.random.default_rng([seed, 5]), tally, f"file {seed}"
        kinds = " ".join(node.op_type for node in self.proto.graph.node)
        self.text = f"({self.dtype}) {'x'.join(map(str, self.shape))}: {kinds}"

    def answer(self, claim: str, function, *arguments, count: int = 1, **keywords):
        """What the library says, or None where it refuses by a ValueError."""
        try:
            found = function(*arguments, **keywords)
        except ValueError as error:
            self.tally.refuse(claim, error)
            return None
        except Exception as error:
            detail = f"{type(error).__name__}: {str(error)[:300]!r}"
            self.violated(f"{claim}: no refusal", detail)
            return None
        self.tally.answered(claim, count)
        return found

    def violated(self, claim: str, detail: str) -> None:
        self.tally.violated(claim, self.case, detail, self.text)


def about_files(seed: int, tally: Tally) -> None:
    """The import of one file, and questions about it."""
    ask = _Asking(seed, tally)
    imported = ask.answer("from_onnx", verify.from_onnx, ask.proto)
    if imported is None:
        return
    tally.kinds.update({f"onnx {node.op_type}" for node in ask.proto.graph.node})
    x = ask.rng.normal(size=(6, *ask.shape)).astype(ask.dtype)
    try:
        expected = ReferenceEvaluator(ask.proto).run(None, {"X": x})[0].astype(np.float64)
    except (RuntimeError, TypeError, NotImplementedError, ValueError) as error:
        tally.refused["reference evaluator", type(error).__name__] += 1
        return
    outputs = np.asarray(imported(x), np.float64)
    unit = (1e-4 if ask.dtype == "float32" else 1e-7) * (1 + np.abs(expected).max())
    is_same = outputs.shape == expected.shape
    if not is_same or not np.abs(outputs - expected).max() <= unit:
        if is_same and _is_tensorflows(ask, x):
            tally.refused["from_onnx", "TensorFlow computes another function in float32"] += 1
            return
        detail = f"{short(outputs[0])}, but ONNX computes {short(expected[0])}"
        ask.violated("from_onnx", detail)
        return
    _about_bounds(ask, imported, x.astype(np.float64))


def _widened(proto):
    """The same file in double precision."""
    wide = type(proto)()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def _exactly(proto, x: np.ndarray) -> np.ndarray:
    """The function of the numbers in the file, computed in float64."""
    return ReferenceEvaluator(_widened(proto)).run(None, {"X": x})[0]


def _is_tensorflows(ask: "_Asking", x: np.ndarray) -> bool:
    """Whether the import is right in float64: TensorFlow computes some float32 convolutions wrong.

    Those of one channel with unequal strides: what is certified is the right function.
    """
    x = x.astype(np.float64)
    outputs = np.asarray(verify.from_onnx(_widened(ask.proto))(x))
    return np.allclose(outputs, _exactly(ask.proto, x), rtol=1e-6, atol=1e-6)


def _about_bounds(ask: _Asking, imported, x: np.ndarray) -> None:
    """On two boxes, of which many are points: there a bound is the function itself."""
    width = ask.rng.choice([0.0, 0.0, 0.1, 1.0]) * ask.rng.random(x[:2].shape)
    lower, upper = x[:2] - width, x[:2] + width
    points = lower + ask.rng.random((30, *lower.shape)) * (upper - lower)
    values = np.stack([_exactly(ask.proto, points[:, i]) for i in (0, 1)])
    method = str(ask.rng.choice(["ibp", "crown-ibp", "crown", "forward", "lipschitz"]))
    box = verify.box(lower, upper)
    found = ask.answer(f"file bounds {method}", verify.bounds, imported, box, method=method)
    if found is None or _left_out(ask.proto):
        return
    beyond = np.maximum(found.lower[:, None] - values, values - found.upper[:, None])
    if beyond.max() > 1e-11 * (1 + np.abs(values).max()):
        ask.violated(f"file bounds {method}", f"left by {float(beyond.max())!r}")
    _decide(ask, imported, lower[0].ravel(), upper[0].ravel(), values[0])


def _left_out(proto) -> bool:
    """Whether a softmax or sigmoid ends the file: proofs leave it out, and bound its input."""
    passed = ("Identity", "Flatten", "Dropout", "Reshape")
    kinds = [node.op_type for node in proto.graph.node if node.op_type not in passed]
    return kinds[-1:] in (["Softmax"], ["Sigmoid"])


def _decide(ask: _Asking, imported, lower, upper, values) -> None:
    formula = properties.drawn(ask.rng, values[:4])
    content = properties.text(lower, upper, values.shape[1], formula)
    read = properties.through_file(content)
    answer = ask.answer("file decide", verify.decide, imported, read, time_limit=0.3)
    if answer is None:
        return
    ask.tally.asked[f"file decide: {answer.status}"] += 1
    degrees = properties.Reader(content).degrees(values)
    if answer.status == "unsat" and degrees.max() > 1e-10 * (1 + np.abs(values).max()):
        satisfied = f"satisfied by {float(degrees.max())!r}: {content.splitlines()[-1]}"
        ask.violated("file decide unsat", satisfied)
