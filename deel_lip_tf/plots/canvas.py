"""Where a picture is drawn: axes that the caller has, or those of a new figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_COLOURS = 10  # of matplotlib's cycle


def axes_for(ax: Any, width: float = 6.5, height: float = 4.0) -> Any:
    """The axes `ax`, or the only ones of a new figure of this size in inches.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `ax` has no `plot`.
    """
    if ax is None:
        return grid_for(None, 1, 1, width, height)[0, 0]
    if not hasattr(ax, "plot"):
        raise TypeError(f"`ax` must be axes of matplotlib, or None. Received: {type(ax).__name__}.")
    return ax


def grid_for(ax: Any, rows: int, columns: int, width: float, height: float) -> np.ndarray:
    """The axes `ax` as (rows, columns), or those of a new figure of this size in inches.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `ax` holds another number of axes.
    """
    if ax is None:
        from deel_lip_tf.plots.picture import Picture

        figure = Picture(figsize=(width, height), layout="constrained")
        return figure.subplots(rows, columns, squeeze=False)
    grid = np.asarray(ax, dtype=object)
    if grid.size != rows * columns:
        raise ValueError(
            f"`ax` must hold {rows} x {columns} axes, as `figure.subplots({rows}, {columns})` "
            f"returns them. Received: {grid.size}."
        )
    return grid.reshape(rows, columns)


def figure_of(axes: Any) -> Any:
    """The figure that axes stand in."""
    return axes.get_figure()


def line_styles(index: int) -> dict[str, Any]:
    """Of the line of this index: more than the ten colours of the cycle can be told apart."""
    styles = ("-", "--", ":", "-.")
    return {
        "color": f"C{index % _COLOURS}",
        "linestyle": styles[index // _COLOURS % len(styles)],
    }


def named(name: str, values: Any, default: str, dimensions: int = 1) -> dict[str, np.ndarray]:
    """Arrays by name: of a mapping as it is, of a single one by its default name.

    Raises:
        ValueError: there is none, or one has another number of axes.
    """
    given: Mapping[str, ArrayLike] = values if isinstance(values, Mapping) else {default: values}
    arrays = {key: np.asarray(value, np.float64) for key, value in given.items()}
    wrong = {key: array.shape for key, array in arrays.items() if array.ndim != dimensions}
    if wrong or not arrays:
        raise ValueError(
            f"`{name}` must be an array of {dimensions} axes, or a mapping from names to such "
            f"arrays. Received: {f'shapes {wrong}' if arrays else 'none'}."
        )
    return arrays
