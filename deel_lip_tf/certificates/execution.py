"""How far a model executed in float32 strays from the exact function, in a whole ball.

For all inputs within `e` of a sample, a tensor `h` of the graph has a norm of at most
`|h| + K e`, with `|h|` its norm at the sample and K its proven Lipschitz constant, and the executed
program computes it with a deviation of at most `D(e) = p + q e`. One call of constant L adds:

    D_out(e) = L D_in(e) + relative * (|h_in| + K_in e + D_in(e)) + absolute

with the numbers of `roundings.py`. This is the recursion of Murray (2026, arXiv:2603.13334) with
the norms measured at the sample instead of bounded by products of norms.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from deel_lip_tf._rounding import UP
from deel_lip_tf.bounds.evaluation.model import Evaluation, Float64Evaluator, WithError
from deel_lip_tf.bounds.patterns import Pattern
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates.radii import Evaluated
from deel_lip_tf.certificates.roundings import check_operation, rounding_of
from deel_lip_tf.errors import UnsupportedLayerError, UnsupportedParts
from deel_lip_tf.semantics.graph import Call, Graph
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.rounding import FLUSHED, LARGEST, UNIT, Rounding

_NO_RULE = (
    '`semantics="float32"` has no rounding rule for: {}. Build the model in float32 from other '
    'layers, or certify the exact function of its weights by `semantics="real"`.'
)


@dataclass(frozen=True, eq=False)
class WithDeviation(WithError):
    """A tensor of the graph; the program is within `at_sample + growth * distance` of it."""

    at_sample: np.ndarray
    growth: float


class DeviationAnalysis(Float64Evaluator):
    """A bounded model evaluated in float64, with the deviation of a program that adds to it.

    A subclass says what a call adds, by `added`.
    """

    def __init__(self, model: keras.Model, propagation: LipschitzPropagation):
        super().__init__(model, propagation)
        self._reach = np.array(np.inf)

    def execute(self, x: np.ndarray) -> Evaluated:
        """Logits of a batch (n, ...) of float64, and how far the program may be from them.

        `reach` is the distance up to which no number of the program can overflow.
        """
        return self.executed(self.evaluate_model(x))

    def executed(self, value: Any) -> Evaluated:
        """The same of a batch that has been evaluated."""
        errors = (value.error + value.at_sample) * UP
        return Evaluated(value.numbers, errors, value.growth, self._reach)

    def added(self, evaluation: Evaluation, values: list) -> Rounding:
        """What one call adds, given its inputs."""
        raise NotImplementedError

    def start(self, tensor: Any) -> WithDeviation:
        """The program reads the sample itself."""
        self._reach = np.full(len(tensor), np.inf)
        value = super().start(tensor)
        return WithDeviation(**vars(value), at_sample=np.zeros(len(tensor)), growth=0.0)

    def call(self, call: Call, values: list[WithDeviation]) -> list[WithDeviation]:
        """The outputs of one call."""
        evaluation = self.evaluate(call, values)
        rounding = self.added(evaluation, values)
        # What the program reads: exact values, their float64 error, and its own deviation.
        read = sum(v.norm + v.error + v.at_sample for v in values) * UP
        read_growth = sum(value.constant + value.growth for value in values) * UP
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            room = 1.0 - rounding.reach[1] - rounding.reach[0] * read
            reach = room / (rounding.reach[0] * read_growth)
            self._reach = np.minimum(self._reach, np.where(room > 0, reach * (1 - 1e-12), 0.0))
            at_sample = rounding.relative * read + rounding.absolute
            growth = rounding.relative * read_growth
            for constant, value in zip(evaluation.constants, values, strict=True):
                at_sample = at_sample + constant * value.at_sample
                growth = growth + constant * value.growth
        added = {"at_sample": at_sample * UP, "growth": growth * UP}
        return [WithDeviation(**vars(output), **added) for output in evaluation.outputs]

    def _end_of_pattern(
        self, call: Call, values: list, pattern: Pattern, source: Any
    ) -> WithDeviation:
        output = super()._end_of_pattern(call, values, pattern, source)
        constant, _ = pattern.bound(L2, 1.0)
        moved = constant * source.at_sample * UP
        return WithDeviation(**vars(output), at_sample=moved, growth=constant * source.growth * UP)


class Float32ErrorAnalysis(DeviationAnalysis):
    """A bounded model evaluated in float64, with the deviation of its execution in float32.

    Raises:
        UnsupportedLayerError: a layer or an operation has no float32 rule; all are named.
    """

    def __init__(self, model: keras.Model, propagation: LipschitzPropagation):
        super().__init__(model, propagation)
        self._float32_roundings: dict[tuple[Call, int], Rounding] = {}
        _check_operations(self.graph)

    def start(self, tensor: Any) -> WithDeviation:
        """The program rounds its input to float32, which has none of the largest numbers."""
        value = super().start(tensor)
        self._reach = np.maximum(0.5 * LARGEST - value.norm, 0.0)
        at_sample = UNIT * value.norm + FLUSHED * math.sqrt(math.prod(tensor.shape[1:]))
        return replace(value, at_sample=at_sample, growth=UNIT)

    def added(self, evaluation: Evaluation, values: list[WithDeviation]) -> Rounding:
        """What rounding adds to one call."""
        call, inputs = evaluation.call, tuple(values[0].tensor.shape[1:])
        key = call, math.prod(inputs)
        if key not in self._float32_roundings:
            outputs = tuple(evaluation.outputs[0].tensor.shape[1:])
            try:
                rounding = rounding_of(call, inputs, outputs, evaluation.constants)
            except UnsupportedLayerError as error:
                raise UnsupportedLayerError(_NO_RULE.format(f"{call.name!r} ({error})")) from error
            self._float32_roundings[key] = rounding
        return self._float32_roundings[key]


def _check_operations(graph: Graph) -> None:
    unsupported = UnsupportedParts(_NO_RULE)
    for value in graph.inputs:
        if value.dtype in ("float64", "float16", "bfloat16"):
            unsupported.add(f"input {value.index} (of dtype {value.dtype})")
    for call in graph.calls:
        try:
            check_operation(call.operation)
        except UnsupportedLayerError as error:
            unsupported.add_call(call.operation, call.name, error)
    unsupported.raise_if_any()
