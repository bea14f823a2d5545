"""Trains every loss on one device and on several replicas, and prints by how much weights differ.

Run as `python -m tests.unit.distribute.mirrored 2`: logical devices are configured before
TensorFlow starts, and a process can hold one group of them.

One model has an output for each row of the table, with a layer and a loss of its own: a single
step is traced for all of them, and what a loss learns is read off the weights behind its output.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers, losses
from deel_lip_tf.distribute import replicas
from tests._tables.all_losses import ALL_LOSSES, needed_by

CLASSES = 3
BATCH = 12
RATE = 0.1


@dataclass(frozen=True)
class Row:
    """An output of the model: what stands between the input and it, and the loss of it."""

    name: str
    loss: Callable[[], Any]
    before: Callable[[], list] = list
    labels: str = "one-hot"
    is_made_outside: bool = False  # of the strategy's scope

    def head(self, inputs):
        """The output, from layers that no other row has."""
        for layer in self.before():
            inputs = layer(inputs)
        return keras.layers.Dense(CLASSES, name=self.name)(inputs)


def _kind(make):
    return "classes" if make is losses.TauSparseCategoricalCrossentropy else "one-hot"


def _of_class(make):
    return Row(make.__name__, lambda: make(**needed_by(make)), labels=_kind(make))


def _hkr(**options):
    return lambda: losses.MulticlassHKR(alpha=2.0, **options)


EVERY_LOSS = [_of_class(make) for make in ALL_LOSSES]
OTHERS = [
    Row("rewarded", lambda: losses.MulticlassHingeAuto(0.1, alpha_margin=0.6)),
    Row("sum", _hkr(reduction="sum")),
    Row("weighted_mean", _hkr(reduction="mean_with_sample_weight")),
    Row("processed", _hkr(multi_gpu=True), labels="processed"),
    Row("outside", lambda: losses.MulticlassSoftHKR(alpha_mean=0.5), is_made_outside=True),
    Row("spectral", _hkr(), lambda: [layers.SpectralDense(4)]),
    # A kernel that no update leaves on the manifold of orthogonal matrices.
    Row("far", _hkr(), lambda: [layers.SpectralDense(4, kernel_constraint="max_norm")]),
    Row("centered", _hkr(), lambda: [layers.BatchCentering(name="centering")]),
    Row("normalized", _hkr(), lambda: [layers.BatchLipNorm(normalize=True, name="normalization")]),
]
FEW = ("HKR", "MulticlassHKRauto", "MulticlassSoftHKR", "centered", "far")
ROWS = {row.name: row for row in [*EVERY_LOSS, *OTHERS]}


def samples(case: str):
    """Inputs, classes and weights of three steps.

    The last batch is partial: ten rows, of which four replicas get 3, 3, 3 and 1, or two, which
    leave two of four replicas without any.
    """
    rng = np.random.default_rng(3)
    count = 2 * BATCH + (2 if case == "empty" else 10)
    classes = rng.integers(0, CLASSES, count)
    if case == "sorted":  # a replica sees one class, or two
        classes = np.concatenate([np.sort(part) for part in np.split(classes, [BATCH, 2 * BATCH])])
    inputs = rng.normal(size=(count, 4)).astype("float32") + classes[:, None]
    weights = rng.uniform(0.5, 2.0, count).astype("float32") if case == "weighted" else None
    return inputs.astype("float32"), classes, weights


def labels(kind: str, classes: np.ndarray) -> np.ndarray:
    """Labels of one output: as they are, or processed batch by batch."""
    if kind == "classes":
        return classes
    one_hot = np.eye(CLASSES, dtype="float32")[classes]
    if kind == "one-hot":
        return one_hot
    batches = np.split(one_hot, range(BATCH, len(classes), BATCH))
    return np.concatenate([losses.process_labels_for_multi_gpu(batch) for batch in batches])


def model_of(rows: list[Row], scope, way: str):
    """A compiled model with an output for each row, made in the scope of a strategy.

    Its steps are run "eagerly", or with a loss that is "scaled", or as by default.
    """
    keras.utils.set_random_seed(0)
    outside = {row.name: row.loss() for row in rows if row.is_made_outside}
    with scope:
        inputs = keras.Input((4,))
        model = lip.LossVariableModel(inputs, _alone([row.head(inputs) for row in rows]))
        made = [outside.get(row.name) or row.loss() for row in rows]
        optimizer = keras.optimizers.SGD(RATE)
        if way == "scaled":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)
        model.compile(optimizer, _alone(made), jit_compile=False, run_eagerly=way == "eagerly")
    return model


def state(model, rows: list[Row]) -> dict[str, list[np.ndarray]]:
    """What training changes, by the row that it belongs to."""
    found: dict[str, list] = {}
    for row, loss in zip(rows, keras.tree.flatten(model.loss), strict=True):
        found[row.name] = list(model.get_layer(row.name).variables)
        for method in ("get_trainable_variables", "get_non_trainable_variables"):
            found[row.name] += getattr(loss, method, list)()
    for row, name in (("centered", "centering"), ("normalized", "normalization")):
        if row in found:
            found[row] += model.get_layer(name).variables
    return {name: [np.array(v) for v in variables] for name, variables in found.items()}


def trained(model, rows: list[Row], case: str, start: list[np.ndarray]):
    """The state after three steps from the given one, and the losses that were reported."""
    inputs, classes, weights = samples(case)
    for variable, value in zip(_variables(model), start, strict=True):
        variable.assign(value)
    targets = _alone([labels(row.labels, classes) for row in rows])
    options: dict[str, Any] = dict(batch_size=BATCH, shuffle=False, verbose=0)
    if case == "of classes":
        options["class_weight"] = {0: 0.5, 1: 3.0, 2: 1.0}
    history = model.fit(inputs, targets, sample_weight=weights, **options).history
    reported = [history[f"{row.name}_loss"][-1] for row in rows] if len(rows) > 1 else []
    return state(model, rows), np.array(reported)


def _alone(of_outputs: list) -> Any:
    """As a model of a single output takes it: Keras has weights of classes for such ones only."""
    return of_outputs if len(of_outputs) > 1 else of_outputs[0]


def _variables(model) -> list:
    return [*model.trainable_variables, *model.non_trainable_variables]


def differences(count: int, rows: list[Row], cases: list[str], way: str = "") -> dict:
    """By how much the states of one device and of several differ, for each case and row."""
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
    one, several = (model_of(rows, s, way) for s in (contextlib.nullcontext(), strategy.scope()))
    start = [np.array(v) for v in _variables(one)]
    found = {}
    for case in cases:
        (alone, value), (shared, shown) = (
            trained(model, rows, case, start) for model in (one, several)
        )
        found[case] = {name: _largest(alone[name], shared[name]) for name in alone}
        found[case]["reported"] = _largest([value], [shown])
    return found


def _largest(first: list, second: list) -> float:
    pairs = zip(first, second, strict=True)
    # NumPy's maximum of numbers and a NaN is NaN, Python's need not be
    return float(np.max([np.abs(a - b).max(initial=0.0) for a, b in pairs]))


if __name__ == "__main__":
    _count, _names, _cases, *_way = sys.argv[1:]
    if _way == ["blind"]:  # as it was before losses knew of replicas
        replicas.count = lambda: 1
    _rows = [ROWS[name] for name in (_names.split(",") if _names != "all" else ROWS)]
    print(json.dumps(differences(int(_count), _rows, _cases.split(","), *_way)))
