"""What the activations compute, against NumPy, and where their pieces meet."""

import keras
import numpy as np
import pytest

from deel_lip_tf import layers
from deel_lip_tf.certificates import certify
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.verify.tensorflow import evaluate

F64 = dict(dtype="float64")


def with_weights(layer, shape, *values):
    layer.build((None, *shape))
    layer.set_weights(values)
    return layer


# --- definitions --------------------------------------------------------------------------------


def test_absolute_values_of_the_last_channels(rng):
    x = rng.normal(size=(5, 3, 7))
    for fraction, kept in ((0.0, 7), (0.5, 3), (0.6, 3), (1.0, 0)):
        expected = np.concatenate([x[..., :kept], np.abs(x[..., kept:])], axis=-1)
        np.testing.assert_array_equal(layers.Abs(fraction, **F64)(x), expected)


def test_half_of_the_absolute_values_sort_between_two_rotations(rng):
    x = rng.normal(size=(50, 2))
    rotation = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
    turned = np.asarray(layers.Abs(0.5, **F64)(x @ rotation)) @ rotation
    np.testing.assert_allclose(turned[:, ::-1], np.sort(x, axis=-1), atol=1e-15)


@pytest.mark.parametrize("delta", [1e-6, 0.05, 3.0, 1e6])
def test_the_pseudo_huber_function(delta, rng):
    x = rng.normal(size=(40, 1)) * 10.0 ** np.arange(-20, 20)
    longdouble = x.astype(np.longdouble)
    exact = longdouble**2 / (delta + np.sqrt(longdouble**2 + np.longdouble(delta) ** 2))
    np.testing.assert_allclose(layers.SoftHuber(delta, **F64)(x), exact, rtol=1e-14)
    # squares of these overflow and vanish in float32, and the function does neither
    found = layers.SoftHuber(delta)(x.astype("float32"))
    normal = exact > 1e-37
    np.testing.assert_allclose(np.asarray(found)[normal], exact[normal], rtol=2e-6)


def test_an_n_has_slopes_of_one_and_its_knots(rng):
    knots, x = rng.normal(size=(2, 5)), 3.0 * rng.normal(size=(100, 5))
    low, high = knots.min(axis=0), knots.max(axis=0)
    expected = np.where(x < low, x - 2 * low, np.where(x < high, -x, x - 2 * high))
    layer = with_weights(layers.NActivation(**F64), (5,), knots)
    np.testing.assert_allclose(layer(x), expected, atol=1e-15)


@pytest.mark.parametrize("knots", [1, 3, 11])
def test_a_spline_interpolates_the_values_at_its_knots(knots, rng):
    slopes = 2.0 * rng.normal(size=(knots + 1, 4))
    layer = with_weights(layers.LipschitzSpline(knots, 1.5, **F64), (4,), slopes)
    x = np.concatenate([3.0 * rng.normal(size=(200, 4)), np.repeat(layer.grid[:, None], 4, 1)])
    clipped = np.clip(slopes, -1.0, 1.0)
    far = np.concatenate([[-99.0], layer.grid, [99.0]])
    for channel in range(4):
        # integrated from the left, and moved so that it is 0 at 0
        values = np.concatenate([[0.0], np.cumsum(np.diff(far) * clipped[:, channel])])
        values = values - np.interp(0.0, far, values)
        expected = np.interp(x[:, channel], far, values)
        np.testing.assert_allclose(np.asarray(layer(x))[:, channel], expected, atol=1e-12)


def test_a_spline_of_what_is_not_a_number_is_not_one():
    x = np.array([[np.nan, np.inf, -np.inf]])
    found = np.asarray(layers.LipschitzSpline(**F64)(x))
    assert np.isnan(found[0, 0]) and np.abs(found[0, 1:]).min() == np.inf


# --- folds of the plane -------------------------------------------------------------------------


