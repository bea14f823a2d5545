"""What layers may do at most, and what they do."""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import numpy as np

from deel_lip_tf.plots.canvas import axes_for, figure_of, named

_BAR = 0.32  # inches for each layer
_ROOM = 1.6  # of the axis beyond the smallest and the largest number, as a factor


def layer_bounds(bound: Any, attained: Mapping[str, float] | None = None, *, ax: Any = None) -> Any:
    """The proven bound of each layer and of the model, beside what is attained.

    The constant of a layer lies between its mark and the end of its bar: what lies between them is
    the slack. In a model of plain layers the product of the bars is seldom attained.

    Args:
        bound: a `LipschitzBound`, or a `Report`, which knows a lower estimate of the whole, too.
        attained: lower estimates by name of the layer, such as largest singular values.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure: a bar for each layer on a logarithmic axis, and a line for the model,
        from its lower estimate to its bound.

    Raises:
        ImportError: without the package `matplotlib`.

    Example:
        >>> dense = keras.layers.Dense(2, kernel_initializer="ones", name="head")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> figure = lip.plots.layer_bounds(lip.bounds.lipschitz_bound(model))
        >>> [round(float(bar.get_width()), 6) for bar in figure.axes[0].patches]  # norm of ones
        [2.0]
    """
    lower = getattr(bound, "lower", None)
    whole = getattr(bound, "bound", bound)
    names = [entry.name for entry in whole.per_layer]
    values = [entry.value for entry in whole.per_layer]
    lowest = attained or {}
    found = {row: lowest[name] for row, name in enumerate(names) if name in lowest}
    last = len(names)
    axes = axes_for(ax, 7.0, 1.3 + _BAR * last)
    axes.barh(range(last), values, color="C0", alpha=0.6, height=0.7)
    if found:
        axes.plot(list(found.values()), list(found), "|", color="black", ms=12, mew=2)
    axes.plot([lower or whole.value, whole.value], [last, last], color="C3", linewidth=4, alpha=0.6)
    axes.plot([lower or whole.value, whole.value], [last, last], "|", color="C3", ms=12, mew=2)
    _scale(axes, [*values, whole.value, *found.values(), *([lower] if lower else [])])
    for row, value in enumerate([*values, whole.value]):
        axes.annotate(
            _above(value), (value, row), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(last + 1), [*names, "the model"])
    axes.invert_yaxis()
    searched = "" if not lower else f", at least {lower:.4g}"
    axes.set_title(f"The model: at most {_above(whole.value)}{searched}")
    meaning = "proven" if not found else "bars: proven, marks: attained"
    axes.set_xlabel(f"{whole.norm.capitalize()} Lipschitz constant ({meaning})")
    return figure_of(axes)


def _above(value: float) -> str:
    """A bound in few digits, rounded upward: what is read is a bound, too."""
    if not 0 < value < np.inf:
        return f"{value:g}"
    exact = Decimal(value)
    if 1 < value < 1.001:
        return f"1 + {Context(prec=1, rounding=ROUND_CEILING).plus(exact - 1):g}"
    return f"{Context(prec=4, rounding=ROUND_CEILING).plus(exact):g}"


def _scale(axes: Any, values: list[float]) -> None:
    """A logarithmic axis around the values and 1, with numbers that can be read."""
    from matplotlib.ticker import FixedLocator, NullLocator

    positive = [value for value in values if 0 < value < np.inf] + [1.0]
    low, high = min(positive) / _ROOM, max(positive) * _ROOM
    high *= (high / low) ** 0.15  # the last number stands beside its bar
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 10 else (1, 2, 5) if high / low < 300 else (1,)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [float(f"{step * decade:g}") for decade in decades for step in steps]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(low, high)
    axes.axvline(1.0, color="black", linewidth=0.8)


def singular_values(values: Any, *, start: int = 0, ax: Any = None) -> Any:
    """Singular values of a kernel over training: the largest, the smallest, and those between.

    Args:
        values: (steps, k) singular values, or a mapping from names to such, a colour for each.
        start: number of the first step or epoch; 0 by default, before any training.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure: for each kernel a band from the smallest to the largest, with a solid
        line for the largest and a dashed one for the median.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: another number of axes, or no singular value.

    Example:
        >>> figure = lip.plots.singular_values([[1.0, 0.5, 0.2], [1.0, 0.9, 0.8]])
        >>> figure.axes[0].lines[0].get_ydata().tolist()  # the largest
        [1.0, 1.0]
    """
    tables = named("values", values, "kernel", dimensions=2)
    if not all(table.size for table in tables.values()):
        raise ValueError("`values` must hold singular values. Received none.")
    axes = axes_for(ax)
    for index, (name, table) in enumerate(tables.items()):
        steps, colour = np.arange(start, start + len(table)), f"C{index % 10}"
        largest, smallest = table.max(axis=1), table.min(axis=1)
        axes.fill_between(steps, smallest, largest, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, largest, color=colour, label=f"{name}: largest")
        median = np.median(table, axis=1)
        axes.plot(steps, median, color=colour, linestyle="--", label=f"{name}: median")
    axes.set(xlabel="epoch", ylabel="singular value", title="Singular values over training")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure_of(axes)
