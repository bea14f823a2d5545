"""The library on JAX and PyTorch, where TensorFlow cannot be imported: in processes of their own.

On JAX the tests of numbers run with its 64-bit types, since their oracles are in float64, and XLA
optimizes little, since it would take longer than it saves; what is JAX's own runs as users have it.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = "properties/use/test_jax_and_torch.py"
SHARED = [
    TABLE,
    "unit/bounds/test_evaluation.py",
    "unit/layers/test_normalization.py",
    "unit/losses/test_soft.py",
    "unit/test_callbacks.py",
    "unit/test_constraints.py",
    "unit/training/test_certified.py",
]
# PyTorch compiles nothing, and runs whole folders in the time that JAX takes for a few files.
TABLES = [
    "unit/bounds",
    "unit/certificates",
    "unit/layers",
    "unit/losses",
    "unit/metrics",
    "unit/model",
    "unit/normalizers",
    "unit/test_callbacks.py",
    "unit/test_constraints.py",
    "unit/test_optimizers.py",
    "unit/test_regularizers.py",
    "unit/training/test_certified.py",
]
FOUR_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
# Without the flag XLA takes three times as long to compile; it ends a process whose flag it does
# not know.
QUICKLY = {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}
NUMBERS = {"JAX_ENABLE_X64": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **QUICKLY}
# (backend, environment, files of tests)
RUNS = {
    "jax": ("jax", FOUR_DEVICES, ["properties/use/test_jax.py"]),
    "jax, numbers": ("jax", NUMBERS, SHARED),
    "torch": ("torch", {}, ["properties/use/test_torch.py", TABLE, *TABLES]),
}


def starts(environment):
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(1)"]
    found = subprocess.run(command, env=environment, capture_output=True, check=False)
    return found.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_on_another_backend(run):
    backend, settings, files = RUNS[run]
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}: `pip install {backend}`")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests._oracles.without_tensorflow"]
    here = {"KERAS_BACKEND": backend, "PYTEST_ADDOPTS": ""}
    environment = {**os.environ, **here, **settings}
    if QUICKLY.items() <= settings.items() and not starts(environment):
        del environment["XLA_FLAGS"]
    found = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-1000:]
    if " passed" not in found.stdout and time.time() > float(os.environ.get("TESTS_UNTIL", "inf")):
        pytest.skip("no time left on this machine")
    assert " passed" in found.stdout
