"""Steps of Keras operations on tensors, and of layers that merge several."""

import math

import numpy as np
from keras import layers, ops

from tests.fuzz.models import values
from tests.fuzz.models.steps import Draw, Step, of_layer

__all__ = ["MERGES", "ROWS"]


def _step(name, function, value=None) -> Step:
    """An operation; where NumPy spells it alike, once for both."""
    return Step(f"ops.{name}", function, value or function)


def _shift(draw: Draw, shape):
    partly = [n if draw.chance(0.5) else 1 for n in shape]
    c = draw.one_of(draw.number(), draw.array(shape[-1]), draw.array(1, *partly))
    number = draw.number()
    return draw.one_of(
        _step("x + c", lambda x: x + c), _step("c - x", lambda x: number - x),
        _step("x - c", lambda x: x - c), _step("-x", lambda x: -x),
    )  # fmt: skip


def _scale(draw: Draw, shape):
    c = draw.number()
    if draw.chance(0.2):
        c = draw.array(shape[-1]) + 3.0
    return draw.one_of(_step("x * c", lambda x: x * c), _step("x / c", lambda x: x / c))


def _activation(draw: Draw, shape):
    name = draw.one_of(
        "relu", "relu6", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "silu", "softplus",
        "softsign", "hard_sigmoid", "gelu",
    )  # fmt: skip
    if name == "gelu":
        return _step(name, lambda x: ops.gelu(x, approximate=False), values.ACTIVATIONS[name])
    return _step(name, getattr(ops, name), values.ACTIVATIONS[name])


def _leaky(draw: Draw, shape):
    slope = draw.one_of(0.4, 1.5, 0.1)
    return _step("leaky_relu(slope)", lambda x: ops.leaky_relu(x, slope),
                 lambda x: values.relu(x, slope))  # fmt: skip


def _limits(draw: Draw, shape):
    c = draw.number()
    return draw.one_of(
        _step("abs", ops.abs, np.abs),
        _step("maximum(x, c)", lambda x: ops.maximum(x, c),
              lambda x: np.maximum(x, x.dtype.type(c))),
        _step("minimum(c, x)", lambda x: ops.minimum(c, x),
              lambda x: np.minimum(x, x.dtype.type(c))),
        _step("clip", lambda x: ops.clip(x, c, c + 1.0),
              lambda x: np.clip(x, x.dtype.type(c), x.dtype.type(c + 1.0))),
    )  # fmt: skip


def _movement(draw: Draw, shape):
    axis, rank = draw.size(1, len(shape)), len(shape) + 1
    signed = draw.one_of(axis, axis - rank)
    order = [0, *(int(i) + 1 for i in draw.rng.permutation(len(shape)))]
    return draw.one_of(
        _step("flip", lambda x: ops.flip(x, axis=signed), lambda x: np.flip(x, axis=signed)),
        _step("transpose", lambda x: ops.transpose(x, order), lambda x: np.transpose(x, order)),
        _step("expand_dims", lambda x: ops.squeeze(ops.expand_dims(x, axis), axis), lambda x: x),
        _step("reshape", lambda x: ops.reshape(x, (-1, math.prod(shape))),
              lambda x: x.reshape(len(x), -1)),
    )  # fmt: skip


def _selection(draw: Draw, shape):
    axis = draw.size(1, len(shape))
    size = shape[axis - 1]
    start, stop = draw.size(0, size - 1), size
    key = (slice(None),) * axis + (slice(start, stop, draw.one_of(None, 1, 2)),)
    backward = (slice(None),) * axis + (slice(None, None, -1),)
    index = [draw.size(-size, size - 1) for _ in range(draw.size(1, size))]
    return draw.one_of(
        _step("x[key]", lambda x: x[key]),
        _step("x[::-1]", lambda x: x[backward]),
        _step("take", lambda x: ops.take(x, index, axis=axis), lambda x: np.take(x, index, axis)),
    )


def _indexed(draw: Draw, shape):
    """An integer drops an axis."""
    if len(shape) < 2:
        return None
    axis = draw.size(1, len(shape))
    key = (slice(None),) * axis + (draw.size(0, shape[axis - 1] - 1),)
    last = (..., draw.size(0, shape[-1] - 1))
    return draw.one_of(_step("x[i]", lambda x: x[key]), _step("x[..., i]", lambda x: x[last]))


