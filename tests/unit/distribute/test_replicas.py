"""Losses and statistics on several replicas: the weights of one device, step by step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.distribute import replicas
from tests.unit.distribute.mirrored import FEW, ROWS

ROOT = Path(__file__).parents[3]
# The sums of float32 numbers in another order.
IN_ANOTHER_ORDER = 1e-6
# Those that depend on the batch as a whole, not sample by sample.
OF_BATCHES = ("HKR", "MulticlassHKR", "MulticlassHKRauto", "MulticlassSoftHKR", "rewarded", "sum")
OF_BATCHES += ("centered", "normalized", "outside")

WEIGHTED = ("HKR", "HingeMargin", "MulticlassHKRauto", "weighted_mean", "processed")


def differences(*arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.unit.distribute.mirrored", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("devices", "rows", "cases"),
    [
        ("2", FEW, ("sorted",)),
        pytest.param("2", tuple(ROWS), ("sorted",), marks=pytest.mark.slow),
        pytest.param("2", WEIGHTED, ("weighted",), marks=pytest.mark.slow),
        pytest.param("4", ("MulticlassHKR",), ("of classes",), marks=pytest.mark.slow),
        pytest.param(
            "4", OF_BATCHES, ("shuffled", "sorted", "empty", "weighted"), marks=pytest.mark.slow
        ),
    ],
    ids=["some on 2", "all on 2", "weighted", "of classes", "of batches on 4"],
)
def test_three_steps_are_those_of_one_device(devices, rows, cases):
    found = differences(devices, ",".join(rows), ",".join(cases))
    assert {case: set(by_row) for case, by_row in found.items()} == {
        case: {*rows, "reported"} for case in cases
    }
    wrong = {
        (case, row): by_how_much
        for case, by_row in found.items()
        for row, by_how_much in by_row.items()
        if not by_how_much <= (IN_ANOTHER_ORDER if row != "reported" else 1e-5)
    }
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["eagerly", "scaled"])
def test_so_are_steps_without_a_graph_and_with_a_scaled_loss(way):
    [found] = differences("2", ",".join(FEW), "sorted", way).values()
    assert max(found[row] for row in FEW) <= IN_ANOTHER_ORDER and found["reported"] <= 1e-5


@pytest.mark.slow
def test_the_test_above_finds_what_a_replica_does_not_know():
    found = differences("2", ",".join(OF_BATCHES), "sorted", "blind")["sorted"]
    assert {row for row, by_how_much in found.items() if by_how_much > 1e-3} >= set(OF_BATCHES)


def test_without_a_strategy_nothing_is_computed(tf):
    with tf.Graph().as_default() as graph:
        value, other = tf.constant([1.0, 0.0]), tf.constant(2.0)
        before = len(graph.get_operations())
        assert replicas.count() == 1
        assert replicas.summed(value) is value
        assert replicas.summed([value, other])[1] is other
        assert replicas.somewhere(value) is value
        assert len(graph.get_operations()) == before


def test_one_replica_computes_what_no_strategy_does(tf):
    rng = np.random.default_rng(0)
    y_true, y_pred = np.eye(3)[rng.integers(0, 3, 7)], rng.normal(size=(7, 3))
    loss = lip.losses.MulticlassHKR(alpha=2.0)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    assert float(strategy.run(lambda: loss(y_true, y_pred))) == float(loss(y_true, y_pred))
