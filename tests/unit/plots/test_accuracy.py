"""Shares over radii and runs beside each other: the numbers that are drawn."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from deel_lip_tf import plots, verify
from deel_lip_tf.bounds import lipschitz_bound, report
from deel_lip_tf.certificates import certify

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib.figure import Figure

RADIUS = np.array([0.1, 0.3, np.nan, 0.2])  # the third answer is wrong


def lines_of(figure):
    return {line.get_label(): line.get_xydata().T for line in figure.axes[0].lines}


def share(values, radii):
    """By counting, one radius and one sample at a time."""
    return [sum(1 for value in values if value >= radius) / len(values) for radius in radii]


def test_certified_accuracy_is_the_share_that_is_certified():
    radii = [0.0, 0.1, 0.15, 0.3, 0.31]
    figure = plots.certified_accuracy(RADIUS, radii=radii)
    where, drawn = lines_of(figure)["certified"]
    np.testing.assert_array_equal(where, radii)
    np.testing.assert_array_equal(drawn, share(RADIUS, radii))
    assert figure.axes[0].get_ylim() == (0, 1.02) and figure.axes[0].get_xlim() == (0, 0.31)


def test_attacks_are_drawn_above_over_the_whole_reach():
    distance = np.array([0.2, np.inf, np.nan, 0.4])
    figure = plots.certified_accuracy({"ours": RADIUS}, {"PGD": distance, "ours": distance + 0.1})
    lines = lines_of(figure)
    assert list(lines) == ["ours", "left by PGD", "ours, left by the attack"]
    where, left = lines["left by PGD"]
    np.testing.assert_array_equal(left, share(distance, where))
    assert left[-1] == 1 / 4  # what was never fooled
    assert where[0] == 0 and where[-1] == pytest.approx(1.05 * 0.5)
    assert (lines["ours"][1] <= left).all()
    ours, pgd, attacked = figure.axes[0].lines
    assert pgd.get_color() != attacked.get_color() and attacked.get_linestyle() == "--"
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == list(lines)


@pytest.mark.parametrize("correct", [None, np.array([True, False])])
def test_certificates_are_read_with_what_is_right(correct):
    certificates = SimpleNamespace(radius=np.array([0.5, 0.0]), correct=correct)
    figure = plots.certified_accuracy({"a": certificates, "b": [1.0, 2.0]}, radii=[0.0, 0.5])
    assert lines_of(figure)["a"][1].tolist() == ([1, 0.5] if correct is None else [0.5, 0.5])
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2


def test_no_samples_are_no_share():
    assert (lines_of(plots.certified_accuracy(RADIUS[:0]))["certified"][1] == 0).all()


RUNS = {
    "hinge": {"m = 0.1": (0.2, 0.95), "m = 1": (0.6, 0.9)},
    "kr": {"": (0.5, 0.8), "long": (0.2, 0.95)},
}


def test_the_frontier_is_what_no_run_beats():
    axes = plots.frontier(RUNS).axes[0]
    assert sorted(map(tuple, axes.lines[0].get_xydata())) == [(0.2, 0.95), (0.2, 0.95), (0.6, 0.9)]
    assert [points.get_offsets().tolist() for points in axes.collections] == [
        [[0.2, 0.95], [0.6, 0.9]],
        [[0.5, 0.8], [0.2, 0.95]],
    ]
    assert [text.get_text() for text in axes.texts] == ["m = 0.1", "m = 1", "", "long"]
    assert axes.get_xlabel() == "certified robustness" and axes.get_ylabel() == "accuracy"
    low, high = axes.get_xlim()
    assert low < 0.2 and high > 0.6


def test_verified_shares_lie_below_the_ceiling():
    figure = plots.verified_share([0.1, 0.2], {"ibp": [0.5, 0], "crown": [1, 0.5]}, [1, 0.75])
    lines = lines_of(figure)
    assert {name: line[1].tolist() for name, line in lines.items()} == {
        "left by the attack": [1, 0.75],
        "proven by ibp": [0.5, 0],
        "proven by crown": [1, 0.5],
    }
    assert figure.axes[0].get_ylim() == (0, 1.02)
    without = plots.verified_share([0.1], {"ibp": [0.5]})
    assert list(lines_of(without)) == ["proven by ibp"]


def test_axes_that_are_given_are_drawn_into():
    figure = Figure()
    left, middle, right = figure.subplots(1, 3)
    assert plots.certified_accuracy(RADIUS, ax=left) is figure
    assert plots.frontier(RUNS, ax=middle) is figure
    assert plots.verified_share([0.1], {"ibp": [0.5]}, ax=right) is figure
    assert all(axes.lines for axes in (left, middle, right)) and len(figure.axes) == 3


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        (lambda: plots.certified_accuracy([[0.1]]), ValueError, "certificates"),
        (lambda: plots.certified_accuracy({}), ValueError, "Received: none"),
        (lambda: plots.certified_accuracy(RADIUS, [[1.0]]), ValueError, "attacks"),
        (lambda: plots.certified_accuracy(RADIUS, ax=3), TypeError, "`ax`"),
        (lambda: plots.frontier({}), ValueError, "runs"),
        (lambda: plots.verified_share([0.1], {"ibp": [0.5, 0.4]}), ValueError, "1 radii"),
        (lambda: plots.verified_share([0.1], {"ibp": [0.5]}, [1, 1]), ValueError, "ceiling"),
    ],
)
def test_what_cannot_be_drawn_is_told(call, error, reason):
    with pytest.raises(error, match=reason):
        call()


def test_decisions_are_counted_by_status_and_method():
    answers = SimpleNamespace(
        statuses=("robust", "falsified", "unknown"),
        questions="samples",
        status=np.array(["robust", "robust", "unknown", "robust"]),
        method=np.array(["crown", "ibp", "", "crown"]),
    )
    axes = plots.decisions(answers).axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "0", "1"]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(answers.statuses)
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert widths == {"nothing": [0, 0, 1], "crown": [2, 0, 0], "ibp": [1, 0, 0]}
    assert axes.get_xlabel() == "samples"
    ends = {bars.get_label(): bars[0].get_x() for bars in axes.containers}
    assert ends == {"nothing": 0, "crown": 0, "ibp": 2}  # beside each other, not over
    low, high = axes.get_ylim()
    assert low > high  # the first status is at the top


def test_what_is_proven_draws_itself():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="head")])
    x = np.array([[0.9, 0.1], [0.2, 0.4]])
    certificates = certify(model, x)
    bound = lipschitz_bound(model)
    answers = verify.robustness(model, x, certificates.label, eps=1e-3)
    into = Figure().subplots(1, 3)
    drawn = [one.plot(ax=ax) for one, ax in zip((bound, certificates, answers), into, strict=True)]
    assert all(figure is into[0].figure for figure in drawn)
    assert [patch.get_width() for patch in into[0].patches] == [bound.per_layer[0].value]
    where, share_drawn = into[1].lines[0].get_xydata().T
    np.testing.assert_array_equal(share_drawn, certificates.certified_accuracy(where))
    assert [text.get_text() for text in into[2].texts] == [
        str(answers.count(status)) for status in answers.statuses
    ]
    assert report(model).plot().axes[0].patches
