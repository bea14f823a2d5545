"""The one mechanism of the loss classes: parameters that callbacks can change while training."""

import contextvars
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf._keras import float32_at_least, float64_kept_for
from deel_lip_tf._validation.arrays import check_finite, numeric
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf._validation.signatures import described
from deel_lip_tf.distribute import replicas
from deel_lip_tf.losses.parameters import parameter

# Keras multiplies the values of the samples by their weights, and does not tell the loss.
_sample_weight = contextvars.ContextVar("sample_weight", default=None)

# Reductions of Keras that divide, by the number of rows or the sum of their weights.
_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def plain(variable: Any) -> float:
    """Returns the shortest Python float that rounds to the scalar: 0.1, not 0.10000000149.

    Rebuilding the variable from it gives the same bits.
    """
    return float(str(np.asarray(keras.ops.convert_to_numpy(variable))[()]))


def warn_of_file(name: str, what: str, fault: str) -> None:
    """Warns of a file without what a loss has learned, or with what it cannot have."""
    warnings.warn(
        f"The file {fault} {what} of the loss {name!r}. Load a file of the compiled model as "
        "`save` or `save_weights` wrote it while it was trained, or train further.",
        stacklevel=3,
    )


class ParametricLoss(keras.losses.Loss):
    """Base of the losses: numeric parameters become variables, and the config plain floats.

    A subclass passes its parameters by keyword; each becomes an attribute that holds a
    non-trainable `keras.Variable`: `loss.alpha.numpy()` reads it, `loss.alpha.assign(5.0)` or
    `loss.alpha = 5.0` changes it, also in a training step that has already been traced. (On JAX
    that is so in the models of this library; those of Keras keep the traced value: compile the
    model again, or with `run_eagerly=True`.) The computation is in float32 at least.

    Weights of samples and of classes (`sample_weight`, `class_weight` of `fit`) multiply the value
    of each sample, a hinge or a cross-entropy: mistakes on a class of weight 8 cost 8 times as
    much. A Kantorovich-Rubinstein term is a difference of two means, which would no longer balance:
    there they are the weights of the samples within the mean of their class, so that a weight that
    a class has as a whole leaves the term as it is. With `multi_gpu` the labels carry the counts
    of the unweighted batch, and a warning says so.

    Under a `tf.distribute` strategy, the value and the gradient are those of one device on the
    global batch, whatever rows and classes a replica has: counts of classes and sizes of batches
    are summed over the replicas. Each returns the same share of the value, which is what Keras's
    losses do on average.

    Args:
        name: name of the loss, as Keras reports it.
        reduction: how values of samples become one: "sum_over_batch_size" for their mean, another
            name that Keras knows, or "none" or `None` for one value per sample. "auto", the former
            default of TensorFlow, is "sum_over_batch_size".
        dtype: dtype of the computation; `keras.config.floatx()` by default.
        multi_gpu: `None` where the loss has no such option.
        **parameters: values of the numeric parameters.

    Raises:
        ValueError: if a parameter is out of its range.
        TypeError: if a parameter is not a number, or `multi_gpu` not a boolean.

    Example:
        >>> class Power(lip.losses.ParametricLoss):
        ...     def __init__(self, alpha, name="Power", reduction="sum_over_batch_size"):
        ...         super().__init__(name, reduction, alpha=alpha)
        ...     def call(self, y_true, y_pred):
        ...         return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1) ** self.alpha
        >>> loss = Power(alpha=1.0)
        >>> loss.alpha = 2.0  # in a compiled training step too
        >>> float(loss(np.zeros((1, 1)), np.full((1, 1), 3.0))), loss.get_config()["alpha"]
        (9.0, 2.0)
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
            dtype=float32_at_least(wanted),
        )
        self.multi_gpu: Any = None if multi_gpu is None else flag("multi_gpu", multi_gpu)
        for key, value in parameters.items():
            variable = keras.Variable(
                parameter(key, value), dtype=self.dtype, trainable=False, autocast=False, name=key
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

    def __call__(self, y_true, y_pred, sample_weight=None):
        """As in Keras.

        Raises:
            TypeError: labels or scores that are not numbers.
            ValueError: shapes that do not fit, as each loss says; NaN and infinite labels, where
                their values can be seen. In a traced step they make the loss NaN.
        """
        check_finite("y_true", numeric("y_true", y_true))
        numeric("y_pred", y_pred)
        token = _sample_weight.set(sample_weight)
        try:
            with float64_kept_for(self.dtype):
                loss = super().__call__(y_true, y_pred, sample_weight)
        finally:
            _sample_weight.reset(token)
        if replicas.count() == 1 or self.reduction not in _MEANS:
            return loss
        return self._of_global_batch(loss, y_pred, sample_weight)

    def _of_global_batch(self, loss, y_pred, sample_weight):
        """What replicas add up to the mean over all rows, from the means over their own.

        Keras divides the mean over the rows of a replica by the number of replicas, which is right
        only where all have as many; a replica without any rows has a mean of no entries.
        """
        size = ops.cast(ops.shape(y_pred)[0], self.dtype)
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            size = ops.sum(ops.convert_to_tensor(sample_weight, dtype=self.dtype))
        share = ops.divide_no_nan(size, replicas.summed(size))
        return replicas.joint(ops.sum(loss) * replicas.count() * share)

    def _weights(self):
        """`(B,)` weights by which Keras will multiply the values of this call; `None` if all alike.

        They are those that a difference of means is to be taken with.
        """
        weights = _sample_weight.get()
        weights = None if weights is None else ops.convert_to_tensor(weights, dtype=self.dtype)
        if weights is None or not len(weights.shape):
            return None
        if self.multi_gpu:
            warnings.warn(
                f"The Kantorovich-Rubinstein term of {self.name!r} is not balanced between the "
                "classes under `sample_weight` or `class_weight` with multi_gpu=True: the labels "
                "carry the counts of the unweighted batch. Leave the weights out, or use "
                "multi_gpu=False.",
                stacklevel=2,
            )
            return None
        weights = ops.reshape(weights, (-1,))
        if self.reduction == "mean_with_sample_weight":
            # the mean divides by the sum of the weights, and not by the size of the batch
            batch = ops.cast(ops.shape(weights)[0], weights.dtype)
            batch, total = replicas.summed([batch, ops.sum(weights)])
            weights = ops.divide_no_nan(weights * batch, total)
        return weights

    def get_non_trainable_variables(self) -> list[keras.Variable]:
        """Returns what a compiled step must not take for a constant: on JAX, the parameters."""
        if keras.config.backend() != "jax":
            return []
        return [getattr(self, name) for name in self._parameters]

    def check_parameter(self, name: str, value: float) -> None:
        """Raises a `ValueError` or `TypeError` if the parameter `name` must not take `value`."""
        parameter(name, value)

    def __repr__(self) -> str:
        usual: dict[str, Any] = {"name": type(self).__name__, "dtype": keras.config.floatx()}
        usual |= {"reduction": "sum_over_batch_size", "multi_gpu": False}
        try:
            return described(self, self.get_config(), usual)
        except NotImplementedError:  # while it traces, TensorFlow shows no values
            return super().__repr__()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: floats, strings and booleans."""
        options = {} if self.multi_gpu is None else {"multi_gpu": self.multi_gpu}
        parameters = {name: plain(getattr(self, name)) for name in self._parameters}
        return {**super().get_config(), "dtype": self.dtype, **options, **parameters}
