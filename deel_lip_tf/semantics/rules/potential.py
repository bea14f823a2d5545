"""Convex potential layers: the input minus the gradient of a convex function of it."""

from abc import ABC, abstractmethod

import numpy as np

from deel_lip_tf import layers as lip
from deel_lip_tf.semantics.ir.decompositions import (
    channels_last,
    combined,
    convolved,
    last_if_first,
)
from deel_lip_tf.semantics.ir.elementwise import relu
from deel_lip_tf.semantics.ir.primitives import MatMul
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.operators import Convolution, Matrices, Potential, spatial_sizes
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.rules.convolution import bordered, paddings
from deel_lip_tf.semantics.sizes import every_axis
from deel_lip_tf.semantics.state import bias_of, check_built, kernel_of


class _ConvexPotential(Rule, ABC):
    """`k_coef_lip * (x - 2 V relu(V^T x + bias))`."""

    keeps_size = staticmethod(every_axis)

    def potential(self, layer, input_shape):
        check_built(layer)
        return Potential(self.operator(layer, input_shape), bias_of(layer), layer.k_coef_lip)

    @abstractmethod
    def operator(self, layer, input_shape) -> Matrices | Convolution:
        """`V^T`, in the type the layer computes in."""

    def singular_values(self, layer, input_shape):
        return (layer.k_coef_lip,) * 2

    def lower(self, lowering, layer, inputs):
        check_built(layer)
        builder, index = lowering.builder, only(inputs)
        kernel, bias = kernel_of(layer), bias_of(layer)
        moved = channels_last(builder, index, layer)
        hidden = builder.function(self.applied(builder, layer, moved, kernel, bias), relu())
        axes = tuple(range(kernel.ndim - 2))
        adjoint = np.swapaxes(np.flip(kernel, axes), -1, -2)
        gradient = self.applied(builder, layer, hidden, adjoint, None)
        k = layer.k_coef_lip
        return last_if_first(builder, combined(builder, [moved, gradient], [k, -2.0 * k]), layer)

    @abstractmethod
    def applied(self, builder: Builder, layer, index: int, kernel, bias) -> int:
        """Appends the operation with a kernel, channels last."""


@rule(lip.SLLDense, lip.CPLDense)
class DensePotential(_ConvexPotential):
    """Products."""

    def operator(self, layer, input_shape):
        return Matrices(kernel_of(layer)[None])

    def applied(self, builder, layer, index, kernel, bias):
        return builder.affine(index, MatMul(kernel), bias)


@rule(lip.SLLConv2D, lip.CPLConv2D)
class ConvolutionPotential(_ConvexPotential):
    """Convolutions."""

    slides = True

    def operator(self, layer, input_shape):
        sizes = spatial_sizes(layer, input_shape) or (None, None)
        kernel = np.expand_dims(kernel_of(layer), -3)
        return Convolution(kernel, (1, 1), (1, 1), layer.padding, sizes)

    def applied(self, builder, layer, index, kernel, bias):
        one = (1, 1)
        pads = paddings(builder.shape(index)[:-1], layer.kernel_size, one, layer.padding)
        index, pads = bordered(builder, index, pads, layer.padding)
        return convolved(builder, index, np.expand_dims(kernel, -3), one, one, pads, bias)
