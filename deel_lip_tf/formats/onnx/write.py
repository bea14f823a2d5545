"""Keras classifiers as ONNX files that other verifiers read: few, common operators.

Sorting activations are written as the relus of differences that they are, so that a tool that knows
`Relu`, `MatMul` and `Conv` can bound them. Convolutions take channels first; a `Transpose` is only
written where the order of the entries matters.
"""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from deel_lip_tf.formats.onnx.layers import ACTIVATIONS, LAYERS, Emitted, Unsupported
from deel_lip_tf.layers.base import Condensable, LipschitzLayer
from deel_lip_tf.semantics.ends import final_call, normalized_by
from deel_lip_tf.semantics.graph import Call, Graph, graph_of, is_readable

__all__ = ["to_onnx"]

_OPSET, _IR_VERSION = 13, 8


def to_onnx(model: keras.Model, path: str | Path, drop_softmax: bool = False) -> None:
    """Writes a model in the ONNX format, with the weights it computes with.

    The file has one input `X` of the model's own shape (channels last where they are so in Keras)
    and one output `Y`; the batch size is open. Constrained layers are written with their effective
    kernel.

    Args:
        model: a Sequential or functional model of float32 or float64, with one input and output.
        path: of the file.
        drop_softmax: leaves out a softmax that ends the model: the order of the outputs stays, and
            many verifiers do not know it.

    Raises:
        ImportError: without the package `onnx`.
        ValueError: a model of another kind, or layers that cannot be written: all are named. For
            those, `model.export(path, format="onnx")` of Keras may do, with the package `tf2onnx`.

    Example:
        >>> import os, tempfile
        >>> layers = [lip.layers.SpectralDense(2), keras.layers.Activation("softmax")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> lip.verify.to_onnx(model, path, drop_softmax=True)
        >>> logits = lip.verify.from_onnx(path)(np.eye(4))
        >>> np.allclose(keras.ops.softmax(logits), model(np.eye(4)), atol=1e-6)
        True
    """
    import onnx

    graph = _checked(model)
    (given,), (result,) = graph.inputs, graph.outputs
    writer = _Writer(given.dtype)
    last = final_call(graph) if drop_softmax else None
    dropped = last if last is not None and normalized_by(last) else None
    output = writer.run(graph, Emitted("X", given.shape[1:]), dropped)
    writer.raise_if_refused()
    writer.node("Identity", [writer.channels_last(output).name], output="Y")
    onnx.save(writer.file(given.shape, result.shape), str(path))


def _checked(model) -> Graph:
    is_simple = is_readable(model) and len(model.inputs) == len(model.outputs) == 1
    if not is_simple:
        raise ValueError(
            "`model` must be a built Sequential or functional Keras model of one input and one "
            f"output. Received: {type(model).__name__}."
        )
    graph = graph_of(model)
    shape, dtype = graph.inputs[0].shape, graph.inputs[0].dtype
    if None in shape[1:] or dtype not in ("float32", "float64"):
        raise ValueError(
            "The input of `model` must have known sizes, of float32 or float64. Received: shape "
            f"{shape}, {dtype}."
        )
    return graph


@dataclass(frozen=True)
class _Constant:
    name: str
    values: np.ndarray


