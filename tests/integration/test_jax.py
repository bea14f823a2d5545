"""The library on JAX, where TensorFlow cannot be imported: tests in a process of their own.

The tests of numbers run with JAX's 64-bit types, since their oracles are in float64; what is
JAX's own runs as users have it.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs the jax extra"),
]

ROOT = Path(__file__).parents[2]
RUNS = {
    "as users have it": ("0", ["properties/use/test_jax.py"]),
    "numbers": (
        "1",
        [
            "unit/bounds/test_evaluation.py",
            "unit/layers/test_normalization.py",
            "unit/losses/test_soft.py",
            "unit/test_callbacks.py",
            "unit/test_constraints.py",
            "unit/training/test_certified.py",
        ],
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_on_jax(run):
    has_float64, files = RUNS[run]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests._oracles.without_tensorflow"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_ENABLE_X64": has_float64}
    environment["PYTEST_ADDOPTS"] = ""
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    found = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-1000:]
    assert " passed" in found.stdout
