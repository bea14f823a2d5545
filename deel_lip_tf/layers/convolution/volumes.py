"""Convolutions of volumes, and their adjoints, with a bounded kernel."""

import keras

from deel_lip_tf._registration import register
from deel_lip_tf.layers.convolution.patches import ConstrainedConvolution
from deel_lip_tf.layers.convolution.transposed import ConstrainedTranspose
from deel_lip_tf.normalizers import Spectral, UnitFrobenius


@register
class SpectralConv3D(ConstrainedConvolution, keras.layers.Conv3D):
    """Convolution of volumes whose flattened kernel has all its singular values equal.

    As `SpectralConv2D`, along three axes: `W`, flattened to (patch, filters), is
    `k_coef_lip / sqrt(m)` times the orthogonal matrix nearest to the raw kernel, and `m` is the
    largest number of patches that share a voxel. `k_coef_lip`-Lipschitz for any finite raw kernel,
    provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or three.
        strides: an integer or three; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the volume by `(k - 1) // 2`
            voxels in front and `k // 2` behind, so that stride 1 keeps its size.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        parametrization: another one of `deel_lip_tf.normalizers`, in place of the fields below.
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
            bound of the norm of the operation with the orthogonal kernel, for volumes of any size.
        *args: the arguments of `keras.layers.Conv3D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv3D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, planes, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.SpectralConv3D(8, 3, activation=lip.layers.GroupSort2())
        >>> x, y = np.random.default_rng(0).normal(size=(2, 1, 4, 6, 6, 2))
        >>> bool(np.linalg.norm(layer(x) - layer(y)) <= np.linalg.norm(x - y))
        True
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = Spectral


@register
class FrobeniusConv3D(ConstrainedConvolution, keras.layers.Conv3D):
    """Convolution of volumes whose kernel is divided by its Frobenius norm.

    `W = k_coef_lip / sqrt(m) * kernel / ||kernel||_F` with `m` the largest number of patches that
    share a voxel; the layer is `k_coef_lip`-Lipschitz for any finite raw kernel, and usually much
    less, provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or three.
        strides: an integer or three; 1 by default.
        padding: `"same"` (the default) or `"valid"`, with zeros or none, or `"circular"`,
            `"symmetric"`, `"reflect"`, `"replicate"`, which extend the volume by `(k - 1) // 2`
            voxels in front and `k // 2` behind, so that stride 1 keeps its size.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        parametrization: another one of `deel_lip_tf.normalizers`.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        *args: the arguments of `keras.layers.Conv3D` after `padding`, in their order.
        **kwargs: every other argument of `keras.layers.Conv3D`, except dilation, groups, LoRA and
            quantization.

    Input shape: `(batch, planes, rows, columns, channels)`, or channels first by `data_format`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, groups, LoRA, quantization or an unknown padding; an input of a size
            whose bound is larger than the one the layer was built for.

    Example:
        >>> layer = lip.layers.FrobeniusConv3D(4, 2)
        >>> layer.build((None, 4, 4, 4, 2))
        >>> round(float(np.linalg.norm(layer.effective_kernel())), 4)  # a voxel lies in 8 patches
        0.3536
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = UnitFrobenius


@register
class SpectralConv3DTranspose(ConstrainedTranspose, keras.layers.Conv3DTranspose):
    """Transposed convolution of volumes whose flattened kernel has its singular values equal.

    The adjoint of a `SpectralConv3D`-like convolution: the kernel (planes, rows, columns, filters,
    inputs) is flattened to (patch * filters, inputs), and the gain is `1 / sqrt(m)` with `m` the
    largest number of contributions that one output voxel receives. `k_coef_lip`-Lipschitz for any
    finite raw kernel, provided that `activation` is 1-Lipschitz.

    Args:
        filters: number of channels of the output, at least 1.
        kernel_size: an integer or three.
        strides: an integer or three; 1 by default.
        padding: `"same"` (the default) or `"valid"`, or `"circular"`, `"symmetric"`, `"reflect"`,
            `"replicate"`: the adjoint of the convolution of a volume of `strides` times the size
            with that padding. What falls beyond the border is added to the voxel that the padding
            would have copied there; for `"circular"` it goes round.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        parametrization: another one of `deel_lip_tf.normalizers`, in place of the fields below.
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
            bound of the norm of the operation with the orthogonal kernel, for volumes of any size.
        *args: the arguments of `keras.layers.Conv3D` after `padding`, in their order, without
            `groups`.
        **kwargs: every other argument of `keras.layers.Conv3DTranspose` (`output_padding`
            included, with `"same"` and `"valid"`), except dilation.

    Input shape: `(batch, planes, rows, columns, channels)`, or channels first by `data_format`.
    The output has `strides` times as many planes, rows and columns, except where Keras says
    otherwise for `"valid"` and `output_padding`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: dilation, an unknown padding, `output_padding` with a padding that copies.

    Example:
        >>> layer = lip.layers.SpectralConv3DTranspose(2, 2, strides=2)
        >>> tuple(layer(np.zeros((1, 2, 3, 3, 4))).shape)
        (1, 4, 6, 6, 2)
        >>> lip.bounds.lipschitz_bound(layer).value <= 1 + 1e-6
        True
    """

    parametrization_class = Spectral
