"""Layers that tell channels apart: what they share, and those that only count them."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf._validation.shapes import known_size, standardize_data_format
from deel_lip_tf.layers.base import LipschitzLayer, operation_export


class ChannelLayer(LipschitzLayer, keras.layers.Layer):
    """Base of the layers that do not treat all channels alike."""

    _own_arguments: tuple[str, ...] = ("data_format",)

    def __init__(self, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.data_format = standardize_data_format(data_format)
        self.supports_masking = True
        self.set_klip_factor(k_coef_lip)

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _channels(self, shape) -> int:
        return known_size(self, shape, self._channel_axis)

    def _own_channels(self, input_shape) -> int:
        """Their number, which is that of every later input: each has weights of its own."""
        channels = self._channels(input_shape)
        self.input_spec = keras.InputSpec(axes={self._channel_axis: channels})
        return channels

    def build(self, input_shape):
        """Checks that there are channels."""
        self._channels(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        """The function, times `k_coef_lip`; `training` chooses how it is computed, not what."""
        if self.data_format == "channels_last":
            outputs = self._activate(inputs, training)
        else:
            outputs = self._activate(ops.moveaxis(inputs, 1, -1), training)
            outputs = ops.moveaxis(outputs, -1, 1)
        # Multiplying by 1 would cost a pass over the tensor.
        return outputs if self.k_coef_lip == 1 else outputs * self.k_coef_lip

    def _activate(self, inputs, training=None):
        """The 1-Lipschitz function, channels last."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return tuple(input_shape)


class _Resized(ChannelLayer):
    """A layer of another number of channels, `n`."""

    _own_arguments: tuple[str, ...] = ("n",)

    def __init__(
        self, n: int, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        self.n = whole_number("n", n)

    def build(self, input_shape):
        """Checks the number of channels."""
        self._check(self._channels(input_shape))
        self.built = True

    def _check(self, channels: int) -> None:
        """Raises a `ValueError` if there cannot be `n` of so many."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        """The shape of the input with `n` channels."""
        shape = list(input_shape)
        shape[self._channel_axis] = self.n
        return tuple(shape)

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name, of Keras's own operations."""
        return operation_export(self, self.call)


@register
class FirstChannels(_Resized):
    """The first `n` channels, times `k_coef_lip`; the others are dropped.

    `k_coef_lip`-Lipschitz in every Lp norm. Layers whose kernels are square, such as residual
    blocks, are narrowed by it, and a wide layer becomes a head: what is dropped costs no norm.

    Args:
        n: how many channels stay, at least 1 and at most as many as there are.
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same with `n` channels.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is less than 1, or there are fewer channels.

    Example:
        >>> print(np.asarray(lip.layers.FirstChannels(2)(np.array([[1.0, 2.0, 3.0]]))))
        [[1. 2.]]

    Source: Prach and Lampert, 2022, arXiv:2208.03160, whose networks end with it.
    """

    def _check(self, channels: int) -> None:
        if self.n > channels:
            raise ValueError(
                f"`n` must be at most the number of channels. Received: n={self.n}, {channels} "
                f"channels in layer {self.name!r}. PadChannels({self.n}) adds channels of zeros."
            )

    def _activate(self, inputs, training=None):
        self._check(inputs.shape[-1])
        return inputs[..., : self.n]


@register
class PadChannels(_Resized):
    """Channels of zeros after those of the input, up to `n` in all; times `k_coef_lip`.

    `k_coef_lip`-Lipschitz in every Lp norm, and norms are preserved: layers whose kernels are
    square are widened by it.

    Args:
        n: how many channels there are afterwards, at least as many as before.
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same with `n` channels.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is less than 1, or there are more channels.

    Example:
        >>> print(np.asarray(lip.layers.PadChannels(3)(np.array([[1.0, 2.0]]))))
        [[1. 2. 0.]]

    Source: Prach et al., 2024, arXiv:2311.16833, whose networks begin with it.
    """

    def _check(self, channels: int) -> None:
        if self.n < channels:
            raise ValueError(
                f"`n` must be at least the number of channels. Received: n={self.n}, {channels} "
                f"channels in layer {self.name!r}. FirstChannels({self.n}) drops channels."
            )

    def _activate(self, inputs, training=None):
        channels = inputs.shape[-1]
        self._check(channels)
        return ops.pad(inputs, [*[(0, 0)] * (len(inputs.shape) - 1), (0, self.n - channels)])
