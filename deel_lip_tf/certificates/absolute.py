"""Norms and lengths of the inner products that layers with a kernel compute.

The rounding error of `K x` is bounded by `gamma(n) |K| |x|`, entry by entry: what counts is the
norm of the operator with the absolute values of the kernel, and the number n of terms.
"""

import math
from dataclasses import replace

import keras
import numpy as np

from deel_lip_tf._rounding import product_up
from deel_lip_tf.bounds.kernels import linear_operators
from deel_lip_tf.bounds.layers import Unbounded
from deel_lip_tf.bounds.norms.operators import Convolution, Matrices, Operator, Sums, operator_bound

__all__ = ["absolute_sums"]


def absolute_sums(layer: keras.layers.Layer, input_shape: tuple) -> tuple[float, int]:
    """What the linear part of a built layer adds up.

    Args:
        layer: with a kernel.
        input_shape: with the batch axis.

    Returns:
        A proven bound of the norm of `|K|`, and how many products an entry of the output sums up.

    Raises:
        Unbounded: if the layer applies two kernels one after the other, or an argument has no rule.
    """
    try:
        operators = linear_operators(layer, input_shape)
    except ValueError as error:
        raise Unbounded(str(error)) from error
    if sum(isinstance(one, Convolution | Matrices) for one in operators) > 1:
        raise Unbounded("it applies two kernels: use one layer for each")
    norms = [operator_bound(_absolute(operator))[0] for operator in operators]
    return product_up(*norms), math.prod(map(_terms, operators))


def _absolute(operator: Operator) -> Operator:
    if isinstance(operator, Convolution):
        return replace(operator, kernel=np.abs(operator.kernel))
    if isinstance(operator, Matrices):
        return replace(operator, blocks=np.abs(operator.blocks))
    return operator


def _terms(operator: Operator) -> int:
    if isinstance(operator, Convolution):
        # The kernel of a transposed convolution is that of its adjoint.
        channels = operator.kernel.shape[-1 if operator.transposed else -2]
        return math.prod(operator.kernel_size) * channels
    if isinstance(operator, Matrices):
        return operator.blocks.shape[1]
    return operator.count if isinstance(operator, Sums) else 1
