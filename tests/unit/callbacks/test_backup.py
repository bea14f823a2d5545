"""Trainings that end early and go on: with the numbers of one that never ended."""

import json
import os
import random
import shutil

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from tests._oracles.killed_training import KINDS, Trainings, everything
from tests._tables.trainings import Crash

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = np.eye(2)[np.arange(6) % 2]


def network(loss=None, optimizer="adam", units=4, activation=None, **arguments):
    """Dropout, learned margins, a metric; three batches an epoch."""
    keras.utils.set_random_seed(0)
    first = lip.layers.FrobeniusDense(units, activation=activation or lip.layers.GroupSort2())
    layers = [first, keras.layers.Dropout(0.5), lip.layers.FrobeniusDense(2)]
    model = lip.LossVariableSequential([keras.Input((3,)), *layers])
    loss = loss or lip.losses.MulticlassHKRauto(alpha=1.0, min_margin=1e-3)
    arguments = {"metrics": ["mse"], "run_eagerly": True, **arguments}
    model.compile(optimizer, loss, **arguments)
    if model.loss.get_trainable_variables():
        model.loss.hinge_margins.assign([0.5, 0.7])  # from where they move
    return model


def fit(model, *callbacks, epochs=2):
    schedule = lip.callbacks.LossParamScheduler("alpha", fp=[1.0, 7.0], xp=[0, 6], step=None)
    others = [schedule] if hasattr(model.loss, "alpha") else []
    return model.fit(X, Y, 2, epochs, verbose=0, callbacks=[*others, *callbacks])


@pytest.fixture(scope="module")
def uninterrupted():
    model = network()
    fit(model)
    return everything(model)


def crashed(folder, batches=5, save_freq="epoch", **arguments):
    backup = lip.callbacks.SafeBackup(folder, save_freq)
    with pytest.raises(KeyboardInterrupt):
        fit(network(**arguments), backup, Crash(batches))
    return folder


@pytest.mark.parametrize(
    ("save_freq", "batches"),
    [("epoch", 5), (2, 5), *(pytest.param(*p, marks=pytest.mark.slow) for p in ((1, 2), (1, 3)))],
)
def test_what_goes_on_ends_as_if_nothing_had_happened(save_freq, batches, uninterrupted, tmp_path):
    folder = crashed(tmp_path / "backups", batches, save_freq)
    model = network()
    fit(model, lip.callbacks.SafeBackup(folder, save_freq))
    for ours, theirs in zip(everything(model), uninterrupted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not folder.exists()


def test_it_goes_on_behind_the_batches_it_has_seen(tmp_path):
    crashed(tmp_path, 5, 1)
    told = []
    tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: told.append(epoch))
    model = network()
    steps = model.train_step
    model.train_step = lambda data: told.append("step") or steps(data)
    fit(model, tell, lip.callbacks.SafeBackup(tmp_path, 1))
    # the fifth batch ended the run before the callback saw it: whether it counts is a matter of
    # the order in the list, here it does
    assert told == [1, "step"]
    fit(model, tell, epochs=1)  # another training begins where it is told to
    assert told[2:] == [0, "step", "step", "step"]


@pytest.fixture(scope="module")
def backups(tmp_path_factory):
    return crashed(tmp_path_factory.mktemp("backups"), 3, 1)


def begun(folder, model):
    """A model as it is when training begins."""
    callback = lip.callbacks.SafeBackup(folder, 1)
    callback.set_model(model)
    callback.on_train_begin()
    return everything(model)


@pytest.mark.parametrize("fault", ["empty", "half", "changed", "other"])
def test_a_broken_file_is_left_out_with_a_warning(fault, backups, tmp_path):
    folder = shutil.copytree(backups, tmp_path / "backups")
    former, path = sorted(folder.iterdir())
    content = path.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    faults = {"empty": b"", "half": content[:middle], "changed": changed, "other": b"other"}
    path.write_bytes(faults[fault])
    with pytest.warns(UserWarning, match="cannot be read.*Training goes on from"):
        found = begun(folder, network())
    assert os.listdir(folder) == [former.name]
    for ours, theirs in zip(found, begun(folder, network()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_begins_anew_where_all_files_are_broken(backups, tmp_path):
    folder = shutil.copytree(backups, tmp_path / "backups")
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="No backup in .* is whole: .*Give an empty `backup_dir`"):
        begun(folder, network())


OTHERS = {
    "layers": dict(activation=keras.layers.ReLU()),
    "arguments of layers": dict(units=6),
    "losses": dict(loss=lip.losses.MulticlassHingeAuto()),
    "optimizer": dict(optimizer="sgd"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_backup_of_another_model_is_refused(what, backups):
    model = network(**OTHERS[what])
    before = model.get_weights()
    message = f"another model: its {what} are others.*Build and compile"
    with pytest.raises(ValueError, match=message):
        begun(backups, model)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_backups_of_keras_are_refused(tmp_path):
    (tmp_path / "latest.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="holds a backup of `keras.callbacks.BackupAndRestore`"):
        begun(tmp_path, network())


def test_only_its_own_files_are_deleted_and_two_are_kept(tmp_path):
    (tmp_path / "notes").write_bytes(b"")
    fit(network(), lip.callbacks.SafeBackup(tmp_path, 1, delete_checkpoint=False))
    assert len(os.listdir(tmp_path)) == 3
    fit(network(), lip.callbacks.SafeBackup(tmp_path, 1), epochs=3)
    assert os.listdir(tmp_path) == ["notes"]


def test_plain_keras_in_half_precision_goes_on_too(tmp_path):
    def trained(epochs):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
        model.compile("adam", "mse", run_eagerly=True)
        backup = lip.callbacks.SafeBackup(tmp_path, delete_checkpoint=False)
        model.fit(X, Y, 2, epochs, verbose=0, callbacks=[backup])
        return everything(model)

    once = trained(2)
    for path in tmp_path.iterdir():
        path.unlink()
    trained(1)
    for ours, theirs in zip(trained(2), once, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((3,), TypeError), (("",), ValueError), (("a", 0), ValueError), (("a", "batch"), TypeError)],
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(error, match="`backup_dir`|`save_freq`"):
        lip.callbacks.SafeBackup(*arguments)


def test_a_model_must_be_built():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("adam", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="needs a model that is built before `fit`"):
        begun("nowhere", model)


def test_the_configuration_makes_the_same_callback(tmp_path):
    config = lip.callbacks.SafeBackup(tmp_path, 3, delete_checkpoint=False).get_config()
    again = lip.callbacks.SafeBackup.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    with Trainings(tmp_path_factory.mktemp("trainings")) as trainings:
        yield trainings


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_killed_end_with_the_same_bits(kind, trainings, tmp_path):
    """Each training is killed again and again, at any moment, until it has ended: 50 in all."""
    expected, kills, rounds = trainings.run(kind), 0, 0
    rng = random.Random(f"{kind} 0")
    while kills < 9:
        rounds += 1
        arrays, killed = trainings.killed(kind, 9 - kills, rng, tmp_path / f"backups{rounds}")
        kills += killed
        for ours, theirs in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