def _padding(draw: Draw, shape):
    if math.prod(shape) > 12:
        return None
    amounts = [(0, 0), *((draw.size(0, 1), draw.size(0, 1)) for _ in shape)]
    constant = draw.one_of(None, None, 0.5)
    return _step(
        "pad", lambda x: ops.pad(x, amounts, constant_values=constant),
        lambda x: np.pad(x, amounts, constant_values=constant or 0),
    )  # fmt: skip


def _sums(draw: Draw, shape):
    """Sums, means, copies and shuffles, which verification knows and bounds refuse."""
    axis = draw.size(1, len(shape))
    if len(shape) < 2:
        return _step("repeat", lambda x: ops.repeat(x, 2, axis=axis),
                     lambda x: np.repeat(x, 2, axis))  # fmt: skip
    return draw.one_of(
        _step("sum", lambda x: ops.sum(x, axis=axis), lambda x: x.sum(axis=axis)),
        _step("mean", lambda x: ops.mean(x, axis=axis), lambda x: x.mean(axis=axis)),
        _step("swapaxes", lambda x: ops.swapaxes(x, axis, 1), lambda x: np.swapaxes(x, axis, 1)),
    )


def _matrix(draw: Draw, shape):
    letters = "bcdefg"[: len(shape)]
    old = letters[draw.size(0, len(shape) - 1)]
    rows = shape[letters.index(old)]
    matrix = draw.array(rows, draw.size(1, 3))
    equation = f"a{letters},{old}z->a{letters.replace(old, 'z')}"
    return _step("einsum", lambda x: ops.einsum(equation, x, matrix),
                 lambda x: np.einsum(equation, x, matrix.astype(x.dtype)))  # fmt: skip


def _split(draw: Draw, shape):
    axis = draw.size(1, len(shape))
    size = shape[axis - 1]
    if size < 2:
        return None
    parts = draw.one_of(*[n for n in range(2, size + 1) if size % n == 0])
    where = draw.one_of(parts, [draw.size(1, size - 1)])
    return _step("split", lambda x: ops.split(x, where, axis=axis),
                 lambda x: np.split(x, where, axis=axis))  # fmt: skip


def _broadcast(draw: Draw, shape):
    """A tensor and one entry of it along some axis."""
    axis = draw.size(1, len(shape))
    key = (slice(None),) * axis + (slice(0, 1),)
    kind, value = draw.one_of((layers.Add, np.add), (layers.Maximum, np.maximum))
    layer = kind(dtype=draw.policy)
    name = f"broadcast {kind.__name__}"
    return Step(name, lambda x: layer([x, x[key]]), lambda x: value(x, x[key]), layer)


ROWS = {
    _broadcast: 0.7,
    _shift: 2, _scale: 2, _activation: 2, _leaky: 0.5, _limits: 1.5, _movement: 1.5,
    _selection: 1.5, _indexed: 0.5, _padding: 0.7, _sums: 0.7, _matrix: 1, _split: 1,
}  # fmt: skip


# --- merges: `(draw, shape)` of tensors that have one shape -------------------------------------


def _by_layer(kind, value):
    def row(draw: Draw, shape):
        return of_layer(kind(dtype=draw.policy), value)

    return row


def _concatenation(draw: Draw, shape):
    axis = draw.size(1, len(shape))
    signed = draw.one_of(axis, axis - len(shape) - 1)
    layer = layers.Concatenate(axis=signed, dtype=draw.policy)
    by_operation = _step(
        "concatenate", lambda *x: ops.concatenate(list(x), axis=signed),
        lambda *x: np.concatenate(x, axis=axis),
    )  # fmt: skip
    return draw.one_of(by_operation, of_layer(layer, lambda *x: np.concatenate(x, axis=axis)))


def _pairwise(draw: Draw, shape):
    return draw.one_of(
        _step("x + y", lambda x, y: x + y), _step("x - y", lambda x, y: x - y),
        _step("maximum", lambda x, y: ops.maximum(x, y), np.maximum),
        _step("minimum", lambda x, y: ops.minimum(x, y), np.minimum),
    )  # fmt: skip


MERGES = {
    _by_layer(layers.Add, lambda x, y: x + y): 2,
    _by_layer(layers.Subtract, lambda x, y: x - y): 1,
    _by_layer(layers.Average, lambda x, y: (x + y) / 2): 1,
    _by_layer(layers.Maximum, np.maximum): 1,
    _by_layer(layers.Minimum, np.minimum): 1,
    _concatenation: 2,
    _pairwise: 2,
}
