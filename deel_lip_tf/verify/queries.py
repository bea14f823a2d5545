"""Bounds of outputs and of layers on a domain, and the largest radius that can be proven."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.scalars import check_choice, check_time_limit
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.domain import Domain, ball, check_domain
from deel_lip_tf.verify.guard import confirmed
from deel_lip_tf.verify.methods import METHODS, interval_bounds, lower_bounds
from deel_lip_tf.verify.models import classified, margin_objectives, program_of
from deel_lip_tf.verify.proofs import BRANCHING, stages_of
from deel_lip_tf.verify.search.branch_and_bound import branch_and_bound


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of linear functions of the outputs, for n samples.

    Attributes:
        lower: (n, functions) float64; (n, *output shape) where the outputs themselves are bounded.
        upper: as many upper bounds, of the same shape: nowhere below `lower`.
        layers: by name, "model/layer" inside a nested model, `(lower, upper)` of the output of a
            layer, (n, *shape); of its last call where it is called more than once. `None` where it
            was not asked for.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity", name="dense")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> domain = lip.verify.box([[0.25, 1.0]], [[0.5, 2.0]])
        >>> answer = lip.verify.bounds(model, domain, per_layer=True)
        >>> print(answer.lower.round(4), answer.upper.round(4), list(answer.layers))
        [[0.25 1.  ]] [[0.5 2. ]] ['dense']
    """

    lower: np.ndarray
    upper: np.ndarray
    layers: dict[str, tuple[np.ndarray, np.ndarray]] | None = None


def bounds(
    model: keras.Model,
    domain: Domain,
    outputs: ArrayLike | None = None,
    method: str = "crown",
    per_layer: bool = False,
    time_limit: float | None = None,
) -> Bounds:
    """Proven bounds of the outputs of a model on a domain, or of linear functions of them.

    The claim is that of `robustness`: about the exact function of the weights as stored. A final
    softmax (and the final sigmoid of a single output) is left out: its input is bounded. Bounds are
    infinite, and a warning says why, where the model itself returns something else at the center
    than the exact function of its weights, by more than rounding explains.

    Args:
        model: a Sequential or functional model with one input and one output.
        domain: n sets of inputs, by `box` or `ball`.
        outputs: coefficients of linear functions of the flattened output, (functions, entries) for
            all samples or (n, functions, entries); the outputs themselves by default.
        method: a name of `METHODS`, or "branch-and-bound", which raises the bounds of "crown"
            until they meet values that are reached, or the time is up.
        per_layer: whether to bound the outputs of all layers too, by "crown" where the method is
            "branch-and-bound".
        time_limit: seconds of branch and bound; by default one for each sample, at most 60.

    Returns:
        A `Bounds`, float64, of the layers too where it was asked for: every value that the exact
        function takes on the domain lies between `lower` and `upper`.

    Raises:
        TypeError: `model` is not a Keras model, or `domain` not made by `box` or `ball`.
        ValueError: shapes that do not fit, an unknown method, a time limit that is not positive, or
            a model without a rule.

    Example:
        >>> dense = keras.layers.Dense(2, "relu", kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> domain = lip.verify.box([[0.5, 1.0]], [[0.75, 2.0]])
        >>> answer = lip.verify.bounds(model, domain)
        >>> print(answer.lower.round(4), answer.upper.round(4))
        [[0.5 1. ]] [[0.75 2.  ]]
        >>> gap = lip.verify.bounds(model, domain, outputs=[[-1.0, 1.0]])
        >>> print(gap.lower.round(4))  # of the second output less the first
        [[0.25]]
    """
    check_choice("method", method, (*METHODS, BRANCHING))
    check_time_limit(time_limit)
    check_domain(domain)
    program = program_of(model, domain.lower.shape[1:])
    objectives = objectives_of(program, outputs, len(domain))
    both = np.concatenate([objectives, -objectives], axis=1)
    whole = "crown" if method == BRANCHING else method
    found = lower_bounds(program, whole, domain, both)
    if method == BRANCHING:
        both = np.broadcast_to(both, (len(domain), *both.shape[1:]))
        found = branch_and_bound(program, domain, both, None, found, time_limit).lower
    found = np.where(confirmed(model, program, domain.center)[:, None], found, -np.inf)
    lower, upper = found[:, : objectives.shape[1]], -found[:, objectives.shape[1] :]
    if outputs is None:
        shape = (len(domain), *program.output_shape)
        lower, upper = lower.reshape(shape), upper.reshape(shape)
    if not per_layer:
        return Bounds(lower, upper)
    layers = interval_bounds(program, whole, domain, [call.outputs[0] for call in program.calls])
    names = [call.call.name for call in program.calls]
    return Bounds(lower, upper, dict(zip(names, layers, strict=True)))


