"""Tensors while the operators of an ONNX file become calls of Keras layers.

ONNX keeps channels before rows, and TensorFlow on a CPU convolves only channels last. Tensors
therefore carry a mark: a convolution leaves its result channels last, elementwise operators keep
it so, and a `Permute` is made only where the order of the entries matters.
"""

from dataclasses import dataclass

import keras

__all__ = ["Value"]


@dataclass(frozen=True)
class Value:
    """A Keras tensor that stands for a tensor of the file.

    Attributes:
        tensor: (batch, ...).
        is_last: whether its channels were moved behind rows and columns.
        has_batch: whether the file's tensor has a batch axis; without one it is a vector, of which
            `tensor` holds one for each sample.
    """

    tensor: object
    is_last: bool = False
    has_batch: bool = True

    @property
    def rank(self) -> int:
        """Number of axes, with the batch."""
        return len(self.tensor.shape)

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of one sample, in ONNX's order."""
        shape = tuple(self.tensor.shape[1:])
        return (shape[-1], *shape[:-1]) if self.is_last else shape

    def channels_first(self):
        """The tensor in ONNX's order."""
        if not self.is_last:
            return self.tensor
        return self._permuted(self.rank - 1, *range(1, self.rank - 1))

    def channels_last(self):
        """The tensor with its channels behind the other axes."""
        if self.is_last or self.rank < 3:
            return self.tensor
        return self._permuted(*range(2, self.rank), 1)

    def _permuted(self, *axes: int):
        # A layer of another type would round what it moves.
        return keras.layers.Permute(axes, dtype=self.tensor.dtype)(self.tensor)
