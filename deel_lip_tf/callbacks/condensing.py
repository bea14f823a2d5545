"""Condensing kernels while a model is trained."""

from typing import Any

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf.callbacks.configurable import Configurable


@register
class CondenseCallback(Configurable):
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
