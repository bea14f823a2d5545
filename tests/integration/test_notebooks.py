"""The notebooks: in step with their scripts, with outputs, and run from top to bottom."""

import ast
import re
import runpy

import pytest

from tests._oracles.sources import SOURCE, WITHOUT_SOURCE

FOLDER = SOURCE / "notebooks"
if not FOLDER.exists():
    pytest.skip(WITHOUT_SOURCE, allow_module_level=True)
nbformat = pytest.importorskip("nbformat", reason="needs the test extra")
pytest.importorskip("jupytext", reason="needs the test extra")
pytest.importorskip("nbclient", reason="needs the test extra")

TOOLS = runpy.run_path(str(FOLDER / "execute.py"))
NAMES = TOOLS["NAMES"]
LARGEST = 400_000  # bytes of a notebook

# For each notebook its settings in tests, and what it must print with them.
STAND_IN = {"source": "stand-in"}
SMALL = {
    "1_first_steps": (
        dict(epochs_1d=20, epochs_moons=20, samples=60),
        [r"L = 1: .* proven bound (0\.99|1\.0)", "0 of 1500 points", "largest difference"],
    ),
    "2_robust_mnist": (
        dict(STAND_IN, training_images=200, test_images=40, epochs=2, batch_size=50),
        ["made-up images", "tau = 100", "attained"],
    ),
    "3_hkr_and_fooling": (
        dict(STAND_IN, training_images=200, test_images=40, epochs=2, attack_steps=20),
        ["alpha = 49 here", "certificates broken: 0 of", "by hand"],
    ),
    "4_learned_margins": (
        dict(STAND_IN, training_images=200, test_images=40, epochs=2, settling_epochs=1),
        ["largest distance to the prediction", "'hinge_margins'", "same margins: True"],
    ),
    "5_wasserstein": (
        dict(samples=60, epochs=30),
        ["never above the exact distance: True", "proven constant (0.9|1.0)"],
    ),
    "6_verification": (
        dict(STAND_IN, training_images=200, epochs=4, count=4, limit=2.0),
        ["proven and refuted at once: 0", "crown-ibp", "attack finds nothing", "proven radius"],
    ),
    "7_is_it_true": (
        dict(epochs=2, hunted_minutes=0.01, attacked=12),
        ["0.999 of the certified radius:   0 of", "claims refuted: 0", "exit code 0", "1.1538"],
    ),
    "8_deployment": (
        dict(epochs=2),
        ["SavedModel, served .* 100%", "LiteRT.* 100%", "ONNX .* 100%", "refused: "],
    ),
    "9_monotone": (
        dict(epochs=2, seconds=2.0),
        ["monotone, increasing with bmi: proven", "decreasing with s3: proven", "at most 1: True"],
    ),
    "10_one_class": (
        dict(samples=150, epochs=2, attack_steps=3),
        [r"proven constant (0\.9|1\.0)", "better than the proof: True", "its proven constant"],
    ),
    "11_generative": (
        dict(samples=60, rounds=2, denoiser_epochs=2, iterations=32),
        [
            "never more than there is: True",
            r"rate of the contraction: 0\.9[0-5]",
            "proven at every step: True",
            "distance to the limit holds: True",
        ],
    ),
}

every_notebook = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def written(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    return "".join(one.text for one in outputs_of(notebook) if one.output_type == "stream")


def pictures(notebook):
    return [one for one in outputs_of(notebook) if "image/png" in one.get("data", {})]


def test_every_notebook_has_a_script_and_settings():
    assert list(SMALL) == NAMES
    assert set(NAMES) == {path.stem for path in FOLDER.glob("*.ipynb")}
    readme = (SOURCE / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme) == NAMES


@every_notebook
def test_a_notebook_is_in_step_with_its_script(name, written):
    """Whoever changes one makes the other anew: `python notebooks/execute.py NAME`."""
    cells = [(cell.cell_type, cell.source) for cell in written.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in TOOLS["read"](name).cells]
    assert written.metadata.jupytext.formats == "ipynb,py:percent"


@every_notebook
def test_a_notebook_was_run_from_top_to_bottom_and_shows_its_figures(name, written):
    nbformat.validate(written)
    counts = [cell.execution_count for cell in code_cells(written)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {(one.output_type, one.get("name")) for one in outputs_of(written)}
    assert ("error", None) not in kinds and ("stream", "stderr") not in kinds
    assert len(pictures(written)) > 1
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    unwanted = r"made.up images stand in|WARNING|/(home|root|work|tmp)/"
    assert not re.search(unwanted, printed(written))


@every_notebook
def test_a_notebook_says_first_what_it_needs_and_what_may_be_set(name):
    first, second, *others = TOOLS["read"](name).cells
    assert first.source.startswith("# ") and "**Data:**" in first.source
    assert "**Needs:**" in first.source
    assert second.metadata.tags == ["parameters"]
    assert not any(cell.metadata.get("tags") for cell in others)
    set_here = {node.targets[0].id for node in ast.parse(second.source).body}
    assert set(SMALL[name][0]) <= set_here


@every_notebook
def test_a_notebook_draws_with_the_pictures_of_the_package(name):
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert "matplotlib" not in source and "lip.plots." in source


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs(name, monkeypatch):
    pytest.importorskip("ipykernel", reason="needs the test extra")
    settings, wanted = SMALL[name]
    monkeypatch.setenv("PYTHONPATH", str(SOURCE), prepend=":")
    notebook = TOOLS["executed"](TOOLS["with_parameters"](TOOLS["read"](name), **settings))
    text = printed(notebook)
    assert [pattern for pattern in wanted if not re.search(pattern, text)] == []
    assert pictures(notebook)