def objectives_of(program: Program, outputs: ArrayLike | None, samples: int) -> np.ndarray:
    """(n or 1, functions, entries) rows of coefficients: `outputs`, or the outputs themselves.

    Raises:
        ValueError: they do not fit.
    """
    if outputs is None:
        return np.eye(program.outputs)[None]
    rows = np.asarray(outputs)
    rows = rows[None] if rows.ndim == 2 else rows
    fits = rows.ndim == 3 and rows.shape[0] in (1, samples) and rows.shape[2] == program.outputs
    if not fits or rows.dtype.kind not in "biuf" or not np.isfinite(rows).all():
        raise ValueError(
            f"`outputs` must hold finite coefficients, of shape (functions, {program.outputs}) or "
            f"({samples}, functions, {program.outputs}). Received: shape {np.shape(outputs)}, "
            f"dtype {np.asarray(outputs).dtype}."
        )
    return rows.astype(np.float64)


_FIRST, _SMALLEST = 2.0**-7, 2.0**-30
_PRECISION = 2.0**-10
_STEPS = 60


def certified_radius(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike | None = None,
    norm: str = "linf",
    clip: tuple | None = (0.0, 1.0),
    method: str = "auto",
) -> np.ndarray:
    """The largest radius, up to 0.1 % of it, at which `robustness` proves each sample.

    By bisection, for all samples together. A method may prove a radius and not a smaller one; the
    radius that is returned was itself proven. In the data range nothing lies further than its
    farthest corner, which is the largest radius there is.

    Args:
        model: a Sequential or functional model with one input and an output of shape
            (batch, classes), or (batch, 1) for the classes 0 and 1.
        x: (n, *shape) finite samples, of the model's input shape, in the units of the radius.
        y: labels: integers (n,) or (n, 1), one-hot rows, or `None`, the default, for what the model
            predicts.
        norm: "linf", the default, "l2" or "l1", of the flattened difference.
        clip: smallest and largest value of the data, (0, 1) by default, or `None`; balls are cut to
            it.
        method: "auto" for its methods up to "crown" ("sdp-crown" in L2), or one of `METHODS`.

    Returns:
        (n,) float64; 0 where the label is not proven at the sample itself.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: an argument out of its range, or a model with several inputs or with layers that
            have no rule: all of them are named.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[0.8, 0.4]])  # a gap of 0.4, which changes by 2 eps
        >>> print(lip.verify.certified_radius(model, x).round(3))
        [0.2]
        >>> print(lip.verify.certified_radius(model, x, norm="l2").round(3))  # 0.4 / sqrt(2)
        [0.283]
    """
    check_choice("method", method, ("auto", *METHODS))
    at_samples = ball(x, 0.0, norm, clip)
    program, outputs, _, labels = classified(model, at_samples, y)
    centers = at_samples.center
    is_confirmed = confirmed(model, program, centers, outputs)
    objectives = margin_objectives(labels, program.outputs)
    stages = [stage for stage in stages_of(program, method, norm) if stage in METHODS]

    def proven(which: np.ndarray, radius: np.ndarray) -> np.ndarray:
        domain = ball(centers[which], radius, norm, clip)
        return _proven(program, stages, domain, objectives[which]) & is_confirmed[which]

    return _largest(proven, _farthest(centers, norm, clip))


def _proven(
    program: Program, stages: list[str], domain: Domain, objectives: np.ndarray
) -> np.ndarray:
    lower = np.full(objectives.shape[:2], -np.inf)
    for stage in stages:
        left = np.flatnonzero(~(lower > 0).all(axis=1))
        if len(left):
            found = lower_bounds(program, stage, domain[left], objectives[left])
            lower[left] = np.maximum(lower[left], found)
    return np.all(lower > 0, axis=1)


def _farthest(x: np.ndarray, norm: str, clip) -> np.ndarray:
    """(n,) distance of the farthest point of the data range; infinite without one."""
    if clip is None:
        return np.full(len(x), np.inf)
    distance = np.maximum(np.asarray(clip[1]) - x, x - np.asarray(clip[0])).reshape(len(x), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(distance, order, axis=1) * (1.0 + 2.0**-40)


def _largest(proven, farthest: np.ndarray) -> np.ndarray:
    """Between a radius that is proven and one that is not, first by doubling, then by halving."""
    everyone = np.arange(len(farthest))
    low, high = np.zeros(len(farthest)), np.full(len(farthest), np.inf)
    active = proven(everyone, low)
    radius = np.where(np.isfinite(farthest), farthest, _FIRST)
    for _ in range(_STEPS):
        which = everyone[active]
        if not len(which):
            break
        good = proven(which, radius[which])
        low[which[good]] = radius[which[good]]
        high[which[~good]] = radius[which[~good]]
        active &= (high - low > _PRECISION * low) & (high > _SMALLEST) & (low < farthest)
        radius = _next(low, high, farthest)
    return low


def _next(low: np.ndarray, high: np.ndarray, farthest: np.ndarray) -> np.ndarray:
    """The next radius to try; far from the last failure one doubles, or starts small."""
    doubled = np.minimum(2.0 * low, farthest)
    started = np.where(high > _FIRST, np.minimum(_FIRST, 0.5 * high), 0.5 * high)
    halved = 0.5 * (low + np.where(np.isfinite(high), high, 0.0))
    grown = np.where(np.isfinite(high), np.minimum(doubled, halved), doubled)
    return np.where(low == 0, np.where(np.isfinite(high), started, _FIRST), grown)
