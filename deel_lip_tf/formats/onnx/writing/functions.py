"""How functions of one number are written: by an operator of ONNX, or by a few of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deel_lip_tf.formats.onnx.writing.emitter import Emitter, OnnxTensor
from deel_lip_tf.semantics.ir.elementwise import Function


def write_function(emitter: Emitter, function: Function, x: OnnxTensor) -> OnnxTensor:
    """The function of each entry."""
    return FUNCTIONS[function.name](emitter, x, *function.arguments)


def _operator(kind: str, **attributes: Any) -> Callable[..., OnnxTensor]:
    return lambda emitter, x: emitter.apply(kind, x, **attributes)


def _relu(emitter, x, slope: float, ceiling: float):
    if not slope and ceiling == math.inf:
        return emitter.apply("Relu", x)
    if not slope:
        return emitter.apply("Clip", x, 0.0, ceiling)
    if ceiling == math.inf:
        return emitter.apply("LeakyRelu", x, alpha=slope)
    above = emitter.apply("Clip", x, 0.0, ceiling)
    below = emitter.apply("Mul", emitter.apply("Min", x, 0.0), slope)
    return emitter.combine("Add", above, below)


def _prelu(emitter, x, slopes: np.ndarray):
    below = emitter.apply("Mul", emitter.apply("Min", x, 0.0), slopes)
    return emitter.combine("Add", emitter.apply("Relu", x), below)


def _clip(emitter, x, low: float, high: float):
    return emitter.apply("Clip", x, low, high)


def _hard_sigmoid(emitter, x):
    return emitter.apply("Clip", emitter.apply("Add", emitter.apply("Div", x, 6.0), 0.5), 0.0, 1.0)


def _sparse_sigmoid(emitter, x):
    return emitter.apply("Clip", emitter.apply("Add", emitter.apply("Mul", x, 0.5), 0.5), 0.0, 1.0)


def _soft_shrink(emitter, x, threshold: float):
    return emitter.combine("Sub", x, emitter.apply("Clip", x, -threshold, threshold))


def _elu(emitter, x, alpha: float, scale: float):
    outputs = emitter.apply("Elu", x, alpha=alpha)
    return outputs if scale == 1.0 else emitter.apply("Mul", outputs, scale)


def _celu(emitter, x, alpha: float):
    return emitter.apply("Celu", x, alpha=alpha)


def _squareplus(emitter, x, b: float):
    root = emitter.apply("Sqrt", emitter.apply("Add", emitter.combine("Mul", x, x), b))
    return emitter.apply("Mul", emitter.combine("Add", x, root), 0.5)


def _gelu(emitter, x, approximate: bool):
    if approximate:
        cube = emitter.combine("Mul", emitter.combine("Mul", x, x), x)
        inner = emitter.combine("Add", x, emitter.apply("Mul", cube, 0.044715))
        share = emitter.apply("Tanh", emitter.apply("Mul", inner, math.sqrt(2.0 / math.pi)))
    else:
        share = emitter.apply("Erf", emitter.apply("Mul", x, math.sqrt(0.5)))
    return emitter.apply("Mul", emitter.combine("Mul", x, emitter.apply("Add", share, 1.0)), 0.5)


def _times(factor: Callable[..., OnnxTensor]) -> Callable[..., OnnxTensor]:
    return lambda emitter, x: emitter.combine("Mul", x, factor(emitter, x))


def _mish(emitter, x):
    return emitter.combine("Mul", x, emitter.apply("Tanh", emitter.apply("Softplus", x)))


def _log_sigmoid(emitter, x):
    return emitter.apply("Neg", emitter.apply("Softplus", emitter.apply("Neg", x)))


def _tanh_shrink(emitter, x):
    return emitter.combine("Sub", x, emitter.apply("Tanh", x))


def _sparse_plus(emitter, x):
    """A ReLU of `x - 1` and the square of what is between -1 and 1."""
    inside = emitter.apply("Clip", emitter.apply("Add", x, 1.0), 0.0, 2.0)
    square = emitter.apply("Mul", emitter.combine("Mul", inside, inside), 0.25)
    return emitter.combine("Add", emitter.apply("Relu", emitter.apply("Sub", x, 1.0)), square)


FUNCTIONS: dict[str, Callable[..., OnnxTensor]] = {
    "relu": _relu,
    "prelu": _prelu,
    "clip": _clip,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _times(_hard_sigmoid),
    "sparse_sigmoid": _sparse_sigmoid,
    "sparse_plus": _sparse_plus,
    "soft_shrink": _soft_shrink,
    "elu": _elu,
    "celu": _celu,
    "squareplus": _squareplus,
    "gelu": _gelu,
    "mish": _mish,
    "log_sigmoid": _log_sigmoid,
    "tanh_shrink": _tanh_shrink,
    "silu": _times(_operator("Sigmoid")),
    "sigmoid": _operator("Sigmoid"),
    "tanh": _operator("Tanh"),
    "softplus": _operator("Softplus"),
    "softsign": _operator("Softsign"),
    "exponential": _operator("Exp"),
}
"""By the name of the function; each takes its arguments."""
