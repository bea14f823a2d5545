"""Tensors while the operators of an ONNX file become calls of Keras layers.

ONNX keeps channels before rows, and TensorFlow on a CPU convolves only channels last. Tensors
therefore carry their layout: a convolution leaves its result channels last, elementwise operators
keep it so, and a `Permute` is made only where the order of the entries matters.
"""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Tensor:
    """A Keras tensor that stands for a tensor of the file.

    Attributes:
        tensor: (batch, ...).
        layout: "NCHW", the order of the file, or "NHWC" where the channels were moved behind all
            other axes, however many there are.
        has_batch: whether the file's tensor has a batch axis; without one it is a vector, of which
            `tensor` holds one for each sample.
    """

    tensor: Any
    layout: str = "NCHW"
    has_batch: bool = True

    @property
    def rank(self) -> int:
        """Number of axes, with the batch."""
        return len(self.tensor.shape)

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of one sample, in ONNX's order."""
        shape = tuple(self.tensor.shape[1:])
        return (shape[-1], *shape[:-1]) if self.layout == "NHWC" else shape

    def of(self, tensor) -> "Tensor":
        """Another tensor of the same layout, with or without a batch axis in the file."""
        return replace(self, tensor=tensor)

    def channels_first(self):
        """The tensor in ONNX's order."""
        if self.layout == "NCHW":
            return self.tensor
        return self._permuted(self.rank - 1, *range(1, self.rank - 1))

    def channels_last(self):
        """The tensor with its channels behind the other axes."""
        if self.layout == "NHWC" or self.rank < 3:
            return self.tensor
        return self._permuted(*range(2, self.rank), 1)

    def beside(self, constant: np.ndarray) -> np.ndarray:
        """A constant of as many axes as a sample, from ONNX's order to that of `tensor`."""
        return np.moveaxis(constant, 0, -1) if self.layout == "NHWC" else constant

    def _permuted(self, *axes: int):
        # A layer of another type would round what it moves.
        return keras.layers.Permute(axes, dtype=self.tensor.dtype)(self.tensor)
