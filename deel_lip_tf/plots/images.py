"""Rows of images with what they are, what they were taken for, and what is proven of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf.plots.canvas import axes_for, figure_of, grid_for

STATUSES = {
    "robust": ("tab:green", "✓", "-", "proven"),
    "unknown": ("tab:orange", "?", "--", "open"),
    "falsified": ("tab:red", "✗", ":", "refuted"),
}
"""Of the frames: colour, mark, style of the line and meaning, by status."""

_CELL = 1.35  # inches of an image in a row of many
_LARGE = 1.9  # of an image among few
_SMALL, _TITLE = 8, 9  # points
_MOST = 0.99  # of the entries of a gradient: a few large ones would leave the others grey


def images(
    x: ArrayLike,
    labels: Sequence | np.ndarray | None = None,
    predicted: Sequence | np.ndarray | None = None,
    notes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    *,
    columns: int = 8,
    ax: Any = None,
) -> Any:
    r"""Images in rows, with what they are and what they were taken for.

    Args:
        x: (n, rows, columns) or (n, rows, columns, channels), values from 0 to 1.
        labels: (n,) true labels.
        predicted: (n,) labels that a model gave; red, and crossed, where they are wrong.
        notes: (n,) texts below the labels, such as certified radii.
        names: of the classes, by label.
        columns: images in a row.
        ax: as many axes as the rows and columns have places, as `figure.subplots` returns them; by
            default those of a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: other shapes, or unequal numbers.

    Example:
        >>> figure = lip.plots.images(np.zeros((2, 8, 8)), [3, 5], [3, 6])
        >>> [axes.get_title() for axes in figure.axes]
        ['true 3\npredicted 3', 'true 5\npredicted 6 ✗']
    """
    pictures = _pictures("x", x)
    count, columns = len(pictures), min(columns, len(pictures))
    _check_lengths(count, labels=labels, predicted=predicted, notes=notes)
    rows = -(-count // columns)
    texts = sum(one is not None for one in (labels, predicted, notes))
    grid = grid_for(ax, rows, columns, _CELL * columns, (_CELL + 0.17 * texts) * rows)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for index, (axes, picture) in enumerate(zip(grid.flat[:count], pictures, strict=True)):
        _show(axes, picture)
        _title(axes, index, labels, predicted, names, notes)
    return figure_of(grid[0, 0])


def _title(axes: Any, index: int, labels: Any, predicted: Any, names: Any, notes: Any) -> None:
    """The true label, the one that was given, and a note, each in its line."""
    true = None if labels is None else _name(labels[index], names)
    given = None if predicted is None else _name(predicted[index], names)
    is_wrong = true is not None and given is not None and true != given
    lines = [] if true is None else [f"true {true}"]
    lines += [] if given is None else [f"predicted {given}{' ✗' if is_wrong else ''}"]
    lines += [] if notes is None else [str(notes[index])]
    axes.set_title("\n".join(lines), fontsize=_SMALL, color="tab:red" if is_wrong else "black")


def _name(label: Any, names: Sequence[str] | None) -> str:
    return str(label) if names is None else str(names[int(label)])


def _pictures(name: str, x: ArrayLike) -> np.ndarray:
    """Images as an array, without an axis of one channel."""
    array = np.asarray(x)
    if array.ndim not in (3, 4) or not array.size:
        raise ValueError(
            f"`{name}` must have the shape (n, rows, columns) or (n, rows, columns, channels), "
            f"none of them 0. Received: {array.shape}."
        )
    return array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array


def _check_lengths(count: int, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None and len(value) != count:
            raise ValueError(
                f"`{name}` must hold one entry for each of {count} images. Received: {len(value)}."
            )


def _show(axes: Any, picture: np.ndarray) -> None:
    """An image with sharp pixels: grey, in colours, or the mean of other numbers of channels."""
    if picture.ndim == 3 and picture.shape[-1] != 3:
        picture = picture.mean(axis=-1)
    shown = np.clip(picture, 0, 1)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _show_signed(axes: Any, change: np.ndarray, share: float = 1.0) -> float:
    """A change: red up, blue down, three channels in their colours around grey.

    Returns:
        The size that has the full colour: that of this share of the entries is at most as large.
    """
    if change.ndim == 3 and change.shape[-1] != 3:
        change = change.mean(axis=-1)
    limit = max(float(np.quantile(np.abs(change), share)), 1e-9)
    if change.ndim == 3:
        axes.imshow(np.clip(0.5 + change / (2 * limit), 0, 1), interpolation="nearest")
    else:
        axes.imshow(change, cmap="seismic", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    return limit


def adversarials(
    x: ArrayLike,
    changed: ArrayLike,
    labels: Sequence | np.ndarray | None = None,
    became: Sequence | np.ndarray | None = None,
    radii: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    *,
    ax: Any = None,
) -> Any:
    r"""Image, adversarial example and difference, with certified radius and distance.

    Args:
        x: (n, rows, columns) or (n, rows, columns, channels) images, values from 0 to 1.
        changed: what an attack made of them, of the same shape.
        labels: (n,) what the images are.
        became: (n,) the labels that the model gives to `changed`.
        radii: (n,) certified radii.
        names: of the classes, by label.
        ax: axes of n rows and three columns, as `figure.subplots(n, 3)` returns them; by default
            those of a new figure.

    Returns:
        The matplotlib figure, one row for each image. Differences are scaled to the largest change
        of a pixel, which stands above them. Of no images, a figure that says so.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: other shapes, or unequal numbers.

    Example:
        >>> x = np.zeros((1, 8, 8))
        >>> figure = lip.plots.adversarials(x, x + 0.125, labels=[3], became=[5], radii=[0.7])
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['true 3\ncertified radius 0.700', 'became 5\ndistance 1.000']
    """
    if not len(np.asarray(x)):
        return _no_row(ax)
    before, after = _pictures("x", x), _pictures("changed", changed)
    if before.shape != after.shape:
        raise ValueError(
            f"`changed` must have the shape of `x`, {np.shape(x)}. Received: {np.shape(changed)}."
        )
    count = len(before)
    _check_lengths(count, labels=labels, became=became, radii=radii)
    grid = grid_for(ax, count, 3, 3.4 * _LARGE, (_LARGE + 0.35) * count)
    change = after.astype(np.float64) - before
    distances = np.linalg.norm(change.reshape(count, -1), axis=1)
    for index, (one, two, three) in enumerate(grid):
        first = [] if labels is None else [f"true {_name(labels[index], names)}"]
        first += [] if radii is None else [f"certified radius {np.asarray(radii)[index]:.3f}"]
        second = [] if became is None else [f"became {_name(became[index], names)}"]
        _show(one, before[index])
        one.set_title("\n".join(first), fontsize=_TITLE)
        _show(two, after[index])
        second.append(f"distance {distances[index]:.3f}")
        two.set_title("\n".join(second), fontsize=_TITLE)
        largest = _show_signed(three, change[index])
        three.set_title(f"difference\nlargest {largest:.3f}", fontsize=_TITLE)
    return figure_of(grid[0, 0])


def _no_row(ax: Any) -> Any:
    axes = axes_for(ax, 3.4 * _LARGE, _LARGE)
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no adversarial example was found", ha="center", transform=axes.transAxes)
    return figure_of(axes)


def saliency(
    x: ArrayLike,
    gradients: ArrayLike,
    counterfactuals: ArrayLike | None = None,
    labels: Sequence | np.ndarray | None = None,
    became: Sequence | np.ndarray | None = None,
    names: Sequence[str] | None = None,
    *,
    ax: Any = None,
) -> Any:
    """Images, the gradient of a score at them, and what following it makes of them.

    Args:
        x: (n, rows, columns) or (n, rows, columns, channels) images, values from 0 to 1.
        gradients: of the shape of `x`.
        counterfactuals: images of the same shape, such as `x` moved along the gradient.
        labels: (n,) what the images are.
        became: (n,) the labels that the model gives to the counterfactuals.
        names: of the classes, by label.
        ax: axes of two or three rows and n columns; by default those of a new figure.

    Returns:
        The matplotlib figure: a column for each image. Each gradient is scaled to the largest of
        all but a hundredth of its entries: red where more of a pixel raises the score, blue where
        it lowers it; images of three channels have it in their own colours, around grey.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: other shapes, or unequal numbers.

    Example:
        >>> x = np.zeros((3, 8, 8))
        >>> figure = lip.plots.saliency(x, x + 1, labels=["cat", "dog", "ship"])
        >>> len(figure.axes), figure.axes[0].get_title()
        (6, 'cat')
    """
    pictures, slopes = _pictures("x", x), _pictures("gradients", gradients)
    last = None if counterfactuals is None else _pictures("counterfactuals", counterfactuals)
    for name, array in (("gradients", slopes), ("counterfactuals", last)):
        if array is not None and array.shape != pictures.shape:
            raise ValueError(
                f"`{name}` must have the shape of `x`, {np.shape(x)}. Received: {array.shape}."
            )
    count, rows = len(pictures), 2 + (last is not None)
    _check_lengths(count, labels=labels, became=became)
    grid = grid_for(ax, rows, count, _CELL * count + 0.3, (_CELL + 0.1) * rows + 0.2)
    for index in range(count):
        _show(grid[0, index], pictures[index])
        _show_signed(grid[1, index], slopes[index].astype(np.float64), _MOST)
        if labels is not None:
            grid[0, index].set_title(_name(labels[index], names), fontsize=_TITLE)
        if last is not None:
            _show(grid[2, index], last[index])
            if became is not None:
                grid[2, index].set_title(f"became {_name(became[index], names)}", fontsize=_TITLE)
    for axes, text in zip(grid[:, 0], ("image", "gradient", "moved along it"), strict=False):
        axes.set_ylabel(text, fontsize=_TITLE)
    return figure_of(grid[0, 0])


def statuses(
    images: ArrayLike,
    statuses: ArrayLike,
    epsilons: Sequence[float] | None = None,
    labels: Sequence | np.ndarray | None = None,
    *,
    ax: Any = None,
) -> Any:
    """Images framed by what is proven of them: green and solid, orange and dashed, red and dotted.

    Each frame has its mark, too, so that nothing depends on colours, and a legend says what they
    mean.

    Args:
        images: (n, rows, columns) or (n, rows, columns, 1 or 3), values from 0 to 1.
        statuses: (n,) or (k, n) of "robust", "unknown" and "falsified", one row for each radius.
        epsilons: (k,) radii, written beside the rows.
        labels: (n,) written above the images.
        ax: axes of k rows and n columns; by default those of a new figure.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: without the package `matplotlib`.
        ValueError: shapes that do not fit, or an unknown status.

    Example:
        >>> kinds = ["robust", "unknown", "falsified"]
        >>> figure = lip.plots.statuses(np.zeros((3, 8, 8)), kinds)
        >>> [axes.texts[0].get_text() for axes in figure.axes]
        ['✓', '?', '✗']
    """
    pictures, table = np.asarray(images), np.atleast_2d(np.asarray(statuses))
    _check_statuses(pictures, table, epsilons)
    rows, count = table.shape
    _check_lengths(count, labels=labels)
    grid = grid_for(ax, rows, count, 1.1 * count + 1.0, 1.3 * rows + 0.7)
    for i in range(rows):
        for j in range(count):
            _show(grid[i, j], _pictures("images", pictures[j : j + 1])[0])
            _frame(grid[i, j], table[i, j])
        if epsilons is not None:
            grid[i, 0].set_ylabel(f"radius {epsilons[i]:g}", fontsize=_SMALL)
    for axes, label in zip(grid[0], [] if labels is None else labels, strict=False):
        axes.set_title(str(label), fontsize=_TITLE)
    if ax is None:
        _legend(figure_of(grid[0, 0]), count)
    return figure_of(grid[0, 0])


def _check_statuses(pictures: np.ndarray, table: np.ndarray, epsilons: Any) -> None:
    fits = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[-1] in (1, 3))
    if not fits or not len(pictures):
        raise ValueError(
            "`images` must have the shape (n, rows, columns) or (n, rows, columns, 1 or 3). "
            f"Received: {pictures.shape}."
        )
    if table.shape[1:] != (len(pictures),) or len(table) != len(
        table if epsilons is None else epsilons
    ):
        raise ValueError(
            f"`statuses` must have one row for each radius and {len(pictures)} columns. "
            f"Received: shape {table.shape}, "
            f"{'no radii' if epsilons is None else f'{len(epsilons)} radii'}."
        )
    if unknown := sorted(set(table.ravel().tolist()) - set(STATUSES)):
        raise ValueError(f"`statuses` must be of {', '.join(STATUSES)}. Received: {unknown}.")


def _frame(axes: Any, status: str) -> None:
    colour, mark, style, _ = STATUSES[status]
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=4, linestyle=style)
    box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
    axes.text(
        0.04, 0.95, mark, transform=axes.transAxes, fontsize=_TITLE, color="white", weight="bold",
        va="top", bbox=box,
    )  # fmt: skip


def _legend(figure: Any, count: int) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colour, linestyle=style, linewidth=3, label=f"{mark} {meaning}")
        for colour, mark, style, meaning in STATUSES.values()
    ]
    figure.legend(
        handles=lines, loc="outside lower center", ncols=3 if count > 2 else 1, fontsize=8
    )
