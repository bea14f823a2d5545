"""An ONNX file as a list of operators and constants; nothing here knows Keras."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deel_lip_tf._files.reading import content_of
from deel_lip_tf.formats.graph import Graph, Node, UnsupportedOperatorError, raise_for_unknown
from deel_lip_tf.formats.onnx.folding import folded, is_foldable

OF_SHAPES = ("Shape",)
"""Operators that look at the shape of their input alone."""

_REDUCTIONS = ("ReduceMean", "ReduceProd", "ReduceSum")
_FORMER_ATTRIBUTES = {
    **dict.fromkeys((*_REDUCTIONS, "Squeeze", "Unsqueeze"), ("axes",)),
    "Clip": ("min", "max"),
    "Pad": ("pads", "value"),
    "Reshape": ("shape",),
    "Slice": ("starts", "ends", "axes"),
    "Split": ("split",),
}
"""What later versions of an operator take as inputs behind the first, in their order."""


@dataclass(frozen=True, eq=False)
class OnnxGraph(Graph):
    """The operators that depend on the input, in their newest form.

    A `MatMul` whose result only gets a vector added is one operator of three inputs.

    Attributes:
        version: of the operators.
        has_batch: whether the first axis of the input is the batch; an input of one axis is one
            sample.
    """

    version: int = 1
    has_batch: bool = True


def read(model, supported: Collection[str]) -> OnnxGraph:
    """Reads a file, which may be compressed by gzip, or an `onnx.ModelProto`.

    Raises:
        ValueError: no ONNX model, an operator that is not supported (all are named), several
            inputs or outputs, or an input of unknown shape.
    """
    from onnx import numpy_helper

    model = loaded(model)
    graph, own = model.graph, [x.version for x in model.opset_import if x.domain in ("", "ai.onnx")]
    version = max(own, default=1)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    decoded = [_decoded(node, constants) for node in graph.node]
    nodes = _without_constants(decoded, constants, version)
    raise_for_unknown(_called(nodes, constants), supported, "ONNX")
    name, shape, dtype = _only_input(graph, constants)
    has_batch = len(shape) > 1
    if len(graph.output) != 1:
        names = [entry.name for entry in graph.output]
        raise ValueError(f"`model` must have one output. Received: {names}.")
    output = graph.output[0].name
    if output in constants:
        makers = [node.label for node in decoded if output in (node.output, *node.further_outputs)]
        raise ValueError(
            f"The output {output!r} of {' '.join(makers) or 'the file'} does not depend on the "
            "input: this is no classifier."
        )
    return OnnxGraph(
        nodes=_fused(nodes, constants, output),
        constants=constants,
        input=name,
        shape=shape[1:] if has_batch else shape,
        dtype=dtype,
        output=output,
        version=version,
        has_batch=has_batch,
    )


def loaded(model):
    """An `onnx.ModelProto`, from a file, which may be compressed by gzip, or as it is given.

    Raises:
        ImportError: without the package `onnx`.
        FileNotFoundError: no such file.
        ValueError: the file is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(model, onnx.ModelProto):
        return model
    try:
        if Path(model).suffix.lower() == ".gz":
            return onnx.load_model_from_string(content_of(model))
        return onnx.load(str(Path(model)))
    except DecodeError as error:
        raise ValueError(f"{str(model)!r} is not an ONNX model: {error}") from error


def _decoded(proto, constants: dict[str, np.ndarray]) -> Node:
    """An operator, of which former attributes are constants now, as in later versions."""
    from onnx import TensorProto, helper, numpy_helper

    attributes = {}
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        value = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    is_own = proto.domain in ("", "ai.onnx")
    kind = proto.op_type if is_own else f"{proto.domain}.{proto.op_type}"
    output, *others = proto.output
    node = Node(kind, proto.name or output, list(proto.input), output, attributes, tuple(others))
    former = _FORMER_ATTRIBUTES.get(kind, ())
    moved = {key: f"{key} of {node.label}" for key in former if key in attributes}
    if not moved:
        return node
    constants.update({name: np.asarray(attributes.pop(key)) for key, name in moved.items()})
    return replace(node, inputs=[node.inputs[0], *(moved.get(key, "") for key in former)])


def _without_constants(
    nodes: list[Node], constants: dict[str, np.ndarray], version: int
) -> list[Node]:
    """The operators that need an input; the results of the others become constants."""
    kept = []
    for node in nodes:
        is_known = all(not name or name in constants for name in node.inputs)
        if node.kind == "Constant":
            constants[node.output] = _constant_value(node)
        elif is_known and is_foldable(node.kind):
            arrays = [constants[name] if name else None for name in node.inputs]
            constants.update(results_by_name(node, arrays, version))
        else:
            kept.append(node)
    return kept


def results_by_name(
    node: Node, constants: list[np.ndarray | None], version: int
) -> dict[str, np.ndarray]:
    """The outputs of an operator of constants.

    Raises:
        UnsupportedOperatorError: it has none that all runtimes agree on.
    """
    try:
        results = folded(node, constants, version)
    except UnsupportedOperatorError:
        raise
    except ValueError as error:
        raise UnsupportedOperatorError(
            f"The operator {node.label} cannot be read: {error}"
        ) from error
    return dict(zip((node.output, *node.further_outputs), results, strict=True))


def _constant_value(node: Node) -> np.ndarray:
    for key in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if key in node.attributes:
            value = node.attributes[key]
            single = np.float32 if "float" in key else np.int64
            return value if key == "value" else np.asarray(value, single)
    raise node.unsupported("a dense numeric value", sorted(node.attributes))


def _called(nodes: list[Node], constants: dict[str, np.ndarray]) -> list[Node]:
    """The operators on tensors; not those on shapes, or on what is computed from shapes."""
    known, called = set(constants), []
    for node in nodes:
        is_known = known.issuperset(filter(None, node.inputs)) and is_foldable(node.kind)
        if node.kind in OF_SHAPES or is_known:
            known.update((node.output, *node.further_outputs))
        else:
            called.append(node)
    return called


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


def _fused(nodes: list[Node], constants: dict[str, np.ndarray], output: str) -> list[Node]:
    """The operators, with `MatMul` and the `Add` of a vector made one."""
    uses = Counter([output, *(name for node in nodes for name in node.inputs)])
    sums = {node.inputs[i]: node for node in nodes if node.kind == "Add" for i in (0, 1)}
    fused, skipped = [], set()
    for node in nodes:
        total = sums.get(node.output)
        if node.kind == "MatMul" and total is not None and uses[node.output] == 1:
            bias = next((n for n in total.inputs if n != node.output), "")
            kernel = constants.get(node.inputs[1], np.zeros(()))  # or a product from the left
            is_matrix = kernel.ndim == 2
            if is_matrix and bias in constants and constants[bias].shape == kernel.shape[1:]:
                inputs = [*node.inputs, bias]
                node = replace(node, inputs=inputs, output=total.output)
                skipped.add(id(total))
        if id(node) not in skipped:
            fused.append(node)
    return fused
