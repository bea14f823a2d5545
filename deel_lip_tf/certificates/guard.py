"""The model itself at the samples: what is certified has to be what runs.

A certificate is a theorem about the exact function of the stored weights, as this library reads
them. The model is run once at each sample and compared: where it is further from that function than
its rounding allows, something was read otherwise than it runs, or the program computes something
else than what is written, and nothing is certified. No theory of what may go wrong is needed.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from deel_lip_tf.bounds.evaluation.model import Float64Evaluator, WithError
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates.radii import predicted
from deel_lip_tf.model.predictions import with_kept_kernels
from deel_lip_tf.semantics.graph import Call
from deel_lip_tf.semantics.state import as_float64

_ENTRIES = 2**20  # of the samples that the model is run on together
_EXAMPLES = 8  # samples that the first layer that differs is looked for with


class Guard:
    """Compares a model with its evaluation, some batches at a time, and warns once.

    Args:
        model: the classifier.
        propagation: the pass that bounded it.
        answers: what of the outputs (n, ...) has to be the same besides.
    """

    def __init__(
        self,
        model: keras.Model,
        propagation: LipschitzPropagation,
        answers: Callable[[np.ndarray], np.ndarray] = predicted,
    ):
        self._model, self._propagation, self._answers = model, propagation, answers
        # The kernels are those of `predict`: computed once, however many samples there are.
        self._outputs = with_kept_kernels(model, functools.partial(_outputs, model))
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._confirmed: list[np.ndarray] = []
        self._different: list[np.ndarray] = []
        self._largest = 0.0

    def compare(self, x: np.ndarray, logits: np.ndarray, allowed: np.ndarray) -> None:
        """Takes a batch.

        Args:
            x: (n, ...) samples.
            logits: (n, ...) outputs of the exact function.
            allowed: (n,) how far those of the model may be from them.
        """
        self._waiting.append((x, logits, allowed))
        if sum(part[0].size for part in self._waiting) >= _ENTRIES:
            self._run()

    def confirmed(self) -> np.ndarray:
        """After all batches, (n,) whether the model gives the label, with outputs that are near.

        Warns, by the name of the first layer, where they are further than they may be.
        """
        if self._waiting:
            self._run()
        if self._different:
            self._warn(np.concatenate(self._different))
        return np.concatenate(self._confirmed)

    def _run(self) -> None:
        x, logits, allowed = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        try:
            own = self._outputs(x)
        except Exception as error:  # each backend has errors of its own
            warnings.warn(
                f"The model itself cannot be run here, so that nothing confirms its certificates: "
                f"{str(error).splitlines()[0]}",
                RuntimeWarning,
                stacklevel=4,
            )
            self._confirmed.append(np.ones(len(x), bool))
            return
        with np.errstate(invalid="ignore", over="ignore"):
            change = (own - logits).reshape(len(x), -1)
            distance = np.nan_to_num(np.linalg.norm(change, axis=1), nan=np.inf)
            agrees = distance <= allowed
            same = self._answers(own) == self._answers(logits)
        self._confirmed.append(agrees & same.reshape(len(x), -1).all(axis=1))
        # What overflows in float64 is certified by nobody.
        is_finite = np.isfinite(logits.reshape(len(x), -1)).all(axis=1)
        differs = ~agrees & np.isfinite(allowed) & is_finite
        if differs.any():
            self._different.append(x[differs])
            self._largest = max(self._largest, float(distance[differs].max()))

    def _warn(self, x: np.ndarray) -> None:
        call = first_difference(self._model, self._propagation, x[:_EXAMPLES])
        where = f"At {len(x)} samples (by up to {self._largest:.3g} in its outputs)"
        warn_of_difference(where, call, "Their radius is 0")


def warn_of_difference(where: str, call: str | None, consequence: str) -> None:
    """Warns that a model and its exact function differ.

    Args:
        where: at which points.
        call: name of the first layer that differs, if one does by itself.
        consequence: what is claimed of these points.
    """
    place = "no layer by itself does" if call is None else f"the first layer that does is {call}"
    warnings.warn(
        f"{where} the model itself differs from the exact function of its weights by more than "
        f"rounding can explain; {place}. {consequence}. Either the program is wrong (on a CPU, try "
        "TF_ENABLE_ONEDNN_OPTS=0; on a GPU, switch TF32 off), or this library read the model "
        "otherwise than it runs, which is a fault to report.",
        RuntimeWarning,
        stacklevel=5,
    )


def _outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """(n, ...) outputs of a model at inference in its own arithmetic, as float64."""
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    with np.errstate(over="ignore"):
        outputs = model(keras.ops.convert_to_tensor(x, dtype=dtype), training=False)
    return as_float64(outputs)


def first_difference(
    model: keras.Model, propagation: LipschitzPropagation, x: np.ndarray
) -> str | None:
    """Name and type of the first call that computes otherwise than its float64 evaluation.

    None where each call by itself agrees. Arguments as `call_ratios`.
    """
    ratios = call_ratios(model, propagation, x)
    differs = (call for call, ratio in ratios if not ratio <= 1.0)
    return next((f"{call.name!r} ({type(call.operation).__name__})" for call in differs), None)


def call_ratios(
    model: keras.Model, propagation: LipschitzPropagation, x: np.ndarray
) -> Iterator[tuple[Call, float]]:
    """How far each call of a model is from its float64 evaluation, given what that is given.

    Args:
        model: a bounded model.
        propagation: the pass that bounded it.
        x: (n, ...) samples.

    Yields:
        Calls in their order, and the largest distance as a share of what its rounding allows.
    """
    exact = Float64Evaluator(model, propagation)
    exact.kept.update({call: ([], []) for call in exact.graph.calls})
    exact.evaluate_model(x)
    inside = {call for pattern in exact.patterns.values() for call in pattern.inner}
    for call in exact.graph.calls:
        if call not in exact.patterns and call not in inside:
            yield call, _ratio(exact, call)


def _ratio(exact: Float64Evaluator, call: Call) -> float:
    given, results = exact.kept[call]
    tensors = [
        keras.ops.convert_to_tensor(value.numbers, symbolic.dtype)
        for value, symbolic in zip(given, call.inputs, strict=True)
    ]
    arguments, keywords = call.arguments(tensors)
    own = call.operation(*arguments, **keywords)
    own = list(own) if isinstance(own, list | tuple) else [own]
    # Exact inputs, that are rounded once.
    start = [exact.start(value.tensor) for value in given]
    allowed = exact.evaluate(call, start).outputs[0].deviation
    with np.errstate(invalid="ignore", over="ignore"):
        ratios = [
            _distance(mine, result) / allowed for mine, result in zip(own, results, strict=True)
        ]
    return float(np.max(ratios))


def _distance(own: Any, result: WithError) -> np.ndarray:
    difference = as_float64(own) - result.numbers
    return np.linalg.norm(difference.reshape(len(difference), -1), axis=1)
