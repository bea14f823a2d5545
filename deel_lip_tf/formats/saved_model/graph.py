"""A signature of a SavedModel as a list of operators and constants; nothing here knows Keras.

What depends on no input is computed by TensorFlow, and so is what depends on its shape alone, for
several sizes of the batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from deel_lip_tf import _keras
from deel_lip_tf.formats.graph import BATCH, Graph, Node

_BATCH_SIZES = (2, 3, 5)
_OF_SHAPES = ("Shape", "Size", "Rank")
# Sums are missing: products and choices make every size a number, or a number times the batch.
_OF_SIZES = (
    "Cast",
    "ConcatV2",
    "ExpandDims",
    "GatherV2",
    "Identity",
    "Mul",
    "Pack",
    "Prod",
    "Reshape",
    "Squeeze",
    "StridedSlice",
)
_CHANGES = ("Assign", "ResourceApply", "ResourceScatter")
_CALLS = ("Case", "If", "PartitionedCall", "StatefulPartitionedCall", "While")


@dataclass(frozen=True, eq=False)
class SavedGraph(Graph):
    """The operators that the output needs, without identities.

    Among the constants are sizes, where `BATCH` stands for the batch.

    Attributes:
        batch_size: 1 where the input has one sample, else `None`.
        measured: names of tensors whose shapes are constants here: the operators they need count
            too, since those of others may make shapes that depend on values.
    """

    batch_size: int | None = None
    measured: frozenset[str] = frozenset()

    def needed(self, nodes: Iterable[Node]) -> "SavedGraph":
        """The graph of those of `nodes`, in order, that the output and the shapes depend on."""
        wanted, kept = {self.output, *self.measured}, []
        for node in reversed(list(nodes)):
            if node.output in wanted or any(n.startswith(f"{node.output}:") for n in wanted):
                kept.append(node)
                wanted.update(node.inputs)
        return replace(self, nodes=kept[::-1])


def read(path: str | Path, signature: str) -> SavedGraph:
    """Reads the function of a signature.

    Raises:
        ValueError: no SavedModel, no such signature, several inputs or outputs, or an input of
            unknown shape or of another type than a float.
    """
    loaded = _loaded(path)  # it holds the variables, which functions alone do not
    function = _function(loaded, path, signature)
    shape, dtype = _only_input(function, signature)
    try:
        _raise_for_changes(function.graph.as_graph_def(), signature)
        return _graph(function, shape, dtype)
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())
        raise ValueError(
            f"The signature {signature!r} of {str(path)!r} cannot be evaluated: {reason}"
        ) from error


def _graph(function, shape: list, dtype: str) -> SavedGraph:
    with _keras.forgotten_functions():
        frozen = _keras.frozen(function)
        definition = frozen.graph.as_graph_def()
        if not _unmark_compiled(definition):
            return _Reader(frozen).graph(shape, dtype)
    with _keras.forgotten_functions():
        whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])
        ends = ([tensor.name for tensor in side] for side in (frozen.inputs, frozen.outputs))
        return _Reader(_keras.frozen(whole.prune(*ends))).graph(shape, dtype)


def _unmark_compiled(definition) -> bool:
    """Whether calls were found that XLA compiles, which may be dissolved like the others now.

    Keras makes such calls of its grouped convolutions. The functions get new names: those of the
    old ones are registered.
    """
    functions = definition.library.function
    nodes = [*definition.node, *(node for function in functions for node in function.node_def)]
    marked = {f.signature.name: f for f in functions if "_XlaMustCompile" in f.attr}
    for name, function in marked.items():
        function.signature.name = f"{name}_unmarked"
    calls = [node for node in nodes if "f" in node.attr and node.attr["f"].func.name in marked]
    for call in calls:
        call.attr["f"].func.name += "_unmarked"
    for one in (*marked.values(), *calls):
        for name in ("_XlaMustCompile", "_noinline"):
            one.attr.pop(name, None)
    return bool(marked)


def _loaded(path: str | Path):
    if not Path(path).is_dir():
        raise ValueError(f"`path` must be the folder of a SavedModel. Received: {str(path)!r}.")
    try:
        return tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow, protobuf and its readers each have their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} is not a SavedModel: {reason}") from error


def _function(loaded, path: str | Path, signature: str):
    known = sorted(getattr(loaded, "signatures", {}))
    if signature not in known:
        raise ValueError(
            f"`signature` must be one of the SavedModel {str(path)!r}, which has {known}. "
            f"Received: {signature!r}."
        )
    function = loaded.signatures[signature]
    outputs = sorted(function.structured_outputs)
    if len(outputs) != 1:
        raise ValueError(f"The signature {signature!r} must have one output. Received: {outputs}.")
    return function


def _only_input(function, signature: str) -> tuple[list[int | None], str]:
    """The shape, with the batch, and the type."""
    specs = tf.nest.flatten(function.structured_input_signature)
    specs = [spec for spec in specs if isinstance(spec, tf.TensorSpec)]
    if len(specs) != 1:
        names = [spec.name for spec in specs]
        raise ValueError(f"The signature {signature!r} must have one input. Received: {names}.")
    shape = specs[0].shape.as_list() if specs[0].shape.rank is not None else []
    if len(shape) < 2 or shape[0] not in (None, 1) or not all(shape[1:]):
        raise ValueError(
            f"The input of the signature {signature!r} must have an open batch axis, or one of "
            f"size 1, and then axes of known size. Received: {specs[0].shape}."
        )
    if specs[0].dtype not in (tf.float32, tf.float64):
        raise ValueError(
            f"The input of the signature {signature!r} must be float32 or float64. "
            f"Received: {specs[0].dtype.name}."
        )
    return shape, specs[0].dtype.name


def _raise_for_changes(definition, signature: str) -> None:
    """Refuses variables that do not stay as they were saved."""
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    names = sorted({node.op for node in nodes if node.op.startswith(_CHANGES)})
    if names:
        raise ValueError(
            f"The signature {signature!r} must leave its variables as they are. Received: "
            f"{', '.join(names)}. Export the model as it is at inference."
        )


class _Reader:
    """Tells what depends on the input, on its shape, or on nothing."""

    def __init__(self, frozen):
        self._frozen = frozen
        self._operations = {op.name: op for op in frozen.graph.get_operations()}
        self._definition = frozen.graph.as_graph_def()
        self._alias: dict[str, str] = {}
        self._constant: set[str] = set()
        self._sizes: dict[str, frozenset[str]] = {}  # with the tensors that were measured
        self._has_impure_functions = any(
            _is_stateful(node.op)
            for function in self._definition.library.function
            for node in function.node_def
        )

    def graph(self, shape: list, dtype: str) -> SavedGraph:
        """The graph between the input and the output."""
        nodes = [node for node in map(self._classified, self._definition.node) if node is not None]
        entry, exit_ = (
            t[0].name.removesuffix(":0") for t in (self._frozen.inputs, self._frozen.outputs)
        )
        output = self._alias.get(exit_, exit_)
        graph = SavedGraph([], {}, entry, tuple(shape[1:]), dtype, output, shape[0])
        nodes, counted = [node for node in nodes if node.output != entry], -1
        while len(graph.nodes) > counted:
            counted, graph = len(graph.nodes), graph.needed(nodes)
            used = {name for node in graph.nodes for name in node.inputs}
            graph = replace(graph, measured=graph.measured.union(*map(self._measured, used)))
        return replace(graph, constants=self._evaluated(used, shape, dtype))

    def _measured(self, name: str) -> frozenset[str]:
        return self._sizes.get(name.partition(":")[0], frozenset())

    def _classified(self, definition) -> Node | None:
        """The operator, or `None` where it need not become a layer."""
        names = [name.removesuffix(":0") for name in definition.input if not name.startswith("^")]
        inputs = [self._alias.get(name, name) for name in names]
        kind, name = definition.op, definition.name
        owners = [i.partition(":")[0] for i in inputs]
        is_known = self._constant.issuperset(owners) or self._is_known_size(name)
        is_pure = not self._has_impure_functions if kind in _CALLS else not _is_stateful(kind)
        if kind != "Placeholder" and is_pure and is_known:
            self._constant.add(name)
            return None
        if kind in _OF_SHAPES:
            self._sizes[name] = self._measured(inputs[0]) or frozenset(inputs)
            return None
        if kind in _OF_SIZES and all(i in self._constant or i in self._sizes for i in owners):
            self._sizes[name] = frozenset().union(*map(self._measured, inputs))
            return None
        if kind in ("Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot"):
            self._alias.update({f"{name}:{i}": source for i, source in enumerate(inputs)})
            self._alias[name] = inputs[0]
            return None
        attributes = {key: _decoded(value) for key, value in definition.attr.items()}
        return Node(kind, _readable(name), inputs, name, attributes)

    def _is_known_size(self, name: str) -> bool:
        """Whether an operator takes a size from a shape that has it for every batch."""
        operation = self._operations[name]
        if operation.type != "StridedSlice" or operation.inputs[0].op.type != "Shape":
            return False
        begin, end, step = map(tf.get_static_value, operation.inputs[1:])
        shape = operation.inputs[0].op.inputs[0].shape
        masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask")
        if begin is None or end is None or step is None or any(map(operation.get_attr, masks)):
            return False
        (axis,) = begin if len(begin) == 1 else (-1,)
        is_one = axis >= 0 and list(end) == [axis + 1] and list(step) == [1]
        return is_one and shape.rank is not None and shape[int(axis)] is not None

    def _evaluated(self, used: set[str], shape: list, dtype: str) -> dict[str, np.ndarray]:
        known = self._constant.union(self._sizes)
        names = sorted(name for name in used if name.partition(":")[0] in known)
        if not names:
            return {}
        tensors = [
            self._operations[name.partition(":")[0]].outputs[int(name.partition(":")[2] or 0)]
            for name in names
        ]
        function = self._frozen.prune(self._frozen.inputs[0], tensors)
        batches = _BATCH_SIZES if shape[0] is None else (shape[0],)
        results = [function(tf.zeros([n, *shape[1:]], dtype)) for n in batches]
        return {
            name: _merged(name, [tensor.numpy() for tensor in of_name], batches)
            for name, *of_name in zip(names, *results, strict=True)
        }


def _merged(name: str, results: list[np.ndarray], batches: tuple[int, ...]) -> np.ndarray:
    """An array that is the same for all batches, or sizes of which some grow with the batch."""
    first = results[0]
    if all(np.array_equal(first, other, equal_nan=first.dtype.kind == "f") for other in results):
        return first
    is_sizes = first.dtype.kind == "i" and all(r.shape == first.shape for r in results)
    times = first // batches[0]
    grows = [r == times * n for r, n in zip(results, batches, strict=True)] if is_sizes else []
    fixed = [r == first for r in results] if is_sizes else []
    if not is_sizes or not (np.all(grows, axis=0) | np.all(fixed, axis=0)).all():
        raise ValueError(
            f"{_readable(name)!r} depends on the size of the batch in a way that is not supported: "
            "a sample's outputs must not depend on how many samples there are."
        )
    return np.where(np.all(fixed, axis=0), first, times.astype(np.int64) * BATCH)


def _is_stateful(kind: str) -> bool:
    return _keras.is_stateful_operator(kind) and kind not in _CALLS


def _readable(name: str) -> str:
    """Without the names of the functions that were inlined."""
    return name.rpartition("PartitionedCall/")[2]


def _decoded(attribute):
    kind = attribute.WhichOneof("value")
    if kind == "list":
        return list(attribute.list.i)
    value = getattr(attribute, kind) if kind else None
    return value.decode(errors="replace") if isinstance(value, bytes) else value
