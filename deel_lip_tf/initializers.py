"""Initializers that start a kernel on the set its layer projects onto."""

import math

import keras
from keras import backend, initializers, ops

from deel_lip_tf._lazy import public_names
from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf._validation.signatures import Described
from deel_lip_tf.normalizers import (
    DEFAULT_BETA_BJORCK,
    DEFAULT_EPS_BJORCK,
    DEFAULT_EPS_SPECTRAL,
    Spectral,
    check_lipschitz_factor,
    flatten_kernel,
)
from deel_lip_tf.normalizers.operation import depthwise_kernel, depthwise_matrices
from deel_lip_tf.normalizers.polar.lapack import by_lapack

__all__ = ["CenteredInitializer", "IBPInitializer", "ResidualInitializer", "SpectralInitializer"]

__dir__ = public_names(__name__)


@register
class SpectralInitializer(Described, keras.initializers.Initializer):
    """Draws a kernel and projects it: singular values `k_coef_lip` of the flattened kernel.

    The kernel is flattened to (everything else, last axis). The gain of a convolution is not
    included: the layer applies it.

    Args:
        eps_spectral: by how much, relatively, the bound of the norm may exceed the norm where only
            the norm is divided out: positive, 1e-3 by default.
        eps_bjorck: how far from 1 the singular values may end: positive, 1e-3 by default; `None`
            divides by the bound of the norm only.
        beta_bjorck: step of Björck's iteration, in ]0, 1/2], 1/2 by default; `None` does as
            `eps_bjorck=None`.
        k_coef_lip: factor of the result, and every singular value of it: positive, 1 by default.
        base_initializer: what draws the kernel: a Keras initializer, its name or its config;
            "orthogonal" by default.
        depthwise: whether the kernel is (*sizes, channels, multiplier) and each channel of it is
            projected by itself, flattened to (patch, multiplier); False by default.

    Raises:
        TypeError, ValueError: a parameter outside its range.

    Example:
        >>> kernel = lip.initializers.SpectralInitializer(k_coef_lip=2.0)((3, 3, 2, 4))
        >>> matrix = np.reshape(kernel, (-1, 4))
        >>> print(np.linalg.svd(matrix, compute_uv=False).round(3))
        [2. 2. 2. 2.]
    """

    def __init__(
        self,
        eps_spectral: float = DEFAULT_EPS_SPECTRAL,
        eps_bjorck: float | None = DEFAULT_EPS_BJORCK,
        beta_bjorck: float | None = DEFAULT_BETA_BJORCK,
        k_coef_lip: float = 1.0,
        base_initializer="orthogonal",
        depthwise: bool = False,
    ):
        self.parametrization = Spectral(eps_spectral, eps_bjorck, beta_bjorck)
        self.k_coef_lip = check_lipschitz_factor(k_coef_lip)
        self.base_initializer = _base(base_initializer)
        self.depthwise = flag("depthwise", depthwise)

    def __call__(self, shape, dtype=None):
        """A kernel of the given shape, of at least two axes, and of a floating type.

        Raises:
            ValueError: another shape or type, or an axis of size 0.
        """
        dtype = _checked_type(self, shape, dtype)
        kernel = self.base_initializer(shape, dtype=_drawn_type(dtype))
        with by_lapack():
            if self.depthwise:
                matrices = self.parametrization.project(depthwise_matrices(kernel))
                projected = depthwise_kernel(matrices, shape)
            else:
                projected = ops.reshape(self.parametrization.project(flatten_kernel(kernel)), shape)
        return ops.cast(self.k_coef_lip * projected, dtype)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {
            "eps_spectral": self.parametrization.eps_spectral,
            "eps_bjorck": self.parametrization.eps_bjorck,
            "beta_bjorck": self.parametrization.beta_bjorck,
            "k_coef_lip": self.k_coef_lip,
            "base_initializer": initializers.serialize(self.base_initializer),
            "depthwise": self.depthwise,
        }


