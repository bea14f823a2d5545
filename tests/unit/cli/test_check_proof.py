"""The commands `verify --proof` and `check-proof`: a proof on its way, answers and exit codes."""

import gzip
import io
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

import deel_lip_tf
from deel_lip_tf import __main__ as command_line
from deel_lip_tf.checking import network, proof
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


@pytest.mark.parametrize(
    "condition", ["(>= X_0 2.0)", "(<= 1.0 0.0)", "(or (> X_1 3) (< X_0 -2))", "(< Y_0 Y_0)"]
)
def test_what_no_input_satisfies_needs_no_leaf(condition, folder, capsys, tmp_path):
    question, proof = tmp_path / "question.vnnlib", tmp_path / "proof"
    question.write_text(files.question(2, 1, condition, "(>= Y_0 0.0)"))
    model = folder / "model.onnx"
    assert run(capsys, "verify", model, question, "--proof", proof) == (0, "unsat\n", "")
    code, page, errors = run(capsys, "check-proof", model, question, proof)
    assert (code, page[:10], errors) == (0, "confirmed:", "")


def test_there_is_no_proof_of_what_is_not_so(folder, capsys, tmp_path):
    model, proof = folder / "model.onnx", tmp_path / "proof"
    code, page, errors = run(capsys, "verify", model, folder / "sat.vnnlib", "--proof", proof)
    assert (code, page[:3], errors) == (10, "sat", "") and not proof.exists()


def test_conditions_that_relate_inputs_are_decided_without_a_proof(folder, capsys, tmp_path):
    """The format knows rows of outputs alone."""
    question, proof = tmp_path / "question.vnnlib", tmp_path / "proof"
    question.write_text(files.question(2, 1, "(>= Y_0 (+ X_0 X_1 2.1))"))
    code, page, errors = run(capsys, "verify", folder / "model.onnx", question, "--proof", proof)
    assert (code, page) == (0, "unsat\n") and "relate inputs" in errors and not proof.exists()


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


# --- files that are made to harm ----------------------------------------------------------------

TREE = b"(and " * 400000, b"(assert " + b"(+ " * 5000 + b"Y_0" + b" 1)" * 5000 + b")"
DISJUNCTION = b"(or " + b"(and (<= Y_0 0) (<= Y_0 1)) " * 60 + b")"
PROPERTIES = {
    "open brackets": TREE[0],
    "a deep sum": TREE[1],
    "too many alternatives": b"(assert (and " + DISJUNCTION * 3 + b"))",
    "too many rows": b"(assert (and " + DISJUNCTION * 2 + b"(<= Y_0 0)" * 2000 + b"))",
    "a number of many digits": b"(assert (<= Y_0 " + b"9" * 1000000 + b"))",
    "a large exponent": b"(assert (<= Y_0 1e999999999999))",
    "no text": b"\xff\xfe" * 1000,
    "more bytes than are read": b" " * (2**24 + 1),
    "a bomb": gzip.compress(b" " * 2**25),
    "half an archive": gzip.compress(b"(assert (<= Y_0 0))" * 1000)[:60],
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_that_are_made_to_harm(name, folder, capsys, tmp_path):
    """Behind declarations, where they are texts: refused by both commands, in one line."""
    head, data = (folder / "unsat.vnnlib").read_bytes(), PROPERTIES[name]
    question = tmp_path / "question.vnnlib"
    question.write_bytes(data if data[:2] == b"\x1f\x8b" else head + data)
    begin = time.process_time()
    code, page, errors = run(capsys, "check-proof", folder / "model.onnx", question, question)
    assert (code, page.count("\n"), errors) == (1, 1, "") and page.startswith("rejected: ")
    assert time.process_time() - begin < 20


def chain_of(given, depth):
    """A tree each of whose nodes has a leaf below and a node above."""
    tail = np.tile([proof.LEAF, 0], depth)
    tail[-1] = proof.LEAF
    axis = np.concatenate([[0], tail])
    own = {name: np.repeat(given[name], depth + 1, axis=0) for name in ("multipliers", "betas")}
    slopes = np.repeat(given["slopes"], depth + 1, axis=0)
    return {**given, **own, "slopes": slopes, "axis": axis, "at": np.ones(len(axis))}


def member(header, data=b""):
    """A file of an archive that says of itself what it likes."""
    text = (header + "\n").encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def archive(given, **members):
    """A proof, some of whose files are others."""
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in given.items() if name not in members})
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archived:
        for name, data in members.items():
            archived.writestr(f"{name}.npy", data)
    return file.getvalue()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000,), }"
