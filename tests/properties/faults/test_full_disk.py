"""A disk that takes no more: one error, the older file kept, nothing half written."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf.__main__ import main
from deel_lip_tf._files.writing import NotWritten
from deel_lip_tf.callbacks import training_state
from deel_lip_tf.cli.hunt.job import save as save_finding
from deel_lip_tf.cli.hunt.target import Finding
from deel_lip_tf.cli.quickstart.export import export_and_compare
from deel_lip_tf.cli.quickstart.figures import _write
from tests._tables.trainings import small_disk

X = np.array([[3.0, 0.0], [0.0, 1.0]])
QUESTION = (
    "(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) "
    "(declare-const Y_1 Real) (assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (>= X_1 0.0)) "
    "(assert (<= X_1 1.0)) (assert (>= Y_0 300.0))"
)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((2,)), *layers])


def certificates(model, path):
    lip.certificates.certify(model, X).save(path)


def figure(model, path):
    _write(lip.plots.certified_accuracy(lip.certificates.certify(model, X)), path)


def finding(model, path):
    fields = dict.fromkeys(Finding.__dataclass_fields__, np.zeros(9))
    save_finding(Finding(**fields), path, "model.keras", 0)


def backup(model, path):
    model.compile("sgd", "mse")
    training_state.write(path, model)


WRITERS = {
    "backup.npz": backup,
    "certificates.npz": certificates,
    "figure.png": figure,
    "finding.npz": finding,
    "model.onnx": lip.verify.to_onnx,
    "model.onnxtxt": lip.verify.to_onnx,
    "question.vnnlib": lambda model, path: lip.verify.to_vnnlib(path, model, X[1], 0, 0.1),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_full_disk_keeps_the_older_file(name, is_there, model, tmp_path):
    path = tmp_path / name
    if is_there:
        WRITERS[name](model, path)
        before = path.read_bytes()
        assert len(before) > 64
    with small_disk(), pytest.raises(NotWritten, match=f"{name}.*what was there is kept"):
        WRITERS[name](model, path)
    assert os.listdir(tmp_path) == ([name] if is_there else [])
    assert not is_there or path.read_bytes() == before


def test_a_certificate_of_an_export_is_kept(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    written = lip.certificates.export_certificate(model, path)
    with small_disk(), pytest.raises(NotWritten):
        lip.certificates.export_certificate(model, path, input_scale=2.0)
    assert lip.certificates.load(path) == written
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [False, True])
def test_the_folder_of_an_export_is_kept(is_there, model, tmp_path):
    folder = tmp_path / "saved_model"
    if is_there:
        folder.mkdir()
        (folder / "older").write_bytes(b"content")
    with small_disk(), pytest.raises(NotWritten, match="saved_model.*what was there is kept"):
        export_and_compare(model, model, folder, X)
    assert os.listdir(tmp_path) == (["saved_model"] if is_there else [])
    assert not is_there or (folder / "older").read_bytes() == b"content"


def asked(model, folder):
    lip.verify.to_onnx(model, folder / "model.onnx")
    (folder / "question.vnnlib").write_text(QUESTION)
    return ["verify", str(folder / "model.onnx"), str(folder / "question.vnnlib")]


def test_a_proof_that_cannot_be_written_has_a_code_of_its_own(model, tmp_path, capsys):
    arguments = [*asked(model, tmp_path), "--proof", str(tmp_path / "proof")]
    with small_disk():
        code = main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert code == 74 and len(lines) == 1
    assert "cannot write" in lines[0] and "proof" in lines[0]
    assert not (tmp_path / "proof").exists() and len(os.listdir(tmp_path)) == 2
    assert main(arguments) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_answer_that_cannot_be_printed_has_a_code_of_its_own(model, tmp_path):
    command = [sys.executable, "-m", "deel_lip_tf", *asked(model, tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 74
    assert done.stderr.splitlines() == [
        "python -m deel_lip_tf: error: [Errno 28] No space left on device"
    ]
