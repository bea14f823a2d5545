"""Transposed convolutions with a bounded kernel."""

import keras
import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.layers.constrained import build_activation, exported_weights
from deel_lip_tf.layers.convolution.padding import fold
from deel_lip_tf.layers.convolution.patches import (
    NO_DILATION,
    OF_CONVOLUTIONS,
    ConstrainedConvolution,
)
from deel_lip_tf.normalizers import Spectral
from deel_lip_tf.normalizers.convolution import EXTENDING


class ConstrainedTranspose(ConstrainedConvolution):
    """Mixin: the adjoints of the convolutions with the same kernel.

    The kernel (*sizes, filters, inputs) is that of the adjoint convolution from `filters` to
    `inputs` channels, so its last axis is the one to flatten around here too.
    """

    _positional = tuple(name for name in OF_CONVOLUTIONS if name != "groups")
    _refused = NO_DILATION
    _coverable = ()
    _is_transposed = True

    def __init__(
        self, filters: int, kernel_size, strides=1, padding: str = "same", *args, **kwargs
    ):
        super().__init__(filters, kernel_size, strides, padding, *args, **kwargs)
        if self.padding in EXTENDING and self.output_padding is not None:
            raise ValueError(
                f"`output_padding` of {type(self).__name__} must be None with padding="
                f"{self.padding!r}: the output has `strides` times the size of the input. "
                f"Received: output_padding={self.output_padding}. Leave it out, or use "
                'padding="same".'
            )

    @property
    def _keras_arguments(self) -> dict:
        """Padding of the operation; one that copies is folded back afterwards."""
        if self.padding not in EXTENDING:
            return {"padding": self.padding, "output_padding": self.output_padding}
        return {"padding": "valid", "output_padding": tuple(s - 1 for s in self.strides)}

    def _apply_kernel(self, inputs, kernel):
        self._check_size(inputs.shape)
        outputs = ops.conv_transpose(
            inputs,
            kernel,
            strides=self.strides,
            data_format=self.data_format,
            **self._keras_arguments,
        )
        if self.padding not in EXTENDING:
            return outputs
        return fold(outputs, self._amounts, self.padding, self.data_format)

    def compute_output_shape(self, input_shape):
        """Shape of the output, `(batch, *sizes, filters)` with channels last."""
        if self.padding not in EXTENDING:
            return super().compute_output_shape(input_shape)
        pairs = zip(self._sizes(input_shape), self.strides, strict=True)
        sizes = [None if size is None else size * stride for size, stride in pairs]
        return self._shape_of(sizes, input_shape)

    def vanilla_export(self) -> keras.layers.Layer:
        """The transposed convolution of Keras, of the same name, with the effective kernel.

        For the paddings Keras has not got, a small Keras model of the same name that adds the
        border where it belongs, and bias and activation after; built for unknown sizes, the layer
        is copied.
        """
        if self.padding not in EXTENDING:
            return super().vanilla_export()
        if not self.built or None in self._sizes(self._built_shape):
            return LipschitzLayer.vanilla_export(self)
        config = {**self._plain_config(), **self._keras_arguments}
        plain = self.plain_class.from_config({**config, "use_bias": False, "activation": None})
        inputs = keras.Input(self._built_shape[1:], dtype=self.compute_dtype)
        outputs = fold(plain(inputs), self._amounts, self.padding, self.data_format)
        plain.set_weights([ops.convert_to_numpy(self.effective_kernel())])
        return keras.Model(inputs, self._shift_and_activate(outputs, config), name=self.name)

    def _shift_and_activate(self, tensor, config: dict):
        """Bias and activation by a Keras layer, a convolution with one 1 for each channel."""
        if self.bias is None and self.activation is keras.activations.linear:
            return tensor
        names = ("use_bias", "activation", "data_format", "dtype")
        chosen = {name: config[name] for name in names}
        config = {**chosen, "kernel_size": 1, "name": f"{self.name}_bias"}
        if self.rank == 2:
            layer = keras.layers.DepthwiseConv2D.from_config(config)
        else:  # there is no depthwise one of volumes
            layer = keras.layers.Conv3D.from_config({**config, "filters": self.filters})
        build_activation(layer, tensor.shape)
        outputs = layer(tensor)
        ones = np.ones(layer.kernel.shape) if self.rank == 2 else np.eye(self.filters)
        kernel = ones.reshape(layer.kernel.shape)
        layer.set_weights([kernel, *exported_weights(self)])
        return outputs


@register
class SpectralConv2DTranspose(ConstrainedTranspose, keras.layers.Conv2DTranspose):
    """Transposed convolution whose flattened kernel has all its singular values equal.

    The adjoint of a `SpectralConv2D`-like convolution: the kernel (rows, columns, filters, inputs)
    is flattened to (rows * columns * filters, inputs), and the gain is `1 / sqrt(m)` with `m` the
    largest number of contributions that one output pixel receives. `k_coef_lip`-Lipschitz for any
    finite raw kernel, provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, or `"circular"`, `"symmetric"`, `"reflect"`,
            `"replicate"`: the adjoint of the convolution of an image of `strides` times the size
            with that padding. What falls beyond the border is added to the pixel that the padding
            would have copied there; for `"circular"` it goes round.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        parametrization: another one of `deel_lip_tf.normalizers`, in place of the fields below, or
            its name: "spectral", "frobenius", "aol" or "at_most".
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        eps_spectral: by how much, relatively, the bound of the norm may exceed the norm where only
            the norm is divided out: positive, 1e-3 by default.
        eps_bjorck: how far from 1 the singular values may end: positive, 1e-3 by default; `None`
            divides by a bound of the norm instead of orthogonalising.
        beta_bjorck: step of Björck's iteration, in ]0, 1/2], 1/2 by default; `None` does as
            `eps_bjorck=None`.
        maxiter_spectral: largest number of squarings for the bound of the norm, at least 1, 10 by
            default.
        maxiter_bjorck: largest number of orthogonalisation steps, at least 1, 15 by default.
        gain: `"counted"` (the default) divides by the square root of `m`; `"measured"` by an upper
            bound of the norm of the convolution with the orthogonal kernel, at most 6 % above it,
            for images of any size.
        *args: `data_format`, `dilation_rate`, `activation` and so on, in deel-lip's order, which is
            that of `keras.layers.Conv2D` without `groups`.
        **kwargs: every other argument of `keras.layers.Conv2DTranspose` (`output_padding`
            included, with `"same"` and `"valid"`), except dilation.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`. The output
    has `strides` times as many rows and columns, except where Keras says otherwise for `"valid"`
    and `output_padding`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, an unknown padding, `output_padding` with a padding that copies.

    Example:
        >>> layer = lip.layers.SpectralConv2DTranspose(4, 3, strides=2)
        >>> tuple(layer(np.zeros((1, 5, 5, 8))).shape)
        (1, 10, 10, 4)
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = Spectral
