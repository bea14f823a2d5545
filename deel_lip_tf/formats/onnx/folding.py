"""What an ONNX file computes from constants alone, by ONNX's own reference implementation.

Only operators are folded whose result every runtime agrees on, to the last bit, and in which the
reference implementation is a line of NumPy: no sums, products of matrices or transcendental
functions of floats, which runtimes round differently, and nothing random. The arithmetic is that of
the type in the file, as a runtime would do it: a sum of two float32 numbers is rounded to float32,
and a float64 number stays one until the file casts it.
"""

import numpy as np

from deel_lip_tf.formats.graph import Node, carries_batch

# These move and copy entries, and also sizes of which one is that of the batch.
_OF_SIZES = ("Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")
# These move and copy entries too.
_MOVING = (*("ConstantOfShape", "Expand", "Flatten", "Shape", "Size", "Split", "Tile", "Transpose"),
           "Where")  # fmt: skip
# These have exact results.
_EXACT = ("Abs", "Ceil", "Equal", "Floor", "Max", "Min", "Neg", "Not")
# IEEE 754 says how their results are rounded.
_ROUNDED_ONCE = ("Add", "Div", "Mul", "Sqrt", "Sub")
_OF_INTEGERS = ("ReduceProd", "ReduceSum")
_FOLDABLE = {*_OF_SIZES, *_MOVING, *_EXACT, *_ROUNDED_ONCE, *_OF_INTEGERS}

_VERSION = 18
"""Since then all of these take their arguments as `graph` hands them out."""


def is_foldable(kind: str) -> bool:
    """Whether an operator of constants alone is a constant."""
    return kind in _FOLDABLE


def folded(node: Node, constants: list[np.ndarray | None], version: int) -> list[np.ndarray]:
    """The outputs of an operator.

    Args:
        node: the operator.
        constants: its inputs, `None` for one that was left out.
        version: of the file's operators.

    Raises:
        ValueError: it has no agreed result, such as a quotient of negative integers, or is wrong.
    """
    _check(node, [array for array in constants if array is not None])
    return evaluated(node, constants, version)


def evaluated(node: Node, inputs: list[np.ndarray | None], version: int) -> list[np.ndarray]:
    """The outputs of an operator by ONNX's reference implementation, as `folded`.

    Raises:
        ValueError: the implementation refuses it.
    """
    from onnx.reference import ReferenceEvaluator

    feed = {name: array for name, array in zip(node.inputs, inputs, strict=True) if name}
    evaluator = ReferenceEvaluator(_encoded(node), opsets={"": max(version, _VERSION)})
    try:
        with np.errstate(all="ignore"):
            results = evaluator.run(None, feed)
    except (RuntimeError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"it cannot be evaluated: {reason}") from error
    return [np.asarray(result) for result in results]


def _check(node: Node, given: list[np.ndarray]) -> None:
    """Refuses what runtimes answer differently."""
    node.expect("broadcast", 0, 0)  # below version 7, broadcasting began at another axis
    kinds = {array.dtype.kind for array in given}
    if node.kind in _OF_INTEGERS and "f" in kinds:
        raise node.unsupported("integers as its constants: sums are rounded in some order", "float")
    if node.kind == "Div" and kinds & set("iu") and ((given[0] < 0).any() or (given[1] < 1).any()):
        raise node.unsupported(
            "integers of at least 0, and of 1 below, as runtimes round these alike", node.inputs
        )
    if node.kind == "Cast":
        _check_cast(node, given[0])
    is_moved = node.kind == "Concat" or not any(map(carries_batch, given[1:]))
    is_moved = is_moved and node.kind in _OF_SIZES
    if any(map(carries_batch, given)) and not is_moved:
        raise node.unsupported("numbers that do not depend on the size of the batch", node.inputs)


def _check_cast(node: Node, array: np.ndarray) -> None:
    from onnx import helper

    target = np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"]))
    if target.kind not in "biuf":
        raise node.unsupported("a type of whole bytes to cast to", target.name)
    with np.errstate(invalid="ignore"):
        is_held = np.array_equal(np.trunc(array), array.astype(target))
    if (target.kind in "iu" and not is_held) or (target != np.int64 and carries_batch(array)):
        raise node.unsupported(f"numbers that {target.name} can hold", array.dtype.name)


def _encoded(node: Node):
    from onnx import helper, numpy_helper

    attributes = {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in node.attributes.items()
    }
    outputs = [node.output, *node.further_outputs]
    return helper.make_node(node.kind, node.inputs, outputs, **attributes)
