"""What is proven at which radius, and pictures of it: framed images, shares of samples over radii.

`deel_lip_tf.plots` draws them. Needs matplotlib (the extra `demo`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf import plots
from deel_lip_tf._lazy import public_names
from deel_lip_tf._validation.models import check_instance
from deel_lip_tf.plots.images import STATUSES
from deel_lip_tf.verify.domain import ball
from deel_lip_tf.verify.methods import METHODS, lower_bounds
from deel_lip_tf.verify.models import classified, margin_objectives
from deel_lip_tf.verify.proofs import FALSIFIED, ROBUST, UNKNOWN, robustness
from deel_lip_tf.verify.search.attack import falsify, is_found

__all__ = ["COLOURS", "Curves", "curve_figure", "status_figure", "verified_curves"]

__dir__ = public_names(__name__)

COLOURS = {status: STATUSES[status][0] for status in (ROBUST, UNKNOWN, FALSIFIED)}
"""Of the frames, by status."""

_RESTARTS, _STEPS = 10, 60  # of the attack, where it is a ceiling


@dataclass(frozen=True, eq=False)
class Curves:
    """Shares of samples over radii.

    Attributes:
        epsilons: (k,) radii, ascending.
        verified: by method, (k,) shares of all samples that are predicted right and proven.
        ceiling: (k,) share that is predicted right and that no attack has broken: no method can
            prove more.
        seconds: by method, (k,) time for all samples.
        samples: their number.

    Example:
        >>> from deel_lip_tf.verify.figures import Curves
        >>> shares = {"crown": np.array([1.0, 0.5])}
        >>> seconds = {"crown": np.array([0.1, 0.1])}
        >>> print(Curves(np.array([0.1, 0.2]), shares, np.array([1.0, 0.75]), seconds, samples=4))
        4 samples, %                  0.1      0.2
        crown                       100.0     50.0
        attack finds nothing        100.0     75.0
    """

    epsilons: np.ndarray
    verified: dict[str, np.ndarray]
    ceiling: np.ndarray
    seconds: dict[str, np.ndarray]
    samples: int

    def summary(self) -> str:
        """A table, in percent of the samples."""
        head = f"{f'{self.samples} samples, %':<24}" + "".join(f"{e:>9g}" for e in self.epsilons)
        rows = [*self.verified.items(), ("attack finds nothing", self.ceiling)]
        lines = [f"{name:<24}" + "".join(f"{100 * v:>9.1f}" for v in share) for name, share in rows]
        return "\n".join([head, *lines])

    def __str__(self) -> str:
        return self.summary()


def verified_curves(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike | None = None,
    epsilons: Sequence[float] = (0.005, 0.01, 0.02, 0.05),
    methods: Sequence[str] = ("ibp", "crown", "auto"),
    norm: str = "linf",
    clip: tuple | None = (0.0, 1.0),
    time_limit: float | None = None,
) -> Curves:
    """How many samples each method proves at each radius, and what an attack leaves.

    Args:
        model: a Sequential or functional model with one input and an output of shape
            (batch, classes), or (batch, 1) for the classes 0 and 1.
        x: (n, *shape) finite samples, of the model's input shape, in the units of the radius.
        y: labels: integers (n,) or (n, 1), one-hot rows, or `None`, the default, for what the model
            predicts.
        epsilons: radii, not negative, in the units of `x`.
        methods: names of `verify.METHODS`, "auto" or "branch-and-bound": one curve for each.
        norm: "linf", the default, "l2" or "l1", of the flattened difference.
        clip: smallest and largest value of the data, (0, 1) by default, or `None`; balls are cut to
            it.
        time_limit: of a method that takes its time, such as "auto", for all samples at one radius.

    Returns:
        The `Curves`: `print` them, or hand them to `curve_figure`.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: no radius, an argument out of its range, or a model with several inputs or with
            layers that have no rule: all of them are named.

    Example:
        >>> from deel_lip_tf.verify.figures import verified_curves
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[0.9, 0.1], [0.6, 0.4]])  # gaps 0.8 and 0.2
        >>> print(verified_curves(model, x, epsilons=(0.05, 0.2, 0.45), methods=("crown",)))
        2 samples, %                 0.05      0.2     0.45
        crown                       100.0     50.0      0.0
        attack finds nothing        100.0     50.0      0.0
    """
    radii = np.unique(np.asarray(epsilons, np.float64))
    if not radii.size:
        raise ValueError("`epsilons` must hold at least one radius. Received none.")
    domain = ball(x, 0.0, norm, clip)
    program, _, predicted, labels = classified(model, domain, y)
    right = predicted == labels
    objectives = margin_objectives(labels, program.outputs)

    def proven(method: str, eps: float) -> tuple[float, float]:
        """The share of samples, and the seconds that it took."""
        start = time.perf_counter()
        if method in METHODS:
            lower = lower_bounds(program, method, ball(x, eps, norm, clip), objectives)
            good = np.all(lower > 0, axis=1)
        else:
            answer = robustness(model, x, labels, eps, norm, clip, method, time_limit)
            good = answer.status == ROBUST
        return (good & right).mean(), time.perf_counter() - start

    verified, seconds = {}, {}
    for method in methods:
        verified[method], seconds[method] = np.array([proven(method, eps) for eps in radii]).T
    ceiling = _ceiling(model, domain.center, labels, right, radii, norm, clip)
    return Curves(radii, verified, ceiling, seconds, len(domain))


def _ceiling(model, x, labels, right, radii, norm, clip) -> np.ndarray:
    """A witness at one radius is one at every larger radius."""
    left, shares = right.copy(), []
    for eps in radii:
        which = np.flatnonzero(left)
        if len(which):
            domain = ball(x[which], eps, norm, clip)
            options = {"restarts": _RESTARTS, "steps": _STEPS}
            points = falsify(model, x[which], labels[which], domain, **options)
            left[which] = ~is_found(points)
        shares.append(left.mean())
    return np.array(shares)


def curve_figure(curves: Curves) -> Any:
    """The curves of `verified_curves`, as a matplotlib `Figure`.

    Args:
        curves: what `verified_curves` returned.

    Returns:
        A figure of one line for each method, under the dashed one that the attack leaves.

    Raises:
        ImportError: without the package `matplotlib`.
        TypeError: `curves` is something else.

    Example:
        >>> from deel_lip_tf.verify.figures import curve_figure, verified_curves
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> curves = verified_curves(model, [[0.9, 0.1]], epsilons=(0.1, 0.5), methods=("crown",))
        >>> figure = curve_figure(curves)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['left by the attack', 'proven by crown']
    """
    check_instance("curves", curves, Curves, "the `Curves` that `verified_curves` returns")
    figure = plots.verified_share(curves.epsilons, curves.verified, curves.ceiling)
    figure.axes[0].set_title(f"Share of {curves.samples} samples whose label is kept")
    return figure


def status_figure(
    images: ArrayLike,
    statuses: ArrayLike,
    epsilons: Sequence[float] | None = None,
    labels: Sequence | None = None,
) -> Any:
    """Images framed and marked by status: green proven, orange open, red refuted.

    Args:
        images: (n, rows, columns) or (n, rows, columns, 1 or 3), values from 0 to 1.
        statuses: (n,) or (k, n) of "robust", "unknown" and "falsified", one row for each radius.
        epsilons: (k,) radii, written beside the rows.
        labels: (n,) written above the images.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: shapes that do not fit, or an unknown status.

    Example:
        >>> from deel_lip_tf.verify.figures import status_figure
        >>> figure = status_figure(np.zeros((3, 8, 8)), ["robust", "unknown", "falsified"])
        >>> len(figure.axes)  # one for each image
        3
    """
    return plots.statuses(images, statuses, epsilons, labels)