def folded_angle(angle, t0, t1, t2):
    """The angle of a folded point, as of paper: kept, reflected, turned, reflected."""
    t1, t2 = np.clip(t1, 1 / 64, 6.25), np.clip(t2, 1 / 64, 6.25)
    angle = np.mod(angle - t0 / 2, 2 * np.pi)
    pieces = [angle < t1 / 2, angle < (t1 + t2) / 2, angle < np.pi + t2 / 2]
    return np.select(pieces, [angle, t1 - angle, angle - t2], -angle) + t0 / 2


ANGLES = {
    "all": lambda rng: rng.uniform(0.0, 2 * np.pi, (3, 40)),
    "clipped": lambda rng: rng.normal(size=(3, 40)) * 20.0,
    "narrow": lambda rng: rng.choice([0.0, 1 / 64, 0.02, np.pi, 6.25, 7.0], (3, 40)),
    "many turns": lambda rng: rng.uniform(-1e6, 1e6, (3, 40)) * [[1.0], [1e-6], [1e-6]],
}


@pytest.mark.parametrize("name", ANGLES)
def test_pairs_are_folded_along_four_half_lines(name, rng):
    theta = ANGLES[name](rng)
    layer = with_weights(layers.Householder(order=2, **F64), (80,), theta)
    angle, length = rng.uniform(-np.pi, np.pi, (300, 40)), rng.uniform(0.1, 2.0, (300, 40))
    folded = folded_angle(angle, *theta)
    points, expected = (
        np.concatenate([length * np.cos(a), length * np.sin(a)], axis=1) for a in (angle, folded)
    )
    np.testing.assert_allclose(
        layer(points), expected, atol=1e-8 if name == "many turns" else 1e-13
    )
    # what verification reads of it is the same function
    model = keras.Sequential([keras.Input((80,), **F64), layer])
    program = lower_model(model)
    np.testing.assert_allclose(evaluate(program, points)[program.output], layer(points), atol=1e-13)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ANGLES)
def test_float32_strays_as_little_as_is_proven_at_the_creases(name, order, rng):
    """The points lie on the half-lines and next to them, where one bit decides on the piece."""
    theta = ANGLES[name](rng).astype("float32")
    theta = theta if order == 2 else theta[0]
    layer = with_weights(layers.Householder(order=order), (80,), theta)
    exact = with_weights(layers.Householder(order=order, **F64), (80,), theta.astype("float64"))
    t0, t1, t2 = np.float64(theta if order == 2 else [theta] * 3)
    t1, t2 = np.clip(t1, 1 / 64, 6.25), np.clip(t2, 1 / 64, 6.25)
    creases = t0 / 2 + np.stack([0 * t0, t1 / 2, (t1 + t2) / 2, np.pi + t2 / 2])
    creases = np.concatenate([creases, creases + np.pi])
    angle = np.concatenate([creases + d for d in (0.0, 1e-7, -1e-7, 3e-7, -3e-7)])
    points = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype("float32")
    error = np.abs(np.asarray(layer(points)) - np.asarray(exact(points.astype("float64"))))
    assert error.max() <= (64 if order == 1 else 256) * 2.0**-24 * np.abs(points).max()
    assert error.max() > 0.0


# --- certificates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda: layers.Abs(**F64), lambda: layers.LipschitzSpline(5, **F64)],
    ids=["abs", "spline"],
)
def test_local_certificates_know_the_pieces(make, rng):
    """Where no entry changes its piece within the ball, the gradient is one, and is known."""
    model = keras.Sequential(
        [
            keras.Input((3,), **F64),
            keras.layers.Dense(6, **F64),
            make(),
            keras.layers.Dense(3, **F64),
        ]
    )
    x = rng.normal(size=(30, 3))
    labels = np.argmax(model(x), axis=1)
    near, far = (certify(model, x, labels, local=local) for local in (True, False))
    assert (near.radius >= far.radius).all() and (near.radius > 1.01 * far.radius).any()
    steps = rng.normal(size=(200, *x.shape))
    steps *= 0.999 * (near.radius / np.linalg.norm(steps, axis=-1))[..., None]
    moved = np.asarray(model((x + steps).reshape(-1, 3))).argmax(axis=1).reshape(200, -1)
    assert (moved == labels).all()
