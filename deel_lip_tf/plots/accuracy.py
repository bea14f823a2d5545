"""Shares of samples over radii, and runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf.plots.canvas import axes_for, figure_of, named

_POINTS = 200
_TOP = 1.02  # shares reach 1, and the line at 1 is to be seen
_MARKERS = "osD^vP*X"


def certified_accuracy(
    certificates: Any,
    attacks: Any = None,
    radii: ArrayLike | None = None,
    *,
    ax: Any = None,
) -> Any:
    """Certified accuracy against radius, below the accuracy that attacks leave.

    The curve of certificates is the share of samples whose radius is at least `r`; that of an
    attack the share that it did not change nearer than `r`. Of the same samples and one model, the
    first cannot lie above the second.

    Args:
        certificates: a `Certificates`, an array (n,) of radii that is NaN where the answer is
            wrong, or a mapping from names to such, one curve for each.
        attacks: distances (n,) of what an attack found: inf where nothing, NaN where the answer is
            wrong without it; or a mapping from names to such. Those of a name of `certificates`
            have its colour.
        radii: where the curves are computed, ascending; by default 200 from 0 to a little more than
            the largest finite radius or distance.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: arrays of another shape.

    Example:
        >>> radius = np.array([0.1, 0.3, np.nan, 0.2])
        >>> figure = lip.plots.certified_accuracy(radius, radii=[0.0, 0.15, 0.25])
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.75, 0.5, 0.25]
    """
    proven = _radii_by_name(certificates)
    has_attacks = attacks is not None and len(attacks) > 0
    attacked = named("attacks", attacks, "the attack") if has_attacks else {}
    where = _reach([*proven.values(), *attacked.values()]) if radii is None else np.asarray(radii)
    axes = axes_for(ax)
    colours = {name: f"C{index % 10}" for index, name in enumerate({**proven, **attacked})}
    if len(proven) == 1:
        colours[next(iter(proven))] = "black"
    for name, radius in proven.items():
        colour = colours[name]
        share = _shares(radius, where)
        axes.fill_between(where, share, alpha=0.2 / len(proven), color=colour, linewidth=0)
        axes.plot(where, share, color=colour, label=name)
    for name, distance in attacked.items():
        label = f"{name}, left by the attack" if name in proven else f"left by {name}"
        style = {"color": colours[name], "linestyle": "--", "label": label}
        axes.plot(where, _shares(distance, where), **style)
    _finish(axes, where)
    axes.set(xlabel="L2 radius", ylabel="accuracy", title="Certified accuracy")
    return figure_of(axes)


def _radii_by_name(certificates: Any) -> dict[str, np.ndarray]:
    given = certificates if isinstance(certificates, Mapping) else {"certified": certificates}
    return named("certificates", {name: _radius(one) for name, one in given.items()}, "certified")


def _radius(one: Any) -> ArrayLike:
    """Radii of certificates or of an array, NaN where the answer is known to be wrong."""
    if not hasattr(one, "radius"):
        return one
    return one.radius if one.correct is None else np.where(one.correct, one.radius, np.nan)


def _reach(arrays: list[np.ndarray]) -> np.ndarray:
    finite = np.concatenate([array[np.isfinite(array)] for array in arrays] + [[1e-3]])
    return np.linspace(0, 1.05 * finite.max(), _POINTS)


def _shares(values: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The share of values that are at least each radius; NaN never is."""
    with np.errstate(invalid="ignore"):
        return np.mean(values >= radii[:, None], axis=1) if values.size else np.zeros(len(radii))


def _finish(axes: Any, where: np.ndarray) -> None:
    axes.set(xlim=(0 if where[0] <= 0 else where[0], where[-1]), ylim=(0, _TOP))
    axes.grid(alpha=0.3)
    axes.legend()


