"""Why the loss is not a number any more."""

import collections
import math
from typing import Any

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf.callbacks.configurable import Configurable
from deel_lip_tf.callbacks.origins import (
    origin_in_gradients,
    origin_in_step,
    weight_that_is_not_finite,
)
from deel_lip_tf.callbacks.stepping import synchronize, unwatch, watch_batches
from deel_lip_tf.callbacks.training_state import variables_of

_BLOWN_UP = 1e3  # times the first loss: by noise alone no loss grows so


@register
class ExplainNaN(Configurable):
    """Ends a training whose loss is NaN or infinite, and says where that began.

    It looks, in this order, at the inputs, the labels and the weights of the samples of the batch,
    at the weights of the model before it, at the output of each layer, at the loss of each sample,
    and, where the weights were spoiled by the step before, at the gradients of that. One line is
    printed, and kept as `explanation`. The model and its optimizer get back what they held before
    the batch, or the step, that spoiled them.

    It keeps two copies of all variables, and asks for the loss after each step, so that steps do
    not overlap: for finding the reason, not for every training. In a distributed training it sees
    no batches, and looks at weights alone.

    Example:
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.FrobeniusDense(1)])
        >>> model.compile("sgd", "mse", run_eagerly=True)
        >>> explain = lip.callbacks.ExplainNaN()
        >>> x, y = np.eye(2), np.array([[0.0], [np.nan]])
        >>> _ = model.fit(x, y, shuffle=False, epochs=5, callbacks=[explain], verbose=0)
        <BLANKLINE>
        The loss is nan in batch 0 of epoch 0: the labels hold nan in 1 of 2 entries, first in row \
1 of the batch. Leave out such samples.
        >>> model.stop_training, bool(np.isfinite(model.layers[0].kernel).all())
        (True, True)
    """

    def __init__(self) -> None:
        super().__init__()
        self.explanation: str | None = None

    def on_train_begin(self, logs=None):
        """Begins to keep batches and weights."""
        self.explanation = None
        self._epoch, self._first, self._last = 0, math.nan, math.nan
        # of this step and the one before: copies of the variables, and the batches
        self._steps: collections.deque = collections.deque(maxlen=2)
        if self.model.built and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        unwatch(self.model)  # of a training that was interrupted
        strategy = getattr(self.model, "distribute_strategy", None)
        if getattr(strategy, "num_replicas_in_sync", 1) == 1:
            watch_batches(self.model, lambda batches: self._steps[-1][1].extend(batches))

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        """Keeps a copy of all variables."""
        if self.model.built and self.model.optimizer.built:
            synchronize(self.model)
            self._steps.append(([ops.copy(v) for v in self._variables()], []))
        else:
            self._steps.append(([], []))

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss, and ends the training if it is not finite."""
        if "loss" not in (logs or {}):
            return
        loss = float(logs["loss"])
        if math.isfinite(loss):
            self._first, self._last = (loss if math.isnan(self._first) else self._first), loss
            return
        synchronize(self.model)
        where = f"The loss is {loss} in batch {batch} of epoch {self._epoch}"
        self.explanation = f"{where}: {self._origin()}{self._growth()}"
        print(f"\n{self.explanation}")
        self.model.stop_training = True

    def on_train_end(self, logs=None):
        """Forgets what was kept."""
        unwatch(self.model)
        self._steps.clear()

    def _variables(self) -> list:
        return [v for group in variables_of(self.model).values() for v in group]

    def _origin(self) -> str:
        """The reason; the variables are put back."""
        values, batches = self._steps[-1]
        if len(values) != len(self._variables()):
            return "it was the first step of a model that was not built."
        weight = weight_that_is_not_finite(self._variables(), values)
        if weight is None:
            found = [self._put_back(values, origin_in_step, one) for one in batches]
            return next((one for one in found if one), "its origin is not known.")
        if len(self._steps) < 2 or weight_that_is_not_finite(self._variables(), self._steps[0][0]):
            return f"{weight!r} was not finite when training began."
        values, batches = self._steps[0]
        why = self._put_back(values, origin_in_gradients, batches[-1]) if batches else None
        return f"{weight!r} was spoiled by the step before, by {why or 'its gradient.'}"

    def _put_back(self, values: list, look: Any, batch: Any) -> str | None:
        """What a function finds with the variables of before; they are so afterwards, too."""
        self._assign(values)
        try:
            return look(self.model, batch)
        finally:
            self._assign(values)

    def _assign(self, values: list) -> None:
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _growth(self) -> str:
        """A sentence about a loss that has grown and grown, or nothing."""
        if not abs(self._last) > _BLOWN_UP * max(abs(self._first), 1e-3):
            return ""
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        return (
            f" The loss had grown from {self._first:.3g} to {self._last:.3g}: the learning rate "
            f"{rate:.3g} is too large. Try a tenth of it, or `clipnorm` of the optimizer."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments: none."""
        return {}
