"""Sums and means over axes of each sample, and means of windows."""

import numpy as np

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import reshaped
from deel_lip_tf.semantics.ir.primitives import AxisProducts
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.rules.pooling import averaged


@rule("Sum")
class Reduction(Rule):
    """The sum over axes."""

    def share(self, size: int) -> float:
        """The factor of each of so many entries."""
        return 1.0

    def lower_call(self, lowering, call, inputs):
        builder, index = lowering.builder, only(inputs)
        shape, axes = builder.shape(index), call.operation.axis
        rank = len(shape) + 1
        axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
        axes = {axis % rank for axis in axes}
        if 0 in axes:
            raise UnsupportedLayerError("it mixes the samples of a batch, or adds a constant")
        matrices = [
            np.full((size, 1), self.share(size)) if axis in axes else None
            for axis, size in enumerate(shape, 1)
        ]
        index = builder.affine(index, AxisProducts(tuple(matrices)))
        if call.operation.keepdims:
            return index
        kept = tuple(size for axis, size in enumerate(shape, 1) if axis not in axes)
        return reshaped(builder, index, kept)


@rule("Mean")
class Mean(Reduction):
    """The mean over axes."""

    def share(self, size):
        return 1.0 / size


@rule("AveragePool")
class AveragePool(Rule):
    """The mean of each window; places beyond the border do not count."""

    def lower_call(self, lowering, call, inputs):
        return averaged(lowering.builder, call.operation, only(inputs))
