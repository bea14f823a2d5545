"""Exchange between neighbouring pixels without arithmetic: groups of channels that move."""

import keras
import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import Rule, check_choice, number, whole_number
from deel_lip_tf._validation.shapes import standardize_data_format
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.layers.convolution.padding import extended_shape, padded_model

_QUARTER = Rule(lambda value: 0 < value <= 0.25, "above 0 and at most 1/4")


@register
class SpatialShift2D(LipschitzLayer, keras.layers.Layer):
    """Moves four groups of channels by some pixels: down, up, right, left; the others stay.

    `y[i, j, c] = k_coef_lip * x[i - a_c, j - b_c, c]`, where `(a_c, b_c)` is `(shift, 0)` for the
    first `floor(share C)` of the `C` channels, `(-shift, 0)` for as many after them, then
    `(0, shift)` and `(0, -shift)`. With "circular" padding it is an isometry, times `k_coef_lip`,
    and with "zero" it loses what leaves the image: `k_coef_lip`-Lipschitz either way.

    An orthogonal convolution with one channel can do nothing else than shift. Between orthogonal
    kernels of size 1 (`SpectralConv2D(filters, 1)`) shifts take the place of larger kernels: the
    layers are isometries for any image, at a ninth of the cost of a 3x3 convolution.

    Inputs: `(B, H, W, C)`, or `(B, C, H, W)` for channels_first; outputs of the same shape.

    Args:
        shift: number of pixels, at least 1.
        share: of the channels in each of the four groups, above 0 and at most 1/4; it must give
            one channel at least.
        padding: "circular", the default: what leaves the image comes in at the other side; or
            "zero": zeros do.
        data_format: "channels_last", the default, or "channels_first"; `None` for Keras's.
        name: name of the layer.
        dtype: dtype, or policy, of the computation.
        k_coef_lip: the Lipschitz constant.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of range, or the input is no image with channels enough.

    Example:
        >>> image = np.arange(12.0).reshape(1, 3, 1, 4)
        >>> shifted = lip.layers.SpatialShift2D(share=0.25)(image)
        >>> print(np.asarray(shifted)[0, :, 0])  # the first channel down, the second up
        [[ 8.  5.  2.  3.]
         [ 0.  9.  6.  7.]
         [ 4.  1. 10. 11.]]

    Source: Hu et al., arXiv:2601.18513, between orthogonal layers.
    """

    _own_arguments: tuple[str, ...] = ("shift", "share", "padding", "data_format")

    def __init__(
        self,
        shift: int = 1,
        share: float = 0.125,
        padding: str = "circular",
        data_format: str | None = "channels_last",
        name: str | None = None,
        dtype=None,
        *,
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.shift = whole_number("shift", shift)
        self.share = number("share", share, _QUARTER)
        check_choice("padding", padding, ("circular", "zero"))
        self.padding = padding
        self.data_format = standardize_data_format(data_format)
        self.set_klip_factor(k_coef_lip)

    @property
    def _axes(self) -> tuple[int, int, int]:
        """Of rows, columns and channels."""
        return (1, 2, 3) if self.data_format == "channels_last" else (2, 3, 1)

    def build(self, input_shape):
        """Checks that each group has a channel."""
        self.compute_output_shape(input_shape)
        self.built = True

    def compute_output_shape(self, input_shape) -> tuple:
        """The shape of the input."""
        is_image = len(input_shape) == 4
        channels = input_shape[self._axes[2]] if is_image else None
        if channels is None or int(self.share * channels) < 1:
            raise ValueError(
                f"Layer {self.name!r} needs images, four axes, with 1 / `share` channels at least. "
                f"Received: share={self.share}, an input of shape {tuple(input_shape)}."
            )
        return tuple(input_shape)

    def _moved(self, group, axis: int, shift: int):
        if self.padding == "circular":
            return ops.roll(group, shift, axis)
        sides = (shift, 0) if shift > 0 else (0, -shift)
        padded = ops.pad(group, [sides if i == axis else (0, 0) for i in range(4)])
        kept = slice(None, -shift) if shift > 0 else slice(-shift, None)
        return padded[tuple(kept if i == axis else slice(None) for i in range(4))]

    def call(self, inputs):
        """The same entries elsewhere, times `k_coef_lip`."""
        rows, columns, channels = self._axes
        count = int(self.share * inputs.shape[channels])
        *groups, rest = ops.split(inputs, [count * i for i in range(1, 5)], channels)
        moves = [(axis, by) for axis in (rows, columns) for by in (self.shift, -self.shift)]
        moved = [self._moved(group, *move) for group, move in zip(groups, moves, strict=True)]
        outputs = ops.concatenate([*moved, rest], channels)
        return outputs if self.k_coef_lip == 1 else outputs * self.k_coef_lip

    def vanilla_export(self) -> keras.layers.Layer:
        """A depthwise convolution with one tap a channel, after the padding where it is circular.

        Built for unknown sizes, a layer with circular padding is copied.
        """
        shape: tuple = self.get_build_config()["input_shape"] if self.built else (None,)
        is_circular = self.padding == "circular"
        if not self.built or is_circular and None in shape[1:]:
            return super().vanilla_export()
        amounts = ((self.shift, self.shift),) * 2 if is_circular else ((0, 0),) * 2
        plain = keras.layers.DepthwiseConv2D(
            2 * self.shift + 1,
            padding="valid" if is_circular else "same",
            data_format=self.data_format,
            use_bias=False,
            name=self.name,
            dtype=self.dtype_policy,
        )
        plain.build(extended_shape(shape, amounts, self.data_format))
        plain.set_weights([self._taps(shape[self._axes[2]])])
        return padded_model(plain, amounts, "circular", shape) if is_circular else plain

    def _taps(self, channels: int) -> np.ndarray:
        """The kernel of the depthwise convolution that the layer is."""
        count, middle, end = int(self.share * channels), self.shift, 2 * self.shift
        kernel = np.zeros((end + 1, end + 1, channels, 1))
        taps = ((0, middle), (end, middle), (middle, 0), (middle, end))
        for group, tap in enumerate(taps):
            kernel[(*tap, slice(group * count, (group + 1) * count))] = self.k_coef_lip
        kernel[middle, middle, 4 * count :] = self.k_coef_lip
        return kernel
