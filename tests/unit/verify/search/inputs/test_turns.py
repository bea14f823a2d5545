"""Boxes searched in turn: answers on both sides of the minimum, and what `prove` makes of them."""

import time

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf import verify
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.verify.search.branch_and_bound import branch_and_bound
from deel_lip_tf.verify.search.inputs import turns
from deel_lip_tf.verify.search.inputs.turns import in_turns
from tests.unit.verify.propagation.test_backward import exact_minimum

pytestmark = pytest.mark.usefixtures("eagerly")

GAP = 1e-3


def network(inputs, end=None, outputs=2, seed=0):
    """One hidden layer; the last output is 1, whatever the input."""
    hidden = layers.Dense(6, activation="relu", dtype="float64")
    last = layers.Dense(outputs, activation=end, dtype="float64")
    model = keras.Sequential([keras.Input((inputs,), dtype="float64"), hidden, last])
    rng = np.random.default_rng(seed)
    for layer in (hidden, last):
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    if outputs > 1:
        kernel, bias = last.get_weights()
        kernel[:, -1], bias[-1] = 0.0, 1.0
        last.set_weights([kernel, bias])
    return model, [layer.get_weights() for layer in (hidden, last)]


@pytest.mark.parametrize("first", [0.25, 1e-5])  # of the time: many turns, too
@pytest.mark.parametrize("inputs", [3, 30])  # what is split: inputs, signs of neurons
def test_answers_on_both_sides_of_the_minimum(inputs, first, monkeypatch):
    monkeypatch.setattr(turns, "_FIRST", first)
    model, parts = network(inputs)
    center = np.random.default_rng(1).normal(size=(3, inputs))
    lower, upper = center - 0.4, center + 0.4
    row = np.array([1.0, 0.0])
    least = [exact_minimum(parts, row, *ends) for ends in zip(lower, upper, strict=True)]
    for side in (1.0, -1.0):
        rows = np.array([[row - [0.0, value - side * GAP]] for value in least])
        found = in_turns(lower_model(model), lower, upper, rows, np.array([2, 0, 1]), 20.0)
        assert (found.is_positive == (side > 0)).all()
        is_found = ~np.isnan(found.points).any(axis=1)
        assert is_found.any() == (side < 0)
        for i in np.flatnonzero(is_found):
            point = found.points[i]
            assert (lower[i] <= point).all() and (point <= upper[i]).all()
            assert rows[i, 0] @ np.asarray(model(point[None]))[0] <= 1e-12


def test_more_time_is_for_what_lacks_least(monkeypatch):
    """Sixteen, eight, four, two and one of sixteen questions have a turn of twice the time."""
    asked = []

    class Question:
        def __init__(self, program, lower, *_):
            self.lack, self._number = 1.0 + lower[0], int(lower[0])

        def asked(self, seconds):
            asked.append((self._number, round(seconds, 2)))
            return "unknown", None

    monkeypatch.setattr(turns, "_Question", Question)
    lower = np.arange(16.0)[::-1, None]
    in_turns(lower_model(network(1)[0]), lower, lower, np.zeros((16, 1, 2)), np.arange(16), 64.0)
    expected = [(i, 2.0**turn) for turn in range(6) for i in range(max(1, 16 >> turn))]
    assert asked[: len(expected)] == expected


def test_the_time_is_kept_and_what_has_no_rule_is_left():
    model, _ = network(30)
    lower, rows = np.full((400, 30), -50.0), np.tile([[[1.0, 0.0]]], (400, 1, 1))
    begin = time.monotonic()
    in_turns(lower_model(model), lower, -lower, rows, np.arange(400), 0.5)
    assert time.monotonic() - begin < 10.0
    smooth = keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="tanh")])
    found = in_turns(lower_model(smooth), lower[:2, :2], -lower[:2, :2], rows, np.arange(2), 5.0)
    assert not found.is_positive.any() and np.isnan(found.points).all()


@pytest.mark.parametrize(("end", "outputs", "more"), [("softmax", 3, 1.2), ("sigmoid", 1, 1.03)])
def test_prove_takes_what_is_found(end, outputs, more, monkeypatch):
    model, _ = network(30, end, outputs, seed=3)
    x = np.random.default_rng(4).uniform(size=(12, 30))
    radius = verify.certified_radius(model, x, clip=None, method="crown") * more
    open_at_last = []
    true = branch_and_bound

    def recorded(program, domain, *others, **options):
        open_at_last.extend(domain.center)
        return true(program, domain, *others, **options)

    monkeypatch.setattr("deel_lip_tf.verify.proofs.branch_and_bound", recorded)
    answer = verify.robustness(model, x, None, radius, clip=None, time_limit=60.0)
    assert not answer.count("unknown")
    by_search = answer.method == "branch-and-bound"
    assert (by_search & (answer.status == "robust")).sum() > len(open_at_last)
    assert (answer.margin[answer.status == "robust"] > 0).all()
    robust, labels = answer.status == "robust", predicted(model, x)
    for share in np.random.default_rng(5).uniform(-1, 1, (200, *x.shape)):
        moved = predicted(model, x + radius[:, None] * share)
        assert (moved[robust] == labels[robust]).all()


def predicted(model, x):
    outputs = np.asarray(model(x))
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0.5).astype(int)
    return outputs.argmax(axis=1)
