"""Convolutions that are orthogonal as operators: isometries, or adjoints of isometries."""

import keras

from deel_lip_tf._registration import register
from deel_lip_tf.layers.convolution.patches import ConstrainedConvolution
from deel_lip_tf.layers.convolution.transposed import ConstrainedTranspose
from deel_lip_tf.normalizers import AOC, BCOP


@register
class AOCConv2D(ConstrainedConvolution, keras.layers.Conv2D):
    """Orthogonal convolution of any kernel size, stride, dilation and number of groups.

    The kernel is a product of orthogonal factors, see `deel_lip_tf.normalizers.AOC`: an explicit
    one, with which the layer is a plain convolution. All singular values of the operator are
    `k_coef_lip` with circular padding, where the strides divide the size; zeros around the image
    make it a contraction. It is `k_coef_lip`-Lipschitz for any finite raw weights, provided that
    `activation` is 1-Lipschitz: at every size for the zero and circular paddings.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the image by `(k - 1) // 2`
            pixels in front and `k // 2` behind. Paddings that copy cost the square root of how
            often; so do circular ones the stride, where it does not divide the size.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw weights, one after the other; default
            `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw weights; `None`, the default, for
            `deel_lip_tf.normalizers.AOC()`.
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`, except LoRA and quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        ValueError: LoRA, quantization or an unknown padding; an input of a size whose bound is
            larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.AOCConv2D(16, 3, padding="circular", use_bias=False)
        >>> x = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype("float32")
        >>> round(float(np.linalg.norm(layer(x)) / np.linalg.norm(x)), 4)  # an isometry
        1.0
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-5
        True
        >>> type(layer.vanilla_export().layers[-1]).__name__  # after the padding
        'Conv2D'

    Source: Boissin et al., 2025, arXiv:2501.07930.
    """

    parametrization_class = AOC


@register
class BCOPConv2D(ConstrainedConvolution, keras.layers.Conv2D):
    """Orthogonal convolution of the phases of an image; without strides the same as `AOCConv2D`.

    With strides the pixels of a patch of the size of the stride are taken for channels of one, see
    `deel_lip_tf.normalizers.BCOP`. It is `k_coef_lip`-Lipschitz for any finite raw weights,
    provided that `activation` is 1-Lipschitz: at every size for the zero and circular paddings.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair, a multiple of the strides.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the image by `(k - 1) // 2`
            pixels in front and `k // 2` behind. Paddings that copy cost the square root of how
            often; so do circular ones the stride, where it does not divide the size.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw weights, one after the other; default
            `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw weights; `None`, the default, for
            `deel_lip_tf.normalizers.BCOP()`.
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`, except LoRA and quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        ValueError: LoRA, quantization or an unknown padding; when it is built, a kernel size that
            is no multiple of the strides; an input of a size whose bound is larger than the one the
            layer was built for.

    Example:
        >>> layer = lip.layers.BCOPConv2D(12, 4, 2, padding="circular", use_bias=False)
        >>> x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
        >>> round(float(np.linalg.norm(layer(x)) / np.linalg.norm(x)), 4)  # an isometry
        1.0

    Source: Li et al., 2019, arXiv:1911.00937.
    """

    parametrization_class = BCOP


@register
class AOCConv1D(ConstrainedConvolution, keras.layers.Conv1D):
    """Orthogonal convolution of sequences, of any kernel size, stride, dilation, groups.

    As `AOCConv2D`, along one axis. It is `k_coef_lip`-Lipschitz for any finite raw weights,
    provided that `activation` is 1-Lipschitz: at every length for the zero and circular paddings.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer.
        strides: an integer; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the sequence by `(k - 1) // 2`
            steps in front and `k // 2` behind; or `"causal"`: zeros before the sequence only.
            Paddings that copy cost the square root of how often; so do circular ones the stride,
            where it does not divide the length.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw weights, one after the other; default
            `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw weights; `None`, the default, for
            `deel_lip_tf.normalizers.AOC()`.
        *args: the arguments of `keras.layers.Conv1D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv1D`, except LoRA and quantization.

    Input shape: `(batch, steps, channels)`, or channels first by `data_format`.

    Raises:
        ValueError: LoRA, quantization or an unknown padding; an input of a length whose bound is
            larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.AOCConv1D(8, 3, padding="causal", dilation_rate=2)
        >>> tuple(layer(np.zeros((1, 9, 4))).shape)
        (1, 9, 8)
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-5
        True

    Source: Boissin et al., 2025, arXiv:2501.07930.
    """

    parametrization_class = AOC


@register
class AOCConv2DTranspose(ConstrainedTranspose, keras.layers.Conv2DTranspose):
    """Transposed orthogonal convolution: the adjoint of an `AOCConv2D` from outputs to inputs.

    All singular values of the operator are `k_coef_lip` with circular padding. It is
    `k_coef_lip`-Lipschitz for any finite raw weights, provided that `activation` is 1-Lipschitz, at
    every size for the zero and circular paddings.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, or `"circular"`, `"symmetric"`, `"reflect"`,
            `"replicate"`: the adjoint of the convolution of an image of `strides` times the size
            with that padding.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw weights, one after the other; default
            `SpectralInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw weights; `None`, the default, for
            `deel_lip_tf.normalizers.AOC()`.
        *args: `data_format`, `dilation_rate`, `activation` and so on, in the order of
            `keras.layers.Conv2D` without `groups`.
        **kwargs: every other argument of `keras.layers.Conv2DTranspose` (`output_padding`
            included, with `"same"` and `"valid"`), except dilation.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`. The output
    has `strides` times as many rows and columns, except where Keras says otherwise for `"valid"`
    and `output_padding`.

    Raises:
        ValueError: dilation, an unknown padding, `output_padding` with a padding that copies.

    Example:
        >>> layer = lip.layers.AOCConv2DTranspose(4, 2, strides=2, use_bias=False)
        >>> x = np.random.default_rng(0).normal(size=(1, 4, 4, 16)).astype("float32")
        >>> tuple(layer(x).shape[1:]), round(float(np.linalg.norm(layer(x)) / np.linalg.norm(x)), 4)
        ((8, 8, 4), 1.0)

    Source: Boissin et al., 2025, arXiv:2501.07930.
    """

    parametrization_class = AOC
