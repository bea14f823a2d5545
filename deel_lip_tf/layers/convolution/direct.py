"""Convolutions with a bounded kernel, of sequences and of images."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.initializers import CenteredInitializer, SpectralInitializer
from deel_lip_tf.layers.convolution.patches import (
    NO_DILATION,
    OF_CONVOLUTIONS,
    ConstrainedConvolution,
)
from deel_lip_tf.normalizers import AOL, Spectral, UnitFrobenius


@register
class SpectralConv2D(ConstrainedConvolution, keras.layers.Conv2D):
    """Convolution whose flattened kernel has all its singular values equal.

    `y = activation(conv2d(pad(x), W) + bias)` where `W`, flattened to (patch, filters), is
    `k_coef_lip / sqrt(m)` times the orthogonal matrix nearest to the raw kernel, and `m` is the
    largest number of patches that share a pixel, counted for the padding, the strides and the size
    the layer is built for. The layer is `k_coef_lip`-Lipschitz for any finite raw kernel, provided
    that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the image by `(k - 1) // 2`
            pixels in front and `k // 2` behind, so that stride 1 keeps its size.
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
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.SpectralConv2D(8, 3, activation=lip.layers.GroupSort2())
        >>> x, y = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 3))
        >>> bool(np.linalg.norm(layer(x) - layer(y)) <= np.linalg.norm(x - y))
        True
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
        >>> plain = layer.vanilla_export()
        >>> type(plain).__name__, np.allclose(plain(x), layer(x), atol=1e-5)
        ('Conv2D', True)

    Source: the reshaped kernel of Cisse et al., 2017, arXiv:1704.08847; the count of patches in
    place of the average of Serrurier et al., 2021, arXiv:2006.06520, which is not an upper bound.
    """

    parametrization_class = Spectral


@register
class FrobeniusConv2D(ConstrainedConvolution, keras.layers.Conv2D):
    """Convolution whose kernel is divided by its Frobenius norm.

    `W = k_coef_lip / sqrt(m) * kernel / ||kernel||_F` with `m` the largest number of patches that
    share a pixel; the layer is `k_coef_lip`-Lipschitz for any finite raw kernel, and usually much
    less, provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or a pair.
        strides: an integer or a pair; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the image by `(k - 1) // 2`
            pixels in front and `k // 2` behind, so that stride 1 keeps its size.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        parametrization: another one of `deel_lip_tf.normalizers`, or its name: "spectral",
            "frobenius", "aol" or "at_most".
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.FrobeniusConv2D(4, 3)
        >>> layer.build((None, 8, 8, 2))
        >>> round(float(np.linalg.norm(layer.effective_kernel())), 4)  # a pixel lies in 9 patches
        0.3333
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = UnitFrobenius


@register
class AOLConv2D(ConstrainedConvolution, keras.layers.Conv2D):
    """Convolution whose channels are divided by what bounds their products, at all distances.

    `W = k_coef_lip * K D**(-1/2)` of the raw kernel `K`, where `D` sums the absolute values of its
    autocorrelation, see `deel_lip_tf.normalizers.AOL`. Nothing is lost to patches that overlap, so
    that the layer can be an isometry or the adjoint of one, and with stride 1 starts as such. It is
    `k_coef_lip`-Lipschitz for any finite raw kernel, provided that `activation` is 1-Lipschitz: at
    every size for the zero and circular paddings.

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
        kernel_initializer: of the raw kernel; default `CenteredInitializer()`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw one; `None`, the default, for
            `deel_lip_tf.normalizers.AOL()`.
        *args: the arguments of `keras.layers.Conv2D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv2D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.AOLConv2D(16, 3, activation=lip.layers.GroupSort2())
        >>> tuple(layer(np.zeros((1, 8, 8, 16))).shape)
        (1, 8, 8, 16)
        >>> bound = lip.bounds.lipschitz_bound(layer).value
        >>> 1 - 1e-3 <= bound <= 1 + 1e-6  # an isometry at the start
        True

    Source: Prach and Lampert, 2022, arXiv:2208.03160.
    """

    parametrization_class = AOL
    _default_initializer = CenteredInitializer


