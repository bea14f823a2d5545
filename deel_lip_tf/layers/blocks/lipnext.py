"""Blocks without arithmetic between pixels: channels are rotated, shifted and mixed again."""

import keras

from deel_lip_tf._registration import register
from deel_lip_tf._validation.shapes import standardize_data_format
from deel_lip_tf.layers.activations.elementwise import Abs
from deel_lip_tf.layers.convolution.patches import ConstrainedConvolution
from deel_lip_tf.normalizers import LipNeXt


@register
class LipNeXtBlock(ConstrainedConvolution, keras.layers.Conv2D):
    """LipNeXt's block: `activation(shift(x R) R' M + bias)` with orthogonal `R` and `M`.

    The channels of each pixel are rotated by `R`; four groups of them move to the next pixels,
    down, up, right and left; they are rotated back, and mixed by `M`. All of it is one orthogonal
    convolution, in whose kernel only a cross is not zero, and one `Conv2D` in the export: see
    `deel_lip_tf.normalizers.LipNeXt`. `activation` is by default the absolute value of half of the
    channels, which keeps norms, so that with circular padding the whole block does, where
    `filters` is the number of channels. It is `k_coef_lip`-Lipschitz for any finite raw weights,
    provided that `activation` is 1-Lipschitz.

    The source adds a learned number to each pixel before; that is a layer by itself, or zero
    padding, which tells the border from the middle as well.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an odd integer or a pair of them, 3 by default: groups move by half of it.
        strides: 1, the only ones there are.
        padding: `"circular"` (the default), `"same"` with zeros, or another one of
            `SpectralConv2D`. Those that copy cost the square root of how often.
        share: of the channels in each group that moves: above 0 and at most 1/4, 1/8 by default;
            it must give one channel at least.
        activation: a function, a name such as "relu", "linear" for none, or a layer such as
            `GroupSort2()`; the constant of the layer assumes that it is 1-Lipschitz. `None`, the
            default, for `Abs(0.5)`.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of both raw matrices; default `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw weights; `None`, the default, for
            `deel_lip_tf.normalizers.LipNeXt()` of the arguments above.
        **kwargs: every other argument of `keras.layers.Conv2D`, except groups, LoRA and
            quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`; so is the
    output.

    Raises:
        TypeError: a number of another type.
        ValueError: strides, an even kernel size, too few channels for `share`; groups, LoRA,
            quantization or an unknown padding.

    Example:
        >>> block = lip.layers.LipNeXtBlock(16)
        >>> x = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype("float32")
        >>> round(float(np.linalg.norm(block(x)) / np.linalg.norm(x)), 4)  # an isometry
        1.0
        >>> lip.bounds.lipschitz_bound(block).value <= 1 + 1e-6
        True

    Source: Hu et al., arXiv:2601.18513.
    """

    parametrization_class = LipNeXt

    def __init__(
        self,
        filters: int,
        kernel_size=3,
        strides=1,
        padding: str = "circular",
        **kwargs,
    ):
        if kwargs.get("activation") is None:
            data_format = standardize_data_format(kwargs.get("data_format"))
            kwargs["activation"] = Abs(0.5, data_format=data_format, name="activation")
        super().__init__(filters, kernel_size, strides, padding, **kwargs)
