"""Seeds that leave TensorFlow the kernels it has made; imported for what it does to TensorFlow.

`tf.random.set_seed` throws away all of them, because the seed of a random operation that keeps a
state is in its kernel. Each test sets seeds, runs a few hundred different operations, and would
spend a quarter of its time on kernels that the test before it had. Keras, this library and the
tests draw numbers by operations without a state, and what a graph draws has its seed from the
graph, so that no kernel remembers what was drawn before. Those of graphs that are gone stay, of
a tenth of a megabyte each, until all are thrown away now and then.
"""

import itertools
import random

import tensorflow as tf
from tensorflow.python.eager import context


def set_seed(seed: int) -> None:
    """As `tf.random.set_seed`, without the end of all kernels but every hundredth time."""
    if next(_calls) % 100 == 0:
        _set_seed(seed)
    ours = context.context()
    ours._seed, ours._rng = seed, random.Random(seed)


_set_seed, _calls = tf.random.set_seed, itertools.count()
tf.random.set_seed = set_seed
