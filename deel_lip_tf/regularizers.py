"""Penalties that pull a kernel towards orthogonality; they guarantee nothing."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable

import keras
from keras import ops

from deel_lip_tf._lazy import public_names
from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import NOT_NEGATIVE, Rule, flag, number, whole_number
from deel_lip_tf._validation.signatures import Described
from deel_lip_tf.normalizers import flatten_kernel
from deel_lip_tf.normalizers.numerics.norm_bounds import smaller_gram
from deel_lip_tf.normalizers.parametrization import at_least_float32

__all__ = ["Lorth", "Lorth2D", "LorthRegularizer", "OrthDenseRegularizer"]

__dir__ = public_names(__name__)

_WEIGHT = Rule(NOT_NEGATIVE.is_allowed, "finite, and at least 0 to pull towards orthogonality")


class Lorth(ABC):
    """Base of the distances of a convolution's kernel from the orthogonal convolutions.

    Holds what any number of spatial axes has in common: the checks of the shape and the factor
    that bounds the singular values by the distance. A subclass computes the distance.

    Args:
        dim: number of spatial axes.
        kernel_shape: `(*sizes, C, M)`; `None` takes the shape of each kernel it is given.
        stride: of the convolution.
        conv_transpose: whether the kernel is that of a transposed convolution, in Keras's layout
            (*sizes, filters, inputs), so that `C` are the filters and `M` the inputs; False by
            default.

    Raises:
        TypeError: `dim`, `stride` or a size is not an integer, or `conv_transpose` not a boolean.
        ValueError: a kernel of even size or of another number of axes, or a shape for which no
            orthogonal convolution exists (see `Lorth2D`).

    Example:
        >>> class Lorth1D(lip.regularizers.Lorth):
        ...     def compute_lorth(self, w):  # a sequence is an image of one row
        ...         self._shape(w)
        ...         return lip.regularizers.Lorth2D().compute_lorth(w[None])
        >>> float(Lorth1D(dim=1).compute_lorth(np.eye(4)[None, :, :2]))  # orthonormal filters
        0.0
    """

    def __init__(self, dim: int, kernel_shape=None, stride: int = 1, conv_transpose: bool = False):
        self.dim = whole_number("dim", dim)
        self.stride = whole_number("stride", stride)
        self.conv_transpose = flag("conv_transpose", conv_transpose)
        self.set_kernel_shape(kernel_shape)

    @abstractmethod
    def compute_lorth(self, w):
        """The distance, a scalar tensor, of a kernel in Keras's layout."""

    def set_kernel_shape(self, shape) -> None:
        """Fixes the shape of the kernels; `None` for any.

        Raises:
            TypeError, ValueError: as in the constructor.
        """
        if shape is not None:
            if not isinstance(shape, Iterable) or isinstance(shape, str):
                raise TypeError(
                    "`kernel_shape` must be a tuple of integers, or None for any shape. Received: "
                    f"kernel_shape={shape!r}."
                )
            shape = tuple(whole_number("kernel_shape", size) for size in shape)
            self._check(shape)
        self.kernel_shape = shape

    def _check(self, shape: tuple) -> None:
        if len(shape) != self.dim + 2:
            raise ValueError(
                f"Lorth regularizers take kernels (*sizes, inputs, outputs) of {self.dim}-D "
                f"convolutions, `kernel_shape` included. Received: kernel shape {shape}. For a "
                "dense layer use OrthDenseRegularizer."
            )
        *sizes, inputs, outputs = shape
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(
                f"Lorth regularizers require odd kernels. Received: kernel shape {shape}. Use a "
                "kernel with one row or column more or less."
            )
        kind = "CO" if self._is_column_orthogonal(shape) else "RO"
        is_possible = (
            self.stride <= min(sizes) if kind == "CO" else outputs <= inputs * math.prod(sizes)
        )
        if not is_possible:
            raise ValueError(
                f"Impossible {kind} configuration for orthogonal convolution. Received: kernel "
                f"shape {shape} with stride {self.stride}. Use fewer outputs, a larger kernel or a "
                "smaller stride."
            )
        if outputs == self._inputs_per_step(shape):
            warnings.warn(
                f"Lorth with kernel shape {shape} and stride {self.stride}: a square "
                f"configuration, C*S^{self.dim}=M, is hard to optimize.",
                stacklevel=4,
            )

    def _inputs_per_step(self, shape: tuple) -> int:
        return shape[-2] * self.stride**self.dim

    def _is_column_orthogonal(self, shape: tuple) -> bool:
        return shape[-1] > self._inputs_per_step(shape)

    def _shape(self, kernel) -> tuple:
        """The shape of a kernel, checked."""
        if not hasattr(kernel, "shape"):
            raise TypeError(f"The kernel must be a tensor. Received: {kernel!r}.")
        shape = tuple(kernel.shape)
        if self.kernel_shape is None:
            self._check(shape)
        elif shape != self.kernel_shape:
            raise ValueError(
                f"The kernel must have the shape `kernel_shape`={self.kernel_shape}. Received: "
                f"{shape}. Leave `kernel_shape` out to take any."
            )
        return shape

    @property
    def alphaNormSpectral(self) -> float:
        """A factor for which `|sigma**2 - 1| <= sqrt(factor * L(K))` for all singular values.

        With `d` axes, `M prod(2 floor((k - 1) / s) + 1)` where `M <= C s**d`, `C prod(2 k - 1)`
        where `M >= C s**d`; the smaller one where both hold. Of circular convolutions of any size
        that the stride divides.

        Raises:
            ValueError: `kernel_shape` is not set.
        """
        if self.kernel_shape is None:
            raise ValueError(
                "`alphaNormSpectral` needs the shape of the kernel: call `set_kernel_shape` first."
            )
        *sizes, inputs, outputs = self.kernel_shape
        by_rows = outputs * math.prod(2 * ((k - 1) // self.stride) + 1 for k in sizes)
        by_columns = inputs * math.prod(2 * k - 1 for k in sizes)
        if outputs == self._inputs_per_step(self.kernel_shape):
            return float(min(by_rows, by_columns))
        return float(by_columns if self._is_column_orthogonal(self.kernel_shape) else by_rows)


class Lorth2D(Lorth):
    """The distance of a convolution's kernel from the orthogonal convolutions.

    With `conv(K, K)` the correlation of the kernel with itself at the shifts that are multiples of
    the stride, and `I0` the identity at shift 0,

        L(K) = || conv(K, K) - I0 ||_F**2 - max(0, M - C s**2)

    for a kernel (k, k, C, M) and stride s. `L(K)` is at least 0, and 0 exactly where the
    convolution with circular padding has all singular values equal to 1 at every size that `s`
    divides.

    Args:
        kernel_shape: `(rows, columns, C, M)`; `None` takes the shape of each kernel it is given.
        stride: of the convolution.
        conv_transpose: whether the kernel is that of a `Conv2DTranspose`, in Keras's layout
            (rows, columns, filters, inputs). It is the kernel of the adjoint convolution from the
            filters to the inputs, with the same singular values, so `C` are the filters and `M`
            the inputs of the layer.

    Raises:
        ValueError: a kernel of even size, or a shape for which no orthogonal convolution exists:
            with `M <= C s**2` (orthogonal rows) more outputs than a patch has entries, with
            `M > C s**2` (orthogonal columns) a stride beyond the size of the kernel; a stride or
            size below 1.
        TypeError: `stride` or a size is not an integer, or `conv_transpose` not a boolean.

    Example:
        >>> lorth = lip.regularizers.Lorth2D((3, 3, 4, 2))
        >>> kernel = np.zeros((3, 3, 4, 2))
        >>> kernel[1, 1] = np.eye(4)[:, :2]
        >>> float(lorth.compute_lorth(kernel)), float(lorth.compute_lorth(2.0 * kernel))
        (0.0, 18.0)
        >>> sigma = 2.0  # all singular values of the second
        >>> abs(sigma**2 - 1) <= (lorth.alphaNormSpectral * 18.0) ** 0.5
        True

    Source: Achour, Malgouyres, Mamalet, 2022, "Existence, Stability and Scalability of Orthogonal
    Convolutional Neural Networks", JMLR 23; Wang et al., 2020, arXiv:1911.12207.
    """

    def __init__(self, kernel_shape=None, stride: int = 1, conv_transpose: bool = False):
        super().__init__(2, kernel_shape, stride, conv_transpose)

    def compute_lorth(self, w):
        """`L(w)`, a scalar tensor, of a kernel in Keras's layout."""
        rows, columns, inputs, outputs = self._shape(w)
        kernel = at_least_float32(ops.convert_to_tensor(w))
        reach = [(size - 1) // self.stride * self.stride for size in (rows, columns)]
        images = ops.transpose(kernel, (3, 0, 1, 2))
        images = ops.pad(images, [(0, 0), *[(r, r) for r in reach], (0, 0)])
        products = ops.conv(
            images, kernel, strides=self.stride, padding="valid", data_format="channels_last"
        )
        shifts = [(r // self.stride, r // self.stride) for r in reach]
        identity = ops.eye(outputs, dtype=kernel.dtype)[:, None, None, :]
        target = ops.pad(identity, [(0, 0), *shifts, (0, 0)])
        excess = max(0, outputs - inputs * self.stride**2)
        return ops.sum(ops.square(products - target)) - excess


@register
class LorthRegularizer(Described, keras.regularizers.Regularizer):
    """`lambda_lorth * L(kernel)`, see `Lorth2D`, for the kernel of a 2-D convolution.

    Args:
        kernel_shape: `(rows, columns, inputs, outputs)`; `None`, the default, takes the shape of
            the kernel.
        stride: of the layer.
        lambda_lorth: weight of the penalty.
        dim: 2; there is no other.
        conv_transpose: whether the layer is a `Conv2DTranspose`.

    Raises:
        ValueError: `dim` is not 2; `lambda_lorth` is negative or not finite; a kernel of even size,
            or a shape for which no orthogonal convolution exists (see `Lorth2D`).
        TypeError: `lambda_lorth` is not a number, `stride` or a size not an integer, or
            `conv_transpose` not a boolean.

    Example:
        >>> regularizer = lip.regularizers.LorthRegularizer(lambda_lorth=0.5)
        >>> kernel = np.zeros((3, 3, 4, 2))
        >>> kernel[1, 1] = np.eye(4)[:, :2]
        >>> float(regularizer(kernel)), float(regularizer(2.0 * kernel))
        (0.0, 9.0)
    """

    def __init__(
        self,
        kernel_shape=None,
        stride: int = 1,
        lambda_lorth: float = 1.0,
        dim: int = 2,
        conv_transpose: bool = False,
    ):
        if dim != 2:
            raise ValueError(
                f"`dim` must be 2: only 2D convolutions are supported for Lorth. Received: dim="
                f"{dim}. For a dense layer use OrthDenseRegularizer."
            )
        self.dim = 2
        self.lambda_lorth = number("lambda_lorth", lambda_lorth, _WEIGHT)
        self.lorth = Lorth2D(kernel_shape, stride, conv_transpose)

    def set_kernel_shape(self, shape) -> None:
        """Fixes the shape of the kernel; `None` for any."""
        self.lorth.set_kernel_shape(shape)

    def __call__(self, x):
        """The penalty, a scalar tensor."""
        return self.lambda_lorth * self.lorth.compute_lorth(x)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {
            "kernel_shape": self.lorth.kernel_shape,
            "stride": self.lorth.stride,
            "lambda_lorth": self.lambda_lorth,
            "dim": self.dim,
            "conv_transpose": self.lorth.conv_transpose,
        }


@register
class OrthDenseRegularizer(Described, keras.regularizers.Regularizer):
    """`lambda_orth * ||W'W - I||_F**2`, or with `WW'` where that is smaller.

    `W` is the kernel flattened to (everything else, last axis); 0 exactly where all its singular
    values are 1.

    Args:
        lambda_orth: weight of the penalty.

    Raises:
        TypeError: `lambda_orth` is not a number.
        ValueError: `lambda_orth` is negative or not finite.

    Example:
        >>> regularizer = lip.regularizers.OrthDenseRegularizer(lambda_orth=0.5)
        >>> kernel = np.eye(4)[:, :2]
        >>> float(regularizer(kernel)), float(regularizer(2.0 * kernel))  # 0.5 * 2 * (4 - 1)**2
        (0.0, 9.0)
    """

    def __init__(self, lambda_orth: float = 1.0):
        self.lambda_orth = number("lambda_orth", lambda_orth, _WEIGHT)

    def __call__(self, x):
        """The penalty, a scalar tensor."""
        if not hasattr(x, "shape"):
            raise TypeError(f"The kernel must be a tensor. Received: {x!r}.")
        if len(x.shape) < 2:
            raise ValueError(
                "OrthDenseRegularizer needs a kernel of at least two axes. Received: shape="
                f"{tuple(x.shape)}. Use another regularizer for it."
            )
        gram = smaller_gram(flatten_kernel(at_least_float32(ops.convert_to_tensor(x))))
        identity = ops.eye(gram.shape[0], dtype=gram.dtype)
        return self.lambda_orth * ops.sum(ops.square(gram - identity))

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"lambda_orth": self.lambda_orth}
