"""Keras set to float64: bounds, certificates and verification of the models made then."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificates import certify


@pytest.fixture(autouse=True)
def float64():
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # Keras keeps the policy that it made before
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


def merged():
    x = keras.Input((5,))
    y = layers.Add()([0.3 * x - x / 3.0 + 0.1, ops.clip(x, -0.3, 0.4)])
    return keras.Model(x, layers.Dense(3)(layers.LeakyReLU()(y)))


def stacked(shape, *stack):
    return lambda: keras.Sequential([keras.Input(shape), *(make() for make in stack)])


MODELS = {
    "dense": stacked(
        (6,),
        lambda: layers.Dense(8, "relu"),
        lambda: layers.Dense(8, "gelu"),
        lambda: layers.Dense(3),
    ),
    "image": stacked(
        (6, 6, 1),
        lambda: layers.Rescaling(1 / 255, offset=-0.3),
        lambda: layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization,
        lambda: lip.layers.ScaledL2NormPooling2D(2),
        lip.layers.MaxMin,
        layers.Flatten,
        lambda: layers.Dense(3),
    ),
    "wrapped": stacked(
        (4, 5),
        lambda: layers.TimeDistributed(layers.Dense(3, activation="relu")),
        layers.Flatten,
        lambda: layers.SpectralNormalization(layers.Dense(3)),
    ),
    "normalized": stacked(
        (6,),
        lambda: layers.Normalization(mean=0.3, variance=0.1),
        lambda: layers.PReLU(alpha_initializer="random_normal"),
        lambda: layers.Dense(3),
    ),
    "mixed": stacked(
        (6,), lambda: layers.Dense(8, "relu", dtype="float32"), lambda: layers.Dense(3)
    ),
    "merged": merged,
}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="local bounds and verification")
# Keras keeps the arguments of float64 layers in float32: where that is another number, nothing is
# claimed of the model, and a warning says so.
@pytest.mark.filterwarnings("ignore:At the center:RuntimeWarning")
@pytest.mark.parametrize("name", MODELS)
def test_no_point_refutes_what_is_proved(name, rng):
    model = MODELS[name]()
    x = rng.normal(size=(6, *model.input_shape[1:]))
    shape = (-1, *[1] * (x.ndim - 1))
    bound = lipschitz_bound(model).value
    real, near = certify(model, x), certify(model, x, local=True)
    assert (real.radius > 0).all() and (near.radius >= real.radius).all()
    box = verify.bounds(model, verify.ball(x, 0.05, "linf", None), method="crown")
    here = ops.convert_to_numpy(model(x))
    for _ in range(50):
        step = rng.normal(size=x.shape)
        length = np.linalg.norm(step.reshape(6, -1), axis=1)
        moved = x + step * (0.999 * near.radius / length).reshape(shape)
        assert (ops.convert_to_numpy(model(moved)).argmax(axis=1) == real.label).all()
        there = ops.convert_to_numpy(model(x + step))
        # A layer in float32 rounds: the difference of two values by a few of its units.
        rounding = 1e-5 if name == "mixed" else 1e-12
        assert (np.linalg.norm(there - here, axis=1) <= bound * length + rounding).all()
        inside = ops.convert_to_numpy(model(x + 0.05 * np.clip(step, -1, 1)))
        assert (inside >= box.lower - rounding).all() and (inside <= box.upper + rounding).all()


def test_float32_execution_is_refused_by_name(rng):
    with pytest.raises(ValueError, match="computes in float64"):
        certify(MODELS["dense"](), rng.normal(size=(2, 6)), semantics="float32")
