"""Whether a classifier keeps its label: the question, the answer, and who finds it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.scalars import check_choice, check_time_limit
from deel_lip_tf.semantics.ir.program import Program, left_slope
from deel_lip_tf.verify import guard
from deel_lip_tf.verify.domain import Domain, ball, check_domain
from deel_lip_tf.verify.methods import METHODS, batches, lower_bounds
from deel_lip_tf.verify.models import classified, margin_objectives, output_values, predicted_labels
from deel_lip_tf.verify.propagation import lipschitz
from deel_lip_tf.verify.properties.answer import FALSIFIED, UNKNOWN, Answers, Progress
from deel_lip_tf.verify.search import attack
from deel_lip_tf.verify.search.branch_and_bound import MOST_SECONDS, branch_and_bound
from deel_lip_tf.verify.search.inputs.network import is_searchable
from deel_lip_tf.verify.search.inputs.turns import in_turns

ROBUST = "robust"

ATTACK, BRANCHING, WHOLE = "attack", "branch-and-bound", "alpha-crown"
_BOUNDS = ("crown-ibp", "crown")
_TURNS = 0.85  # of the time of branch and bound, for the search in NumPy


@dataclass(frozen=True, eq=False)
class Robustness(Answers):
    """Answers for n samples.

    Attributes:
        status: (n,) "robust", "falsified" or "unknown".
        margin: (n,) float64, the best lower bound that was proven of the smallest difference
            between the output of the label and another one, on the whole domain; -inf where there
            is none. It is positive exactly where the status is "robust".
        witness: (n, *shape), where falsified an input of the domain to which the model gives
            another label; NaN elsewhere.
        method: (n,) what decided: a name of `METHODS`, "branch-and-bound", "prediction" where the
            center itself is given another label, "attack"; "" where unknown.
        seconds: (n,) from the question to the decision, or to the end.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[0.9, 0.1], [0.6, 0.5]])
        >>> answer = lip.verify.robustness(model, x, [0, 0], eps=0.2)
        >>> print(answer.status, answer.margin.round(4)[0])  # the gap 0.8, less 2 * 0.2
        ['robust' 'falsified'] 0.4
        >>> print(np.argmax(model(answer.witness[1:]), axis=1))  # another label, within 0.2
        [1]
    """

    statuses = (ROBUST, FALSIFIED, UNKNOWN)
    questions = "samples"


def robustness(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike | None = None,
    eps: ArrayLike = 0.0,
    norm: str = "linf",
    clip: tuple | None = (0.0, 1.0),
    method: str = "auto",
    time_limit: float | None = None,
) -> Robustness:
    """Whether a classifier gives all inputs near a sample the label `y`.

    "robust" is a proof about the exact function of the weights as stored (kernels rounded to the
    type they are computed with, layers' arguments as written), at inference: for every input of the
    domain, the output of the label exceeds every other one. Bounds are computed in float64, and a
    bound on every rounding error is subtracted from them. The float32 arithmetic of the deployed
    model is not part of the claim.

    "falsified" comes with a witness: an input of the domain, in float64, to which the model itself
    gives another label. A sample whose own prediction is another label is its own witness. A
    witness that the exact function provably gives the label is not one.

    "unknown" is neither. No sample is both: only what is not proven is attacked. A sample at which
    the model itself returns something else than the exact function of its weights, by more than
    rounding explains, is unknown, and a warning names the layer. Where the model's inputs are
    integers, the claim is about the integers of the domain.

    Args:
        model: a Sequential or functional model with one input and an output of shape
            (batch, classes), or (batch, 1) for the classes 0 and 1. A final softmax (and the final
            sigmoid of a single output) is left out, for the verification only.
        x: (n, *shape) finite samples, of the model's input shape.
        y: labels: classes (n,) or (n, 1), rows (n, classes) whose largest entry is the class's, or
            `None` for what the model predicts. One output: 0 and 1, or -1 and 1.
        eps: radius, a number or one for each sample, in the units of `x`.
        norm: "linf", "l2" or "l1".
        clip: smallest and largest value of the data, or `None`; the domain is cut to it.
        method: "auto", or a name of `METHODS` or "branch-and-bound" for that one alone; what it
            does not prove is attacked in any case.
        time_limit: seconds after which nothing further begins; what is then undecided is unknown.
            Without one, branch and bound takes at most a second for each sample that is undecided
            when it begins, and a minute in all.

    Returns:
        A `Robustness` of n answers: status, proven margin, witness, method and seconds of each.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: an argument out of its range (each message says which and why), or a model with
            several inputs or with layers that have no rule: all of them are named.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[0.75, 0.25]])  # a gap of 0.5, which changes by at most 2 eps
        >>> for eps in (0.2, 0.3):
        ...     answer = lip.verify.robustness(model, x, [0], eps=eps)
        ...     print(answer.status[0], answer.method[0], answer.margin[0].round(4))
        robust crown-ibp 0.1
        falsified attack -0.1
    """
    return prove(model, ball(x, eps, norm, clip), y, method, time_limit)


def prove(
    model: keras.Model,
    domain: Domain,
    y: ArrayLike | None = None,
    method: str = "auto",
    time_limit: float | None = None,
) -> Robustness:
    """As `robustness`, on any domain: the label `y`, or what the model predicts at the centers.

    Args:
        model: a Sequential or functional model with one input and an output of shape
            (batch, classes), or (batch, 1) for the classes 0 and 1.
        domain: n sets of inputs, by `box` or `ball`.
        y: labels: classes (n,) or (n, 1), rows (n, classes) whose largest entry is the class's, or
            `None` for what the model predicts. One output: 0 and 1, or -1 and 1.
        method: "auto", or a name of `METHODS` or "branch-and-bound" for that one alone.
        time_limit: seconds after which nothing further begins.

    Returns:
        A `Robustness` of n answers: status, proven margin, witness, method and seconds of each.

    Raises:
        TypeError: `model` is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: an argument out of its range (each message says which and why), or a model with
            several inputs or with layers that have no rule: all of them are named.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> domain = lip.verify.box([[0.6, 0.0], [0.4, 0.0]], [[1.0, 0.5], [1.0, 0.5]])
        >>> print(lip.verify.prove(model, domain, [0, 0]).status)  # in the second box they overlap
        ['robust' 'falsified']
    """
    return _proved(model, domain, y, method, time_limit, in_turns=True)


def prove_further(
    model: keras.Model, domain: Domain, y: ArrayLike, time_limit: float | None
) -> Robustness:
    """As `prove`, for what the search in NumPy has left open."""
    return _proved(model, domain, y, "auto", time_limit, in_turns=False)


def _proved(
    model: keras.Model,
    domain: Domain,
    y: ArrayLike | None,
    method: str,
    time_limit: float | None,
    in_turns: bool,
) -> Robustness:
    started = time.perf_counter()
    check_choice("method", method, ("auto", *METHODS, BRANCHING))
    check_time_limit(time_limit)
    check_domain(domain)
    program, outputs, predicted, labels = classified(model, domain, y)
    excluded = ~guard.confirmed(model, program, domain.center, outputs)
    progress = Progress(excluded, domain.lower.shape[1:], time_limit, started)
    search = _Search(model, program, domain, labels, progress, in_turns)
    search.predict(predicted)
    for stage in stages_of(program, method, domain.ball_norm):
        search.run(stage)
    return search.result()


def stages_of(program: Program, method: str, norm: str | None) -> tuple[str, ...]:
    """Stages from cheap to tight; each sees the samples that are undecided.

    "auto" begins with the Lipschitz constant where the model has layers of this library, and uses
    balls of what ReLUs read where the domains are L2 balls. Branch and bound begins with optimized
    slopes on the whole domain; what this decides is the answer of "alpha-crown".
    """
    if method == "auto":
        first = ["lipschitz"] * lipschitz.has_small_constants(program)
        in_balls = norm == "l2" and any(left_slope(node) is not None for node in program.nodes)
        return (*first, *_BOUNDS, *["sdp-crown"] * in_balls, ATTACK, BRANCHING)
    # A search for a counterexample takes little of the time that branching could use up.
    return (ATTACK, BRANCHING) if method == BRANCHING else (method, ATTACK)


class _Search:
    """The samples, and what is known of each."""

    def __init__(self, model, program: Program, domain: Domain, labels, progress, in_turns):
        self._model, self._program = model, program
        self._in_turns = in_turns and domain.ball_norm is None and is_searchable(program)
        self._domain, self._labels = domain, labels
        self._objectives = margin_objectives(labels, program.outputs)
        self._lower = np.full(self._objectives.shape[:2], -np.inf)
        self._progress: Progress = progress

    def predict(self, predicted: np.ndarray) -> None:
        """Falsifies the samples whose own prediction is another label."""
        which = self._progress.open()
        wrong = which[(predicted != self._labels)[which]]
        wrong = wrong[guard.can_run(self._model, self._domain.center[wrong])]
        self._falsify(wrong, self._domain.center[wrong], "prediction")

    def run(self, stage: str) -> None:
        open_ones = self._progress.open()
        if stage == ATTACK:
            self._attack(open_ones)
            return
        if stage == BRANCHING:
            self._branch(open_ones)
            return
        for part in batches(self._program, stage, self._domain[open_ones]):
            if self._progress.left() <= 0:
                return
            self._bound(open_ones[part], stage)

    def _bound(self, which: np.ndarray, stage: str) -> None:
        found = lower_bounds(self._program, stage, self._domain[which], self._objectives[which])
        self._lower[which] = np.maximum(self._lower[which], found)
        proven = (self._lower[which] > 0).all(axis=1)
        self._progress.decide(which[proven], ROBUST, stage)

    def _branch(self, which: np.ndarray) -> None:
        if self._in_turns:
            which = self._branch_in_turns(which)
        limit = self._progress.time_limit()
        if not len(which) or limit == 0.0:
            return
        domain, objectives, known = self._domain[which], self._objectives[which], self._lower[which]
        each = 1.0 - _TURNS * self._in_turns
        options = {"known": known, "time_limit": limit, "each": each}
        found = branch_and_bound(self._program, domain, objectives, **options)
        self._lower[which] = found.lower
        proven, whole = ((part > 0).all(axis=1) for part in (found.lower, found.whole))
        self._progress.decide(which[whole], ROBUST, WHOLE)
        self._progress.decide(which[proven & ~whole], ROBUST, BRANCHING)
        reached = attack.is_found(found.points) & ~proven
        self._replay(which[reached], found.points[reached], BRANCHING)

    def _branch_in_turns(self, which: np.ndarray) -> np.ndarray:
        """Searches boxes in NumPy, one after the other, and returns what is left.

        It is quick and knows no common batches; TensorFlow's search takes the rest of the time.
        """
        left = self._progress.left()
        if not len(which) or left <= 0:
            return which
        left = min(MOST_SECONDS, len(which)) if math.isinf(left) else left
        domain, order = self._domain[which], np.argsort(-self._lower[which].min(axis=1))
        lower, upper = (end.reshape(len(which), -1) for end in (domain.lower, domain.upper))
        asked = lower, upper, self._objectives[which], order
        found = in_turns(self._program, *asked, _TURNS * left)
        proven = which[found.is_positive]
        # No more is known than that the bounds of all parts are positive numbers.
        self._lower[proven] = np.maximum(self._lower[proven], np.nextafter(0.0, 1.0))
        self._progress.decide(proven, ROBUST, BRANCHING)
        reached = ~np.isnan(found.points).any(axis=1)
        points = found.points[reached].reshape(-1, *self._program.input_shape)
        self._replay(which[reached], points, BRANCHING)
        return which[self._progress.status[which] == UNKNOWN]

    def _attack(self, which: np.ndarray) -> None:
        limit = self._progress.time_limit()
        if not len(which) or limit == 0.0:
            return
        domain, labels = self._domain[which], self._labels[which]
        witnesses = attack.falsify(self._model, domain.center, labels, domain, time_limit=limit)
        found = attack.is_found(witnesses)
        self._replay(which[found], np.asarray(witnesses, np.float64)[found], ATTACK)

    def _replay(self, which: np.ndarray, witnesses: np.ndarray, method: str) -> None:
        """Takes the witnesses in the domain to which the model gives another label."""
        if not len(which):
            return
        inside = self._domain[which].contains(witnesses) & guard.can_run(self._model, witnesses)
        outputs = output_values(self._model, witnesses)
        other = predicted_labels(self._program, outputs) != self._labels[which]
        self._falsify(which[inside & other], witnesses[inside & other], method)

    def _falsify(self, which: np.ndarray, witnesses: np.ndarray, method: str) -> None:
        """Takes witnesses, save those to which the exact function provably gives the label."""
        if not len(which):
            return
        domain = Domain(witnesses, witnesses, witnesses, np.zeros(len(which)))
        exact = lower_bounds(self._program, "ibp", domain, self._objectives[which])
        possible = ~(exact > 0).all(axis=1)
        self._progress.falsify(which[possible], witnesses[possible], method)

    def result(self) -> Robustness:
        return self._progress.answers(Robustness, self._lower.min(axis=1))
