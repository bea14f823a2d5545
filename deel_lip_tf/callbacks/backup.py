"""Training that goes on where it was killed."""

import os
import warnings
from pathlib import Path
from typing import Any

import keras

from deel_lip_tf._keras import set_initial_epoch
from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag, whole_number
from deel_lip_tf.callbacks import training_state
from deel_lip_tf.callbacks.configurable import Configurable
from deel_lip_tf.callbacks.stepping import skip_batches, synchronize

_OF_KERAS = ("latest.weights.h5", "training_metadata.json")
_PATTERN = "backup-*.npz"


@register
class SafeBackup(Configurable):
    """Goes on with a training that was killed, as if nothing had happened: in place of Keras's own.

    A drop-in for `keras.callbacks.BackupAndRestore`, which writes two files one after the other, so
    that a kill between them, or within one, loses the run or resumes it wrong. Here each backup is
    one file: the weights, the state of the optimizer (averages and loss scale with it), the margins
    that a loss learns, its running mean and its parameters, seeds of dropout, the state of Keras's,
    Python's and NumPy's random numbers, the epoch and the batch. It is written under another name,
    reaches the disk, and is then renamed; the one before it is kept. A newest file that is broken
    is left out with a warning.

    The run that goes on ends with the weights of one that was never killed, bit for bit, if the
    script is the same and the batches come in the same order. They do for arrays with
    `shuffle=False`, for arrays that are shuffled after `keras.utils.set_random_seed`, and for any
    data set whose order is that of its epoch's number or always the same: with `tf.data`, say
    `shuffle(n, seed=0, reshuffle_each_iteration=False)`. What other callbacks remember (the best
    loss so far, say) is theirs; `LossParamScheduler` goes on with `step=None`. Put this callback
    last in the list, so that it keeps what the others did at the end of an epoch.

    Args:
        backup_dir: folder of the backups, of this run alone; it is created.
        save_freq: "epoch", the default, for each epoch, or a number of batches. A run that was
            killed within an epoch goes on behind the batches that it had seen, which are read
            once more and skipped; losses and metrics that are shown for that epoch are those of
            the batches left.
        double_checkpoint: taken for the sake of Keras's callback; the last good one is always kept.
        delete_checkpoint: whether to delete the backups when training has ended, as it should.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: on an empty `backup_dir`, or `save_freq` below 1; when training begins, if the
            backups are of another model, of Keras's callback, or all broken.
        OSError: while training, if a backup cannot be written, as on a full disk; the last one is
            kept.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> def trained(epochs):
        ...     keras.utils.set_random_seed(0)
        ...     model = lip.Sequential([keras.Input((2,)), lip.layers.FrobeniusDense(1)])
        ...     model.compile("adam", lip.losses.HKR(alpha=10.0), run_eagerly=True)
        ...     backup = lip.callbacks.SafeBackup(folder, delete_checkpoint=epochs == 3)
        ...     x, y = np.eye(2), np.array([[0.0], [1.0]])
        ...     history = model.fit(x, y, epochs=epochs, callbacks=[backup], verbose=0)
        ...     return len(history.epoch), np.asarray(model.layers[0].kernel)
        >>> trained(epochs=2)[0]  # and here the machine is switched off
        2
        >>> epochs, kernel = trained(epochs=3)
        >>> epochs, bool((kernel == trained(epochs=3)[1]).all())  # one was left
        (1, True)
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ):
        super().__init__()
        if not isinstance(backup_dir, str | os.PathLike):
            raise TypeError(
                f"`backup_dir` must be the path of a folder. Received: backup_dir={backup_dir!r}."
            )
        if not os.fspath(backup_dir):
            raise ValueError("`backup_dir` must name a folder. Received: backup_dir=''.")
        self.backup_dir = os.fspath(backup_dir)
        self.save_freq: Any = (
            "epoch" if save_freq == "epoch" else whole_number("save_freq", save_freq)
        )
        self.double_checkpoint = flag("double_checkpoint", double_checkpoint)
        self.delete_checkpoint = flag("delete_checkpoint", delete_checkpoint)
        self._epoch = 0
        self._forget()

    def _forget(self) -> None:
        self._seen, self._last, self._is_due = 0, -1, False
        self._resumed: dict[str, Any] = {}  # the heading of a backup within an epoch

    def on_train_begin(self, logs=None):
        """Goes on with the newest backup, if there is one."""
        self._forget()
        _check_ready(self.model)
        found = self._newest()
        if found is None:
            return
        heading = found
        training_state.set_random_state(heading["random"])
        set_initial_epoch(self.model, heading["epoch"])
        if heading["batch"]:
            self._resumed = heading
            # what counts the batches of the optimizer counts those that are skipped, too
            self.model.optimizer.iterations.assign(heading["iterations at the epoch's begin"])

    def on_epoch_begin(self, epoch, logs=None):
        """Skips what was seen of an epoch, and remembers what it begins with."""
        self._epoch, self._last = epoch, -1
        self._random = training_state.random_state()
        self._iterations = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        if self._resumed:
            skip_batches(self.model, self._resumed["batch"])

    def on_train_batch_end(self, batch, logs=None):
        """Writes a backup, if asked to on batches."""
        if self._resumed:
            if batch + 1 >= self._resumed["batch"]:
                synchronize(self.model)
                self.model.optimizer.iterations.assign(self._resumed["iterations"])
                self._resumed, self._last = {}, batch
            return
        self._seen, self._last = self._seen + batch - self._last, batch
        if self.save_freq == "epoch" or self._seen < self.save_freq:
            return
        # behind the last batch of an epoch nothing is left of it but its end
        self._seen, self._is_due = 0, batch + 1 == self.params.get("steps")
        if not self._is_due:
            self._save(self._epoch, batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Writes a backup, if asked to on epochs."""
        if self.save_freq == "epoch" or self._is_due:
            self._is_due = False
            self._random = training_state.random_state()
            self._save(epoch + 1, 0)

    def on_train_end(self, logs=None):
        """Deletes the backups, if asked to."""
        set_initial_epoch(self.model, None)
        folder = Path(self.backup_dir)
        if self.delete_checkpoint and folder.is_dir():
            for path in self._backups():
                path.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()

    def _backups(self) -> list[Path]:
        """The newest first."""
        return sorted(Path(self.backup_dir).glob(_PATTERN), reverse=True)

    def _save(self, epoch: int, batch: int) -> None:
        synchronize(self.model)
        folder = Path(self.backup_dir)
        folder.mkdir(parents=True, exist_ok=True)
        iterations = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        path = folder / f"backup-{epoch:08d}-{batch:010d}.npz"
        places: dict[str, Any] = {"epoch": epoch, "batch": batch, "iterations": iterations}
        places |= {"iterations at the epoch's begin": self._iterations, "random": self._random}
        training_state.write(path, self.model, **places)
        for old in self._backups()[2:]:
            old.unlink()

    def _newest(self) -> dict[str, Any] | None:
        """The heading of the newest backup that is whole, which the model is given."""
        paths, reasons = self._backups(), []
        for path in paths:
            try:
                heading, arrays = training_state.read(path)
            except training_state.Broken as error:
                reasons.append(str(error))
                continue
            training_state.restore(self.model, path, heading, arrays)
            for reason in reasons:
                warnings.warn(f"{reason}. Training goes on from {str(path)!r}.", stacklevel=2)
            for broken in paths[: len(reasons)]:
                broken.unlink()
            return heading
        if paths:
            raise ValueError(
                f"No backup in {self.backup_dir!r} is whole: {'; '.join(reasons)}. Give an empty "
                "`backup_dir` to begin anew."
            )
        for name in _OF_KERAS:
            if (Path(self.backup_dir) / name).exists():
                raise ValueError(
                    "`backup_dir` holds a backup of `keras.callbacks.BackupAndRestore`: end that "
                    "run with it, or give an empty folder. Received: "
                    f"backup_dir={self.backup_dir!r} with {name!r}."
                )
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "backup_dir": self.backup_dir,
            "save_freq": self.save_freq,
            "double_checkpoint": self.double_checkpoint,
            "delete_checkpoint": self.delete_checkpoint,
        }


def _check_ready(model: keras.Model) -> None:
    """Builds the optimizer, whose variables are restored; refuses a model that has none yet."""
    if not model.built:
        raise ValueError(
            f"`SafeBackup` needs a model that is built before `fit`. Received: {model.name!r}, "
            "which is not. Give it a `keras.Input`, or call it on a batch of data."
        )
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
