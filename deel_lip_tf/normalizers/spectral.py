"""Orthogonal kernels: all singular values equal to 1, or the largest one alone."""

import math
from dataclasses import dataclass, replace

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.normalizers.numerics.arithmetic import safe_divide, unit_scale
from deel_lip_tf.normalizers.numerics.norm_bounds import spectral_norm_bound, squarings_for
from deel_lip_tf.normalizers.parametrization import (
    MatrixParametrization,
    at_least_float32,
    check_field,
    named,
)
from deel_lip_tf.normalizers.polar.cubics import bjorck_cubics, polar_factor
from deel_lip_tf.normalizers.polar.factor import nearest_orthogonal, retracted

DEFAULT_EPS_SPECTRAL = 1e-3
DEFAULT_EPS_BJORCK = 1e-3
DEFAULT_BETA_BJORCK = 0.5
DEFAULT_MAXITER_SPECTRAL = 10
DEFAULT_MAXITER_BJORCK = 15
GAINS = ("counted", "measured")


@named("spectral")
@register
@dataclass(frozen=True)
class Spectral(MatrixParametrization):
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
        gain: what convolutions are divided by: `"counted"`, the square root of the number of
            patches that share a pixel, or `"measured"`, an upper bound on the norm of the
            convolution with the projected kernel, where that is smaller.

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
    gain: str = "counted"
    is_scale_free = True

    def __post_init__(self):
        apart = "or None to keep the singular values apart"
        check_field(self, "eps_spectral", float, lambda x: x > 0, "a number > 0")
        check_field(self, "eps_bjorck", float, lambda x: x > 0, f"a number > 0, {apart}")
        check_field(self, "beta_bjorck", float, lambda x: 0 < x <= 0.5, f"in ]0, 0.5], {apart}")
        for name in ("maxiter_spectral", "maxiter_bjorck"):
            check_field(self, name, int, lambda x: x >= 1, "an integer of at least 1")
        if self.gain not in GAINS:
            raise ValueError(f"`gain` must be one of {GAINS}. Received: gain={self.gain!r}.")

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

    def bound(self, kernel, operation):
        """The square root of the number of patches, or, if `gain` says so, what is measured."""
        if not self._is_measured(operation):
            return super().bound(kernel, operation)
        measured = operation.norm_bound(kernel)
        measured = ops.where(measured > 0, measured, ops.ones_like(measured))
        everywhere = replace(operation, sizes=(None,) * len(operation.sizes))
        return ops.minimum(measured, math.sqrt(math.prod(everywhere.patch_counts)))

    def reuse(self, operation):
        """For each spatial axis, the largest number of patches that share an element.

        What is measured depends on the sizes as `operation.excess` does.
        """
        return operation.excess if self._is_measured(operation) else super().reuse(operation)

    def _is_measured(self, operation) -> bool:
        return self.gain == "measured" and bool(operation.kernel_size)

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
