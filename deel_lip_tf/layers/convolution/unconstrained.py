"""Plain layers in the vocabulary of the constrained ones: no bound is enforced."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.constructors import CheckedArguments, check_activation, named
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf._validation.shapes import check_sizes, known_size
from deel_lip_tf.layers.base import Condensable, LipschitzLayer
from deel_lip_tf.layers.constrained import with_bias
from deel_lip_tf.layers.convolution.padding import (
    Amounts,
    extend,
    extended_shape,
    padded_model,
    spatial_axes,
    standardize_padding,
)
from deel_lip_tf.layers.convolution.patches import OF_CONVOLUTIONS
from deel_lip_tf.normalizers.convolution import PADDINGS


@register
class PadConv2D(CheckedArguments, Condensable, keras.layers.Conv2D):
    """An ordinary `keras.layers.Conv2D` with more paddings; its kernel is not constrained.

    `"constant"` (zeros), `"circular"`, `"symmetric"`, `"reflect"` and `"replicate"` extend the
    image by `k // 2` pixels on every side, then the convolution is a `"valid"` one. With stride 1
    an odd kernel keeps the size, an even one makes the image one pixel larger (the constrained
    layers, which extend by `k - 1` in all, keep it for even kernels too). Its norm is proven, not
    enforced, by `bounds.lipschitz_bound`.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or one of the five above,
            in any case.
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`. Dilation does not change by how
            much the image is extended.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        TypeError: a class, not an instance of one, as `activation`.
        ValueError: an unknown padding.

    Example:
        >>> layer = lip.layers.PadConv2D(1, 3, padding="circular", kernel_initializer="ones")
        >>> print(np.asarray(layer(np.eye(3)[None, :, :, None]))[0, :, :, 0])  # no border
        [[3. 3. 3.]
         [3. 3. 3.]
         [3. 3. 3.]]
        >>> round(lip.bounds.lipschitz_bound(layer).value, 4)  # proven, not enforced
        9.0
    """

    _positional = OF_CONVOLUTIONS

    def __init__(
        self, filters: int, kernel_size, strides=(1, 1), padding: str = "same", *args, **kwargs
    ):
        kwargs = named(type(self).__name__, self._positional, args, kwargs)
        check_activation(type(self).__name__, kwargs.get("activation"))
        padding = standardize_padding(padding, type(self).__name__, (*PADDINGS, "constant"))
        by_keras = padding in ("same", "valid")
        super().__init__(
            filters=whole_number("filters", filters),
            kernel_size=kernel_size,
            strides=strides,
            padding=padding if by_keras else "valid",
            **kwargs,
        )
        self.padding = padding

    def build(self, input_shape):
        """Creates the weights."""
        check_sizes(self, input_shape, (1, 1))
        known_size(self, input_shape, -1 if self.data_format == "channels_last" else 1)
        super().build(input_shape)

    @property
    def amounts(self) -> Amounts:
        """Pixels added before and after each axis by the paddings that Keras has not got."""
        if self.padding in ("same", "valid"):
            return ((0, 0),) * self.rank
        return tuple((k // 2, k // 2) for k in self.kernel_size)

    @property
    def _keras_padding(self) -> str:
        return self.padding if self.padding in ("same", "valid") else "valid"

    def convolution_op(self, inputs, kernel):
        """The padded convolution, without bias."""
        if self._keras_padding != self.padding:
            inputs = extend(inputs, self.amounts, self.padding, self.data_format)
        return ops.conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self._keras_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def call(self, inputs):
        """Pads, convolves, adds the bias and applies the activation."""
        outputs = self.convolution_op(inputs, self.kernel)
        if self.bias is not None:
            outputs = with_bias(outputs, self.bias, self.data_format)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape):
        """Shape of the output, `(batch, rows, columns, filters)` with channels last."""
        if self._keras_padding == self.padding:
            return super().compute_output_shape(input_shape)
        shape = list(extended_shape(tuple(input_shape), self.amounts, self.data_format))
        for axis, k, stride, rate in zip(
            spatial_axes(self.data_format),
            self.kernel_size,
            self.strides,
            self.dilation_rate,
            strict=True,
        ):
            if shape[axis] is not None:
                shape[axis] = (shape[axis] - (k - 1) * rate - 1) // stride + 1
        shape[-1 if self.data_format == "channels_last" else 1] = self.filters
        return tuple(shape)

    def _plain_config(self) -> dict:
        return {**super().get_config(), "padding": self._keras_padding}

    def condense(self) -> None:
        """Nothing to do: the kernel is not constrained."""

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.Conv2D` of the same name with the same weights.

        For the paddings Keras has not got, a small Keras model of the same name that pads first;
        built for unknown sizes, or not built, the layer is copied.
        """
        shape = self.get_build_config()["input_shape"] if self.built else (None,) * 4
        by_keras = self._keras_padding == self.padding
        sizes = [shape[axis] for axis in spatial_axes(self.data_format)]
        if None in sizes and not by_keras:
            return LipschitzLayer.vanilla_export(self)
        plain = keras.layers.Conv2D.from_config(self._plain_config())
        if not self.built:
            return plain
        plain.build(extended_shape(tuple(shape), self.amounts, self.data_format))
        plain.set_weights(self.get_weights())
        return plain if by_keras else padded_model(plain, self.amounts, self.padding, shape)
