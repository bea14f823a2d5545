"""Files that were changed at random: an answer or one line, and never a traceback or a hang.

They are read by a process of its own, which TensorFlow or HDF5 may end.
"""

import gzip
import random
import shutil
import sys

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.__main__ import main
from deel_lip_tf.callbacks import training_state
from tests.fuzz.hostile import READERS, Reader, _command, reading
from tests.fuzz.mutations import mutated

pytest.importorskip("onnx", reason="needs the verify extra")

QUESTION = """(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (<= 0.0 X_1 1.0))
(assert (or (and (>= Y_0 5.0) (<= Y_1 (+ Y_0 0.5))) (and (>= Y_0 6.0))))
"""

SLOW = {"keras": 150, "keras, decided": 10, "h5": 100, "saved model": 60, "onnx": 120}
SLOW |= {"onnx.gz": 60}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A whole file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, activation="relu"), keras.layers.Dense(2)]
    )
    plain.set_weights([np.ones((2, 1)), np.zeros(1), np.array([[2.0, 0.0]]), np.zeros(2)])
    hidden = lip.layers.FrobeniusDense(4, activation=lip.layers.GroupSort2())
    model = lip.Sequential([keras.Input((2,)), hidden, lip.layers.FrobeniusDense(2)])
    model.compile("adam", lip.losses.MulticlassHKR(alpha=10.0))
    model.optimizer.build(model.trainable_variables)
    paths = {
        "keras": "model.keras",
        "keras, decided": "model.keras",
        "h5": "model.h5",
        "saved model": "saved_model",
        "onnx": "model.onnx",
        "onnx.gz": "model.onnx.gz",
        "vnnlib": "question.vnnlib",
        "vnnlib.gz": "question.vnnlib.gz",
        "second vnnlib": "second.vnnlib",
        "proof": "proof.npz",
        "certificates": "certificates.npz",
        "export certificate": "model.keras.certificate.json",
        "backup": "backup.npz",
        "data": "data.npz",
    }
    paths = {kind: folder / name for kind, name in paths.items()}
    model.save(paths["keras"])
    model.save(paths["h5"])
    lip.verify.to_onnx(plain, paths["onnx"])
    paths["vnnlib"].write_text(QUESTION)
    lip.verify.to_vnnlib(paths["second vnnlib"], plain, np.zeros(2), 0, 0.1, version="2.0")
    for kind in ("onnx", "vnnlib"):
        paths[f"{kind}.gz"].write_bytes(gzip.compress(paths[kind].read_bytes()))
    asked = ["verify", str(paths["onnx"]), str(paths["vnnlib"])]
    assert main([*asked, "--proof", str(paths["proof"])]) == 0
    lip.certificates.certify(plain, np.eye(2)).save(paths["certificates"])
    lip.certificates.export_certificate(model, paths["keras"])
    training_state.write(paths["backup"], model, epoch=1)
    images, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
    np.savez(paths["data"], x_train=images, y_train=labels, x_test=images, y_test=labels)
    return paths


@pytest.fixture(scope="module")
def all_files(files):
    """And a SavedModel, which takes longest to make."""
    keras.models.load_model(files["keras"]).export(files["saved model"], verbose=False)
    return files


@pytest.fixture(scope="module")
def reader():
    reader = Reader()
    yield reader
    reader.close()


def changed(path, folder, rng):
    """A copy of a file, or of a folder with one file, that was changed."""
    if path.is_dir():
        copy = shutil.copytree(path, folder / path.name)
        found = rng.choice(sorted(part for part in copy.rglob("*") if part.is_file()))
    else:
        copy = found = folder / path.name
        shutil.copytree(path.parent, folder, dirs_exist_ok=True) if "cert" in path.name else None
        found.write_bytes(path.read_bytes())
    found.write_bytes(mutated(found.read_bytes(), found.name, rng))
    return copy


def faults_of(kind, count, files, read, folder):
    others = {name: str(path) for name, path in files.items()}
    faults = []
    for number in range(count):
        rng = random.Random(f"{kind} {number}")
        (folder / str(number)).mkdir()
        path = changed(files[kind], folder / str(number), rng)
        fault = read(kind, str(path), others)
        if fault is not None:
            faults.append((number, fault))
        shutil.rmtree(folder / str(number))
    return faults


@pytest.mark.parametrize("kind", sorted({*READERS} - {"saved model", "keras, decided"}))
def test_a_changed_file_gets_an_answer_or_one_line(kind, files, tmp_path):
    assert faults_of(kind, 9, files, reading, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_changed_files_get_an_answer_or_one_line(kind, all_files, reader, tmp_path):
    """2,000 in all: most of those that cost least."""
    count = SLOW.get(kind, 200)
    assert faults_of(kind, count, all_files, reader.read, tmp_path) == []


def test_a_fault_is_found(files, monkeypatch):
    assert "KeyError" in reading("onnx", str(files["onnx"]), {})
    monkeypatch.setitem(READERS, "onnx", lambda *_: sys.exit(3))
    assert "the process ends by 3" in reading("onnx", "", {})
    monkeypatch.setitem(READERS, "onnx", lambda *_: _command((0,), "verify", "no", "file"))
    assert "exit code 2, 1 lines" in reading("onnx", "", {})


@pytest.mark.slow
def test_a_process_that_dies_is_told_and_replaced(files, reader, tmp_path):
    assert "KeyError" in reader.read("onnx", str(files["onnx"]), {})
    reader.kill()
    assert "died with -9" in reader.read("onnx", str(files["onnx"]), {})
    assert reader.read("keras", str(files["keras"]), {}) is None


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_code_in_a_file_is_not_run(name, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trace, path = tmp_path / "trace", tmp_path / name
    code = keras.layers.Lambda(lambda x: (open("trace", "w").close(), x)[1])
    keras.Sequential([keras.Input((2,)), code]).save(path)
    trace.unlink()
    assert main(["verify", str(path), str(files["vnnlib"])]) == 2
    assert "unsafe" in capsys.readouterr().err and not trace.exists()
    keras.models.load_model(path, compile=False, safe_mode=False)
    assert trace.exists()
