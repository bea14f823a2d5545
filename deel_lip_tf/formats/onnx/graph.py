"""An ONNX file as a list of operators and constants; nothing here knows Keras."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deel_lip_tf.formats.nodes import Node

__all__ = ["Graph", "read"]


@dataclass(frozen=True, eq=False)
class Graph:
    """What there is to compute.

    Attributes:
        nodes: the operators, in order; a `MatMul` whose result only gets a vector added is one
            operator of three inputs.
        constants: arrays by name.
        input: name of the input.
        shape: of one sample.
        dtype: "float32" or "float64".
        output: name of the output.
        version: of the operators.
        has_batch: whether the first axis of the input is the batch; an input of one axis is one
            sample.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    input: str
    shape: tuple[int, ...]
    dtype: str
    output: str
    version: int
    has_batch: bool


def read(model, supported: set[str]) -> Graph:
    """Reads a file or an `onnx.ModelProto`.

    Raises:
        ValueError: no ONNX model, an operator that is not supported (all are named), several
            inputs or outputs, or an input of unknown shape.
    """
    model = _loaded(model)
    graph = model.graph
    _raise_for_unknown(graph, supported)
    constants = _constants(graph)
    name, shape, dtype = _only_input(graph, constants)
    has_batch = len(shape) > 1
    if len(graph.output) != 1:
        names = [entry.name for entry in graph.output]
        raise ValueError(f"`model` must have one output. Received: {names}.")
    return Graph(
        nodes=_fused(graph, constants),
        constants=constants,
        input=name,
        shape=shape[1:] if has_batch else shape,
        dtype=dtype,
        output=graph.output[0].name,
        version=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1
        ),
        has_batch=has_batch,
    )


def _version(model) -> int:
    own = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(own, default=1)


def _loaded(model):
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load(str(Path(model)))
    except DecodeError as error:
        raise ValueError(f"{str(model)!r} is not an ONNX model: {error}") from error


def _constants(graph) -> dict[str, np.ndarray]:
    """Initializers, results of `Constant`, and what is computed from constants alone."""
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _constant_value(_decoded(node))
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _constant_value(node: Node) -> np.ndarray:
    for key in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if key in node.attributes:
            value = node.attributes[key]
            single = np.float32 if "float" in key else np.int64
            return value if key == "value" else np.asarray(value, single)
    raise node.refuse("a dense numeric value", sorted(node.attributes))


def _decoded(node) -> Node:
    from onnx import TensorProto, helper, numpy_helper

    attributes = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        value = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    output, *others = node.output
    further = tuple(name for name in others if name)
    return Node(node.op_type, node.name or output, list(node.input), output, attributes, further)


def _only_input(graph, constants: dict) -> tuple[str, tuple[int, ...], str]:
    from onnx import helper

    inputs = [entry for entry in graph.input if entry.name not in constants]
    if len(inputs) != 1:
        names = [entry.name for entry in inputs]
        raise ValueError(f"`model` must have one input. Received: {names}.")
    tensor = inputs[0].type.tensor_type
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if not shape or not all(size > 0 for size in (shape[1:] or shape)):
        raise ValueError(
            "The input of `model` must have a batch axis and then axes of known size, or one axis "
            "of known size without a batch. "
            f"Received: {tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)}."
        )
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if dtype not in ("float32", "float64"):
        raise ValueError(f"The input of `model` must be float or double. Received: {dtype}.")
    return inputs[0].name, shape, dtype


def _raise_for_unknown(graph, supported: set[str]) -> None:
    unknown = {}
    for node in graph.node:
        if node.op_type != "Constant" and (node.domain or node.op_type not in supported):
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            unknown.setdefault(kind, []).append(node.name or node.output[0])
    if unknown:
        listed = "; ".join(f"{kind} ({', '.join(map(repr, at))})" for kind, at in unknown.items())
        raise ValueError(
            f"These ONNX operators are not supported: {listed}. Supported are: "
            f"{', '.join(sorted(supported))}. Rewrite the network with these, or "
            "give the Keras model itself."
        )


def _fused(graph, constants: dict) -> list[Node]:
    """The operators to call, with `MatMul` and the `Add` of a vector made one `Gemm`."""
    nodes = [_decoded(node) for node in graph.node if node.output[0] not in constants]
    uses = [name for node in graph.node for name in node.input]
    uses += [entry.name for entry in graph.output]
    sums = {node.inputs[i]: node for node in nodes if node.kind == "Add" for i in (0, 1)}
    fused, skipped = [], set()
    for node in nodes:
        total = sums.get(node.output)
        if node.kind == "MatMul" and total is not None and uses.count(node.output) == 1:
            bias = next((n for n in total.inputs if n != node.output), "")
            kernel = constants.get(node.inputs[1], np.zeros(0))
            if bias in constants and constants[bias].shape == kernel.shape[1:]:
                inputs = [*node.inputs, bias]
                node = replace(node, inputs=inputs, output=total.output)
                skipped.add(id(total))
        if id(node) not in skipped:
            fused.append(node)
    return fused
