"""The one owner of constrained kernels: raw weights, and the kernel that a layer computes with."""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from deel_lip_tf._keras import float64_kept_for
from deel_lip_tf._validation.constructors import check_activation, named
from deel_lip_tf.initializers import SpectralInitializer
from deel_lip_tf.layers.base import Condensable, LipschitzLayer, kernel_in_use
from deel_lip_tf.normalizers import Operation, Parametrization
from deel_lip_tf.normalizers.parametrization import parametrization_of
from deel_lip_tf.normalizers.polar.lapack import by_lapack

# Constants between a power of 2 with this exponent and its inverse leave raw kernels as they are.
_MODERATE_EXPONENT = 4


def with_bias(outputs, bias, data_format: str | None):
    """`outputs + bias`, along the channels."""
    if data_format != "channels_first":
        return ops.add(outputs, bias)  # may be one operation with what is before it
    # Keras's `add` would take the last axis where that is as long as the bias.
    return outputs + ops.reshape(bias, (-1, *[1] * (len(outputs.shape) - 2)))


class Retraction:
    """What brings a raw weight back after each update of an optimizer, and sees its matrices.

    Args:
        layer: that the weight belongs to.
        name: of the weight, as the layer's parametrization has it.
    """

    def __init__(self, layer: "ConstrainedKernel", name: str):
        self.layer = layer
        self.name = name

    def __call__(self, weight):
        """The weight, back on the manifold."""
        return self.layer._retracted(self.name, weight)

    def on_matrices(self, function: Callable, weight):
        """The weight with `function` applied to each matrix that is kept orthogonal."""
        layer = self.layer
        return layer.parametrization.on_matrices(function, self.name, weight, layer.operation)


