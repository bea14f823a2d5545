import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two test processes on two cores: more threads for small matrices only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf

_STATES = {}


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
def eagerly():
    """Functions run as Python: tracing a tiny model takes longer than the few runs of its graph."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def unoptimized_graphs():
    """Graphs run as they were traced.

    For tests of what is trained, saved and reported: TensorFlow would spend longer on optimizing
    their graphs than on running them. Numbers are tested on the graphs that users run.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
