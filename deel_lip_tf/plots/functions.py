"""Functions of one and of two variables, and the distributions they tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf.plots.canvas import axes_for, figure_of, line_styles, named

_MARKERS = "os^Dv"


def lipschitz_cone(
    x: ArrayLike,
    values: Any,
    constant: float = 1.0,
    at: Sequence[float] = (),
    samples: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    ax: Any = None,
) -> Any:
    """A function of one variable, with cones that a Lipschitz function cannot leave.

    From the point `(a, f(a))` the graph of an `L`-Lipschitz function stays between the lines
    `f(a) - L |x - a|` and `f(a) + L |x - a|`, on both sides.

    Args:
        x: (k,) ascending.
        values: (k,) values of the function, or a mapping from names to such.
        constant: `L`.
        at: where cones are drawn, from the first function.
        samples: (x, y) of points drawn behind, such as those of training.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: values of another shape than `x`.

    Example:
        >>> x = np.linspace(-1, 1, 5)
        >>> figure = lip.plots.lipschitz_cone(x, np.abs(x), at=[0.0])
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [1.0, 0.5, 0.0, 0.5, 1.0]
    """
    where, lines = np.asarray(x, np.float64), named("values", values, "f")
    wrong = [name for name, line in lines.items() if line.shape != where.shape]
    if wrong:
        raise ValueError(
            f"`values` must hold a number for each of `x`, of shape {where.shape}. Received "
            f"other shapes for {', '.join(wrong)}."
        )
    axes = axes_for(ax)
    if samples is not None:
        axes.scatter(*map(np.asarray, samples), s=9, color="gray", alpha=0.5, label="samples")
    for index, (name, line) in enumerate(lines.items()):
        axes.plot(where, line, label=name, **line_styles(index))
    first = next(iter(lines.values()))
    limits = axes.get_ylim()
    for index, point in enumerate(at):
        value, reach = np.interp(point, where, first), constant * np.abs(where - point)
        label = f"slope at most {constant:g}" if not index else None
        axes.fill_between(
            where, value - reach, value + reach, color="C2", alpha=0.15, linewidth=0, label=label
        )
        axes.plot(point, value, "o", color="C2", markersize=5)
    axes.set(xlabel="x", ylabel="f(x)", xlim=(where[0], where[-1]), ylim=limits)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure_of(axes)


def plane(
    function: Callable[[np.ndarray], ArrayLike],
    x: ArrayLike,
    y: ArrayLike,
    radii: ArrayLike | None = None,
    levels: Sequence[float] | None = None,
    *,
    names: Sequence[str] | None = None,
    resolution: int = 150,
    ax: Any = None,
) -> Any:
    """A function of the plane: who wins where, its level sets, samples, and certified discs.

    Args:
        function: from (n, 2) points to (n,) or (n, 1) values, of which the sign is the class, or
            to (n, classes) scores.
        x: (n, 2) samples.
        y: (n,) their classes, from 0, or -1 and 1: marker and colour.
        radii: (n,) certified radii, drawn as circles around those where they are positive.
        levels: of level sets that are drawn besides the border of the classes; of one value only.
        names: of the classes, by label; -1 and 1 are the first and the second.
        resolution: points of the grid along each axis.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure, with equal units along both axes, so that discs are round.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: samples that are not points of the plane, levels of several scores, or a class
            without a name.

    Example:
        >>> figure = lip.plots.plane(lambda p: p[:, 0], [[-1.0, 0.0], [1.0, 0.0]], [0, 1], [1, 1])
        >>> [float(disc.radius) for disc in figure.axes[0].patches]
        [1.0, 1.0]
    """
    points, classes = np.asarray(x, np.float64), np.asarray(y).reshape(-1)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != len(classes) or not len(points):
        raise ValueError(
            "`x` must hold points of the plane, shape (n, 2), and `y` a class for each. Received: "
            f"x of shape {points.shape}, {len(classes)} classes."
        )
    axes = axes_for(ax, 6.0, 5.0)
    _regions(axes, function, points, levels, resolution)
    for one, index, label in _kinds(classes, names):
        own = points[classes == one]
        marker = _MARKERS[index % len(_MARKERS)]
        axes.scatter(
            *own.T, s=14, color=f"C{index}", marker=marker, edgecolor="white", linewidth=0.4,
            zorder=3, label=label,
        )  # fmt: skip
    if radii is not None:
        _discs(axes, points, np.asarray(radii))
    axes.set(aspect="equal", xlabel="x1", ylabel="x2")
    axes.legend()
    return figure_of(axes)


def _kinds(classes: np.ndarray, names: Sequence[str] | None) -> list[tuple[Any, int, str]]:
    """The classes that there are, each with its index and what it is called."""
    kinds = np.unique(classes)
    is_signed = kinds[0] < 0  # -1 and 1 are the classes 0 and 1
    indices = range(len(kinds)) if is_signed else [int(one) for one in kinds]
    if names is not None and indices[-1] >= len(names):
        raise ValueError(
            f"`names` must name every class. Received: {len(names)} names, class {kinds[-1]:g}."
        )
    labels = [f"class {kind:g}" for kind in kinds] if names is None else [names[i] for i in indices]
    return list(zip(kinds, indices, labels, strict=True))


def _regions(
    axes: Any, function: Callable, points: np.ndarray, levels: Any, resolution: int
) -> None:
    """The colours of the classes, their border, and level sets."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = 0.12 * np.max(high - low) + 1e-6
    sides = [np.linspace(a - room, b + room, resolution) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*sides), axis=-1)
    values = np.asarray(function(grid.reshape(-1, 2)), np.float64)
    values = values.reshape(resolution, resolution, -1)
    if levels is not None and values.shape[-1] > 1:
        raise ValueError(
            f"`levels` must be None for several scores. Received: {values.shape[-1]} scores."
        )
    single = values[..., 0]
    winner = (single > 0).astype(int) if values.shape[-1] == 1 else values.argmax(axis=-1)
    count = max(int(winner.max()) + 1, 2)
    colours = [f"C{index}" for index in range(count)]
    axes.contourf(*sides, winner, np.arange(count + 1) - 0.5, colors=colours, alpha=0.2)
    border = np.arange(count - 1) + 0.5 if values.shape[-1] > 1 else [0.0]
    axes.contour(
        *sides, winner if values.shape[-1] > 1 else single, border, colors="black", linewidths=1.2
    )
    if levels is not None:
        lines = axes.contour(*sides, single, sorted(levels), colors="gray", linewidths=0.7)
        axes.clabel(lines, fontsize=7)
    axes.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]])  # whatever discs reach beyond


