"""How linear maps are written in ONNX operators: few, and those that verifiers know."""

from collections.abc import Callable, Sequence

import numpy as np

from deel_lip_tf.formats.onnx.writing.emitter import Emitter, OnnxTensor
from deel_lip_tf.semantics.ir.primitives import (
    Adjoint,
    AxisProducts,
    Blocks,
    Centering,
    Concatenate,
    Conv,
    Diagonal,
    Einsum,
    Gather,
    MatMul,
    Pick,
    Reshape,
    Scale,
    Sum,
    Transpose,
)
from deel_lip_tf.semantics.ir.program import Affine


def write_affine(emitter: Emitter, node: Affine, inputs: Sequence[OnnxTensor]) -> OnnxTensor:
    """The map of a node, and its bias."""
    bias = node.bias
    if isinstance(node.map, MatMul) and len(node.shape) == 1 and bias is not None:
        constants = [emitter.constant(c) for c in (node.map.matrix, bias.reshape(-1))]
        return OnnxTensor(emitter.node("Gemm", [inputs[0].name, *constants]), node.shape)
    if isinstance(node.map, Conv) and bias is not None and bias.size == node.shape[-1]:
        return _conv(emitter, node.map, inputs[0], emitter.constant(bias.reshape(-1)))
    if isinstance(node.map, Sum | Concatenate):
        output = MAPS[type(node.map)](emitter, node.map, inputs)
    else:
        output = MAPS[type(node.map)](emitter, node.map, inputs[0])
    return output if bias is None else emitter.apply("Add", output, bias)


def _transpose(emitter, linear: Transpose, x):
    rank = len(linear.axes)
    shape = linear.shape([x.shape])
    if linear.axes == tuple(range(rank)):
        return x
    # A tensor that the file holds with the channels first is, under another name, one that has
    # them first.
    if x.is_first and linear.axes == (0, rank - 1, *range(1, rank - 1)):
        return OnnxTensor(x.name, shape)
    if not x.is_first and linear.axes == (0, *range(2, rank), 1):
        return OnnxTensor(x.name, shape, is_first=True)
    x = emitter.channels_last(x)
    return OnnxTensor(emitter.node("Transpose", [x.name], perm=list(linear.axes)), shape)


def _gather(emitter, linear: Gather, x):
    x = emitter.channels_last(x)
    for axis, indices in enumerate(linear.indices, 1):
        x = x if indices is None else _taken(emitter, x, indices, axis)
    return x


def _taken(emitter, x: OnnxTensor, indices: np.ndarray, axis: int) -> OnnxTensor:
    """Entries along an axis: zeros around them, a slice, or any."""
    size, shape = x.shape[axis - 1], list(x.shape)
    inside = np.flatnonzero(indices >= 0)
    first, last = (inside[0], inside[-1] + 1) if inside.size else (len(indices), len(indices))
    kept = indices[first:last]
    if (kept < 0).any():
        # Zeros between the entries: of one more entry, a zero.
        x = _padded(emitter, x, axis, 0, 1)
        return _taken(emitter, x, np.where(indices < 0, size, indices), axis)
    if not np.array_equal(kept, np.arange(size)):
        shape[axis - 1] = len(kept)
        steps = np.diff(kept)
        if kept.size and (steps > 0).all() and (steps == steps[:1]).all():
            step = int(steps[0]) if steps.size else 1
            ends = [[kept[0]], [kept[-1] + 1], [axis], [step]]
            names = [emitter.constant(end, "int64") for end in ends]
            x = OnnxTensor(emitter.node("Slice", [x.name, *names]), tuple(shape))
        else:
            name = emitter.constant(kept, "int64")
            x = OnnxTensor(emitter.node("Gather", [x.name, name], axis=axis), tuple(shape))
    return _padded(emitter, x, axis, int(first), len(indices) - int(last))


def _padded(emitter, x: OnnxTensor, axis: int, before: int, after: int) -> OnnxTensor:
    if not before + after:
        return x
    rank, shape = len(x.shape) + 1, list(x.shape)
    pads = np.zeros((2, rank), int)
    pads[:, axis] = before, after
    shape[axis - 1] += before + after
    name = emitter.node("Pad", [x.name, emitter.constant(pads.ravel(), "int64")])
    return OnnxTensor(name, tuple(shape))


def _pick(emitter, linear: Pick, x):
    flat = emitter.reshaped(x, (int(np.prod(x.shape)),))
    return emitter.reshaped(_taken(emitter, flat, linear.indices.ravel(), 1), linear.indices.shape)


def _adjoint(emitter, linear: Adjoint, x):
    matrices = tuple(
        None if indices is None else np.asarray(indices[:, None] == np.arange(size), float)
        for indices, size in zip(linear.of.indices, linear.to, strict=True)
    )
    return _axis_products(emitter, AxisProducts(matrices), x)


def _scale(emitter, linear: Scale, x):
    return x if linear.factor == 1.0 else emitter.apply("Mul", x, linear.factor)


