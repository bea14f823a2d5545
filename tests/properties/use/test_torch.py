"""What PyTorch does otherwise, where TensorFlow cannot be imported; see `test_jax_and_torch.py`.

`tests/integration/test_backends.py` runs this file, in a process of its own.
"""

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip
from deel_lip_tf import bounds, callbacks, layers, losses, metrics
from tests._tables.trainings import Root, margins_learned, whole_and_resumed

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="Keras runs on PyTorch here"
)

RNG = np.random.default_rng(5)
X = RNG.normal(size=(24, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, 24)
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]


def dense(cls=lip.Sequential, **arguments):
    hidden = layers.SpectralDense(4, activation=layers.GroupSort2())
    return cls([keras.Input((4,)), hidden, layers.SpectralDense(3, **arguments)])


def fitted(model, loss, *others, rate=0.1, epochs=2, **options):
    model.compile(keras.optimizers.SGD(rate), loss, **options)
    model.fit(X, ONE_HOT, 8, epochs, shuffle=False, verbose=0, callbacks=others)
    return model


@pytest.mark.parametrize("reward", [0.1, 0.3])
def test_gradients_of_margins_do_not_add_up_over_steps(reward):
    seen, expected = margins_learned(reward)
    assert seen == pytest.approx(expected, rel=1e-6)


def test_certificates_hold_and_metrics_prove_the_same(rng):
    model = dense()
    metric = metrics.CertifiedRobustAccuracy(model, radius=0.05)
    provable = metrics.CategoricalProvableRobustAccuracy(0.05)
    fitted(model, losses.TauCategoricalCrossentropy(10.0), metrics=[metric, provable])
    certificates = lip.certify(model, X, CLASSES)
    _, found, _ = model.evaluate(X, ONE_HOT, batch_size=8, verbose=0)
    assert found == pytest.approx(certificates.certified_accuracy(0.05), abs=1e-6) and found > 0
    labels = model.predict(X, verbose=0).argmax(-1)
    for _ in range(50):
        step = rng.normal(size=X.shape)
        step *= (certificates.radius / np.linalg.norm(step, axis=1))[:, None]
        near = model.predict((X + 0.999 * step).astype("float32"), verbose=0).argmax(-1)
        assert (near == labels).all()
    assert (lip.certify(model, X, semantics="float32").radius > 0).any()
    exported = lip.certify(model.vanilla_export(), X, CLASSES)
    np.testing.assert_allclose(exported.radius, certificates.radius, rtol=1e-5, atol=1e-6)


def test_margins_are_computed_in_float64():
    model = dense()
    exported = model.vanilla_export()
    z = X.astype("float64")
    for layer in exported.layers:
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
            z = z @ kernel + bias
            z = np.sort(z.reshape(-1, 2, 2)).reshape(-1, 4) if z.shape[1] == 4 else z
    z.sort(axis=1)
    found = lip.certify(model, X).margin
    np.testing.assert_allclose(found, z[:, -1] - z[:, -2], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(save_freq, tmp_path):
    def run(*others):
        keras.utils.set_random_seed(0)
        model = dense(lip.LossVariableSequential)
        loss = losses.MulticlassHKRauto(alpha=1.0, min_margin=1e-3)
        fitted(model, loss, *others, epochs=3)
        return [*model.get_weights(), ops.convert_to_numpy(loss.hinge_margins)]

    for one, other in zip(*whole_and_resumed(run, save_freq, tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_a_nan_began_is_said():
    explain = callbacks.ExplainNaN()
    model = keras.Sequential([keras.Input((4,)), Root(name="root"), keras.layers.Dense(3)])
    fitted(model, "mse", explain)
    assert "'root'" in explain.explanation


def test_a_parameter_of_the_loss_follows_its_schedule():
    loss = losses.MulticlassHKR(alpha=1.0)
    schedule = callbacks.LossParamScheduler("alpha", fp=[1.0, 7.0], xp=[0, 6], step=None)
    fitted(dense(), loss, schedule)
    assert float(loss.alpha) == pytest.approx(6.0)


ONLY_TENSORFLOW = {
    "local constants": lambda: bounds.local_lipschitz(dense(), X, 0.1),
    "verification": lambda: lip.verify.robustness,
    "SavedModels": lambda: lip.verify.from_saved_model("nowhere"),
    "several replicas": lambda: lip.distribute.fit(dense(), None),
}


@pytest.mark.parametrize("what", ONLY_TENSORFLOW)
def test_what_is_of_tensorflow_alone_says_so(what):
    with pytest.raises((ImportError, ValueError), match="TensorFlow"):
        ONLY_TENSORFLOW[what]()
