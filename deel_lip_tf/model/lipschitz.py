"""Models that share a Lipschitz constant out among their layers."""

import contextvars
import functools
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from deel_lip_tf._keras import build_metrics, flat_layers, note_trace, outside_of_graphs
from deel_lip_tf._registration import register
from deel_lip_tf.constraints import apply_constraints
from deel_lip_tf.distribute import replicas
from deel_lip_tf.layers.base import Condensable, LipschitzLayer
from deel_lip_tf.model.export import is_exported_whole, vanillaModel
from deel_lip_tf.model.known import KnownKernels
from deel_lip_tf.model.loss_state import LossState
from deel_lip_tf.model.predictions import is_closed, with_kept_kernels
from deel_lip_tf.normalizers import check_lipschitz_factor
from deel_lip_tf.normalizers.polar.tf_graphs import ByPythonAtFirst
from deel_lip_tf.semantics.functions import activation_constant
from deel_lip_tf.semantics.rule import lipschitz_constant

# Set while a saved model is read: its layers then already have the constants they were saved with.
_restoring = contextvars.ContextVar("restoring", default=False)


class _LipschitzModel(LossState, Condensable):
    """Mixin of the models: condensation, export, and tracing again after a change of constants."""

    train_function: Any
    test_function: Any
    predict_function: Any
    _traced_constants: dict | None = None

    @functools.cached_property
    def _known_kernels(self) -> KnownKernels:
        return KnownKernels()

    def condense(self) -> None:
        """Replaces every raw kernel by its projection; outputs stay what they were."""
        for layer in flat_layers(self):
            if isinstance(layer, Condensable) and not isinstance(layer, keras.Model):
                layer.condense()

    def vanilla_export(self) -> keras.Model:
        """A copy in plain Keras layers, see `vanillaModel`."""
        return vanillaModel(self)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As in Keras; the error of a file that is cut off, or of another model, says what to do.

        Raises:
            OSError, ValueError: Keras's own, with a note.
        """
        try:
            super().load_weights(filepath, *args, **kwargs)
        except (OSError, ValueError) as error:
            error.add_note(
                "`load_weights` needs a whole file, of the weights of a model with the same layers "
                f"in the same order. Received: filepath={str(filepath)!r} for {self.name!r}. Where "
                "a disk was full or a run was killed, load the file before it: "
                "`callbacks.SafeBackup` keeps one."
            )
            raise

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Keras, of the plain copy: the file holds effective kernels, and no projection.

        So what is served has no loop, and costs what plain Keras costs. A model with layers that
        are neither Keras's nor this library's is written as it is, with its projections.
        """
        if is_exported_whole(self):
            return self.vanilla_export().export(filepath, *args, **kwargs)
        return super().export(filepath, *args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; the averages of `use_ema` are constrained once they are the weights.

        Raises:
            ValueError: with workers in several processes, where Keras's fails: use
                `distribute.fit`.
        """
        replicas.check_fit(self)
        history = super().fit(*args, **kwargs)
        if getattr(self.optimizer, "use_ema", False):
            apply_constraints(self)
        return history

    def train_step(self, *args: Any) -> Any:
        """As in Keras; what is traced is forgotten with the model."""
        note_trace(self)
        if _is_traced() and self.built and self.optimizer and not self.optimizer.built:
            with outside_of_graphs():
                self._build_losses(self.outputs)
                self.optimizer.build(self.trainable_variables)
        if not _is_traced():
            return super().train_step(*args)
        with self._known_kernels.in_step(self):
            return super().train_step(*args)

    def test_step(self, *args: Any) -> Any:
        """As `train_step`."""
        note_trace(self)
        return super().test_step(*args)

    def predict_step(self, *args: Any) -> Any:
        """As `train_step`."""
        note_trace(self)
        return super().predict_step(*args)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """As in Keras."""
        if _is_traced():
            with outside_of_graphs():
                build_metrics(self, y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def make_train_function(self, force: bool = False) -> Any:
        """As in Keras, and again after a layer's constant has changed; see `tf_graphs`."""
        if self._constants_changed("train") or force or self.train_function is None:
            make = self._made_train_function
            self.train_function = ByPythonAtFirst(make) if is_closed(self) else make()
        return self.train_function

    def _made_train_function(self) -> Any:
        super().make_train_function(force=True)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """As `make_predict_function`."""
        if self._constants_changed("test") or force or self.test_function is None:
            super().make_test_function(force=True)
            self.test_function = with_kept_kernels(self, self.test_function)
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Any:
        """As in Keras, and again after a layer's constant has changed; see `predictions`."""
        if self._constants_changed("predict") or force or self.predict_function is None:
            super().make_predict_function(force=True)
            self.predict_function = with_kept_kernels(self, self.predict_function)
        return self.predict_function

    def _constants_changed(self, function: str) -> bool:
        # A traced function holds the constants of the layers as numbers: of wrapped ones, too.
        constants = [
            layer.k_coef_lip for layer in flat_layers(self) if isinstance(layer, LipschitzLayer)
        ]
        traced = self._traced_constants or {}
        changed = traced.get(function) != constants
        self._traced_constants = {**traced, function: constants}
        return changed


def _is_traced() -> bool:
    """Whether TensorFlow traces what runs: JAX and torch make all variables before they do."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.inside_function()


@register
class Sequential(_LipschitzModel, LipschitzLayer, keras.Sequential):
    """A Keras `Sequential` whose layers share a Lipschitz constant.

    Each of the `n` layers of known constant is set to `k_coef_lip ** (1 / n)`, the last one
    such that the product is exactly `k_coef_lip`. Nested models of this class take one share.
    Layers of another kind are only checked: a warning names, once, each one that is not known to
    be 1-Lipschitz. For a proof see `bounds.lipschitz_bound`.

    `keras.models.clone_model` makes a `keras.Sequential` of it, whatever its class: the layers keep
    their constants, and `condense` and `vanilla_export` are gone. A copy of the same class, without
    the weights, is `type(model).from_config(model.get_config())`.

    Args:
        layers: layers in their order, a `keras.Input` among them where the input shape is known;
            `None`, the default, for none yet (see `add`).
        name: name of the model; by default one that Keras makes up.
        k_coef_lip: the Lipschitz constant of the model: positive, 1 by default.
        **kwargs: `trainable` of `keras.Sequential`.

    Raises:
        TypeError: `layers` is not a list, or `k_coef_lip` not a number.
        ValueError: `k_coef_lip` is not positive, or it is not 1 and no layer can carry it.

    Example:
        >>> hidden = lip.layers.SpectralDense(8, activation=lip.layers.GroupSort2())
        >>> layers = [keras.Input((4,)), hidden, lip.layers.SpectralDense(2)]
        >>> model = lip.Sequential(layers, k_coef_lip=9.0)
        >>> [layer.k_coef_lip for layer in model.layers]
        [3.0, 3.0]
        >>> lip.bounds.lipschitz_bound(model).value <= 9 * (1 + 1e-6)
        True
    """

    def __init__(
        self, layers: Any = None, name: str | None = None, k_coef_lip: float = 1.0, **kwargs: Any
    ):
        self.k_coef_lip = check_lipschitz_factor(k_coef_lip)
        if not (layers is None or isinstance(layers, Iterable)):
            raise TypeError(
                f"`layers` must be a list of layers, e.g. [layer]. Received: layers={layers!r}."
            )
        layers = None if layers is None else list(layers)
        self._warned = ()
        super().__init__(layers=layers, name=name, **kwargs)
        if layers:
            self._check_carriers()

    def add(self, layer: keras.layers.Layer, rebuild: bool = True) -> None:
        """Appends a layer and shares the constant out anew."""
        super().add(layer, rebuild=rebuild)
        self._warned += _warn_unknown(self.layers[-1:], self._warned, "Sequential")
        self._share_constant()

    def pop(self, rebuild: bool = True) -> keras.layers.Layer:
        """Removes the last layer and shares the constant out anew.

        Raises:
            ValueError: there is none.
        """
        if not self.layers:
            raise ValueError(f"Model {self.name!r} has no layer to remove: `add` one first.")
        layer = super().pop(rebuild=rebuild)
        self._share_constant()
        return layer

    def set_klip_factor(self, klip_factor: float) -> None:
        """Sets the constant of the model and shares it out anew.

        Raises:
            TypeError, ValueError: `klip_factor` is not a positive finite number, or it is not 1
                and no layer can carry it.
        """
        self.k_coef_lip = check_lipschitz_factor(klip_factor)
        self._share_constant()
        if self.layers:
            self._check_carriers()

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any
    ) -> Any:
        """As in Keras."""
        self._check_carriers()
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def _share_constant(self) -> None:
        carriers = [layer for layer in self.layers if _carries(layer)]
        if not carriers or _restoring.get():
            return
        for layer, k in zip(carriers, split_constant(self.k_coef_lip, len(carriers)), strict=True):
            layer.set_klip_factor(k)

    def _check_carriers(self) -> None:
        if self.k_coef_lip != 1 and not _carries(self):
            raise ValueError(
                f"`k_coef_lip` must be 1 where no layer can carry it. Received: k_coef_lip="
                f"{self.k_coef_lip} in model {self.name!r} with layers "
                f"{[layer.name for layer in self.layers]}. Add a layer of this library, such as "
                "SpectralDense."
            )

    def get_config(self) -> dict:
        """The layers, and `k_coef_lip`."""
        return {**super().get_config(), "k_coef_lip": self.k_coef_lip}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        """The model of `get_config`, every layer with the constant it had."""
        config = dict(config)
        k_coef_lip = config.pop("k_coef_lip", 1.0)
        token = _restoring.set(True)
        try:
            model = super().from_config(config, custom_objects=custom_objects)
        finally:
            _restoring.reset(token)
        model.k_coef_lip = check_lipschitz_factor(k_coef_lip)
        return model


@register
class Model(_LipschitzModel, keras.Model):
    """A Keras functional `Model` with `condense` and `vanilla_export`.

    Layers keep the constants they were given; a warning names, once, each layer that is not known
    to be 1-Lipschitz. The constant of the graph is proven by `bounds.lipschitz_bound`.

    Args:
        inputs: the `keras.Input` that the graph starts from, or a list or dictionary of them.
        outputs: the tensor that the graph ends with, or a list or dictionary of them.
        name: name of the model; by default one that Keras makes up.
        **kwargs: `trainable` (whether the weights are trained, True by default), and no other.

    Raises:
        TypeError: inputs or outputs are missing, or an argument is unknown.

    Example:
        >>> inputs = keras.Input((4,))
        >>> branch = lip.layers.SpectralDense(4, lip.layers.GroupSort2())(inputs)
        >>> model = lip.Model(inputs, lip.layers.LipResidual()([inputs, branch]))
        >>> lip.bounds.lipschitz_bound(model).value <= 1 + 1e-6
        True
    """

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, **kwargs: Any
    ):
        if inputs is None or outputs is None:
            raise TypeError(
                "`inputs` and `outputs` are needed: the Lipschitz constant is that of a known "
                "graph. For a model with a `call` of its own, subclass keras.Model and use this "
                "library's layers in it."
            )
        unknown = sorted(set(kwargs) - {"trainable"})
        if unknown:
            # Keras takes any, and forgets it
            raise TypeError(
                f"{type(self).__name__} has no argument `{unknown[0]}`. Received: {unknown[0]}="
                f"{kwargs[unknown[0]]!r}. A Lipschitz constant is given to each layer by "
                "`k_coef_lip`, or to a `Sequential`, which shares it out."
            )
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        _warn_unknown(self.layers, (), "Model")


def split_constant(k: float, n: int) -> list[float]:
    """`n` numbers near `k ** (1 / n)` whose floating-point product is exactly `k`."""
    share = k ** (1 / n)
    for _ in range(100):
        product = math.prod([share] * (n - 1))
        last = k / product
        for candidate in (last, math.nextafter(last, 0), math.nextafter(last, math.inf)):
            if product * candidate == k:
                return [share] * (n - 1) + [candidate]
        # No last factor rounds to k with this share: one nearby, on another lattice of products.
        share *= 1 - 2**-24
    raise ValueError(
        f"`k_coef_lip`={k} cannot be shared by {n} layers: it is at the limit of floating-point "
        "numbers. Choose one nearer to 1."
    )


def _carries(layer: keras.layers.Layer) -> bool:
    """Whether a Lipschitz constant other than 1 can be given to the layer."""
    if isinstance(layer, Sequential):
        return any(_carries(inner) for inner in layer.layers)
    return isinstance(layer, LipschitzLayer)


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of its nested models, activations that are layers included."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
            continue
        yield layer
        if isinstance(getattr(layer, "activation", None), keras.layers.Layer):
            yield layer.activation


def _warn_unknown(layers: list, already: tuple, kind: str) -> tuple:
    """Warns of layers not known to be 1-Lipschitz; returns their names."""
    names = []
    for layer in layers:
        inner = _leaves(layer) if isinstance(layer, keras.Model) else [layer]
        if isinstance(layer, (Sequential, Model)):
            continue  # it has warned itself
        names += [leaf.name for leaf in inner if not _known_one_lipschitz(leaf)]
    new = [name for name in dict.fromkeys(names) if name not in already]
    for name in new:
        warnings.warn(
            f"{kind} model contains a layer which is not a 1-Lipschitz layer: {name}. "
            "`bounds.lipschitz_bound(model)` tells what its constant is, where it has one.",
            stacklevel=4,
        )
    return tuple(new)


# 1-Lipschitz in the joint norm of inputs of one shape; other merges are a matter of the graph.
_CONVEX_MERGES = (keras.layers.Average, keras.layers.Maximum, keras.layers.Minimum)


def _known_one_lipschitz(layer: keras.layers.Layer) -> bool:
    if type(layer) in _CONVEX_MERGES:
        return True
    if isinstance(layer, LipschitzLayer):
        if not layer.is_guaranteed:
            return False
        constant = activation_constant(getattr(layer, "activation", None))
        return constant is not None and (
            constant <= 1 or isinstance(layer.activation, LipschitzLayer)
        )
    constant = lipschitz_constant(layer)
    return constant is not None and constant <= 1
