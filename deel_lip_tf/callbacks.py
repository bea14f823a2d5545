"""Callbacks: condensing kernels, scheduling and printing loss parameters, watching singular values.

They rely only on `model.condense()`, `model.loss`, `layer.kernel` and `layer.wbar`.
"""

import math
import os
from typing import Any

import keras
import numpy as np

from deel_lip_tf._registration import register
from deel_lip_tf._validation.backends import tensorflow_for
from deel_lip_tf._validation.scalars import check_choice, flag, whole_number


class _Configurable(keras.callbacks.Callback):
    """A callback that `keras.saving` can rebuild from its configuration."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Configurable":
        """Builds the callback from what `get_config` returned."""
        return cls(**config)


@register
class CondenseCallback(_Configurable):
    """Writes the effective kernels into the raw ones, `model.condense()`, at regular moments.

    Args:
        on_epoch: at the end of every epoch.
        on_batch: at the end of every training batch.

    Raises:
        TypeError: if one of the two is not a boolean.
        ValueError: when training begins, if the model has no `condense` method.

    Example:
        >>> model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(2)])
        >>> model.compile("sgd", "mse", run_eagerly=True)
        >>> x, y = np.eye(4), 9.0 * np.eye(4)[:, :2]
        >>> _ = model.fit(x, y, callbacks=[lip.callbacks.CondenseCallback()], verbose=0)
        >>> layer = model.layers[0]
        >>> np.allclose(layer.kernel, layer.wbar, atol=1e-3)  # the raw kernel is the effective one
        True
    """

    def __init__(self, on_epoch: bool = True, on_batch: bool = False):
        super().__init__()
        self.on_epoch = flag("on_epoch", on_epoch)
        self.on_batch = flag("on_batch", on_batch)

    def on_train_begin(self, logs=None):
        """Checks the model."""
        if not callable(getattr(self.model, "condense", None)):
            raise ValueError(
                "`CondenseCallback` needs a model with a `condense` method: build it with "
                "`deel_lip_tf.Sequential` or `deel_lip_tf.Model`. Received: model of type "
                f"{type(self.model).__name__}."
            )

    def on_train_batch_end(self, batch, logs=None):
        """Condenses, if asked to on batches."""
        if self.on_batch:
            self.model.condense()

    def on_epoch_end(self, epoch, logs=None):
        """Condenses, if asked to on epochs."""
        if self.on_epoch:
            self.model.condense()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"on_epoch": self.on_epoch, "on_batch": self.on_batch}


def _parameter_name(param_name: Any) -> str:
    if not isinstance(param_name, str):
        raise TypeError(
            '`param_name` must be the name of a parameter, e.g. "alpha". '
            f"Received: param_name={param_name!r}."
        )
    return param_name


def _numbers(name: str, values: Any) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be a list of numbers. Received: {name}={values!r}."
        ) from error


def _losses_with(model: keras.Model, param_name: str) -> list[Any]:
    """Returns the losses of the compiled `model` that have the parameter `param_name`."""
    losses = [loss for loss in keras.tree.flatten(model.loss) if loss is not None]
    missing = object()
    values = [getattr(loss, param_name, missing) for loss in losses]
    # a method or a name of the loss is no parameter; learned margins are None until they are built
    found = [
        loss
        for loss, value in zip(losses, values, strict=True)
        if not (value is missing or callable(value) or isinstance(value, str))
    ]
    if not found:
        names = [getattr(loss, "name", str(loss)) for loss in losses]
        raise ValueError(
            "`param_name` must be a parameter of the model's loss, e.g. `alpha` for "
            f"`compile(loss=HKR(alpha=10.0))`. Received: param_name={param_name!r}, "
            f"losses={names}."
        )
    return found


@register
class LossParamScheduler(_Configurable):
    """Sets a parameter of the loss before each batch, by interpolation over the batches.

    At batch `step`, counted from the start of the schedule and across epochs, the parameter is
    `numpy.interp(step, xp, fp)`: constant before `xp[0]` and after `xp[-1]`. The count stays with
    the callback, so a second `fit` with the same object continues; `get_config` holds it too, and
    a fresh process resumes with `step=epoch * steps_per_epoch`.

    With `step=None` the batches are those that the optimizer has counted, which is saved with the
    model: whoever goes on with a file, or with `keras.callbacks.BackupAndRestore`, goes on with the
    schedule, with a callback made as before, and several `steps_per_execution` are counted as so
    many.

    Args:
        param_name: name of the parameter, e.g. `"alpha"`, `"min_margin"`, `"radius"` or `"tau"`.
        fp: values at the batches `xp`, finite.
        xp: batch numbers, strictly increasing, as many as `fp`.
        step: number of the first batch, or `None` for the batches of the optimizer.
        interpolation: `"linear"`, the default, or `"geometric"`: linear in the logarithm, between
            positive values.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: on a wrong schedule; when training begins, if no loss of the model has such a
            parameter, if it must not take one of the values `fp`, or on JAX in a
            compiled model that is not of this library.

    Example:
        >>> loss = lip.losses.HKR(alpha=1.0)
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(1)])
        >>> model.compile("sgd", loss, run_eagerly=True)
        >>> schedule = lip.callbacks.LossParamScheduler("alpha", fp=[0.0, 10.0], xp=[0, 4])
        >>> x, y = np.eye(2), np.array([[0.0], [1.0]])
        >>> _ = model.fit(x, y, batch_size=1, epochs=2, callbacks=[schedule], verbose=0)
        >>> float(loss.alpha), schedule.step  # batches 0 to 3: 0, 2.5, 5, 7.5
        (7.5, 4)
        >>> model.compile("sgd", lip.losses.EMMA(radius=0.01), run_eagerly=True)
        >>> schedule = lip.callbacks.LossParamScheduler(
        ...     "radius", fp=[0.01, 1.0], xp=[0, 4], step=None, interpolation="geometric")
        >>> round(schedule.value(2), 6)  # half-way in the logarithm
        0.1
    """

    def __init__(
        self,
        param_name: str,
        fp: Any,
        xp: Any,
        step: int | None = 0,
        interpolation: str = "linear",
    ):
        super().__init__()
        self.param_name = _parameter_name(param_name)
        self.fp, self.xp = _numbers("fp", fp), _numbers("xp", xp)
        self.step = None if step is None else whole_number("step", step, least=0)
        check_choice("interpolation", interpolation, ("linear", "geometric"))
        self.interpolation = interpolation
        self._first = 0
        if not (len(self.fp) == len(self.xp) > 0 and np.all(np.isfinite(self.fp + self.xp))):
            raise ValueError(
                "`fp` and `xp` must be two lists of finite numbers of the same length, at least 1. "
                f"Received: fp={fp}, xp={xp}."
            )
        if np.any(np.diff(self.xp) <= 0):
            raise ValueError(f"`xp` must be strictly increasing. Received: xp={xp}.")
        if interpolation == "geometric" and min(self.fp) <= 0:
            raise ValueError(
                '`fp` must be positive with interpolation="geometric", which is linear in the '
                f"logarithm. Received: fp={fp}. Begin with a small positive value."
            )

    def on_train_begin(self, logs=None):
        """Checks that the loss has the parameter and that it may take the scheduled values."""
        for loss in _losses_with(self.model, self.param_name):
            if not self._reaches_steps(getattr(loss, self.param_name)):
                raise ValueError(
                    "On JAX a compiled training step of Keras's own models keeps the parameters of "
                    "the loss as they were when it was traced, and any step keeps the limits of "
                    "learned margins: use a model of this library, or `compile(run_eagerly=True)`. "
                    f"Received: run_eagerly=False, param_name={self.param_name!r}, a model of type "
                    f"{type(self.model).__name__}."
                )
            if not hasattr(getattr(loss, self.param_name), "assign"):
                raise ValueError(
                    "`param_name` must name a parameter that can be assigned (a variable). "
                    f"Received: param_name={self.param_name!r} of the loss {loss.name!r}."
                )
            if hasattr(loss, "check_parameter"):
                # the values in between are convex combinations, and every rule is an interval
                for value in self.fp:
                    loss.check_parameter(self.param_name, value)

    def value(self, step: float) -> float:
        """The value of the parameter at a batch."""
        if self.interpolation == "linear":
            return float(np.interp(step, self.xp, self.fp))
        share, left = math.modf(np.interp(step, self.xp, range(len(self.xp))))
        value = self.fp[int(left)]
        return value if share == 0 else value ** (1 - share) * self.fp[int(left) + 1] ** share

    def on_epoch_begin(self, epoch, logs=None):
        """Asks the optimizer for its batches: once, for each question stops a GPU."""
        if self.step is None:
            optimizer = self.model.optimizer
            batches = int(keras.ops.convert_to_numpy(optimizer.iterations))
            self._first = batches * (optimizer.gradient_accumulation_steps or 1)

    def _reaches_steps(self, parameter: Any) -> bool:
        """Whether a training step reads a parameter again, and not the value of its tracing."""
        if keras.config.backend() != "jax" or self.model.run_eagerly:
            return True
        return any(parameter is variable for variable in self.model.non_trainable_variables)

    def on_train_batch_begin(self, batch, logs=None):
        """Assigns the value of this batch."""
        value = self.value(self._first + batch if self.step is None else self.step)
        for loss in _losses_with(self.model, self.param_name):
            getattr(loss, self.param_name).assign(value)
        if self.step is not None:
            self.step += 1

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that continue the schedule where it stands."""
        return {
            "param_name": self.param_name,
            "fp": self.fp,
            "xp": self.xp,
            "step": self.step,
            "interpolation": self.interpolation,
        }


