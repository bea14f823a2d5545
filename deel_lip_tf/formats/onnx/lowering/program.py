"""From an ONNX file to a program."""

import numpy as np

from deel_lip_tf.formats.graph import Node, UnsupportedOperatorError
from deel_lip_tf.formats.onnx.folding import is_foldable
from deel_lip_tf.formats.onnx.graph import OF_SHAPES, read, results_by_name
from deel_lip_tf.formats.onnx.lowering.operators import OPERATORS
from deel_lip_tf.formats.onnx.lowering.values import Values
from deel_lip_tf.semantics.ir.program import Program


def lower_onnx(model) -> Program:
    """Lowers an ONNX model to a program of the same function of one sample, in exact arithmetic.

    Its sample has the shape of the input without a first axis of size 1, and it holds the numbers
    of the file; none is rounded. Its operators are `OPERATORS` of `operators.py`, which are fewer
    than those of which `from_onnx` makes a Keras model: whoever is refused here may be served
    there.

    Args:
        model: path of a file (`.onnx`, or `.onnx.gz`), or an `onnx.ModelProto`.

    Raises:
        ImportError: without the package `onnx`.
        FileNotFoundError: no such file.
        ValueError: a file that is no ONNX model, several inputs or outputs, an unknown shape, or an
            operator, or a way to use it, that is not supported.
    """
    graph = read(model, {*OPERATORS, *OF_SHAPES, "Constant"})
    values = Values(graph)
    for node in graph.nodes:
        _append(values, node)
    output = values.first(values.output(graph.output))
    return Program(tuple(values.builder.nodes), output, ())


def _append(values: Values, node: Node) -> None:
    """Keeps the outputs of an operator: constants where they depend on shapes alone."""
    if node.kind in OF_SHAPES:
        shape = values.value(node).shape
        ends = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
        values.constants[node.output] = np.array(shape[slice(*ends)], np.int64)
    elif (arrays := values.known(node)) is not None and is_foldable(node.kind):
        values.constants.update(results_by_name(node, arrays, values.version))
    else:
        try:
            outputs = OPERATORS[node.kind](values, node)
        except (KeyError, TypeError, IndexError) as error:  # an attribute or input that is missing
            raise UnsupportedOperatorError(
                f"The operator {node.label} cannot be read: {error!r}"
            ) from error
        for name, value in zip((node.output, *node.further_outputs), outputs, strict=False):
            if name:
                values.set(name, value)
