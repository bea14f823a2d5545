"""Searches a domain for inputs that break a claim, and returns none that it has not replayed.

A claim is broken where linear functions of the outputs are all negative: for another label, the
one function `f_label - f_target`. The largest of them goes down along its gradient, from several
starts, in two ways: towards the point of the domain where its linear approximation is smallest
(Frank and Wolfe), and by normalised steps, signed in a box, that are projected back.

A search in floating point proves nothing by itself. What is returned is a point that the model's
input type can hold, that lies in the domain in float64, and whose outputs, computed by the model's
own call at inference, break the claim by more than the noise of their last digits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from deel_lip_tf._validation.arrays import samples_of
from deel_lip_tf._validation.labels import true_classes
from deel_lip_tf._validation.models import check_one_to_one
from deel_lip_tf._validation.scalars import check_time_limit, whole_number
from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.semantics.ends import final_call, final_function, threshold
from deel_lip_tf.semantics.graph import graph_of, is_readable
from deel_lip_tf.verify.domain import Domain, check_domain
from deel_lip_tf.verify.graphs import LRUCache, traced
from deel_lip_tf.verify.models import (
    FLOATS,
    configuration,
    input_type,
    margin_objectives,
    output_values,
)
from deel_lip_tf.verify.propagation.concretize import DomainTensors
from deel_lip_tf.verify.search.projection import column, inside, project, towards

STEPS, RESTARTS = 40, 4
_TARGETS = 9  # classes tried from the start, the nearest first
_NEAREST = 3  # of them, tried again from random points
_ROWS, _ENTRIES = 1024, 2**23  # of one batch of the search
_FIRST_STEP, _LAST_STEP = 0.5, 0.01  # as parts of the half width, or of the radius
_NOISE = 64.0  # last digits of the largest output: evaluations that differ by less are the same


@dataclass(frozen=True, eq=False)
class Claims:
    """Conjunctions to satisfy: `weights @ outputs + offsets < 0` in every row.

    Attributes:
        sample: (m,) which sample of the domain each is about.
        weights: (m, rows, outputs).
        offsets: (m, rows).
    """

    sample: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, index: Any) -> Claims:
        return Claims(self.sample[index], self.weights[index], self.offsets[index])

    def values(self, outputs: np.ndarray) -> np.ndarray:
        """(m,) the largest row for outputs (m, outputs), in float64; satisfied where negative."""
        rows = np.einsum("mro,mo->mr", self.weights, np.asarray(outputs, np.float64))
        return (rows + self.offsets).max(axis=1)


def falsify(
    model: keras.Model,
    x: ArrayLike,
    labels: ArrayLike,
    domain: Domain,
    seed: int = 0,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    time_limit: float | None = None,
) -> np.ndarray:
    """Searches, for each sample, an input of its domain that the model gives another label.

    Args:
        model: a model with one input and one output of shape (batch, classes); logits, or
            probabilities of a softmax. Of a single output, label 1 says that it is positive, or
            above 1/2 where a sigmoid makes it.
        x: (n, ...) samples, of the model's input shape.
        labels: those that are claimed: classes (n,) or (n, 1), or one-hot rows (n, classes).
        domain: the inputs that count, one set for each sample.
        seed: of the random starts, 0 by default.
        steps: of each descent.
        restarts: number of random starts for each of the nearest classes, 0 for none.
        time_limit: seconds after which no further descent begins; `None`, the default, for none.

    Returns:
        (n, ...) witnesses in the model's input type; NaN where none was found, and everywhere for
        a model whose inputs are not float16, float32 or float64. Each lies in its domain, and the
        model itself gives it another label: its score exceeds that of the claimed one by more than
        64 units in the last place. A tie is no witness. NaN proves nothing.

    Raises:
        TypeError: `model` is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: another number of inputs or outputs, shapes that do not fit, a label that is no
            class, or an argument out of its range.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[0.9, 0.1], [0.6, 0.5]])
        >>> found = lip.verify.falsify(model, x, [0, 0], lip.verify.ball(x, 0.2))
        >>> print(np.isnan(found).any(axis=1))  # none exists for the first
        [ True False]
        >>> print(np.argmax(model(found[1:]), axis=1), bool(np.abs(found[1] - x[1]).max() <= 0.2))
        [1] True
    """
    check_one_to_one(model)
    check_classifier_shape(model.outputs[0].shape[1:])
    check_domain(domain)
    shape = samples_of(x, model.inputs[0].shape[1:]).shape
    if domain.lower.shape != shape:
        raise ValueError(
            "`domain` must hold one set of inputs for each sample of `x`, of shape "
            f"{shape}. Received: {domain.lower.shape}. Make it by `ball(x, eps)`."
        )
    classes = model.outputs[0].shape[-1]
    # For each sample and each other class, that its score is larger.
    given = true_classes(labels, len(domain), classes, "labels")
    weights = margin_objectives(given, classes).reshape(-1, 1, classes)
    sample = np.repeat(np.arange(len(given)), len(weights) // len(given))
    claims = Claims(sample, weights, np.zeros((len(weights), 1)))
    for name, value in (("seed", seed), ("steps", steps), ("restarts", restarts)):
        whole_number(name, value, 0)
    check_time_limit(time_limit)
    found = _no_witnesses(model, shape)
    if input_type(model) not in FLOATS:
        return found
    attempt = _Attempt(model, domain, True, seed, steps, time_limit)
    attempt.shift = threshold(graph_of(model)) if classes == 1 else 0.0
    return attempt.fill(found, claims, claims.sample, restarts)


def search(
    model: keras.Model,
    domain: Domain,
    claims: Claims,
    seed: int = 0,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    time_limit: float | None = None,
) -> np.ndarray:
    """Searches, for each conjunction, an input of its domain that satisfies it.

    As `falsify`, for m claims about the outputs as the model returns them: (m, ...) points.
    """
    found = _no_witnesses(model, (len(claims), *domain.lower.shape[1:]))
    if input_type(model) not in FLOATS:
        return found
    attempt = _Attempt(model, domain, False, seed, steps, time_limit)
    return attempt.fill(found, claims, np.arange(len(claims)), restarts)


def is_found(points: np.ndarray) -> np.ndarray:
    """(n,) whether points (n, ...) are witnesses: no NaN."""
    return ~np.isnan(points).any(axis=tuple(range(1, points.ndim)))


def _nearest(places: np.ndarray, values: np.ndarray, wanted: np.ndarray, count: int) -> np.ndarray:
    """For each wanted place, its claims of smallest value, at most `count`."""
    order = np.lexsort((values, places))
    order = order[wanted[places[order]]]
    _, first = np.unique(places[order], return_index=True)
    sizes = np.diff([*first, len(order)])
    rank = np.arange(len(order)) - np.repeat(first, sizes)
    return order[rank < count]


def _no_witnesses(model: keras.Model, shape: Sequence[int]) -> np.ndarray:
    dtype = input_type(model)
    return np.full(shape, np.nan, dtype if dtype in FLOATS else np.float64)


class _Attempt:
    """One search: the model as a graph, the domain in its input type, and the clock."""

    def __init__(self, model, domain: Domain, drop_softmax: bool, seed, steps, time_limit):
        self._model, self._domain, self._steps = model, domain, steps
        self._random = np.random.default_rng(seed)
        self._end = math.inf if time_limit is None else time.monotonic() + time_limit
        self._type = np.dtype(input_type(model))
        self._set = inside(domain, self._type)
        self._gradient = gradient_function(model, drop_softmax)
        self.shift = 0.0  # subtracted from the outputs before they are judged

    def is_over(self) -> bool:
        return time.monotonic() >= self._end

    def fill(
        self, found: np.ndarray, claims: Claims, places: np.ndarray, restarts: int
    ) -> np.ndarray:
        """`found`, with a witness of one of the claims of each place, where there is any."""
        values = np.full(len(claims), np.inf)
        for stage in range(1 + restarts):
            chosen = _nearest(places, values, ~is_found(found), _NEAREST if stage else _TARGETS)
            if not len(chosen) or self.is_over():
                break
            points, values[chosen] = self.descend(claims[chosen], stage)
            for row in np.flatnonzero(values[chosen] < 0):
                found[places[chosen[row]]] = points[row]
        return found

    def descend(self, claims: Claims, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (m, ...) and the values (m,) of the claims there; infinite where no witness.

        Values that are negative are of points that were replayed.
        """
        points, values = [], []
        shape = self._domain.lower.shape[1:]
        size = max(1, min(_ROWS, _ENTRIES // math.prod(shape)))
        for begin in range(0, len(claims), size):
            part = claims[begin : begin + size]
            if self.is_over():
                points.append(np.zeros((len(part), *shape), self._type))
                values.append(np.full(len(part), np.inf))
                continue
            reached = self._descend(part, stage)
            points.append(reached[0])
            values.append(self._replayed(part, *reached))
        return np.concatenate(points), np.concatenate(values)

    def _descend(self, claims: Claims, stage: int) -> tuple[np.ndarray, np.ndarray]:
        domain = self._set.of(claims.sample)
        x = best = self._start(domain, stage)
        lowest = np.full(len(claims), np.inf)
        weights = tf.constant(claims.weights, tf.float32)
        offsets = tf.constant(claims.offsets, tf.float32)
        for step in range(self._steps):
            value, gradient = self._gradient(x, weights, offsets)
            is_lower = value.numpy() < lowest
            lowest = np.where(is_lower, value, lowest)
            best = tf.where(column(is_lower, x), x, best)
            length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / self._steps)
            is_vertex = stage % 2 == 0
            x = towards(x, gradient, domain, length, is_vertex and step == 0, is_vertex)
            if (lowest < 0).all() and step > self._steps // 4:
                break
        return best.numpy(), lowest

    def _start(self, domain: DomainTensors, stage: int) -> tf.Tensor:
        if stage == 0:
            return project(domain.center, domain)
        share = self._random.random(domain.lower.shape)
        # Half of the starts at corners, where the extremes of a piecewise linear function are.
        share = np.round(share) if stage % 2 else share
        share = tf.constant(share, domain.lower.dtype)
        return project(domain.lower + share * (domain.upper - domain.lower), domain)

    def _replayed(self, claims: Claims, points: np.ndarray, values: np.ndarray) -> np.ndarray:
        """`values`, with those of witnesses checked, and infinite where the check fails."""
        rows = np.flatnonzero(values < 0)
        if not len(rows):
            return values
        checked = values.copy()
        outputs = output_values(self._model, points[rows]) - self.shift
        largest = np.abs(outputs).max(axis=1).astype(np.float64) + self.shift
        noise = _NOISE * np.finfo(outputs.dtype).eps * largest
        exact = claims[rows].values(outputs) + noise * np.abs(claims[rows].weights).sum(-1).max(-1)
        inside = self._domain[claims.sample[rows]].contains(points[rows])
        is_witness = (exact < 0) & inside & np.isfinite(outputs).all(axis=1)
        checked[rows] = np.where(is_witness, exact, np.inf)
        return checked


_GRADIENTS = LRUCache(4)


def gradient_function(model: keras.Model, drop_softmax: bool = True) -> Callable:
    """`(x, weights, offsets)` to `(value (m,), gradient like x)`, for all batches.

    It is traced once for a model, and follows its weights. With `drop_softmax`, a final softmax is
    left out: Keras hands on the logits it was computed from, and their gradient does not vanish
    where a probability is 1.
    """
    if drop_softmax and is_readable(model):
        # Without anything to leave out both questions have one graph.
        call = final_call(graph_of(model))
        drop_softmax = call is not None and final_function(call.operation) != ""
    config = configuration(model)
    # While it is kept the model lives, and no other one has its number.
    key = None if config is None else (id(model), config, drop_softmax)
    return _GRADIENTS.get(key, lambda: (model, _traced_gradient(model, drop_softmax)))[1]


def _traced_gradient(model: keras.Model, drop_softmax: bool) -> Callable:
    def gradient(x, weights, offsets):
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x, training=False)
            outputs = getattr(outputs, "_keras_logits", outputs) if drop_softmax else outputs
            rows = tf.einsum("mro,mo->mr", weights, tf.cast(outputs, tf.float32)) + offsets
            value = tf.reduce_max(rows, axis=1)
        return value, tape.gradient(value, x, unconnected_gradients="zero")

    point = (None, *model.inputs[0].shape[1:])
    shapes = [(point, input_type(model)), ((None,) * 3, tf.float32), ((None,) * 2, tf.float32)]
    return traced(gradient, shapes)
