"""Rows of images: the pixels, the labels and the frames."""

import numpy as np
import pytest

from deel_lip_tf import plots

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib.figure import Figure

NAMES = ["airplane", "automobile", "bird"]
GREY, COLOURS = (8, 8), (32, 32, 3)


def pictures(rng, n=3, shape=GREY):
    return rng.uniform(size=(n, *shape))


def shown(axes):
    return axes.images[0].get_array()


@pytest.mark.parametrize("shape", [GREY, (8, 8, 1), COLOURS, (8, 8, 2)], ids=str)
def test_images_show_their_pixels_and_labels(rng, shape):
    x = pictures(rng, shape=shape)
    figure = plots.images(x, [0, 1, 2], [0, 2, 2], ["a", "b", "c"], NAMES, columns=2)
    assert len(figure.axes) == 4  # two rows of two, the last one empty
    first, wrong, _, empty = figure.axes
    expected = x[1] if shape[-1] == 3 else x[1].reshape(*shape[:2], -1).mean(axis=-1)
    np.testing.assert_array_equal(shown(wrong), expected)
    assert first.get_title() == "true airplane\npredicted airplane\na"
    assert wrong.get_title() == "true automobile\npredicted bird ✗\nb"
    assert first.title.get_color() != wrong.title.get_color() == "tab:red"
    assert not empty.axison and not empty.images
    assert first.images[0].get_interpolation() == "nearest"


def test_images_of_one_channel_have_the_whole_range_of_grey():
    image = plots.images(np.full((1, 4, 4), 0.25)).axes[0].images[0]
    assert image.get_clim() == (0, 1) and image.get_cmap().name == "gray"


def test_titles_fit_above_their_images(rng):
    """The text of an image of many does not reach into that of its neighbour."""
    figure = plots.images(pictures(rng, 8, COLOURS), [0] * 8, [1] * 8, names=NAMES, columns=8)
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("shape", [GREY, COLOURS], ids=str)
def test_adversarials_stand_beside_their_images(rng, shape):
    x = pictures(rng, 2, shape)
    changed = np.clip(x + rng.normal(scale=0.1, size=x.shape), 0, 1)
    figure = plots.adversarials(x, changed, [0, 1], [2, 2], [0.5, 0.25], NAMES)
    grid = np.reshape(figure.axes, (2, 3))
    for row, axes in enumerate(grid):
        np.testing.assert_array_equal(shown(axes[0]), x[row])
        np.testing.assert_array_equal(shown(axes[1]), changed[row])
        distance = np.sqrt(np.sum((changed[row] - x[row]) ** 2))
        assert axes[0].get_title() == f"true {NAMES[row]}\ncertified radius {(0.5, 0.25)[row]:.3f}"
        assert axes[1].get_title() == f"became bird\ndistance {distance:.3f}"
        largest = np.abs(changed[row] - x[row]).max()
        assert axes[2].get_title() == f"difference\nlargest {largest:.3f}"
        if shape == GREY:
            np.testing.assert_allclose(shown(axes[2]), changed[row] - x[row])
            np.testing.assert_allclose(axes[2].images[0].get_clim(), (-largest, largest))
        else:  # no change is grey, the largest one black or white
            expected = 0.5 + (changed[row] - x[row]) / (2 * largest)
            np.testing.assert_allclose(shown(axes[2]), expected)


def test_no_adversarial_is_said(rng):
    (axes,) = plots.adversarials(pictures(rng)[:0], pictures(rng)[:0]).axes
    assert "no adversarial example" in axes.texts[0].get_text()


def test_saliency_is_signed_and_ends_where_it_leads(rng):
    x, gradients = pictures(rng), rng.normal(size=(3, *GREY))
    figure = plots.saliency(x, gradients, 1 - x, ["a", "b", "c"], [2, 1, 0])
    grid = np.reshape(figure.axes, (3, 3))
    for column in range(3):
        np.testing.assert_array_equal(shown(grid[0, column]), x[column])
        np.testing.assert_array_equal(shown(grid[1, column]), gradients[column])
        np.testing.assert_array_equal(shown(grid[2, column]), 1 - x[column])
        low, high = grid[1, column].images[0].get_clim()
        assert low == -high and 0 < high <= np.abs(gradients[column]).max()
    assert [axes.get_title() for axes in grid[0]] == ["a", "b", "c"]
    assert [axes.get_title() for axes in grid[2]] == ["became 2", "became 1", "became 0"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["image", "gradient", "moved along it"]
    assert len(plots.saliency(x, gradients).axes) == 6


def test_statuses_do_not_rely_on_colours_alone(rng):
    table = [["robust", "unknown", "falsified"], ["falsified", "robust", "unknown"]]
    figure = plots.statuses(pictures(rng), table, (0.1, 0.2), [7, 8, 9])
    kinds = {}
    for axes, status in zip(figure.axes, sum(table, []), strict=True):
        styles = {(s.get_linestyle(), s.get_edgecolor()) for s in axes.spines.values()}
        kinds.setdefault(status, set()).add((axes.texts[0].get_text(), *styles))
    assert all(len(seen) == 1 for seen in kinds.values())  # one look for each status
    marks = {mark for ((mark, _),) in kinds.values()}
    lines = {style for ((_, (style, _)),) in kinds.values()}
    assert len(marks) == len(lines) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["✓ proven", "? open", "✗ refuted"]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["radius 0.1", "radius 0.2"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["7", "8", "9"]


def test_axes_that_are_given_are_drawn_into(rng):
    x, figure = pictures(rng, 2), Figure()
    for rows, draw in (
        (1, lambda ax: plots.images(x, ax=ax)),
        (2, lambda ax: plots.saliency(x, x, ax=ax)),
        (1, lambda ax: plots.statuses(x, ["robust"] * 2, ax=ax)),
    ):
        figure.clear()
        grid = figure.subplots(rows, 2)
        assert draw(grid) is figure
        assert all(axes.images for axes in np.ravel(grid)) and len(figure.axes) == rows * 2
    figure.clear()
    assert plots.adversarials(x, x, ax=figure.subplots(2, 3)) is figure


ONE = np.zeros((1, 4, 4))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: plots.images(np.zeros((4, 4))), "`x` must have the shape"),
        (lambda: plots.images(ONE[:0]), "`x` must have the shape"),
        (lambda: plots.images(ONE, [1, 2]), "`labels` must hold one entry for each of 1"),
        (lambda: plots.images(ONE, ax=Figure().subplots(1, 2)), "1 x 1 axes"),
        (lambda: plots.adversarials(ONE, ONE[:, :2]), "`changed`"),
        (lambda: plots.adversarials(ONE, ONE, radii=[1, 2]), "`radii`"),
        (lambda: plots.saliency(ONE, ONE, ONE[:, :2]), "`counterfactuals`"),
        (lambda: plots.saliency(ONE, ONE[:, :2]), "`gradients`"),
        (lambda: plots.statuses(ONE, ["fine"]), "fine"),
        (lambda: plots.statuses(ONE, ["robust"], labels=[1, 2]), "`labels`"),
    ],
)
def test_what_cannot_be_drawn_is_told(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
