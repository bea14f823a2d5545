"""The library on PyTorch, where TensorFlow cannot be imported: tests in a process of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch"),
]

ROOT = Path(__file__).parents[2]


def test_on_torch():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests._oracles.without_tensorflow"]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTEST_ADDOPTS": ""}
    found = subprocess.run(
        [*command, "tests/properties/use/test_torch.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-1000:]
    assert " passed" in found.stdout and " skipped" not in found.stdout
