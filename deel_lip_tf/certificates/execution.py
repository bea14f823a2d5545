"""How far a model executed in float32 strays from the exact function, in a whole ball.

For all inputs within `e` of a sample, a tensor `h` of the graph has a norm of at most
`|h| + K e`, with `|h|` its norm at the sample and K its proven Lipschitz constant, and the executed
program computes it with a deviation of at most `D(e) = p + q e`. One call of constant L adds:

    D_out(e) = L D_in(e) + relative * (|h_in| + K_in e + D_in(e)) + absolute

with the numbers of `roundings.py`. This is the recursion of Murray (2026, arXiv:2603.13334) with
the norms measured at the sample instead of bounded by products of norms.
"""

import math
from typing import NamedTuple

import keras
import numpy as np

from deel_lip_tf._rounding import UP
from deel_lip_tf.bounds.evaluation.model import Evaluation, ExactModel, Traced
from deel_lip_tf.bounds.propagation import GraphWalk
from deel_lip_tf.certificates.radii import Evaluated
from deel_lip_tf.certificates.roundings import check_operation, rounding_of
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Call, Graph
from deel_lip_tf.semantics.rounding import FLUSHED, UNIT, Rounding

__all__ = ["ExecutedModel"]


class _Deviated(NamedTuple):
    exact: Traced
    at_sample: np.ndarray
    growth: float


class ExecutedModel(ExactModel):
    """A bounded model evaluated in float64, with the deviation of its execution in float32.

    Raises:
        ValueError: if a layer or an operation has no float32 rule; all are named.
    """

    def __init__(self, model: keras.Model, walk: GraphWalk):
        super().__init__(model, walk)
        self._float32_roundings: dict[tuple[Call, int], Rounding] = {}
        self._reach = np.inf
        _refuse_unknown(self.graph)

    def execute(self, x: np.ndarray) -> Evaluated:
        """Logits of a batch (n, ...) of float64, and how far the program may be from them.

        `reach` is the distance up to which no number of the program can overflow.
        """
        self._reach = np.full(len(x), np.inf)
        value = self.evaluate_model(x)
        logits = np.asarray(keras.ops.convert_to_numpy(value.exact.tensor))
        errors = (value.exact.error + value.at_sample) * UP
        return Evaluated(logits, errors, value.growth, self._reach)

    def start(self, tensor) -> _Deviated:
        """The program rounds its input to float32."""
        value = super().start(tensor)
        at_sample = UNIT * value.norm + FLUSHED * math.sqrt(math.prod(tensor.shape[1:]))
        return _Deviated(value, at_sample, UNIT)

    def call(self, call: Call, values: list[_Deviated]) -> list[_Deviated]:
        """The outputs of one call."""
        evaluation = self.evaluate(call, [value.exact for value in values])
        rounding = self._float32_rounding(evaluation, values)
        # What the program reads: exact values, their float64 error, and its own deviation.
        read = sum(v.exact.norm + v.exact.error + v.at_sample for v in values) * UP
        read_growth = sum(value.exact.constant + value.growth for value in values) * UP
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            room = 1.0 - rounding.reach[1] - rounding.reach[0] * read
            reach = room / (rounding.reach[0] * read_growth)
            self._reach = np.minimum(self._reach, np.where(room > 0, reach * (1 - 1e-12), 0.0))
            at_sample = rounding.relative * read + rounding.absolute
            growth = rounding.relative * read_growth
            for constant, value in zip(evaluation.constants, values, strict=True):
                at_sample = at_sample + constant * value.at_sample
                growth = growth + constant * value.growth
        outputs = evaluation.outputs
        return [_Deviated(output, at_sample * UP, growth * UP) for output in outputs]

    def _float32_rounding(self, evaluation: Evaluation, values: list[_Deviated]) -> Rounding:
        call, inputs = evaluation.call, tuple(values[0].exact.tensor.shape[1:])
        key = call, math.prod(inputs)
        if key not in self._float32_roundings:
            outputs = tuple(evaluation.outputs[0].tensor.shape[1:])
            try:
                rounding = rounding_of(call, inputs, outputs, evaluation.constants)
            except UnsupportedLayerError as error:
                raise _refused([f"{call.name!r} ({error})"]) from error
            self._float32_roundings[key] = rounding
        return self._float32_roundings[key]


def _refuse_unknown(graph: Graph) -> None:
    reasons = [
        f"input {value.index} (of dtype {value.dtype})"
        for value in graph.inputs
        if value.dtype in ("float64", "float16", "bfloat16")
    ]
    for call in graph.calls:
        try:
            check_operation(call.operation)
        except UnsupportedLayerError as error:
            reasons.append(f"{call.name!r} ({type(call.operation).__name__}: {error})")
    if reasons:
        raise _refused(list(dict.fromkeys(reasons)))


def _refused(reasons: list[str]) -> ValueError:
    return ValueError(
        '`semantics="float32"` has no rounding rule for: ' + "; ".join(reasons) + ". Build the "
        "model in float32 from other layers, or certify the exact function of its weights by "
        '`semantics="real"`.'
    )
