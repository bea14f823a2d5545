"""Whether a function only grows, or only falls, with a feature."""

import math
import time
from functools import partial
from typing import Any

import keras
import numpy as np

from deel_lip_tf._validation.scalars import check_choice, check_time_limit, flag
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, box, check_domain
from deel_lip_tf.verify.guard import confirmed
from deel_lip_tf.verify.methods import METHODS, lower_bounds
from deel_lip_tf.verify.models import FLOATS, input_type, program_of
from deel_lip_tf.verify.properties.answer import PROVEN, UNKNOWN, Answer, Progress
from deel_lip_tf.verify.properties.gradients import gradients_on
from deel_lip_tf.verify.properties.linear import search_seconds
from deel_lip_tf.verify.properties.ranges import flat_values, whole
from deel_lip_tf.verify.properties.splitting import FEW, split
from deel_lip_tf.verify.search.attack import Claims, is_found, search

_NOISE = 64.0  # last digits of the larger output: differences that are less are none
_JUDGED = 8  # pairs of one call of which the exact function is bounded


def monotone(
    model: keras.Model,
    feature: int | tuple[int, ...],
    domain: Domain,
    increasing: bool = True,
    output: int | tuple[int, ...] | None = None,
    method: str = "crown",
    time_limit: float | None = None,
) -> Answer:
    """Whether a model grows with a feature, all other features being the same, on each domain.

    "proven" is a proof about the exact function of the weights as stored, at inference: for any two
    inputs of the domain that differ in this feature alone, the output for the larger value is not
    smaller. It rests on bounds of the derivative (`verify.gradients`) that are not negative, on the
    whole box or on each of many parts of it. "falsified" comes with two inputs of the domain that
    differ in this feature alone, the smaller value first, for which the outputs of the model itself
    fall by more than the noise of their last digits, and those of the exact function do not
    provably grow. "unknown" is neither.

    Args:
        model: a model with one input and one output. A sigmoid at its end counts, and so would a
            softmax, which cannot be bounded.
        feature: position in the flattened input, or an index into one sample, such as
            `(row, column, channel)`.
        domain: n boxes, by `box` or by `ball` with `norm="linf"`.
        increasing: `False` asks whether the model falls with the feature.
        output: position in the flattened output, or an index; all outputs by default.
        method: a name of `verify.METHODS`, by which the layers are bounded.
        time_limit: seconds after which nothing further begins. Without one, parts are bounded for
            at most a second for each domain that is undecided, and a minute in all; they are
            bounded where at most 24 features are free.

    Returns:
        An `Answer` of n entries; `witness` is (n, 2, *shape), and `margin` the bound of the
        smallest derivative (of the largest one, negated, where the model is to fall).

    Raises:
        TypeError: `model` is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: a domain that is no box, an argument out of its range, or a model with layers
            that have no rule: all of them are named.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "tanh")])
        >>> model.layers[0].set_weights([np.array([[2.0], [-1.0]]), np.zeros(1)])
        >>> domain = lip.verify.box([[0.0, 0.0]], [[0.5, 0.5]])
        >>> for feature in (0, 1):
        ...     print(lip.verify.monotone(model, feature, domain).status)
        ['proven']
        ['falsified']
        >>> print(lip.verify.monotone(model, 1, domain, increasing=False).status)
        ['proven']

    Source: Liu et al., 2020, "Certified monotonic neural networks", arXiv:2011.10219.
    """
    check_choice("method", method, METHODS)
    check_time_limit(time_limit)
    check_domain(domain)
    flag("increasing", increasing)
    if domain.is_ball:
        raise ValueError(
            f"`domain` must hold boxes. Received: balls of the norm {domain.norm!r}. Use `box`, or "
            "`ball` with norm='linf'."
        )
    shape = program_of(model, domain.lower.shape[1:]).output_shape
    model = whole("model", model)
    program = program_of(model, domain.lower.shape[1:])
    rows = (1.0 if increasing else -1.0) * np.eye(program.outputs)
    if output is not None:
        rows = rows[[_position("output", output, shape)]]
    place = _position("feature", feature, program.input_shape)
    return _Work(model, program, domain, rows, place, method, time_limit).answer()


def _position(name: str, index: Any, shape: tuple[int, ...]) -> int:
    """The position in a flattened array of a number or of an index."""
    axes = (math.prod(shape),) if np.ndim(index) == 0 else shape
    given = np.atleast_1d(np.asarray(index))
    fits = given.dtype.kind in "iu" and given.shape == (len(axes),)
    if not fits or not all(0 <= i < n for i, n in zip(given, axes, strict=True)):
        raise ValueError(
            f"`{name}` must be a position below {math.prod(shape)}, or an index into the shape "
            f"{shape}. Received: {name}={index!r}."
        )
    return int(np.ravel_multi_index(tuple(given), axes))


