"""Linear residual layers, whose identity is a part of the kernel."""

import keras

from deel_lip_tf._registration import register
from deel_lip_tf.initializers import ResidualInitializer
from deel_lip_tf.layers.convolution.patches import ConstrainedConvolution
from deel_lip_tf.layers.dense import ConstrainedDense
from deel_lip_tf.normalizers import LiRes


@register
class LiResDense(ConstrainedDense):
    """Linear residual layer: `activation(x @ (I + gamma / sqrt(depth) * K) + bias)`.

    As many outputs as inputs, one kernel, one product; it is exported to one `Dense`. Normalized,
    which is the default, the whole kernel is divided by an upper bound of its norm, and the layer
    is `k_coef_lip`-Lipschitz for any finite raw kernel, provided that `activation` is 1-Lipschitz.
    Otherwise `k_coef_lip` multiplies the kernel and promises nothing (`is_guaranteed` is False):
    `bounds.lipschitz_bound` proves the constant that it has.

    Args:
        units: dimension of the input and of the output, at least 1.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        depth: number of such layers of the network; 1 by default.
        learns_gamma: whether `gamma`, one number for each output, is trained; else it is 1. True
            by default.
        normalized: whether the kernel is divided by a bound of its norm; True by default.
        kernel_initializer: of `K`; default `ResidualInitializer()`, small.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw one; `None`, the default, for
            `deel_lip_tf.normalizers.LiRes()` of the arguments above.
        *args: the arguments of `keras.layers.Dense` after `use_bias`, in their order.
        **kwargs: every other argument of `keras.layers.Dense`, except LoRA and quantization.

    Input shape: `(batch, ..., units)`, and so is the output.

    Raises:
        TypeError: a number of another type.
        ValueError: an input of another size than `units`; `k_coef_lip` not positive, LoRA or
            quantization asked for.

    Example:
        >>> layer = lip.layers.LiResDense(8, depth=4, normalized=False)
        >>> layer.build((None, 8))
        >>> fused = np.eye(8) + np.asarray(layer.kernel) / 2
        >>> np.allclose(layer.effective_kernel(), fused, atol=1e-6)
        True
        >>> norm = np.linalg.norm(np.asarray(layer.effective_kernel(), "float64"), 2)
        >>> bool(norm <= lip.bounds.lipschitz_bound(layer).value <= norm * (1 + 1e-9))
        True

    Source: Hu et al., 2023, arXiv:2301.12549; Hu et al., 2024, arXiv:2310.02513.
    """

    parametrization_class = LiRes
    _default_initializer = ResidualInitializer


@register
class LiResConv2D(ConstrainedConvolution, keras.layers.Conv2D):
    """Linear residual convolution: `activation(conv2d(pad(x), I + gamma / sqrt(depth) * K) + b)`.

    The identity `I` is the middle of the kernel: as many filters as channels, one convolution of
    one kernel, which is bounded and exported as one `Conv2D`, never as `1 + ||K||`. Normalized,
    which is the default, the whole kernel is divided by an upper bound of its norm, and the layer
    is `k_coef_lip`-Lipschitz for any finite raw kernel, provided that `activation` is 1-Lipschitz:
    some percent less, which `bounds.lipschitz_bound` proves and certificates gain. Otherwise
    `k_coef_lip` multiplies the kernel and promises nothing (`is_guaranteed` is False):
    `bounds.lipschitz_bound` proves the constant that it has, and losses with
    `lipschitz="measured"`, such as `EMMA`, train it down.

    Args:
        filters: number of channels of the input and of the output, at least 1.
        kernel_size: an odd integer or a pair of them.
        strides: 1, the only ones there are.
        padding: `"same"` (the default) with zeros, `"circular"`, or another one of
            `SpectralConv2D`.
        depth: number of such layers of the network; 1 by default.
        learns_gamma: whether `gamma`, one number for each filter, is trained; else it is 1. True
            by default.
        normalized: whether the kernel is divided by a bound of its norm; True by default.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of `K`; default `ResidualInitializer()`, small.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw one; `None`, the default, for
            `deel_lip_tf.normalizers.LiRes()` of the arguments above.
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, rows, columns, filters)`, or channels first by `data_format`; so is the
    output, except of "valid".

    Raises:
        TypeError: a number of another type.
        ValueError: strides, an even kernel size, an input with other channels than `filters`;
            dilation, groups, LoRA, quantization or an unknown padding.

    Example:
        >>> blocks = [lip.layers.LiResConv2D(4, 3, depth=2, activation="relu") for _ in range(2)]
        >>> model = lip.Sequential([keras.Input((8, 8, 4)), *blocks])
        >>> 0.8 < lip.bounds.lipschitz_bound(model).value <= 1 + 1e-6
        True
        >>> [type(layer).__name__ for layer in model.vanilla_export().layers]
        ['Conv2D', 'Conv2D']

    Source: Hu et al., 2023, arXiv:2301.12549; Hu et al., 2024, arXiv:2310.02513.
    """

    parametrization_class = LiRes
    _default_initializer = ResidualInitializer
