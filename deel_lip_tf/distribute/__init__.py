"""Training on several devices and in several processes, with TensorFlow's engine `tf.distribute`.

Losses, learned margins and statistics of batches know of replicas by themselves (`replicas`):
nothing has to be called for `MirroredStrategy`. `fit` is the loop for
`MultiWorkerMirroredStrategy`.
"""

from typing import TYPE_CHECKING

from deel_lip_tf._lazy import found_when_asked_for

if TYPE_CHECKING:
    from deel_lip_tf.distribute.training import fit

__all__ = ["fit"]

__getattr__, __dir__ = found_when_asked_for(__name__, {"deel_lip_tf.distribute.training": ("fit",)})
