"""Trainings that tests of several backends share."""

import keras
import numpy as np
from keras import ops

import deel_lip_tf as lip


class Crash(keras.callbacks.Callback):
    """Ends the training behind some number of batches."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


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
