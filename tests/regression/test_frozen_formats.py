"""Files of earlier releases in the formats of other tools, and what is read from them."""

import numpy as np
import pytest
import tensorflow as tf

from tests._oracles.tolerances import SAME_FLOAT32
from tests.regression.frozen_files import RELEASES, every_release, load, read

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf import verify  # noqa: E402
from tests._oracles.onnx_oracles import outputs_of  # noqa: E402

every_onnx = pytest.mark.parametrize(
    "path",
    [path for release in RELEASES for path in sorted(release.glob("onnx/*.onnx"))],
    ids=lambda path: path.stem,
)


@every_onnx
def test_onnx_files_are_read(path):
    stored, model = read(path.with_suffix(".npz")), verify.from_onnx(path)
    np.testing.assert_allclose(model(stored["x"]), stored["outputs"], **SAME_FLOAT32)


@every_onnx
def test_onnx_files_are_written_as_they_were(path, tmp_path):
    """With the same names and shapes at their ends; what is between may be written otherwise."""
    stored = read(path.with_suffix(".npz"))
    verify.to_onnx(load(path.parents[1] / "models" / f"{path.stem}.keras"), tmp_path / "again.onnx")
    old, new = onnx.load(path), onnx.load(tmp_path / "again.onnx")
    assert [*new.graph.input, *new.graph.output] == [*old.graph.input, *old.graph.output]
    assert (new.ir_version, new.opset_import) == (old.ir_version, old.opset_import)
    np.testing.assert_allclose(outputs_of(new, stored["x"]), stored["outputs"], **SAME_FLOAT32)


@every_onnx
def test_bounds_of_onnx_files_get_tighter(path):
    stored = read(path.with_suffix(".npz"))
    model, domain = verify.from_onnx(path), verify.box(stored["x"] - 0.1, stored["x"] + 0.1)
    for method in {key.split()[0] for key in stored if " " in key}:
        lower, upper = stored[f"{method} lower"], stored[f"{method} upper"]
        found, slack = verify.bounds(model, domain, method=method), 1e-12 * np.abs(upper - lower)
        assert (found.lower >= lower - slack).all() and (found.upper <= upper + slack).all()
        # The center of a box is in it, but for what the evaluator rounded.
        assert (found.lower <= stored["outputs"]).all() and (stored["outputs"] <= found.upper).all()


@every_release
def test_questions_are_written_and_read_as_they_were(release, tmp_path):
    pytest.importorskip("vnnlib", minversion="1.0", reason="needs the verify extra")
    stored, again = read(release / "vnnlib/question.npz"), tmp_path / "again.vnnlib"
    model, x, label = load(release / "models/margins.keras"), stored["x"], int(stored["label"])
    for path in release.glob("vnnlib/*.vnnlib"):
        eps, version = float(stored[f"eps {path.stem}"]), path.stem
        verify.to_vnnlib(again, model, x, label, eps, clip=None, version=version)
        assert again.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
        conjunctions = verify.read_vnnlib(path).conjunctions
        assert len(conjunctions) == 2  # one for each other class
        for conjunction in conjunctions:
            # rounded outward: by less than this, of numbers below 4
            np.testing.assert_allclose(conjunction.lower, x - np.float64(eps), rtol=0, atol=1e-15)
            np.testing.assert_allclose(conjunction.upper, x + np.float64(eps), rtol=0, atol=1e-15)


@pytest.mark.slow
@every_release
def test_questions_are_answered_as_they_were(release):
    pytest.importorskip("vnnlib", minversion="1.0", reason="needs the verify extra")
    model = load(release / "models/margins.keras")
    stored = {p: p.with_suffix(".answer").read_text().strip() for p in release.glob("*/*.vnnlib")}
    assert set(stored.values()) == {"sat", "unsat"}
    for path, answer in stored.items():
        assert verify.decide(model, verify.read_vnnlib(path), time_limit=60).status == answer


@every_release
def test_saved_models_are_read(release):
    stored, path = read(release / "saved_model.npz"), release / "saved_model"
    loaded = tf.saved_model.load(path)
    np.testing.assert_allclose(loaded.serve(stored["x"]), stored["outputs"], **SAME_FLOAT32)
    read_back = verify.from_saved_model(path)(stored["x"])
    np.testing.assert_allclose(read_back, stored["outputs"], **SAME_FLOAT32)
