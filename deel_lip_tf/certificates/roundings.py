"""What float32 rounding adds to one call of a layer: a table by exact type.

The model of the arithmetic: every operation returns its exact result times `1 + d` with
`|d| <= u = 2**-24`, sums are taken in any order, with or without fused multiply-add, and a result
or an operand below `2**-126` may be replaced by 0 (gradual underflow is not needed). An inner
product of n terms is then wrong by at most `gamma(n) sum |a_i b_i|`, `gamma(n) = n u / (1 - n u)`
(Higham, "Accuracy and Stability of Numerical Algorithms", section 3; Jeannerod and Rump 2013).
Functions made of exponentials are taken to be wrong by at most `64 u (1 + |x| + |f(x)|)`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import activations
from keras import layers as keras_layers

from deel_lip_tf import layers
from deel_lip_tf.bounds.kernels import has_kernel
from deel_lip_tf.bounds.layers import Unbounded
from deel_lip_tf.certificates.absolute import absolute_sums
from deel_lip_tf.layers import kinds
from deel_lip_tf.layers.known import activation_constant
from deel_lip_tf.semantics.graph import Call

__all__ = ["UNIT", "Rounding", "check_operation", "gamma", "rounding_of"]

UNIT = 2.0**-24
"""Unit roundoff of float32."""

_FLUSHED = 2.0**-126
_LARGEST = 2.0**126
# Squares and exponentials are taken to be right up to here; a square overflows beyond 2**63.
_LARGEST_SMOOTH = 2.0**60
_SMOOTH = 64.0 * UNIT
# Two roundings of reciprocals or products with constants that a compiler may fold into a kernel.
_FOLDED = 4


@dataclass(frozen=True)
class Rounding:
    """Bounds what one call adds to the deviation, in the Euclidean norm.

    Attributes:
        relative: times the norm of the computed input (several: the sum of their norms).
        absolute: plus this.
        reach: `(a, b)`: numbers stay finite as long as `a * norm + b <= 1`.
    """

    relative: float
    absolute: float
    reach: tuple[float, float]


@dataclass(frozen=True)
class Site:
    """Where a rule is applied: sizes of one sample, the largest constant, and how many inputs."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant: float
    branches: int = 1

    @property
    def flushed(self) -> float:
        """Norm of what flushing subnormal numbers of input and output to 0 changes."""
        entries = self.constant * math.sqrt(math.prod(self.inputs))
        return _FLUSHED * (entries + math.sqrt(math.prod(self.outputs)))

    def rounding(self, relative: float, offset: float = 0.0, largest=_LARGEST) -> Rounding:
        """`relative` errors of a call whose terms are at most `constant * norm + offset`."""
        absolute = relative * offset + 4.0 * self.flushed
        reach = (2.0 * self.constant / largest, 2.0 * offset / largest)
        return Rounding(relative * self.constant, absolute, reach)


def gamma(count: int) -> float:
    """Relative error of `count` float32 roundings.

    Raises:
        Unbounded: if they are too many for a bound.
    """
    if count * UNIT >= 0.25:
        raise Unbounded(f"it adds up {count} terms, too many for float32")
    return count * UNIT / (1.0 - count * UNIT) * (1.0 + 1e-12)


def rounding_of(call: Call, inputs: tuple, outputs: tuple, constants: list[float]) -> Rounding:
    """The rounding of one call.

    Args:
        call: of a layer or a Keras operation, checked by `check_operation`.
        inputs: sizes of one sample of the first input.
        outputs: sizes of one sample of the output.
        constants: Lipschitz constants with respect to each input.

    Raises:
        Unbounded: if an argument has no rule.
    """
    site = Site(inputs, outputs, max(constants), len(constants))
    operation = call.operation
    if isinstance(operation, keras.layers.Layer):
        return _layer_rule(operation)(operation, site)
    return _OPERATIONS[type(operation).__name__](call, site)


def check_operation(operation) -> None:
    """Refuses what has no rule, or does not compute in float32.

    Raises:
        Unbounded: the reason, without the name of the operation.
    """
    if not isinstance(operation, keras.layers.Layer):
        if type(operation).__name__ not in _OPERATIONS:
            raise Unbounded("no float32 rule is known for this operation")
        return
    if _layer_rule(operation) is None:
        raise Unbounded("no float32 rule is known for this type")
    if operation.compute_dtype != "float32":
        raise Unbounded(f"it computes in {operation.compute_dtype}")
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        check_operation(activation)
    elif has_kernel(operation) or type(operation) is keras_layers.Activation:
        _function(activation)


def _layer_rule(layer) -> Callable[[keras.layers.Layer, Site], Rounding] | None:
    return _kernel_layer if has_kernel(layer) else _LAYERS.get(type(layer))


