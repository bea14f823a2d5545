"""What every layer of known Lipschitz constant shares: the constant, and how it is exported."""

import contextlib
import contextvars
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from deel_lip_tf._keras import float64_kept_for, replaced_method
from deel_lip_tf._validation.constructors import CheckedArguments
from deel_lip_tf.normalizers import check_lipschitz_factor

_NONE: Mapping[int, Any] = types.MappingProxyType({})
_KERNELS: contextvars.ContextVar[Mapping] = contextvars.ContextVar("kernels", default=_NONE)


@contextlib.contextmanager
def kernels_in_use(kernels: Mapping[int, Any]) -> Iterator[None]:
    """Calls of layers take effective kernels from here, by `id(layer)`, and compute the others."""
    token = _KERNELS.set(kernels)
    try:
        yield
    finally:
        _KERNELS.reset(token)


def kernel_in_use(layer: keras.layers.Layer) -> Any:
    """The effective kernel that a call of a layer computes with."""
    kernel = _KERNELS.get().get(id(layer))
    # A variable is read: Keras's operations take tensors.
    return layer.effective_kernel() if kernel is None else kernel[...]


class LipschitzLayer(CheckedArguments):
    """Mixin of the layers whose Lipschitz constant is `k_coef_lip`, whatever their weights.

    The constant is with respect to Euclidean norms of the flattened input and output. A class that
    inherits from it sets `k_coef_lip` through `set_klip_factor` in its constructor. The few layers
    that measure a factor on data say so by `is_guaranteed` and `lipschitz_constant()`.

    Example:
        >>> class Tanh(lip.layers.LipschitzLayer, keras.layers.Layer):
        ...     def __init__(self, k_coef_lip=1.0, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.set_klip_factor(k_coef_lip)
        ...     def call(self, inputs):
        ...         return self.k_coef_lip * keras.ops.tanh(inputs)
        >>> model = lip.Sequential([keras.Input((3,)), Tanh(), Tanh()], k_coef_lip=4.0)
        >>> [layer.k_coef_lip for layer in model.layers]
        [2.0, 2.0]
    """

    k_coef_lip: float = 1.0
    coef_lip: float | None = None
    # Arguments that each class keeps under their names, and those that a subclass decides.
    _own_arguments: tuple[str, ...] = ()
    _filled_in: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        """Whatever a class exports its layers to, they have to compute that."""
        super().__init_subclass__(**kwargs)
        if "vanilla_export" in vars(cls):
            cls.vanilla_export = _checked(cls.vanilla_export)  # type: ignore[method-assign]

    @property
    def is_guaranteed(self) -> bool:
        """Whether the constant is at most `k_coef_lip`, whatever the weights."""
        return True

    def lipschitz_constant(self) -> float | None:
        """A bound of the constant with the weights as they are; `None` before there are any."""
        return self.k_coef_lip

    def __call__(self, *args, **kwargs):
        """As in Keras; a layer of float64 computes in it on every backend."""
        with float64_kept_for(self.compute_dtype):
            return super().__call__(*args, **kwargs)

    def set_klip_factor(self, klip_factor: float) -> None:
        """Sets the Lipschitz constant; takes effect at the next call.

        A compiled function that was traced before keeps the old constant: this library's
        `Sequential` and `Model` trace again by themselves, a plain Keras model after `compile`.

        Raises:
            TypeError, ValueError: `klip_factor` is not a positive finite number.
        """
        self.k_coef_lip = check_lipschitz_factor(klip_factor)

    def _compute_lip_coef(self, input_shape=None) -> float:
        """For layers written for deel-lip: the factor that makes theirs 1-Lipschitz."""
        return 1.0

    def _init_lip_coef(self, input_shape) -> None:
        """For layers written for deel-lip: they call it in their `build`, and nobody else does."""
        self.coef_lip = self._compute_lip_coef(input_shape)

    def _get_coef(self) -> float:
        """For layers written for deel-lip: the factor of their output, `coef_lip * k_coef_lip`.

        Raises:
            ValueError: `_init_lip_coef` was not called.
        """
        if self.coef_lip is None:
            raise ValueError(
                f"{type(self).__name__} has no factor yet: call `self._init_lip_coef(input_shape)` "
                "in its `build`, and build it before `_get_coef`. Received: coef_lip=None."
            )
        return self.coef_lip * self.k_coef_lip

    def get_config(self) -> dict:
        """The Keras parent's arguments, `k_coef_lip`, and what `_own_arguments` names."""
        classes = reversed(type(self).__mro__)
        names = [name for cls in classes for name in vars(cls).get("_own_arguments", ())]
        own = {name: getattr(self, name) for name in names if name not in self._filled_in}
        return {**super().get_config(), "k_coef_lip": self.k_coef_lip, **own}

    def vanilla_export(self) -> keras.layers.Layer:
        """A copy of the layer, of the same name, in Keras's own layers where there are any.

        Layers that Keras has no equivalent of (the sorting activations) are copied as they are.

        Raises:
            ValueError: a `call` that is not that of the class which exports the layer.
        """
        check_exported(self)
        copy = type(self).from_config(self.get_config())
        if self.built and self.weights:
            copy.build(self.get_build_config()["input_shape"])
            copy.set_weights([ops.convert_to_numpy(weight) for weight in self.weights])
        return copy


