"""Trainings that tests of several backends share, and what ends them."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip

# Steps that are compiled, or several at once.
NOT_ON_TORCH = pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="PyTorch's compiler warns of Keras's own code, and takes one step at a time",
)


@keras.saving.register_keras_serializable("tests")
class Root(keras.layers.Layer):
    """The square root, which is NaN of negative numbers."""

    def call(self, inputs):
        return ops.sqrt(inputs)


class Crash(keras.callbacks.Callback):
    """Ends the training behind some number of batches."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@contextlib.contextmanager
def small_disk(size=64):
    """A disk that takes no more: writes beyond so many bytes fail as those on a full one do."""
    resource = pytest.importorskip("resource", reason="this system limits no sizes of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def margins_learned(reward):
    """The margin after each of three steps, and what it is by hand.

    Beyond its margins a loss has no gradient but that of the reward.
    """
    head = lip.layers.SpectralDense(1, kernel_initializer="ones", use_bias=False)
    model = lip.LossVariableSequential([keras.Input((2,)), head])
    loss = lip.losses.HingeMarginAuto(alpha_margin=reward, max_margin=1.25)
    model.compile(keras.optimizers.SGD(0.5), loss)
    x, y = np.array([[99.0, 99.0], [-99.0, -99.0]]), np.array([[1.0], [-1.0]])
    seen = []
    for _ in range(3):
        model.fit(x, y, batch_size=2, verbose=0)
        seen.append(float(ops.convert_to_numpy(loss.hinge_margins)[0]))
    return seen, [min(1.25, 1 + 0.5 * reward * n) for n in (1, 2, 3)]


def whole_and_resumed(train, save_freq, folder):
    """What a training ends with: as it is, and killed behind five batches and started again.

    Args:
        train: trains from the same seeds with the given callbacks, and returns what it ends with.
        save_freq: of `SafeBackup`.
        folder: for its files.
    """
    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(lip.callbacks.SafeBackup(folder, save_freq), Crash(5))
    return whole, train(lip.callbacks.SafeBackup(folder, save_freq))
