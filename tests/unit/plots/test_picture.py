"""A figure is the value of a cell of a notebook, and nothing else happens."""

import io
import subprocess
import sys

import numpy as np
import pytest

from deel_lip_tf import plots

pytest.importorskip("matplotlib", reason="needs the demo extra")

from matplotlib import image


def test_a_notebook_is_handed_the_picture():
    figure = plots.curves([1.0, 2.0])
    pixels = image.imread(io.BytesIO(figure._repr_png_()))
    assert pixels.shape[:2] == tuple(round(figure.dpi * inches) for inches in (4.0, 6.5))
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
