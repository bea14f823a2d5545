"""Norms of the linear operators that layers are made of."""

import math

import numpy as np

from deel_lip_tf._rounding import gamma
from deel_lip_tf.bounds.norms.absolute_sums import absolute_sums_bound
from deel_lip_tf.bounds.norms.convolution import convolution_bound
from deel_lip_tf.bounds.norms.dense_matrix import check_finite
from deel_lip_tf.bounds.norms.spectral import spectral_norm_bound
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.norms import L2, LINF, Norm
from deel_lip_tf.semantics.operators import Copies, Matrices, Operator, Sums


def operator_bound(operator: Operator, norm: Norm = L2, budget: float = 1.0) -> tuple[float, str]:
    """Bounds the operator norm from a p-norm to itself.

    Returns:
        `(bound, method)`; the method is empty for copies and sums.

    Raises:
        UnsupportedLayerError: if a kernel holds NaN or infinity.
    """
    try:
        return _bound(operator, norm, budget)
    except ValueError as error:
        raise UnsupportedLayerError(str(error)) from error


def _bound(operator: Operator, norm: Norm, budget: float) -> tuple[float, str]:
    if isinstance(operator, Copies):
        return norm.copies(operator.count), ""
    if isinstance(operator, Sums):
        return norm.dual.copies(operator.count), ""
    if isinstance(operator, Matrices):
        return _matrices_bound(operator.blocks, norm)
    if norm == L2:
        return convolution_bound(operator, budget)
    check_finite(operator.kernel)
    # The adjoint swaps rows and columns.
    by_output = (norm == LINF) != operator.transposed
    return absolute_sums_bound(operator, by_output), "sums of absolute values"


def _matrices_bound(blocks: np.ndarray, norm: Norm) -> tuple[float, str]:
    if norm == L2:
        largest = max((spectral_norm_bound(block) for block in blocks), default=0.0)
        return largest, "spectral norm of the kernel"
    check_finite(blocks)
    # The layout is (inputs, outputs): a row of the operator is a column here.
    sums = np.abs(blocks).sum(axis=-2 if norm == LINF else -1)
    terms, largest = blocks.size // max(sums.size, 1), float(sums.max(initial=0.0))
    if terms > 1:
        largest = math.nextafter(largest * (1.0 + gamma(terms + 2)), math.inf)
    return largest, "sums of absolute values"
