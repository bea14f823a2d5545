"""The checker's own reader of ONNX files that are chains of affine maps and ReLUs."""

import math
from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper, load_from_string, numpy_helper

# Attributes that are read, or do not matter, and those that must be what they are by default.
FREE = {"Dropout": {"ratio"}, "Flatten": {"axis"}, "Gemm": {"transB"}}
FREE |= {"Conv": {"dilations", "kernel_shape", "pads", "strides"}}
FIXED = {"alpha": 1.0, "beta": 1.0, "transA": 0, "group": 1, "auto_pad": b"NOTSET"}
MOST_NUMBERS = 2**27  # of a matrix, and of all: a gibibyte


class Rejected(Exception):
    """What was given proves nothing; the message says why."""


class Layer(NamedTuple):
    """`weight @ x + bias`, (out, in) and (out,), followed by a ReLU or by nothing."""

    weight: np.ndarray
    bias: np.ndarray
    is_relu: bool = False


def read_network(data: bytes) -> list[Layer]:
    """The layers of an ONNX file, with its numbers as they are stored."""
    model = load_from_string(data)
    if any(one.data_location == TensorProto.EXTERNAL for one in model.graph.initializer):
        raise Rejected("the network must hold its numbers itself, not name other files")
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    (given,) = (one for one in model.graph.input if one.name not in constants)
    sizes = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    version = {one.domain: one.version for one in model.opset_import}[""]
    if version < 7 or model.functions or given.type.tensor_type.elem_type not in (1, 11):
        raise Rejected("the network must be of floats, and of operators of version 7 or later")
    _check_size(math.prod(sizes[1:]) * (sizes[0] or 1))
    name, x, layers = given.name, np.zeros([sizes[0] or 1, *sizes[1:]]), list[Layer]()
    for node in model.graph.node:
        options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        for key, value in options.items():
            if key not in FREE.get(node.op_type, ()) and FIXED.get(key) != value:
                raise Rejected(f"an attribute of {node.op_type} is not known: {key}={value}")
        others = [constants[one].astype(np.float64) for one in node.input if one != name]
        is_later = node.input[0] != name and node.op_type != "Add"
        if len(others) != len(node.input) - 1 or is_later or node.domain:
            raise Rejected(f"the network is no chain at the operator {node.op_type}")
        name, x = node.output[0], _extended(layers, x, node.op_type, others, options)
        _check_size(sum(layer.weight.size for layer in layers))
    if [name] != [one.name for one in model.graph.output] or not x.size:
        raise Rejected("the network does not end at its only output")
    return layers


def _extended(layers: list[Layer], x: np.ndarray, kind: str, constants: list, options: dict):
    """Adds an operator to the layers; from zeros of the shape that it reads to such it returns."""
    first, *others = constants or [np.zeros(1)]
    weight = first if options.get("transB") else first.T
    if kind in ("Identity", "Dropout") and not constants:
        return x
    if kind == "Flatten":
        return x.reshape(np.prod(x.shape[: options.get("axis", 1)], dtype=int), -1)
    if kind == "Conv" and first.ndim == x.ndim:
        return _convolved(layers, x, options, first, *others)
    if kind in ("MatMul", "Gemm") and first.ndim == 2 and x.shape[-1] == x.size == weight.shape[1]:
        layers.append(Layer(weight, np.broadcast_to((*others, 0.0)[0], (1, len(weight)))[0]))
        return np.zeros((*x.shape[:-1], len(weight)))
    if kind not in ("Relu", "Add", "Sub") or (x + first).size != x.size:
        raise Rejected(f"this use of the operator {kind} is not known")
    y = x + first if kind == "Add" else x - first
    if not layers or layers[-1].is_relu or (kind != "Relu" and layers[-1].bias.any()):
        _check_size(x.size**2)
        layers.append(Layer(np.eye(x.size), np.zeros(x.size)))
    layers[-1] = layers[-1]._replace(**{"is_relu": True} if kind == "Relu" else {"bias": y.ravel()})
    return np.zeros_like(y)


def _convolved(layers: list[Layer], x: np.ndarray, options: dict, kernel: np.ndarray, *bias):
    """Adds a convolution of one image (1, channels, *size) by a kernel (out, channels, *sizes)."""
    count, (filters, channels, *sizes) = x.ndim - 2, kernel.shape
    steps, gaps = (options.get(name, [1] * count) for name in ("strides", "dilations"))
    pads, own = options.get("pads", [0] * 2 * count), options.get("kernel_shape", sizes)
    offset = np.broadcast_to([*bias, 0.0][0], filters)
    lengths = [len(steps), len(gaps), len(pads)] == [count, count, 2 * count]
    if x.shape[:2] != (1, channels) or own != sizes or not lengths or min(*steps, *gaps) < 1:
        raise Rejected("this use of the operator Conv is not known")
    around = [(0, 0), *zip(pads[:count], pads[count:], strict=True)]
    _check_size(math.prod(n + sum(pair) for n, pair in zip(x.shape[1:], around, strict=True)))
    # Where each entry of a window stands in the image; of the padding, behind its end.
    places = np.pad(np.arange(x.size).reshape(x.shape[1:]), around, constant_values=x.size)
    spans = channels, *((size - 1) * gap + 1 for size, gap in zip(sizes, gaps, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(places, spans)[0]
    windows = windows[tuple(slice(None, None, step) for step in (*steps, 1, *gaps))]
    rows = math.prod(windows.shape[:count])
    _check_size(max(filters * rows * (x.size + 1), windows.size))
    weight = np.zeros((filters, rows, x.size + 1))
    weight[:, np.arange(rows)[:, None], windows.reshape(rows, -1)] = kernel.reshape(filters, 1, -1)
    layers.append(Layer(weight[..., :-1].reshape(-1, x.size), np.repeat(offset, rows)))
    return np.zeros((1, filters, *windows.shape[:count]))


def _check_size(count: int) -> None:
    if count > MOST_NUMBERS:
        raise Rejected(f"the network needs an array of {count} numbers, more than {MOST_NUMBERS}")
