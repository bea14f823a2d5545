"""The one mechanism of the loss classes: parameters that callbacks can change while training."""

import math
from typing import Any

import keras
import numpy as np

RULES = {
    "alpha": (lambda value: value >= 0, "at least 0 (0: KR alone, inf: hinge alone)"),
    "min_margin": (lambda value: 0 < value < math.inf, "positive and finite"),
    "tau": (lambda value: 0 < value < math.inf, "positive and finite"),
    "temperature": (lambda value: 0 < value < math.inf, "positive and finite"),
    "penalty": (lambda value: 0 < value < math.inf, "positive and finite"),
    "max_margin": (lambda value: 0 < value < math.inf, "positive and finite"),
    "alpha_margin": (lambda value: 0 <= value < math.inf, "finite and at least 0"),
    "alpha_mean": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "soft_hinge_tau": (lambda value: 0 <= value < math.inf, "finite and at least 0 (0: plain)"),
}


def plain(variable: Any) -> float:
    """Returns the shortest Python float that rounds to the scalar: 0.1, not 0.10000000149.

    Rebuilding the variable from it gives the same bits.
    """
    return float(str(np.asarray(keras.ops.convert_to_numpy(variable))[()]))


def _checked(name: str, value: Any) -> float:
    allowed, rule = RULES[name]
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.") from error
    if not allowed(number):
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}.")
    return number


class ParametricLoss(keras.losses.Loss):
    """Base of the losses: numeric parameters become variables, and the config plain floats.

    A subclass passes its parameters by keyword; each becomes an attribute that holds a
    non-trainable `keras.Variable`: `loss.alpha.numpy()` reads it, `loss.alpha.assign(5.0)` or
    `loss.alpha = 5.0` changes it, also in a training step that TensorFlow has already traced. (JAX
    keeps the traced value: compile the model again, or with `run_eagerly=True`.) The computation is
    in float32 at least.

    Args:
        name: name of the loss, as Keras reports it.
        reduction: as in `keras.losses.Loss`; `None` or "none" gives one value per sample, whose
            mean is the loss. "auto", the former default of TensorFlow, is "sum_over_batch_size".
        dtype: dtype of the computation; `keras.config.floatx()` by default.
        multi_gpu: `None` where the loss has no such option.
        **parameters: values of the numeric parameters.

    Raises:
        ValueError: if a parameter is out of its range, or `multi_gpu` is not a boolean.
        TypeError: if a parameter is not a number.
    """

    def __init__(
        self,
        name: str,
        reduction: str | None,
        dtype: Any = None,
        multi_gpu: bool | None = None,
        **parameters: float,
    ):
        wanted = keras.dtype_policies.get(dtype or keras.config.floatx()).compute_dtype
        super().__init__(
            name=name,
            reduction="sum_over_batch_size" if reduction == "auto" else reduction,
            dtype=keras.backend.result_type(wanted, "float32"),
        )
        if not (multi_gpu is None or isinstance(multi_gpu, bool)):
            raise ValueError(
                "`multi_gpu` must be True or False; give the options that follow it by keyword, "
                f"e.g. `soft_hinge_tau=20.0`. Received: multi_gpu={multi_gpu!r}."
            )
        self.multi_gpu = multi_gpu
        for key, value in parameters.items():
            variable = keras.Variable(
                _checked(key, value), dtype=self.dtype, trainable=False, autocast=False, name=key
            )
            setattr(self, key, variable)
        self._parameters = tuple(parameters)

    def __setattr__(self, name: str, value: Any):
        if name in self.__dict__.get("_parameters", ()):
            # replacing the variable would leave traced steps with the old one, silently
            self.check_parameter(name, value)
            getattr(self, name).assign(float(value))
        else:
            super().__setattr__(name, value)

    def check_parameter(self, name: str, value: float) -> None:
        """Raises a `ValueError` or `TypeError` if the parameter `name` must not take `value`."""
        _checked(name, value)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: floats, strings and booleans."""
        options = {} if self.multi_gpu is None else {"multi_gpu": self.multi_gpu}
        parameters = {name: plain(getattr(self, name)) for name in self._parameters}
        return {**super().get_config(), "dtype": self.dtype, **options, **parameters}
