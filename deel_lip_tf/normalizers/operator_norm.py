"""Kernels divided by a bound of the norm of what the layer does with them."""

import math
from dataclasses import dataclass

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, unit_scale
from deel_lip_tf.normalizers.parametrization import (
    Parametrization,
    Projected,
    at_least_float32,
    check_field,
    named,
)

_SMALLEST = 1e-30


def _between_0_and_1(k):
    return ops.clip(k, 0.0, 1.0)


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
        learns_k: whether there is one more raw weight, the number `k`, by which 1 is replaced: the
            kernel is divided to the norm `k`, or to at most that. It is trained, an update leaves
            it between 0 and 1, and what is proven of the layer counts it: `k_coef_lip * k`, where
            `k_coef_lip` is the largest constant that the layer may learn. `False` by default.
        initial_k: `k` at first, between 0 and 1; 1 by default.
        k_penalty: what `k` is multiplied by in the loss of the model, at least 0, and 0 by default.

    Raises:
        TypeError, ValueError: `initial_k` or `k_penalty` is no number, or out of range.

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
        >>> learned = lip.normalizers.OperatorNorm(at_most=True, learns_k=True, initial_k=0.25)
        >>> known = {"kernel_initializer": "ones", "k_coef_lip": 2.0}
        >>> layer = lip.layers.SpectralDense(4, parametrization=learned, **known)
        >>> layer.build((None, 4))
        >>> round(lip.bounds.lipschitz_bound(layer).value, 4), layer.raw_weights["k"].name
        (0.5, 'k')
    """

    at_most: bool = False
    learns_k: bool = False
    initial_k: float = 1.0
    k_penalty: float = 0.0

    def __post_init__(self):
        check_field(self, "initial_k", float, lambda x: 0 <= x <= 1, "a number between 0 and 1")
        check_field(
            self, "k_penalty", float, lambda x: 0 <= x < math.inf, "a finite number of at least 0"
        )

    def weights(self, kernel_shape):
        """The kernel, and `k` if it is learned."""
        return {"kernel": tuple(kernel_shape), **({"k": ()} if self.learns_k else {})}

    @property
    def initializers(self):
        """`k` is `initial_k` at first."""
        return {"k": keras.initializers.Constant(self.initial_k)}

    @property
    def options(self):
        """`k` has a penalty of its own, and is clipped after each update."""
        penalty = keras.regularizers.L1(self.k_penalty) if self.k_penalty else None
        return {"k": {"regularizer": penalty, "constraint": _between_0_and_1}}

    def ceiling(self, weights):
        """`k`, as it is counted."""
        if "k" not in weights:
            return 1.0
        return _between_0_and_1(at_least_float32(ops.convert_to_tensor(weights["k"])))

    def projected(self, weights, operation):
        """The kernel, divided by the bound of its operation; what is left has the bound 1."""
        kernel = at_least_float32(ops.convert_to_tensor(weights["kernel"]))
        k = ops.cast(self.ceiling(weights), kernel.dtype) if "k" in weights else None
        if self.at_most:
            norm = operation.norm_bound(kernel)
            if k is None:
                return Projected(kernel / ops.maximum(norm, 1))
            # not 0 / 0 of the zero kernel, and 1 of every kernel that is left as it is
            return Projected(kernel * (k / ops.maximum(ops.maximum(norm, k), _SMALLEST)))
        # Entries near 1 first: the norm of the largest that there are would overflow.
        unit = unit_scale(kernel)
        divided = safe_divide(unit, operation.norm_bound(unit))
        return Projected(divided if k is None else k * divided)

    def condensed(self, weights, operation):
        """The divided kernel, of which the bound is 1."""
        return {"kernel": self.projected(weights, operation).kernel}

    def reuse(self, operation):
        """For each spatial axis, copies by the padding, times unforeseen distances of patches."""
        return operation.excess
