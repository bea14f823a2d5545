"""Functions that TensorFlow writes as several operators, each made one again."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deel_lip_tf.formats.graph import Node

if TYPE_CHECKING:
    from deel_lip_tf.formats.saved_model.graph import SavedGraph


def with_activations_recognized(graph: "SavedGraph") -> "SavedGraph":
    """The graph with one operator for each activation, named as Keras names it."""
    matcher = _Matcher(graph)
    return graph.needed([matcher.simplified(node) for node in graph.nodes])


class _Matcher:
    """Looks at operators and at what they read."""

    def __init__(self, graph: "SavedGraph"):
        self._constants = graph.constants
        self._nodes = {node.output: node for node in graph.nodes}

    def simplified(self, node: Node) -> Node:
        """The activation that an operator ends, or the operator itself."""
        for rule in _ENDINGS.get(node.kind, ()):
            if (found := rule(self, node)) is not None:
                kind, tensor, attributes = found
                return replace(node, kind=kind, inputs=[tensor], attributes=attributes)
        return node

    def inputs(self, name: str, kind: str) -> list[str] | None:
        """What is read by the operator of a kind that makes a tensor."""
        node = self._nodes.get(name)
        return node.inputs if node is not None and node.kind == kind else None

    def number(self, name: str) -> float | None:
        """A constant that is one number, and gives no tensor more axes."""
        constant = self._constants.get(name)
        if constant is None or constant.shape not in ((), (1,)):
            return None
        return constant.item()

    def constant(self, name: str) -> np.ndarray | None:
        """A constant."""
        return self._constants.get(name)

    def columns(self, name: str) -> tuple[str, tuple] | None:
        """The matrix of which a tensor is a range of columns, and where that begins and ends."""
        node = self._nodes.get(name)
        if node is None or node.kind != "StridedSlice":
            return None
        places = [self._constants.get(one, np.zeros(())) for one in node.inputs[1:]]
        others = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        is_plain = not any(node.attributes.get(mask, 0) for mask in others)
        if not is_plain or any(place.shape != (2,) for place in places):
            return None
        begins, ends, steps = (place.tolist() for place in places)
        no_begin, no_end = (node.attributes.get(f"{mask}_mask", 0) for mask in ("begin", "end"))
        has_all_rows = no_end & 1 and (no_begin & 1 or begins[0] == 0)
        if not has_all_rows or steps != [1, 1]:
            return None
        limits = (None if no_begin & 2 else begins[1], None if no_end & 2 else ends[1])
        return node.inputs[0], tuple(limit or None for limit in limits)

    def rolled(self, name: str) -> tuple[str, int] | None:
        """The matrix that a tensor is, and how many of its first columns are moved to its end."""
        *parts, axis = self.inputs(name, "ConcatV2") or ("",)
        ranges = [found for part in parts if (found := self.columns(part)) is not None]
        if len(parts) != 2 or len(ranges) != 2 or self.number(axis) not in (1.0, -1.0):
            return None
        (tensor, (start, end)), (same, (begin, stop)) = ranges
        is_whole = start is not None and start == stop and end is None and begin is None
        return (tensor, start) if is_whole and tensor == same else None

    def scaled(self, name: str) -> tuple[float, str] | None:
        """The number and the tensor of a product."""
        first, second = self.inputs(name, "Mul") or ("", "")
        for factor, tensor in ((first, second), (second, first)):
            if (number := self.number(factor)) is not None:
                return number, tensor
        return None


def _silu(matcher: _Matcher, node: Node):
    """`x sigmoid(1 x)`."""
    for tensor, gate in (node.inputs, node.inputs[::-1]):
        (argument,) = matcher.inputs(gate, "Sigmoid") or ("",)
        if argument and (argument == tensor or matcher.scaled(argument) == (1.0, tensor)):
            return "Silu", tensor, {}
    return None


def _gelu(matcher: _Matcher, node: Node):
    """`0.5 x erfc(-x sqrt(0.5))`."""
    half, error = node.inputs
    (inner,) = matcher.inputs(error, "Erfc") or ("",)
    number, negative = matcher.scaled(inner) or (None, "")
    (tensor,) = matcher.inputs(negative, "Neg") or ("",)
    is_root = number is not None and np.float32(number) == np.float32(np.sqrt(0.5))
    return ("Gelu", tensor, {}) if is_root and matcher.scaled(half) == (0.5, tensor) else None


def _elu(matcher: _Matcher, node: Node):
    """`elu(x)` where `x > 0`, and `alpha elu(x)` elsewhere."""
    condition, above, below = node.inputs
    compared = matcher.inputs(condition, "Greater") or ("", "")
    (tensor,) = matcher.inputs(above, "Elu") or ("",)
    alpha, negative = matcher.scaled(below) or (None, "")
    is_elu = compared[0] == tensor != "" and matcher.number(compared[1]) == 0.0
    if not is_elu or matcher.inputs(negative, "Elu") != [tensor]:
        return None
    return "Elu", tensor, {"alpha": alpha}


def _sorted_pairs(matcher: _Matcher, node: Node):
    """Rows of two numbers, taken for a complex one, whose parts are exchanged if in disorder."""
    smaller, larger = matcher.inputs(node.inputs[0], "Complex") or ("", "")
    chosen = [matcher.inputs(name, "SelectV2") or [] for name in (smaller, larger)]
    if [] in chosen or chosen[0] != [chosen[1][0], chosen[1][2], chosen[1][1]]:
        return None
    condition, second, first = chosen[0]
    pair = matcher.inputs(first, "Real")
    is_sort = matcher.inputs(condition, "Greater") == [first, second]
    if not is_sort or pair is None or matcher.inputs(second, "Imag") != pair:
        return None
    rows = matcher.inputs(pair[0], "Bitcast")
    return None if rows is None else ("SortedPairs", rows[0], {})


def _sorted_neighbours(matcher: _Matcher, node: Node):
    """The smaller of an entry and the next at even places of a row, the larger one at odd ones."""
    is_even, lower, upper = node.inputs
    mask = matcher.constant(is_even)
    width = mask.shape[-1] if mask is not None and mask.ndim == 2 else 0
    is_alternating = mask is not None and np.array_equal(mask, np.arange(width)[None] % 2 == 0)
    if width % 2 or width == 0 or not is_alternating:
        return None
    rows, following = matcher.inputs(lower, "Minimum") or ("", "")
    same, preceding = matcher.inputs(upper, "Maximum") or ("", "")
    is_sort = matcher.rolled(following) == (rows, 1) and matcher.rolled(preceding) == (rows, -1)
    return ("SortedNeighbours", rows, {"width": width}) if is_sort and rows == same else None


def _safe_root(matcher: _Matcher, node: Node):
    """The root of `s` where `s > 0`, and 0 elsewhere, as two choices."""
    is_positive, root, zeros = node.inputs
    (argument,) = matcher.inputs(root, "Sqrt") or ("",)
    *condition, tensor, ones = matcher.inputs(argument, "SelectV2") or ("", "")
    compared = matcher.inputs(is_positive, "Greater") or ("", "")
    is_root = condition == [is_positive] and compared[0] == tensor
    if not is_root or matcher.number(compared[1]) != 0.0:
        return None
    # of one shape: a choice of shapes that broadcast would be larger
    has_shape = matcher.inputs(ones, "OnesLike") == [tensor]
    has_shape &= matcher.inputs(zeros, "ZerosLike") in ([tensor], [root])
    return ("SafeRoot", tensor, {}) if has_shape else None


_ENDINGS: dict[str, tuple[Callable, ...]] = {
    "Bitcast": (_sorted_pairs,),
    "Mul": (_silu, _gelu),
    "SelectV2": (_elu, _sorted_neighbours, _safe_root),
}
"""By the operator that ends the activation."""
