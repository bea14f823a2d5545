"""What losses and metrics with a state of their own need from the model they are compiled in."""

import contextlib
import contextvars
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
from keras import tree

from deel_lip_tf.model.measured import gap_constants

if TYPE_CHECKING:
    from keras import Model as BesideModel  # a mixin uses what the model beside it has
else:
    BesideModel = object


# On JAX: the variables of a model with the values that its step was handed, and whether its metrics
# are computed, which Keras hands none.
_handed: contextvars.ContextVar = contextvars.ContextVar("handed", default=())
_of_metrics = contextvars.ContextVar("of_metrics", default=False)


class LossState(BesideModel):
    """Mixin of models: losses may have variables, and metrics may read the model.

    Everything goes by method names, so that a loss of the user's own takes part too. Of a loss:

    * `build(outputs)`: called with the number of outputs, before the first training step.
    * `get_trainable_variables()`: trained with the optimizer of the model if `optim_margin`.
    * `get_non_trainable_variables()`: may change in `update_state`.
    * `update_state(y_pred)`: called in each training step before the loss is computed, and never in
      an evaluation.
    * `attach(measure)`: called by `compile` with a function without arguments that returns the
      Lipschitz constants of the gaps between the logits, see `gap_constants`.
    * `save_own_variables(store)`, `load_own_variables(store)`: Keras calls them when it saves and
      loads a compiled model.

    Of a metric: `attach(model)`, called by `compile`.
    """

    optim_margin = False

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As in Keras; prepares losses and metrics that have a state of their own."""
        bound = inspect.signature(keras.Model.compile).bind(self, *args, **kwargs)
        given = bound.arguments
        for name in {"loss", "metrics", "weighted_metrics"} & set(given):
            # Keras takes classes too, and makes objects of them that nobody else gets to see
            given[name] = tree.map_structure(_made, given[name])
        super().compile(*bound.args[1:], **bound.kwargs)
        metrics = [given.get("metrics"), given.get("weighted_metrics")]
        for one in tree.flatten([self.loss, metrics]):
            if hasattr(one, "attach"):
                one.attach(_measure_of(self) if isinstance(one, keras.Loss) else self)
        if self.built:
            self._build_losses(self.outputs)

    def compile_from_config(self, config: dict) -> None:
        """As in Keras, which refuses to compile a loaded model whose class overrides `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool | None = True,
    ) -> Any:
        """As in Keras; in training, losses with a state see the predictions first."""
        # A model without an input shape learns its outputs here, before its optimizer is built.
        self._build_losses(y_pred)
        if training:
            for loss, scores in self._losses_with_outputs(y_pred):
                if hasattr(loss, "update_state"):
                    loss.update_state(scores)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, *args: Any) -> Any:
        """As in Keras."""
        with _set(_handed, self._values_of(args)):
            return super().train_step(*args)

    def test_step(self, *args: Any) -> Any:
        """As in Keras."""
        with _set(_handed, self._values_of(args)):
            return super().test_step(*args)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """As in Keras; losses among the metrics measure the weights that the step began with."""
        with _set(_of_metrics, True):
            return super().compute_metrics(x, y, y_pred, sample_weight)

    def _values_of(self, arguments: tuple) -> list[tuple]:
        if keras.config.backend() != "jax":
            return []
        variables = (self.trainable_variables, self.non_trainable_variables)
        pairs = zip(variables, arguments[0], strict=False)
        return [pair for known, given in pairs for pair in zip(known, given, strict=True)]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """PyTorch's, which Keras calls there in each step: also of what the losses learn.

        Only parameters of the model have it by themselves; the gradients of others would add up.
        """
        super().zero_grad(set_to_none)
        for variable in self._of_losses("get_trainable_variables"):
            variable.value.grad = None

    @property
    def trainable_variables(self) -> list:
        """The variables of the layers, then those that the loss learns."""
        return super().trainable_variables + self._learned_variables()

    @property
    def trainable_weights(self) -> list:
        """As `trainable_variables`."""
        return super().trainable_weights + self._learned_variables()

    @property
    def non_trainable_variables(self) -> list:
        """Those of the layers, then those that a loss changes while training."""
        # On JAX only what is listed here keeps the value that a training step gave it.
        return super().non_trainable_variables + self._of_losses("get_non_trainable_variables")

    def _learned_variables(self) -> list:
        is_learning = self.optim_margin and self.trainable
        return self._of_losses("get_trainable_variables") if is_learning else []

    def _of_losses(self, method: str) -> list:
        losses = tree.flatten(getattr(self, "loss", None))
        found = [getattr(loss, method)() for loss in losses if hasattr(loss, method)]
        return list({id(variable): variable for some in found for variable in some}.values())

    def _build_losses(self, outputs: Any) -> None:
        for loss, output in self._losses_with_outputs(outputs):
            if hasattr(loss, "build"):
                loss.build(1 if len(output.shape) == 1 else output.shape[-1])

    def _output_names(self) -> list[str]:
        if not hasattr(self, "output_names"):
            raise ValueError(
                "`loss` must not be a dictionary: the output of a Sequential model has no name. "
                f"Received: loss={self.loss!r}. Give the loss itself."
            )
        return self.output_names

    def _losses_with_outputs(self, outputs: Any) -> Iterator[tuple]:
        """Each loss with the output, or outputs one by one, that it looks at."""
        flat = tree.flatten(outputs)
        if isinstance(self.loss, dict):
            names = sorted(outputs) if isinstance(outputs, dict) else self._output_names()
            pairs = zip(names, flat, strict=True)
            yield from ((self.loss[name], output) for name, output in pairs if name in self.loss)
        elif isinstance(self.loss, list | tuple):
            yield from zip(tree.flatten(self.loss), flat, strict=False)
        else:
            yield from ((self.loss, output) for output in flat)


def _measure_of(model: keras.Model) -> Callable:
    """`gap_constants` of the model; weak, for a loss is part of what it would keep alive."""
    reference = weakref.ref(model)

    def measure() -> Any:
        if not (_of_metrics.get() and _handed.get()):
            return gap_constants(reference())
        with keras.StatelessScope(_handed.get()):
            return gap_constants(reference())

    return measure


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar, value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _made(one: Any) -> Any:
    return one() if isinstance(one, type) else one
