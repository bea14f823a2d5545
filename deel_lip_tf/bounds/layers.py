"""Single layers: an exact type decides the rule, and a type without a rule is refused."""

import keras
from keras import layers

from deel_lip_tf._rounding import UNIT, product_up
from deel_lip_tf.bounds.kernels import Shape, has_kernel, kernel_of, linear_operators
from deel_lip_tf.bounds.norms.operators import Copies, Operator, Sums, operator_bound
from deel_lip_tf.bounds.simple import activation_bound, simple_bound
from deel_lip_tf.semantics.norms import L2, Norm

__all__ = ["Unbounded", "kernel_of", "layer_bound"]


class Unbounded(ValueError):
    """No bound of one layer is known; the message is the reason, without the layer's name."""


def layer_bound(
    layer: keras.layers.Layer,
    input_shape: Shape,
    norm: Norm = L2,
    budget: float = 1.0,
    *,
    instead: list[Operator] | None = None,
) -> tuple[float, str]:
    """Bounds one layer, its activation included, for inputs of a given shape.

    Args:
        layer: built.
        input_shape: with the batch axis, None for unknown sizes.
        norm: of inputs and outputs.
        budget: work for each convolution.
        instead: what takes the place of the linear part of the layer.

    Returns:
        `(value, method)`.

    Raises:
        Unbounded: if the type, an argument or the activation has no rule, or weights are missing.
    """
    if getattr(layer, "quantization_mode", None) is not None:
        raise Unbounded("it is quantized, and rounds its inputs: bound it before it is quantized")
    if getattr(layer, "lora_enabled", False):
        raise Unbounded("LoRA weights are not merged into its kernel: save and reload it")
    if not has_kernel(layer):
        constant = simple_bound(layer, input_shape, norm)
        if constant is None:
            raise Unbounded(_reason(layer, norm))
        # The layers of this library multiply by their constant once or twice.
        return (constant if constant == 1.0 else constant * (1.0 + 16.0 * UNIT)), "known constant"
    if not layer.built:
        raise Unbounded("it has no weights yet: build it, by `build(input_shape)` or by a call")
    activation = getattr(layer, "activation", None)
    slope = activation_bound(activation, norm)
    if slope is None:
        raise Unbounded(_activation_reason(activation))
    try:
        operators = linear_operators(layer, input_shape) if instead is None else instead
        bounds = [operator_bound(operator, norm, budget) for operator in operators]
    except ValueError as error:
        raise Unbounded(str(error)) from error
    value = product_up(*(bound for bound, _ in bounds), slope)
    return value, _method(operators, [text for _, text in bounds])


def _method(operators: list[Operator], texts: list[str]) -> str:
    """What the first kernel was bounded by, and what comes before and after it."""
    method = next(text for text in texts if text)
    if len([text for text in texts if text]) > 1:
        method += ", times the pointwise kernel"
    if any(isinstance(one, Copies) and one.count > 1 for one in operators):
        method += ", after the padding"
    if any(isinstance(one, Sums) and one.count > 1 for one in operators):
        method += ", after a sum"
    return method


def _activation_reason(activation) -> str:
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"its activation {name!r} has no known Lipschitz constant"


def _reason(layer, norm: Norm) -> str:
    if (reason := _REASONS.get(type(layer))) is not None:
        return reason
    if isinstance(layer, layers.Rescaling | layers.Normalization) and not layer.built:
        return "it is not built, and its arguments may broadcast its input: build it"
    if isinstance(layer, layers.Activation):
        return _activation_reason(layer.activation)
    if norm != L2 and simple_bound(layer, None, L2) is not None:
        return f"no {norm.name} constant is known for this type and these arguments"
    return "no Lipschitz constant is known for this type and these arguments"


_NORMALIZES = (
    "it divides each sample by its own {}, so that its slope grows without a useful limit where "
    "that is small; center by LayerCentering, or scale by BatchNormalization"
)
_ATTENDS = "it multiplies functions of its input, so that its slope grows with the input"
_REMEMBERS = "no rule is known for recurrent layers"

_REASONS: dict[type, str] = {
    layers.LayerNormalization: _NORMALIZES.format("standard deviation"),
    layers.GroupNormalization: _NORMALIZES.format("standard deviation"),
    layers.RMSNormalization: _NORMALIZES.format("root mean square"),
    layers.UnitNormalization: _NORMALIZES.format("norm"),
    layers.Attention: _ATTENDS,
    layers.AdditiveAttention: _ATTENDS,
    layers.MultiHeadAttention: _ATTENDS,
    layers.GroupQueryAttention: _ATTENDS,
    layers.SimpleRNN: _REMEMBERS,
    layers.LSTM: _REMEMBERS,
    layers.GRU: _REMEMBERS,
    layers.Lambda: "it may compute anything",
    layers.Masking: "it jumps where all features of a step equal the mask value",
}
