"""The SavedModel: written, loaded again, and compared with the model it came from."""

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deel_lip_tf._files.writing import whole_folder

# Two graphs of the same float32 arithmetic, of another order of additions at most.
RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """How a reloaded SavedModel differs from the model.

    Attributes:
        folder: where the SavedModel is.
        difference: largest absolute difference of two logits.
        scale: largest absolute logit of the model.
        agreeing: number of images that both give the same label.
        images: number of images compared.
    """

    folder: Path
    difference: float
    scale: float
    agreeing: int
    images: int

    @property
    def equal(self) -> bool:
        """Whether the logits agree up to float32 rounding; False if any is not finite."""
        return self.difference <= RELATIVE_TOLERANCE * max(self.scale, 1.0)


def export_and_compare(model, exported, folder: Path, x: np.ndarray) -> Comparison:
    """Writes `exported` as a SavedModel, loads it with TensorFlow alone and runs both on `x`.

    Args:
        model: the Keras model that was trained.
        exported: its `vanilla_export()`.
        folder: of the SavedModel; written over if it exists.
        x: images (n, height, width, channels).
    """
    import tensorflow as tf

    with whole_folder(folder) as unfinished:
        try:
            exported.export(unfinished, verbose=False)
        except tf.errors.OpError as error:  # a full disk has no error of its own in TensorFlow
            raise OSError(errno.EIO, error.message) from error
    reloaded = tf.saved_model.load(folder)
    batches = np.array_split(x, -(-len(x) // 256))
    ours = np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])
    theirs = np.concatenate([np.asarray(reloaded.serve(batch)) for batch in batches])
    return Comparison(
        folder=folder,
        difference=float(np.max(np.abs(ours - theirs))),
        scale=float(np.max(np.abs(ours))),
        agreeing=int(np.sum(ours.argmax(axis=-1) == theirs.argmax(axis=-1))),
        images=len(x),
    )
