"""ONNX operators that move, join or choose entries: what they do to numbers says how."""

import numpy as np

from deel_lip_tf.formats.graph import Node
from deel_lip_tf.formats.onnx.attributes import check_dropout
from deel_lip_tf.formats.onnx.folding import evaluated
from deel_lip_tf.formats.onnx.lowering.values import Value, Values, sample_of
from deel_lip_tf.semantics.ir.moves import move_of
from deel_lip_tf.semantics.ir.primitives import Concatenate, Reshape


def identity(values: Values, node: Node) -> list[Value]:
    """`Identity`, and `Dropout` at inference.

    Raises:
        UnsupportedOperatorError: it may be at training.
    """
    if node.kind == "Dropout":
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        check_dropout(node, values.version, values.constants.get(name, np.array(bool(name))))
    return [values.value(node)]


def moved(values: Values, node: Node) -> list[Value]:
    """An operator of one tensor that moves its entries, as ONNX's reference implementation does.

    Raises:
        UnsupportedOperatorError: it does not, or its other inputs are no constants.
    """
    value, index = values.value(node), values.first(values.value(node))
    constants = [values.constants.get(name) for name in node.inputs[1:]]
    if any(c is None and name for c, name in zip(constants, node.inputs[1:], strict=True)):
        raise node.unsupported("constants behind its first input", node.inputs)

    def results(x: np.ndarray) -> list[np.ndarray]:
        return evaluated(node, [x.reshape(value.shape), *constants], values.version)

    outputs = []
    for place, result in enumerate(results(np.zeros(value.shape))):

        def flat(x: np.ndarray, place: int = place, result: np.ndarray = result) -> np.ndarray:
            return results(x)[place].reshape(1, *sample_of(result.shape))

        move = move_of(flat, sample_of(value.shape))
        if move is None:
            raise node.unsupported("entries of its input alone", node.inputs)
        is_same = isinstance(move, Reshape) and move.to == values.builder.shape(index)
        moved_index = index if is_same else values.builder.affine(index, move)
        outputs.append(Value(moved_index, result.shape))
    return outputs


def concatenated(values: Values, node: Node) -> list[Value]:
    """`Concat` of tensors, not along an axis that their nodes do not have.

    Raises:
        UnsupportedOperatorError: it is, or an input is constant.
    """
    given = [values.value(node, position) for position in range(len(node.inputs))]
    rank, has_batch = len(given[0].shape), given[0].has_batch
    axis = node.attributes["axis"] % rank
    if any(value.has_batch != has_batch for value in given) or (has_batch and axis == 0):
        raise node.unsupported("another axis than the batch", [value.shape for value in given])
    size = sum(value.shape[axis] for value in given)
    shape = (*given[0].shape[:axis], size, *given[0].shape[axis + 1 :])
    if axis == 1 and all(value.is_last for value in given):
        nodes = [value.index for value in given]
        return [Value(values.builder.affine(nodes, Concatenate(rank - 1)), shape, is_last=True)]
    nodes = [values.first(value) for value in given]
    return [Value(values.builder.affine(nodes, Concatenate(axis + (not has_batch))), shape)]
