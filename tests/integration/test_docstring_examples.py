"""What `help()` shows is executed: the examples in the docstrings of all public objects."""

import doctest
import importlib.util
import inspect

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from tests.integration.test_house import public_objects

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# The packages that an object cannot do without, and that the library does not depend on.
EXTRAS = {
    **{f"plots.{name}": "matplotlib" for name in lip.plots.__all__},
    "verify.from_onnx": "onnx",
    "verify.to_onnx": "onnx",
    "verify.figures.curve_figure": "matplotlib",
    "verify.figures.status_figure": "matplotlib",
}


def examples_of(name: str, docstring: str, namespace: dict) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(docstring, namespace, name, None, None)


def failures(test: doctest.DocTest) -> str:
    """What the examples print that the docstring does not say; nothing where all is well."""
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("name", list(public_objects()))
def test_example(name, tmp_path, monkeypatch):
    if name in EXTRAS and importlib.util.find_spec(EXTRAS[name]) is None:
        pytest.skip(f"needs {EXTRAS[name]}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    docstring = inspect.getdoc(public_objects()[name])
    test = examples_of(name, docstring, {"lip": lip, "keras": keras, "np": np})
    assert test.examples, "an example, under `Example:`"
    assert failures(test) == ""


@pytest.mark.parametrize(
    "docstring",
    [">>> 1 + 1\n3", ">>> raise ValueError", ">>> unknown", ">>> lip"],
    ids=["wrong", "raises", "unknown", "not imported"],
)
def test_an_example_that_is_not_true_is_found(docstring):
    assert failures(examples_of("planted", docstring, {}))
