"""Dense layers with a bounded kernel."""

from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf._validation.shapes import known_size
from deel_lip_tf.initializers import CenteredInitializer
from deel_lip_tf.layers.constrained import (
    KERNEL_ARGUMENTS,
    NO_LORA,
    ConstrainedKernel,
    Retraction,
)
from deel_lip_tf.normalizers import AOL, Frobenius, Spectral
from deel_lip_tf.normalizers.polar.dense_product import dense_product, is_worth_projecting
from deel_lip_tf.normalizers.polar.factor import factor_if_known, retracted_and_known
from deel_lip_tf.normalizers.polar.known import KnownInStep, known_kernel


class ConstrainedDense(ConstrainedKernel, keras.layers.Dense):
    """The dense family: `activation(inputs @ effective_kernel + bias)`."""

    _positional = (*KERNEL_ARGUMENTS, "lora_rank")
    _refused = NO_LORA

    def __init__(self, units: int, activation=None, use_bias: bool = True, *args, **kwargs):
        units = int(units) if isinstance(units, np.integer) else units  # Keras refuses NumPy's
        super().__init__(*args, units=units, activation=activation, use_bias=use_bias, **kwargs)

    def build(self, input_shape):
        """Creates the weights."""
        known_size(self, input_shape, -1)
        super().build(input_shape)

    def _apply_kernel(self, inputs, kernel):
        eps = self._eps_of_polar_factor(kernel)
        if eps is None or not is_worth_projecting(kernel):
            return ops.matmul(inputs, kernel)
        raw = ops.convert_to_tensor(self.kernel)
        inputs, known = ops.convert_to_tensor(inputs), known_kernel(self)
        return dense_product(inputs, kernel, raw, self.k_coef_lip, eps, known)

    def _retracted(self, name, weight):
        known, own = known_kernel(self), self.parametrization
        if known is None or not isinstance(own, Spectral) or own.eps_bjorck is None:
            return super()._retracted(name, weight)
        moderate = self._moderate({name: weight})[name]
        retracted, is_known = retracted_and_known(moderate, own.eps_bjorck, own.maxiter_bjorck)
        result = self._raw_scale * retracted
        known.kernel.remember(result, is_known)
        return result

    def is_worth_knowing(self) -> bool:
        """Whether comparing the kernel costs less than projecting it, in float32 on TensorFlow."""
        kernel = self.kernel
        return (
            kernel.dtype == "float32"
            and self.trainable
            and isinstance(kernel.constraint, Retraction)
            and self._eps_of_polar_factor(kernel) is not None
            and is_worth_projecting(kernel)
        )

    def kernel_if_known(self, known: KnownInStep):
        """The effective kernel, from its raw one where that is known to be orthogonal.

        No gradient goes through it to the raw one: `_apply_kernel` sees to that.
        """
        raw = ops.convert_to_tensor(self.kernel)
        own: Any = self.parametrization  # a Spectral one: `is_worth_knowing`
        gain = self.k_coef_lip
        moderate = self._moderate({"kernel": raw})["kernel"]
        return factor_if_known(raw, moderate, known, gain, own.eps_bjorck, own.maxiter_bjorck)

    def _eps_of_polar_factor(self, kernel) -> float | None:
        """Of a multiple of the polar factor of the raw kernel, in its own type; else None."""
        own = self.parametrization
        if type(own) is not Spectral or not own.is_retracting:
            return None
        return own.eps_bjorck if kernel.dtype == self.kernel.dtype == self.compute_dtype else None

    @property
    def disjoint_neurons(self) -> bool:
        """Whether each output is bounded by itself, and all of them are not jointly."""
        return getattr(self.parametrization, "disjoint_neurons", False)


@register
class SpectralDense(ConstrainedDense):
    """Dense layer whose kernel has all its singular values equal to `k_coef_lip`.

    `y = activation(x @ W + b)` with `W = k_coef_lip * polar(kernel)`, the orthogonal matrix nearest
    to the raw kernel. The layer is `k_coef_lip`-Lipschitz for any finite raw kernel, provided that
    `activation` is 1-Lipschitz, and preserves the norm of gradients.

    Args:
        units: dimension of the output, at least 1.
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
        gain: `"counted"` (the default) or `"measured"`: of convolutions; the same for a product.
        *args: the arguments of `keras.layers.Dense` after `use_bias`, in their order.
        **kwargs: every other argument of `keras.layers.Dense`, except LoRA and quantization.

    Input shape: `(batch, ..., inputs)`. Output shape: `(batch, ..., units)`.

    Raises:
        TypeError: a number of another type, or a class, not an instance of one, as `activation`.
        ValueError: `k_coef_lip` not positive, LoRA or quantization asked for, or a parameter of
            the projection outside its range.

    Example:
        >>> layer = lip.layers.SpectralDense(4, activation=lip.layers.GroupSort2(), k_coef_lip=2.0)
        >>> layer.build((None, 8))
        >>> _ = layer.kernel.assign(np.random.default_rng(0).normal(scale=100.0, size=(8, 4)))
        >>> print(np.linalg.svd(layer.effective_kernel(), compute_uv=False).round(3))
        [2. 2. 2. 2.]
        >>> lip.bounds.lipschitz_bound(layer).value <= 2 * (1 + 1e-6)
        True

    Source: Anil, Lucas, Grosse, 2019, arXiv:1811.05381.
    """

    parametrization_class = Spectral