class Condensable:
    """Mixin of the layers whose raw kernel can be replaced by its projection.

    Example:
        >>> layer = lip.layers.SpectralDense(2)
        >>> before = layer(np.eye(4))
        >>> _ = layer.kernel.assign(100.0 * layer.kernel)
        >>> layer.condense()
        >>> np.allclose(layer(np.eye(4)), before, atol=1e-3)  # the layer computes the same
        True
        >>> np.allclose(layer.kernel, layer.wbar, atol=1e-3)
        True
    """

    def condense(self) -> None:
        """Writes the projected kernel into the raw one; the layer's output stays what it was."""
        raise NotImplementedError

    def vanilla_export(self) -> keras.layers.Layer:
        """The plain Keras layer, of the same name, that computes with the effective kernel."""
        raise NotImplementedError


def check_exported(layer: keras.layers.Layer) -> None:
    """Refuses a layer that computes something else than its class exports it to.

    Raises:
        ValueError: a method was replaced on the layer, or overridden below the class that exports.
    """
    if (name := replaced_method(layer) or _overridden(layer)) is not None:
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) has a `{name}` of its own, which an "
            "export would lose. Give its class a `vanilla_export` that returns what it computes."
        )


def _overridden(layer: keras.layers.Layer) -> str | None:
    """The name of a call that is overridden below the class that exports a layer, or None."""
    exporting = getattr(type(layer), "vanilla_export", None)
    if exporting in (None, LipschitzLayer.vanilla_export):
        return None  # a copy of the same class computes the same
    below = itertools.takewhile(lambda c: "vanilla_export" not in vars(c), type(layer).__mro__)
    own = [c for c in below if not c.__module__.startswith(("keras.", "deel_lip_tf."))]
    return next((name for c in own for name in ("call", "__call__") if name in vars(c)), None)


def _checked(export: Callable) -> Callable:
    """An export that begins with `check_exported`."""

    @functools.wraps(export)
    def checked(self: LipschitzLayer, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        check_exported(self)
        return export(self, *args, **kwargs)

    return checked


def rescaled_export(
    layer: LipschitzLayer, plain: keras.layers.Layer, factor: float
) -> keras.layers.Layer:
    """`plain`, or where `factor` is not 1 a model named as `layer` that multiplies by it after."""
    if factor == 1:
        return plain
    plain_name, plain.name = plain.name, f"{plain.name}_unscaled"
    rescaling = keras.layers.Rescaling(factor, dtype=layer.dtype_policy)
    model = keras.Sequential([plain, rescaling], name=plain_name)
    if layer.built:
        model.build(layer.get_build_config()["input_shape"])
    return model


def operation_export(layer: LipschitzLayer, operation) -> keras.layers.Layer:
    """A Keras model, named as `layer`, of the Keras operations in `operation(tensor)`.

    It loads without this library. Keras records operations for known sizes only: a layer built
    with unknown ones is copied as it is.
    """
    shape = layer.get_build_config()["input_shape"] if layer.built else (None, None)
    if None in shape[1:]:
        return LipschitzLayer.vanilla_export(layer)
    inputs = keras.Input(shape[1:], dtype=layer.compute_dtype)
    return keras.Model(inputs, operation(inputs), name=layer.name)
