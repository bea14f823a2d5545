"""Certified intervals of outputs: attacked, attained, and at every scale."""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.certificates import certify_regression

pytestmark = pytest.mark.usefixtures("keras_in_float64")


def network(shape, *stack):
    return keras.Sequential([keras.Input(shape, dtype="float64"), *stack])


def dense(units, activation=None, **arguments):
    return layers.Dense(units, activation, dtype="float64", **arguments)


def plain():
    return network((4,), dense(16, "tanh"), dense(16, "relu"), dense(2))


def one_output():
    return network((4,), dense(8, "softplus"), dense(1, "sigmoid"))


def image_to_image():
    convolution = layers.Conv2D(2, 3, padding="same", activation="relu", dtype="float64")
    return network((5, 5, 2), convolution, layers.Conv2D(1, 1, dtype="float64"))


def ascended(model, x, radius, sign, steps=15):
    """Points of the balls where the sum of the outputs, times a sign, is large."""
    tf = pytest.importorskip("tensorflow", reason="gradients")
    point, each = tf.constant(x), (-1, *[1] * (x.ndim - 1))
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = tf.reduce_sum(model(point)) * sign
        slope = tape.gradient(value, point).numpy()
        step = slope / (np.linalg.norm(slope.reshape(len(x), -1), axis=1).reshape(each) + 1e-300)
        moved = point.numpy() + 0.5 * radius * step - x
        size = np.linalg.norm(moved.reshape(len(x), -1), axis=1).reshape(each)
        point = tf.constant(x + moved * np.minimum(1.0, radius / (size + 1e-300)))
    return point.numpy()


@pytest.mark.parametrize("build", [plain, one_output, image_to_image], ids=lambda b: b.__name__)
def test_no_output_leaves_its_interval(build, rng, tf):
    keras.utils.set_random_seed(0)
    model = build()
    x = rng.standard_normal((10, *model.inputs[0].shape[1:]))
    found = certify_regression(model, x, 0.5, y=np.asarray(model(x)) + 0.25)
    for sign in (1.0, -1.0):
        outputs = np.asarray(model(ascended(model, x, 0.5, sign)))
        assert (outputs >= found.lower).all() and (outputs <= found.upper).all()
        errors = np.abs(outputs - np.asarray(model(x)) - 0.25)
        assert (errors <= found.error).all()
    assert np.isfinite(found.lower).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_linear_output_attains_its_interval(scale, rng):
    model = network((3,), dense(2, use_bias=False))
    kernel = scale * np.array([[3.0, 0.0], [4.0, 1.0], [0.0, 0.0]])
    model.set_weights([kernel])
    x = rng.standard_normal((5, 3))
    found = certify_regression(model, x, 2.0)
    for column, norm in enumerate((5.0, 1.0)):
        step = 2.0 * kernel[:, column] / np.linalg.norm(kernel[:, column])
        top = np.asarray(model(x + step))[:, column]
        assert (top <= found.upper[:, column] * (1 + 1e-15) + 1e-300).all()
        width = found.upper[:, column] - found.lower[:, column]
        assert width == pytest.approx(4.0 * norm * scale, rel=1e-6)


def test_radius_zero_is_the_value_and_each_sample_has_its_own(rng, tf):
    model, x = plain(), rng.standard_normal((3, 4))
    outputs = np.asarray(model(x))
    found = certify_regression(model, x, [0.0, 0.1, 1.0])
    width = (found.upper - found.lower).max(axis=1)
    assert width[0] < 1e-9 and 5 * width[1] < width[2]
    assert (found.lower <= outputs).all() and (outputs <= found.upper).all()


def test_a_head_has_a_constant_for_each_output():
    model = network((4,), dense(2, use_bias=False))
    model.set_weights([np.array([[10.0, 0.0], [0.0, 0.1], [0.0, 0.0], [0.0, 0.0]])])
    found = certify_regression(model, np.zeros((1, 4)), 1.0)
    assert found.upper == pytest.approx(np.array([[10.0, 0.1]]), rel=1e-9)


def test_what_runs_otherwise_is_not_certified(rng, tf):
    model = plain()
    original = model.layers[1].activation
    x = rng.standard_normal((2, 4))
    model(x)

    def other(values):
        return 1.001 * original(values)

    found = certify_regression(model, x, 0.1)
    assert np.isfinite(found.upper).all()
    model.layers[1].activation = other
    with pytest.raises(ValueError, match="other"):
        certify_regression(model, x, 0.1)


def test_numbers_and_text(rng):
    model, x = one_output(), rng.standard_normal((6, 4))
    y = np.asarray(model(x))[:, 0]
    found = certify_regression(model, x, 0.01, y)
    widest = found.error.max()
    assert found.share_within(widest * 1.001) == 1.0 and found.share_within(0.0) == 0.0
    assert "6 samples" in str(found) and "largest error" in str(found)
    with pytest.raises(ValueError, match="needs the targets"):
        certify_regression(model, x, 0.01).share_within(1.0)
    for wrong in ("abc", [1.0, 2.0], None):
        with pytest.raises(ValueError, match="`tolerance` must be a number, or one for each"):
            found.share_within(wrong)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"radius": -1.0}, "`radius` must be finite"),
        ({"radius": np.nan}, "`radius` must be finite"),
        ({"radius": [0.1, 0.2]}, "one for each of the 3 samples"),
        ({"radius": 0.1, "y": np.zeros((3, 3))}, "`y` must hold finite targets"),
        ({"radius": 0.1, "y": [np.inf, 0.0, 0.0]}, "`y` must hold finite targets"),
        ({"radius": 0.1, "y": "abc"}, "`y` must hold finite targets"),
        ({"radius": 0.1, "batch_size": 0}, "`batch_size`"),
    ],
)
def test_faults(arguments, text):
    with pytest.raises(ValueError, match=text):
        certify_regression(one_output(), np.zeros((3, 4)), **arguments)


def test_models_that_do_not_fit():
    with pytest.raises(TypeError, match="Keras model"):
        certify_regression(3, np.zeros((3, 4)), 0.1)
    x, y = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([x, y], layers.Add()([x, y]))
    with pytest.raises(ValueError, match="2 inputs and 1 outputs"):
        certify_regression(model, np.zeros((3, 3)), 0.1)
    constrained = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(1)])
    assert certify_regression(constrained, np.zeros((1, 4)), 0.1).upper.shape == (1, 1)
