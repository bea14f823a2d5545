"""Steps on tensors of integers: what Keras computes with them is run in Keras, which is exact.

Sums and products of integers wrap around, quotients and means leave the integers: no real
arithmetic. Steps that end in floating point say by themselves what they compute.
"""

import keras
import numpy as np
from keras import layers, ops

from tests.fuzz.models.steps import Draw, Step, of_layer

__all__ = ["DTYPES", "ENDS", "MERGES", "ROWS", "cast", "cast_to", "points", "run"]

DTYPES = ("uint8", "int8", "int32", "uint8")


def points(rng: np.random.Generator, dtype: str, shape) -> np.ndarray:
    """Random integers, many of them at the ends of the type or near 0."""
    info = np.iinfo(dtype)
    low, high = max(info.min, -300), min(info.max, 300)
    near = rng.integers(max(low, -3), 4, shape)
    ends = np.where(rng.random(shape) < 0.5, low + np.abs(near), high - np.abs(near))
    wide = rng.integers(low, high + 1, shape)
    kind = rng.integers(0, 3, shape)
    return np.select([kind == 0, kind == 1], [near, ends], wide).astype(dtype)


def cast_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """As Keras converts a tensor to another type."""
    wide = np.asarray(x, np.float64) if np.asarray(x).dtype.kind == "f" else x
    return np.asarray(ops.convert_to_numpy(ops.cast(ops.convert_to_tensor(wide), dtype)))


def _run(apply):
    """The value of a step that stays in the integers: what Keras computes."""

    def value(*arrays):
        return run(apply, arrays)[0]

    return value


def run(apply, arrays) -> list[np.ndarray]:
    """What Keras computes from arrays, floating point widened."""
    # TensorFlow knows no wider type than float64.
    given = [x if x.dtype.kind in "iu" else x.astype(np.float64) for x in arrays]
    results = apply(*map(ops.convert_to_tensor, given))
    results = results if isinstance(results, list | tuple) else [results]
    return [np.asarray(ops.convert_to_numpy(_widened(y))) for y in results]


def _widened(tensor):
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
    return ops.cast(tensor, "float64") if is_float else tensor


def _operation(name, apply) -> Step:
    return Step(f"integer {name}", apply, _run(apply))


def _layer(layer) -> Step:
    step = of_layer(layer, None, f"integer {type(layer).__name__}")
    step.value = _run(step.apply)
    return step


def _arithmetic(draw: Draw, shape):
    c = int(draw.one_of(1, 2, 3, 100, 128, 7))
    return draw.one_of(
        _operation("x - c", lambda x: x - c), _operation("x + c", lambda x: x + c),
        _operation("c - x", lambda x: c - x), _operation("x * c", lambda x: x * c),
        _operation("-x", lambda x: -x), _operation("abs", ops.abs),
        _operation("maximum(x, c)", lambda x: ops.maximum(x, c)),
        _operation("clip", lambda x: ops.clip(x, 0, c)),
    )  # fmt: skip


def _moves(draw: Draw, shape):
    index = [draw.size(0, shape[-1] - 1) for _ in range(2)]
    return draw.one_of(
        _operation("flip", lambda x: ops.flip(x, axis=-1)),
        _operation("x[key]", lambda x: x[:, ::-1]),
        _operation("take", lambda x: ops.take(x, index, axis=-1)),
        _operation("reshape", lambda x: ops.reshape(x, (-1, int(np.prod(shape))))),
        _layer(layers.Flatten(dtype=draw.policy)), _layer(layers.Identity(dtype=draw.policy)),
        _layer(layers.Dropout(0.5, dtype=draw.policy)), _layer(layers.ReLU(dtype=draw.policy)),
        _layer(layers.Activation("linear", dtype=draw.policy)),
    )  # fmt: skip


def _retyped(draw: Draw, shape):
    dtype = draw.one_of("int32", "int16", "uint8", "int8")
    return _operation(f"cast({dtype})", lambda x: ops.cast(x, dtype))


ROWS = {_arithmetic: 4, _moves: 2, _retyped: 0.7}


def _merge(kind):
    return lambda draw, shape: _layer(kind(dtype=draw.policy))


def _pairwise(draw: Draw, shape):
    return draw.one_of(
        _operation("x + y", lambda x, y: x + y), _operation("x - y", lambda x, y: x - y)
    )


MERGES = {
    **dict.fromkeys(map(_merge, (layers.Add, layers.Subtract, layers.Maximum)), 1),
    _pairwise: 2,
}


# --- from integers to floating point ------------------------------------------------------------


def cast(draw: Draw, shape):
    return Step("integer cast", lambda x: ops.cast(x, "float32"), _wide)


def _wide(x):
    return x.astype(np.float64)


def _quotient(draw: Draw, shape):
    c = draw.one_of(255, 3, 128)
    return Step("integer x / c", lambda x: x / c, lambda x: _wide(x) / c)


def _rescaling(draw: Draw, shape):
    scale, offset = draw.one_of(1 / 255, 0.5, 1 / 127.5), draw.one_of(0.0, -1.0)
    layer = layers.Rescaling(scale, offset, dtype=draw.policy)
    return of_layer(layer, lambda x: _wide(x) * scale + offset, "integer Rescaling")


def _normalization(draw: Draw, shape):
    mean, variance = np.float32(draw.array(shape[-1])), np.float32(draw.array(shape[-1]) ** 2 + 9)
    layer = layers.Normalization(mean=mean, variance=variance, dtype=draw.policy)
    deviation = np.sqrt(variance.astype(np.float64))
    return of_layer(layer, lambda x: (_wide(x) - mean) / deviation, "integer Normalization")


def _average(draw: Draw, shape):
    """Of a tensor and itself: the sum may wrap around before it is halved."""
    layer = layers.Average(dtype=draw.policy)

    def apply(x):
        return layer([x, x])

    return Step("integer Average", apply, _run(apply), layer)


def _dense(draw: Draw, shape):
    layer = layers.Dense(3, use_bias=False, dtype=draw.policy)

    def value(x):
        kernel = keras.ops.cast(layer.kernel, layer.compute_dtype)
        kernel = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(kernel, "float64")))
        return _wide(x) @ kernel

    return of_layer(layer, value, "integer Dense")


ENDS = {cast: 3, _quotient: 1, _rescaling: 3, _normalization: 2, _average: 0.5, _dense: 2}