class _Work:
    """The boxes, and what is known of each."""

    def __init__(
        self,
        model: keras.Model,
        program: Program,
        domain: Domain,
        rows: np.ndarray,
        feature: int,
        method: str,
        time_limit: float | None,
    ):
        self._model, self._program, self._domain = model, program, domain
        self._rows, self._feature, self._method = rows, feature, method
        started, center = time.perf_counter(), domain.center
        excluded = ~confirmed(model, program, center)
        self._progress = Progress(excluded, (2, *center.shape[1:]), time_limit, started)
        self._lower = np.full((len(domain), len(rows)), -np.inf)

    def answer(self) -> Answer:
        """Bounds of the whole boxes, a search for pairs, bounds of parts."""
        if len(which := self._progress.open()):
            self._lower[which] = self._slopes(self._domain[which])
            self._decide(which, "gradient")
        for step in (self._attack, self._split):
            if len(which := self._progress.open()) and self._progress.left() > 0:
                step(which)
        return self._progress.answers(Answer, self._lower.min(axis=1))

    def _is_open(self, index: int) -> bool:
        return self._progress.status[index] == UNKNOWN

    def _slopes(self, domain: Domain) -> np.ndarray:
        """(n, rows) bounds of the derivatives by the feature."""
        lower, _ = gradients_on(self._program, domain, self._rows[None], self._method)
        return lower.reshape(*lower.shape[:2], -1)[..., self._feature]

    def _decide(self, which: np.ndarray, method: str) -> None:
        self._progress.decide(which[(self._lower[which] >= 0).all(axis=1)], PROVEN, method)

    def _split(self, which: np.ndarray) -> None:
        seconds = search_seconds(self._progress.left(), len(which)) / len(which)
        for index in which:
            domain = self._domain[[index]]
            if (domain.lower < domain.upper).sum() > FEW:
                continue
            known, end = self._lower[index], time.monotonic() + seconds
            refuted = partial(self._try_ends, index)
            self._lower[index] = split(
                self._program, domain, self._slopes, known, 0.0, end, refuted
            )
            if self._is_open(index):
                self._decide(np.array([index]), "box-splitting")

    def _try_ends(self, index: int, parts: Domain) -> bool:
        """Tries the ends of boxes along the feature, in the middle of all others."""
        dtype = input_type(self._model)
        if dtype not in FLOATS:
            return False
        pairs = np.stack([parts.center, parts.center], axis=1).reshape(len(parts), 2, -1)
        for side, ends in enumerate((parts.lower, parts.upper)):
            pairs[:, side, self._feature] = ends.reshape(len(parts), -1)[:, self._feature]
        self._try(index, pairs.astype(dtype))
        return not self._is_open(index)

    def _attack(self, which: np.ndarray) -> None:
        """Searches two inputs, as one of a model that runs twice."""
        dtype = input_type(self._model)
        if dtype not in FLOATS:
            return
        sample, row = np.nonzero(self._lower[which] < 0)
        domain, place = self._domain[which][sample], self._feature
        ends = [end.reshape(len(sample), -1) for end in (domain.lower, domain.upper)]
        wide = [np.concatenate([end, end[:, [place]]], axis=1) for end in ends]
        center = np.concatenate([domain.center.reshape(len(sample), -1), ends[1][:, [place]]], 1)
        center[:, place] = ends[0][:, place]
        claims = Claims(
            np.arange(len(sample)), self._rows[row][:, None], np.zeros((len(sample), 1))
        )
        limit, twice = self._progress.time_limit(), _twice(self._model, place)
        points = search(twice, box(wide[0], wide[1], center), claims, time_limit=limit)
        for i in np.flatnonzero(is_found(points)):
            if self._is_open(which[sample[i]]):
                pair = np.stack([points[i, :-1]] * 2)
                pair[:, place] = np.sort(points[i, [place, -1]])
                self._try(which[sample[i]], pair)

    def _try(self, index: int, pairs: np.ndarray) -> None:
        """Takes the first of some pairs (k, 2, inputs) that breaks the claim.

        The model itself falls, and the exact function does not provably grow.
        """
        pairs = pairs.reshape(-1, *self._program.input_shape)
        inside = self._domain[np.full(len(pairs), index)].contains(pairs).reshape(-1, 2).all(axis=1)
        outputs = flat_values(self._model, pairs)
        size = np.abs(outputs).astype(np.float64).reshape(-1, 2, outputs.shape[1]).max(axis=1)
        noise = _NOISE * np.finfo(outputs.dtype).eps * size
        rise = np.diff(outputs.astype(np.float64).reshape(-1, 2, outputs.shape[1]), axis=1)[:, 0]
        falls = (rise @ self._rows.T < -(noise @ np.abs(self._rows).T)).any(axis=1)
        pairs = pairs.reshape(-1, 2, *self._program.input_shape)
        rows, count = np.concatenate([self._rows, -self._rows])[None], len(self._rows)
        for pair in pairs[inside & falls][:_JUDGED]:
            point = pair.astype(np.float64)
            found = lower_bounds(self._program, "ibp", box(point, point), rows)
            largest, smallest = -found[0, count:], found[1, :count]
            if not (smallest >= largest).all():
                self._progress.falsify(np.array([index]), pair, "attack")
                return


def _twice(model: keras.Model, feature: int) -> keras.Model:
    """The rise of a model from an input to the one in which a feature is larger.

    The input holds the feature's second value at its end; the two values may come in any order.
    """
    shape = tuple(model.inputs[0].shape[1:])
    size = math.prod(shape)
    given = keras.Input((size + 1,), dtype=model.inputs[0].dtype, name="pair")
    own, other = given[:, feature : feature + 1], given[:, size:]
    values = []
    for order in (keras.ops.minimum, keras.ops.maximum):
        parts = [given[:, :feature], order(own, other), given[:, feature + 1 : size]]
        flat = keras.ops.concatenate([part for part in parts if part.shape[1]], axis=1)
        output = model(keras.ops.reshape(flat, (-1, *shape)))
        values.append(keras.ops.reshape(output, (-1, math.prod(output.shape[1:]))))
    return keras.Model(given, values[1] - values[0])
