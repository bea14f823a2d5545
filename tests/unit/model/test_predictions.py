"""`predict` and `evaluate` keep kernels from batch to batch, and none that is stale."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.layers.constrained import ConstrainedKernel
from deel_lip_tf.model.predictions import _KeptKernels, with_kept_kernels
from tests._oracles.tolerances import SAME_FLOAT32

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="other backends compute in each batch"
    ),
    pytest.mark.filterwarnings("ignore:Sequential model contains"),
]

BATCH = 16


def network(rng, jit_compile=False):
    model = lip.Sequential(
        [
            keras.Input((8,)),
            lip.layers.SpectralDense(6, activation="relu"),
            lip.layers.FrobeniusDense(5),
            lip.layers.SpectralDense(3),
        ]
    )
    model.compile("adam", "mse", jit_compile=jit_compile)
    return model, rng.normal(size=(4 * BATCH, 8)).astype("float32")


def predicted(model, x, **arguments):
    return model.predict(x, batch_size=BATCH, verbose=0, **arguments)


def count_projections(model, monkeypatch):
    """Counts the kernels that are computed from now on."""
    counted = []
    compute = ConstrainedKernel.effective_kernel

    def counting(layer):
        counted.append(layer.name)
        return compute(layer)

    monkeypatch.setattr(ConstrainedKernel, "effective_kernel", counting)
    return counted


def some_weights(model):
    return [np.random.default_rng(1).normal(size=weight.shape) for weight in model.weights]


def without_numbers(model, x):
    kernel = np.array(model.layers[0].kernel)
    model.layers[0].kernel.assign(np.nan * kernel)
    predicted(model, x)
    model.layers[0].kernel.assign(-kernel)


CHANGES = {
    "fit": lambda model, x: model.fit(x, x[:, :3], verbose=0),
    "set_weights": lambda model, x: model.set_weights(some_weights(model)),
    "assign": lambda model, x: model.layers[0].kernel.assign(2.0 * model.layers[0].kernel + 0.1),
    "TensorFlow's assign": lambda model, x: model.layers[0].kernel.value.assign_add(x[:8, :6]),
    "one entry": lambda model, x: model.layers[2].kernel.value.scatter_nd_update([[0, 0]], [3.0]),
    "condense": lambda model, x: model.condense(),
    "constant": lambda model, x: model.set_klip_factor(3.0),
    "not a number and back": lambda model, x: without_numbers(model, x),
}


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_change_is_seen(jit_compile, rng):
    model, x = network(rng, jit_compile)
    predicted(model, x)
    for change in CHANGES.values():
        change(model, x)
        expected = lip.vanillaModel(model)(x)
        np.testing.assert_allclose(predicted(model, x), expected, **SAME_FLOAT32)
        np.testing.assert_allclose(model.predict_on_batch(x), expected, **SAME_FLOAT32)
        error = np.mean((expected - x[:, :3]) ** 2)
        found = model.evaluate(x, x[:, :3], batch_size=BATCH, verbose=0)
        np.testing.assert_allclose(found, error, rtol=1e-5)


def test_one_entry_is_enough_to_be_seen(rng):
    layer = lip.layers.FrobeniusDense(3)
    layer.build((None, 4))
    kept = _KeptKernels([layer])
    kept.current()
    layer.kernel.value.scatter_nd_update([[1, 2]], [3.0])
    (found,) = kept.current().values()
    np.testing.assert_allclose(found, layer.effective_kernel(), **SAME_FLOAT32)


def test_validation_is_of_the_kernels_of_its_epoch(rng):
    model, x = network(rng)
    model.optimizer.learning_rate = 0.1
    expected = []

    class Evaluating(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            expected.append(np.mean((lip.vanillaModel(model)(x) - x[:, :3]) ** 2))

    data = (x, x[:, :3])
    history = model.fit(*data, epochs=3, validation_data=data, callbacks=[Evaluating()], verbose=0)
    np.testing.assert_allclose(history.history["val_loss"], expected, rtol=1e-5)
    assert len(set(expected)) == 3


def test_a_change_between_two_batches_is_seen(rng):
    model, x = network(rng)
    expected = []

    class Changing(keras.callbacks.Callback):
        def on_predict_batch_begin(self, batch, logs=None):
            model.set_weights(some_weights(model) if batch % 2 else model.get_weights())
            expected.append(lip.vanillaModel(model)(x[BATCH * batch : BATCH * (batch + 1)]))

    outputs = predicted(model, x, callbacks=[Changing()])
    np.testing.assert_allclose(outputs, np.concatenate(expected), **SAME_FLOAT32)


def test_nothing_is_computed_again_while_nothing_changes(rng, monkeypatch):
    model, x = network(rng)
    predicted(model, x)
    counted = count_projections(model, monkeypatch)
    predicted(model, x)
    assert counted == []
    model.layers[2].kernel.assign(2.0 * model.layers[2].kernel)
    predicted(model, x)
    assert counted == [layer.name for layer in model.layers]


def test_layers_inside_of_layers_and_certificates_do_the_same(rng, monkeypatch):
    stack = [keras.Input((8,)), lip.layers.CPLDense(5), lip.layers.SpectralDense(3)]
    model, x = lip.Sequential(stack), rng.normal(size=(4 * BATCH, 8)).astype("float32")
    predicted(model, x)
    counted = count_projections(model, monkeypatch)
    predicted(model, x)
    assert counted == []
    raw = model.layers[0].kernel
    raw.assign(rng.normal(size=raw.shape))
    assert np.allclose(predicted(model, x), lip.vanillaModel(model)(x), atol=1e-5)
    monkeypatch.setattr("deel_lip_tf.certificates.guard._ENTRIES", 8 * BATCH)
    numbers = []
    for samples in (BATCH, 4 * BATCH):
        counted.clear()
        assert (lip.certify(model, x[:samples], batch_size=BATCH).radius > 0).all()
        numbers.append(len(counted))
    assert numbers[0] == numbers[1]


def test_kernels_are_those_of_the_model_and_nobody_keeps_them(rng):
    """What runs outside of `predict` computes its own: gradients reach the raw kernels."""
    import tensorflow as tf

    model, x = network(rng)
    predicted(model, x)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x) ** 2)
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_weights))
    assert len(model.weights) == 6


def test_layers_of_others_may_trace_for_other_calls(rng):
    class Other(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    stack = [keras.Input((8,)), lip.layers.SpectralDense(3), Other()]
    plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    for model in (lip.Sequential(stack), plain):
        assert with_kept_kernels(model, predicted) is predicted
    assert with_kept_kernels(network(rng)[0], predicted) is not predicted


def test_on_several_replicas_kernels_are_computed_in_each_batch(rng, monkeypatch):
    model, _ = network(rng)
    assert with_kept_kernels(model, predicted) is not predicted
    strategy = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(lip.Sequential, "distribute_strategy", strategy)
    assert with_kept_kernels(model, predicted) is predicted
