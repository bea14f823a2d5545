"""The nodes and constants of an ONNX file as they are written, and the order of their axes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

_OPSET, _IR_VERSION = 13, 8


@dataclass(frozen=True)
class OnnxTensor:
    """A tensor of the file.

    Attributes:
        name: in the file.
        shape: of one sample, channels last.
        is_first: whether the file holds it with the channels first instead.
    """

    name: str
    shape: tuple[int, ...]
    is_first: bool = False


class Emitter:
    """Collects operators and constants.

    Args:
        dtype: of all floats of the file.
    """

    def __init__(self, dtype: str):
        self.dtype = dtype
        self._nodes: list[Any] = []
        self._constants: list[tuple[str, np.ndarray]] = []

    def node(self, kind: str, inputs: list[str], output: str | None = None, **attributes) -> str:
        """Appends an operator and returns the name of its output."""
        from onnx import helper

        output = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: Any, dtype: str | None = None) -> str:
        """Appends a constant, in the type of the model by default."""
        name = f"constant_{len(self._constants)}"
        self._constants.append((name, np.asarray(values, dtype or self.dtype)))
        return name

    def apply(self, kind: str, tensor: OnnxTensor, *constants: Any, **attributes) -> OnnxTensor:
        """An operator that works entry by entry, with numbers or arrays (1, *shape)."""
        names = [self.constant(self._laid_out(np.asarray(c), tensor)) for c in constants]
        name = self.node(kind, [tensor.name, *names], **attributes)
        return OnnxTensor(name, tensor.shape, tensor.is_first)

    def combine(self, kind: str, first: OnnxTensor, second: OnnxTensor) -> OnnxTensor:
        """An operator of two tensors, entry by entry; they may be broadcast."""
        if first.is_first != second.is_first:
            first, second = self.channels_last(first), self.channels_last(second)
        name = self.node(kind, [first.name, second.name])
        shape = np.broadcast_shapes(first.shape, second.shape)
        return OnnxTensor(name, shape, first.is_first)

    def _laid_out(self, constant: np.ndarray, tensor: OnnxTensor) -> np.ndarray:
        if not tensor.is_first or not constant.ndim:
            return constant
        full = constant.reshape((1,) * (len(tensor.shape) + 1 - constant.ndim) + constant.shape)
        return np.moveaxis(full, -1, 1)

    def channels_last(self, tensor: OnnxTensor) -> OnnxTensor:
        """The tensor in the order of its `shape`."""
        if not tensor.is_first:
            return tensor
        rank = len(tensor.shape) + 1
        name = self.node("Transpose", [tensor.name], perm=[0, *range(2, rank), 1])
        return OnnxTensor(name, tensor.shape)

    def channels_first(self, tensor: OnnxTensor) -> OnnxTensor:
        """The tensor in ONNX's order; `shape` keeps its meaning."""
        if tensor.is_first or len(tensor.shape) < 2:
            return tensor
        rank = len(tensor.shape) + 1
        name = self.node("Transpose", [tensor.name], perm=[0, rank - 1, *range(1, rank - 1)])
        return OnnxTensor(name, tensor.shape, is_first=True)

    def reshaped(self, tensor: OnnxTensor, shape: tuple[int, ...]) -> OnnxTensor:
        """The same entries in another shape."""
        tensor = self.channels_last(tensor)
        if tensor.shape == tuple(shape):
            return tensor
        if len(shape) == 1:
            return OnnxTensor(self.node("Flatten", [tensor.name], axis=1), tuple(shape))
        target = self.constant([-1, *shape], "int64")
        return OnnxTensor(self.node("Reshape", [tensor.name, target]), tuple(shape))

    def file(self, input_shape: tuple, output_shape: tuple) -> Any:
        """The whole as an `onnx.ModelProto`, checked; it maps `X` to `Y`."""
        import onnx
        from onnx import helper, numpy_helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self._nodes,
            "classifier",
            [helper.make_tensor_value_info("X", kind, ["batch", *input_shape])],
            [helper.make_tensor_value_info("Y", kind, ["batch", *output_shape])],
            [numpy_helper.from_array(values, name) for name, values in self._constants],
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        onnx.checker.check_model(model)
        return model
