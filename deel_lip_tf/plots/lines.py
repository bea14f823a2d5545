"""Numbers over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf.plots.canvas import axes_for, figure_of, line_styles, named


def curves(
    values: Any,
    x: ArrayLike | None = None,
    references: Mapping[str, float] | None = None,
    *,
    xlabel: str = "epoch",
    ylabel: str = "",
    ax: Any = None,
) -> Any:
    """Lines over epochs, or over other numbers, with levels to compare them with.

    Args:
        values: (k,) numbers, or a mapping from names to such, one line for each.
        x: (k,) where they belong; by default 1, 2, 3, ...
        references: levels by name, drawn as dashed lines.
        xlabel: what `x` is.
        ylabel: what the values are.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: values of another shape than `x`.

    Example:
        >>> figure = lip.plots.curves({"KR": [0.5, 0.9]}, references={"exact": 1.0})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['KR', 'exact']
    """
    lines = named("values", values, "value")
    axes = axes_for(ax)
    for index, (name, line) in enumerate(lines.items()):
        where = np.arange(1, len(line) + 1) if x is None else np.asarray(x)
        if where.shape != line.shape:
            raise ValueError(
                f"`values` must hold a number for each of `x`, of shape {where.shape}. "
                f"Received: {name!r} of shape {line.shape}."
            )
        axes.plot(where, line, label=name, **line_styles(index))
    for index, (name, level) in enumerate((references or {}).items()):
        style = ("--", ":", "-.")[index % 3]
        axes.axhline(level, color="black", linestyle=style, linewidth=1, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure_of(axes)


def margins(
    values: ArrayLike, names: Sequence[Any] | None = None, *, start: int = 1, ax: Any = None
) -> Any:
    """Learned margins over epochs, one line for each class, in the order of the last ones.

    Args:
        values: (epochs, classes) margins, or (epochs,) of one margin for all.
        names: of the classes; by default their indices.
        start: number of the first epoch: 0 where the first row is before any training.
        ax: axes to draw into; by default those of a new figure.

    Returns:
        The matplotlib figure. The legend has the order of the lines at the last epoch.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: another number of axes, or of names.

    Example:
        >>> figure = lip.plots.margins([[0.1, 0.1], [0.2, 0.4]], names=["cat", "ship"])
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['ship', 'cat']
    """
    table = np.asarray(values, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    labels = [str(index) for index in range(table.shape[-1])] if names is None else list(names)
    if table.ndim != 2 or not len(table) or table.shape[1] != len(labels):
        raise ValueError(
            f"`values` must have the shape (epochs, classes), with a name for each class. "
            f"Received: shape {np.shape(values)}, {len(labels)} names."
        )
    axes = axes_for(ax, 7.0)
    epochs = np.arange(start, start + len(table))
    for index in np.argsort(-table[-1], kind="stable"):
        style = line_styles(int(index))
        axes.plot(epochs, table[:, index], marker=".", label=str(labels[index]), **style)
    axes.set(xlabel="epoch", ylabel="margin", title="Learned margins")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure_of(axes)