@register
class FrobeniusDense(ConstrainedDense):
    """Dense layer whose kernel is divided by Euclidean norms.

    With `disjoint_neurons`, every column has norm `k_coef_lip`: each output by itself is
    `k_coef_lip`-Lipschitz, all together are only `sqrt(units) * k_coef_lip`-Lipschitz, so it
    belongs at the end of a network, as the head of a classifier. Without, the whole kernel has
    Frobenius norm `k_coef_lip`, which then is the constant of the layer.

    Args:
        units: dimension of the output, at least 1.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `SpectralInitializer()`.
        disjoint_neurons: norms of columns (`True`, the default) or of the whole kernel (`False`).
        parametrization: another one of `deel_lip_tf.normalizers`, or its name: "spectral",
            "frobenius", "aol" or "at_most".
        k_coef_lip: the Lipschitz constant, of each output or of the layer: positive, 1 by default.
        *args: the arguments of `keras.layers.Dense` after `use_bias`, in their order.
        **kwargs: every other argument of `keras.layers.Dense`, except LoRA and quantization.

    Input shape: `(batch, ..., inputs)`. Output shape: `(batch, ..., units)`.

    Raises:
        TypeError: an argument of another type, or a class, not an instance of one, as `activation`.
        ValueError: `k_coef_lip` not positive, LoRA or quantization asked for.

    Example:
        >>> layer = lip.layers.FrobeniusDense(3)
        >>> layer.build((None, 5))
        >>> print(np.linalg.norm(layer.effective_kernel(), axis=0).round(4))  # each output
        [1. 1. 1.]
        >>> together = lip.layers.FrobeniusDense(3, disjoint_neurons=False)
        >>> together.build((None, 5))
        >>> round(float(np.linalg.norm(together.effective_kernel())), 4)
        1.0
    """

    parametrization_class = Frobenius

    def __init__(
        self,
        units: int,
        activation=None,
        use_bias: bool = True,
        *args,
        disjoint_neurons: bool = True,
        **kwargs,
    ):
        disjoint_neurons = flag("disjoint_neurons", disjoint_neurons)
        if kwargs.get("parametrization") is None or not disjoint_neurons:
            kwargs["disjoint_neurons"] = disjoint_neurons
        super().__init__(units, activation, use_bias, *args, **kwargs)


@register
class AOLDense(ConstrainedDense):
    """Dense layer whose columns, or rows, are divided by what bounds their products.

    `W = k_coef_lip * K D**(-1/2)` of the raw kernel `K`, where `D_ii = sum_j |K'K|_ij`, on its
    smaller side. The layer is `k_coef_lip`-Lipschitz for any finite raw kernel, provided that
    `activation` is 1-Lipschitz, and nearly orthogonal where training makes it so: no iteration.

    Args:
        units: dimension of the output, at least 1.
        activation: a function, a name such as "relu", a layer such as `GroupSort2()`, or `None`,
            the default, for none; the constant of the layer assumes that it is 1-Lipschitz.
        use_bias: whether to add a bias; True by default.
        kernel_initializer: of the raw kernel; default `CenteredInitializer()`, an orthogonal one.
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        parametrization: how the kernel is made of the raw one; `None`, the default, for
            `deel_lip_tf.normalizers.AOL()`.
        *args: the arguments of `keras.layers.Dense` after `use_bias`, in their order.
        **kwargs: every other argument of `keras.layers.Dense`, except LoRA and quantization.

    Input shape: `(batch, ..., inputs)`. Output shape: `(batch, ..., units)`.

    Raises:
        ValueError: `k_coef_lip` not positive, LoRA or quantization asked for.

    Example:
        >>> hidden = lip.layers.AOLDense(16, activation=lip.layers.GroupSort2())
        >>> model = lip.Sequential([keras.Input((8,)), hidden, lip.layers.AOLDense(3)])
        >>> lip.bounds.lipschitz_bound(model).value <= 1 + 1e-6
        True

    Source: Prach and Lampert, 2022, arXiv:2208.03160.
    """

    parametrization_class = AOL
    _default_initializer = CenteredInitializer
