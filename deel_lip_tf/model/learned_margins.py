"""Models whose training step also learns the variables of the loss."""

import warnings
from typing import Any

from keras import tree

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf.model.lipschitz import Model, Sequential
from deel_lip_tf.model.loss_state import BesideModel


class _LearnsLoss(BesideModel):
    def compile(self, *args, **kwargs) -> None:
        """As in Keras, positional arguments included.

        Warns if `optim_margin` is set and the loss has nothing to learn.
        """
        super().compile(*args, **kwargs)
        losses = tree.flatten(self.loss)
        if self.optim_margin and not any(hasattr(x, "get_trainable_variables") for x in losses):
            names = [getattr(loss, "name", loss) for loss in losses]
            warnings.warn(
                f"{type(self).__name__}: the loss has no trainable parameters, only the network "
                "will be trained. Use HingeMarginAuto, HKRauto, MulticlassHingeAuto or "
                f"MulticlassHKRauto, or set `optim_margin=False`. Received: loss={names}.",
                stacklevel=2,
            )

    def get_config(self) -> dict[str, Any]:
        """The configuration of the network, and `optim_margin`."""
        return {**super().get_config(), "optim_margin": self.optim_margin}


@register
class LossVariableModel(_LearnsLoss, Model):
    """A functional `Model` that learns the margins of its loss with its own optimizer.

        model = LossVariableModel(inputs, outputs)
        model.compile("adam", MulticlassHKRauto(alpha=10.0, max_margin=5.0, alpha_margin=0.05))

    Any loss with a method `get_trainable_variables()` takes part. The variables of the loss come
    last in `trainable_variables`; they are not among `weights` or the layers', so that exchanging
    weights with a plain model and nesting this one in another stay what they were. A compiled model
    is saved with them and with the state of its optimizer, and training resumes where it stood.

    Args:
        inputs: as in `keras.Model`.
        outputs: likewise.
        name: likewise.
        optim_margin: whether the variables of the loss are trained; if not, they stay as they are.
        **kwargs: as in `keras.Model`.

    Raises:
        TypeError: inputs or outputs are missing, `optim_margin` is not a boolean, or an argument is
            unknown.
    """

    def __init__(
        self, inputs=None, outputs=None, name=None, *, optim_margin: bool = True, **kwargs
    ):
        # keyword-only: Keras saves a functional model whose positional arguments are its own
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.optim_margin = flag("optim_margin", optim_margin)


@register
class LossVariableSequential(_LearnsLoss, Sequential):
    """A `Sequential` that learns the margins of its loss, see `LossVariableModel`.

    Args:
        layers: layers, as in `keras.Sequential`.
        name: name of the model.
        optim_margin: whether the variables of the loss are trained; if not, they stay as they are.
        k_coef_lip: the Lipschitz constant of the model, as in `Sequential`.
        **kwargs: as in `keras.Sequential`.

    Raises:
        TypeError, ValueError: as `Sequential`, or `optim_margin` is not a boolean.
    """

    def __init__(
        self,
        layers=None,
        name=None,
        optim_margin: bool = True,
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(layers=layers, name=name, k_coef_lip=k_coef_lip, **kwargs)
        self.optim_margin = flag("optim_margin", optim_margin)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The model of `get_config`."""
        config = dict(config)
        optim_margin = config.pop("optim_margin", True)
        model = super().from_config(config, custom_objects=custom_objects)
        model.optim_margin = flag("optim_margin", optim_margin)
        return model