class ConstrainedKernel(LipschitzLayer, Condensable):
    """Mixin, before a Keras layer with a `kernel`, that computes with the effective kernel.

    The effective kernel is `k_coef_lip / bound * kernel`, where a parametrization makes `kernel` of
    the raw weights, a pure function of them, and proves `bound` of the operation with it: nothing
    is cached and no state is added to the Keras layer's own. A family (dense, convolution) says
    how to apply a kernel, by `_apply_kernel`, and what operation that is, by `_operation_on`; a
    public class sets `parametrization_class`, whose fields become arguments of the layer. Another
    parametrization is an argument of every layer.

    Where the parametrization retracts after each update and `is_scale_free`, the raw kernel is the
    effective one, up to 5e-5 of it, once the layer is built and after each update. Nothing that is
    proven depends on it.
    """

    plain_class: type[keras.layers.Layer]
    parametrization_class: type[Parametrization]
    # Keras names the kernel's initializer, regularizer and constraint after it, or not.
    _kernel_argument = "kernel"
    # Those after the ones that a constructor spells out: in deel-lip's order, which is no longer
    # Keras's everywhere.
    _positional: tuple[str, ...] = ()
    _refused: dict = {}
    _factors: dict | None = None

    def __init_subclass__(cls, **kwargs):
        """The plain class is the Keras layer beside the mixins, unless the class names another."""
        super().__init_subclass__(**kwargs)
        if "plain_class" in vars(cls):
            return
        layers = (c for c in cls.__mro__ if issubclass(c, keras.layers.Layer))
        plain = next((c for c in layers if not issubclass(c, LipschitzLayer)), None)
        if plain is not None:
            cls.plain_class = plain

    def __init__(self, *args, k_coef_lip: float = 1.0, parametrization=None, **kwargs):
        kwargs = named(type(self).__name__, self._positional, args, kwargs)
        check_activation(type(self).__name__, kwargs.get("activation"))
        names = [field.name for field in dataclasses.fields(self.parametrization_class)]
        chosen = {name: kwargs.pop(name) for name in names if name in kwargs}
        found = parametrization_of(
            type(self).__name__, self.parametrization_class, chosen, parametrization
        )
        _refuse_unboundable(type(self).__name__, kwargs, self._refused_with(found))
        initializer = f"{self._kernel_argument}_initializer"
        kwargs[initializer] = kwargs.get(initializer) or self._default_initializer()
        super().__init__(**kwargs)
        self.parametrization = found
        self.operation = Operation()
        self.set_klip_factor(k_coef_lip)

    @classmethod
    def _refused_with(cls, parametrization: Parametrization) -> dict:
        """Arguments that the bound does not cover, with the values that leave them off."""
        return cls._refused

    @staticmethod
    def _default_initializer():
        return SpectralInitializer()

    @classmethod
    def _keyword_defaults(cls) -> dict:
        """What `**kwargs` takes besides the arguments of Keras's layer, or with other defaults."""
        fields = dataclasses.fields(cls.parametrization_class)
        initializer = {f"{cls._kernel_argument}_initializer": cls._default_initializer()}
        return {**initializer, **{field.name: field.default for field in fields}}

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        if type(self.parametrization) is self.parametrization_class:
            return {**super().get_config(), **self.parametrization.get_config()}
        serialized = keras.saving.serialize_keras_object(self.parametrization)
        return {**super().get_config(), "parametrization": serialized}

    def add_weight(self, *args, **kwargs):
        """As in Keras, but raw kernels are never rounded before they are projected.

        The parametrization says which there are. Unless there is a constraint of their own, an
        optimizer retracts them after each update where the parametrization does: what the layer
        computes hardly changes, and the next step costs less.
        """
        if kwargs.get("name") != "kernel":
            return super().add_weight(*args, **kwargs)
        shapes = self.parametrization.weights_for(self.operation, tuple(kwargs["shape"]))
        if shapes == {"kernel": tuple(kwargs["shape"])}:
            return self._add_raw_weight(**kwargs)
        own, options = self.parametrization.initializers, self.parametrization.options
        self._factors = {}
        for name, shape in shapes.items():
            drawn = own.get(name, kwargs.get("initializer"))
            arguments = {**kwargs, "name": name, "shape": shape, "initializer": drawn}
            self._factors[name] = self._add_raw_weight(**{**arguments, **options.get(name, {})})
        return self._factors.get("kernel")

    def _add_raw_weight(self, **kwargs):
        if kwargs.get("constraint") is None and self.parametrization.is_retracting:
            kwargs["constraint"] = Retraction(self, kwargs["name"])
            if self._keeps_effective_kernel:
                kwargs["initializer"] = functools.partial(self._drawn, kwargs["initializer"])
        return super().add_weight(**{**kwargs, "autocast": False})

    def _drawn(self, initializer, shape, dtype=None):
        """An initial kernel that is the effective one from the start."""
        kernel = keras.initializers.get(initializer)(shape, dtype=dtype)
        with by_lapack():
            kernel = self.parametrization.retracted({"kernel": kernel}, self.operation)["kernel"]
        return ops.cast(self.k_coef_lip * kernel, dtype)

    @property
    def is_guaranteed(self) -> bool:
        """Whether the constant is at most `k_coef_lip`, whatever the weights."""
        return self.parametrization.is_guaranteed

    def lipschitz_constant(self) -> float | None:
        """A bound of the constant with the weights as they are; `None` before there are any."""
        if not self.built:
            return self.k_coef_lip if self.is_guaranteed else None
        if self.is_guaranteed:
            ceiling = self.parametrization.ceiling(self.raw_weights)
            return self.k_coef_lip * float(ops.convert_to_numpy(ceiling))
        bound = self.operation.norm_bound(self.effective_kernel())
        return float(ops.convert_to_numpy(bound))

    @property
    def raw_weights(self) -> dict:
        """The trainable tensors that the kernel is made of: `kernel` itself, or its factors."""
        return {"kernel": self.kernel} if self._factors is None else dict(self._factors)

    def build(self, input_shape):
        """Creates the weights; the bound is that of this input shape from now on."""
        self.operation = self._operation_on(tuple(input_shape))
        self.parametrization.reuse(self.operation)
        build_activation(self, self.compute_output_shape(input_shape))
        super().build(input_shape)
        self.built = True

    def _operation_on(self, input_shape: tuple) -> Operation:
        """The operation on inputs of this shape."""
        return Operation()

    def _apply_kernel(self, inputs, kernel):
        """The linear operation, without bias."""
        raise NotImplementedError

    def effective_kernel(self):
        """The kernel of the forward pass, in Keras's layout, in at least float32.

        Raises:
            ValueError: the layer is not built.
        """
        check_built(self)
        weights = self._moderate(self.raw_weights)
        with float64_kept_for(self.variable_dtype):
            projected = self.parametrization.projected(weights, self.operation)
        return projected.kernel * (self.k_coef_lip * (1 / projected.bound))

    @property
    def wbar(self):
        """deel-lip's name for `effective_kernel()`."""
        return self.effective_kernel()

    def _retracted(self, name: str, weight):
        weights = self._moderate({**self.raw_weights, name: weight})
        retracted = self.parametrization.retracted(weights, self.operation)[name]
        return ops.cast(self._raw_scale * retracted, weight.dtype)

    @property
    def _raw_scale(self) -> float:
        """What retracted and condensed kernels are multiplied by: they are the effective ones."""
        return self.k_coef_lip if self.parametrization.is_scale_free else 1.0

    @property
    def _keeps_effective_kernel(self) -> bool:
        """Whether updates leave the effective kernel in the raw one."""
        return self.parametrization.is_retracting and self.parametrization.is_scale_free

    def _moderate(self, weights: dict) -> dict:
        """The same kernel by weights near 1, of which eighth powers do not leave float32.

        By a power of 2, which rounds nothing, and halfway: kernels of scale 1, which earlier
        versions kept, are as welcome as those of scale `k_coef_lip`.
        """
        exponent = math.log2(self.k_coef_lip)
        if abs(exponent) <= _MODERATE_EXPONENT or not self._keeps_effective_kernel:
            return weights
        return {name: weight * 2.0 ** -round(exponent / 2) for name, weight in weights.items()}

    def call(self, inputs, training=None):
        """Applies the effective kernel, adds the bias, applies the activation."""
        kernel = ops.cast(kernel_in_use(self), self.compute_dtype)
        outputs = self._apply_kernel(inputs, kernel)
        if self.bias is not None:
            outputs = with_bias(outputs, self.bias, getattr(self, "data_format", None))
        return outputs if self.activation is None else self.activation(outputs)

    def set_klip_factor(self, klip_factor: float) -> None:
        """Sets the constant of the whole layer: an activation of this library is set to 1."""
        former = self.k_coef_lip
        super().set_klip_factor(klip_factor)
        if isinstance(self.activation, LipschitzLayer):
            self.activation.set_klip_factor(1.0)
        if self.built and self._keeps_effective_kernel and self.k_coef_lip != former:
            self.kernel.assign(self.kernel * (self.k_coef_lip / former))

    def condense(self) -> None:
        """Writes the effective kernel into the raw one; the layer's output stays what it was.

        Where the projection of a projected kernel would be another one (`AOL`), nothing is written.
        """
        raw = self.raw_weights
        with by_lapack():
            condensed = self.parametrization.condensed(raw, self.operation)
        for name, value in condensed.items():
            raw[name].assign(ops.cast(self._raw_scale * value, raw[name].dtype))

    def save_own_variables(self, store) -> None:
        """As Keras's layer; several raw weights in their order."""
        if self._factors is None:
            super().save_own_variables(store)
        else:
            keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store) -> None:
        """As Keras's layer; several raw weights in their order."""
        if self._factors is None:
            super().load_own_variables(store)
        else:
            keras.layers.Layer.load_own_variables(self, store)

    def vanilla_export(self) -> keras.layers.Layer:
        """The plain Keras layer, of the same name, with the effective kernel and the bias."""
        plain = self.plain_class.from_config(self._plain_config())
        if not self.built:
            return plain
        build_activation(plain, self.compute_output_shape(self._built_shape))
        plain.build(self._plain_input_shape())
        kernel = ops.cast(self.effective_kernel(), self.variable_dtype)
        plain.set_weights(exported_weights(self, kernel))
        return plain

    @property
    def _built_shape(self) -> tuple:
        return tuple(self.get_build_config()["input_shape"])

    def _plain_input_shape(self) -> tuple:
        """The input shape of the plain layer in the export."""
        return self._built_shape

    def _plain_config(self) -> dict:
        """The Keras parent's configuration, without what acts on the raw kernel only."""
        config = super(LipschitzLayer, self).get_config()
        for name in ("initializer", "regularizer", "constraint"):
            config.pop(f"{self._kernel_argument}_{name}")
        return config

    def enable_lora(self, *args, **kwargs):
        """Refused: the update would be added behind the constraint."""
        raise ValueError(
            f"LoRA adds to the kernel of layer {self.name!r} what its constraint does not see, and "
            "would break the Lipschitz bound. Fine-tune the plain layer instead: "
            "`layer.vanilla_export().enable_lora(rank)`."
        )

    def quantize(self, *args, **kwargs):
        """Refused: rounding the raw kernel is not rounding the effective one."""
        raise ValueError(
            f"Quantization rounds the raw kernel of layer {self.name!r}, not the one it computes "
            "with. Quantize the plain layer instead: `layer.vanilla_export().quantize(mode)`. No "
            "bound or certificate covers a layer that rounds its inputs too, as by default; of "
            "dense ones with quantized weights alone (`Int8QuantizationConfig(activation_quantizer="
            "None)`) both are proven again."
        )