def _diagonal(emitter, linear: Diagonal, x):
    scale = np.asarray(linear.scale)
    # Axes along which it is constant need not be written out.
    for axis in range(1, scale.ndim):
        first = scale.take([0], axis)
        scale = first if (scale == first).all() else scale
    return emitter.apply("Mul", x, scale)


def _matmul(emitter, linear: MatMul, x):
    shape = linear.shape([x.shape])
    if not x.is_first:
        name = emitter.node("MatMul", [x.name, emitter.constant(linear.matrix)])
        return OnnxTensor(name, shape)
    kernel = linear.matrix.T.reshape(*linear.matrix.T.shape, *[1] * (len(shape) - 1))
    return OnnxTensor(emitter.node("Conv", [x.name, emitter.constant(kernel)]), shape, True)


def _blocks(emitter, linear: Blocks, x):
    parts, results, entries = linear.coefficients.shape
    diagonals = linear.coefficients[..., None] * np.eye(entries)
    matrix = diagonals.transpose(0, 2, 1, 3).reshape(parts * entries, results * entries)
    return _matmul(emitter, MatMul(matrix), x)


def _axis_products(emitter, linear: AxisProducts, x):
    for axis, matrix in enumerate(linear.matrices, 1):
        if matrix is None:
            continue
        x, rank = emitter.channels_last(x), len(x.shape) + 1
        exchanged = list(range(rank))
        exchanged[axis], exchanged[-1] = exchanged[-1], exchanged[axis]
        shape = (*x.shape[: axis - 1], matrix.shape[1], *x.shape[axis:])
        name = x.name
        if axis < rank - 1:
            name = emitter.node("Transpose", [name], perm=exchanged)
        name = emitter.node("MatMul", [name, emitter.constant(matrix)])
        if axis < rank - 1:
            name = emitter.node("Transpose", [name], perm=exchanged)
        x = OnnxTensor(name, shape)
    return x


def _centering(emitter, linear: Centering, x):
    x = emitter.channels_last(x)
    name = emitter.node("ReduceMean", [x.name], axes=list(linear.axes), keepdims=1)
    shape = tuple(1 if axis in linear.axes else n for axis, n in enumerate(x.shape, 1))
    centred = emitter.combine("Sub", x, OnnxTensor(name, shape))
    return _scale(emitter, Scale(linear.scale), centred)


def _einsum(emitter, linear: Einsum, x):
    x = emitter.channels_last(x)
    names = [x.name, emitter.constant(linear.kernel)]
    name = emitter.node("Einsum", names, equation=linear.equation.replace(" ", ""))
    return OnnxTensor(name, linear.shape([x.shape]))


def _conv(emitter, linear: Conv, x, *bias: str):
    """Kernels (*size, groups, inputs, outputs) become (groups * outputs, inputs, *size)."""
    x = emitter.channels_first(x)
    *sizes, groups, inputs, outputs = linear.kernel.shape
    options = {
        "kernel_shape": sizes,
        "strides": list(linear.strides),
        "dilations": list(linear.dilation),
        "pads": [pair[side] for side in (0, 1) for pair in linear.pads],
        "group": groups,
    }
    rank, shape = len(sizes), linear.shape([x.shape])
    if linear.transposed:
        places = zip(linear.output_sizes, linear.strides, sizes, linear.padded, strict=True)
        options["output_padding"] = [n - ((m - 1) * step + k) for m, step, k, n in places]
    # Both operators lay out their kernels alike.
    kernel = linear.kernel.transpose(rank, rank + 2, rank + 1, *range(rank))
    kernel = kernel.reshape(groups * outputs, inputs, *sizes)
    kind = "ConvTranspose" if linear.transposed else "Conv"
    name = emitter.node(kind, [x.name, emitter.constant(kernel), *bias], **options)
    return OnnxTensor(name, shape, is_first=True)


def _sum(emitter, linear: Sum, inputs):
    pairs = zip(linear.terms, inputs, strict=True)
    first, *others = (MAPS[type(term)](emitter, term, x) for term, x in pairs)
    for other in others:
        first = emitter.combine("Add", first, other)
    return first


def _concatenate(emitter, linear: Concatenate, inputs):
    tensors = [emitter.channels_last(x) for x in inputs]
    name = emitter.node("Concat", [x.name for x in tensors], axis=linear.axis)
    return OnnxTensor(name, linear.shape([x.shape for x in tensors]))


MAPS: dict[type, Callable[..., OnnxTensor]] = {
    Adjoint: _adjoint,
    AxisProducts: _axis_products,
    Blocks: _blocks,
    Centering: _centering,
    Concatenate: _concatenate,
    Conv: _conv,
    Diagonal: _diagonal,
    Einsum: _einsum,
    Gather: _gather,
    MatMul: _matmul,
    Pick: _pick,
    Reshape: lambda emitter, linear, x: emitter.reshaped(x, linear.to),
    Scale: _scale,
    Sum: _sum,
    Transpose: _transpose,
}
"""By the type of the map."""
