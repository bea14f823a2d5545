"""Poolings scaled so that their Lipschitz constant is reached, not merely respected."""

import math

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.constructors import BesideLayer
from deel_lip_tf._validation.scalars import Rule, flag, number
from deel_lip_tf._validation.shapes import check_sizes
from deel_lip_tf.layers.base import LipschitzLayer, operation_export, rescaled_export
from deel_lip_tf.layers.compiled.window_norms import can_compile_norms, compiled_norms
from deel_lip_tf.layers.convolution.padding import spatial_axes
from deel_lip_tf.normalizers import safe_sqrt


class _ScaledPooling2D(LipschitzLayer, keras.layers.AveragePooling2D):
    """Poolings over windows that do not overlap."""

    def __init__(
        self,
        pool_size=(2, 2),
        strides=None,
        padding: str = "valid",
        data_format: str | None = None,
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(
            pool_size=pool_size, strides=strides, padding=padding, data_format=data_format, **kwargs
        )
        _check_windows(type(self).__name__, self.pool_size, self.strides, padding)
        self.padding = padding.lower()
        self.set_klip_factor(k_coef_lip)
        # Keras marks poolings as built at once; the shape is wanted for the export.
        self.built = False

    def build(self, input_shape):
        """Checks that there is a window."""
        check_sizes(self, input_shape, self.pool_size)
        self.built = True

    def _mean(self, inputs):
        return ops.average_pool(
            inputs,
            self.pool_size,
            strides=self.strides,
            padding="valid",
            data_format=self.data_format,
        )


def _check_windows(name: str, pool_size: tuple, strides: tuple, padding: str) -> None:
    if strides != pool_size:
        raise ValueError(
            f"`strides` of {name} must be equal to `pool_size`: overlapping windows are not "
            f"1-Lipschitz with this factor. Received: strides={strides}, pool_size={pool_size}. "
            "Leave `strides` out."
        )
    if not isinstance(padding, str) or padding.lower() != "valid":
        raise ValueError(
            f'{name} only supports padding="valid". Received: padding={padding!r}. '
            "Put a keras.layers.ZeroPadding2D before it."
        )


@register
class ScaledAveragePooling2D(_ScaledPooling2D):
    """Average over windows, times `k_coef_lip * sqrt(window size)`.

    `k_coef_lip`-Lipschitz; a constant window reaches it.

    Args:
        pool_size: size of the windows, an integer or a pair.
        strides: `None`, or the same as `pool_size`.
        padding: `"valid"`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Input shape: `(batch, rows, columns, channels)`, or channels first.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: overlapping windows, or another padding.

    Example:
        >>> layer = lip.layers.ScaledAveragePooling2D((2, 2))
        >>> x = np.ones((1, 4, 4, 1))
        >>> y = layer(x)
        >>> print(np.asarray(y)[0, :, :, 0])
        [[2. 2.]
         [2. 2.]]
        >>> float(np.linalg.norm(y) / np.linalg.norm(x))  # a constant image reaches the constant
        1.0
    """

    @property
    def _factor(self) -> float:
        return self.k_coef_lip * math.sqrt(math.prod(self.pool_size))

    def call(self, inputs):
        """The scaled average."""
        return self._mean(inputs) * self._factor

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name: `AveragePooling2D`, then `Rescaling`."""
        plain = keras.layers.AveragePooling2D.from_config(
            keras.layers.AveragePooling2D.get_config(self)
        )
        return rescaled_export(self, plain, self._factor)


class _RootOfSquares(BesideLayer):
    """Mixin: the Euclidean norm, forward and gradient exact, gradient 0 at 0."""

    _own_arguments: tuple[str, ...] = ("eps_grad_sqrt",)

    def __init__(self, *, eps_grad_sqrt: float = 1e-6, **kwargs):
        rule = "at least 0 (it has no effect here: leave it out)"
        eps_grad_sqrt = number("eps_grad_sqrt", eps_grad_sqrt, Rule(lambda eps: eps >= 0, rule))
        super().__init__(**kwargs)
        self.eps_grad_sqrt = eps_grad_sqrt

    def _norm(self, inputs):
        raise NotImplementedError

    def call(self, inputs):
        """The scaled norm."""
        return self._norm(inputs)

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name, of Keras's own operations."""
        return operation_export(self, self._norm)


@register
class ScaledL2NormPooling2D(_RootOfSquares, _ScaledPooling2D):
    """Euclidean norm of each window, times `k_coef_lip`.

    `sqrt(sum of x**2)`, exactly; its gradient is exact too, and 0 where the window is 0.
    `k_coef_lip`-Lipschitz, and it preserves the norm of gradients.

    Args:
        pool_size: size of the windows, an integer or a pair.
        strides: `None`, or the same as `pool_size`.
        padding: `"valid"`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        eps_grad_sqrt: at least 0, 1e-6 by default; accepted for users of deel-lip, which smooths
            the root near 0 by it: here the gradient is finite without it.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Input shape: `(batch, rows, columns, channels)`, or channels first.

    Raises:
        TypeError: `k_coef_lip` or `eps_grad_sqrt` is not a number.
        ValueError: overlapping windows, another padding, a negative `eps_grad_sqrt`.

    Example:
        >>> x = np.array([[3.0, 0.0], [0.0, 4.0]]).reshape(1, 2, 2, 1)
        >>> y = lip.layers.ScaledL2NormPooling2D((2, 2))(x)
        >>> tuple(y.shape), float(np.linalg.norm(y)), float(np.linalg.norm(x))
        ((1, 1, 1, 1), 5.0, 5.0)

    Source: Boureau, Ponce, LeCun, 2010, "A theoretical analysis of feature pooling".
    """

    def __init__(
        self,
        pool_size=(2, 2),
        strides=None,
        padding: str = "valid",
        data_format: str | None = None,
        k_coef_lip: float = 1.0,
        eps_grad_sqrt: float = 1e-6,
        **kwargs,
    ):
        super().__init__(
            pool_size=pool_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            k_coef_lip=k_coef_lip,
            eps_grad_sqrt=eps_grad_sqrt,
            **kwargs,
        )

    def call(self, inputs, training=None):
        """The scaled norm of each window."""
        if can_compile_norms(inputs, training, self.data_format):
            return compiled_norms(inputs, self.pool_size, self.k_coef_lip)
        return self._norm(inputs)

    def _norm(self, inputs):
        factor = self.k_coef_lip * math.sqrt(math.prod(self.pool_size))
        return safe_sqrt(self._mean(ops.square(inputs))) * factor


class _ScaledGlobalPooling2D(LipschitzLayer, keras.layers.GlobalAveragePooling2D):
    """Poolings over whole images."""

    def __init__(
        self,
        data_format: str | None = None,
        k_coef_lip: float = 1.0,
        *,
        keepdims: bool = False,
        **kwargs,
    ):
        super().__init__(data_format=data_format, keepdims=flag("keepdims", keepdims), **kwargs)
        self.set_klip_factor(k_coef_lip)
        self.built = False

    def build(self, input_shape):
        """Checks that there are pixels."""
        check_sizes(self, input_shape, (1, 1))
        self.built = True

    @property
    def _axes(self) -> tuple:
        return spatial_axes(self.data_format)


@register
class ScaledGlobalAveragePooling2D(_ScaledGlobalPooling2D):
    """Average over the image, times `k_coef_lip * sqrt(rows * columns)`.

    `k_coef_lip`-Lipschitz at every size; a constant image reaches it.

    Args:
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        keepdims: whether to keep the spatial axes, with size 1; False by default.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Input shape: `(batch, rows, columns, channels)`, or channels first. Output shape:
    `(batch, channels)`.

    Raises:
        TypeError: `k_coef_lip` is not a number, or `keepdims` not a boolean.
        ValueError: an input that is no batch of images, an unknown `data_format`, or `k_coef_lip`
            is not positive and finite.

    Example:
        >>> layer = lip.layers.ScaledGlobalAveragePooling2D()
        >>> x = np.ones((1, 3, 3, 2))
        >>> print(np.asarray(layer(x)))  # the average times sqrt(9)
        [[3. 3.]]
        >>> bool(np.isclose(np.linalg.norm(layer(x)), np.linalg.norm(x)))
        True
    """

    def _factor(self, shape):
        pixels = [shape[axis] for axis in self._axes]
        if all(isinstance(size, int) for size in pixels):
            return self.k_coef_lip * math.sqrt(math.prod(pixels))
        return self.k_coef_lip * ops.sqrt(ops.cast(ops.prod(pixels), self.compute_dtype))

    def call(self, inputs):
        """The scaled average."""
        return super().call(inputs) * self._factor(ops.shape(inputs))

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name: `GlobalAveragePooling2D`, then `Rescaling`."""
        shape = self.get_build_config()["input_shape"] if self.built else (None,) * 4
        if None in [shape[axis] for axis in self._axes]:
            return super().vanilla_export()
        plain = keras.layers.GlobalAveragePooling2D.from_config(
            keras.layers.GlobalAveragePooling2D.get_config(self)
        )
        return rescaled_export(self, plain, self._factor(shape))


@register
class ScaledGlobalL2NormPooling2D(_RootOfSquares, _ScaledGlobalPooling2D):
    """Euclidean norm over the image, times `k_coef_lip`.

    `sqrt(sum of x**2)` of each channel, exactly; its gradient is exact too, and 0 where the channel
    is 0. `k_coef_lip`-Lipschitz at every size, and it preserves the norm of gradients.

    Args:
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        eps_grad_sqrt: at least 0, 1e-6 by default; accepted for users of deel-lip and without
            effect: the gradient is finite without it.
        keepdims: whether to keep the spatial axes, with size 1; False by default.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Input shape: `(batch, rows, columns, channels)`, or channels first. Output shape:
    `(batch, channels)`.

    Raises:
        TypeError: `k_coef_lip` or `eps_grad_sqrt` is not a number.
        ValueError: a negative `eps_grad_sqrt`.

    Example:
        >>> x = np.arange(18.0).reshape(1, 3, 3, 2)
        >>> y = lip.layers.ScaledGlobalL2NormPooling2D()(x)
        >>> tuple(y.shape), bool(np.isclose(np.linalg.norm(y), np.linalg.norm(x)))
        ((1, 2), True)
    """

    def __init__(
        self,
        data_format: str | None = None,
        k_coef_lip: float = 1.0,
        eps_grad_sqrt: float = 1e-6,
        **kwargs,
    ):
        super().__init__(
            data_format=data_format, k_coef_lip=k_coef_lip, eps_grad_sqrt=eps_grad_sqrt, **kwargs
        )

    def _norm(self, inputs):
        squares = ops.sum(ops.square(inputs), axis=self._axes, keepdims=self.keepdims)
        return safe_sqrt(squares) * self.k_coef_lip


class _AdaptivePooling2D(BesideLayer):
    """Mixin: the global poolings under the name and arguments of adaptive ones."""

    def __init__(self, output_size=(1, 1), data_format=None, k_coef_lip: float = 1.0, **kwargs):
        given = tuple(output_size) if isinstance(output_size, list | tuple) else (output_size,) * 2
        if given != (1, 1):
            raise ValueError(
                f"`output_size` of {type(self).__name__} must be 1 or (1, 1): larger ones pool "
                f"windows that may overlap. Received: output_size={output_size}. For windows that "
                "do not, use ScaledAveragePooling2D or ScaledL2NormPooling2D with a `pool_size`."
            )
        kwargs = {**self._keyword_defaults(), **kwargs}
        super().__init__(data_format=data_format, k_coef_lip=k_coef_lip, **kwargs)

    @classmethod
    def _keyword_defaults(cls) -> dict:
        return {"keepdims": True}


@register
class ScaledAdaptiveAveragePooling2D(_AdaptivePooling2D, ScaledGlobalAveragePooling2D):
    """`ScaledGlobalAveragePooling2D` that keeps the spatial axes, with size 1.

    The average over the image, times `k_coef_lip * sqrt(rows * columns)`; `k_coef_lip`-Lipschitz.

    Args:
        output_size: 1 or (1, 1); there is no other.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `keepdims`, True by default here; `name`, `dtype` and `trainable`.

    Input shape: `(batch, rows, columns, channels)`, or channels first. Output shape:
    `(batch, 1, 1, channels)`.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: another `output_size`.

    Example:
        >>> y = lip.layers.ScaledAdaptiveAveragePooling2D()(np.ones((1, 3, 3, 2)))
        >>> tuple(y.shape), float(y[0, 0, 0, 0])
        ((1, 1, 1, 2), 3.0)
    """


@register
class ScaledAdaptiveL2NormPooling2D(_AdaptivePooling2D, ScaledGlobalL2NormPooling2D):
    """`ScaledGlobalL2NormPooling2D` that keeps the spatial axes, with size 1.

    The Euclidean norm over the image, times `k_coef_lip`; `k_coef_lip`-Lipschitz.

    Args:
        output_size: 1 or (1, 1); there is no other.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: `keepdims`, True by default here; `eps_grad_sqrt`; `name`, `dtype` and
            `trainable`.

    Input shape: `(batch, rows, columns, channels)`, or channels first. Output shape:
    `(batch, 1, 1, channels)`.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: another `output_size`.

    Example:
        >>> y = lip.layers.ScaledAdaptiveL2NormPooling2D()(np.ones((1, 3, 3, 2)))
        >>> tuple(y.shape), float(y[0, 0, 0, 0])
        ((1, 1, 1, 2), 3.0)
    """
