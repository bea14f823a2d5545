"""What layers are made of: linear operators, and how calls of several inputs combine differences.

`bounds.norms` proves the norms of the operators.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import keras
import numpy as np

from deel_lip_tf._rounding import product_up, sum_up
from deel_lip_tf.normalizers.convolution import common_steps
from deel_lip_tf.semantics.norms import Norm

Shape = tuple[int | None, ...] | None
"""With the batch axis; None for what is not known."""

_Size = TypeVar("_Size", int, int | None)


@dataclass(frozen=True)
class Matrices:
    """A block-diagonal matrix that is applied to parts of the input, once or often.

    Attributes:
        blocks: (blocks, inputs, outputs) float64, finite.
    """

    blocks: np.ndarray


@dataclass(frozen=True)
class Copies:
    """Every entry of the output is one of the input, and none is there more than `count` times."""

    count: int


@dataclass(frozen=True)
class Sums:
    """Every entry of the output is the sum of `count` entries of the input, each used once."""

    count: int


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias.

    Attributes:
        kernel: (*kernel_size, groups, inputs, outputs) float64, finite. For a transposed
            convolution, that of the convolution whose adjoint it is.
        strides: one per axis.
        dilation: one per axis.
        padding: "same", "valid", "causal", "circular", "symmetric", "reflect" or "replicate".
        sizes: length of the input along each axis, None where it is not known. Where a transposed
            convolution has a padding that copies, those of its output instead. One that is "same"
            writes `stride` times as many.
        transposed: whether the operator is the adjoint.
    """

    kernel: np.ndarray
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    sizes: tuple[int | None, ...]
    transposed: bool = False

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Number of taps along each axis."""
        return self.kernel.shape[:-3]

    def axes(self) -> list[tuple[int | None, int, int, int]]:
        """Along each axis the size, the number of taps, the stride and the dilation."""
        return list(zip(self.sizes, self.kernel_size, self.strides, self.dilation, strict=True))

    def effective_strides(self) -> tuple[int, ...]:
        """Strides under which the operator is, axis by axis, a compression of the infinite one.

        Wrapping round commutes with the step only if the step divides the length. Else the strided
        convolution is bounded by the one without stride, of which it keeps some outputs.
        """
        return common_steps(self.sizes, self.strides, self.padding)


Operator = Matrices | Copies | Sums | Convolution


@dataclass(frozen=True)
class Potential:
    """`factor * (x - 2 V relu(V^T x + bias))`: x minus the gradient of a convex function of it.

    Attributes:
        operator: `V^T`.
        bias: of the hidden units, or None.
        factor: a positive number.
    """

    operator: Matrices | Convolution
    bias: np.ndarray | None
    factor: float

    @property
    def kernel(self) -> np.ndarray:
        """The numbers of `V`."""
        operator = self.operator
        return operator.blocks if isinstance(operator, Matrices) else operator.kernel

    @property
    def terms(self) -> tuple[int, int]:
        """How many products an entry of `V^T x`, and one of `V h`, sums up."""
        if isinstance(self.operator, Matrices):
            return self.operator.blocks.shape[1], self.operator.blocks.shape[2]
        taps = math.prod(self.operator.kernel_size)
        inputs, outputs = self.operator.kernel.shape[-2:]
        return taps * inputs, taps * outputs


@dataclass(frozen=True)
class Recurrence:
    """`h_t = activation(factor * x_t K + h_(t-1) R + bias)` along a sequence, from a given state.

    Attributes:
        kernel: `K`, (inputs, units) float64, or the (*kernel_size, 1, inputs, units) of a
            convolution.
        recurrent: `R`, of the same layout, from the units to themselves.
        steps: how many there are; None where that is not known.
        returns_all: whether all states are the output, or the last one alone.
        convolution: of any kernel, where the two are those of convolutions.
        factor: a positive number.
        bias: of the units, or None.
    """

    kernel: np.ndarray
    recurrent: np.ndarray
    steps: int | None
    returns_all: bool
    convolution: Convolution | None = None
    factor: float = 1.0
    bias: np.ndarray | None = None

    def operator(self, kernel: np.ndarray) -> Matrices | Convolution:
        """What a step does with a kernel of this layout."""
        if self.convolution is None:
            return Matrices(kernel[None])
        return replace(self.convolution, kernel=kernel)

    @property
    def terms(self) -> int:
        """How many products an entry of a state sums up."""
        return (self.kernel.size + self.recurrent.size) // self.kernel.shape[-1]

    @property
    def state_shape(self) -> tuple[Any, ...]:
        """With the batch axis; None for what is not known."""
        sizes = () if self.convolution is None else self.convolution.sizes
        return (None, *sizes, self.recurrent.shape[-1])


@dataclass(frozen=True)
class Merge:
    """What a call does to the differences d_i of its inputs.

    Attributes:
        weights: c_i, one for each input.
        is_joined: whether `||d||**p <= sum (c_i ||d_i||)**p` (parts side by side, or the largest
            of several) instead of `||d|| <= sum c_i ||d_i||`.
        method: in words.
    """

    weights: list[float]
    is_joined: bool
    method: str

    def total(self, constants: list[float], norm: Norm) -> float:
        """Constant of the output, given those of the inputs with respect to one vector."""
        terms = [product_up(c, k) for c, k in zip(self.weights, constants, strict=True)]
        return norm.joined(terms) if self.is_joined else sum_up(terms)

    def apart(self, constants: list[float], norm: Norm) -> float:
        """The same, where the inputs depend on different parts of that vector each."""
        terms = [product_up(c, k) for c, k in zip(self.weights, constants, strict=True)]
        if not self.is_joined:
            return norm.dual.joined(terms)
        return math.nan if any(map(math.isnan, terms)) else max(terms)


def single_shape(shape: Any) -> Shape:
    """What Keras keeps as the shape of an input, if it is that of a single one; None otherwise."""
    is_single = isinstance(shape, list | tuple) and all(n is None or type(n) is int for n in shape)
    return tuple(shape) if is_single else None


def spatial_sizes(layer: keras.layers.Layer, shape: Shape) -> tuple[int | None, ...] | None:
    """The sizes of an image, given the shape of a layer's input; None where that is not known."""
    return None if shape is None else image_sizes(layer, shape)


def image_sizes(layer: keras.layers.Layer, shape: tuple[_Size, ...]) -> tuple[_Size, ...]:
    """The sizes of an image of this shape, a layer's input or output."""
    return tuple(shape[1:-1] if layer.data_format == "channels_last" else shape[2:])


def known_sizes(layer: keras.layers.Layer, shape: Shape) -> tuple[int, ...] | None:
    """The same, where all sizes are known; None otherwise."""
    sizes = spatial_sizes(layer, shape)
    return None if sizes is None else all_known(sizes)


def all_known(sizes: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """The sizes themselves, where all are known; None otherwise."""
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None
