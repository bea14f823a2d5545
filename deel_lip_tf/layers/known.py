"""Keras layers without a kernel whose Lipschitz constant is known, and under which arguments.

Every constant here bounds `||f(x) - f(y)||_2 <= constant * ||x - y||_2` for one sample at inference
(`training=False`): dropout and noise are then the identity and batch normalization is affine.
The tables are keyed by exact type and by exact function, because a subclass may compute anything.
`model.py` uses them to warn and `bounds/` to prove, so that the two can never disagree.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import activations, layers

from deel_lip_tf.layers import kinds
from deel_lip_tf.layers.base import LipschitzLayer

__all__ = ["activation_constant", "known_constant"]

Shape = tuple[int | None, ...] | None
Rule = Callable[[keras.layers.Layer, Shape], float | None]

# Unit roundoff of the type in which a layer computes: a Python argument is rounded to it first, and
# to float32 before that on some backends, in float64 layers too.
_UNIT_ROUNDOFF = {
    "float64": 2.0**-24,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}

# Largest slope of each function, rounded upward in the last digit that is written.
_ACTIVATIONS: dict[Callable, float] = {
    activations.linear: 1.0,
    activations.relu: 1.0,
    activations.relu6: 1.0,
    activations.leaky_relu: 1.0,
    activations.elu: 1.0,
    activations.celu: 1.0,
    activations.selu: 1.7580993409,
    activations.softplus: 1.0,
    activations.softsign: 1.0,
    activations.soft_shrink: 1.0,
    activations.sparse_plus: 1.0,
    activations.squareplus: 1.0,
    activations.sigmoid: 0.25,
    activations.sparse_sigmoid: 0.5,
    activations.hard_sigmoid: 0.16666666667,
    activations.log_sigmoid: 1.0,
    activations.tanh: 1.0,
    activations.hard_tanh: 1.0,
    activations.tanh_shrink: 1.0,
    activations.silu: 1.0998393202,
    activations.hard_silu: 1.5,
    activations.gelu: 1.1289041452,
    activations.mish: 1.0884981613,
    # The Jacobian diag(p) - p p^T of softmax has its eigenvalues in [0, 1/2].
    activations.softmax: 0.5,
}


def activation_constant(activation: Callable | None) -> float | None:
    """Returns a proven L2 Lipschitz constant of an `activation=` argument.

    Args:
        activation: a function of `keras.activations` (recognised by identity, with its default
            arguments), a layer used as a function, or None for the identity.

    Returns:
        An upper bound that exceeds the true constant by less than 1e-6 of it, or None where there
        is no constant (`exponential`, `glu`, `hard_shrink`), where it depends on the number of
        inputs (`log_softmax`), where the function is not one of Keras's own, or not what its name
        says (`sparsemax`: with the threshold Keras computes, it is no projection).
    """
    if activation is None:
        return 1.0
    if isinstance(activation, keras.layers.Layer):
        return known_constant(activation)
    try:
        return _ACTIVATIONS.get(activation)
    except TypeError:  # a callable object that cannot be hashed is nobody's known function
        return None


def known_constant(layer: keras.layers.Layer, input_shape: Shape = None) -> float | None:
    """Returns a proven L2 Lipschitz constant of a layer without kernel, at inference.

    Args:
        layer: a Keras layer, or a layer of this library that guarantees its `k_coef_lip`.
        input_shape: shape of the layer's input with the batch axis, `None` for unknown sizes. It
            only makes some constants smaller: global averages, padded average pooling.

    Returns:
        An upper bound on the constant with respect to one sample, or None where the exact type is
        unknown, the layer is not Lipschitz under its arguments (`LayerNormalization`,
        `UnitNormalization`, `Masking`, `ReLU(threshold=1.0)`), or its state is not built yet.
    """
    if type(layer).__module__.startswith("deel_lip_tf.layers."):
        # Layers with a kernel are judged by the kernel, not by what they were asked for.
        has_constant = isinstance(layer, LipschitzLayer)
        is_constrained = hasattr(type(layer), "effective_kernel")
        return layer.lipschitz_constant() if has_constant and not is_constrained else None
    rule = _RULES.get(type(layer))
    constant = None if rule is None else rule(layer, input_shape)
    return constant if constant is not None and math.isfinite(constant) else None


def _one(layer, input_shape):
    return 1.0


def _outward(layer, value: float) -> float:
    """`value` enlarged for the rounding of arguments to the compute type and of the arithmetic."""
    return float(value) * (1.0 + 4.0 * _UNIT_ROUNDOFF.get(layer.compute_dtype, 2.0**-8))


def _slope(layer, slope: float) -> float:
    """`max(1, |slope|)`, exact for slopes up to 1: their rounding cannot exceed 1 either."""
    return 1.0 if abs(slope) <= 1.0 else _outward(layer, abs(slope))


def _activation(layer, input_shape):
    return activation_constant(layer.activation)


def _relu(layer, input_shape):
    # With a threshold t > 0 the function jumps from 0 to t at x = t: no constant exists.
    return _slope(layer, layer.negative_slope) if layer.threshold == 0 else None


def _leaky_relu(layer, input_shape):
    return _slope(layer, layer.negative_slope)


def _prelu(layer, input_shape):
    if not layer.built:
        return None
    slopes = np.abs(_numpy(layer.alpha))
    return _slope(layer, float(slopes.max())) if slopes.size else 1.0


def _elu(layer, input_shape):
    return _slope(layer, layer.alpha)


def _softmax(layer, input_shape):
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    rank = None if input_shape is None else len(input_shape)
    # Over the batch axis the layer would mix samples. Counted from the end, any other axis than
    # the last may be the batch axis as long as the rank is unknown.
    resolved = [axis + rank if axis < -1 and rank else axis for axis in axes]
    return 0.5 if all(axis >= 1 or axis == -1 for axis in resolved) else None


def _max_pooling(layer, input_shape):
    # |max(a) - max(b)| <= ||a - b||, and no value lies in more than prod(ceil(k/s)) windows.
    if min(layer.strides) < 1:
        return None
    return _sqrt(math.prod(-(-k // s) for k, s in zip(layer.pool_size, layer.strides, strict=True)))


def _average_pooling(layer, input_shape):
    if min(layer.strides) < 1:
        return None
    # Keras pads the torch input with copies of its border and averages over them.
    if layer.padding == "same" and keras.backend.backend() == "torch":
        return None
    sizes = _spatial_sizes(layer, input_shape) or [None] * len(layer.pool_size)
    per_axis = zip(sizes, layer.pool_size, layer.strides, strict=True)
    norms = [_average_norm_squared(n, k, s, layer.padding) for n, k, s in per_axis]
    return _sqrt(math.prod(norms))


def _average_norm_squared(size: int | None, pool: int, stride: int, padding: str) -> float:
    """Bounds the squared norm of average pooling along one axis.

    Schur's test: `||A||^2 <= (largest row sum) * (largest column sum)`. A row holds `1 / count` at
    each of its `count` valid positions, so rows sum to 1. Pooling over several axes is the tensor
    product of its axes, so that norms multiply. Exact where the stride equals the window.
    """
    if padding == "valid":
        return min(-(-pool // stride) / pool, 1.0)
    if size is not None:
        return _largest_column_sum(size, pool, stride)
    # Windows at one border do not see the other one once the input is longer than a window: one
    # period of the stride beyond that shows every pattern of padding.
    return max(_largest_column_sum(n, pool, stride) for n in range(1, 3 * pool + 2 * stride + 1))


def _largest_column_sum(size: int, pool: int, stride: int) -> float:
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + pool - size, 0) // 2
    columns = np.zeros(size)
    for start in range(-before, outputs * stride - before, stride):
        low, high = max(start, 0), min(start + pool, size)
        columns[low:high] += 1.0 / (high - low)
    return float(columns.max()) * (1.0 + 1e-14)


def _global_average(layer, input_shape):
    sizes = _spatial_sizes(layer, input_shape)
    known = [size for size in sizes or () if size]
    if sizes is None or len(known) < len(sizes):
        return 1.0
    return _sqrt(1.0 / math.prod(known))


def _spatial_sizes(layer, input_shape: Shape) -> Sequence[int | None] | None:
    if input_shape is None:
        return None
    return input_shape[1:-1] if layer.data_format == "channels_last" else input_shape[2:]


def _up_sampling(layer, input_shape):
    # Each value is copied prod(size) times; interpolation weights depend on the backend.
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return None
    sizes = layer.size if isinstance(layer.size, list | tuple) else (layer.size,)
    return _sqrt(math.prod(sizes))


def _repeat_vector(layer, input_shape):
    return _sqrt(layer.n)


def _rescaling(layer, input_shape):
    scale = np.asarray(layer.scale, dtype=np.float64)
    copies = broadcast_copies(layer, input_shape, scale.shape, np.shape(layer.offset))
    return None if copies is None else _outward(layer, np.max(np.abs(scale)) * _sqrt(copies))


def _normalization(layer, input_shape):
    # Before `build` the statistics are not there; both forms divide or multiply by the same number.
    if not layer.built or layer.variance is None:
        return None
    copies = broadcast_copies(layer, input_shape, layer.mean.shape, layer.variance.shape)
    deviation = np.maximum(np.sqrt(_numpy(layer.variance)), keras.config.epsilon())
    scale = deviation.max() if layer.invert else 1.0 / deviation.min()
    return None if copies is None else _outward(layer, scale * _sqrt(copies))


def broadcast_copies(layer, input_shape: Shape, *arguments: tuple) -> int | None:
    """How often each entry of the input is copied where larger arguments broadcast it.

    Args:
        layer: asked for the shape it was built with where `input_shape` is None.
        input_shape: with the batch axis.
        *arguments: shapes of the arrays that the input is combined with, entry by entry.

    Returns:
        The number, or None where it is not known, or where the batch axis would be broadcast.
    """
    if all(math.prod(shape) == 1 for shape in arguments):
        return 1
    if input_shape is None and layer.built:
        input_shape = (layer.get_build_config() or {}).get("input_shape")
    if input_shape is None:
        return None
    rank = len(input_shape)
    if any(len(s) > rank or (len(s) == rank and s[0] != 1) for s in arguments):
        return None
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in arguments]
    pairs = list(
        zip(input_shape[1:], [max(axis) for axis in zip(*padded, strict=True)][1:], strict=True)
    )
    if any(size is None and wanted != 1 for size, wanted in pairs):
        return None
    return math.prod(wanted for size, wanted in pairs if size == 1)


def _batch_normalization(layer, input_shape):
    if not layer.built:
        return None
    gamma = np.abs(_numpy(layer.gamma)) if layer.scale else 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.max(gamma / np.sqrt(_numpy(layer.moving_variance) + layer.epsilon))
    # The layer computes in float32 at least, whatever its policy.
    return float(scale) * (1.0 + 4.0 * _UNIT_ROUNDOFF["float32"])


def _numpy(variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64)


def _sqrt(value: float) -> float:
    """Square root; unless it is an integer, enlarged for the few roundings behind `value`."""
    root = math.sqrt(value)
    return root if root.is_integer() and root * root == value else root * (1.0 + 1e-15)


# Identities at inference, reorderings, and maps that only add or drop entries.
_NON_EXPANSIVE = (*kinds.IDENTITIES, *kinds.MOVES, *kinds.GLOBAL_MAXIMA)

_RULES: dict[type, Rule] = {
    **dict.fromkeys(_NON_EXPANSIVE, _one),
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.LeakyReLU: _leaky_relu,
    layers.PReLU: _prelu,
    layers.ELU: _elu,
    layers.Softmax: _softmax,
    **dict.fromkeys(kinds.MAX_POOLINGS, _max_pooling),
    **dict.fromkeys(kinds.AVERAGE_POOLINGS, _average_pooling),
    **dict.fromkeys(kinds.GLOBAL_AVERAGES, _global_average),
    **dict.fromkeys(kinds.UP_SAMPLINGS, _up_sampling),
    layers.RepeatVector: _repeat_vector,
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
    layers.BatchNormalization: _batch_normalization,
}
