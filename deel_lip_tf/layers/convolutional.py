"""Convolutions with a bounded kernel."""

import math

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.layers.base import NO_LORA, ConstrainedKernel
from deel_lip_tf.layers.padding import (
    extend,
    extended_shape,
    padded_model,
    spatial_axes,
    standardize_padding,
)
from deel_lip_tf.normalizers import (
    Spectral,
    UnitFrobenius,
    max_duplication,
    transposed_max_duplication,
)
from deel_lip_tf.normalizers.convolution import EXTENDING

_ONE = (None, 1, (1, 1))
_NO_DILATION = {
    "dilation_rate": (_ONE, "Use a larger kernel, or strides, and dilation_rate=1."),
    **NO_LORA,
}
_NO_GROUPS = {
    "groups": ((None, 1), "Use one layer for each group of channels, and concatenate."),
    **_NO_DILATION,
}


class _CountedGain(ConstrainedKernel):
    """A gain from how many patches share a pixel, fixed by the shape the layer is built for."""

    _counts: tuple = ()

    def _axis_counts(self, sizes: tuple) -> tuple:
        """For each spatial axis of the given sizes, the largest number of patches on an element."""
        raise NotImplementedError

    def _sizes(self, shape: tuple) -> tuple:
        return tuple(shape[axis] for axis in spatial_axes(self.data_format))

    def _compute_gain(self, input_shape: tuple) -> float:
        self._counts = self._axis_counts(self._sizes(input_shape))
        return 1 / math.sqrt(math.prod(self._counts))

    def _check_size(self, shape: tuple) -> None:
        """Refuses a size at which a pixel is shared by more patches than the gain allows for."""
        sizes = self._sizes(shape)
        if None in sizes:
            return
        counts = self._axis_counts(sizes)
        if any(now > built for now, built in zip(counts, self._counts, strict=True)):
            raise ValueError(
                f"Layer {self.name!r} was built for inputs of shape {self._built_shape}, and its "
                f"bound holds where a pixel lies in at most {self._counts} patches along the axes. "
                f"Received an input of shape {tuple(shape)}, where it lies in up to {counts}. "
                "Build the layer for this size, or with None for the sizes that vary."
            )


