"""Single layers: an exact type decides the rule, and a type without a rule is unsupported."""

import keras

from deel_lip_tf._rounding import UNIT, product_up, sum_up
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.recurrence import recurrence_bound
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import proven_slope
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import Copies, Operator, Potential, Shape, Sums
from deel_lip_tf.semantics.rule import Rule, lipschitz_constant, rule_for
from deel_lip_tf.semantics.state import check_built, check_merged, check_quantization


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
        UnsupportedLayerError: if the type, an argument or the activation has no rule, or weights
            are missing.
    """
    check_quantization(layer)
    check_merged(layer)
    known = rule_for(layer)
    if (potential := known.potential(layer, input_shape)) is not None:
        return potential_bound(potential, norm, budget)
    if (recurrence := known.recurrence(layer, input_shape)) is not None:
        slope = proven_slope(layer.activation, norm, recurrence.state_shape)
        return recurrence_bound(recurrence, slope, norm, budget)
    if not known.knows("operators"):
        constant = lipschitz_constant(layer, input_shape, norm)
        if constant is None:
            raise UnsupportedLayerError(_reason(layer, known, norm))
        # The layers of this library multiply by their constant once or twice.
        return (constant if constant == 1.0 else constant * (1.0 + 16.0 * UNIT)), "known constant"
    check_built(layer)
    activation = getattr(layer, "activation", None)
    is_layer = isinstance(activation, keras.layers.Layer) and input_shape is not None
    output_shape = layer.compute_output_shape(input_shape) if is_layer else None
    slope = proven_slope(activation, norm, output_shape)
    operators = instead or known.operators(layer, input_shape) or []
    bounds = [operator_bound(operator, norm, budget) for operator in operators]
    value = product_up(*(bound for bound, _ in bounds), slope)
    return value, _method(operators, [text for _, text in bounds])


def potential_bound(potential: Potential, norm: Norm, budget: float) -> tuple[float, str]:
    """`x -> x - 2 V relu(V^T x + c)` multiplies a difference by `I - 2 V D V^T`, `0 <= D <= I`.

    That matrix is symmetric, and its eigenvalues are between `1 - 2 ||V||_2**2` and 1.
    """
    value, method = operator_bound(potential.operator, norm, budget)
    if norm == L2:
        # Below 1 where V is not above it; the product is rounded by far less than this.
        constant = max(1.0, 2.0 * value * value * (1.0 + 4.0 * UNIT) - 1.0)
        constant = constant if constant == 1.0 else constant * (1.0 + 4.0 * UNIT)
    else:
        adjoint, _ = operator_bound(potential.operator, norm.dual, budget)
        constant = sum_up([1.0, product_up(2.0, value, adjoint)])
    # The layer multiplies by its factor once.
    return product_up(constant, potential.factor), f"{method}, of a convex potential"


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


def _reason(layer: keras.layers.Layer, known: Rule, norm: Norm) -> str:
    if (reason := known.reason(layer)) is not None:
        return reason
    if norm != L2 and lipschitz_constant(layer) is not None:
        return f"no {norm.name} constant is known for this type and these arguments"
    return "no Lipschitz constant is known for this type and these arguments"
