"""Every layer and every loss through a whole day: train, save, reload, export, prove."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deel_lip_tf as lip
from cases import IMAGE, LAYERS, Case
from deel_lip_tf import layers, losses, metrics
from tolerances import SAME_FLOAT32

# One row for each class, and the layers that promise no constant.
ONE_OF_EACH = [
    *{case.cls: case for case in LAYERS}.values(),
    Case(layers.PadConv2D, dict(filters=4, kernel_size=3, padding="circular"), IMAGE),
]
# The base classes, and the one layer of two inputs, which has tests of its own.
ELSEWHERE = {"Condensable", "LipschitzLayer", "LipResidual"}


def test_the_table_has_every_layer():
    assert {case.cls.__name__ for case in ONE_OF_EACH} == set(layers.__all__) - ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
def test_a_day_of_a_layer(case, rng, tmp_path):
    model = lip.Sequential(
        [
            keras.Input(case.shape),
            case.make(),
            keras.layers.Flatten(),
            layers.SpectralDense(3, use_bias=False),
        ]
    )
    loss = losses.TauSparseCategoricalCrossentropy(tau=3.0)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    x = rng.normal(size=(24, *case.shape)).astype("float32")
    model.fit(x, rng.integers(0, 3, 24), batch_size=8, epochs=1, verbose=0)
    expected = model.predict(x, verbose=0)

    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded.predict(x, verbose=0), expected, **SAME_FLOAT32)
    exported = model.vanilla_export()
    exported.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), expected, **SAME_FLOAT32)

    bound = lip.bounds.lipschitz_bound(model).value
    differences = np.linalg.norm(expected[:, None] - expected, axis=-1)
    flat = x.reshape(24, -1)
    distances = np.linalg.norm(flat[:, None] - flat, axis=-1)
    assert (differences <= bound * distances * (1 + 1e-5)).all()


BINARY, ONE_HOT, SPARSE = "binary", "one-hot", "sparse"
LOSSES = {
    losses.KR: (BINARY, {}),
    losses.NegKR: (BINARY, {}),
    losses.HKR: (BINARY, dict(alpha=10.0)),
    losses.HKRauto: (BINARY, dict(alpha=10.0)),
    losses.HingeMargin: (BINARY, {}),
    losses.HingeMarginAuto: (BINARY, {}),
    losses.TauBinaryCrossentropy: (BINARY, dict(tau=3.0)),
    losses.CategoricalHinge: (ONE_HOT, dict(min_margin=1.0)),
    losses.LseHKR: (ONE_HOT, {}),
    losses.MultiMargin: (ONE_HOT, {}),
    losses.MulticlassHKR: (ONE_HOT, {}),
    losses.MulticlassHKRauto: (ONE_HOT, {}),
    losses.MulticlassHinge: (ONE_HOT, {}),
    losses.MulticlassHingeAuto: (ONE_HOT, {}),
    losses.MulticlassKR: (ONE_HOT, {}),
    losses.MulticlassSoftHKR: (ONE_HOT, {}),
    losses.TauCategoricalCrossentropy: (ONE_HOT, dict(tau=3.0)),
    losses.TauSparseCategoricalCrossentropy: (SPARSE, dict(tau=3.0)),
}


def test_the_table_has_every_loss():
    classes = [getattr(losses, name) for name in losses.__all__]
    own = {c for c in classes if isinstance(c, type) and issubclass(c, keras.Loss)}
    assert set(LOSSES) == own - {losses.ParametricLoss}


def network(outputs):
    inputs = keras.Input((6,))
    x = layers.GroupSort2()(layers.SpectralDense(8)(inputs))
    return lip.LossVariableModel(inputs, layers.SpectralDense(outputs, use_bias=False)(x))


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.filterwarnings("ignore:.*no trainable param")
@pytest.mark.filterwarnings("ignore:.*nothing to learn")
def test_a_day_of_a_loss(loss, rng, tmp_path):
    coding, arguments = LOSSES[loss]
    x = rng.normal(size=(24, 6)).astype("float32")
    classes = np.argmax(x[:, :3], axis=1)
    labels = {
        BINARY: (classes > 0).astype("float32")[:, None],
        ONE_HOT: np.eye(3, dtype="float32")[classes],
        SPARSE: classes,
    }[coding]
    model = network(1 if coding == BINARY else 3)
    certificate = metrics.Certificate_Binary if coding == BINARY else metrics.Certificate_Multiclass
    model.compile(keras.optimizers.Adam(1e-2), loss(**arguments), metrics=[certificate(model)])
    history = model.fit(x, labels, batch_size=8, epochs=2, validation_data=(x, labels), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history[f"val_{certificate.__name__}"][-1] >= 0

    expected = model.evaluate(x, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded.evaluate(x, labels, verbose=0), expected, rtol=1e-5)
    np.testing.assert_allclose(model.vanilla_export()(x), model(x), **SAME_FLOAT32)
