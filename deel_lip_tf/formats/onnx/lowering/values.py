"""Tensors while the operators of an ONNX file become primitives.

A program is about one sample. So a tensor has the shape that the file gives it for a batch of one,
and a first axis of size 1 is left out of its node, as is the batch of every node. Convolutions read
and write nodes that have the channels behind the other axes, and such a node is only turned where
the order of its entries matters.
"""

from dataclasses import dataclass

import numpy as np

from deel_lip_tf.formats.graph import Node, UnsupportedOperatorError
from deel_lip_tf.formats.onnx.graph import OnnxGraph
from deel_lip_tf.semantics.ir.primitives import Shape, Transpose
from deel_lip_tf.semantics.ir.program import Builder


def sample_of(shape: Shape) -> Shape:
    """The shape of the node of a tensor: without its first axis where that has the size 1."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


@dataclass(frozen=True)
class Value:
    """A tensor of the file.

    Attributes:
        index: its node.
        shape: in the file, for a batch of one.
        is_last: whether the node has the channels, axis 1 of the file, behind all other axes.
    """

    index: int
    shape: Shape
    is_last: bool = False

    @property
    def has_batch(self) -> bool:
        """Whether the first axis is not in the node."""
        return sample_of(self.shape) != self.shape


class Values:
    """The tensors and the constants that are known, and the program that grows.

    Args:
        graph: what there is to lower, for a batch of one.
    """

    def __init__(self, graph: OnnxGraph):
        shape = (1, *graph.shape) if graph.has_batch else graph.shape
        self.builder = Builder(sample_of(shape))
        self.dtype, self.version = graph.dtype, graph.version
        self.constants = dict(graph.constants)
        self._values = {graph.input: Value(0, shape)}

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known without the input."""
        return name in self.constants

    def known(self, node: Node) -> list[np.ndarray | None] | None:
        """The inputs of an operator where all are constants or left out, else None."""
        arrays = [self.constants.get(name) for name in node.inputs]
        is_known = all(
            array is not None or not name for name, array in zip(node.inputs, arrays, strict=True)
        )
        return arrays if is_known else None

    def set(self, name: str, value: Value) -> None:
        """Keeps a tensor."""
        if not value.shape:
            raise UnsupportedOperatorError(f"The tensor {name!r} has no axis.")
        self._values[name] = value

    def value(self, node: Node, position: int = 0) -> Value:
        """An input that is computed.

        Raises:
            UnsupportedOperatorError: it is a constant, or computed by nothing.
        """
        name = node.inputs[position]
        if name not in self._values:
            raise node.unsupported(f"a tensor that depends on the input as input {position}", name)
        return self._values[name]

    def output(self, name: str) -> Value:
        """The output of the file.

        Raises:
            UnsupportedOperatorError: nothing computes it.
        """
        if name not in self._values:
            raise UnsupportedOperatorError(f"The output {name!r} is not computed.")
        return self._values[name]

    def numbers(self, node: Node, position: int) -> np.ndarray:
        """A constant to compute with, in float64.

        Raises:
            UnsupportedOperatorError: it depends on the input, is of another type, or not finite.
        """
        name = node.inputs[position] if position < len(node.inputs) else ""
        array = self.constants.get(name)
        if array is None or array.dtype.name != self.dtype or not np.isfinite(array).all():
            raise node.unsupported(f"finite constants of {self.dtype} as input {position}", name)
        return array.astype(np.float64)

    def optional(self, node: Node, position: int) -> np.ndarray | None:
        """The same, or None where the input was left out."""
        is_there = position < len(node.inputs) and node.inputs[position]
        return self.numbers(node, position) if is_there else None

    def first(self, value: Value) -> int:
        """The node in the file's order."""
        if not value.is_last:
            return value.index
        rank = len(value.shape)
        return self.builder.affine(value.index, Transpose((0, rank - 1, *range(1, rank - 1))))

    def last(self, node: Node, position: int = 0) -> int:
        """The node of an image, or of a sequence, with its channels behind the other axes.

        Raises:
            UnsupportedOperatorError: it is no image of one sample.
        """
        value = self.value(node, position)
        if len(value.shape) < 3 or not value.has_batch:
            raise node.unsupported("images or sequences as input", value.shape)
        if value.is_last:
            return value.index
        rank = len(value.shape)
        return self.builder.affine(value.index, Transpose((0, *range(2, rank), 1)))

    def image(self, index: int) -> Value:
        """What a node stands for that has its channels behind the other axes."""
        *sizes, channels = self.builder.shape(index)
        return Value(index, (1, channels, *sizes), is_last=True)

    def beside(self, node: Node, value: Value, constant: np.ndarray) -> np.ndarray:
        """A constant that broadcasts against a tensor, laid out as its node.

        Raises:
            UnsupportedOperatorError: it is the tensor that would be broadcast.
        """
        shape = (1,) * (len(value.shape) - constant.ndim) + constant.shape
        fits = len(shape) == len(value.shape) and all(
            n in (1, size) for n, size in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise node.unsupported(
                f"a constant that broadcasts against {value.shape}", constant.shape
            )
        laid = constant.reshape(shape[1:] if value.has_batch else shape)
        return np.moveaxis(laid, 0, -1) if value.is_last else laid
