"""Functions of one and two variables: graphs, cones, regions, discs and histograms."""

import numpy as np
import pytest

from deel_lip_tf import plots

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib.colors import same_color
from matplotlib.figure import Figure

X = np.linspace(-1, 1, 5)


def test_a_cone_bounds_the_graph_from_its_point():
    figure = plots.lipschitz_cone(X, {"f": np.abs(X), "g": X}, 2.0, [0.0, 0.5], samples=(X, X))
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines[:2]] == ["f", "g"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), np.abs(X))
    assert [line.get_xydata().tolist() for line in axes.lines[2:]] == [[[0, 0]], [[0.5, 0.5]]]
    cone = axes.collections[1].get_paths()[0].vertices
    assert {tuple(point) for point in cone} >= {(1.0, 2.0), (1.0, -2.0), (-1.0, 2.0), (0.0, 0.0)}
    assert axes.get_xlim() == (-1, 1)
    assert "slope at most 2" in [text.get_text() for text in axes.get_legend().texts]


def half(points):
    return points[:, 0] - 0.25


def three(points):
    """The angle decides."""
    return np.stack([points[:, 0], points[:, 1], -points.sum(axis=1)], axis=1)


SAMPLES = np.array([[-1.0, 0.0], [1.0, 0.5], [0.5, -1.0]])


def region_at(axes, point):
    """The colour of the filled contour that holds a point."""
    filled = axes.collections[0]
    found = [i for i, path in enumerate(filled.get_paths()) if path.contains_point(point)]
    assert len(found) == 1
    return filled.get_facecolors()[found[0]][:3]


@pytest.mark.parametrize("function", [half, lambda p: half(p)[:, None]], ids=["(n,)", "(n, 1)"])
def test_the_sign_of_one_value_is_the_class(function):
    axes = plots.plane(function, SAMPLES, [0, 1, 1], [0.3, np.nan, 0.0], levels=[-0.5]).axes[0]
    assert same_color(region_at(axes, (-0.5, 0.0)), "C0")
    assert same_color(region_at(axes, (0.5, 0.0)), "C1")
    (disc,) = axes.patches
    assert tuple(disc.center) == (-1.0, 0.0) and disc.radius == 0.3 and axes.get_aspect() == 1
    border = np.concatenate([path.vertices for path in axes.collections[1].get_paths()])
    np.testing.assert_allclose(border[:, 0], 0.25, atol=1e-9)
    level = np.concatenate([path.vertices for path in axes.collections[2].get_paths()])
    np.testing.assert_allclose(level[:, 0], -0.25, atol=1e-9)


def test_the_largest_of_several_scores_is_the_class():
    axes = plots.plane(three, SAMPLES, [2.0, 0.0, 0.0]).axes[0]
    for point in ([0.9, 0.1], [-0.2, 0.4], [-0.9, -0.2]):
        assert same_color(region_at(axes, point), f"C{three(np.array([point])).argmax()}")
    assert [text.get_text() for text in axes.get_legend().texts] == ["class 0", "class 2"]
    low, high = axes.get_xlim()
    assert low < -1 and high > 1


def test_samples_are_where_they_are_in_the_colour_of_their_region():
    axes = plots.plane(three, SAMPLES, [2, 0, 0]).axes[0]
    points = {one.get_label(): one for one in axes.collections if one.get_label()[:5] == "class"}
    np.testing.assert_array_equal(points["class 0"].get_offsets(), SAMPLES[1:])
    assert same_color(points["class 2"].get_facecolor()[0][:3], "C2")
    signed = plots.plane(half, SAMPLES, [-1, 1, 1]).axes[0]
    points = {one.get_label(): one for one in signed.collections}
    assert same_color(points["class 1"].get_facecolor()[0][:3], "C1")


@pytest.mark.parametrize("labels", [[0, 1, 1], [-1, 1, 1], [0.0, 1.0, 1.0]], ids=str)
def test_classes_have_their_names(labels):
    axes = plots.plane(half, SAMPLES, labels, names=["generated", "real"]).axes[0]
    assert [text.get_text() for text in axes.get_legend().texts] == ["generated", "real"]
    only = plots.plane(half, SAMPLES[1:], labels[1:], names="ab")
    assert [text.get_text() for text in only.axes[0].get_legend().texts] == ["b"]


def test_distributions_are_densities_with_the_function_beside():
    figure = plots.distributions({"P": [0.0, 1.0], "Q": [2.0, 3.0, 3.0]}, ([0, 3], [1, 2]), bins=3)
    left, right = figure.axes
    p, q = (patch.get_data() for patch in left.patches)
    np.testing.assert_array_equal(p.edges, [0, 1, 2, 3])
    np.testing.assert_allclose(p.values, [0.5, 0.5, 0])
    np.testing.assert_allclose(q.values, [0, 0, 1])
    assert right.lines[0].get_xydata().tolist() == [[0, 1], [3, 2]]
    labels = [text.get_text() for text in left.get_legend().texts]
    assert labels == ["P", "Q", "f (right axis)"]


def test_axes_that_are_given_are_drawn_into():
    figure = Figure()
    one, two, three = figure.subplots(1, 3)
    assert plots.lipschitz_cone(X, X, ax=one) is figure
    assert plots.plane(half, SAMPLES, [0, 1, 1], ax=two) is figure
    assert plots.distributions({"P": X}, ax=three) is figure
    assert one.lines and two.collections and three.patches


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: plots.lipschitz_cone(X, X[1:]), "values"),
        (lambda: plots.plane(half, X, X), "`x` must hold points"),
        (lambda: plots.plane(half, SAMPLES, [0]), "1 classes"),
        (lambda: plots.plane(half, SAMPLES, [0, 1, 2], names="ab"), "2 names, class 2"),
        (lambda: plots.plane(three, SAMPLES, [0, 1, 2], levels=[0.1]), "levels"),
        (lambda: plots.distributions({}), "samples"),
    ],
)
def test_what_cannot_be_drawn_is_told(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
