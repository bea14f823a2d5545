"""The command `verify`: answers, exit codes, and one line for each mistake."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf
from deel_lip_tf import __main__ as command_line
from deel_lip_tf.cli.verify import EXIT_CODES
from deel_lip_tf.formats.keras_files import load_h5
from deel_lip_tf.verify.specification.writing import to_vnnlib

ASK = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (<= 0 X_0 1)) (assert (<= 0 X_1 1))
(assert (>= Y_0 {}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of which `Y_0 = 2 relu(X_0 + X_1)`, so from 0 to 4 on the box, in all formats."""
    pytest.importorskip("onnx", reason="needs the verify extra")
    from deel_lip_tf.formats.onnx.write import to_onnx

    folder = tmp_path_factory.mktemp("verify")
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, "relu"), layers.Dense(2)])
    model.set_weights([np.ones((2, 1)), np.zeros(1), np.array([[2.0, 0.0]]), np.zeros(2)])
    model.save(folder / "model.keras")
    model.export(folder / "saved_model", verbose=False)
    to_onnx(model, folder / "model.onnx")
    (folder / "sat.vnnlib").write_text(ASK.format(3.9))
    (folder / "unsat.vnnlib").write_text(ASK.format(4.1))
    # False, and by nothing at all: rounding forbids a proof, and equality in one corner is no `>`.
    (folder / "unknown.vnnlib").write_text(ASK.format(4.0).replace(">= Y_0", "> Y_0"))
    (folder / "deep.vnnlib").write_text(ASK.format("(- " * 20000 + "1" + ")" * 20000))
    (folder / "huge.vnnlib").write_text(ASK.format("(* 1e308 1e308 Y_1)"))
    (folder / "broken.vnnlib").write_text("(assert (<= Y_0")
    (folder / "text.txt").write_text("text")
    (folder / "broken.keras").write_text("text")
    (folder / "empty").mkdir()
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.ops.sin(inputs)).export(folder / "sines", verbose=False)
    (folder / "broken.onnx").write_bytes(b"\xff\xfe")
    to_vnnlib(folder / "large.vnnlib", keras.Sequential([keras.Input((3,)), layers.Dense(2)]),
              np.zeros(3), 0, 0.1)  # fmt: skip
    return folder


def run(capsys, folder, model, question, *options):
    arguments = ["verify", str(folder / model), str(folder / question), *options]
    code = command_line.main(arguments)
    return code, *capsys.readouterr()


@pytest.mark.parametrize("model", ["model.keras", "model.onnx", "saved_model"])
@pytest.mark.parametrize(("status", "code"), [("unsat", 0), ("sat", 10), ("unknown", 20)])
def test_answers_and_exit_codes(model, status, code, folder, capsys):
    limit = "1.5" if status == "unknown" else "100"
    returned, page, errors = run(capsys, folder, model, f"{status}.vnnlib", "--time-limit", limit)
    assert (returned, errors) == (code, "") and EXIT_CODES[status] == code
    assert page.splitlines()[0] == status
    values = {name: float(v) for name, v in re.findall(r"\((\w_\d) (\S+?)\)", page)}
    if status != "sat":
        assert page == f"{status}\n"
        return
    assert set(values) == {"X_0", "X_1", "Y_0", "Y_1"}
    assert 0 <= values["X_0"] <= 1 and 0 <= values["X_1"] <= 1
    assert values["Y_0"] >= 3.9
    assert values["Y_0"] == pytest.approx(2 * (values["X_0"] + values["X_1"]))


FRESH = """
import sys
from deel_lip_tf.__main__ import main
code = main(["verify", *sys.argv[1:]])
print(code, sorted({"keras", "tensorflow", "jax"} & set(sys.modules)))
"""


def in_a_fresh_process(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(deel_lip_tf.__file__).parent.parent)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("status", "code"), [("unsat", 0), ("sat", 10)])
def test_an_onnx_file_needs_no_framework(status, code, folder):
    lines = in_a_fresh_process(folder / "model.onnx", folder / f"{status}.vnnlib")
    assert (lines[0], lines[-1]) == (status, f"{code} []")


def test_inputs_that_float32_has_not_got(folder, capsys):
    """`X_1 = 0.1` is no float32 number: what is nearest to it counts where somebody asks for it."""
    text = ASK.format(1.5).replace("(<= 0 X_1 1)", "(= X_1 0.1)")
    (folder / "fixed.vnnlib").write_text(text)
    code, page, _ = run(capsys, folder, "model.onnx", "fixed.vnnlib", "--time-limit", "2")
    assert (code, page) == (20, "unknown\n")
    code, page, _ = run(capsys, folder, "model.onnx", "fixed.vnnlib", "--nearest-inputs")
    assert code == 10 and f"(X_1 {np.float64(np.float32(0.1))})" in page
    off = float(page.splitlines()[-1].removeprefix("; inputs are off their bounds by at most "))
    np.testing.assert_allclose(off, np.float64(np.float32(0.1)) - 0.1, rtol=1e-2)
    code, page, _ = run(capsys, folder, "model.onnx", "sat.vnnlib", "--nearest-inputs")
    assert code == 10 and ";" not in page