@register
class LossParamLog(_Configurable):
    """Prints a parameter of the loss every `rate` epochs: loss name, parameter name, plain value.

    Args:
        param_name: name of the parameter, e.g. `"alpha"`.
        rate: number of epochs from one line to the next; the first epoch is printed.

    Raises:
        TypeError: if `rate` is not an integer, or `param_name` not a string.
        ValueError: if `rate` is below 1; when training begins, if no loss of the model has such a
            parameter.

    Example:
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(1)])
        >>> model.compile("sgd", lip.losses.HKR(alpha=10.0), run_eagerly=True)
        >>> log = lip.callbacks.LossParamLog("alpha", rate=2)
        >>> x, y = np.eye(2), np.array([[0.0], [1.0]])
        >>> _ = model.fit(x, y, epochs=2, callbacks=[log], verbose=0)
        <BLANKLINE>
        HKR alpha 10.0
    """

    def __init__(self, param_name: str, rate: int = 1):
        super().__init__()
        self.param_name = _parameter_name(param_name)
        self.rate = whole_number("rate", rate)

    def on_train_begin(self, logs=None):
        """Checks that the loss has the parameter."""
        _losses_with(self.model, self.param_name)

    def on_epoch_end(self, epoch, logs=None):
        """Prints, on the epochs that are due."""
        if epoch % self.rate == 0:
            for loss in _losses_with(self.model, self.param_name):
                value = keras.ops.convert_to_numpy(getattr(loss, self.param_name))
                # str of a NumPy scalar or array is the short form: 0.1, [0.1 0.2]
                print(f"\n{loss.name} {self.param_name} {np.asarray(value)[()]!s}")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"param_name": self.param_name, "rate": self.rate}


