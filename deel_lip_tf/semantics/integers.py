"""Where arithmetic of integers is that of real numbers, and what is refused because it may not be.

Integers wrap around: `x - 128` of a uint8 image is 255 at `x = 127`. Every tensor of integers
carries the smallest and the largest value it can have, from the type of the model's input on; a
sum, difference or product is taken for that of real numbers where its range fits its type. What
turns integers into floats first, or only moves them, is always exact.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers

from deel_lip_tf._keras import operation_name
from deel_lip_tf.semantics.rule import rule_for

if TYPE_CHECKING:
    from deel_lip_tf.semantics.graph import Call


Range = tuple[int, int]


def is_float(dtype: str) -> bool:
    """Whether tensors of a type hold floats."""
    return keras.backend.is_float_dtype(dtype)


def of_dtype(dtype: str) -> Range | None:
    """The range of a type of integers or booleans; None for any other."""
    if dtype == "bool":
        return 0, 1
    if "int" not in dtype:
        return None
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def is_within(numbers: np.ndarray, limits: Range) -> bool:
    """Whether all numbers are integers of a range."""
    low, high = limits
    return bool(((numbers >= low) & (numbers <= high) & (np.floor(numbers) == numbers)).all())


def unsupported(call: "Call") -> str | None:
    """Why a call of a `semantics.graph.Call` computes with integers otherwise than with reals.

    Sets the types and the ranges of its outputs: Keras's symbolic tensors call a float what a layer
    makes of integers, and so does all that follows.
    """
    ranges = [value.integers for value in call.inputs if value.integers is not None]
    if not ranges:
        return _rounds(call)
    known = rule_for(call.operation)
    if operation_name(call.operation) == "Where" or known.casts_integers:
        return None  # `Where` has no rule but in patterns, which look at its condition
    dtype = _result_dtype(call)
    if is_float(dtype) and operation_name(call.operation) in _FLOAT_OPERATIONS:
        return None
    limits = None if len(ranges) < len(call.inputs) else known.integers(call)
    if limits is None:
        dtypes = ", ".join(dict.fromkeys(value.dtype for value in call.inputs))
        return (
            f"it is given integers ({dtypes}), and no rule is known for its arithmetic: cast to a "
            "float type first, by `keras.ops.cast(x, 'float32')`"
        )
    # The operands take the type of the result before anything is computed.
    parts = [limits, *ranges]
    if not all(_fits(part, dtype) for part in parts):
        low, high = hull(limit for part in parts for limit in part)
        return (
            f"it computes with integers of type {dtype}, and its values from {low} to {high} do "
            "not fit: cast to a float type first, by `keras.ops.cast(x, 'float32')`"
        )
    for value in call.outputs:
        value.dtype, value.integers = dtype, limits
    return None


def _result_dtype(call: "Call") -> str:
    """The type in which a call computes, by the types of what it is really given."""
    if operation_name(call.operation) == "Cast":
        return keras.backend.standardize_dtype(call.operation.dtype)
    types: list[Any] = [value.dtype for value in call.inputs]
    if operation_name(call.operation) in ("TrueDivide", "Divide"):
        return keras.backend.result_type(*types, float)
    if operation_name(call.operation) in _OPERANDS:
        constants = [x for x in (*call.args, *call.kwargs.values()) if not hasattr(x, "integers")]
        types += [type(x) if isinstance(x, int | float) else np.asarray(x).dtype for x in constants]
    return keras.backend.result_type(*types)


def _rounds(call: "Call") -> str | None:
    """Whether floats become integers: in the result, or on the way into a layer of such a type."""
    operation = call.operation
    is_layer = isinstance(operation, layers.Layer) and not isinstance(operation, keras.Model)
    is_cast = is_layer and not is_float(operation.compute_dtype)
    is_rounded = any("int" in value.dtype for value in call.outputs)
    # Comparisons make booleans as well: what follows them has no rule, but in patterns.
    is_rounded |= operation_name(operation) == "Cast" and call.outputs[0].dtype == "bool"
    return "it rounds to integers" if is_cast or is_rounded else None


def _fits(limits: Range, dtype: str) -> bool:
    allowed = of_dtype(dtype)
    return allowed is not None and allowed[0] <= limits[0] and limits[1] <= allowed[1]


def hull(values: Iterable[int]) -> Range:
    """The smallest range that holds some numbers."""
    values = list(values)
    return min(values), max(values)


def same(call: "Call") -> Range:
    """The range of entries that are some of those of the inputs."""
    return hull(limit for value in call.inputs for limit in value.integers or ())


def with_zero(call: "Call") -> Range:
    """The same, and of zeros."""
    return hull((0, *same(call)))


def _range_of(operand: Any) -> Range | None:
    if hasattr(operand, "integers"):
        return operand.integers
    numbers = np.asarray(operand)
    if numbers.dtype.kind not in "iu" or not numbers.size:
        return None
    return int(numbers.min()), int(numbers.max())


def arithmetic(call: "Call", function: Callable[[int, int], int]) -> Range | None:
    """The range of a function that is extreme at the corners of its two operands' ranges."""
    values = [*call.args, *call.kwargs.values()][:2]
    operands = [limits for value in values if (limits := _range_of(value)) is not None]
    if len(operands) < 2:  # one is a constant that is not an integer
        return None
    corners = [function(a, b) for a in operands[0] for b in operands[1]]
    # Constants have to fit as well.
    are_kept = all(_fits(operand, _result_dtype(call)) for operand in operands)
    return hull(corners if are_kept else (*corners, *operands[0], *operands[1]))


_OPERANDS = {"Add", "Subtract", "Multiply", "Maximum", "Minimum"}
_FLOAT_OPERATIONS = {*_OPERANDS, "Cast", "TrueDivide", "Divide", "Concatenate"}