def test_what_has_no_primitives_is_answered_with_keras(folder, tmp_path):
    """`Y = softmax`: only the order of its outputs can be asked."""
    from deel_lip_tf.formats.onnx.write import to_onnx

    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, "softmax")])
    model.set_weights([np.eye(2), np.zeros(2)])
    to_onnx(model, tmp_path / "softmax.onnx")
    (tmp_path / "order.vnnlib").write_text(ASK.format("(+ Y_1 0)"))
    lines = in_a_fresh_process(tmp_path / "softmax.onnx", tmp_path / "order.vnnlib")
    assert lines[0] == "sat" and lines[-1].endswith("'keras', 'tensorflow']")


WRONG = {
    "no model": ("none.keras", "sat.vnnlib", [], "MODEL: there is no file"),
    "no property": ("model.keras", "none.vnnlib", [], "PROPERTY: there is no file"),
    "other folder": ("empty", "sat.vnnlib", [], "empty' is not a SavedModel"),
    "saved model of another function": ("sines", "sat.vnnlib", [], "not supported: Sin "),
    "other file": ("text.txt", "sat.vnnlib", [], "MODEL must be a"),
    "broken model": ("broken.keras", "sat.vnnlib", [], "cannot be loaded"),
    "broken onnx": ("broken.onnx", "sat.vnnlib", [], "not an ONNX model"),
    "broken property": ("model.keras", "broken.vnnlib", [], "without its '\\)'"),
    "deep property": ("model.keras", "deep.vnnlib", [], "parentheses"),
    "huge property": ("model.keras", "huge.vnnlib", [], "coefficient of Y_1"),
    "other model": ("model.keras", "large.vnnlib", [], "belong together"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line(name, folder, capsys):
    model, question, options, reason = WRONG[name]
    code, page, errors = run(capsys, folder, model, question, *options)
    assert code == 2 and page == ""
    assert errors.count("\n") == 1 and re.search(reason, errors)


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "soon"])
def test_a_wrong_time_limit(limit, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        run(capsys, folder, "model.keras", "sat.vnnlib", "--time-limit", limit)
    assert ended.value.code == 2
    assert "--time-limit" in capsys.readouterr().err


def test_layers_without_a_rule_are_named(folder, capsys):
    parts = [layers.LayerNormalization(name="one"), layers.UnitNormalization(name="two")]
    model = keras.Sequential([keras.Input((2,)), *parts, layers.Dense(2)])
    model.save(folder / "unsupported.keras")
    code, page, errors = run(capsys, folder, "unsupported.keras", "sat.vnnlib")
    assert code == 2 and "'one'" in errors and "'two'" in errors and page == ""


def as_keras_2(path, shape):
    """Rewrites a file of a Sequential model as Keras 2 wrote it, without an `InputLayer`."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"].pop("build_input_shape", None)
        _, *own = config["config"]["layers"]
        for layer in own:
            layer.pop("build_config", None)
        own[0]["config"]["batch_input_shape"] = [None, *shape]
        config["config"]["layers"] = own
        file.attrs["model_config"] = json.dumps(config)


@pytest.mark.filterwarnings("ignore:.*HDF5.*")
@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("first", [layers.Dense(3, "relu"), layers.Conv1D(3, 2)], ids=["1d", "2d"])
def test_files_of_keras_2(first, is_old, tmp_path, rng):
    """Their input shape has a batch, to which Keras 3 adds another one."""
    shape = (4,) if isinstance(first, layers.Dense) else (4, 2)
    first = type(first).from_config(first.get_config())
    model = keras.Sequential([keras.Input(shape), first, layers.Flatten(), layers.Dense(2)])
    path = tmp_path / "model.h5"
    model.save(path)
    if is_old:
        as_keras_2(path, shape)
    read = load_h5(path)
    assert read.input_shape == (None, *shape)
    x = rng.normal(size=(3, *shape)).astype("float32")
    np.testing.assert_array_equal(read.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.filterwarnings("ignore:.*HDF5.*")
def test_a_file_of_keras_2_is_answered(folder, capsys):
    path = folder / "old.h5"
    keras.models.load_model(folder / "model.keras").save(path)
    as_keras_2(path, (2,))
    code, page, _ = run(capsys, folder, "old.h5", "sat.vnnlib")
    assert code == 10 and page.startswith("sat")
