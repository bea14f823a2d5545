"""Parametrizations: hyper-parameters in, `project(matrix)` out; frozen, stateless, comparable."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

from keras import backend, ops

from deel_lip_tf.normalizers.arithmetic import frobenius_norm, safe_divide, unit_scale
from deel_lip_tf.normalizers.orthogonal import bjorck_cubics, polar_factor
from deel_lip_tf.normalizers.polar.factor import nearest_orthogonal, retracted
from deel_lip_tf.normalizers.spectral import spectral_norm_bound, squarings_for

DEFAULT_EPS_SPECTRAL = 1e-3
DEFAULT_EPS_BJORCK = 1e-3
DEFAULT_BETA_BJORCK = 0.5
DEFAULT_MAXITER_SPECTRAL = 10
DEFAULT_MAXITER_BJORCK = 15


@dataclass(frozen=True)
class Spectral:
    """Largest singular value at most 1, and, unless switched off, all of them equal to 1.

    Attributes:
        eps_spectral: by how much, relatively, the bound of the norm may exceed the norm where only
            the norm is divided out: positive, 1e-3 by default.
        eps_bjorck: how far from 1 the singular values may end: positive, 1e-3 by default; `None`
            leaves the kernel divided by the bound of its norm. Reached when the smallest singular
            value is at least 1e-4 of the largest; nearer to a singular kernel the norm is still at
            most 1.
        beta_bjorck: step of Björck's iteration, in ]0, 1/2], 1/2 by default; `None` does as
            `eps_bjorck=None`.
        maxiter_spectral: largest number of squarings for the bound of the norm, at least 1, 10 by
            default.
        maxiter_bjorck: largest number of orthogonalisation steps, at least 1, 15 by default.

    Raises:
        TypeError: an argument is not a number, or not an integer where one is asked for.
        ValueError: an argument outside its range.

    Example:
        >>> matrix = np.random.default_rng(0).normal(size=(6, 3))
        >>> orthogonal = lip.normalizers.Spectral().project(matrix)
        >>> print(np.linalg.svd(orthogonal, compute_uv=False).round(3))
        [1. 1. 1.]
        >>> bounded = lip.normalizers.Spectral(eps_bjorck=None).project(matrix)
        >>> values = np.linalg.svd(bounded, compute_uv=False)
        >>> bool(values.max() <= 1), bool(values.min() < 0.9)  # only the norm is divided out
        (True, True)
    """

    eps_spectral: float = DEFAULT_EPS_SPECTRAL
    eps_bjorck: float | None = DEFAULT_EPS_BJORCK
    beta_bjorck: float | None = DEFAULT_BETA_BJORCK
    maxiter_spectral: int = DEFAULT_MAXITER_SPECTRAL
    maxiter_bjorck: int = DEFAULT_MAXITER_BJORCK

    def __post_init__(self):
        apart = "or None to keep the singular values apart"
        _check(self, "eps_spectral", float, lambda x: x > 0, "a number > 0")
        _check(self, "eps_bjorck", float, lambda x: x > 0, f"a number > 0, {apart}")
        _check(self, "beta_bjorck", float, lambda x: 0 < x <= 0.5, f"in ]0, 0.5], {apart}")
        for name in ("maxiter_spectral", "maxiter_bjorck"):
            _check(self, name, int, lambda x: x >= 1, "an integer of at least 1")

    def project(self, matrix):
        """The nearest orthogonal matrix (or the unit-norm multiple) of `matrix`.

        Args:
            matrix: tensor (..., rows, outputs); each matrix is projected by itself.
        """
        matrix = at_least_float32(matrix)
        if self.eps_bjorck is None or self.beta_bjorck is None:
            return self._unit_norm(matrix)
        if self.is_retracting:
            return nearest_orthogonal(matrix, self.eps_bjorck, self.maxiter_bjorck)
        # Another step than Björck's own is a wish for exactly that iteration.
        return polar_factor(matrix, bjorck_cubics(self.beta_bjorck, self.maxiter_bjorck))

    @property
    def is_retracting(self) -> bool:
        """Whether `retract` moves a kernel: not where singular values are to stay apart."""
        if self.eps_bjorck is None or self.beta_bjorck is None:
            return False
        return math.isclose(self.beta_bjorck, 0.5)

    def retract(self, matrix):
        """The nearest orthogonal matrix of a kernel that an update has moved; no gradient.

        Args:
            matrix: as for `project`, in at least float32.

        Raises:
            ValueError: singular values are to stay apart (`is_retracting` says whether they are).
        """
        if self.eps_bjorck is None:
            raise ValueError("`retract` needs a number. Received: eps_bjorck=None.")
        return retracted(matrix, self.eps_bjorck, self.maxiter_bjorck)

    def _unit_norm(self, matrix):
        squarings = squarings_for(min(matrix.shape[-2:]), self.eps_spectral)
        scaled = unit_scale(matrix, axis=(-2, -1))
        bound = spectral_norm_bound(scaled, min(squarings, self.maxiter_spectral))
        return safe_divide(scaled, bound[..., None, None])


@dataclass(frozen=True)
class Frobenius:
    """Euclidean norm 1: of every column (`disjoint_neurons`), or of the whole matrix.

    With `disjoint_neurons` each output is 1-Lipschitz by itself, all of them together are only
    `sqrt(outputs)`-Lipschitz. A zero column stays zero.

    Attributes:
        disjoint_neurons: norms of the columns (True, the default), or of the matrix.

    Example:
        >>> matrix = np.array([[3.0, 0.0], [4.0, 2.0]])
        >>> print(np.round(lip.normalizers.Frobenius().project(matrix), 4))  # columns of norm 1
        [[0.6 0. ]
         [0.8 1. ]]
        >>> whole = lip.normalizers.Frobenius(disjoint_neurons=False).project(matrix)
        >>> round(float(np.linalg.norm(whole)), 4)
        1.0
    """

    disjoint_neurons: bool = True
    is_retracting = False

    def project(self, matrix):
        """`matrix` (rows, outputs) divided by the norms of its columns, or by its own."""
        axis = 0 if self.disjoint_neurons else None
        scaled = unit_scale(at_least_float32(matrix), axis=axis)
        norm = frobenius_norm(scaled, axis=axis, keepdims=True)
        # The sum of squares is rounded: half a dozen units in the last place keep the norm below 1.
        slack = 2.0**-50 if backend.standardize_dtype(scaled.dtype) == "float64" else 2.0**-21
        return safe_divide(scaled, norm * (1 + slack))


@dataclass(frozen=True)
class UnitFrobenius:
    """Frobenius norm 1 of the whole matrix, hence largest singular value at most 1.

    Example:
        >>> projected = lip.normalizers.UnitFrobenius().project(np.array([[3.0, 0.0], [0.0, 4.0]]))
        >>> print(np.round(projected, 4))
        [[0.6 0. ]
         [0.  0.8]]
    """

    is_retracting = False

    def project(self, matrix):
        """`matrix` (rows, outputs) divided by its Frobenius norm."""
        return Frobenius(disjoint_neurons=False).project(matrix)


def _check(owner, name: str, kind: type, is_allowed: Callable, rule: str) -> None:
    """Raises unless an attribute is a number of a kind, in its range, or `None` if that may be."""
    value = getattr(owner, name)
    if value is None and "None" in rule:
        return
    numbers_of_kind = Integral if kind is int else Real
    message = f"`{name}` must be {rule}. Received: {name}={value!r}."
    if not isinstance(value, numbers_of_kind) or isinstance(value, bool):
        raise TypeError(message)
    if not is_allowed(value):
        raise ValueError(message)
    # Configurations hold Python's numbers, not NumPy's.
    object.__setattr__(owner, name, kind(value))


def at_least_float32(tensor):
    """`tensor`, in float32 where it came in a 16-bit type: too coarse to orthogonalise in."""
    dtype = backend.standardize_dtype(tensor.dtype)
    return tensor if dtype in ("float32", "float64") else ops.cast(tensor, "float32")


def flatten_kernel(kernel):
    """The matrix (everything else, last axis) of a kernel.

    Args:
        kernel: tensor (*sizes, inputs, outputs).

    Returns:
        A tensor (everything else, outputs) with the same entries in the same order.

    Example:
        >>> tuple(lip.normalizers.flatten_kernel(np.zeros((3, 3, 2, 8))).shape)  # (patch, outputs)
        (18, 8)
    """
    return ops.reshape(kernel, (-1, kernel.shape[-1]))


def depthwise_matrices(kernel):
    """A matrix (patch, multiplier) for each channel of a kernel (*sizes, channels, multiplier)."""
    return ops.moveaxis(ops.reshape(kernel, (-1, *kernel.shape[-2:])), 1, 0)


def depthwise_kernel(matrices, shape):
    """The kernel of the given shape with these `depthwise_matrices`."""
    return ops.reshape(ops.moveaxis(matrices, 0, 1), shape)


def check_lipschitz_factor(k, name: str = "k_coef_lip") -> float:
    """`k` as a Python float.

    Args:
        k: the factor.
        name: of the argument, for the message.

    Returns:
        The factor, a positive finite Python float.

    Raises:
        TypeError: not a number.
        ValueError: not positive or not finite.

    Example:
        >>> lip.normalizers.check_lipschitz_factor(2)
        2.0
        >>> lip.normalizers.check_lipschitz_factor(-1.0)
        Traceback (most recent call last):
            ...
        ValueError: `k_coef_lip` must be positive and finite. Received: k_coef_lip=-1.0.
    """
    try:
        value = float(k)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be a positive number. Received: {name}={k!r}.") from error
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be positive and finite. Received: {name}={k!r}.")
    return value
