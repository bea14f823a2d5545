"""The training loop for strategies: alone in this process, and with workers in their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf._files.writing import NotWritten
from deel_lip_tf.distribute.checkpoints import Checkpoints
from tests._tables.trainings import small_disk
from tests.unit.distribute.worker import BATCH, EPOCHS, ONE_HOT, ROWS, alone, order

ROOT = Path(__file__).parents[3]
# Three epochs of float32 sums in another order.
IN_ANOTHER_ORDER = 1e-5


@pytest.fixture
def dataset(tf):
    def data(epoch=0):
        rows = order(epoch)
        return tf.data.Dataset.from_tensor_slices((ROWS[rows], ONE_HOT[rows])).batch(BATCH)

    return data


def values(model):
    return [np.array(v) for v in model.trainable_variables + model.non_trainable_variables]


def network(*hidden):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def test_it_trains_as_keras_does_and_resumes_where_it_stopped(dataset, tmp_path):
    expected, model = [], network()
    for epoch in range(3):
        expected += model.fit(dataset(epoch), shuffle=False, verbose=0).history["loss"]
    seen = []
    for epochs in (1, 3):
        resumed = network()
        history = lip.distribute.fit(resumed, dataset, epochs, directory=tmp_path).history
        seen += history["loss"]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    for one, other in zip(values(model), values(resumed), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert lip.distribute.fit(network(), dataset, 3, directory=tmp_path).history == {}
    with pytest.raises(ValueError, match="checkpoints in `directory` must be of this model"):
        lip.distribute.fit(network(keras.layers.Dense(2)), dataset, 4, directory=tmp_path)


def test_what_cannot_be_trained_is_said(tf, dataset):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="must be compiled"):
        lip.distribute.fit(model, dataset)
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"`data` must be a `tf\.data\.Dataset`.*ndarray"):
        lip.distribute.fit(model, ROWS)
    with pytest.raises(TypeError, match="`epochs`"):
        lip.distribute.fit(model, dataset, 1.5)
    with pytest.raises(ValueError, match="at least one batch"):
        lip.distribute.fit(model, dataset().take(0))


def test_parameter_servers_are_refused(tf, dataset):
    class Served(lip.Sequential):
        # as that of a model that was made in its scope; a cluster is not needed to be refused
        distribute_strategy = object.__new__(tf.distribute.ParameterServerStrategy)

    model = Served([keras.Input((4,)), lip.layers.SpectralDense(3)])
    model.compile("sgd", "mse")
    for fit in (lambda: lip.distribute.fit(model, dataset), lambda: model.fit(dataset())):
        with pytest.raises(ValueError, match="no global batch.*MultiWorkerMirroredStrategy"):
            fit()


def checkpoints(tf, folder, model):
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return Checkpoints(model, tf.distribute.get_strategy(), folder)


@pytest.fixture
def kept(tf, tmp_path):
    """Checkpoints of the first and the second epoch, with weights of 1 and of 2."""
    folder, model = tmp_path / "checkpoints", network()
    saved = checkpoints(tf, folder, model)
    for epoch in (1, 2):
        for weight in model.weights:
            weight.assign(np.full(weight.shape, float(epoch)))
        saved.save(epoch)
    return folder


def cut_off(path, *_):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_bit(path, *_):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


BROKEN = {
    "data cut off": (cut_off, "ckpt-2.data-00000-of-00001"),
    "index cut off": (cut_off, "ckpt-2.index"),
    "one bit": (one_bit, "ckpt-2.data-00000-of-00001"),
    "gone": (Path.unlink, "ckpt-2.data-00000-of-00001"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_left_out_with_a_warning(fault, tf, kept):
    spoil, name = BROKEN[fault]
    spoil(kept / name)
    model = network()
    with pytest.warns(UserWarning, match="ckpt-2' cannot be read.*goes on from .*ckpt-1'"):
        assert checkpoints(tf, kept, model).restored() == 1
    assert all((np.asarray(weight) == 1).all() for weight in model.weights)
    spoil(kept / name.replace("2", "1", 1))
    with pytest.raises(ValueError, match="No checkpoint in `directory` is whole.*begin anew"):
        checkpoints(tf, kept, network()).restored()


@pytest.mark.parametrize("content", [b"", b"other", b"\xff\xfe"])
def test_a_directory_whose_last_checkpoint_is_unknown_does_not_begin_anew(content, tf, kept):
    (kept / "checkpoint").write_bytes(content)
    with pytest.raises(ValueError, match="file 'checkpoint' in `directory` must say which"):
        checkpoints(tf, kept, network()).restored()


def test_a_full_disk_keeps_the_former_checkpoints(tf, kept):
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    saved = checkpoints(tf, kept, network())
    with small_disk(), pytest.raises(NotWritten, match="checkpoint into .*what was there is kept"):
        saved.save(3)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert checkpoints(tf, kept, network()).restored() == 2


def port_for(count):
    """The first of some ports in a row that nobody uses."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        sockets = [socket.socket() for _ in range(count)]
        try:
            for i, one in enumerate(sockets):
                one.bind(("127.0.0.1", port + i))
        except (OSError, OverflowError):
            continue
        finally:
            for one in sockets:
                one.close()
        return port
    raise RuntimeError("no ports")


def run(count, results, directory=None, killed=None):
    """Starts all workers, the last of which may kill itself; exit codes and what was said."""
    port = port_for(count)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(count):
        arguments = [rank, count, port, results / f"{rank}.npz", directory]
        arguments += [killed] if killed is not None and rank == count - 1 else []
        command = [sys.executable, "-m", "tests.unit.distribute.worker", *map(str, arguments)]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    said = [process.communicate(timeout=600)[0].decode() for process in processes]
    return [process.returncode for process in processes], said


def results_of(folder, count):
    found = [dict(np.load(folder / f"{rank}.npz")) for rank in range(count)]
    histories = [json.loads(str(one.pop("history"))) for one in found]
    assert all(history == histories[0] for history in histories)
    for one in found[1:]:
        for name, value in one.items():
            np.testing.assert_array_equal(value, found[0][name])
    return list(found[0].values()), histories[0]


@pytest.mark.slow
def test_workers_train_as_one_device_does_and_resume_after_one_is_killed(tmp_path):
    model, expected = alone()
    folders = {name: tmp_path / name for name in ("whole", "killed", "three", "a", "b", "c")}
    for folder in folders.values():
        folder.mkdir()

    codes, said = run(2, folders["whole"], folders["a"])
    assert codes == [0, 0], said[0][-3000:]
    assert "Use `deel_lip_tf.distribute.fit(" in said[0]
    weights, history = results_of(folders["whole"], 2)
    for one, other in zip(weights, values(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=IN_ANOTHER_ORDER)
    assert history.keys() == expected.keys()
    for name, seen in history.items():
        np.testing.assert_allclose(seen, expected[name], rtol=1e-4, err_msg=name)

    codes, said = run(2, folders["killed"], folders["b"], killed=1)
    assert codes[1] == -9 and codes[0] not in (0, -9)
    assert "Another worker is gone" in said[0]
    codes, said = run(2, folders["killed"], folders["b"])
    assert codes == [0, 0], said[0][-3000:]
    resumed, history_of_rest = results_of(folders["killed"], 2)
    for one, other in zip(resumed, weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history_of_rest["loss"] == history["loss"][1:]

    codes, said = run(3, folders["three"], folders["c"])
    assert codes == [0, 0, 0], said[0][-3000:]
    for one, other in zip(results_of(folders["three"], 3)[0], values(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=IN_ANOTHER_ORDER)
    assert len(expected["loss"]) == EPOCHS
