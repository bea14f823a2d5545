"""The pictures of verification: the colours mean the statuses, the curves are what is proven."""

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.verify import robustness
from deel_lip_tf.verify.figures import COLOURS, curve_figure, status_figure, verified_curves

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib.colors import same_color

RADII = (0.001, 0.2)


@pytest.fixture(scope="module")
def answered():
    """A model, samples, labels of which one is wrong, and the curves."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((4, 3, 1)), layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(3)]
    )
    x = np.random.default_rng(0).uniform(size=(12, 4, 3, 1)).astype("float32")
    y = model.predict(x, verbose=0).argmax(axis=1)
    y[0] = (y[0] + 1) % 3
    return model, x, y, verified_curves(model, x, y, RADII, ("ibp", "auto"))


def test_curves_are_what_robustness_says(answered):
    model, x, y, curves = answered
    np.testing.assert_array_equal(curves.epsilons, RADII)
    for method, shares in curves.verified.items():
        for eps, share in zip(RADII, shares, strict=True):
            answer = robustness(model, x, y, eps, method=method)
            assert share == (answer.status == "robust").mean()
    assert curves.verified["auto"][0] > 0 and curves.ceiling[0] <= 11 / 12


def test_no_curve_exceeds_the_ceiling_nor_the_random_one(answered, rng):
    """The ceiling itself is below the share that random points leave."""
    model, x, y, curves = answered
    for shares in curves.verified.values():
        assert (shares <= curves.ceiling).all()
    assert (np.diff(curves.ceiling) <= 0).all() and curves.ceiling[-1] < curves.ceiling[0]
    for eps, share in zip(RADII, curves.ceiling, strict=True):
        points = np.clip(x + rng.uniform(-eps, eps, size=(200, *x.shape)), 0, 1)
        labels = model.predict(points.reshape(-1, 4, 3, 1), batch_size=4096, verbose=0).argmax(1)
        assert share <= (labels.reshape(200, -1) == y).all(axis=0).mean()


def test_the_table_and_the_curves_show_the_numbers(answered):
    curves = answered[-1]
    lines = curves.summary().splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["ibp", "auto", "attack"]
    assert [float(v) for v in lines[2].split()[1:]] == pytest.approx(
        (100 * curves.verified["auto"]).tolist(), abs=0.05
    )
    (axes,) = curve_figure(curves).axes
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(drawn["proven by auto"], curves.verified["auto"])
    np.testing.assert_array_equal(drawn["left by the attack"], curves.ceiling)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_frames_have_the_colour_of_the_status(channels, tmp_path):
    images = np.zeros((3, 4, 5) if channels is None else (3, 4, 5, channels))
    statuses = np.array([["robust", "unknown", "falsified"], ["unknown", "falsified", "robust"]])
    figure = status_figure(images, statuses, epsilons=(0.1, 0.2), labels=[7, 8, 9])
    figure.savefig(tmp_path / "frames.png")
    for axes, status in zip(figure.axes, statuses.ravel(), strict=True):
        for spine in axes.spines.values():
            assert same_color(spine.get_edgecolor(), COLOURS[status])
    assert [axes.get_title() for axes in figure.axes] == ["7", "8", "9", "", "", ""]
    assert len({COLOURS[s] for s in COLOURS}) == 3


@pytest.mark.parametrize(
    ("images", "statuses", "epsilons", "reason"),
    [
        (np.zeros((2, 9)), ["robust"] * 2, None, "images"),
        (np.zeros((2, 3, 3)), ["robust"], None, "statuses"),
        (np.zeros((2, 3, 3)), ["robust"] * 2, (0.1, 0.2), "2 radii"),
        (np.zeros((2, 3, 3)), ["robust", "fine"], None, "fine"),
    ],
)
def test_what_cannot_be_drawn(images, statuses, epsilons, reason):
    with pytest.raises(ValueError, match=reason):
        status_figure(images, statuses, epsilons)


def test_wrong_arguments_are_told(answered):
    model, x, y, _ = answered
    with pytest.raises(ValueError, match="magic"):
        verified_curves(model, x, y, methods=("magic",))
    with pytest.raises(ValueError, match="epsilons"):
        verified_curves(model, x, y, epsilons=())