def frontier(
    runs: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    ax: Any = None,
) -> Any:
    """Accuracy against robustness: a point for each run, and the line of those that none beats.

    Args:
        runs: by family, such as the name of a loss, and by setting, such as "tau = 3", the pair
            (robustness, accuracy) of a run. Points of a family share colour and marker, and each
            has its setting beside it.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: no run.

    Example:
        >>> runs = {"hinge": {"m = 0.1": (0.2, 0.95), "m = 1": (0.6, 0.9)}, "kr": {"": (0.5, 0.8)}}
        >>> figure = lip.plots.frontier(runs)
        >>> figure.axes[0].lines[0].get_xydata().tolist()  # nothing is better in both
        [[0.2, 0.95], [0.6, 0.9]]
    """
    points = np.array([pair for family in runs.values() for pair in family.values()], np.float64)
    if not points.size:
        raise ValueError("`runs` must hold at least one run. Received none.")
    axes = axes_for(ax)
    best = points[[not _is_beaten(point, points) for point in points]]
    best = best[np.argsort(best[:, 0])]
    axes.plot(*best.T, color="gray", linestyle="--", linewidth=1, zorder=1, label="beaten by none")
    for index, (family, settings) in enumerate(runs.items()):
        pairs = np.array(list(settings.values()), np.float64).reshape(-1, 2)
        marker = _MARKERS[index % len(_MARKERS)]
        axes.scatter(*pairs.T, color=f"C{index % 10}", marker=marker, label=family, zorder=2)
        for setting, pair in settings.items():
            axes.annotate(
                setting, pair, xytext=(6, 4), textcoords="offset points", fontsize=8, zorder=3
            )
    axes.margins(x=0.18, y=0.12)
    axes.set(xlabel="certified robustness", ylabel="accuracy", title="Accuracy and robustness")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure_of(axes)


def _is_beaten(point: np.ndarray, points: np.ndarray) -> bool:
    """Whether a run is at least as good in both, and better in one."""
    return bool(np.any(np.all(points >= point, axis=1) & np.any(points > point, axis=1)))


def verified_share(
    epsilons: ArrayLike,
    verified: Mapping[str, ArrayLike],
    ceiling: ArrayLike | None = None,
    *,
    ax: Any = None,
) -> Any:
    """The share of samples that each method verifies, against the radius.

    Args:
        epsilons: (k,) radii, ascending.
        verified: by method, (k,) shares that are proven.
        ceiling: (k,) share that an attack leaves, above which nothing can be proven.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure: one line for each method, under the dashed one of the attack.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: shares for other radii.

    Example:
        >>> figure = lip.plots.verified_share([0.1, 0.2], {"crown": [1.0, 0.5]}, [1.0, 0.75])
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['left by the attack', 'proven by crown']
    """
    where = np.asarray(epsilons, np.float64)
    shares = named("verified", verified, "it")
    if ceiling is not None:
        shares["the ceiling"] = np.asarray(ceiling, np.float64)
    wrong = [name for name, share in shares.items() if share.shape != where.shape]
    if wrong:
        raise ValueError(
            f"`verified` and `ceiling` must hold a share for each of {where.size} radii. "
            f"Received other numbers for {', '.join(wrong)}."
        )
    axes = axes_for(ax, width=8.5)
    if ceiling is not None:
        left = shares.pop("the ceiling")
        axes.plot(where, left, color="black", linestyle="--", label="left by the attack")
        axes.fill_between(where, left, _TOP, color="black", alpha=0.1)
    for index, (name, share) in enumerate(shares.items()):
        marker = _MARKERS[index % len(_MARKERS)]  # lines that coincide are seen by their markers
        axes.plot(where, share, marker=marker, alpha=0.8, label=f"proven by {name}")
    axes.set(title="Share of samples whose label is kept", xlabel="radius", ylabel="share")
    axes.set_ylim(0, _TOP)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))  # lines cross the whole picture
    return figure_of(axes)


def decisions(answers: Any, *, ax: Any = None) -> Any:
    """How many questions have each answer, and what decided them.

    Args:
        answers: what `verify.robustness` and its like return: `status` (n,), `method` (n,), and
            the `statuses` that there are.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure: a bar for each status, in parts by method, with its count.

    Raises:
        ImportError: without the package `matplotlib`.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> x = np.array([[0.9, 0.1], [0.6, 0.5]])
        >>> answer = lip.verify.robustness(model, x, [0, 0], eps=0.2)
        >>> [text.get_text() for text in answer.plot().axes[0].texts]  # proven, refuted, neither
        ['1', '1', '0']
    """
    statuses = list(answers.statuses)
    axes = axes_for(ax, 6.5, 1.0 + 0.5 * len(statuses))
    left = np.zeros(len(statuses))
    for index, method in enumerate(np.unique(answers.method)):
        is_method = answers.method == method
        counts = np.array([np.sum(is_method & (answers.status == s)) for s in statuses])
        style = {"color": f"C{index}", "hatch": ("", "//", "..", "xx")[index % 4]}
        axes.barh(statuses, counts, left=left, alpha=0.7, label=method or "nothing", **style)
        left += counts
    for row, total in enumerate(left):
        axes.text(total, row, f"{total:.0f}", va="center")
    axes.set(xlabel=answers.questions, xlim=(0, 1.1 * max(left.max(), 1)))
    axes.invert_yaxis()
    axes.legend(title="decided by", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure_of(axes)
