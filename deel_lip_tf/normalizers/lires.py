"""Linear residual kernels: the identity plus a small kernel, as one kernel."""

import math
from dataclasses import dataclass

import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.operator_norm import OperatorNorm
from deel_lip_tf.normalizers.parametrization import (
    Parametrization,
    Projected,
    at_least_float32,
    check_field,
)

_LARGEST = 1e15


@register
@dataclass(frozen=True)
class LiRes(Parametrization):
    """`I + gamma / sqrt(depth) * K`: a residual connection inside of the kernel.

    The identity is added to the middle of the kernel, so that `x + conv(x, K)` is one convolution,
    whose norm is that of one kernel, and mostly far below `1 + ||K||`. `gamma` is one number for
    each output, learned or 1.

    Attributes:
        depth: number of such layers of the network, by whose square root `K` is divided.
        learns_gamma: whether `gamma` is a trainable weight, 1 at first.
        normalized: whether the kernel is divided by an upper bound of the norm of its operation,
            `Operation.norm_bound`. If not, the layer is *not* of a known constant: its `k_coef_lip`
            only multiplies. `bounds` proves what it is for the weights as they are, and
            `model.gap_constants` measures it from above, differentiably, for the losses.

    Raises:
        TypeError, ValueError: `depth` is no integer of at least 1.

    Example:
        >>> blocks = lip.normalizers.LiRes(depth=4, learns_gamma=False, normalized=False)
        >>> print(blocks.project(np.array([[0.0, 2.0], [0.0, 0.0]])).numpy())
        [[1. 1.]
         [0. 1.]]

    Source: Hu et al., 2023, arXiv:2301.12549.
    """

    depth: int = 1
    learns_gamma: bool = True
    normalized: bool = True

    def __post_init__(self):
        check_field(self, "depth", int, lambda n: n >= 1, "an integer of at least 1")

    @property
    def is_guaranteed(self):
        """Whether the kernel is divided by the bound of its norm."""
        return self.normalized

    @property
    def initializers(self):
        """`gamma` is 1 at first."""
        return {"gamma": "ones"}

    def weights(self, kernel_shape):
        """The kernel, and one `gamma` for each output.

        Raises:
            ValueError: the kernel has no middle, or other channels at its end.
        """
        *sizes, inputs, outputs = kernel_shape
        if inputs != outputs or any(k % 2 == 0 for k in sizes):
            raise ValueError(
                "LiRes adds the identity to the middle of the kernel: it needs as many outputs as "
                f"inputs, and odd kernel sizes. Received: a kernel of shape {tuple(kernel_shape)}."
            )
        gamma = {"gamma": (outputs,)} if self.learns_gamma else {}
        return {"kernel": tuple(kernel_shape), **gamma}

    def projected(self, weights, operation):
        """The kernel with the identity; its bound is 1."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"])) / math.sqrt(self.depth)
        if "gamma" in weights:
            kernel = kernel * ops.cast(ops.convert_to_tensor(weights["gamma"]), kernel.dtype)
        # what finite weights make is finite, and so are the squares of it that a norm is made of
        kernel = ops.clip(kernel, -_LARGEST, _LARGEST)
        identity = np.zeros(kernel.shape)
        identity[tuple(k // 2 for k in kernel.shape[:-2])] = np.eye(kernel.shape[-1])
        fused = kernel + ops.cast(identity, kernel.dtype)
        if not self.normalized:
            return Projected(fused)
        return OperatorNorm().projected({"kernel": fused}, operation)

    def reuse(self, operation):
        """For each spatial axis, copies by the padding.

        Raises:
            ValueError: strides, a transposed convolution or one of each channel by itself.
        """
        if set(operation.strides) - {1} or operation.is_depthwise or operation.is_transposed:
            raise ValueError(
                "The parametrization LiRes knows products, and convolutions of all channels with "
                f"strides=1. Received: {operation}. Use the parametrization AOL() for others."
            )
        return operation.excess
