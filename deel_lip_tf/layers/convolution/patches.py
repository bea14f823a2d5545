"""What layers that slide a kernel over a sequence or an image share, of any rank."""

import math

import keras
from keras import ops

from deel_lip_tf._validation.shapes import check_sizes, known_size
from deel_lip_tf.layers.base import (
    KERNEL_ARGUMENTS,
    NO_LORA,
    ConstrainedKernel,
    LipschitzLayer,
)
from deel_lip_tf.layers.convolution.padding import (
    Amounts,
    extend,
    extended_shape,
    padded_model,
    spatial_axes,
    standardize_padding,
)
from deel_lip_tf.normalizers import max_duplication, padding_amounts
from deel_lip_tf.normalizers.convolution import EXTENDING, PADDINGS

_ONE = (None, 1, (1,), (1, 1))
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


class CountedGain(ConstrainedKernel):
    """A gain from how many patches share a pixel, fixed by the shape the layer is built for."""

    _counts: tuple = ()

    def _axis_counts(self, sizes: tuple) -> tuple:
        """For each spatial axis of the given sizes, the largest number of patches on an element."""
        raise NotImplementedError

    def _sizes(self, shape: tuple) -> tuple:
        return tuple(shape[axis] for axis in spatial_axes(self.data_format, self.rank))

    def build(self, input_shape):
        """Creates the weights; the gain is that of this input shape from now on."""
        check_sizes(self, input_shape, (1,) * self.rank)
        known_size(self, input_shape, -1 if self.data_format == "channels_last" else 1)
        super().build(input_shape)

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

    @property
    def _amounts(self) -> Amounts:
        """What the paddings that Keras has not got add to each axis."""
        return tuple(padding_amounts(None, k, 1, self.padding) for k in self.kernel_size)

    def _shape_of(self, sizes: list, input_shape: tuple, channels: int) -> tuple:
        axes = spatial_axes(self.data_format, self.rank)
        shape = dict(zip(axes, sizes, strict=True)) | {0: input_shape[0]}
        return tuple(shape.get(axis, channels) for axis in range(self.rank + 2))


class PatchKernel(CountedGain):
    """Mixin of the convolutions: `activation(convolution(pad(x), effective_kernel) + bias)`."""

    _paddings: tuple[str, ...] = PADDINGS

    def __init__(self, *args, kernel_size, strides, padding, **kwargs):
        padding = standardize_padding(padding, type(self).__name__, self._paddings)
        super().__init__(
            *args,
            kernel_size=kernel_size,
            strides=strides,
            padding="valid" if padding in EXTENDING else padding,
            **kwargs,
        )
        self.padding = padding

    @staticmethod
    def _operation(inputs, kernel, **kwargs):
        return ops.conv(inputs, kernel, **kwargs)

    def _output_channels(self, input_shape: tuple) -> int:
        return self.filters

    def _axis_counts(self, sizes: tuple) -> tuple:
        axes = zip(sizes, self.kernel_size, self.strides, strict=True)
        return tuple(max_duplication(*axis, self.padding) for axis in axes)

    def _apply_kernel(self, inputs, kernel):
        self._check_size(inputs.shape)
        by_keras = self.padding in ("same", "valid")
        if not by_keras:
            inputs = extend(inputs, self._amounts, self.padding, self.data_format)
        return self._operation(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding if by_keras else "valid",
            data_format=self.data_format,
        )

    def compute_output_shape(self, input_shape):
        """Shape of the output, `(batch, *sizes, channels)` with channels last."""
        if self.padding not in EXTENDING:
            return super().compute_output_shape(input_shape)
        pairs = zip(self._sizes(input_shape), self.strides, strict=True)
        sizes = [None if size is None else -(-size // stride) for size, stride in pairs]
        return self._shape_of(sizes, input_shape, self._output_channels(input_shape))

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
