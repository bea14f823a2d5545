"""Constraints that an optimizer applies to a kernel after each update, for any Keras layer.

An optimizer with `use_ema=True` averages the kernels as they were before the constraint, and `fit`
ends by putting the averages in their place, when nothing constrains them any more: they may exceed
the norm, and are on no manifold. The models of this library apply the constraints once more at the
end of `fit`; after the `fit` of another Keras model call `apply_constraints(model)`. (What
`ema_overwrite_frequency` puts in place within `fit` is constrained in the same step. The layers of
this library project their kernel where they use it, and keep their bound with any.)
"""

import math
from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import float32_at_least
from deel_lip_tf._lazy import public_names
from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import NOT_NEGATIVE, Rule, number
from deel_lip_tf._validation.signatures import Described
from deel_lip_tf.normalizers import (
    DEFAULT_BETA_BJORCK,
    DEFAULT_EPS_BJORCK,
    DEFAULT_EPS_SPECTRAL,
    Spectral,
    UnitFrobenius,
    check_lipschitz_factor,
    flatten_kernel,
)

__all__ = [
    "AbsoluteSumConstraint",
    "AutoWeightClipConstraint",
    "FrobeniusConstraint",
    "SpectralConstraint",
    "WeightClipConstraint",
    "apply_constraints",
]

__dir__ = public_names(__name__)


class _Projection(Described, keras.constraints.Constraint):
    """A constraint that projects the flattened kernel, (everything else, last axis)."""

    parametrization: Any = None
    k_coef_lip = 1.0

    def __call__(self, w):
        """The projected kernel, in the shape and type of `w`."""
        w = ops.convert_to_tensor(w)
        matrix = flatten_kernel(w)
        projected = self.k_coef_lip * self.parametrization.project(matrix)
        return ops.cast(ops.reshape(projected, w.shape), w.dtype)


@register
class SpectralConstraint(_Projection):
    """All singular values of the flattened kernel equal to `k_coef_lip`.

    For a dense layer that is the layer's Lipschitz constant. For a convolution it bounds the
    kernel as a matrix; the operation may be larger by the square root of the number of patches
    that share a pixel, which `SpectralConv2D` divides out and `bounds.lipschitz_bound` measures.

    Args:
        k_coef_lip: the norm, and every singular value of the result: positive, 1 by default.
        eps_spectral: by how much, relatively, the bound of the norm may exceed the norm where only
            the norm is divided out: positive, 1e-3 by default.
        eps_bjorck: how far from 1 the singular values may end: positive, 1e-3 by default; `None`
            bounds the largest singular value only.
        beta_bjorck: step of Björck's iteration, in ]0, 1/2], 1/2 by default; `None` does as
            `eps_bjorck=None`.
        u: accepted for users of deel-lip and unused: no power iteration, hence no start vector.

    Raises:
        TypeError, ValueError: a parameter is not a number, or outside its range.

    Example:
        >>> kernel = np.random.default_rng(0).normal(size=(6, 3))
        >>> constrained = lip.constraints.SpectralConstraint(k_coef_lip=2.0)(kernel)
        >>> print(np.linalg.svd(constrained, compute_uv=False).round(3))
        [2. 2. 2.]
    """

    def __init__(
        self,
        k_coef_lip: float = 1.0,
        eps_spectral: float = DEFAULT_EPS_SPECTRAL,
        eps_bjorck: float | None = DEFAULT_EPS_BJORCK,
        beta_bjorck: float | None = DEFAULT_BETA_BJORCK,
        u=None,
    ):
        self.parametrization = Spectral(eps_spectral, eps_bjorck, beta_bjorck)
        self.k_coef_lip = check_lipschitz_factor(k_coef_lip)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {
            "k_coef_lip": self.k_coef_lip,
            "eps_spectral": self.parametrization.eps_spectral,
            "eps_bjorck": self.parametrization.eps_bjorck,
            "beta_bjorck": self.parametrization.beta_bjorck,
        }


@register
class FrobeniusConstraint(_Projection):
    """Frobenius norm 1, hence largest singular value at most 1, of the kernel.

    Args:
        eps: accepted for users of deel-lip and unused: a zero kernel stays zero without it.

    Raises:
        TypeError, ValueError: `eps` is not a finite number of at least 0.

    Example:
        >>> constrained = lip.constraints.FrobeniusConstraint()(np.array([[3.0], [4.0]]))
        >>> print(np.round(constrained, 4))
        [[0.6]
         [0.8]]
        >>> round(float(np.linalg.norm(constrained)), 4)
        1.0
    """

    def __init__(self, eps: float = 1e-7):
        rule = "finite and at least 0 (it has no effect here: leave it out)"
        self.eps = number("eps", eps, Rule(NOT_NEGATIVE.is_allowed, rule))
        self.parametrization = UnitFrobenius()

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"eps": self.eps}


@register
class WeightClipConstraint(Described, keras.constraints.Constraint):
    """Entries clipped to `[-c, c]`.

    No useful Lipschitz bound follows: a matrix (m, n) of entries `c` has norm `c * sqrt(m * n)`.

    Args:
        c: the largest absolute value of an entry: positive, 2 by default.

    Raises:
        TypeError, ValueError: `c` is not a positive finite number.

    Example:
        >>> constraint = lip.constraints.WeightClipConstraint(c=2)
        >>> print(np.asarray(constraint(np.array([[5.0, -3.0, 1.0]]))))
        [[ 2. -2.  1.]]
    """

    def __init__(self, c: float = 2):
        self.c = check_lipschitz_factor(c, "c")

    def __call__(self, w):
        """`clip(w, -c, c)`."""
        return ops.clip(ops.convert_to_tensor(w), -self.c, self.c)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"c": self.c}


