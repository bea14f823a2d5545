"""ONNX operators that move, join or choose entries of samples."""

import math

import keras
from keras import ops

from deel_lip_tf.formats.build import KerasGraphBuilder
from deel_lip_tf.formats.graph import BATCH, Node
from deel_lip_tf.formats.onnx.tensors import Tensor

_ALL = 2**30
"""An end of a slice that no axis reaches; files write the largest integer."""
_PADDING = {
    1: keras.layers.ZeroPadding1D,
    2: keras.layers.ZeroPadding2D,
    3: keras.layers.ZeroPadding3D,
}


def _shaped(builder: KerasGraphBuilder, value: Tensor, shape) -> Tensor:
    """A tensor whose sample has another shape, entries in ONNX's order."""
    return Tensor(builder.reshaped(value.channels_first(), shape))


def flatten(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Flatten` of all axes but the batch."""
    value = builder.tensor(node.inputs[0])
    node.expect("axis", 1, 1, 1 - value.rank)
    return _shaped(builder, value, (math.prod(value.sample),))


def reshape(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Reshape` of samples; the batch is a size of 0, 1, -1, or one read from a shape."""
    node.expect("allowzero", 0, 0)
    value = builder.tensor(node.inputs[0])
    sample = value.sample
    target = [int(size) for size in builder.constant(node, 1)]
    known = [sample[i - 1] if size == 0 and 0 < i <= len(sample) else size
             for i, size in enumerate(target)]  # fmt: skip
    first, rest, entries = known[0] if known else 2, known[1:], math.prod(sample)
    if rest.count(-1) == 1:
        others = -math.prod(rest)
        rest = [entries // others if size == -1 and others else size for size in rest]
    is_batch = first in (-1, 0, 1, BATCH)
    if not rest or not is_batch or min(rest) < 1 or math.prod(rest) != entries:
        shown = ["batch" if size == BATCH else size for size in target]
        raise node.unsupported(f"the batch first, and {entries} entries for each sample", shown)
    return _shaped(builder, value, rest)


def squeeze(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Squeeze` of axes that are named."""
    value = builder.tensor(node.inputs[0])
    axes = axes_of(builder, node, value.rank)
    if 0 in axes or any(value.sample[axis - 1] != 1 for axis in axes):
        raise node.unsupported("axes of size 1 behind the batch", axes)
    kept = [size for axis, size in enumerate(value.sample, 1) if axis not in axes]
    return _shaped(builder, value, kept)


def unsqueeze(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Unsqueeze` behind the batch."""
    value = builder.tensor(node.inputs[0])
    axes = axes_of(builder, node, value.rank + builder.constant(node, 1).size)
    if 0 in axes:
        raise node.unsupported("axes behind the batch", axes)
    sample = list(value.sample)
    for axis in sorted(axes):
        sample.insert(axis - 1, 1)
    return _shaped(builder, value, sample)


def axes_of(builder: KerasGraphBuilder, node: Node, rank: int) -> list[int]:
    """The axes that an operator's second input names, counted from the front."""
    return [int(axis) % rank for axis in builder.constant(node, 1).reshape(-1)]


def adds_batch(builder: KerasGraphBuilder, node: Node) -> bool:
    """Whether an operator puts an axis of size 1 in front of a vector."""
    if node.kind not in ("Flatten", "Reshape", "Unsqueeze"):
        return False
    (size,) = builder.tensor(node.inputs[0]).sample
    if node.kind == "Unsqueeze":
        return axes_of(builder, node, 2) == [0]
    if node.kind == "Flatten":
        return node.attributes.get("axis", 1) in (0, -1)
    return [int(n) for n in builder.constant(node, 1)] in ([1, size], [1, -1], [-1, size])


def transpose(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Transpose` of axes behind the batch."""
    value = builder.tensor(node.inputs[0])
    order = node.attributes.get("perm", list(range(value.rank))[::-1])
    if order[0] != 0:
        raise node.unsupported("the batch axis left where it is", order)
    is_last = value.layout == "NHWC"
    if is_last and list(order) == [0, *range(2, value.rank), 1]:
        return Tensor(value.tensor)
    if not is_last and list(order) == [0, value.rank - 1, *range(1, value.rank - 1)]:
        return Tensor(value.tensor, "NHWC" if value.rank > 2 else "NCHW")
    layer = keras.layers.Permute(tuple(order[1:]), dtype=builder.dtype)
    return Tensor(layer(value.channels_first()))


def concat(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Concat` of tensors, not along the batch."""
    if any(builder.is_constant(name) for name in node.inputs):
        raise node.unsupported("no constant input", node.inputs)
    rank = builder.tensor(node.inputs[0]).rank
    axis = node.attributes["axis"] % rank
    if axis == 0:
        raise node.unsupported("another axis than the batch", axis)
    values = [builder.tensor(name) for name in node.inputs]
    if axis == 1 and all(value.layout == "NHWC" for value in values):
        layer = keras.layers.Concatenate(axis=-1, dtype=builder.dtype)
        return Tensor(layer([value.tensor for value in values]), "NHWC")
    layer = keras.layers.Concatenate(axis=axis, dtype=builder.dtype)
    return Tensor(layer([value.channels_first() for value in values]))


def sliced(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Slice` of axes behind the batch."""
    value = builder.tensor(node.inputs[0])
    begins, ends = (builder.constant(node, position).tolist() for position in (1, 2))
    axes = builder.constant(node, 3, default=range(len(begins))).tolist()
    steps = builder.constant(node, 4, default=[1] * len(begins)).tolist()
    key = [slice(None)] * value.rank
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=True):
        if axis % value.rank:
            key[axis] = _range(node, slice(begin, end, step), value.sample[axis % value.rank - 1])
        elif begin != 0 or step != 1 or (end < _ALL and end != BATCH):
            raise node.unsupported("all samples of the batch", (begin, end, step))
    return Tensor(value.channels_first()[tuple(key)])


def _range(node: Node, asked: slice, size: int) -> slice:
    """A range of entries of an axis, with ends inside it."""
    begin, end, step = asked.indices(size)
    if not range(begin, end, step):
        raise node.unsupported("an entry at least", asked)
    return slice(begin, end if end >= 0 else None, step)


def split(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Split`, not along the batch; the first part is returned, the others are kept."""
    value = builder.tensor(node.inputs[0])
    axis = node.attributes.get("axis", 0) % value.rank
    if axis == 0:
        raise node.unsupported("another axis than the batch", axis)
    names, size = (node.output, *node.further_outputs), value.sample[axis - 1]
    each = -(-size // len(names))
    even = [min(each, size - each * i) for i in range(len(names))]
    counts = builder.constant(node, 1, default=even).tolist()
    if min(counts) < 1 or sum(counts) != size or len(counts) != len(names):
        raise node.unsupported(f"{len(names)} parts of {size} entries", counts)
    tensor, parts = value.channels_first(), []
    for i, count in enumerate(counts):
        begin = sum(counts[:i])
        parts.append(Tensor(tensor[(*[slice(None)] * axis, slice(begin, begin + count))]))
    for name, part in zip(names, parts, strict=True):
        if name:
            builder.set(name, part)
    return parts[0]


def pad(builder: KerasGraphBuilder, node: Node) -> Tensor:
    """`Pad` with zeros, not of the batch."""
    node.expect("mode", "constant", "constant")
    if builder.constant(node, 2, default=0.0).any():
        raise node.unsupported("zeros as padding", node.inputs)
    value = builder.tensor(node.inputs[0])
    flat = [int(count) for count in builder.constant(node, 1)]
    axes = builder.constant(node, 3, default=range(value.rank)).tolist()
    pairs = [(0, 0)] * value.rank
    for axis, before, after in zip(axes, flat[: len(axes)], flat[len(axes) :], strict=True):
        pairs[axis] = (before, after)
    if any(pairs[0]) or min(map(min, pairs)) < 0:
        raise node.unsupported("no negative padding, and none of the batch", pairs)
    if value.rank - 2 in _PADDING and not any(pairs[1]):
        return zeros_added(builder, value.channels_last(), pairs[2:])
    if value.rank - 2 in _PADDING and not any(pairs[-1]):  # the file has its channels last
        return Tensor(zeros_added(builder, value.channels_first(), pairs[1:-1]).tensor)
    return Tensor(ops.pad(value.channels_first(), pairs))


def zeros_added(builder: KerasGraphBuilder, tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """An image with its channels last, and zeros in front of and behind the axes of an image."""
    amounts = tuple(pairs) if len(pairs) > 1 else tuple(pairs[0])
    return Tensor(_PADDING[len(pairs)](amounts, dtype=builder.dtype)(tensor), "NHWC")
