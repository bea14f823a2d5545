"""What a model computes, as a graph of few primitives in float64.

There are three kinds of nodes beside the input: affine maps of one or more nodes, activations of
one number, and Euclidean norms over the last axis. A node names its parents by their position in
the list, which is in the order of computation. Tensors have the shape (batch, *shape).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import gamma
from deel_lip_tf.semantics.graph import Call as GraphCall
from deel_lip_tf.verify.propagation.relaxations import Activation

__all__ = [
    "Affine",
    "Builder",
    "Convolution",
    "Elementwise",
    "Hull",
    "Input",
    "Node",
    "Norm",
    "Program",
]

Shape = tuple[int, ...]
Operator = Callable[[Sequence[tf.Tensor], tf.Tensor | None], tf.Tensor]


@dataclass(frozen=True)
class Input:
    """The input of the program."""

    shape: Shape
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Convolution:
    """That an affine map is `conv(pad(x), kernel)` of one image, channels last.

    Attributes:
        kernel: (rows, columns, inputs, outputs) float64; any dilation is written out in zeros.
        strides: along rows and columns.
        before: rows and columns of zeros in front of the image.
    """

    kernel: tf.Tensor
    strides: tuple[int, int]
    before: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Hull:
    """An interval of a node that is better than the one its affine map gives.

    Attributes:
        sources: the nodes it is computed from.
        rule: `[(lower, upper) of each source]` to `(lower, upper)`.
    """

    sources: tuple[int, ...]
    rule: Callable


@dataclass(frozen=True, eq=False)
class Affine:
    """`y = operator(parents, coefficients) + bias`.

    Attributes:
        parents: the nodes it reads.
        shape: of one output.
        operator: linear in the parents jointly and linear in the coefficients, with factors that
            are not negative: the absolute values of the map are those of the coefficients.
        coefficients: float64, or `None` where the map only moves, copies or averages entries.
        bias: (1, *shape), or 1 in place of some sizes; or `None`.
        hull: a better interval.
        convolution: where the map is one.
        is_diagonal: whether it multiplies each entry by itself; the operator is then
            `x * coefficients`.
    """

    parents: tuple[int, ...]
    shape: Shape
    operator: Operator
    coefficients: tf.Tensor | None = None
    bias: tf.Tensor | None = None
    hull: Hull | None = None
    convolution: Convolution | None = None
    is_diagonal: bool = False

    def linear(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The map without its bias."""
        return self.operator(tensors, self.coefficients)

    def absolute(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The map whose matrix holds the absolute values, without bias."""
        coefficients = None if self.coefficients is None else tf.abs(self.coefficients)
        return self.operator(tensors, coefficients)

    def adjoint(self, upstream: tf.Tensor, shapes: Sequence[Shape]) -> list[tf.Tensor]:
        """The transposed map, (rows, *shape) to (rows, *shape of each parent).

        TensorFlow's gradient of a linear map is its adjoint, whatever the point: of a convolution
        the transposed convolution. The map itself is pruned from the graph.
        """
        rows = tf.shape(upstream)[0]
        points = [tf.zeros([rows, *shape], tf.float64) for shape in shapes]
        with tf.GradientTape() as tape:
            tape.watch(points)
            outputs = self.linear(points)
        parts = tape.gradient(outputs, points, output_gradients=upstream)
        if any(part is None for part in parts):
            # A missing part taken for 0 would prove what is false.
            raise RuntimeError("TensorFlow recorded no gradient of an affine map.")
        return parts


@dataclass(frozen=True, eq=False)
class Elementwise:
    """An activation of each entry."""

    parents: tuple[int]
    shape: Shape
    activation: Activation


@dataclass(frozen=True, eq=False)
class Norm:
    """The Euclidean norm over the last axis of the parent."""

    parents: tuple[int]
    shape: Shape


Node = Input | Affine | Elementwise | Norm


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or an operation of the model, as lowered.

    Attributes:
        call: in the graph of the model.
        inputs: the nodes of its inputs.
        outputs: the nodes of its outputs.
    """

    call: GraphCall
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A model, lowered.

    Attributes:
        nodes: in the order of computation; the first is the input.
        output: position of the output.
        calls: the calls of the model, in order.
        dropped: name of the final activation that was left out, or `None`.
        compiled: functions that were traced for this program, by what they do.
    """

    nodes: tuple[Node, ...]
    output: int
    calls: tuple[Call, ...]
    dropped: str | None = None
    compiled: dict = field(default_factory=dict)

    @property
    def input_shape(self) -> Shape:
        """Shape of one sample."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        """Shape of the output of one sample."""
        return self.nodes[self.output].shape

    @property
    def outputs(self) -> int:
        """Number of entries of the output of one sample."""
        return math.prod(self.output_shape)

    def shapes(self, indices: Sequence[int]) -> list[Shape]:
        """Shapes of some nodes."""
        return [self.nodes[index].shape for index in indices]

    @property
    def roundoff(self) -> float:
        """Relative error of any sum of products in this program, in float64.

        Sums have at most as many terms as a node has entries; coefficients that are computed from
        weights, and sums of the sums of all nodes, add a few more roundings.
        """
        largest = max(math.prod(node.shape) for node in self.nodes)
        return gamma(4 * (largest + len(self.nodes)) + 256)

    def nonlinear(self) -> tuple[int, ...]:
        """The nodes that are not affine."""
        return tuple(
            index for index, node in enumerate(self.nodes) if isinstance(node, Elementwise | Norm)
        )

    def evaluate(self, x: tf.Tensor) -> list[tf.Tensor]:
        """All nodes at points (batch, *shape), in float64."""
        values = [tf.convert_to_tensor(x, tf.float64)]
        for node in self.nodes[1:]:
            parents = [values[parent] for parent in node.parents]
            if isinstance(node, Affine):
                value = node.linear(parents)
                values.append(value if node.bias is None else value + node.bias)
            elif isinstance(node, Elementwise):
                values.append(node.activation.value(parents[0]))
            else:
                values.append(tf.norm(parents[0], axis=-1))
        return values


class Builder:
    """Appends nodes, and finds their shapes by computing them once, on zeros."""

    def __init__(self, input_shape: Shape):
        self.nodes: list[Node] = [Input(tuple(input_shape))]

    def shape(self, index: int) -> Shape:
        """Shape of one sample of a node."""
        return self.nodes[index].shape

    def affine(
        self, parents: Sequence[int], operator: Operator, coefficients=None, bias=None, **others
    ) -> int:
        """Appends an affine map; `others` are further fields of `Affine`."""
        coefficients = None if coefficients is None else tf.constant(coefficients, tf.float64)
        bias = None if bias is None else tf.constant(bias, tf.float64)
        zeros = [tf.zeros((1, *self.shape(parent)), tf.float64) for parent in parents]
        outputs = operator(zeros, coefficients)
        if bias is not None:
            bias = tf.reshape(bias, [1] * (len(outputs.shape) - len(bias.shape)) + bias.shape)
            outputs = outputs + bias
        shape = tuple(outputs.shape[1:])
        return self._append(Affine(tuple(parents), shape, operator, coefficients, bias, **others))

    def scaled(self, parent: int, scale=None, shift=None) -> int:
        """Appends `x * scale + shift`; both broadcast against (batch, *shape)."""
        shape = self.shape(parent)
        scale = np.ones(()) if scale is None else np.asarray(scale, np.float64)
        shift = None if shift is None else np.broadcast_to(shift, (1, *shape))
        return self.affine(
            [parent], _multiplied, np.broadcast_to(scale, (1, *shape)), shift, is_diagonal=True
        )

    def activation(self, parent: int, activation: Activation) -> int:
        """Appends an activation."""
        return self._append(Elementwise((parent,), self.shape(parent), activation))

    def norm(self, parent: int) -> int:
        """Appends the Euclidean norm over the last axis."""
        return self._append(Norm((parent,), self.shape(parent)[:-1]))

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1


def _multiplied(tensors, coefficients):
    return tensors[0] * coefficients


def ancestors(program: Program, index: int) -> set[int]:
    """The nodes that a node depends on, itself included."""
    found, stack = set(), [index]
    while stack:
        if (current := stack.pop()) not in found:
            found.add(current)
            stack.extend(program.nodes[current].parents)
    return found
