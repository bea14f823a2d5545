"""Tensors while the operators of a SavedModel become calls of Keras layers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_PARTS = (
    "A tensor whose first axis holds parts of samples must be a matrix to multiply, or the image "
    "of one dilated convolution. Received: samples of shape {}. Give the Keras model itself."
)


@dataclass(frozen=True, eq=False)
class Blocks:
    """A dilated convolution, which TensorFlow writes as a plain one of every n-th row and column.

    Attributes:
        block: the dilation along rows and columns.
        pads: zeros added in front of and behind rows and columns.
        convolved: a function of the dilation and the padding that finishes the convolution, once
            there is one.
    """

    block: tuple[int, ...]
    pads: list[tuple[int, int]]
    convolved: Callable | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """A Keras tensor that stands for a tensor of the graph.

    Attributes:
        tensor: (batch, ...).
        rows: where not `None`, the first axis of the graph's tensor is the batch times this many
            rows of each sample: `tensor` has them apart, as (batch, rows, ...).
        with_bias: a function that adds a vector to the last axis by the layer that made the
            tensor, where that layer can.
        blocks: where the batch of the graph's tensor also holds the blocks of a dilation.
        batch_size: 1, where the graph takes one sample at a time; else `None`.
    """

    tensor: Any
    rows: int | None = None
    with_bias: Callable[[np.ndarray], "Tensor"] | None = None
    blocks: Blocks | None = None
    batch_size: int | None = None

    @property
    def rank(self) -> int:
        """Number of axes of the graph's tensor, with the batch."""
        return len(self.tensor.shape) - (self.rows is not None)

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.tensor.shape[1:])

    def of(self, tensor) -> "Tensor":
        """Another tensor of the same kind.

        Raises:
            ValueError: this one is in blocks, whose zeros only a convolution leaves alone.
        """
        if self.blocks is not None:
            raise ValueError(_PARTS.format(self.sample))
        return replace(self, tensor=tensor, with_bias=None)

    def samples(self):
        """The tensor, if its first axis is the batch alone.

        Raises:
            ValueError: the batch is mixed with rows or blocks.
        """
        if self.rows is not None or self.blocks is not None:
            raise ValueError(_PARTS.format(self.sample))
        return self.tensor
