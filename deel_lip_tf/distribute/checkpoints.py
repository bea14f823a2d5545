"""What training changes, in files that the chief writes and all workers read."""

import errno
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras

from deel_lip_tf._files.writing import NotWritten
from deel_lip_tf.distribute import replicas

KEPT = 2


class Checkpoints:
    """Saves and restores a model with its optimizer, what its loss learns, and the epoch.

    TensorFlow writes a checkpoint under a new name, and then renames a file that says which is the
    last one: whenever a process is killed, the last one is whole.

    Args:
        model: compiled, with an optimizer that is built.
        strategy: in whose scope it was made.
        directory: of the files, or `None` for none.
    """

    def __init__(self, model: keras.Model, strategy: Any, directory: str | Path | None):
        import tensorflow as tf

        self._directory = None if directory is None else Path(directory)
        self._strategy = strategy
        self._epoch = tf.Variable(0, dtype="int64", trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            epoch=self._epoch, variables=[one.value for one in _changed_by_training(model)]
        )
        # a variable, and making one needs all workers, while only the chief counts
        self._checkpoint.save_counter  # noqa: B018

    def restored(self) -> int:
        """Restores the last checkpoint that is whole, if there is any: how many epochs it has seen.

        Raises:
            ValueError: the checkpoints are of another model, none of them is whole, or workers have
                found different ones.
        """
        if self._directory is None:
            return 0
        paths, broken = _kept(self._directory), []
        for path in paths:
            reason = self._unreadable(path)
            if reason is None:
                break
            broken.append(f"{path!r} cannot be read: {reason:.300}")
        if broken and len(broken) == len(paths):
            raise ValueError(
                f"No checkpoint in `directory` is whole. Received: directory="
                f"{str(self._directory)!r}, where {'; '.join(broken)}. Give another directory, or "
                "remove it, to begin anew."
            )
        for one in broken:
            warnings.warn(f"{one}. Training goes on from {path!r}.", stacklevel=2)
        epoch = int(self._epoch.numpy())
        self._check_all_have(epoch)
        return epoch

    def _unreadable(self, path: str) -> str | None:
        """Restores a checkpoint; or says why it cannot be read.

        Raises:
            ValueError: it can be read, and is of another model.
        """
        import tensorflow as tf

        try:
            self._checkpoint.restore(path).assert_consumed()
        except (AssertionError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                "The checkpoints in `directory` must be of this model, compiled as it is. "
                f"Received: directory={str(self._directory)!r}, whose last one differs: "
                f"{str(error)[:300]}. Give another directory, or remove it."
            ) from error
        except (IndexError, tf.errors.OpError) as error:
            return str(error)
        return None

    def _check_all_have(self, epoch: int) -> None:
        import tensorflow as tf

        @tf.function
        def summed():
            return self._strategy.run(lambda: replicas.summed(tf.cast(self._epoch, "float32")))

        total = float(self._strategy.experimental_local_results(summed())[0])
        if total != epoch * self._strategy.num_replicas_in_sync:
            raise ValueError(
                "`directory` must be seen by all workers: they have found checkpoints of different "
                f"epochs. Received: directory={str(self._directory)!r}, where this worker found "
                f"epoch {epoch}."
            )

    def save(self, epoch: int) -> None:
        """Saves the state after `epoch` epochs; all workers must call it.

        Raises:
            NotWritten: the disk is full, say; the former checkpoints are as they were.
        """
        if self._directory is None:
            return
        self._epoch.assign(epoch)
        if _is_chief(self._strategy):
            self._write(self._directory, epoch)
            return
        # a variable that is added up when it is read needs all workers, and one file is enough
        elsewhere = tempfile.mkdtemp()
        try:
            self._checkpoint.write(str(Path(elsewhere) / "unused"))
        finally:
            shutil.rmtree(elsewhere)

    def _write(self, folder: Path, epoch: int) -> None:
        import tensorflow as tf

        manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=KEPT)
        try:
            manager.save(checkpoint_number=epoch)
        except tf.errors.OpError as error:
            shutil.rmtree(folder / f"ckpt-{epoch}_temp", ignore_errors=True)
            raise NotWritten(
                errno.EIO,
                f"cannot write a checkpoint into {str(folder)!r}: {error.message}; what was there "
                "is kept",
            ) from error


def _kept(directory: Path) -> list[str]:
    """The checkpoints, the newest first, as TensorFlow's file `checkpoint` names them."""
    import tensorflow as tf

    try:
        state = tf.train.get_checkpoint_state(directory)
    except ValueError:  # no text, or the name of no checkpoint
        state = None
    if state is None and (directory / "checkpoint").exists():
        raise ValueError(
            "The file 'checkpoint' in `directory` must say which checkpoint is the last one. "
            f"Received: directory={str(directory)!r}, where it cannot be read. Give "
            "another directory, or remove it, to begin anew."
        )
    return [] if state is None else list(reversed(state.all_model_checkpoint_paths))


def _changed_by_training(model: keras.Model) -> list[keras.Variable]:
    """Weights, margins, running means, seeds and the optimizer's, each once, in their order."""
    found = [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
    ]
    return list({id(variable): variable for variable in found}.values())


def _is_chief(strategy: Any) -> bool:
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_type == "worker" and resolver.task_id == 0
