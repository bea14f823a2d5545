"""TensorFlow operators that move, join or add entries of samples."""

import math

import keras
import numpy as np
from keras import ops

from deel_lip_tf.formats.build import KerasGraphBuilder
from deel_lip_tf.formats.graph import BATCH, Node
from deel_lip_tf.formats.saved_model.tensors import Tensor


def _shaped(
    builder: KerasGraphBuilder, value: Tensor, shape: list[int], rows: int | None = None
) -> Tensor:
    """A tensor whose sample has another shape."""
    tensor = builder.reshaped(value.tensor, shape)
    return Tensor(tensor, rows=rows, batch_size=value.batch_size)


def reshaped(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Reshape`; rows of samples may move to the batch axis and back again."""
    value = builder.tensor(node.inputs[0])
    target = [int(size) for size in builder.constant(node, 1)]
    entries, known = math.prod(value.sample), math.prod(target[1:])
    first = value.batch_size if target and target[0] == value.batch_size else None
    times = target[0] // BATCH if target and target[0] <= BATCH else first
    if times and -1 in target[1:] and known < 0:
        target = [n if n != -1 else entries // (times * -known) for n in target]
        known = math.prod(target[1:])
    rows = entries // known if known > 0 and min(target[1:], default=0) > 0 else 0
    is_whole = times == rows or (target and target[0] == -1)
    if value.blocks is not None or rows < 1 or rows * known != entries or not is_whole:
        shown = ["batch" if n == BATCH else n for n in target]
        raise node.unsupported(f"the batch first, and {entries} entries for each sample", shown)
    if rows == 1:
        return _shaped(builder, value, target[1:])
    return _shaped(builder, value, [rows, *target[1:]], rows=rows)


def expanded(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`ExpandDims`."""
    value = builder.tensor(node.inputs[0])
    value.samples()
    axis = int(builder.constant(node, 1)) % (value.rank + 1)
    if axis == 0:
        raise node.unsupported("an axis behind the batch", axis)
    sample = list(value.sample)
    sample.insert(axis - 1, 1)
    return _shaped(builder, value, sample)


def squeezed(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Squeeze` of axes that are named."""
    value = builder.tensor(node.inputs[0])
    value.samples()
    given = node.attributes.get("squeeze_dims", [])
    axes = [axis % value.rank for axis in given]
    if not axes or 0 in axes or any(value.sample[axis - 1] != 1 for axis in axes):
        raise node.unsupported("axes of size 1 behind the batch", given)
    return _shaped(
        builder, value, [n for axis, n in enumerate(value.sample, 1) if axis not in axes]
    )


def transposed(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Transpose` of axes behind the batch."""
    value = builder.tensor(node.inputs[0])
    order = [int(axis) % value.rank for axis in builder.constant(node, 1)]
    if order == list(range(value.rank)):
        return value
    if order[0] != 0:
        raise node.unsupported("the batch axis left where it is", order)
    return value.of(keras.layers.Permute(tuple(order[1:]), dtype=builder.dtype)(value.samples()))


def concatenated(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`ConcatV2` of tensors."""
    *names, _ = node.inputs
    if any(builder.is_constant(name) for name in names):
        raise node.unsupported("no constant input", names)
    values = [builder.tensor(name) for name in names]
    axis = int(builder.constant(node, len(names))) % values[0].rank
    if axis == 0:
        raise node.unsupported("another axis than the batch", axis)
    tensors = [value.samples() for value in values]
    if len(tensors) == 1:
        return values[0]
    return values[0].of(keras.layers.Concatenate(axis=axis, dtype=builder.dtype)(tensors))


def padded(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Pad` and `PadV2`, with zeros."""
    value = builder.tensor(node.inputs[0])
    if len(node.inputs) > 2 and np.any(builder.constant(node, 2)):
        raise node.unsupported("zeros as padding", builder.constant(node, 2))
    pairs = [(int(a), int(b)) for a, b in builder.constant(node, 1)]
    if any(pairs[0]):
        raise node.unsupported("no padding of the batch", pairs)
    if value.rank == 4 and not any(pairs[-1]):
        layer = keras.layers.ZeroPadding2D(tuple(pairs[1:3]), dtype=builder.dtype)
        return value.of(layer(value.samples()))
    return value.of(ops.pad(value.samples(), pairs))


def repeated(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Tile` of axes of size 1."""
    value = builder.tensor(node.inputs[0])
    counts = [int(count) for count in builder.constant(node, 1)]
    tensor = value.samples()
    for axis, count in enumerate(counts):
        if count == 1:
            continue
        if axis == 0 or count < 1 or value.sample[axis - 1] != 1:
            raise node.unsupported("axes of size 1 behind the batch to repeat", counts)
        tensor = ops.repeat(tensor, count, axis=axis)
    return value.of(tensor)


def sliced(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`StridedSlice` of axes behind the batch."""
    value = builder.tensor(node.inputs[0])
    node.expect("new_axis_mask", 0, 0)
    begins, ends, steps = (builder.constant(node, position).tolist() for position in (1, 2, 3))
    masks = [node.attributes.get(f"{name}_mask", 0) for name in ("begin", "end", "shrink_axis")]
    key: list = []
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if node.attributes.get("ellipsis_mask", 0) >> axis & 1:
            key += [slice(None, None, 1)] * (value.rank - len(begins) + 1)
            continue
        no_begin, no_end, is_index = (mask >> axis & 1 for mask in masks)
        part = slice(None if no_begin else begin, None if no_end else end, step)
        key.append(begin if is_index else part)
    if key[0] not in (slice(None, None, 1), slice(0, None, 1)):
        raise node.unsupported("all samples of the batch", key[0])
    return value.of(value.samples()[(slice(None), *key[1:])])


def gathered(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`GatherV2`: entries of one axis behind the batch, by their places."""
    node.expect("batch_dims", 0, 0)
    value, indices = builder.tensor(node.inputs[0]), builder.constant(node, 1)
    axis = int(builder.constant(node, 2)) % value.rank
    is_inside = ((indices >= 0) & (indices < value.sample[axis - 1])).all()
    if axis == 0 or indices.ndim != 1 or not is_inside:
        raise node.unsupported("a list of places of an axis behind the batch", indices)
    return value.of(ops.take(value.samples(), indices, axis=axis))
