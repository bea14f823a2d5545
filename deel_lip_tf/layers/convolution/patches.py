"""What constrained layers that slide a kernel over a sequence or an image share, of any rank."""

import keras
from keras import ops

from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf._validation.shapes import check_sizes, known_size
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.layers.constrained import KERNEL_ARGUMENTS, NO_LORA, ConstrainedKernel
from deel_lip_tf.layers.convolution.padding import (
    Amounts,
    extend,
    extended_shape,
    padded_model,
    spatial_axes,
    standardize_padding,
)
from deel_lip_tf.normalizers import Operation, padding_amounts
from deel_lip_tf.normalizers.convolution import EXTENDING, PADDINGS

_ONE = (None, 1, (1,), (1, 1), (1, 1, 1))
NO_DILATION = {
    "dilation_rate": (_ONE, "Use a larger kernel, or strides, and dilation_rate=1."),
    **NO_LORA,
}
NO_GROUPS = {
    "groups": ((None, 1), "Use one layer for each group of channels, and concatenate."),
    **NO_DILATION,
}


# After filters, size, strides and padding.
OF_CONVOLUTIONS = (
    *("data_format", "dilation_rate", "groups", "activation", "use_bias"),
    *KERNEL_ARGUMENTS,
)


class ConstrainedConvolution(ConstrainedKernel):
    """Mixin of the convolutions: `activation(convolution(pad(x), effective_kernel) + bias)`."""

    _positional: tuple[str, ...] = OF_CONVOLUTIONS
    _refused = NO_GROUPS
    # The argument that says how many channels the output has.
    _width = "filters"
    _is_transposed = False
    # What a parametrization may cover, of what is refused otherwise.
    _coverable: tuple[str, ...] = ("groups", "dilation_rate")

    def __init__(
        self, filters: int, kernel_size, strides=1, padding: str = "same", *args, **kwargs
    ):
        is_sequence = issubclass(self.plain_class, keras.layers.Conv1D)
        allowed = (*PADDINGS, "causal") if is_sequence else PADDINGS
        padding = standardize_padding(padding, type(self).__name__, allowed)
        super().__init__(
            *args,
            kernel_size=kernel_size,
            strides=strides,
            padding="valid" if padding in EXTENDING else padding,
            **{**kwargs, self._width: whole_number(self._width, filters)},
        )
        self.padding = padding

    @classmethod
    def _refused_with(cls, parametrization):
        covered = [name for name in cls._coverable if name in parametrization.covers]
        return {name: rule for name, rule in cls._refused.items() if name not in covered}

    def build(self, input_shape):
        """Creates the weights; the bound is that of this input shape from now on."""
        check_sizes(self, input_shape, (1,) * self.rank)
        known_size(self, input_shape, -1 if self.data_format == "channels_last" else 1)
        super().build(input_shape)

    def _operation_on(self, input_shape: tuple) -> Operation:
        return Operation(
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            sizes=self._sizes(input_shape),
            is_depthwise=isinstance(self, keras.layers.DepthwiseConv2D),
            is_transposed=self._is_transposed,
            groups=self.groups if "groups" in self._coverable else 1,
            dilation=tuple(self.dilation_rate),
        )

    def _sizes(self, shape: tuple) -> tuple:
        return tuple(shape[axis] for axis in spatial_axes(self.data_format, self.rank))

    def _check_size(self, shape: tuple) -> None:
        """Refuses a size at which more is used twice than the bound allows for."""
        if None in self._sizes(shape):
            return
        built = self.parametrization.reuse(self.operation)
        now = self.parametrization.reuse(self._operation_on(shape))
        if any(more > allowed for more, allowed in zip(now, built, strict=True)):
            raise ValueError(
                f"Layer {self.name!r} was built for inputs of shape {self._built_shape}, and its "
                f"bound holds where a pixel is used up to {built} times along the axes. Received "
                f"an input of shape {tuple(shape)}, where it is used up to {now} times. "
                "Build the layer for this size, or with None for the sizes that vary."
            )

    @property
    def _amounts(self) -> Amounts:
        """What the paddings that Keras has not got add to each axis."""
        axes = zip(self.kernel_size, self.dilation_rate, strict=True)
        return tuple(padding_amounts(None, (k - 1) * rate + 1, 1, self.padding) for k, rate in axes)

    def _shape_of(self, sizes: list, input_shape: tuple) -> tuple:
        """Of an output of these sizes."""
        axes = spatial_axes(self.data_format, self.rank)
        shape = dict(zip(axes, sizes, strict=True)) | {0: input_shape[0]}
        channels = self._output_channels(input_shape)
        return tuple(shape.get(axis, channels) for axis in range(self.rank + 2))

    def _output_channels(self, input_shape: tuple) -> int:
        return self.filters

    @staticmethod
    def _convolve(inputs, kernel, **kwargs):
        return ops.conv(inputs, kernel, **kwargs)

    def _apply_kernel(self, inputs, kernel):
        self._check_size(inputs.shape)
        by_keras = self.padding in ("same", "valid")
        if not by_keras:
            inputs = extend(inputs, self._amounts, self.padding, self.data_format)
        return self._convolve(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding if by_keras else "valid",
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def compute_output_shape(self, input_shape):
        """Shape of the output, `(batch, *sizes, channels)` with channels last."""
        if self.padding not in EXTENDING:
            return super().compute_output_shape(input_shape)
        pairs = zip(self._sizes(input_shape), self.strides, strict=True)
        sizes = [None if size is None else -(-size // stride) for size, stride in pairs]
        return self._shape_of(sizes, input_shape)

    def _plain_config(self) -> dict:
        padding = "valid" if self.padding in EXTENDING else self.padding
        return {**super()._plain_config(), "padding": padding}

    def vanilla_export(self) -> keras.layers.Layer:
        """The plain Keras layer, of the same name, with the effective kernel.

        For the paddings Keras has not got, a small Keras model of the same name that pads first;
        Keras records it for known sizes only: built for unknown ones, the layer is copied.
        """
        if self.padding not in EXTENDING:
            return super().vanilla_export()
        if not self.built or None in self._sizes(self._built_shape):
            return LipschitzLayer.vanilla_export(self)
        return padded_model(
            super().vanilla_export(), self._amounts, self.padding, self._built_shape
        )

    def _plain_input_shape(self) -> tuple:
        if self.padding not in EXTENDING:
            return self._built_shape
        return extended_shape(self._built_shape, self._amounts, self.data_format)