PROOFS = {
    "a shape without data": lambda given: archive(given, at=member(HUGE)),
    "a negative shape": lambda given: archive(given, at=member(HUGE.replace("1", "-1"))),
    "a header of many digits": lambda given: archive(
        given, at=member(HUGE.replace("1", "1" * 9000))
    ),
    "a header that is deep": lambda given: archive(given, at=member("(" * 9000)),
    "an object": lambda given: {**given, "at": np.array([{}], object)},
    "texts": lambda given: {**given, "at": np.array(["0.5"])},
    "complex numbers": lambda given: {**given, "betas": given["betas"] + 1j},
    "dates": lambda given: {**given, "at": np.array(["2000-01-01"], "datetime64[D]")},
    "a bomb": lambda given: archive(given, more=bytes(2**21)),
    "too many nodes": lambda given: {**given, "axis": np.full(2**20 + 1, proof.LEAF, np.int8)},
    "more roots than leaves": lambda given: {**given, "axis": np.full(1, 2**62)},
    "numbers beyond integers": lambda given: {**given, "axis": np.full(1, 1e300)},
    "columns that are not there": lambda given: {**given, "columns": np.array([7])},
    "no columns": lambda given: {**given, "columns": np.zeros((0, 1))},
    "one array alone": lambda given: member(HUGE.replace("100000000000", "1"), bytes(8)),
}


@pytest.fixture(scope="module")
def given(folder):
    """A model, a question, and the arrays of a proof."""
    model, question = folder / "model.onnx", folder / "unsat.vnnlib"
    command_line.main(["verify", str(model), str(question), "--proof", str(folder / "proof")])
    with np.load(folder / "proof") as arrays:
        return model, question, dict(arrays)


@pytest.mark.parametrize("name", PROOFS)
def test_proofs_that_are_made_to_harm(name, given, capsys, tmp_path, monkeypatch):
    model, question, arrays = given
    monkeypatch.setattr(proof, "MOST_BYTES", 2**21)
    data, path = PROOFS[name](arrays), tmp_path / "proof"
    path.write_bytes(data) if isinstance(data, bytes) else files.stored(path, data)
    begin = time.process_time()
    code, page, errors = run(capsys, "check-proof", model, question, path)
    assert (code, page.count("\n"), errors) == (1, 1, "") and page.startswith("rejected: ")
    assert time.process_time() - begin < 5


def test_a_deep_tree_is_no_fault(given, capsys, tmp_path):
    """Trees are walked without recursion."""
    model, question, arrays = given
    path = files.stored(tmp_path / "proof", chain_of(arrays, 400))
    code, page, errors = run(capsys, "check-proof", model, question, path)
    assert (code, errors) == (0, "") and "801 nodes, 401 leaves" in page


def test_networks_that_are_made_to_harm(given, capsys, tmp_path, monkeypatch):
    model, question, _ = given
    for limit, name in ((proof, "MOST_BYTES"), (network, "MOST_NUMBERS")):
        with monkeypatch.context() as patch:
            patch.setattr(limit, name, 2)
            code, page, errors = run(capsys, "check-proof", model, question, question)
            assert (code, page.count("\n"), errors) == (1, 1, "") and "more than 2" in page
    (tmp_path / "bomb.onnx.gz").write_bytes(gzip.compress(bytes(2**24)))
    monkeypatch.setattr(proof, "MOST_BYTES", 2**20)
    for command in (["check-proof"], ["verify", "--proof", str(tmp_path / "proof")]):
        arguments = [*command[1:], tmp_path / "bomb.onnx.gz", question]
        arguments += [question] if len(command) == 1 else []
        code, page, errors = run(capsys, command[0], *arguments)
        assert code in (1, 2) and "more than 1048576 bytes" in page + errors
        assert (page + errors).count("\n") == 1


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
