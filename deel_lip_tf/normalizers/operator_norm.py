"""Kernels divided by a bound of the norm of what the layer does with them."""

from dataclasses import dataclass

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, unit_scale
from deel_lip_tf.normalizers.parametrization import (
    Parametrization,
    Projected,
    at_least_float32,
    named,
)


@named("at_most", at_most=True)
@register
@dataclass(frozen=True)
class OperatorNorm(Parametrization):
    """The kernel divided by an upper bound of the norm of its operation, `Operation.norm_bound`.

    A layer with it is at most `k_coef_lip`-Lipschitz for any finite raw kernel, and all singular
    values keep their proportions. The bound is of the operation and not of the flattened kernel, so
    that nothing is lost to patches that overlap: a kernel that was divided has a norm between 0.95
    and 1 for sizes up to 3. A zero kernel stays zero.

    Attributes:
        at_most: whether a kernel whose bound is at most 1 is left as it is, so that training may
            make the norm smaller than the constant; `False` by default, and `True` by the name
            `"at_most"`.

    Example:
        >>> small, large = np.diag([0.5, 0.1]), np.diag([8.0, 4.0])
        >>> norm = lip.normalizers.OperatorNorm()
        >>> for matrix in (small, large):
        ...     print(np.linalg.svd(norm.project(matrix), compute_uv=False).round(2))
        [1.  0.2]
        [1.  0.5]
        >>> at_most = lip.normalizers.OperatorNorm(at_most=True)
        >>> bool(np.all(at_most.project(small) == small))
        True
        >>> layer = lip.layers.SpectralConv2D(4, 3, parametrization="at_most")
        >>> layer.build((None, 8, 8, 2))
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    at_most: bool = False

    def projected(self, weights, operation):
        """The kernel, divided by the bound of its operation; what is left has the bound 1."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        if self.at_most:
            return Projected(kernel / ops.maximum(operation.norm_bound(kernel), 1))
        # Entries near 1 first: the norm of the largest that there are would overflow.
        unit = unit_scale(kernel)
        return Projected(safe_divide(unit, operation.norm_bound(unit)))

    def condensed(self, weights, operation):
        """The divided kernel, of which the bound is 1."""
        return {"kernel": self.projected(weights, operation).kernel}

    def reuse(self, operation):
        """For each spatial axis, copies by the padding, times unforeseen distances of patches."""
        return operation.excess
