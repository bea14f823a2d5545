"""The table of searches: each looks for an input that refutes a claim, by its own means.

A search takes a target and a random generator, and returns how many inputs it tried, the highest
ratio of what it found to what is claimed (at most 1 if the claims hold) and what is refuted. The
referee decides: a candidate counts only if its own float64 evaluation says so, by more than what
that may be wrong by. A flip of the float32 program inside a radius refutes a claim of semantics
"float32" alone.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates import certify
from deel_lip_tf.certificates.guard import call_ratios
from deel_lip_tf.cli.hunt.descent import most_expanded, steepest_in_ball
from deel_lip_tf.cli.hunt.inputs import extreme_inputs, random_starts
from deel_lip_tf.cli.hunt.referee import Referee, distance
from deel_lip_tf.cli.hunt.target import Finding, Target
from deel_lip_tf.cli.quickstart.attacks import run_attacks
from deel_lip_tf.model import vanillaModel

_BATCH = 24
_OUTPUTS = "Lipschitz constant of the outputs"
# Distances of less than this share of a radius below it are not counted as inside.
_INSIDE = 1.0 - 1e-9


class Outcome(NamedTuple):
    """What a search did."""

    tried: int
    best: float
    findings: list[Finding]


def expansion(target: Target, rng: np.random.Generator) -> Outcome:
    """Gradient ascent on `||f(x) - f(y)|| / ||x - y||` against the proven bound."""
    x = random_starts(target.x, _BATCH, rng)
    radius = 10.0 ** rng.uniform(-4, 2, len(x))
    other = most_expanded(target.referee, x, radius, rng, steps=15)
    return _expanded(target, _OUTPUTS, target.bound, x, other)


def gaps(target: Target, rng: np.random.Generator) -> Outcome:
    """The same for the gap of two logits, against the divisors that radii are made of."""
    x = random_starts(target.x, _BATCH, rng)
    classes = len(target.divisors)
    top, rival = 0, 0
    if classes > 1:
        top, rival = rng.choice(classes, 2, replace=False)

    def gap(tensor: Any) -> Any:
        outputs = target.referee(tensor)
        return (outputs[:, top] - (outputs[:, rival] if classes > 1 else 0.0))[:, None]

    radius, claimed = 10.0 ** rng.uniform(-4, 2, len(x)), float(target.divisors[top, rival])
    other = most_expanded(gap, x, radius, rng, steps=15)
    claim = f"Lipschitz constant of logit {top} minus logit {rival}"
    return _expanded(target, claim, claimed, x, other, function=gap)


def promises(target: Target, rng: np.random.Generator) -> Outcome:
    """The same for each layer of this library by itself, against its `k_coef_lip`."""
    outcomes = []
    for promise in target.promises:
        referee = promise.referee
        x = rng.normal(size=(8, *promise.shape))
        other = most_expanded(lambda t, r=referee: _flat(r(t)), x, np.ones(8), rng, steps=40)
        claim = f"Lipschitz constant of layer {promise.name!r} alone"
        outcomes.append(_expanded(target, claim, promise.constant, x, other, referee))
    return _together(outcomes)


def descent(target: Target, rng: np.random.Generator) -> Outcome:
    """Projected gradient descent of the margin, on the sphere of each certified radius."""
    outcomes = []
    for semantics, claims in target.certificates.items():
        chosen = rng.permutation(len(target.x))[:_BATCH]
        chosen = chosen[claims.radius[chosen] > 0]
        if not len(chosen):
            continue
        margin = _margin(target, claims.label[chosen], rng)
        radius = claims.radius[chosen] * (1.0 - 1e-6)
        other = steepest_in_ball(margin, target.x[chosen], radius, rng, steps=20)
        outcomes.append(_flips(target, semantics, chosen, other))
    return _together(outcomes)


def rounding(target: Target, rng: np.random.Generator) -> Outcome:
    """Points just inside the radius, moved by units in the last place in every direction."""
    outcomes = []
    for semantics, claims in target.certificates.items():
        chosen = np.flatnonzero(claims.radius > 0)
        chosen = chosen[rng.permutation(len(chosen))[:8]]
        if not len(chosen):
            continue
        margin = _margin(target, claims.label[chosen], rng)
        edge = steepest_in_ball(margin, target.x[chosen], claims.radius[chosen], rng, steps=10)
        for exponent in (-2, -4, -6):
            point = target.x[chosen] + (1.0 - 10.0**exponent) * (edge - target.x[chosen])
            single = point.astype(np.float32)
            ulps = np.spacing(np.abs(single)) * rng.integers(-2, 3, single.shape)
            outcomes.append(_flips(target, semantics, chosen, (single + ulps).astype(np.float64)))
    return _together(outcomes)


def foolbox_attacks(target: Target, rng: np.random.Generator) -> Outcome:
    """PGD, DeepFool and Carlini-Wagner of foolbox, from images between 0 and 1."""
    x = target.x
    is_image = x.ndim == 4 and x.min() >= 0 and x.max() <= 1
    if not is_image or not len(target.divisors) > 1 or target.policy != "float32":
        return Outcome(0, 0.0, [])
    claims = target.certificates["real"]
    chosen = rng.permutation(len(x))[:_BATCH]
    images = x[chosen].astype(np.float32)
    labels = np.argmax(target.referee.executed(images), axis=1)
    chosen, images = (a[labels == claims.label[chosen]] for a in (chosen, images))
    if not len(chosen):
        return Outcome(0, 0.0, [])
    exported = vanillaModel(target.model)
    found = run_attacks(target.model, exported, images, claims.label[chosen])
    return _together(
        [
            _flips(target, semantics, chosen, attack.adversarial.astype(np.float64))
            for attack in found
            for semantics in target.certificates
        ]
    )


def extremes(target: Target, rng: np.random.Generator) -> Outcome:
    """Denormal, huge, constant and non-finite inputs: certificates there, and expansion."""
    x = extreme_inputs(target.x.shape[1:], rng)
    tried, findings = len(x), []
    for semantics in target.certificates:
        with warnings.catch_warnings():
            # where the program overflows it differs from its function, and has no radius
            warnings.filterwarnings("ignore", "At .* the model itself differs", RuntimeWarning)
            claims = certify(target.model, x, semantics=semantics)
        is_wrong = ~np.isfinite(claims.radius) | (claims.radius < 0)
        is_wrong |= (claims.radius > 0) & ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        findings += [
            Finding("radius of an extreme input", semantics, target.policy, x[i], x[i], r, 0.0)
            for i, r in zip(np.flatnonzero(is_wrong), claims.radius[is_wrong], strict=True)
        ]
    x = x[np.isfinite(x).reshape(len(x), -1).all(axis=1)]
    other = x[rng.permutation(len(x))]
    x, other = (a[distance(x, other) > 0] for a in (x, other))
    with np.errstate(all="ignore"):
        outcome = _expanded(target, _OUTPUTS, target.bound, x, other)
    return Outcome(tried + outcome.tried, outcome.best, findings + outcome.findings)


def calls(target: Target, rng: np.random.Generator) -> Outcome:
    """Each layer as it runs, against its float64 evaluation: what it computes is what it says."""
    x, propagation = random_starts(target.x, _BATCH, rng), LipschitzPropagation()
    propagation.model(target.model)
    ratios = list(call_ratios(target.model, propagation, x))
    findings = [
        Finding(f"what {call.name!r} computes", "real", target.policy, x, x, 1.0, ratio)
        for call, ratio in ratios
        if not ratio <= 1.0
    ]
    return Outcome(len(x) * len(ratios), max(ratio for _, ratio in ratios), findings)


SEARCHES: dict[str, Callable[[Target, np.random.Generator], Outcome]] = {
    "expansion of the outputs": expansion,
    "expansion of gaps of logits": gaps,
    "promises of single layers": promises,
    "descent inside the radius": descent,
    "rounding at the radius": rounding,
    "extreme inputs": extremes,
    "layer by layer": calls,
    "foolbox attacks": foolbox_attacks,
}
RARE = {"foolbox attacks", "layer by layer", "promises of single layers"}
"""Searches that cost much, or find nothing new the second time."""


def has_foolbox() -> bool:
    """Whether foolbox is installed."""
    return importlib.util.find_spec("foolbox") is not None


def _flat(tensor: Any) -> Any:
    return keras.ops.reshape(tensor, (keras.ops.shape(tensor)[0], -1))


def _expanded(
    target: Target,
    claim: str,
    claimed: float,
    x: np.ndarray,
    other: np.ndarray,
    referee: Referee | None = None,
    function: Callable | None = None,
) -> Outcome:
    """The quotients `||f(x) - f(y)|| / ||x - y||` of pairs, against a constant that is claimed.

    `f` is the function of the target's referee, of another one, or one made of it.
    """
    referee = referee or target.referee
    evaluate = referee.outputs if function is None else lambda z: np.asarray(function(z))
    moved, apart = distance(evaluate(x), evaluate(other)), distance(x, other)
    slack = 2.0 * (referee.slack(x) + referee.slack(other)) * referee.outputs(x[:1]).size ** 0.5
    with np.errstate(all="ignore"):
        found = moved / apart
        is_sure = (moved - slack > claimed * apart * (1.0 + 1e-9)) & np.isfinite(moved)
    findings = [
        Finding(claim, "real", target.policy, x[i], other[i], claimed, float(found[i]))
        for i in np.flatnonzero(is_sure)
    ]
    usable = found[np.isfinite(found)]
    best = float(usable.max(initial=0.0)) / claimed if claimed > 0 else 0.0
    return Outcome(len(x), best, findings)


def _margin(target: Target, label: np.ndarray, rng: np.random.Generator) -> Callable:
    """How far the logit of the label is above a rival, drawn at random or the largest one."""
    import tensorflow as tf

    classes = target.model.output_shape[-1]
    if classes == 1:
        sign = np.where(label > 0, 1.0, -1.0)
        return lambda x: target.referee(x)[:, 0] * sign
    own = np.eye(classes)[label]
    rival = np.eye(classes)[(label + rng.integers(1, classes, len(label))) % classes]
    if rng.random() < 0.5:
        return lambda x: tf.reduce_sum(target.referee(x) * (own - rival), axis=1)

    def margin(x: Any) -> Any:
        outputs = target.referee(x)
        largest = tf.reduce_max(outputs - 1e30 * own, axis=1)
        return tf.reduce_sum(outputs * own, axis=1) - largest

    return margin


def _flips(target: Target, semantics: str, chosen: np.ndarray, other: np.ndarray) -> Outcome:
    """Which points inside the radii of samples have another label, under these semantics."""
    claims, x = target.certificates[semantics], target.x[chosen]
    label, radius = claims.label[chosen], claims.radius[chosen]
    if semantics == "float32":
        # The claim is about real inputs too, but then about what they are rounded to.
        other = other.astype(np.float32).astype(np.float64)
        outputs, slack = target.referee.executed(other), np.zeros(len(other))
    else:
        outputs, slack = target.referee.outputs(other), target.referee.slack(other)
    apart = distance(x, other)
    with np.errstate(all="ignore"):
        lead = _lead(outputs, label)
        changed = ~np.isfinite(lead) if semantics == "float32" else np.zeros(len(x), bool)
        changed |= (lead < -2.0 * slack) | ((lead <= 0) & (semantics == "float32"))
        inside = apart < radius * _INSIDE
        before = _lead(target.referee.outputs(x), label)
        fallen = (before - lead) / before * radius / apart
    findings = [
        Finding("certified radius", semantics, target.policy, x[i], other[i], radius[i], apart[i])
        for i in np.flatnonzero(changed & inside)
    ]
    usable = fallen[inside & np.isfinite(fallen)]
    return Outcome(len(x), float(usable.max(initial=0.0)), findings)


def _lead(outputs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) by how much the logit of the label is above the largest other one."""
    if outputs.shape[1] == 1:
        return outputs[:, 0] * np.where(label > 0, 1.0, -1.0)
    rows = np.arange(len(outputs))
    others = outputs.copy()
    others[rows, label] = -np.inf
    return outputs[rows, label] - others.max(axis=1)


def _together(outcomes: list[Outcome]) -> Outcome:
    tried = sum(outcome.tried for outcome in outcomes)
    best = max((outcome.best for outcome in outcomes), default=0.0)
    return Outcome(tried, best, [f for outcome in outcomes for f in outcome.findings])