def _singular_values(kernel: Any) -> np.ndarray:
    """Returns the singular values, in float64 and descending, of `reshape(kernel, [-1, last])`.

    Keras stores the kernel of a transposed convolution as `(kh, kw, out, in)`, so that the same
    reshape gives the matrix of its adjoint convolution.
    """
    array = np.asarray(keras.ops.convert_to_numpy(kernel), dtype="float64")
    return np.linalg.svd(array.reshape(-1, array.shape[-1]), compute_uv=False)


@register
class MonitorCallback(_Configurable):
    """Logs singular values of kernels for TensorBoard.

    The values are those of the kernel reshaped to `[-1, last axis]`, computed exactly. For a dense
    layer this is the operator; for a convolution it is the matrix acting on one patch, not the
    operator on images (`deel_lip_tf.bounds` bounds that one). Event files are written by
    TensorFlow alone; TensorBoard is only needed to look at them.

    Args:
        monitored_layers: names of the layers to watch.
        logdir: folder of the event files.
        target: "kernel", the raw weight, or "wbar", the effective kernel.
        what: "max", the largest singular value as a scalar, or "all", a histogram of all of them.
        on_epoch: log at the end of every epoch; the step is the epoch.
        on_batch: log at the end of every training batch instead; the step counts the batches.

    Raises:
        TypeError: if an argument is of another type.
        ImportError: when training begins, if TensorFlow is not installed.
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
        self._writer: Any = None
        self._batches = 0

    def on_train_begin(self, logs=None):
        """Checks the layers and opens the event file."""
        tf = tensorflow_for("`MonitorCallback` writes its files with")
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
        """Logs, unless asked to on batches."""
        if self.on_epoch and not self.on_batch:
            self._log(epoch)

    def on_train_end(self, logs=None):
        """Closes the event file."""
        self._writer.close()

    def _log(self, step: int) -> None:
        with self._writer.as_default():
            for name in self.monitored_layers:
                values = _singular_values(getattr(self.model.get_layer(name), self.target))
                if self.what == "max":
                    _write_scalar(f"{name}/{self.target}_sigma_max", values[0], step)
                else:
                    _write_histogram(f"{name}/{self.target}_sigma", values, step)
        self._writer.flush()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "monitored_layers": self.monitored_layers,
            "logdir": self.logdir,
            "target": self.target,
            "what": self.what,
            "on_epoch": self.on_epoch,
            "on_batch": self.on_batch,
        }


def _metadata(plugin: str) -> Any:
    # `tf.summary.scalar` needs TensorBoard installed; the records it writes carry just this label
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    return metadata


def _write_scalar(tag: str, value: float, step: int) -> None:
    import tensorflow as tf

    tf.summary.write(tag, tf.constant(value, "float32"), step, metadata=_metadata("scalars"))


def _write_histogram(tag: str, values: np.ndarray, step: int) -> None:
    import tensorflow as tf

    counts, edges = np.histogram(values, bins=30)
    # TensorBoard's form of a histogram: one row (left edge, right edge, count) per bin
    rows = np.stack([edges[:-1], edges[1:], counts.astype("float64")], axis=1)
    tf.summary.write(tag, tf.constant(rows), step, metadata=_metadata("histograms"))
