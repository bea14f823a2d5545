"""Feed-forward ONNX classifiers as Keras models."""

import keras

from deel_lip_tf.formats.onnx.graph import read
from deel_lip_tf.formats.onnx.operators import OPERATORS, rule_of
from deel_lip_tf.formats.onnx.values import Value
from deel_lip_tf.formats.walk import Walk, called

__all__ = ["from_onnx"]


def from_onnx(model) -> keras.Model:
    """Builds the Keras model that computes what an ONNX model computes.

    The model takes inputs of the ONNX model's own shape, without its first axis, which is the
    batch; channels come first where ONNX has them first. An input of one axis, such as `(5,)`, has
    no batch: it is one sample, and the model takes a batch of them. `Dropout` is the identity, and
    batch normalization uses its stored statistics; both are refused in training mode. Constants are
    those of the file, none is rounded. Operators: those of `formats.onnx.operators.OPERATORS`;
    arithmetic with constants, and sums, differences, maxima and minima of tensors.

    Args:
        model: path of a file, or an `onnx.ModelProto`, of one input and one output.

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
    graph = read(model, {*OPERATORS, "Constant"})
    inputs = keras.Input(graph.shape, dtype=graph.dtype, name="input")
    given = Value(inputs, has_batch=graph.has_batch)
    walk = Walk(graph.dtype, graph.constants, {graph.input: given}, graph.version)
    for node in graph.nodes:
        walk.put(node.output, called(rule_of(walk, node), walk, node))
    return keras.Model(inputs, walk.tensor(graph.output).channels_first(), name="from_onnx")
