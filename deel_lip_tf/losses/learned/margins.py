"""Margins of a loss that are trained with the network."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from deel_lip_tf.losses.base import ParametricLoss, plain, warn_of_file
from deel_lip_tf.losses.tracing import outside_of_graphs


class LearnedMargins(ParametricLoss):
    """Base of the losses with learned margins; not a loss by itself.

    The margins are a trainable variable of shape `(outputs,)` in the loss's dtype, float32 at
    least. They start at `min_margin`, and every optimizer keeps them in `[min_margin, max_margin]`
    after each update, as `fit` does with the averages of Keras's `use_ema`. `LossVariableModel` and
    `LossVariableSequential` create them from their output shape and train them with their own
    optimizer; under any other model they keep their values. Compiled models save and restore them.
    """

    def __init__(self, name, reduction, dtype, multi_gpu=None, **parameters):
        super().__init__(name, reduction, dtype, multi_gpu, **parameters)
        self._margins: Any = None  # a variable, once the number of outputs is known
        self.check_parameter("max_margin", parameters["max_margin"])

    def check_parameter(self, name: str, value: float) -> None:
        """Raises a `ValueError` or `TypeError` if the parameter `name` must not take `value`."""
        super().check_parameter(name, value)
        if name not in ("min_margin", "max_margin"):
            return
        limits = {one: plain(getattr(self, one)) for one in ("min_margin", "max_margin")}
        # rounded as the variables are: an interval of one point stays one
        limits[name] = plain(np.asarray(value, self.dtype))
        if limits["min_margin"] > limits["max_margin"]:
            raise ValueError(
                "`max_margin` must be at least `min_margin`. Received: min_margin="
                f"{limits['min_margin']:g}, max_margin={limits['max_margin']:g}."
            )

    @property
    def hinge_margins(self) -> keras.Variable | None:
        """The margins, `loss.hinge_margins.numpy()`; None while the number of outputs is unknown.

        A model that is built creates them in `compile`, another one in its first training step.
        """
        return self._margins

    def get_trainable_variables(self) -> list[keras.Variable]:
        """Returns what a training step must learn: the margins, once they exist."""
        return [] if self._margins is None else [self._margins]

    def get_non_trainable_variables(self) -> list[keras.Variable]:
        """Returns what a compiled step is handed on JAX: all parameters but the limits.

        These are read by the optimizer, which is handed what it trains alone: they stay as they are
        in a step that has been traced.
        """
        limits = {id(self.min_margin), id(self.max_margin)}
        return [v for v in super().get_non_trainable_variables() if id(v) not in limits]

    def stationary_fraction(self, outputs: int) -> float:
        """Returns the fraction of samples inside the margins that training leads to, see above."""
        raise NotImplementedError

    def build(self, outputs: int) -> None:
        """Creates the margins of a model with this number of outputs; repeating it does nothing.

        Raises:
            ValueError: if the loss already has the margins of another number of outputs.
        """
        if self._margins is None:
            # a model without an input shape comes here while its first step is traced
            with outside_of_graphs(), keras.name_scope(self.name):
                self._warn_if_unreachable(outputs)
                self._margins = keras.Variable(
                    keras.initializers.Constant(float(ops.convert_to_numpy(self.min_margin))),
                    shape=(outputs,),
                    dtype=self.dtype,
                    autocast=False,
                    name="hinge_margins",
                )
            self._margins.constraint = self._clipped
        elif self._margins.shape[0] != outputs:
            raise ValueError(
                f"The loss {self.name!r} has learned the margins of {self._margins.shape[0]} "
                f"outputs: use a new loss for another model. Received: {outputs} outputs."
            )

    def _clipped(self, margins):
        # tensors: JAX compiles `clip`, and takes no variables there
        limits = map(ops.convert_to_tensor, (self.min_margin, self.max_margin))
        return ops.clip(ops.convert_to_tensor(margins), *limits)

    def _warn_if_unreachable(self, outputs: int) -> None:
        fraction = self.stationary_fraction(outputs)
        if fraction >= 1:
            alpha_margin = float(ops.convert_to_numpy(self.alpha_margin))
            warnings.warn(
                f"`alpha_margin`={alpha_margin:g} asks that {fraction:.0%} of the samples lie "
                f"inside the margins of {outputs} outputs: the margins of {self.name!r} will grow "
                f"up to `max_margin`. Choose `alpha_margin` below {alpha_margin / fraction:.3g}.",
                stacklevel=3,
            )

    def _margins_for(self, y_pred):
        # a scalar is refused by the formula, with the shapes that fit
        self.build(1 if len(y_pred.shape) < 2 else y_pred.shape[-1])
        return self._margins

    def save_own_variables(self, store) -> None:
        """Writes the margins into the file of the compiled model."""
        if self._margins is not None:
            store["hinge_margins"] = self._margins

    def load_own_variables(self, store) -> None:
        """Reads the margins; a file without any leaves them as they are, with a warning.

        Another warns of margins that are out of their range, to which the next step brings them.
        """
        if "hinge_margins" not in store.keys():  # noqa: SIM118 - a store is not a dictionary
            if self._margins is not None:
                warn_of_file(self.name, "learned margins", "has no")
            return
        values = np.asarray(store["hinge_margins"])
        self.build(values.shape[0])
        self._margins.assign(values)
        if not np.array_equal(ops.convert_to_numpy(self._clipped(values)), values):
            warn_of_file(self.name, f"margins {values}", "has, out of their range, the")