def _discs(axes: Any, points: np.ndarray, radii: np.ndarray) -> None:
    from matplotlib.patches import Circle

    for point, radius in zip(points, radii, strict=True):
        if radius > 0:
            axes.add_patch(Circle(point, radius, fill=False, color="black", alpha=0.5, lw=0.6))


def distributions(
    samples: Mapping[str, ArrayLike],
    function: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    bins: int = 40,
    ax: Any = None,
) -> Any:
    """Histograms of numbers, and a function that tells them apart.

    Args:
        samples: by name, (n,) numbers.
        function: (x, f(x)), drawn against an axis of its own at the right.
        bins: of the histograms, equal for all of them.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure: densities, so that distributions of unequal numbers compare.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: no samples, or other shapes.

    Example:
        >>> figure = lip.plots.distributions({"P": [0.0, 1.0], "Q": [2.0, 3.0]}, bins=3)
        >>> [patch.get_label() for patch in figure.axes[0].patches]
        ['P', 'Q']
    """
    arrays = named("samples", samples, "samples")
    axes = axes_for(ax)
    edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins)
    for index, (name, values) in enumerate(arrays.items()):
        density, _ = np.histogram(values, edges, density=True)
        colour = f"C{index % 10}"
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.45, label=name)
    axes.set(xlabel="x", ylabel="density")
    handles, names = axes.get_legend_handles_labels()
    if function is not None:
        right = axes.twinx()
        handles += right.plot(*map(np.asarray, function), color="black", label="f")
        names.append("f (right axis)")
        right.set_ylabel("f(x)")
    axes.legend(handles, names)
    return figure_of(axes)
