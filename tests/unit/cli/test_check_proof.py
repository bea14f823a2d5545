"""The commands `verify --proof` and `check-proof`: a proof on its way, answers and exit codes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

import deel_lip_tf
from deel_lip_tf import __main__ as command_line
from tests.unit.checking import files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network whose only output is at most 2 on the box, and questions about it."""
    folder = tmp_path_factory.mktemp("proofs")
    ones = np.ones((2, 1), np.float32), np.zeros(1, np.float32)
    files.saved(folder / "model.onnx", [ones, (np.ones((1, 1), np.float32), ones[1])])
    for name, threshold in {"unsat": 2.1, "sat": 1.9, "other": 2.2, "close": 2.0}.items():
        text = files.question(2, 1, f"({'>' if name == 'close' else '>='} Y_0 {threshold})")
        (folder / f"{name}.vnnlib").write_text(text)
    (folder / "new.vnnlib").write_text("(vnnlib-version <2.0>)")
    (folder / "text.txt").write_text("text")
    return folder


def run(capsys, *arguments):
    return command_line.main([*map(str, arguments)]), *capsys.readouterr()


def test_a_proof_is_written_and_confirmed(folder, capsys, tmp_path):
    model, question, proof = folder / "model.onnx", folder / "unsat.vnnlib", tmp_path / "proof"
    code, page, errors = run(capsys, "verify", model, question, "--proof", proof)
    assert (code, page, errors) == (0, "unsat\n", "")
    code, page, errors = run(capsys, "check-proof", model, question, proof)
    assert (code, page[:10], errors) == (0, "confirmed:", "")
    code, page, errors = run(capsys, "check-proof", model, folder / "other.vnnlib", proof)
    assert (code, errors) == (1, "") and page.startswith("rejected: the proof is about other files")
    code, page, errors = run(capsys, "check-proof", model, question, folder / "text.txt")
    assert (code, errors) == (1, "") and page.startswith("rejected: a file is malformed")


def test_there_is_no_proof_of_what_is_not_so(folder, capsys, tmp_path):
    model, proof = folder / "model.onnx", tmp_path / "proof"
    code, page, errors = run(capsys, "verify", model, folder / "sat.vnnlib", "--proof", proof)
    assert (code, page[:3], errors) == (10, "sat", "") and not proof.exists()


def test_other_answers_come_without_a_proof(folder, capsys, tmp_path, monkeypatch):
    """As if the search had left the question to the other methods."""
    from deel_lip_tf.verify.search.inputs.record import Record

    monkeypatch.setattr(Record, "is_proof", property(lambda self: False))
    arguments = folder / "model.onnx", folder / "unsat.vnnlib", "--proof", tmp_path / "proof"
    code, page, errors = run(capsys, "verify", *arguments)
    assert (code, page) == (0, "unsat\n") and errors.startswith("no proof was written")
    assert not (tmp_path / "proof").exists()


WRONG = {
    "another format": (["text.txt", "unsat.vnnlib", "--proof", "p"], "that the checker reads"),
    "VNN-LIB 2.0": (["model.onnx", "new.vnnlib", "--proof", "p"], "of VNN-LIB 1.0"),
    "no folder": (["model.onnx", "unsat.vnnlib", "--proof", "no/p"], "there is no folder"),
    "no model": (["none.onnx", "unsat.vnnlib", "--proof", "p"], "MODEL: there is no file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_proven_is_refused_first(name, folder, capsys):
    arguments, reason = WRONG[name]
    arguments = [one if one == "--proof" else folder / one for one in arguments]
    code, page, errors = run(capsys, "verify", *arguments)
    assert (code, page, errors.count("\n")) == (2, "", 1) and reason in errors


def test_a_proof_that_is_not_there(folder, capsys):
    code, page, errors = run(
        capsys, "check-proof", folder / "model.onnx", folder / "unsat.vnnlib", folder / "none"
    )
    assert (code, page, errors.count("\n")) == (2, "", 1) and "No such file" in errors


def test_the_checker_needs_no_framework_and_no_solver(folder, tmp_path):
    """Of the package, it loads its own modules and the command line."""
    model, question, proof = folder / "model.onnx", folder / "unsat.vnnlib", tmp_path / "proof"
    command_line.main(["verify", str(model), str(question), "--proof", str(proof)])
    arguments = ["check-proof", *map(str, (model, question, proof))]
    code = (
        f"import sys; from deel_lip_tf.__main__ import main; main({arguments}); "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('deel_lip_tf', 'keras', 'tensorflow')))"
    )
    package = str(Path(deel_lip_tf.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=package, timeout=300
    )
    first, loaded = done.stdout.splitlines()
    assert first.startswith("confirmed"), done.stderr
    modules = {name.split(".")[1] for name in eval(loaded) if "." in name}
    assert not {name for name in eval(loaded) if not name.startswith("deel_lip_tf")}
    assert not modules & {"verify", "formats", "semantics"}
