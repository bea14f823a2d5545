"""Trainings in processes of their own, which somebody kills: `python -m` this module serves them.

The server has imported Keras and forks a process for each job, so that a start costs milliseconds.
A job is a line of JSON; its process tells its number, then each batch that begins, into a FIFO.
"""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np

EPOCHS, BATCHES, BATCH = 2, 3, 4


class Trainings:
    """The parent's side.

    Args:
        folder: for FIFOs and results.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        command = [sys.executable, "-m", __name__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._server.stdin.close()
        self._server.wait()

    def run(self, kind, backups=None, save_freq="epoch", killed_at=None, after=0.0):
        """One process: killed `after` seconds behind the begin of some batch, or left alone.

        Returns:
            The arrays that it ends with, or None where it was killed in time.
        """
        fifo, result = self.folder / "fifo", self.folder / "result.npz"
        result.unlink(missing_ok=True)
        os.mkfifo(fifo)
        job = {"kind": kind, "backups": backups and str(backups), "save_freq": save_freq}
        job |= {"fifo": str(fifo), "result": str(result)}
        print(json.dumps(job), file=self._server.stdin, flush=True)
        with open(fifo) as told:
            process = int(told.readline())
            for number, _ in enumerate(told):
                if number == killed_at:
                    time.sleep(after)
                    os.kill(process, signal.SIGKILL)
        fifo.unlink()
        if not result.exists():
            if killed_at is None:
                raise RuntimeError(f"a training of {kind!r} that nobody killed has failed")
            return None
        with np.load(result) as arrays:
            return [arrays[name] for name in arrays.files]

    def killed(self, kind, kills, rng, backups):
        """As `run`, killed again and again.

        Returns:
            The arrays that the last process ends with, and how many were killed.
        """
        save_freq, count = rng.choice(["epoch", 1, 2]), 0
        while True:
            at = rng.randrange(3) if count < kills else None  # of the batches that were left
            arrays = self.run(kind, backups, save_freq, at, rng.choice([0, 0.05]) * rng.random())
            if arrays is not None:
                return arrays, count
            count += 1


def serve():
    """Forks a process for each line of the input."""
    import deel_lip_tf as lip

    # each is imported when somebody asks for it, and should be before there are processes
    print(lip.Sequential, lip.layers.SpectralDense, lip.losses.HKR, lip.callbacks.SafeBackup)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    gc.freeze()  # or each process would copy what it only looks at
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                _train(**json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)


def _train(kind, backups, save_freq, fifo, result):
    import keras

    import deel_lip_tf as lip

    keras.utils.set_random_seed(0)
    model, x, y = KINDS[kind]()
    with open(fifo, "w") as told:
        print(os.getpid(), file=told, flush=True)
        tell = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: print(batch, file=told, flush=True)
        )
        callbacks = [tell, *getattr(model, "callbacks_of_test", [])]
        if backups:
            callbacks.append(lip.callbacks.SafeBackup(backups, save_freq, delete_checkpoint=False))
        model.fit(x, y, BATCH, EPOCHS, verbose=0, callbacks=callbacks)
        np.savez(result, *everything(model), np.random.rand(1), [random.random()])


def everything(model):
    """What training has changed: seeds, margins, means and parameters of a loss among it."""
    variables = [*model.variables, *model.trainable_variables, *model.non_trainable_variables]
    variables += model.optimizer.variables
    parameters = [getattr(model.loss, name, 0.0) for name in ("alpha", "min_margin", "tau")]
    return [np.asarray(one).astype("float64") for one in (*variables, *parameters)]


def _data(shape, classes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCHES * BATCH, *shape)).astype("float32")
    return x, (np.arange(len(x)) % classes).astype("int32")


def _dense():
    """Dropout, the cross-entropy of classes, arrays that are shuffled."""
    import keras

    import deel_lip_tf as lip

    x, y = _data((5,), 3)
    hidden = lip.layers.FrobeniusDense(4, activation=lip.layers.GroupSort2())
    layers = [hidden, keras.layers.Dropout(0.5), lip.layers.FrobeniusDense(3)]
    model = lip.Sequential([keras.Input((5,)), *layers])
    loss = lip.losses.TauSparseCategoricalCrossentropy(tau=3.0)
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)
    return model, x, y


def _convolution():
    """Statistics of a layer, the running mean of a loss, momentum."""
    import keras

    import deel_lip_tf as lip

    x, y = _data((4, 4, 2), 3)
    layers = [lip.layers.FrobeniusConv2D(3, 3), lip.layers.BatchCentering()]
    layers += [keras.layers.Flatten(), lip.layers.FrobeniusDense(3)]
    model = lip.Sequential([keras.Input((4, 4, 2)), *layers])
    model.compile(keras.optimizers.SGD(0.1, 0.9), lip.losses.MulticlassSoftHKR(), run_eagerly=True)
    return model, x, np.eye(3)[y]


def _margins():
    """Learned margins, and a parameter of the loss that is scheduled."""
    import keras

    import deel_lip_tf as lip

    x, y = _data((5,), 3)
    model = lip.LossVariableSequential([keras.Input((5,)), lip.layers.SpectralDense(3)])
    model.compile(
        "adam", lip.losses.MulticlassHKRauto(alpha=10.0, min_margin=1e-3), run_eagerly=True
    )
    model.loss.hinge_margins.assign([0.5, 0.6, 0.7])  # from where they move
    schedule = lip.callbacks.LossParamScheduler("alpha", fp=[1.0, 9.0], xp=[0, 9], step=None)
    model.callbacks_of_test = [schedule]
    return model, x, np.eye(3)[y]


def _condensed():
    """A functional model, condensed after each epoch, with averages of its weights."""
    import keras

    import deel_lip_tf as lip

    x, y = _data((5,), 2)
    inputs = keras.Input((5,))
    hidden = lip.layers.FrobeniusDense(4, activation=lip.layers.FullSort())(inputs)
    model = lip.LossVariableModel(inputs, lip.layers.FrobeniusDense(1)(hidden))
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_overwrite_frequency=5)
    model.compile(optimizer, lip.losses.HKRauto(alpha=10.0, min_margin=1e-3), run_eagerly=True)
    model.loss.hinge_margins.assign([0.5])
    model.callbacks_of_test = [lip.callbacks.CondenseCallback()]
    return model, x, y


def _half():
    """A functional model in half precision, with a loss scale."""
    import keras

    import deel_lip_tf as lip

    keras.config.set_dtype_policy("mixed_float16")
    x, y = _data((5,), 3)
    inputs = keras.Input((5,))
    noisy = keras.layers.GaussianNoise(0.1)(lip.layers.FrobeniusDense(4)(inputs))
    model = lip.Model(inputs, lip.layers.FrobeniusDense(3, dtype="float32")(noisy))
    model.compile("adam", lip.losses.TauCategoricalCrossentropy(tau=3.0), run_eagerly=True)
    return model, x, np.eye(3)[y]


def _mirrored():
    """Two replicas, in a graph: learned margins and statistics of a layer, which they share."""
    import keras
    import tensorflow as tf

    import deel_lip_tf as lip

    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    x, y = _data((5,), 3)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        layers = [lip.layers.BatchCentering(), lip.layers.FrobeniusDense(3)]
        model = lip.LossVariableSequential([keras.Input((5,)), *layers])
        loss = lip.losses.MulticlassHKRauto(alpha=10.0, min_margin=1e-3)
        model.compile("adam", loss, jit_compile=False)
        model.loss.hinge_margins.assign([0.5, 0.6, 0.7])  # from where they move
    return model, x, np.eye(3)[y]


KINDS = {one.__name__[1:]: one for one in (_dense, _convolution, _margins, _condensed, _half)}
KINDS["mirrored"] = _mirrored

if __name__ == "__main__":
    serve()
