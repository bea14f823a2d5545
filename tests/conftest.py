import gc
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two test processes on two cores: more threads for small matrices only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Of what CPUs TensorFlow turns it on by itself is a matter of their instructions; without it, it
# has no convolution of channels that come first.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import pytest

from deel_lip_tf._keras import float64_kept

_STATES = {}
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if keras.backend.backend() == "torch":
    import tests._oracles.torch_arrays
if ON_TENSORFLOW:
    import tests.seeds  # noqa: F401

# What TensorFlow alone computes, reads or writes: verification and its commands, SavedModels, the
# graphs and kernels made for TensorFlow, files of earlier releases that it wrote, and the pages on
# them. The other tests run on every backend, as `tests/integration/test_backends.py` runs them,
# but for those that ask for the fixture `tf`.
_PROOFS_BY_VERIFICATION = ("channels_first", "checked_proofs", "exact_constants", "floatx", "fuzz")
_PROOFS_BY_VERIFICATION += ("nested_models", "parametrizations", "verify_soundness")
collect_ignore_glob = (
    []
    if ON_TENSORFLOW
    else [
        "fuzz/*",
        "integration/*",
        *(f"properties/proofs/test_{name}.py" for name in _PROOFS_BY_VERIFICATION),
        "properties/faults/*",
        "properties/use/test_first_tries.py",
        "properties/use/test_second_derivatives.py",
        "properties/use/test_wrong_arguments.py",
        "regression/*",
        "unit/_validation/test_labels.py",
        "unit/_validation/test_signatures.py",
        "unit/bounds/test_local.py",
        "unit/callbacks/*",
        "unit/certificates/test_samples.py",
        "unit/cli/*",
        "unit/formats/*",
        "unit/layers/compiled/*",
        "unit/layers/test_activations.py",
        "unit/normalizers/orthogonal/test_aoc.py",
        "unit/normalizers/polar/*",
        "unit/normalizers/test_operation.py",
        "unit/normalizers/test_operator_norm.py",
        "unit/semantics/ir/*",
        "unit/semantics/test_rules.py",
        "unit/verify/*",
    ]
)


_SLOW = Path(__file__).with_name("slow.txt").read_text(encoding="utf-8").splitlines()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what `slow.txt` lists: single cases that take long, of tests whose others do not."""
    listed = set(_SLOW)
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Garbage is collected seldom, and not among modules and collected tests: a million objects."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Skips what would begin after `TESTS_UNTIL`, in seconds as of `time.time`: see `.ci/run`."""
    if time.time() > float(os.environ.get("TESTS_UNTIL", "inf")):
        pytest.skip("no time left on this machine")


@pytest.fixture
def tf():
    """TensorFlow, for a test of what it does with the library: skipped on other backends."""
    return pytest.importorskip("tensorflow") if ON_TENSORFLOW else pytest.skip("TensorFlow's own")


@pytest.fixture(autouse=True)
def repeatable(request):
    """Every test starts from the same seeds, whichever ran before it."""
    keras.utils.set_random_seed(0)
    if (shared := getattr(request.module, "RNG", None)) is not None:
        start = _STATES.setdefault(request.module.__name__, shared.bit_generator.state)
        shared.bit_generator.state = start


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def keras_in_float64():
    """Keras's own layers of float64 compute in it, as oracles need them, on every backend."""
    with float64_kept():
        yield


@pytest.fixture
def eagerly():
    """Functions run as Python: tracing a tiny model takes longer than the few runs of its graph."""
    if not ON_TENSORFLOW:
        yield  # there are no such functions
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def unoptimized_graphs():
    """Graphs run as they were traced.

    For tests of what is trained, saved and reported: TensorFlow would spend longer on optimizing
    their graphs than on running them. Numbers are tested on the graphs that users run.
    """
    if not ON_TENSORFLOW:
        yield  # no graph is optimized but by XLA
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
