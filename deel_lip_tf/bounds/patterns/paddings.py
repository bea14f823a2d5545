"""Paddings that copy, with the convolutions they are made for, and the adjoints of both."""

from dataclasses import replace

import numpy as np
from keras import activations, layers

from deel_lip_tf.bounds.layers import layer_bound
from deel_lip_tf.bounds.patterns.pattern import Pattern, maker
from deel_lip_tf.normalizers.convolution import EXTENDING, padded_indices, padding_amounts
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.ir.primitives.products import einsum_terms
from deel_lip_tf.semantics.norms import Norm
from deel_lip_tf.semantics.operators import Convolution, Shape, all_known, known_sizes
from deel_lip_tf.semantics.rule import rule_for


def padded(call: Call) -> Pattern | None:
    """`take` along spatial axes, as a padding of the next "valid" convolution does."""
    found = before_padding(call)
    return None if found is None else _convolution_pattern(call, *found)


def before_padding(call: Call) -> tuple[Value, tuple[Call, ...], Convolution] | None:
    """What is padded, the calls that pad it, and the convolution with this padding."""
    convolution = _plain_convolution(call)
    if convolution is None or convolution.transposed:
        return None
    tensor, sources = call.inputs[0], dict[int, np.ndarray]()
    inner: tuple[Call, ...] = ()
    while (take := maker(tensor, "Take")) is not None and len(take.inputs) == 1:
        axis = _spatial_axis(call.operation, take.operation.axis, len(tensor.shape))
        indices = take.argument(1, "indices")
        if axis is None or axis in sources or indices is None:
            return None
        tensor, inner = take.inputs[0], (*inner, take)
        sources[axis] = np.asarray(indices)
    whole = _with_padding(convolution, call.operation, tensor.shape, sources)
    return None if whole is None else (tensor, inner, whole)


def folded(call: Call) -> Pattern | None:
    """A "valid" transposed convolution, and `einsum`s that add its copied border to the image."""
    tensor, matrices = call.outputs[0], dict[int, np.ndarray]()
    inner: tuple[Call, ...] = ()
    while (fold := maker(tensor, "Einsum")) is not None and len(fold.inputs) == 1:
        operands = [x for x in fold.args if isinstance(x, np.ndarray)]
        tensor_, matrix, result = einsum_terms(fold.operation.subscripts)
        is_plain = len(operands) == 1 and operands[0].ndim == 2 and len(matrix) == 2
        if not is_plain or result != tensor_.replace(matrix[0], matrix[1]):
            return None
        if matrix[0] not in tensor_ or matrix[1] in tensor_ or tensor_.index(matrix[0]) in matrices:
            return None
        tensor, inner = fold.inputs[0], (*inner, fold)
        matrices[tensor_.index(matrix[0])] = operands[0]
    if not matrices:
        return None
    if (transposed := tensor.call) is None:
        return None
    convolution = _plain_convolution(transposed)
    # What follows the sums of the border may not stand before them.
    is_linear = getattr(transposed.operation, "activation", None) in (None, activations.linear)
    if convolution is None or not convolution.transposed or not is_linear:
        return None
    return _folded_pattern(call, transposed, inner[1:], matrices, convolution)


def _folded_pattern(
    call: Call,
    transposed: Call,
    inner: tuple[Call, ...],
    matrices: dict[int, np.ndarray],
    convolution: Convolution,
) -> Pattern | None:
    sources = {}
    for place, matrix in matrices.items():
        axis = _spatial_axis(transposed.operation, place, len(call.outputs[0].shape))
        if axis is None or not ((matrix == 0) | (matrix == 1)).all() or (matrix.sum(1) != 1).any():
            return None
        sources[axis] = matrix.argmax(axis=1)
    whole = _with_padding(convolution, transposed.operation, call.outputs[0].shape, sources)
    source = transposed.inputs[0]
    small = known_sizes(transposed.operation, source.shape)
    if whole is None or small is None:
        return None
    # The adjoint is exact where the convolution of the padded image has these many outputs.
    steps = zip(all_known(whole.sizes) or (), whole.strides, small, strict=True)
    if any((n - 1) // s + 1 != m for n, s, m in steps):
        return None
    return _convolution_pattern(transposed, source, (*inner, transposed), whole)


def _plain_convolution(call: Call) -> Convolution | None:
    """The convolution of a built "valid" layer, called on one tensor; no dilated transposed one."""
    operation = call.operation
    known = rule_for(operation)
    if not isinstance(operation, layers.Layer) or not known.slides or not operation.built:
        return None
    if getattr(operation, "padding", None) != "valid" or len(call.inputs) != 1:
        return None
    match known.operators(operation, call.inputs[0].shape):
        case [Convolution() as convolution]:
            is_plain = not convolution.transposed or set(convolution.dilation) == {1}
            return convolution if is_plain else None
    return None


def _spatial_axis(layer: layers.Layer, axis: int, rank: int) -> int | None:
    """Which spatial axis an axis is, or None."""
    if axis is None:
        return None
    first = 1 if layer.data_format == "channels_last" else 2
    place = axis % rank - first
    return place if 0 <= place < rank - 2 else None


def _with_padding(
    convolution: Convolution, layer: layers.Layer, shape: Shape, sources: dict[int, np.ndarray]
) -> Convolution | None:
    """The convolution of an image with the padding that copies from these indices of each axis."""
    sizes = known_sizes(layer, shape)
    if not sources or sizes is None:
        return None
    taps = zip(convolution.kernel_size, convolution.dilation, strict=True)
    reach = [(k - 1) * rate + 1 for k, rate in taps]
    for padding in EXTENDING:
        if all(
            np.array_equal(
                sources.get(axis, np.arange(n)),
                padded_indices(n, *padding_amounts(n, k, 1, padding), padding),
            )
            for axis, (n, k) in enumerate(zip(sizes, reach, strict=True))
        ):
            return replace(convolution, padding=padding, sizes=sizes)
    return None


def _convolution_pattern(
    call: Call, source: Value, inner: tuple[Call, ...], convolution: Convolution
) -> Pattern:
    layer = call.operation

    def bound(norm: Norm, budget: float) -> tuple[float, str]:
        value, method = layer_bound(layer, None, norm, budget, instead=[convolution])
        return value, f"{method}, with the {convolution.padding} padding"

    return Pattern(source, tuple(inner), bound)
