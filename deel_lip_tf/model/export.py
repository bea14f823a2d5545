"""Export of a whole model to plain Keras."""

import keras
from keras import ops

from deel_lip_tf._keras import flat_layers, overrides_call, replaced_method, rounding_as
from deel_lip_tf.layers.base import Condensable, LipschitzLayer, check_exported
from deel_lip_tf.layers.copying import copy_of
from deel_lip_tf.semantics.graph import graph_of, is_readable
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.identity import Augmentation
from deel_lip_tf.semantics.state import copy_state


def vanillaModel(model: keras.Model) -> keras.Model:
    """A copy of a model in plain Keras layers, with the effective kernels as kernels.

    Nested models are exported too, layers used several times stay shared, and the given model is
    not changed. Augmentations, which are identities at inference, become layers that multiply by 1.
    Activations that Keras has not got, such as `GroupSort2`, stay layers of this
    library; without them the copy loads where this library is not installed.

    Args:
        model: a Keras `Sequential` or functional model, of this library or not.

    Returns:
        A `keras.Sequential` or functional `keras.Model` of the same name, not compiled.

    Raises:
        TypeError: not a Keras model.
        ValueError: a subclassed model, whose graph is not known, or a layer whose `call` is not
            that of the class it is exported to.

    Example:
        >>> model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(2)])
        >>> plain = lip.vanillaModel(model)
        >>> type(plain).__module__.startswith("keras"), type(plain.layers[0]).__name__
        (True, 'Dense')
        >>> np.allclose(plain(np.eye(4)), model(np.eye(4)), atol=1e-6)
        True
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received an object of type {type(model).__name__}. "
            "A single layer has `layer.vanilla_export()`."
        )
    return _export_model(model, {})


def is_exported_whole(model: keras.Model) -> bool:
    """Whether `vanillaModel` surely computes what the model does: nobody's own code is in it.

    A layer of another package may lack what a copy needs, and a subclass of a layer of this library
    may compute anything.
    """
    return is_readable(model) and all(_is_ours(call.operation) for call in graph_of(model).calls)


def _is_ours(operation: keras.Operation) -> bool:
    parts = flat_layers(operation) if isinstance(operation, keras.layers.Layer) else [operation]
    packages = {type(part).__module__.split(".")[0] for part in parts}
    return packages <= {"deel_lip_tf", "keras"} and replaced_method(operation) is None


def _export_model(model: keras.Model, exported: dict) -> keras.Model:
    if not isinstance(model, (keras.Sequential, keras.Function)) or overrides_call(model):
        raise ValueError(
            f"Model {model.name!r} ({type(model).__name__}) defines its own `call`, so its graph "
            "is not known and cannot be exported. Write it with the functional API, or export its "
            "layers one by one with `layer.vanilla_export()`."
        )

    def export(layer: keras.layers.Layer) -> keras.layers.Layer:
        # By identity: a layer that is used twice stays one layer.
        if id(layer) not in exported:
            exported[id(layer)] = _export_layer(layer, exported)
        return exported[id(layer)]

    if not isinstance(model, keras.Sequential):
        # Cloning keeps class and compilation; a plain model on the same graph has neither.
        plain = keras.Model(model.input, model.output, name=model.name)
        return rounding_as(model, keras.models.clone_model(plain, clone_function=export))
    layers = [export(layer) for layer in model.layers]
    if model.built:
        tensor = model.inputs[0]
        # Its name is that of the argument in the signature of a SavedModel.
        given = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        layers.insert(0, given)
    return keras.Sequential(layers, name=model.name)


def _export_layer(layer: keras.layers.Layer, exported: dict) -> keras.layers.Layer:
    if isinstance(layer, keras.Model):
        return _export_model(layer, exported)
    check_exported(layer)
    if isinstance(layer, LipschitzLayer | Condensable):
        return layer.vanilla_export()
    if isinstance(rule_for(layer), Augmentation):
        # The SavedModel that Keras writes of one would go on drawing random numbers.
        return keras.layers.Rescaling(1.0, name=layer.name, dtype=layer.dtype_policy)
    copy = copy_of(layer)
    if isinstance(layer, keras.layers.Layer) and layer.weights:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights([ops.convert_to_numpy(weight) for weight in layer.weights])
        copy_state(layer, copy)
    return copy
