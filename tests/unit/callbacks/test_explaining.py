"""A loss that is NaN or infinite, and where it began: each fault is planted."""

import re

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.callbacks.training_state import variables_of

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 1)).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Root(keras.layers.Layer):
    """The square root: no number of negative ones, and without a slope at 0."""

    def call(self, x):
        return keras.ops.sqrt(x)


def trained(x=X, y=Y, layers=(), loss="mse", rate=0.1, weights=None, epochs=3, **arguments):
    """What was explained, and the model; four batches of two samples an epoch."""
    keras.utils.set_random_seed(0)
    head = keras.layers.Dense(1, name="head")
    model = keras.Sequential([keras.Input((3,)), *layers, head])
    model.compile(keras.optimizers.SGD(rate), loss, **{"run_eagerly": True, **arguments})
    if weights:
        weights(model)
    explain = lip.callbacks.ExplainNaN()
    model.fit(x, y, 2, epochs, shuffle=False, verbose=0, callbacks=[explain])
    return explain.explanation, model


def with_entry(array, value, *place):
    changed = array.copy()
    changed[place] = value
    return changed


def spoil(model):
    model.get_layer("head").kernel.assign(np.full((3, 1), np.nan))


FAULTS = {
    "input": (
        dict(x=with_entry(X, np.inf, 5, 1)),
        "batch 2 of epoch 0: the inputs hold inf in 1 of 6 entries, first in row 1",
    ),
    "label": (
        dict(y=with_entry(Y, np.nan, 4, 0)),
        "batch 2 of epoch 0: the labels hold nan in 1 of 2 entries, first in row 0",
    ),
    "weight": (
        dict(weights=spoil),
        "batch 0 of epoch 0: .*head/kernel' was not finite when training",
    ),
    "layer": (
        dict(layers=[Root(name="root")]),
        r"batch 0 of epoch 0: the layer 'root' \(Root, computing in float32\) is the first",
    ),
    "layer in half precision": (
        dict(x=7e4 + abs(X), layers=[keras.layers.Dense(1, dtype="float16", name="half")]),
        r"batch 0 of epoch 0: the layer 'half' \(Dense, computing in float16\) is the first",
    ),
    "gradient": (
        dict(x=0 * X, layers=[keras.layers.Dense(3, name="first"), Root()], y=Y + 1),
        "batch 1 of epoch 0: .*first/kernel' was spoiled by the step before, by the gradient of "
        "'.*first/bias'",
    ),
    "learning rate": (
        dict(rate=1e9),
        "loss had grown from .* to .*: the learning rate 1e.09 is too large. Try a tenth",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault, capsys):
    arguments, expected = FAULTS[fault]
    explanation, model = trained(**arguments)
    assert capsys.readouterr().out == f"\n{explanation}\n"
    assert model.stop_training
    assert re.search(f"^The loss is .*{expected}", explanation, re.DOTALL), explanation
    if fault != "weight":
        assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_a_label_that_is_no_class_is_shown():
    keras.utils.set_random_seed(0)
    model = lip.Sequential([keras.Input((3,)), lip.layers.FrobeniusDense(3)])
    model.compile("sgd", lip.losses.EMMA(radius=0.1), run_eagerly=True)
    explain = lip.callbacks.ExplainNaN()
    y = np.array([0, 1, 2, 0, 1, 7, 0, 1])
    model.fit(X, y, 4, shuffle=False, verbose=0, callbacks=[explain])
    assert "the loss is not: for 1 of 4 samples, first row 1, label 7" in explain.explanation


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_training_in_a_graph_is_what_it_is_without(steps):
    """And the one batch that is left at the end of an epoch is seen, too."""
    found = []
    for callbacks in ([], [lip.callbacks.ExplainNaN()]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("adam", "mse", steps_per_execution=steps)
        history = model.fit(X, Y, 2, 2, verbose=0, callbacks=callbacks).history
        found.append([history["loss"], *map(np.asarray, variables_of(model)["optimizer"])])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert callbacks[0].explanation is None


def test_in_a_graph_the_label_is_found_too():
    explanation, model = trained(y=with_entry(Y, np.inf, 5, 0), run_eagerly=False)
    assert "batch 2 of epoch 0: the labels hold inf in 1 of 2 entries" in explanation
    again = model.fit(X, Y, 2, verbose=0)  # the model goes on, without those samples
    assert np.isfinite(again.history["loss"]).all()