@register
class SpectralConv1D(ConstrainedConvolution, keras.layers.Conv1D):
    """Convolution of sequences whose flattened kernel has all its singular values equal.

    As `SpectralConv2D`, along one axis: `W`, flattened to (patch, filters), is
    `k_coef_lip / sqrt(m)` times the orthogonal matrix nearest to the raw kernel, and `m` is the
    largest number of patches that share a time step. `k_coef_lip`-Lipschitz for any finite raw
    kernel, provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer.
        strides: an integer; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the sequence by `(k - 1) // 2`
            steps in front and `k // 2` behind, so that stride 1 keeps its length; or `"causal"`:
            zeros before the sequence only, so that an output sees nothing later than its own time
            step.
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
        *args: the arguments of `keras.layers.Conv1D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv1D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, steps, channels)`, or channels first by `data_format`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.SpectralConv1D(4, 3, padding="causal")
        >>> x = np.random.default_rng(0).normal(size=(1, 8, 2))
        >>> later = x.copy()
        >>> later[:, 5:] = 0.0
        >>> np.allclose(layer(x)[:, :5], layer(later)[:, :5])  # nothing from the future
        True
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = Spectral


@register
class SpectralDepthwiseConv2D(ConstrainedConvolution, keras.layers.DepthwiseConv2D):
    """Convolution of each channel by itself, each with singular values that are all equal.

    The operator is block-diagonal, one block for each channel of the input, so that its norm is
    the largest of the blocks'. The kernel of each channel, flattened to (patch, multiplier), is
    replaced by `k_coef_lip / sqrt(m)` times the orthogonal matrix nearest to it, `m` as in
    `SpectralConv2D`. `k_coef_lip`-Lipschitz for any finite raw kernel, provided that `activation`
    is 1-Lipschitz.

    Args:
        kernel_size: an integer or a pair.
        strides: an integer, the same along both axes; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the image by `(k - 1) // 2`
            pixels in front and `k // 2` behind, so that stride 1 keeps its size.
        depth_multiplier: number of outputs of each channel, at least 1; 1 by default.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        depthwise_initializer: of the raw kernel; default
            `SpectralInitializer(depthwise=True)`.
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
        *args: the arguments of `keras.layers.DepthwiseConv2D` after `depth_multiplier`, in their
            order.
        **kwargs: every other argument of `keras.layers.DepthwiseConv2D`, except dilation.

    Input shape: `(batch, rows, columns, channels)`, or channels first by `data_format`. Output
    channel `c * depth_multiplier + i` is the i-th one of channel c.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, an unknown padding, strides that differ; an input of a size whose
            bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.SpectralDepthwiseConv2D(3, depth_multiplier=2)
        >>> tuple(layer(np.zeros((1, 8, 8, 3))).shape)
        (1, 8, 8, 6)
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = Spectral
    _kernel_argument = "depthwise"
    _positional = tuple(
        name.replace("kernel", "depthwise") for name in OF_CONVOLUTIONS if name != "groups"
    )
    _refused = NO_DILATION
    _coverable = ()
    _width = "depth_multiplier"

    def __init__(
        self,
        kernel_size,
        strides=1,
        padding: str = "same",
        depth_multiplier: int = 1,
        *args,
        **kwargs,
    ):
        super().__init__(depth_multiplier, kernel_size, strides, padding, *args, **kwargs)
        if len(set(self.strides)) > 1:
            raise ValueError(
                "`strides` of SpectralDepthwiseConv2D must be the same along both axes: not every "
                f"backend has others. Received: strides={strides}. Use SpectralConv2D."
            )

    @staticmethod
    def _convolve(inputs, kernel, **kwargs):
        return ops.depthwise_conv(inputs, kernel, **kwargs)

    def _output_channels(self, input_shape: tuple) -> int:
        return self.depth_multiplier * self._get_input_channel(input_shape)

    @staticmethod
    def _default_initializer():
        return SpectralInitializer(depthwise=True)
