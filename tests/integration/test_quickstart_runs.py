"""Whole runs of the main job, as a command."""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import keras
import pytest

from deel_lip_tf import certificates
from deel_lip_tf.cli.quickstart import network
from tests._oracles.sources import SOURCE
from tests._tables.quickstart_inputs import arrays, run_in_process, saved

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")

pytest.importorskip("foolbox", reason="needs the demo extra")
pytest.importorskip("matplotlib", reason="needs the demo extra")
pytest.importorskip("sklearn", reason="needs the demo extra")

MNIST = SOURCE / ".." / "shared" / "data" / "mnist_10k.npz"


def environment():
    clean = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    return {**clean, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def command(folder, *arguments):
    return [sys.executable, "-m", "deel_lip_tf", "quickstart", "--out", str(folder), *arguments]


def run(folder, *arguments):
    return subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, env=environment(), timeout=600
    )


def page_of(text):
    """The page without what differs between two folders."""
    start = text.index("deel_lip_tf ")
    return "\n".join(
        line
        for line in text[start:].strip().splitlines()
        if not line.startswith(("SavedModel", "Written"))
    )


def percentage(page, pattern):
    return float(re.search(pattern, page, re.MULTILINE).group(1))


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


ALL_FILES = ["adversarials.png", "certificates.png", "report.txt", "saved_model"]


@pytest.mark.slow
def test_digits_reach_the_promised_accuracies_and_nothing_breaks(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    page = (tmp_path / "report.txt").read_text()
    assert page.strip() in done.stdout
    assert percentage(page, r"^Clean accuracy (\S+)%") >= 97
    assert percentage(page, r"^  0\.25 +(\S+)%") >= 85
    assert re.search(r"^certificates broken: 0 of 4\d\d$", page, re.MULTILINE)
    assert files_of(tmp_path) == ALL_FILES


@pytest.mark.slow
def test_a_seed_makes_runs_repeatable(tmp_path):
    path = saved(tmp_path, **arrays(size=(6, 6), count=90))
    options = ("--data", path, "--epochs", "2", "--seed")
    pages = []
    for name, seed in (("first", "7"), ("again", "7"), ("other", "8")):
        out = tmp_path / name
        keras.utils.clear_session()  # the names of layers are counted
        assert run_in_process(["quickstart", "--out", str(out), *options, seed]) == 0
        pages.append(page_of((out / "report.txt").read_text()))
    assert pages[0] == pages[1]
    assert pages[0].replace("seed 7", "seed 8") != pages[2]


@pytest.mark.slow
@pytest.mark.parametrize("loss", network.LOSS_ARGUMENTS)
def test_every_loss_trains_on_a_file_of_odd_colour_images(loss, tmp_path):
    path = saved(tmp_path, **arrays(size=(5, 3, 3), count=60))
    out = tmp_path / "out"
    arguments = ["quickstart", "--data", path, "--epochs", "1", "--loss", loss, "--out", str(out)]
    assert run_in_process(arguments) == 0
    page = (out / "report.txt").read_text()
    assert f"trained with {loss}(" in page and "60 training images 5x3x3, 3 classes" in page
    assert re.search(r"^certificates broken: 0 of", page, re.MULTILINE)
    assert certificates.load(out / "saved_model").bound.value == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_ctrl_c_during_training_still_saves_and_reports(tmp_path):
    path, out = saved(tmp_path, **arrays(size=(6, 6), count=90)), tmp_path / "out"
    process = subprocess.Popen(
        command(out, "--data", path, "--epochs", "100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        for line in process.stdout:
            if line.startswith("Epoch 3/"):
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "STOPPED EARLY by Ctrl-C" in output
    assert re.search(r"^certificates broken: 0 of", output, re.MULTILINE)
    assert files_of(out) == ALL_FILES


@pytest.mark.slow
def test_an_error_of_the_real_command_is_one_line(tmp_path):
    done = run(tmp_path, "--data", "nowhere.npz")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "python -m deel_lip_tf: error: --data: there is no file 'nowhere.npz'"
    ]


def test_a_broken_certificate_is_exit_code_1(tmp_path, monkeypatch):
    """With radii twice as large as proven, the attacks must win and the job must say so."""
    from deel_lip_tf import certificates

    honest = certificates.certify

    def boastful(*args, **kwargs):
        certificate = honest(*args, **kwargs)
        return SimpleNamespace(
            label=certificate.label,
            radius=100 * certificate.radius,
            certified_accuracy=certificate.certified_accuracy,
        )

    monkeypatch.setattr(certificates, "certify", boastful)
    path = saved(tmp_path, **arrays(size=(4, 4), count=60))
    arguments = ["quickstart", "--data", path, "--epochs", "3", "--out", str(tmp_path / "out")]
    assert run_in_process(arguments) == 1
    broken = re.search(
        r"^certificates broken: (\d+) of", (tmp_path / "out/report.txt").read_text(), re.M
    )
    assert int(broken.group(1)) > 0


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.exists(), reason="needs ../shared/data/mnist_10k.npz")
def test_mnist_in_ten_epochs(tmp_path):
    done = run(tmp_path, "--data", str(MNIST), "--epochs", "10")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.txt").read_text()
    assert percentage(page, r"^Clean accuracy (\S+)%") >= 95
    assert re.search(r"^certificates broken: 0 of \d+$", page, re.MULTILINE)
