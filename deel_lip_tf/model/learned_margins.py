"""Models whose training step also learns the variables of the loss."""

import warnings
from typing import Any

from keras import tree

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import flag
from deel_lip_tf.model.lipschitz import Model, Sequential
from deel_lip_tf.model.loss_state import BesideModel


class _LearnsLoss(BesideModel):
    def compile(self, *args: Any, **kwargs: Any) -> None:
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

    Any loss with a method `get_trainable_variables()` takes part. The variables of the loss come
    last in `trainable_variables`; they are not among `weights` or the layers', so that exchanging
    weights with a plain model and nesting this one in another stay what they were. A compiled model
    is saved with them and with the state of its optimizer, and training resumes where it stood.

    Args:
        inputs: the `keras.Input` that the graph starts from, or a list or dictionary of them.
        outputs: the tensor that the graph ends with, or a list or dictionary of them.
        name: name of the model; by default one that Keras makes up.
        optim_margin: whether the variables of the loss are trained; if not, they stay as they are.
        **kwargs: `trainable` (whether the weights are trained, True by default), and no other.

    Raises:
        TypeError: inputs or outputs are missing, `optim_margin` is not a boolean, or an argument is
            unknown.

    Example:
        >>> inputs = keras.Input((4,))
        >>> model = lip.LossVariableModel(inputs, lip.layers.SpectralDense(3)(inputs))
        >>> model.compile("adam", lip.losses.MulticlassHKRauto(alpha=10.0, max_margin=5.0))
        >>> len(model.trainable_variables), len(model.weights)  # the margins are learned too
        (3, 2)
    """

    def __init__(
        self,
        inputs: Any = None,
        outputs: Any = None,
        name: str | None = None,
        *,
        optim_margin: bool = True,
        **kwargs: Any,
    ):
        # keyword-only: Keras saves a functional model whose positional arguments are its own
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.optim_margin = flag("optim_margin", optim_margin)


@register
class LossVariableSequential(_LearnsLoss, Sequential):
    """A `Sequential` that learns the margins of its loss, see `LossVariableModel`.

    `keras.models.clone_model` makes a `keras.Sequential` of it, which learns no margins;
    `type(model).from_config(model.get_config())` is a copy of this class.

    Args:
        layers: layers in their order, a `keras.Input` among them where the input shape is known;
            `None`, the default, for none yet.
        name: name of the model; by default one that Keras makes up.
        optim_margin: whether the variables of the loss are trained; if not, they stay as they are.
        k_coef_lip: the Lipschitz constant of the model, shared out among its layers: positive, 1 by
            default.
        **kwargs: `trainable` of `keras.Sequential`.

    Raises:
        TypeError: `layers` is not a list, `k_coef_lip` not a number, or `optim_margin` not a
            boolean.
        ValueError: `k_coef_lip` is not positive, or it is not 1 and no layer can carry it.

    Example:
        >>> head = lip.layers.SpectralDense(1, kernel_initializer="ones")
        >>> model = lip.LossVariableSequential([keras.Input((2,)), head])
        >>> loss = lip.losses.HKRauto(alpha=10.0, min_margin=1.0, alpha_margin=0.1)
        >>> model.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=True)
        >>> x, y = np.array([[9.0, 9.0], [-9.0, -9.0]]), np.array([[1.0], [-1.0]])
        >>> _ = model.fit(x, y, verbose=0)
        >>> [margin] = loss.get_trainable_variables()
        >>> print(np.asarray(margin))  # it has grown: no sample lies within it
        [1.5]
    """

    def __init__(
        self,
        layers: Any = None,
        name: str | None = None,
        optim_margin: bool = True,
        k_coef_lip: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(layers=layers, name=name, k_coef_lip=k_coef_lip, **kwargs)
        self.optim_margin = flag("optim_margin", optim_margin)

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        """The model of `get_config`."""
        config = dict(config)
        optim_margin = config.pop("optim_margin", True)
        model = super().from_config(config, custom_objects=custom_objects)
        model.optim_margin = flag("optim_margin", optim_margin)
        return model
