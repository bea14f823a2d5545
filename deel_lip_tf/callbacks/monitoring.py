"""Watching singular values, and what is proven of the model."""

import os
from typing import Any

import keras
import numpy as np

from deel_lip_tf._registration import register
from deel_lip_tf._validation.backends import matplotlib_for, tensorflow_for
from deel_lip_tf._validation.scalars import check_choice, flag
from deel_lip_tf.callbacks.configurable import Configurable
from deel_lip_tf.callbacks.summaries import write_figure, write_histogram, write_scalar


def _singular_values(kernel: Any) -> np.ndarray:
    """Returns the singular values, in float64 and descending, of `reshape(kernel, [-1, last])`.

    Keras stores the kernel of a transposed convolution as `(kh, kw, out, in)`, so that the same
    reshape gives the matrix of its adjoint convolution.
    """
    array = np.asarray(keras.ops.convert_to_numpy(kernel), dtype="float64")
    return np.linalg.svd(array.reshape(-1, array.shape[-1]), compute_uv=False)


@register
class MonitorCallback(Configurable):
    """Logs singular values of kernels, and what is proven of the model, for TensorBoard.

    The values are those of the kernel reshaped to `[-1, last axis]`, computed exactly. For a dense
    layer this is the operator; for a convolution it is the matrix acting on one patch, not the
    operator on images (`deel_lip_tf.bounds` bounds that one). Event files are written by
    TensorFlow alone; TensorBoard is only needed to look at them.

    After each epoch, where it is asked for: the proven Lipschitz constant of the model as the
    scalar "lipschitz_bound"; of samples that are certified with the weights as they are then, the
    scalar "mean_certified_radius", 0 for wrong answers, and the image "certified_accuracy", the
    share of samples that are certified over the radius.

    Args:
        monitored_layers: names of the layers to watch.
        logdir: folder of the event files.
        target: "kernel", the raw weight, or "wbar", the effective kernel.
        what: "max", the largest singular value as a scalar, or "all", a histogram of all of them.
        on_epoch: log at the end of every epoch; the step is the epoch.
        on_batch: log at the end of every training batch instead; the step counts the batches.
        bound: whether to prove the bound of the model after each epoch.
        samples: what to certify after each epoch, and prove the bound: `(x, y)` or a data set, as
            `certificates.certify` takes them; `None`, the default, for nothing. It is no part of
            the configuration.

    Raises:
        TypeError: if an argument is of another type.
        ImportError: when training begins, if TensorFlow is not installed, or for `samples`
            matplotlib.
        ValueError: on a wrong `target` or `what`; when training begins, if a layer is unknown or
            has no `target`, or the folder cannot be written to.

    Example:
        >>> import os, tempfile
        >>> logs = tempfile.mkdtemp()
        >>> head = lip.layers.SpectralDense(1, name="head")
        >>> model = lip.Sequential([keras.Input((2,)), head])
        >>> model.compile("sgd", "mse", run_eagerly=True)
        >>> monitor = lip.callbacks.MonitorCallback(["head"], logs, target="wbar")
        >>> _ = model.fit(np.eye(2), np.eye(2)[:, :1], callbacks=[monitor], verbose=0)
        >>> len(os.listdir(logs))  # one file of events
        1
    """

    def __init__(
        self,
        monitored_layers: list[str],
        logdir: str,
        target: str = "kernel",
        what: str = "max",
        on_epoch: bool = True,
        on_batch: bool = False,
        *,
        bound: bool = False,
        samples: Any = None,
    ):
        super().__init__()
        check_choice("target", target, ("kernel", "wbar"))
        check_choice("what", what, ("max", "all"))
        is_list = isinstance(monitored_layers, list | tuple) and len(monitored_layers) > 0
        if not (is_list and all(isinstance(name, str) for name in monitored_layers)):
            raise TypeError(
                "`monitored_layers` must be a list of layer names, e.g. ['dense']. Received: "
                f"monitored_layers={monitored_layers!r}."
            )
        if not isinstance(logdir, str | os.PathLike):
            raise TypeError(f"`logdir` must be the path of a folder. Received: logdir={logdir!r}.")
        self.monitored_layers = list(monitored_layers)
        self.logdir = os.fspath(logdir)
        self.target = target
        self.what = what
        self.on_epoch = flag("on_epoch", on_epoch)
        self.on_batch = flag("on_batch", on_batch)
        self.bound = flag("bound", bound)
        self._samples = samples if isinstance(samples, tuple) else (samples,)
        self._writer: Any = None
        self._batches = 0

    def on_train_begin(self, logs=None):
        """Checks the layers and opens the event file."""
        tf = tensorflow_for("`MonitorCallback` writes its files with")
        if self._samples[0] is not None:
            matplotlib_for("`MonitorCallback` draws certified accuracies with")
        known = [layer.name for layer in self.model.layers]
        for name in self.monitored_layers:
            if name not in known:
                raise ValueError(
                    "`monitored_layers` must name layers of the model. Received: "
                    f"{name!r}, the model has {known}."
                )
            if getattr(self.model.get_layer(name), self.target, None) is None:
                raise ValueError(
                    f"The layer {name!r} has no `{self.target}`: remove it from "
                    f"`monitored_layers`. Received: target={self.target!r}, layer of type "
                    f"{type(self.model.get_layer(name)).__name__}."
                )
        try:
            self._writer = tf.summary.create_file_writer(self.logdir)
        except tf.errors.OpError as error:
            raise ValueError(
                f"`logdir` must be a folder that can be written to. Received: logdir="
                f"{self.logdir!r} ({error.message})."
            ) from error

    def on_train_batch_end(self, batch, logs=None):
        """Logs, if asked to on batches."""
        if self.on_batch:
            self._log(self._batches)
        self._batches += 1

    def on_epoch_end(self, epoch, logs=None):
        """Logs, the singular values unless asked to on batches."""
        if self.on_epoch and not self.on_batch:
            self._log(epoch)
        if self.bound or self._samples[0] is not None:
            self._log_proofs(epoch)

    def on_train_end(self, logs=None):
        """Closes the event file."""
        self._writer.close()

    def _log(self, step: int) -> None:
        with self._writer.as_default():
            for name in self.monitored_layers:
                values = _singular_values(getattr(self.model.get_layer(name), self.target))
                if self.what == "max":
                    write_scalar(f"{name}/{self.target}_sigma_max", values[0], step)
                else:
                    write_histogram(f"{name}/{self.target}_sigma", values, step)
        self._writer.flush()

    def _log_proofs(self, step: int) -> None:
        # not before: who watches singular values alone does without what this imports
        from deel_lip_tf import plots
        from deel_lip_tf.bounds import lipschitz_bound
        from deel_lip_tf.certificates import certify

        with self._writer.as_default():
            if self._samples[0] is None:
                write_scalar("lipschitz_bound", lipschitz_bound(self.model).value, step)
            else:
                certificates = certify(self.model, *self._samples)
                write_scalar("lipschitz_bound", certificates.bound, step)
                write_scalar("mean_certified_radius", certificates.radius.mean(), step)
                write_figure("certified_accuracy", plots.certified_accuracy(certificates), step)
        self._writer.flush()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, without the samples."""
        return {
            "monitored_layers": self.monitored_layers,
            "logdir": self.logdir,
            "target": self.target,
            "what": self.what,
            "on_epoch": self.on_epoch,
            "on_batch": self.on_batch,
            "bound": self.bound,
        }