class ConstrainedConv2D(_CountedGain, keras.layers.Conv2D):
    """The family of convolutions: `activation(conv2d(pad(x), effective_kernel) + bias)`."""

    plain_class = keras.layers.Conv2D

    _refused = _NO_GROUPS

    def __init__(self, filters: int, kernel_size, strides=(1, 1), padding: str = "same", **kwargs):
        padding = standardize_padding(padding, type(self).__name__)
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding="valid" if padding in EXTENDING else padding,
            **kwargs,
        )
        self.padding = padding

    def _axis_counts(self, sizes: tuple) -> tuple:
        axes = zip(sizes, self.kernel_size, self.strides, strict=True)
        return tuple(max_duplication(*axis, self.padding) for axis in axes)

    @property
    def _keras_padding(self) -> str:
        return "valid" if self.padding in EXTENDING else self.padding

    def _apply_kernel(self, inputs, kernel):
        self._check_size(inputs.shape)
        return ops.conv(
            extend(inputs, self.kernel_size, self.padding, self.data_format),
            kernel,
            strides=self.strides,
            padding=self._keras_padding,
            data_format=self.data_format,
        )

    def compute_output_shape(self, input_shape):
        """Shape of the output, `(batch, rows, columns, filters)` with channels last."""
        if self.padding not in EXTENDING:
            return super().compute_output_shape(input_shape)
        shape = list(input_shape)
        for axis, stride in zip(spatial_axes(self.data_format), self.strides, strict=True):
            shape[axis] = None if shape[axis] is None else -(-shape[axis] // stride)
        shape[-1 if self.data_format == "channels_last" else 1] = self.filters
        return tuple(shape)

    def _plain_config(self) -> dict:
        return {**super()._plain_config(), "padding": self._keras_padding}

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.Conv2D` with the effective kernel.

        For the paddings Keras has not got, a small Keras model of the same name that pads first.
        """
        plain = super().vanilla_export()
        if self.padding not in EXTENDING or not self.built:
            return plain
        return padded_model(plain, self.padding, self._built_shape, self.name)

    def _plain_input_shape(self) -> tuple:
        return extended_shape(self._built_shape, self.kernel_size, self.padding, self.data_format)


class ConstrainedConv2DTranspose(_CountedGain, keras.layers.Conv2DTranspose):
    """The family of transposed convolutions, adjoints of the convolutions with the same kernel.

    The kernel (rows, columns, filters, inputs) is that of the adjoint convolution from `filters`
    to `inputs` channels, so its last axis is the one to flatten around here too.
    """

    plain_class = keras.layers.Conv2DTranspose

    _refused = _NO_DILATION

    def __init__(self, filters: int, kernel_size, strides=(1, 1), padding: str = "same", **kwargs):
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=_zero_padding(padding, type(self).__name__),
            **kwargs,
        )

    def _axis_counts(self, sizes: tuple) -> tuple:
        axes = zip(sizes, self.kernel_size, self.strides, strict=True)
        return tuple(transposed_max_duplication(*axis) for axis in axes)

    def _apply_kernel(self, inputs, kernel):
        self._check_size(inputs.shape)
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
        )


def _zero_padding(padding, layer_name: str) -> str:
    name = standardize_padding(padding, layer_name)
    if name in EXTENDING:
        raise ValueError(
            f'`padding` of {layer_name} must be "same" or "valid". Received: padding={padding!r}. '
            "Pad the output's neighbourhood with a convolution after it instead."
        )
    return name


@register
class SpectralConv2D(ConstrainedConv2D):
    """Convolution whose flattened kernel has all its singular values equal.

    `y = activation(conv2d(pad(x), W) + bias)` where `W`, flattened to (patch, filters), is
    `k_coef_lip / sqrt(m)` times the orthogonal matrix nearest to the raw kernel, and `m` is the
    largest number of patches that share a pixel, counted for the padding, the strides and the size
    the layer is built for. The layer is `k_coef_lip`-Lipschitz for any finite raw kernel, provided
    that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output.
        kernel_size: an integer or a pair.
        strides: an integer or a pair.
        padding: `"same"` or `"valid"` as in Keras, or `"circular"`, `"symmetric"`, `"reflect"`,
            `"replicate"`, which extend the image by `(k - 1) // 2` pixels in front and `k // 2`
            behind, so that stride 1 keeps its size.
        activation: as in `keras.layers.Conv2D`; a layer such as `GroupSort2()` is fine.
        use_bias: whether to add a bias.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant, 1 by default.
        eps_spectral: see `deel_lip_tf.normalizers.Spectral`.
        eps_bjorck: likewise; `None` divides by a bound of the norm instead of orthogonalising.
        beta_bjorck: likewise.
        maxiter_spectral: likewise.
        maxiter_bjorck: likewise.
        **kwargs: every other argument of `keras.layers.Conv2D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Source: the reshaped kernel of Cisse et al., 2017, arXiv:1704.08847; the count of patches in
    place of the average of Serrurier et al., 2021, arXiv:2006.06520, which is not an upper bound.
    """

    parametrization_class = Spectral


@register
class FrobeniusConv2D(ConstrainedConv2D):
    """Convolution whose kernel is divided by its Frobenius norm.

    `W = k_coef_lip / sqrt(m) * kernel / ||kernel||_F` with `m` as in `SpectralConv2D`; the layer
    is `k_coef_lip`-Lipschitz, and usually much less.

    Args:
        filters: number of channels of the output.
        kernel_size: an integer or a pair.
        strides: an integer or a pair.
        padding: as in `SpectralConv2D`.
        activation: as in `keras.layers.Conv2D`.
        use_bias: whether to add a bias.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant, 1 by default.
        **kwargs: as in `SpectralConv2D`.

    Raises:
        ValueError: as in `SpectralConv2D`.
    """

    parametrization_class = UnitFrobenius


@register
class SpectralConv2DTranspose(ConstrainedConv2DTranspose):
    """Transposed convolution whose flattened kernel has all its singular values equal.

    The adjoint of a `SpectralConv2D`-like convolution: the kernel (rows, columns, filters, inputs)
    is flattened to (rows * columns * filters, inputs), and the gain is `1 / sqrt(m)` with `m` the
    largest number of inputs that one output pixel receives from. `k_coef_lip`-Lipschitz for any
    finite raw kernel, provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output.
        kernel_size: an integer or a pair.
        strides: an integer or a pair.
        padding: `"same"` or `"valid"`.
        activation: as in `keras.layers.Conv2DTranspose`.
        use_bias: whether to add a bias.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant, 1 by default.
        eps_spectral: see `deel_lip_tf.normalizers.Spectral`.
        eps_bjorck: likewise; `None` divides by a bound of the norm instead of orthogonalising.
        beta_bjorck: likewise.
        maxiter_spectral: likewise.
        maxiter_bjorck: likewise.
        **kwargs: every other argument of `keras.layers.Conv2DTranspose` (`output_padding`
            included), except dilation.

    Raises:
        ValueError: dilation, or a padding other than the two.
    """

    parametrization_class = Spectral