def _kernel_layer(layer, site: Site) -> Rounding:
    """`activation(kernel * x + bias)`."""
    slope = activation_constant(layer.activation)
    norm = site.constant / slope * (1.0 + 1e-12)
    absolute_norm, terms = absolute_sums(layer, (None, *site.inputs))
    absolute_norm, places = max(absolute_norm, norm), math.prod(site.outputs)
    if getattr(layer, "padding", None) not in (None, "same", "valid", "causal"):
        terms += sum(site.inputs) + sum(site.outputs)  # copies at a border may be added up
    unit = gamma(terms + _FOLDED)
    bias = 0.0
    if getattr(layer, "bias", None) is not None:
        values = np.asarray(keras.ops.convert_to_numpy(layer.bias), dtype=np.float64)
        bias = float(np.linalg.norm(values)) * math.sqrt(places / values.size) * (1.0 + 1e-12)
    underflow = _FLUSHED * math.sqrt(places * terms)
    flushed = 4.0 * math.sqrt(terms) * underflow
    flushed += _FLUSHED * absolute_norm * math.sqrt(math.prod(site.inputs))
    relative = unit * absolute_norm + underflow
    absolute = unit * bias + flushed
    after = _activation(layer.activation, Site(site.outputs, site.outputs, slope))
    reach = 2.0 * (absolute_norm + underflow) / _LARGEST, 2.0 * (bias + flushed) / _LARGEST
    wider = max(1.0, after.reach[0] * _LARGEST)
    return Rounding(
        slope * relative + after.relative * (norm + relative),
        slope * absolute + after.relative * (bias + absolute) + after.absolute,
        (wider * reach[0], wider * reach[1] + after.reach[1]),
    )


def _activation(activation, site: Site) -> Rounding:
    if activation is None:
        return site.rounding(0.0)
    if isinstance(activation, keras.layers.Layer):
        return _layer_rule(activation)(activation, site)
    return _function(activation)(activation, site)


def _function(activation) -> Callable:
    """The rule of an activation function, by identity."""
    if activation is None or activation in _EXACT_FUNCTIONS:
        return _exact
    if activation is activations.leaky_relu:
        return _few
    if activation_constant(activation) is None or activation is activations.sparsemax:
        raise Unbounded(f"no float32 rule is known for its activation {activation.__name__!r}")
    return _softmax if activation is activations.softmax else _smooth


_EXACT_FUNCTIONS = (
    activations.linear,
    activations.relu,
    activations.relu6,
    activations.hard_tanh,
)


def _exact(layer, site: Site) -> Rounding:
    """Copies, comparisons and zeros; one product where there is a factor."""
    factor = getattr(layer, "k_coef_lip", 1.0)
    return site.rounding(0.0 if factor == 1.0 else gamma(2))


def _few(layer, site: Site) -> Rounding:
    return site.rounding(gamma(8))


def _smooth(layer, site: Site, roundings: float = _SMOOTH) -> Rounding:
    places = math.prod(site.outputs)
    per_input = roundings * (1.0 + site.constant)
    absolute = 2.0 * per_input * math.sqrt(places) + 4.0 * site.flushed
    return Rounding(per_input, absolute, (1.0 / _LARGEST_SMOOTH, 0.0))


def _softmax(layer, site: Site) -> Rounding:
    return _smooth(layer, site, _SMOOTH + gamma(2 * math.prod(site.inputs)))


def _activation_layer(layer, site: Site) -> Rounding:
    return _activation(layer.activation, site)


def _relu(layer, site: Site) -> Rounding:
    limit = 0.0 if layer.max_value is None else layer.max_value * math.sqrt(math.prod(site.outputs))
    return site.rounding(gamma(4) if layer.negative_slope or limit else 0.0, limit)


def _mean(layer, site: Site) -> Rounding:
    """Means of windows: their entries are not negative, so the norm is that of absolute values."""
    window = getattr(layer, "pool_size", None)
    whole = math.prod(site.inputs) // max(math.prod(site.outputs), 1)
    return site.rounding(gamma((whole if window is None else math.prod(window)) + 8))


def _root_of_squares(layer, site: Site) -> Rounding:
    mean = _mean(layer, site)
    # The root of the squares below 2**-126 that may be lost; and squares overflow early.
    lost = 4.0 * site.constant * math.sqrt(_FLUSHED * math.prod(site.inputs))
    reach = (2.0 * max(site.constant, 1.0) / _LARGEST_SMOOTH, 0.0)
    return Rounding(mean.relative, mean.absolute + lost, reach)


def _householder(layer, site: Site) -> Rounding:
    # The angles cost a few roundings. A point so near the line that rounding puts it on the wrong
    # side is reflected by at most twice the error of that decision.
    return site.rounding(gamma(64))


def _affine(layer, site: Site) -> Rounding:
    """`(x - mean) * scale + bias`, in any arrangement."""
    shift = _broadcast_norm(getattr(layer, "mean", None), site)
    shift += _broadcast_norm(getattr(layer, "moving_mean", None), site)
    offset = (1.0 + site.constant) * shift
    for name in ("bias", "beta", "offset"):
        offset += _broadcast_norm(getattr(layer, name, None), site)
    return site.rounding(gamma(32), offset)


