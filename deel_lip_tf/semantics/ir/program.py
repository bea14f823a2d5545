"""What a model computes, as a graph of few primitives: NumPy arrays, and no tensor.

There are three kinds of nodes beside the input: affine maps of one or more nodes, functions of one
number, and Euclidean norms over the last axis. A node names its parents by their position in the
list, which is in the order of computation. Tensors have the shape (batch, *shape).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._rounding import gamma
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.semantics.ir.intervals import IntervalRule
from deel_lip_tf.semantics.ir.parameters import Coefficients, Parameter, as_coefficients
from deel_lip_tf.semantics.ir.primitives import Diagonal, LinearMap, Scale, Shape

if TYPE_CHECKING:
    from deel_lip_tf.semantics.graph import Call as GraphCall


@dataclass(frozen=True)
class Input:
    """The input of the program."""

    shape: Shape
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Affine:
    """`y = map(parents) + bias`.

    Attributes:
        parents: the nodes it reads.
        shape: of one output.
        map: linear in the parents jointly.
        bias: (1, *shape), or 1 in place of some sizes; or `None`. Of a program to train, a
            `Parameter`, as every array of its maps may be.
        interval: a better interval than the one the map gives.
    """

    parents: tuple[int, ...]
    shape: Shape
    map: LinearMap
    bias: np.ndarray | None = None
    interval: IntervalRule | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it only moves entries: then nothing is rounded."""
        return self.map.is_exact and self.bias is None


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function of each entry."""

    parents: tuple[int]
    shape: Shape
    function: Function


@dataclass(frozen=True, eq=False)
class Norm:
    """The Euclidean norm over the last axis of the parent."""

    parents: tuple[int]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Softmax:
    """The softmax over the last axis of the parent: where files are written, not where verified."""

    parents: tuple[int]
    shape: Shape


Node = Input | Affine | Elementwise | Norm | Softmax


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or an operation of the model, as lowered.

    Attributes:
        call: in the graph of the model.
        inputs: the nodes of its inputs.
        outputs: the nodes of its outputs.
    """

    call: "GraphCall"
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
    def sizes(self) -> list[int]:
        """The number of entries of each node, of one sample."""
        return [math.prod(node.shape) for node in self.nodes]

    @property
    def roundoff(self) -> float:
        """Relative error of any sum of products in this program, in float64.

        Sums have at most as many terms as a node has entries; coefficients that are computed from
        weights, and sums of the sums of all nodes, add a few more roundings.
        """
        return gamma(4 * (max(self.sizes) + len(self.nodes)) + 256)

    def nonlinear(self) -> tuple[int, ...]:
        """The nodes that are not affine."""
        return tuple(
            index for index, node in enumerate(self.nodes) if isinstance(node, Elementwise | Norm)
        )


class Builder:
    """Appends nodes, and refuses those without entries."""

    def __init__(self, input_shape: Shape):
        self.nodes: list[Node] = [Input(tuple(input_shape))]

    def shape(self, index: int) -> Shape:
        """Shape of one sample of a node."""
        return self.nodes[index].shape

    def affine(
        self,
        parents: int | Sequence[int],
        linear: LinearMap,
        bias: Coefficients | None = None,
        interval: IntervalRule | None = None,
    ) -> int:
        """Appends an affine map; `bias` broadcasts against its outputs (batch, *shape)."""
        parents = (parents,) if isinstance(parents, int) else tuple(parents)
        shape = tuple(linear.shape([self.shape(parent) for parent in parents]))
        added = None if bias is None else as_coefficients(bias, len(shape) + 1)
        return self._append(Affine(parents, shape, linear, added, interval))

    def scaled(
        self,
        parent: int,
        scale: ArrayLike | Parameter | None = None,
        shift: ArrayLike | Parameter | None = None,
    ) -> int:
        """Appends `x * scale + shift`; both broadcast against (batch, *shape).

        Raises:
            UnsupportedLayerError: it is the input that they broadcast.
        """
        shape = (1, *self.shape(parent))
        given = [np.shape(constant) for constant in (scale, shift) if constant is not None]
        if any(np.broadcast_shapes(one, shape) != shape for one in given):
            raise UnsupportedLayerError("its constants broadcast its input")
        linear: LinearMap = Scale()
        if scale is not None:
            linear = Diagonal(_broadcast(scale, shape))
        bias = None if shift is None else _broadcast(shift, shape)
        return self.affine(parent, linear, bias)

    def function(self, parent: int, function: Function) -> int:
        """Appends a function of each entry.

        Raises:
            UnsupportedLayerError: its arguments broadcast the input.
        """
        shape = self.shape(parent)
        if any(np.broadcast_shapes(np.shape(a), shape) != shape for a in function.arguments):
            raise UnsupportedLayerError("its weights broadcast its input")
        return self._append(Elementwise((parent,), self.shape(parent), function))

    def norm(self, parent: int) -> int:
        """Appends the Euclidean norm over the last axis."""
        return self._append(Norm((parent,), self.shape(parent)[:-1]))

    def softmax(self, parent: int) -> int:
        """Appends a softmax over the last axis."""
        return self._append(Softmax((parent,), self.shape(parent)))

    def _append(self, node: Node) -> int:
        if 0 in node.shape:
            raise UnsupportedLayerError("nothing is left of its input")
        self.nodes.append(node)
        return len(self.nodes) - 1


def _broadcast(values: Any, shape: Shape) -> Any:
    """An array of a shape; a parameter stays small, and is broadcast where it is used."""
    found = as_coefficients(values, len(shape))
    return found if isinstance(found, Parameter) else np.broadcast_to(found, shape)


def ancestors(program: Program, index: int) -> set[int]:
    """The nodes that a node depends on, itself included."""
    found, stack = set(), [index]
    while stack:
        if (current := stack.pop()) not in found:
            found.add(current)
            stack.extend(program.nodes[current].parents)
    return found


def left_slope(node: Node) -> Any:
    """Slope on the left of 0 of a function that is the identity on its right, or None."""
    if not isinstance(node, Elementwise):
        return None
    name, arguments = node.function.name, node.function.arguments
    if name == "relu" and arguments[1] == math.inf:
        return arguments[0]
    return arguments[0] if name == "prelu" else None
