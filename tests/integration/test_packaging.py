"""What is shipped, and whether the README is true."""

import configparser
import importlib
import importlib.metadata
import os
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import deel_lip_tf
import deel_lip_tf as lip
from deel_lip_tf import __main__ as command_line
from tests._oracles.sources import SOURCE, WITHOUT_SOURCE
from tests._oracles.tolerances import SAME_FLOAT32

PACKAGE = Path(deel_lip_tf.__file__).parent
WHEEL = os.environ.get("DEEL_LIP_TF_WHEEL")

needs_source = pytest.mark.skipif(not (SOURCE / "setup.cfg").exists(), reason=WITHOUT_SOURCE)
needs_wheel = pytest.mark.skipif(
    WHEEL is None, reason="no wheel has been built; DEEL_LIP_TF_WHEEL may say where it is"
)


def readme():
    return (SOURCE / "README.md").read_text(encoding="utf-8")


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(SOURCE / "setup.cfg", encoding="utf-8")
    return parser


# --- metadata ---------------------------------------------------------------------------------


@needs_source
def test_the_version_stands_in_one_place():
    assert setup_cfg()["metadata"]["version"] == "attr: deel_lip_tf.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", deel_lip_tf.__version__)
    literal = re.compile(rf"\bversion\b.*{re.escape(deel_lip_tf.__version__)}")
    written = [p for p in SOURCE.glob("*") if p.suffix in (".cfg", ".toml", ".py")]
    assert not [path.name for path in written if literal.search(path.read_text(encoding="utf-8"))]


@needs_source
def test_the_changelog_knows_the_version():
    changelog = (SOURCE / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(deel_lip_tf.__version__)}\]", changelog, re.MULTILINE)


@needs_source
def test_three_dependencies_at_run_time_and_the_extras():
    requirements = setup_cfg()["options"]["install_requires"].split()
    assert sorted(re.match(r"[a-z]+", r).group() for r in requirements) == [
        "keras",
        "numpy",
        "tensorflow",
    ]
    extras = setup_cfg()["options.extras_require"]
    assert {"demo", "datasets", "test", "dev"} <= set(extras)
    assert {"scikit-learn", "matplotlib", "foolbox"} <= set(extras["demo"].split())
    assert {"tensorflow-datasets", "importlib_resources"} <= set(extras["datasets"].split())


@needs_source
def test_the_first_lines_of_the_readme_are_the_metadata():
    """What other projects show as badges, which would need a network to be true."""
    metadata, options = setup_cfg()["metadata"], setup_cfg()["options"]
    pythons = re.findall(r":: (3\.\d+)$", metadata["classifiers"], re.MULTILINE)
    needed = dict(line.split(">=") for line in options["install_requires"].split())
    assert options["python_requires"] == f">={pythons[0]}"
    assert (
        f"Python {pythons[0]} to {pythons[-1]} · Keras {needed['keras']} or later · TensorFlow "
        f"{needed['tensorflow']} or later, or JAX · typed · {metadata['license']}"
    ) in readme().splitlines()


@needs_source
def test_every_extra_is_in_the_readme():
    table = readme().split("| extra | what it is for |")[1].split("\n\n")[0]
    described = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row[:20])}
    assert described == set(setup_cfg()["options.extras_require"])


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_every_folder_of_code_is_a_package():
    """A folder without `__init__.py` imports from the sources and is missing from the wheel."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@needs_wheel
def test_the_wheel_holds_the_package_and_nothing_else():
    names = set(zipfile.ZipFile(WHEEL).namelist())
    assert "deel_lip_tf/py.typed" in names
    sources = (SOURCE / "deel_lip_tf").rglob("*.py")
    assert {path.relative_to(SOURCE).as_posix() for path in sources} <= names
    roots = {name.split("/")[0] for name in names}
    assert roots == {"deel_lip_tf", f"deel_lip_tf-{deel_lip_tf.__version__}.dist-info"}
    assert any(name.endswith("LICENSE") for name in names)


@needs_wheel
def test_what_is_tested_is_the_installed_wheel():
    assert PACKAGE.is_relative_to(
        Path(importlib.metadata.distribution("deel_lip_tf").locate_file(""))
    )
    assert importlib.metadata.version("deel_lip_tf") == deel_lip_tf.__version__


# --- README -----------------------------------------------------------------------------------


def features():
    """Rows of the table of features: a module and the names it is said to offer."""
    rows = re.findall(r"^\| `(deel_lip_tf[\w.]*)` \| (.*?) \|", readme(), re.MULTILINE)
    return [(module, name) for module, cell in rows for name in re.findall(r"`(\w+)`", cell)]


@needs_source
def test_the_table_of_features_names_what_is_there():
    table = features()
    assert len(table) > 40
    missing = [row for row in table if not hasattr(importlib.import_module(row[0]), row[1])]
    assert missing == []


@needs_source
@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    example, _ = code_blocks("python")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(example, "README.md", "exec"), names)
    assert names["certificate"].certified_accuracy([0.1])[0] > 0.5
    assert (tmp_path / "digits_classifier" / "saved_model.pb").exists()
    assert "total" in capsys.readouterr().out


@needs_source
def test_the_example_of_a_regression_runs(capsys):
    _, example = code_blocks("python")
    names = {"keras": keras, "lip": lip}
    exec(compile(example, "README.md", "exec"), names)
    outputs = np.asarray(names["regressor"](names["inputs"][:4] + names["tolerance"]))
    # the model rounds to float32, and a corner may be where the exact function is largest
    rounding = SAME_FLOAT32["atol"]
    assert (names["proven"].lower - rounding <= outputs).all()
    assert (outputs <= names["proven"].upper + rounding).all()


@needs_source
def test_both_commands_are_one_chain_from_an_empty_environment():
    quickstart, tests = code_blocks("bash")
    for command in (quickstart, tests):
        assert len(command.strip().splitlines()) == 1
        assert command.startswith("python3 -m venv .venv && ")
    assert '".[demo]"' in quickstart and quickstart.strip().endswith("deel_lip_tf quickstart")
    assert '".[test]"' in tests and "-m pytest" in tests


@needs_source
def test_the_options_of_the_main_job_are_all_in_the_readme(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["quickstart", "--help"])
    known = set(re.findall(r"^  (--[a-z]+)", capsys.readouterr().out, re.MULTILINE))
    assert set(re.findall(r"^\| `(--[a-z]+)", readme(), re.MULTILINE)) == known