def _centering(layer, site: Site) -> Rounding:
    offset = _broadcast_norm(layer.bias, site)
    return site.rounding(2.0 * gamma(math.prod(site.inputs) + 8), offset)


def _broadcast_norm(values, site: Site) -> float:
    if values is None:
        return 0.0
    if isinstance(values, keras.Variable) or keras.ops.is_tensor(values):
        values = keras.ops.convert_to_numpy(values)
    largest = np.abs(np.asarray(values, dtype=np.float64)).max(initial=0.0)
    return float(largest) * math.sqrt(math.prod(site.outputs))


def _sum(layer, site: Site) -> Rounding:
    return site.rounding(gamma(site.branches + 4))


def _residual(layer, site: Site) -> Rounding:
    # `1 - share` is wrong by a few units of 1, and the larger share is at least a half.
    return site.rounding(gamma(256))


def _copy(call: Call, site: Site) -> Rounding:
    return site.rounding(0.0)


def _scale(call: Call, site: Site) -> Rounding:
    return site.rounding(gamma(8))


def _shift(call: Call, site: Site) -> Rounding:
    """A sum, difference or maximum with another tensor or with constants."""
    values = [*call.args, *call.kwargs.values()]
    numbers = [v for v in values if isinstance(v, int | float | np.ndarray | np.number)]
    offset = sum(_broadcast_norm(number, site) for number in numbers)
    return site.rounding(gamma(8), offset)


def _clip(call: Call, site: Site) -> Rounding:
    numbers = (call.operation.x_min, call.operation.x_max)
    return site.rounding(gamma(8), sum(_broadcast_norm(number, site) for number in numbers))


def _contraction(call: Call, site: Site) -> Rounding:
    (matrix,) = (value for value in call.args if isinstance(value, np.ndarray))
    norm = float(np.linalg.norm(matrix)) * (1.0 + 1e-12)
    return Site(site.inputs, site.outputs, norm).rounding(gamma(matrix.shape[0] + 4))


_COPYING = (
    *kinds.IDENTITIES,
    *kinds.MOVES,
    *kinds.MAX_POOLINGS,
    *kinds.GLOBAL_MAXIMA,
    *kinds.UP_SAMPLINGS,
    keras_layers.RepeatVector,
    keras_layers.Concatenate,
    keras_layers.Maximum,
    keras_layers.Minimum,
    layers.GroupSort,
    layers.GroupSort2,
    layers.FullSort,
    layers.MaxMin,
    layers.InvertibleDownSampling,
    layers.InvertibleUpSampling,
)

_LAYERS: dict[type, Callable[[keras.layers.Layer, Site], Rounding]] = {
    **dict.fromkeys(_COPYING, _exact),
    keras_layers.Activation: _activation_layer,
    keras_layers.ReLU: _relu,
    keras_layers.LeakyReLU: _few,
    keras_layers.PReLU: _few,
    layers.PReLUlip: _few,
    keras_layers.ELU: _smooth,
    keras_layers.Softmax: _softmax,
    **dict.fromkeys((*kinds.AVERAGE_POOLINGS, *kinds.GLOBAL_AVERAGES), _mean),
    layers.ScaledAveragePooling2D: _mean,
    layers.ScaledGlobalAveragePooling2D: _mean,
    layers.ScaledAdaptiveAveragePooling2D: _mean,
    layers.ScaledL2NormPooling2D: _root_of_squares,
    layers.ScaledGlobalL2NormPooling2D: _root_of_squares,
    layers.ScaledAdaptiveL2NormPooling2D: _root_of_squares,
    layers.Householder: _householder,
    keras_layers.Rescaling: _affine,
    keras_layers.Normalization: _affine,
    keras_layers.BatchNormalization: _affine,
    layers.ScaleBias: _affine,
    layers.BatchCentering: _affine,
    layers.BatchLipNorm: _affine,
    layers.LayerCentering: _centering,
    keras_layers.Add: _sum,
    keras_layers.Subtract: _sum,
    keras_layers.Average: _sum,
    layers.LipResidual: _residual,
}

_OPERATIONS: dict[str, Callable[[object, Site], Rounding]] = {
    "Add": _shift,
    "Subtract": _shift,
    "Maximum": _shift,
    "Minimum": _shift,
    "Clip": _clip,
    "Concatenate": _copy,
    "Negative": _copy,
    "Absolute": _copy,
    "Relu": _copy,
    "Relu6": _copy,
    "GetItem": _copy,
    "Split": _copy,
    "Reshape": _copy,
    "Transpose": _copy,
    "ExpandDims": _copy,
    "Squeeze": _copy,
    "Flip": _copy,
    "Multiply": _scale,
    "TrueDivide": _scale,
    "Divide": _scale,
    "Take": _copy,
    "Pad": _copy,
    "Einsum": _contraction,
}