def check_built(layer: keras.layers.Layer) -> None:
    """Raises a `ValueError` for a layer without weights, which has no effective kernel."""
    if not layer.built:
        raise ValueError(
            f"The effective kernel of layer {layer.name!r} depends on its weights: build the "
            "layer first, by calling it or by `layer.build(input_shape)`."
        )


def build_activation(layer: keras.layers.Layer, shape: tuple) -> None:
    """Builds the activation of a layer, where it is a layer, for an output of this shape."""
    activation = layer.activation
    if not isinstance(activation, keras.layers.Layer):
        return
    if tuple(activation.compute_output_shape(shape)) != tuple(shape):
        raise ValueError(
            f"`activation` of layer {layer.name!r} must keep the shape of its input, which "
            f"{type(activation).__name__} does not. Add it to the model as a layer of its own."
        )
    # Before the layer itself: Keras lets nothing below a built layer create weights.
    if not activation.built:
        activation.build(shape)


def exported_weights(layer: ConstrainedKernel, *kernel) -> list:
    """The weights of a layer as arrays, with another kernel, or none, in place of the raw weights.

    Args:
        layer: a built layer.
        *kernel: takes the place, in its own type.
    """
    raw = [id(weight) for weight in layer.raw_weights.values()]
    others = [weight for weight in layer.weights if id(weight) not in raw]
    return [ops.convert_to_numpy(weight) for weight in (*kernel, *others)]


_LORA_WAY_OUT = "Train without it, and add LoRA to `layer.vanilla_export()`."
NO_LORA = {
    "lora_rank": ((None,), _LORA_WAY_OUT),
    "lora_alpha": ((None,), _LORA_WAY_OUT),
    "quantization_config": (
        (None,),
        "Train without it, and quantize the weights of `layer.vanilla_export()`.",
    ),
}


# The order of Keras's own arguments in its dense and convolutional layers.
KERNEL_ARGUMENTS = (
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


def _refuse_unboundable(layer_name: str, arguments: dict, refused: dict) -> None:
    """Raises for arguments of a Keras parent under which the bound would not hold.

    Args:
        layer_name: class name for the message.
        arguments: keyword arguments meant for the Keras parent.
        refused: for each such argument, `(values that leave it off, the way out)`.

    Raises:
        ValueError: an argument has another value.
    """
    for name, (neutral, way_out) in refused.items():
        value = arguments.get(name)
        if isinstance(value, list):
            value = tuple(value)
        if value not in neutral:
            raise ValueError(f"{layer_name} has no bound with `{name}`={value!r}. {way_out}")
