"""The last layers of a classifier, read from its graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import activations

from deel_lip_tf._rounding import product_up, sqrt_up
from deel_lip_tf.bounds.gaps.convolution import Weighted
from deel_lip_tf.bounds.gaps.slopes import Ends
from deel_lip_tf.bounds.gaps.weights import Between
from deel_lip_tf.bounds.layers import layer_bound
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import pieces_of, proven_slope
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.operators import all_known
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.dense import Dense
from deel_lip_tf.semantics.rules.identity import Identity
from deel_lip_tf.semantics.rules.sorting import Sorting
from deel_lip_tf.semantics.state import kernel_of

_ENTRIES = 2**20  # of the forms of all combinations
_FLOPS = 5e8  # that one step of the search for all of them may cost
_SMALLEST, _LARGEST = 2.0**-100, 2.0**100  # of what squares do not underflow or overflow


@dataclass(frozen=True)
class Tail:
    """The layers from a convolution, or from the last hidden dense layer, to the logits.

    Attributes:
        head: the kernel of the last dense layer.
        hidden: the dense layer before it; None where there is none.
        activations: the calls between the two, the first one first.
        between: the calls from the convolution to the dense layer that reads it; None where no
            convolution is known.
        convolution: its call.
    """

    head: np.ndarray
    hidden: Call | None
    activations: tuple[Call, ...]
    between: tuple[Call, ...] = ()
    convolution: Call | None = None

    def constants(
        self,
        combinations: np.ndarray,
        propagation: LipschitzPropagation,
        with_convolution: bool = True,
    ) -> np.ndarray | None:
        """Proves how fast combinations of logits change.

        Args:
            combinations: (logits, n) of numbers 0, 1 and -1, at most two of which are not 0.
            propagation: what is known of the graph.
            with_convolution: whether to look for weights behind a convolution, too.

        Returns:
            (n,) Lipschitz constants, inf where nothing is proven; None where nothing is known.
        """
        with contextlib.suppress(UnsupportedLayerError):
            ends = self._ends(combinations)
            if ends is None or ends.flops > _FLOPS:
                return None
            found = np.full(combinations.shape[1], np.inf)
            if ends.kernel is not None and self.hidden is not None:
                constant = propagation.constants[self.hidden.inputs[0]]
                found = _roots(ends.bounds(np.ones(len(ends.kernel)), ends.start()), constant)
            if with_convolution and self.convolution is not None:
                behind = self._behind_convolution(ends, self.convolution, propagation)
                found = np.fmin(found, behind)
            return found
        return None

    def is_cheap(self, count: int) -> bool:
        """Whether so many combinations at once cost little."""
        width, rows = len(self.head), 1 if self.hidden is None else len(self.head) + 1
        return count * rows * width <= _ENTRIES

    def _ends(self, combinations: np.ndarray) -> Ends | None:
        """What the dense layers do to combinations; None where that is not known."""
        columns, width = self.head @ combinations, len(self.head)
        # More than the norms that a difference is made of, however they are rounded.
        sizes = 1.01 * np.linalg.norm(self.head, axis=0) @ np.abs(combinations)
        kernel = None if self.hidden is None else kernel_of(self.hidden.operation)
        for numbers in (self.head, kernel):
            largest = 1.0 if numbers is None else np.abs(numbers).max(initial=0.0)
            if not _SMALLEST < largest < _LARGEST:
                return None
        ones = np.ones(width)
        if self.hidden is None or kernel is None:
            return Ends.of_slopes(columns, sizes, None, (ones, ones))
        functions = [self.hidden.operation.activation, *(c.operation for c in self.activations)]
        functions = [one for one in functions if not _is_identity(one)]
        if not functions:
            return Ends.of_slopes(columns, sizes, kernel, (ones, ones))
        if len(functions) > 1:
            return None
        known = rule_for(functions[0])
        if isinstance(known, Sorting) and known.group_size(functions[0], width) == 2:
            constant, _ = layer_bound(functions[0], (None, width))
            return Ends.of_sorted_pairs(columns * constant, sizes * constant, kernel)
        if (pieces := pieces_of(functions[0])) is None:
            return None
        slopes = pieces.range_of_slopes(-np.inf * ones, np.inf * ones)
        return Ends.of_slopes(columns, sizes, kernel, slopes)

    def _behind_convolution(
        self, ends: Ends, call: Call, propagation: LipschitzPropagation
    ) -> np.ndarray:
        shape, nothing = call.inputs[0].shape, np.array(np.inf)
        operators = rule_for(call.operation).operators(call.operation, shape) or []
        key = id(call.operation), shape
        if len(operators) != 1 or key not in propagation.layer_bounds:
            return nothing
        weighted, (bound, _) = Weighted.of(operators[0]), propagation.layer_bounds[key]
        if weighted is None or not _SMALLEST < bound < _LARGEST:
            return nothing
        if (groups := _joined(self.between, math.prod(weighted.output_shape))) is None:
            return nothing
        written, read, slope = groups
        if call.operation.data_format == "channels_first":
            height, width, channels = weighted.output_shape
            written = np.moveaxis(written.reshape(channels, height, width), 0, -1).ravel()
        slope = product_up(slope, proven_slope(call.operation.activation))
        proven = Between(weighted, written, read).proven(ends, bound**2)
        if proven is None:
            return nothing
        return _roots(proven, product_up(propagation.constants[call.inputs[0]], slope))


def find_tail(head: Call) -> Tail | None:
    """The layers that end with a dense layer; None where they are of no use."""
    calls, hidden = _between(head.inputs[0])
    kernel = kernel_of(head.operation)
    if hidden is None:
        return None
    if not _is_dense(hidden):
        is_found = _is_convolution(hidden)
        return Tail(kernel, None, (), tuple(calls), hidden) if is_found else None
    tail = Tail(kernel, hidden, tuple(calls))
    calls, convolution = _between(hidden.inputs[0])
    if convolution is None or not _is_convolution(convolution):
        return tail
    return Tail(kernel, hidden, tail.activations, tuple(calls), convolution)


def _between(value: Value) -> tuple[list[Call], Call | None]:
    """The calls without operators that a value comes through, and the one that it comes from."""
    calls = list[Call]()
    while (call := value.call) is not None:
        is_single = len(call.inputs) == len(call.outputs) == 1 and not call.unsupported
        if not is_single:
            return calls, None
        if _groups(call) is None:
            return calls, call
        calls.insert(0, call)
        (value,) = call.inputs
    return calls, None


def _groups(call: Call) -> tuple[np.ndarray, np.ndarray] | None:
    """Those of a call of a layer; None where they are not known."""
    layer, shape = call.operation, call.inputs[0].shape
    given, made = (all_known(value.shape[1:]) for value in (call.inputs[0], call.outputs[0]))
    if not isinstance(layer, keras.layers.Layer) or given is None or made is None:
        return None
    if (groups := rule_for(layer).groups(layer, shape)) is None:
        return None
    # Slopes may broadcast their input.
    is_whole = (len(groups[0]), len(groups[1])) == (math.prod(given), math.prod(made))
    return groups if is_whole else None


def _is_dense(call: Call) -> bool:
    return isinstance(rule_for(call.operation), Dense) and len(call.inputs[0].shape) == 2


def _is_convolution(call: Call) -> bool:
    """Whether it is one with a function of single entries after it."""
    layer = call.operation
    if not (hasattr(layer, "data_format") and rule_for(layer).knows("operators")):
        return False
    function = getattr(layer, "activation", None)
    return _is_identity(function) or pieces_of(function) is not None


def _is_identity(function: object) -> bool:
    if function in (None, activations.linear):
        return True
    return isinstance(rule_for(function), Identity)


def _roots(squares: np.ndarray, constant: float) -> np.ndarray:
    return np.array([product_up(constant, sqrt_up(square)) for square in squares])


def _joined(calls: Sequence[Call], entries: int) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Which entries of two tensors are of one group, for all calls between the two together.

    Returns:
        `(names, names, slope)` of the groups that the entries are of, from 0 on, and the constant
        of each group; None where a call has no groups.
    """
    written = read = np.arange(entries)
    slope = 1.0
    for call in calls:
        if (groups := _groups(call)) is None:
            return None
        inside, outside = groups
        by_read, by_inside = _components(read, inside, entries)
        written, read = by_read[written], by_inside[outside]
        slope = product_up(slope, layer_bound(call.operation, call.inputs[0].shape)[0])
    names, written = np.unique(written, return_inverse=True)
    return written, np.searchsorted(names, read), slope


def _components(first: np.ndarray, second: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The least partition that two partitions of the same entries are finer than.

    Args:
        first: the name of the group of each entry.
        second: likewise.
        count: more than any name of the first one.

    Returns:
        The name of its group by the names of the first one, and by those of the second.
    """
    by_first = np.arange(count)
    while True:
        by_second = np.full(second.max() + 1, len(by_first))
        np.minimum.at(by_second, second, by_first[first])
        joined = by_first.copy()
        np.minimum.at(joined, first, by_second[second])
        if np.array_equal(joined, by_first):
            return by_first, by_second
        by_first = joined
