"""Kernels that may have a smaller norm than the layer's constant."""

from dataclasses import dataclass

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.parametrization import (
    Parametrization,
    Projected,
    at_least_float32,
    named,
)


@named("at_most")
@register
@dataclass(frozen=True)
class AtMost(Parametrization):
    """The raw kernel itself, divided by a bound of the norm of its operation where that exceeds 1.

    A layer with it is at most `k_coef_lip`-Lipschitz for any finite raw kernel, and less where
    training makes it so: nothing forces singular values up to the constant. The bound is an upper
    one, of the operation and not of the flattened kernel: by Gram iteration of a matrix, and of the
    symbol of a convolution at frequencies that leave out at most 4 % of an image's (`Operation.
    norm_bound`). A kernel that was divided has a norm between 0.95 and 1 for sizes up to 3.

    Example:
        >>> small, large = np.diag([0.5, 0.1]), np.diag([8.0, 4.0])
        >>> at_most = lip.normalizers.AtMost()
        >>> bool(np.all(at_most.project(small) == small))
        True
        >>> print(np.linalg.svd(at_most.project(large), compute_uv=False).round(2))
        [1.  0.5]
        >>> layer = lip.layers.SpectralConv2D(4, 3, parametrization="at_most")
        >>> layer.build((None, 8, 8, 2))
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    def projected(self, weights, operation):
        """The kernel, divided by the bound of its operation if that is larger than 1."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        return Projected(kernel / ops.maximum(operation.norm_bound(kernel), 1))

    def condensed(self, weights, operation):
        """The divided kernel, of which the bound is 1."""
        return {"kernel": self.projected(weights, operation).kernel}

    def reuse(self, operation):
        """For each spatial axis, copies by the padding, times unforeseen distances of patches."""
        return operation.excess
