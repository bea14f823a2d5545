"""A figure is the value of a cell of a notebook, and nothing else happens."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deel_lip_tf import plots

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib import image


def test_a_notebook_is_handed_the_picture():
    figure = plots.curves([1.0, 2.0])
    pixels = image.imread(io.BytesIO(figure._repr_png_()))
    assert pixels.shape[:2] == (4.0 * 90, 6.5 * 90)
    assert np.unique(pixels.reshape(-1, 4), axis=0).shape[0] > 2  # something is drawn


def test_pyplot_is_not_imported():
    code = (
        "import sys; from deel_lip_tf import plots; print('matplotlib' in sys.modules); "
        "plots.curves([1.0])._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.stdout.split() == ["False", "False"]


def test_nothing_else_of_the_package_draws():
    package = Path(plots.__file__).parents[1]
    importing = re.compile(r"^\s*(?:from|import) matplotlib", re.MULTILINE)
    modules = [path.relative_to(package) for path in package.rglob("*.py")]
    found = {path for path in modules if importing.search((package / path).read_text("utf-8"))}
    assert found and {path.parts[0] for path in found} == {"plots"}