@register
class CenteredInitializer(Described, keras.initializers.Initializer):
    """Draws the middle of a kernel, a matrix, and leaves zeros around it.

    The convolution then applies one matrix to the channels of each pixel: with an orthogonal one it
    is an isometry, or the adjoint of one. A kernel without spatial axes is the matrix itself.

    Args:
        base_initializer: what draws the matrix (inputs, outputs): a Keras initializer, its name or
            its config, `"identity"` for example.

    Raises:
        ValueError: `base_initializer` is none.

    Example:
        >>> from deel_lip_tf.initializers import CenteredInitializer
        >>> kernel = CenteredInitializer("identity")((3, 3, 2, 2))
        >>> kernel[1, 1].numpy().tolist(), float(abs(kernel.numpy()).sum())
        ([[1.0, 0.0], [0.0, 1.0]], 2.0)

    Source: for almost-orthogonal layers Prach and Lampert, 2022, arXiv:2208.03160.
    """

    def __init__(self, base_initializer="orthogonal"):
        self.base_initializer = _base(base_initializer)

    def __call__(self, shape, dtype=None):
        """A kernel (*sizes, inputs, outputs) of a floating type.

        Raises:
            ValueError: another shape or type, or an axis of size 0.
        """
        dtype = _checked_type(self, shape, dtype)
        matrix = self.base_initializer(shape[-2:], dtype=_drawn_type(dtype))
        matrix = ops.reshape(ops.cast(matrix, dtype), (*[1] * (len(shape) - 2), *shape[-2:]))
        around = [((k - 1) // 2, k // 2) for k in shape[:-2]]
        return ops.pad(matrix, [*around, (0, 0), (0, 0)])

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"base_initializer": initializers.serialize(self.base_initializer)}


class _OfInputs(Described, keras.initializers.Initializer):
    """Normal entries, whose standard deviation is a number over the inputs of an output."""

    times_inputs: float

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, shape, dtype=None):
        """A kernel (*sizes, inputs, outputs) of a floating type.

        Raises:
            ValueError: another shape or type, or an axis of size 0.
        """
        dtype = _checked_type(self, shape, dtype)
        deviation = self.times_inputs / math.prod(shape[:-1])
        normal = initializers.RandomNormal(stddev=deviation, seed=self.seed)
        return ops.cast(normal(shape, dtype=_drawn_type(dtype)), dtype)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"seed": self.seed}


@register
class ResidualInitializer(_OfInputs):
    """Normal entries over the number of inputs of an output: small beside an identity.

    The standard deviation is `1 / (rows * columns * channels)` for a convolution and `1 / inputs`
    for a matrix; the norm is about twice the square root of it for a square matrix.

    Args:
        seed: of the draws; `None`, the default, for other draws each time.

    Example:
        >>> from deel_lip_tf.initializers import ResidualInitializer
        >>> kernel = ResidualInitializer(seed=0)((3, 3, 16, 16))
        >>> abs(float(np.std(kernel)) * 9 * 16 - 1) < 0.1
        True

    Source: for linear residual layers Hu et al., 2023, arXiv:2301.12549.
    """

    times_inputs = 1.0


@register
class IBPInitializer(_OfInputs):
    """Normal entries under which intervals neither grow nor shrink from layer to layer of a ReLU.

    The standard deviation is `sqrt(2 pi) / n` with `n` the number of inputs of an output: half of
    the expected sum of absolute values of a row is then 1, which is what a layer and a ReLU make of
    the width of an interval. Under Keras's own initializers it grows with the root of `n` in each
    layer, which training with bounds has to undo first.

    Args:
        seed: of the draws; `None`, the default, for other draws each time.

    Example:
        >>> from deel_lip_tf.initializers import IBPInitializer
        >>> kernel = np.asarray(IBPInitializer(seed=0)((400, 100)))
        >>> abs(float(np.abs(kernel).sum(axis=0).mean()) - 2) < 0.1
        True

    Source: for certified training with short schedules Shi et al., 2021, arXiv:2103.17268.
    """

    times_inputs = math.sqrt(2.0 * math.pi)


def _base(base_initializer):
    found = initializers.get(base_initializer)
    if found is None:
        raise ValueError(
            "`base_initializer` must be a Keras initializer, its name or its config. "
            "Received: base_initializer=None. Leave it out for an orthogonal one."
        )
    return found


def _checked_type(initializer, shape, dtype) -> str:
    if not isinstance(shape, list | tuple) or len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"{type(initializer).__name__} needs a `shape` of at least two axes, none of them "
            f"empty: a vector has one singular value. Received: shape={shape!r}. Use another "
            "initializer for it."
        )
    dtype = backend.standardize_dtype(dtype)
    if not backend.is_float_dtype(dtype):
        raise ValueError(
            "`dtype` must be a floating type: entries of orthogonal kernels are below 1. "
            f"Received: dtype={dtype!r}."
        )
    return dtype


def _drawn_type(dtype: str) -> str:
    """At least float32: Keras's orthogonal initializer knows no 16-bit types."""
    return "float64" if dtype == "float64" else "float32"
