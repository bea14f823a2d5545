"""The scripts of `notebooks/` run from the first line to the last, on little data."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

FOLDER = SOURCE / "notebooks"
if not FOLDER.exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)


pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def data(rng, tmp_path):
    """Images of two classes, bright on one side or on the other."""
    path = tmp_path / "data.npz"
    arrays = {}
    for part, n in (("train", 64), ("test", 24)):
        labels = np.arange(n) % 2
        images = rng.integers(0, 60, (n, 8, 8))
        images[labels == 0, :, :4] += 190
        images[labels == 1, :, 4:] += 190
        arrays |= {f"x_{part}": images.astype("uint8"), f"y_{part}": labels}
    np.savez(path, **arrays)
    return str(path)


def run(name, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    names = runpy.run_path(str(FOLDER / name), run_name="__main__")
    return names, capsys.readouterr().out


def test_every_script_is_run():
    here = Path(__file__).read_text(encoding="utf-8")
    assert {path.name for path in FOLDER.glob("*.py")} == set(re.findall(r'run\(\s*"(.*?)"', here))


@pytest.mark.slow
def test_four_losses(data, monkeypatch, capsys):
    names, out = run("four_losses.py", monkeypatch, capsys, data, "6")
    assert len(names["rows"]) == 4 and "tau = 100" in out
    for _, accuracy, certificate, bound in names["rows"]:
        assert accuracy > 0.9 and 0 < certificate < 8 and bound <= 1 + 1e-5


@pytest.mark.slow
def test_learned_margins(data, monkeypatch, capsys):
    names, out = run("learned_margins.py", monkeypatch, capsys, data, "2")
    assert "largest distance to the prediction" in out and "saved and reloaded" in out
    assert (names["loss"].hinge_margins.numpy() > 0.01).all()


@pytest.mark.slow
def test_robust_classifier(data, monkeypatch, capsys):
    foolbox = pytest.importorskip("foolbox")
    carlini_wagner = foolbox.attacks.L2CarliniWagnerAttack

    def short(**arguments):
        return carlini_wagner(**arguments | dict(binary_search_steps=2, steps=20))

    monkeypatch.setattr(foolbox.attacks, "L2CarliniWagnerAttack", short)
    _, out = run("robust_classifier.py", monkeypatch, capsys, data, "2")
    assert "alpha = 49 here" in out and "certificates broken: 0 of 10" in out


@pytest.mark.slow
def test_verification_tutorial(data, monkeypatch, capsys, tmp_path):
    tf.config.run_functions_eagerly(False)
    arguments = (data, "3", "6", str(tmp_path), "2")
    names, out = run("verification_tutorial.py", monkeypatch, capsys, *arguments)
    proven, refuted = names["proof"] < 0, names["refutation"] >= 0
    assert proven.any() and not (proven & refuted).any()
    assert set(names["answer"].status) <= {"robust", "falsified", "unknown"}
    assert (names["answer"].status == "robust")[proven].all()
    for name in ("status.png", "curves.png", "model.keras", "question.vnnlib"):
        assert (tmp_path / name).exists()
    assert "written:" in out
