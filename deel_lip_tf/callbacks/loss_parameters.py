"""Scheduling and printing parameters of the loss."""

import math
from typing import Any

import keras
import numpy as np

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import check_choice, whole_number
from deel_lip_tf.callbacks.configurable import Configurable


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
class LossParamScheduler(Configurable):
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
class LossParamLog(Configurable):
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
