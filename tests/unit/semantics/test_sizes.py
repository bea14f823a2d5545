"""Residuals of unknown size: bounded where both branches have one size, whatever it is."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificates import certify

OPEN = (None, None, 2)


def conv(**arguments):
    return layers.Conv2D(2, **{"kernel_size": 3, "padding": "same", **arguments})


def stacked(*stack):
    def apply(x):
        for layer in stack:
            x = layer()(x)
        return x

    return apply


def block(x):
    """Two residual blocks in a row, the second around the sum of the first."""
    x = layers.Add()([x, conv(activation="relu")(x)])
    return conv()(layers.Activation("tanh")(x)) * 0.5 + x


# The branch beside the identity: each keeps both sizes of the image.
KEEPING = {
    "convolution": stacked(conv),
    "dilated": stacked(lambda: conv(dilation_rate=2)),
    "even kernel": stacked(lambda: conv(kernel_size=(2, 4))),
    "circular": stacked(lambda: lip.layers.SpectralConv2D(2, 3, padding="circular")),
    "reflect": stacked(lambda: lip.layers.SpectralConv2D(2, 4, padding="reflect")),
    "same": stacked(lambda: lip.layers.PadConv2D(2, 3)),
    "depthwise": stacked(lambda: layers.DepthwiseConv2D(3, padding="same")),
    "separable": stacked(lambda: layers.SeparableConv2D(2, 3, padding="same")),
    "transposed": stacked(lambda: layers.Conv2DTranspose(2, 3, padding="same")),
    "pooled": stacked(lambda: layers.AveragePooling2D(3, 1, padding="same")),
    "normalized": stacked(layers.BatchNormalization, lambda: layers.Dense(2)),
    "sorted": stacked(
        lambda: lip.layers.SpectralConv2D(2, 3, activation=lip.layers.GroupSort2()),
        lip.layers.BatchCentering,
        lip.layers.ScaleBias,
    ),
    "activated": stacked(layers.LeakyReLU, layers.ReLU, lambda: layers.Dropout(0.1)),
    "operations": lambda x: ops.maximum(-ops.tanh(x), 0.5 * x + np.ones((1, 1, 1, 2))),
    "blocks": block,
}


# What is broadcast at some size, though no size is known before.
CHANGING = {
    "valid": stacked(lambda: conv(padding="valid", kernel_size=2)),
    "strided": stacked(lambda: conv(strides=2)),
    "strided along one axis": stacked(lambda: layers.MaxPooling2D((1, 2), padding="same")),
    "pooled": stacked(lambda: layers.AveragePooling2D(2, 1)),
    "transposed, then cropped": stacked(
        lambda: layers.Conv2DTranspose(2, 3, strides=2), lambda: layers.Cropping2D(1)
    ),
    "axes exchanged": stacked(lambda: layers.Permute((2, 1, 3))),
    "cropped": stacked(lambda: layers.Cropping2D(((1, 0), (0, 0)))),
    "repeated": stacked(lambda: layers.UpSampling2D((2, 1))),
    "sliced": lambda x: x[:, ::2],
    "one row": lambda x: x[:, :1],
    "mean": stacked(lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "even padding": stacked(lambda: lip.layers.PadConv2D(2, 2, padding="circular")),
}
MERGES = {
    "Add": lambda x, y: layers.Add()([x, y]),
    "Subtract": lambda x, y: layers.Subtract()([x, y]),
    "Average": lambda x, y: layers.Average()([x, y]),
    "Maximum": lambda x, y: layers.Maximum()([x, y]),
    "minimum": ops.minimum,
    "x - y": lambda x, y: x - y,
    "LipResidual": lambda x, y: lip.layers.LipResidual()([x, y]),
}


def model_of(branch, merge, shape=OPEN):
    x = keras.Input(shape)
    return keras.Model(x, merge(x, branch(x)))


def largest_slope(model, size, rng):
    """Norm of the Jacobian of one sample of a size, at some points."""
    import tensorflow as tf

    norms = []
    for _ in range(2):
        x = tf.constant(rng.normal(size=(1, *size, 2)).astype("float32"))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
        jacobian = tape.jacobian(y, x).numpy().reshape(int(tf.size(y)), -1)
        norms.append(np.linalg.norm(jacobian, 2))
    return max(norms)


@pytest.mark.usefixtures("tf")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Jacobians of TensorFlow")
@pytest.mark.parametrize("merge", ["Subtract", "LipResidual"])
@pytest.mark.parametrize("name", KEEPING)
def test_the_bound_holds_at_every_size(name, merge, rng):
    model = model_of(KEEPING[name], MERGES[merge])
    bound = lipschitz_bound(model).value
    for size in [(1, 1), (2, 1), (4, 3)]:
        assert model(np.zeros((1, *size, 2))).shape == (1, *size, 2)
        assert largest_slope(model, size, rng) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("name", CHANGING)
def test_what_may_be_broadcast_is_refused(name, merge):
    if merge == "LipResidual" and name in ("one row", "mean"):
        pytest.skip("the layer itself refuses what is known to be of another size")
    model = model_of(CHANGING[name], MERGES[merge])
    with pytest.raises(ValueError, match="unknown size"):
        lipschitz_bound(model)


def test_a_residual_layer_broadcasts_at_run_time():
    """The branches have one symbolic shape; of two rows one pools to one, which is added twice."""
    x = keras.Input((None, 1))
    pooled = layers.AveragePooling1D(2, padding="same")(x)
    model = keras.Model(x, lip.layers.LipResidual()([0.0 * x, pooled]))
    moved = model(np.ones((1, 2, 1))) - model(np.zeros((1, 2, 1)))
    assert np.linalg.norm(moved) == pytest.approx(0.5 * np.sqrt(2))  # and not 0.5
    with pytest.raises(ValueError, match="unknown size"):
        lipschitz_bound(model)


@pytest.mark.parametrize(
    "merge", [lambda x, y: layers.Add()([x, y]), lambda x, y: ops.maximum(x, y)]
)
def test_inputs_of_their_own_are_refused(merge):
    x, y = keras.Input(OPEN), keras.Input(OPEN)
    with pytest.raises(ValueError, match="unknown size"):
        lipschitz_bound(keras.Model([x, y], merge(x, y)))


def test_a_constant_that_broadcasts_is_refused():
    x = keras.Input(OPEN)
    for constant in (np.zeros((4, 1)), np.zeros((4, 1, 1, 2)), np.zeros((1, 4, 1, 2))):
        for merge in (ops.maximum, ops.add):
            with pytest.raises(ValueError, match="unknown size|broadcasts"):
                lipschitz_bound(keras.Model(x, merge(x, constant)))
    larger = x + np.zeros((1, 4, 1, 2))
    with pytest.raises(ValueError, match="size|broadcast"):
        lipschitz_bound(keras.Model(x, layers.Add()([x, larger])))


def test_known_axes_count_their_copies_beside_unknown_ones(rng):
    x = keras.Input((None, 3))
    one = layers.Conv1D(1, 3, padding="same", use_bias=False)
    model = keras.Model(x, layers.Subtract()([0.0 * x, one(x)]))
    one.kernel.assign(rng.normal(size=one.kernel.shape))
    alone = lipschitz_bound(one).value
    assert lipschitz_bound(model).value == pytest.approx(np.sqrt(3) * alone, rel=1e-9)


def test_a_network_of_unknown_size_is_certified(rng):
    x = keras.Input((None, None, 1))
    branch = lip.layers.SpectralConv2D(1, 3, padding="same")
    pooled = layers.GlobalAveragePooling2D()(layers.Subtract()([x, branch(x)]))
    model = keras.Model(x, layers.Dense(3)(pooled))
    found = certify(model, rng.normal(size=(4, 5, 6, 1)))
    assert (found.radius > 0).all() and np.isfinite(found.radius).all()
