"""Numbers over epochs: the lines and their names."""

import numpy as np
import pytest

from deel_lip_tf import plots

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib.figure import Figure


def test_curves_are_drawn_with_the_levels_to_compare_with():
    figure = plots.curves({"KR": [0.5, 0.9], "b": [1.0, 2.0, 3.0]}, references={"exact": 1.0})
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["KR"] == [[1, 0.5], [2, 0.9]] and drawn["b"] == [[1, 1], [2, 2], [3, 3]]
    assert set(axes.lines[-1].get_ydata()) == {1.0} and axes.lines[-1].get_linestyle() == "--"
    assert axes.get_xlabel() == "epoch"
    one = plots.curves([3.0, 4.0], x=[10, 20], xlabel="size", ylabel="seconds").axes[0]
    assert one.lines[0].get_xydata().tolist() == [[10, 3], [20, 4]]
    assert (one.get_xlabel(), one.get_ylabel()) == ("size", "seconds")


def test_more_lines_than_colours_can_be_told_apart():
    axes = plots.curves({str(i): [0.0, i] for i in range(25)}).axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 25


def test_margins_are_in_the_order_of_the_last_epoch():
    values = np.array([[0.1, 0.1, 0.1], [0.2, 0.4, 0.3]])
    axes = plots.margins(values, ["cat", "ship", "dog"], start=0).axes[0]
    assert [line.get_label() for line in axes.lines] == ["ship", "dog", "cat"]
    for line, column in zip(axes.lines, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values[:, column])
        np.testing.assert_array_equal(line.get_xdata(), [0, 1])
    assert [text.get_text() for text in axes.get_legend().texts] == ["ship", "dog", "cat"]
    assert plots.margins([0.1, 0.2]).axes[0].lines[0].get_xydata().tolist() == [[1, 0.1], [2, 0.2]]


def test_axes_that_are_given_are_drawn_into():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.curves([1.0], ax=left) is plots.margins([[0.1, 0.2]], ax=right) is figure
    assert len(left.lines) == 1 and len(right.lines) == 2


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: plots.curves([[1.0]]), "values"),
        (lambda: plots.curves({"a": [1.0, 2.0]}, x=[1]), "'a' of shape"),
        (lambda: plots.margins([[0.1, 0.2]], ["cat"]), "1 names"),
        (lambda: plots.margins(np.zeros((1, 1, 1))), "values"),
    ],
)
def test_what_cannot_be_drawn_is_told(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