@register
class AutoWeightClipConstraint(Described, keras.constraints.Constraint):
    """Entries clipped to `[-c, c]` with `c = 1 / (sqrt(number of entries) * scale)`.

    The Frobenius norm, hence the largest singular value, is at most `1 / scale`: as in deel-lip,
    a larger `scale` is a tighter constraint.

    Args:
        scale: inverse of the bound on the norm: positive, 1 by default.

    Raises:
        TypeError, ValueError: `scale` is not a positive finite number.

    Example:
        >>> kernel = np.array([[3.0, -3.0], [0.25, 0.0]])
        >>> constrained = lip.constraints.AutoWeightClipConstraint()(kernel)
        >>> print(np.asarray(constrained))  # 1 / sqrt(4)
        [[ 0.5  -0.5 ]
         [ 0.25  0.  ]]
        >>> bool(np.linalg.norm(constrained) <= 1)
        True
    """

    def __init__(self, scale: float = 1):
        self.scale = check_lipschitz_factor(scale, "scale")

    def __call__(self, w):
        """`clip(w, -c, c)`."""
        c = 1 / (math.sqrt(math.prod(w.shape)) * self.scale)
        return ops.clip(ops.convert_to_tensor(w), -c, c)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"scale": self.scale}


@register
class AbsoluteSumConstraint(Described, keras.constraints.Constraint):
    """Absolute weights of each input that sum up to at most `k_coef_lip`: the norm from L1 to L1.

    A row of the kernel whose sum is larger is divided by it, and smaller by the rounding of its
    type, so that the sum of what is stored does not exceed `k_coef_lip`. A dense layer with it is
    `k_coef_lip`-Lipschitz for the L1 norm, and so is a chain with activations of slope 1 or sorting
    between: with one output `f`, `|df/dx_i| <= k` for every input, of which
    `deel_lip_tf.model.monotonic` makes networks that grow. (A layer of mixed precision rounds what
    is stored once more, upward too: `bounds.lipschitz_bound(model, norm="l1")` counts that.)

    Args:
        k_coef_lip: the largest sum: positive, 1 by default.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.

    Example:
        >>> kernel = np.array([[3.0, -1.0], [0.25, 0.25]], "float32")  # of two inputs
        >>> print(np.asarray(lip.constraints.AbsoluteSumConstraint()(kernel)).round(4))
        [[ 0.75 -0.25]
         [ 0.25  0.25]]
    """

    def __init__(self, k_coef_lip: float = 1.0):
        self.k_coef_lip = check_lipschitz_factor(k_coef_lip)

    def __call__(self, w):
        """The kernel (inputs, outputs) with its larger rows divided.

        Raises:
            ValueError: a kernel with another number of axes.
        """
        w = ops.convert_to_tensor(w)
        if len(w.shape) != 2:
            raise ValueError(
                "AbsoluteSumConstraint is for the kernel (inputs, outputs) of a dense layer. "
                f"Received: a kernel of shape {tuple(w.shape)}. Use `SpectralConstraint`."
            )
        stored = keras.backend.standardize_dtype(w.dtype)
        dtype = float32_at_least(stored)
        kernel = ops.cast(w, dtype)
        # Each entry is rounded three times, and the sum once for each entry, in the better type.
        slack = 4.0 * _LAST_DIGIT[stored] + (w.shape[1] + 4) * _LAST_DIGIT[dtype]
        total = ops.sum(ops.abs(kernel), axis=1, keepdims=True)
        # A number below the normal ones is off by one digit of the smallest at most.
        largest = self.k_coef_lip * (1.0 - slack) - w.shape[1] * _SMALLEST[stored]
        divided = ops.cast(kernel / total * max(largest, 0.0), stored)
        return ops.where(total * (1.0 + slack) > self.k_coef_lip, divided, w)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"k_coef_lip": self.k_coef_lip}


# The distance from 1 to the next number.
_LAST_DIGIT = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
# The smallest positive number.
_SMALLEST = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 2.0**-1074,
}


def apply_constraints(model: keras.Model) -> None:
    """Applies the constraint of every trainable variable of a model that has one, in place.

    For weights that no optimizer has constrained: after `fit` with `use_ema=True`, `set_weights`,
    or an average over several models.

    Args:
        model: any built Keras model.

    Raises:
        TypeError: not a Keras model.

    Example:
        >>> constraint = lip.constraints.FrobeniusConstraint()
        >>> dense = keras.layers.Dense(2, kernel_constraint=constraint, kernel_initializer="ones")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> round(float(np.linalg.norm(dense.kernel)), 4)  # no optimizer has applied it yet
        2.0
        >>> lip.constraints.apply_constraints(model)
        >>> round(float(np.linalg.norm(dense.kernel)), 4)
        1.0
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: an object of type {type(model).__name__}. "
            "A constraint by itself is called on a kernel."
        )
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
