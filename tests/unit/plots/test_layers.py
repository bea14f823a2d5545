"""Bounds of layers and singular values: bars, marks and bands."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from deel_lip_tf import plots
from deel_lip_tf.bounds.result import LayerBound, LipschitzBound
from deel_lip_tf.plots.layers import _above

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib.figure import Figure

VALUES = {"first": 3.2, "second": 0.5, "third": 20.0}
BOUND = LipschitzBound(32.0, [LayerBound(name, "Dense", v, "svd") for name, v in VALUES.items()])
REPORT = SimpleNamespace(bound=BOUND, lower=12.0)


def test_each_layer_has_a_bar_and_the_model_a_line():
    axes = plots.layer_bounds(REPORT, {"first": 3.0, "third": 18.0, "unknown": 1.0}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == list(VALUES.values())
    marks, whole = axes.lines[0], axes.lines[1]
    assert marks.get_xydata().tolist() == [[3.0, 0], [18.0, 2]]
    assert whole.get_xydata().tolist() == [[12.0, 3], [32.0, 3]]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*VALUES, "the model"]
    assert [text.get_text() for text in axes.texts] == ["3.201", "0.5", "20", "32"]
    assert axes.get_title() == "The model: at most 32, at least 12"
    low, high = axes.get_xlim()
    assert low < 0.5 and high > 32 and axes.get_xscale() == "log"
    assert axes.yaxis_inverted()


def test_a_bound_alone_has_no_lower_estimate():
    axes = plots.layer_bounds(BOUND).axes[0]
    assert axes.get_title() == "The model: at most 32"
    assert axes.lines[0].get_xydata().tolist() == [[32.0, 3], [32.0, 3]]


@pytest.mark.parametrize(
    "value", [1.0, 1 + 2**-52, 1 + 3e-7, 1.00099, 1.2345, 3.2, 0.1, 1e30, 7e-9]
)
def test_a_bound_that_is_read_is_a_bound(value):
    read = sum(Fraction(part) for part in _above(value).split(" + "))
    assert Fraction(value) <= read <= Fraction(value) * Fraction(1002, 1000)


@pytest.mark.parametrize("values", [[1.0] * 3, [1e-3, 1e6], [0.0, 1.0], [0.9, 1.1]])
def test_the_axis_has_numbers_that_can_be_read(values):
    entries = [LayerBound(f"layer_{i}", "Dense", value, "") for i, value in enumerate(values)]
    axes = plots.layer_bounds(LipschitzBound(float(np.prod(values)), entries)).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 16 and 1.0 in ticks


def test_singular_values_are_a_band():
    table = np.array([[1.0, 0.5, 0.2], [0.9, 1.1, 0.3]])
    axes = plots.singular_values({"conv": table, "head": table / 2}, start=3).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["conv: largest"] == [[3, 1.0], [4, 1.1]]
    assert lines["conv: median"] == [[3, 0.5], [4, 0.9]]
    assert lines["head: largest"] == [[3, 0.5], [4, 0.55]]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0.2 and band[:, 1].max() == 1.1
    assert axes.get_ylim()[0] == 0


def test_axes_that_are_given_are_drawn_into():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.layer_bounds(BOUND, ax=left) is figure
    assert plots.singular_values([[1.0, 0.5]], ax=right) is figure
    assert len(left.patches) == 3 and len(right.lines) == 2


@pytest.mark.parametrize("values", [[1.0, 2.0], np.zeros((3, 0)), {}])
def test_what_cannot_be_drawn_is_told(values):
    with pytest.raises(ValueError, match="values"):
        plots.singular_values(values)