class _Writer:
    """Collects operators and constants along the graph of the model."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self._nodes: list = []
        self._constants: list[_Constant] = []
        self._refused: list[str] = []

    def run(self, graph: Graph, given: Emitted, dropped: Call | None = None) -> Emitted:
        """Writes the calls of a graph of one input and one output, and returns the output.

        Of the call `dropped`, a final softmax is left out.
        """
        known = {graph.inputs[0]: given}
        for call in graph.calls:
            results = self._call(call, [known[value] for value in call.inputs], call is dropped)
            known.update(zip(call.outputs, results, strict=True))
        return known[graph.outputs[0]]

    def _call(self, call: Call, inputs: list[Emitted], is_last: bool) -> list[Emitted]:
        try:
            if call.refusal is not None or len(call.outputs) != 1:
                raise Unsupported(call.refusal or "it has several outputs")
            return [self.layer(call.operation, inputs, is_last)]
        except Unsupported as error:
            reason = f": {error}" if str(error) else ""
            self._refused.append(f"{call.name!r} ({type(call.operation).__name__}{reason})")
            return [Emitted("", value.shape[1:]) for value in call.outputs]

    def layer(self, layer, inputs: list[Emitted], is_last: bool = False) -> Emitted:
        """Writes one layer with its activation, by the rule of its exact type."""
        if type(layer) not in LAYERS and isinstance(layer, LipschitzLayer | Condensable):
            plain = layer.vanilla_export()
            if isinstance(plain, keras.Model):
                return self.run(graph_of(plain), inputs[0])
            layer = plain
        if type(layer) not in LAYERS:
            raise Unsupported
        output = LAYERS[type(layer)](self, layer, inputs)
        activation = getattr(layer, "activation", None)
        if isinstance(activation, keras.layers.Layer):
            return self.layer(activation, [output], is_last)
        return self._activated(output, activation, is_last)

    def _activated(self, tensor: Emitted, activation, is_last: bool) -> Emitted:
        if activation is None or activation is keras.activations.linear:
            return tensor
        if activation is keras.activations.softmax:
            if is_last:
                return tensor
            tensor = self.channels_last(tensor)
        if activation not in ACTIVATIONS:
            raise Unsupported(f"its activation {getattr(activation, '__name__', activation)!r}")
        kind, attributes = ACTIVATIONS[activation]
        return self.apply(kind, tensor, **attributes)

    def node(self, kind: str, inputs: list[str], output: str | None = None, **attributes) -> str:
        """Appends an operator and returns the name of its output."""
        from onnx import helper

        output = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values, dtype: str | None = None) -> str:
        """Appends a constant, in the type of the model by default."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(_Constant(name, np.asarray(values, dtype or self.dtype)))
        return name

    def apply(self, kind: str, tensor: Emitted, *constants: str, **attributes) -> Emitted:
        """An operator that works entry by entry."""
        name = self.node(kind, [tensor.name, *constants], **attributes)
        return Emitted(name, tensor.shape, tensor.is_first)

    def channels_last(self, tensor: Emitted) -> Emitted:
        """The tensor in Keras's order."""
        if not tensor.is_first:
            return tensor
        rank = len(tensor.shape) + 1
        name = self.node("Transpose", [tensor.name], perm=[0, *range(2, rank), 1])
        return Emitted(name, tensor.shape)

    def channels_first(self, tensor: Emitted) -> Emitted:
        """The tensor in ONNX's order; `shape` keeps meaning Keras's."""
        if tensor.is_first or len(tensor.shape) < 2:
            return tensor
        rank = len(tensor.shape) + 1
        name = self.node("Transpose", [tensor.name], perm=[0, rank - 1, *range(1, rank - 1)])
        return Emitted(name, tensor.shape, is_first=True)

    def raise_if_refused(self) -> None:
        """Raises one error that names everything without a rule."""
        if self._refused:
            raise ValueError(
                f"These layers cannot be written as ONNX: {'; '.join(self._refused)}. Replace "
                'them, or try Keras\'s own `model.export(path, format="onnx")` with `tf2onnx`.'
            )

    def file(self, input_shape: tuple, output_shape: tuple):
        """The whole as an `onnx.ModelProto`, checked."""
        import onnx
        from onnx import helper, numpy_helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self._nodes,
            "classifier",
            [helper.make_tensor_value_info("X", kind, ["batch", *input_shape[1:]])],
            [helper.make_tensor_value_info("Y", kind, ["batch", *output_shape[1:]])],
            [numpy_helper.from_array(c.values, c.name) for c in self._constants],
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        onnx.checker.check_model(model)
        return model
