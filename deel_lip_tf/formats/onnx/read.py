"""Feed-forward ONNX classifiers as Keras models."""

import keras
import numpy as np

from deel_lip_tf.formats.build import KerasGraphBuilder, called
from deel_lip_tf.formats.graph import BATCH, Node
from deel_lip_tf.formats.onnx.folding import is_foldable
from deel_lip_tf.formats.onnx.graph import OF_SHAPES, read, results_by_name
from deel_lip_tf.formats.onnx.operators import OPERATORS, rule_of
from deel_lip_tf.formats.onnx.tensors import Tensor

_TOLD_SIZES = ("Reshape", "Slice")
"""Operators that may be told the size of the batch."""


def from_onnx(model) -> keras.Model:
    """Builds the Keras model that computes what an ONNX model computes.

    The model takes inputs of the ONNX model's own shape, without its first axis, which is the
    batch; channels come first where ONNX has them first. An input of one axis, such as `(5,)`, has
    no batch: it is one sample, and the model takes a batch of them. `Dropout` is the identity, and
    batch normalization uses its stored statistics; both are refused in training mode. Constants are
    those of the file, none is rounded; what the file computes from constants or from shapes alone
    is computed as it says, in the types it says. Operators: those of
    `formats.onnx.operators.OPERATORS`, of any version; arithmetic with constants, and sums,
    differences, means, maxima and minima of tensors.

    Args:
        model: path of a file (`.onnx`, or `.onnx.gz`), or an `onnx.ModelProto`, of one input and
            one output.

    Returns:
        A functional model with the weights in it, of the type of the ONNX input.

    Raises:
        ImportError: without the package `onnx`.
        FileNotFoundError: no such file.
        ValueError: a file that is no ONNX model, several inputs or outputs, an unknown shape,
            operators that are not supported (all are named), or an operator with arguments that
            are not (it is named).

    Example:
        >>> import os, tempfile
        >>> model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(2)])
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> lip.verify.to_onnx(model, path)
        >>> loaded = lip.verify.from_onnx(path)
        >>> np.allclose(loaded(np.eye(4)), model(np.eye(4)), atol=1e-6)
        True
    """
    graph = read(model, {*OPERATORS, *OF_SHAPES, "Constant"})
    inputs = keras.Input(graph.shape, dtype=graph.dtype, name="input")
    given = Tensor(inputs, has_batch=graph.has_batch)
    builder = KerasGraphBuilder(graph.dtype, graph.constants, {graph.input: given}, graph.version)
    for node in graph.nodes:
        _call(builder, node)
    return keras.Model(inputs, builder.tensor(graph.output).channels_first(), name="from_onnx")


def _call(builder: KerasGraphBuilder, node: Node) -> None:
    """Keeps the output of an operator: a constant where it is about shapes, else a tensor."""
    if node.kind in OF_SHAPES:
        value = builder.tensor(node.inputs[0])
        shape = np.array([BATCH, *value.sample] if value.has_batch else value.sample, np.int64)
        ends = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
        builder.know(node.output, shape[slice(*ends)])
    elif builder.knows_all(node) and is_foldable(node.kind):
        constants = [builder.constant(node, i) if n else None for i, n in enumerate(node.inputs)]
        for name, array in results_by_name(node, constants, builder.version).items():
            builder.know(name, array)
    else:
        if node.kind not in _TOLD_SIZES:
            builder.raise_for_batch(node)
        builder.set(node.output, called(rule_of(builder, node), builder, node))
