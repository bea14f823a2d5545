import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two test processes on two cores: more threads for small matrices only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def repeatable():
    """Every test starts from the same seeds."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
