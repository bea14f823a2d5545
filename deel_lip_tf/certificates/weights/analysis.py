"""How far a model with other weights strays from the exact function of those that are stored.

With a kernel W + E, `||E|| <= n`, a bias that is off by at most m, and an activation of slope at
most s, one layer adds `s (n ||h'|| + m)` to the deviation, where `h'` is what the changed model
reads: no longer than what the exact function reads, and the deviation so far. That is the recursion
of the execution in float32, with `s n` and `s m` in the place of rounding. A recurrent layer adds
that in every step, and carries it on (`bounds.norms.recurrence.through_time`).
"""

import math

import keras

from deel_lip_tf._rounding import UP, product_up
from deel_lip_tf.bounds.evaluation.model import Evaluation
from deel_lip_tf.bounds.norms.recurrence import through_time
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates.execution import DeviationAnalysis, WithDeviation
from deel_lip_tf.certificates.roundings import offsets
from deel_lip_tf.certificates.weights.given import WeightChange
from deel_lip_tf.semantics.functions import proven_slope
from deel_lip_tf.semantics.rounding import Rounding
from deel_lip_tf.semantics.rule import rule_for


class ChangedWeightsAnalysis(DeviationAnalysis):
    """A bounded model evaluated in float64, with the deviation of all models near it.

    Args:
        model: the classifier.
        propagation: the pass that bounded it.
        changes: what may differ, once for each layer.
    """

    def __init__(
        self,
        model: keras.Model,
        propagation: LipschitzPropagation,
        changes: list[WeightChange],
    ):
        super().__init__(model, propagation)
        self._changes = {id(change.layer): change for change in changes}
        self._norms = dict[tuple, tuple[float, float]]()

    def __str__(self) -> str:
        return "; ".join(map(str, self._changes.values()))

    def added(self, evaluation: Evaluation, values: list[WithDeviation]) -> Rounding:
        """What the weights of one call add to the deviation."""
        if (change := self._changes.get(id(evaluation.call.operation))) is None:
            return Rounding(0.0, 0.0, (0.0, 0.0))
        inputs, outputs = values[0].tensor.shape, evaluation.outputs[0].tensor.shape
        key = id(change), tuple(inputs[1:])
        if key not in self._norms:
            self._norms[key] = self._of_call(change, (None, *inputs[1:]), (None, *outputs[1:]))
        return Rounding(*self._norms[key], (0.0, 0.0))

    def _of_call(self, change: WeightChange, inputs: tuple, outputs: tuple) -> tuple[float, float]:
        """What a call adds: a share of the norm of its input, and a number."""
        layer = change.layer
        recurrence = rule_for(layer).recurrence(layer, inputs)
        if recurrence is not None:
            slope = proven_slope(layer.activation, input_shape=recurrence.state_shape)
            _, start = offsets(layer, recurrence, slope)
            return through_time(recurrence, slope, start, change.step_errors(recurrence, slope))
        slope = proven_slope(layer.activation, input_shape=outputs)
        norm, bias = change.operator_norm(inputs), change.bias_norm(math.prod(outputs[1:]))
        return product_up(slope, norm), product_up(slope, bias) * UP
