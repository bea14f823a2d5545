"""One worker of several, in a process of its own: trains, and writes what it ends with.

Run as `python -m tests.unit.distribute.worker RANK COUNT PORT RESULT [DIRECTORY [KILLED]]`: the
ports of all workers begin at `PORT`, and the worker kills itself in that epoch. A count of 0 trains
on one device without any strategy, by `Model.fit` of Keras.
"""

import json
import os
import signal
import sys

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers

CLASSES, EPOCHS, BATCH = 3, 3, 12
RNG = np.random.default_rng(0)
# sorted, so that workers lack classes; a partial batch at the end, of which three get 3, 2 and 2
LABELS = np.sort(RNG.integers(0, CLASSES, 31))
ROWS = (RNG.normal(size=(31, 4)) + LABELS[:, None]).astype("float32")
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]


def order(epoch):
    """The rows of an epoch, which every worker shuffles alike."""
    return np.random.default_rng(epoch).permutation(len(ROWS)) if epoch else np.arange(len(ROWS))


def made():
    """The model, in the current strategy."""
    keras.utils.set_random_seed(0)
    centered = [layers.SpectralDense(4), layers.BatchCentering()]
    model = lip.LossVariableSequential(
        [keras.Input((4,)), *centered, layers.SpectralDense(CLASSES)]
    )
    loss = lip.losses.MulticlassHKRauto(2.0, min_margin=0.1, alpha_margin=0.3)
    metrics = ["accuracy", lip.metrics.MulticlassKR()]
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=metrics)
    return model


class Killed(keras.callbacks.Callback):
    """Ends the process in the middle of an epoch, as a machine that fails."""

    def __init__(self, epoch: int):
        super().__init__()
        self._last, self._epoch = epoch, -1

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Kills before the second batch."""
        if self._epoch == self._last and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def alone():
    """One device: Keras's `fit`, epoch by epoch."""
    model = made()
    histories = []
    for epoch in range(EPOCHS):
        rows = order(epoch)
        options = dict(batch_size=BATCH, shuffle=False, verbose=0)
        one = model.fit(ROWS[rows], ONE_HOT[rows], **options).history
        values = model.evaluate(ROWS, ONE_HOT, batch_size=BATCH, verbose=0, return_dict=True)
        one |= {f"val_{name}": [value] for name, value in values.items()}
        histories.append(one)
    return model, {name: [one[name][0] for one in histories] for name in histories[0]}


def together(rank, count, port, directory, killed):
    """One of `count` workers."""
    addresses = [f"127.0.0.1:{port + i}" for i in range(count)]
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def data(epoch):
        rows = order(epoch)
        return tf.data.Dataset.from_tensor_slices((ROWS[rows], ONE_HOT[rows])).batch(BATCH)

    with strategy.scope():
        model = made()
    try:
        model.fit(ROWS, ONE_HOT, batch_size=BATCH)
    except ValueError as error:
        print(error, flush=True)
    history = lip.distribute.fit(
        model,
        data,
        EPOCHS,
        validation_data=data(0),
        callbacks=[] if killed is None else [Killed(killed)],
        directory=directory,
    )
    return model, history.history


def main(rank, count, port, result, directory=None, killed=None):
    if int(count):
        killed = None if killed is None else int(killed)
        model, history = together(int(rank), int(count), int(port), directory, killed)
    else:
        model, history = alone()
    variables = model.trainable_variables + model.non_trainable_variables
    np.savez(result, *map(np.asarray, variables), history=json.dumps(history))


if __name__ == "__main__":
    main(*sys.argv[1:])
