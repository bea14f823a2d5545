"""What rounding adds to one call of a layer, in the Euclidean norm: a-priori bounds.

`gamma(n)` times the sum of absolute values that the layer adds up, with the unit roundoff of
float64 or, to say how far a running model may be, with that of another type.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import keras
import numpy as np

from deel_lip_tf._rounding import TINY, gamma
from deel_lip_tf.bounds.norms.recurrence import StepErrors, absolute_norms, through_time
from deel_lip_tf.layers.convolution.unconstrained import PadConv2D
from deel_lip_tf.semantics.functions import proven_slope
from deel_lip_tf.semantics.operators import Recurrence
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.wrappers import unwrapped
from deel_lip_tf.semantics.state import (
    as_computed_with,
    is_constrained,
    is_quantized,
    kernel_of,
)

# Twice the rounding of a number to float32.
WRITTEN = 2.0**-22

_SMOOTH = ("Tanh", "Sigmoid")
_ARITHMETIC = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.relu6,
    keras.activations.leaky_relu,
)


FLUSHED = 2.0**-120  # more than what is lost where float32 has no smaller numbers
LOST_SQUARE = 1e-300  # and where a square in float64 has none


class Rounding(NamedTuple):
    """Bounds the rounding errors that one call adds, from the norms of its inputs and output."""

    of_inputs: list[float]
    of_output: float
    absolute: float

    def total(self, norms: list[np.ndarray], produced: np.ndarray) -> np.ndarray:
        """(samples,) bounds, for norms of the inputs and of all outputs together."""
        error = self.absolute + self.of_output * produced
        for share, norm in zip(self.of_inputs, norms, strict=True):
            error = error + share * norm
        return error


def rounding_of(
    operation: keras.Operation,
    constants: list[float],
    size: int,
    output_shape: tuple[int, ...],
    roundoff: float,
) -> Rounding:
    """The a-priori bound of one call on samples of `size` entries.

    It covers a number in an argument both as it is written and as the backend keeps it. `roundoff`
    is that of the arithmetic, as a multiple of float64's.
    """
    lost, square = (TINY, LOST_SQUARE) if roundoff == 1.0 else (FLUSHED, FLUSHED)
    operation, _ = unwrapped(operation, None)
    places = math.prod(output_shape[1:])
    share, least = _written_otherwise(operation)
    written, lost = WRITTEN * share, max(lost, least)
    if not isinstance(operation, keras.layers.Layer):
        # An `einsum` adds up to `size` products; their absolute values, up to sqrt(size) as much.
        contracts = type(operation).__name__ == "Einsum"
        unit = gamma(4 * size) * math.sqrt(size) if contracts else gamma(64)
        unit = roundoff * unit + (0.0 if contracts else written)
        around_one = unit * math.sqrt(places) * (type(operation).__name__ in _SMOOTH)
        lost = lost * math.sqrt(places)
        return Rounding([unit * constant for constant in constants], unit, around_one + lost)
    if (recurrence := rule_for(operation).recurrence(operation, None)) is not None:
        unit = roundoff * gamma(4 * recurrence.terms + 128) + written
        return _of_recurrence(operation, recurrence, size, output_shape, unit, lost)
    state = [float(np.linalg.norm(as_computed_with(operation, w))) for w in _vectors(operation)]
    state.append(float(_is_transcendental(operation)))
    absolute = (1.0 + sum(constants)) * math.sqrt(places) * sum(state)
    of_inputs, terms = list(constants), size
    if (potential := rule_for(operation).potential(operation, None)) is not None:
        # x - 2 V relu(V^T x + c): each unit of x and of c passes twice through the kernel.
        patches = math.prod(getattr(operation, "kernel_size", ()))
        twice = 4.0 * (1.0 + float(np.linalg.norm(potential.kernel)) * patches) ** 2
        twice *= max(1.0, potential.factor)
        terms, absolute = sum(potential.terms), absolute * twice
        of_inputs[0] += twice
    elif kernels := _kernels(operation):
        # || |K| || <= ||K||_F sqrt(patches that share an element), counting copies at a border.
        shared = math.prod(getattr(operation, "kernel_size", ()))
        copies_pixels = is_constrained(operation) or isinstance(operation, PadConv2D)
        shared = shared**2 if copies_pixels else shared
        terms = sum(math.prod(kernel.shape[:-2]) * max(kernel.shape[-2:]) for kernel in kernels)
        if isinstance(operation, keras.layers.EinsumDense):
            shared, terms = size, size * terms  # axes may be summed without the kernel
        norm = math.prod(float(np.linalg.norm(kernel)) for kernel in kernels)
        slope = proven_slope(operation.activation)
        of_inputs[0] += (1.0 + slope) * math.sqrt(shared) * norm
    unit = roundoff * gamma(4 * terms + 128) + written
    absolute = unit * absolute + lost * math.sqrt(places)
    absolute += lost_squares(size, sum(constants), square)
    return Rounding([unit * share for share in of_inputs], unit, absolute)


def _of_recurrence(
    operation: keras.layers.Layer,
    recurrence: Recurrence,
    size: int,
    output_shape: tuple[int, ...],
    unit: float,
    lost: float,
) -> Rounding:
    """Each step is wrong by a share of the absolute values that it adds up, and of its result."""
    inputs, units = recurrence.kernel.shape[-2:]
    sizes = output_shape[1 - len(recurrence.state_shape) : -1]
    pixels = math.prod(sizes)
    recurrence = replace(recurrence, steps=size // (inputs * pixels))
    slope = proven_slope(operation.activation, input_shape=(None, *sizes, units))
    of_inputs, of_state = absolute_norms(recurrence)
    vectors = [as_computed_with(operation, weight) for weight in _vectors(operation)]
    offset = sum(float(np.linalg.norm(vector)) for vector in vectors) * math.sqrt(pixels)
    start = (1.0 + slope) * (offset + math.sqrt(units * pixels))  # none is beyond 1 at 0
    share = 2.0 * (1.0 + slope) * unit
    flushed = lost * (1.0 + slope) * (of_inputs + of_state + recurrence.terms)
    constant = share * start + flushed * (size + units * pixels)
    errors = StepErrors(share * of_inputs, share * of_state, constant)
    relative, absolute = through_time(recurrence, slope, start, errors)
    return Rounding([relative], unit, absolute)


def lost_squares(size: int, constant: float, lost: float) -> float:
    """What the root of a sum of squares is wrong by where each square may lose `lost`."""
    return math.sqrt(lost * size) * constant


def _is_transcendental(operation: keras.Operation) -> bool:
    """Whether a layer, or its activation, computes exponentials."""
    if isinstance(operation, keras.layers.ELU | keras.layers.Softmax):
        return True
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return _is_transcendental(activation)
    return activation not in (None, *_ARITHMETIC)


def _written_otherwise(operation: keras.Operation) -> tuple[float, float]:
    """How numbers of arguments, or of the function, may be kept otherwise than they are written.

    Returns:
        `(share, least)`: a multiple of `WRITTEN`, relatively, and what is lost besides.
    """
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return _written_otherwise(activation)
    is_rounded = activation in (keras.activations.leaky_relu, keras.activations.gelu)
    is_rounded |= getattr(operation, "input_mean", None) is not None
    names = ("negative_slope", "max_value", "scale", "offset", "input_mean")
    numbers = [getattr(operation, name, None) for name in names]
    arrays = [np.abs(np.asarray(value, np.float64)) for value in numbers if value is not None]
    if any(((array > 0) & (array < 2.0**-126)).any() for array in arrays):
        return 1.0 / WRITTEN, FLUSHED  # float32 has 0 in their place, or few of their digits
    is_rounded |= any((array.astype(np.float32) != array).any() for array in arrays)
    return float(is_rounded), 0.0


def _kernels(operation: keras.Operation) -> list[np.ndarray]:
    if is_constrained(operation) or is_quantized(operation):
        return [kernel_of(operation)]
    names = ("kernel", "depthwise_kernel", "pointwise_kernel")
    found = [getattr(operation, name) for name in names if hasattr(operation, name)]
    return [as_computed_with(operation, kernel) for kernel in found]


def _vectors(operation: keras.Operation) -> list:
    kernels = {"kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel"}
    kernels |= {"kernel_scale", "g_idx"}
    floats = [w for w in operation.weights if keras.backend.is_float_dtype(w.dtype)]
    return [weight for weight in floats if weight.name not in kernels]
