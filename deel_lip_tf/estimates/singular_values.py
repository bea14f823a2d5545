"""Smallest and largest singular values of the layers of a model, to look at and to plot.

Nothing here changes a layer, and nothing here is a guarantee: some values are estimates. For a
proven constant see `deel_lip_tf.bounds.lipschitz_bound`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from deel_lip_tf.estimates.operator import (
    ConvolutionOperator,
    Extremes,
    dense_extremes,
    extreme_singular_values,
)
from deel_lip_tf.semantics.operators import Matrices, Shape, all_known, single_shape
from deel_lip_tf.semantics.rule import Rule, rule_for

Unknown = tuple[None, None]

_UNKNOWN: Unknown = (None, None)


def compute_layer_sv(
    layer: keras.layers.Layer, supplementary_type2sv: Mapping[type, Callable] | None = None
) -> Extremes | Unknown:
    """The smallest and the largest singular value of the linear part of a layer.

    The linear part has neither bias nor activation; its kernel is the effective one, rounded to
    the type the layer computes in, all else is float64. Singular values are counted as those of a
    matrix, as many as its smaller side. The layer is not changed.

    * Dense, EinsumDense: of its kernel.
    * Convolution (plain, transposed, depthwise, separable): of the operator on images of the size
      the layer is built for. Exact for small operators and for circular padding whose strides
      divide the size; else estimates from inside, see
      `normalizers.operator.extreme_singular_values`.
    * Average pooling, `Rescaling`, `Normalization`, `BatchNormalization` at inference: exact.
    * `Add` of n tensors: `(n, n)`, as if they were all the same tensor.
    * Activation, reordering, another pooling or layer of known constant: the constant, twice.

    Args:
        layer: a built layer of Keras or of this library.
        supplementary_type2sv: functions `layer -> (smallest, largest)` by exact type of layer, for
            layers of your own; they come before the rules above.

    Returns:
        `(smallest, largest)`, or `(None, None)` where they are unknown: a subclass or another type
        without a rule, a convolution on images of unknown size, a quantized layer.

    Raises:
        TypeError: if `layer` is not a Keras layer, or is a model; if `supplementary_type2sv` does
            not map types to functions.
        ValueError: if the layer has a kernel but is not built.

    Example:
        >>> dense = keras.layers.Dense(2)
        >>> dense.build((None, 2))
        >>> dense.set_weights([np.diag([3.0, 4.0]), np.zeros(2)])
        >>> lip.compute_layer_sv.compute_layer_sv(dense)
        (3.0, 4.0)
    """
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        raise TypeError(
            f"`layer` must be a Keras layer. Received: {type(layer).__name__}. The layers of a "
            "model are listed by `compute_model_sv(model)`."
        )
    own = _checked_rules(supplementary_type2sv).get(type(layer))
    if own is not None:
        return own(layer)
    if getattr(layer, "quantization_mode", None) is not None:
        return _UNKNOWN
    known = rule_for(layer)
    if not known.knows("operators"):
        return known.singular_values(layer, _input_shape(layer)) or _UNKNOWN
    if not layer.built:
        raise ValueError(
            f"The singular values of layer {layer.name!r} depend on its weights: build the layer "
            "first, by calling it or by `layer.build(input_shape)`."
        )
    return _of_kernel(layer, known, _input_shape(layer))


def compute_model_sv(
    model: keras.Model, supplementary_type2sv: Mapping[type, Callable] | None = None
) -> list[tuple[str, Extremes | Unknown]]:
    """`compute_layer_sv` of every layer of a model, in its order.

    The product of the largest values is no bound where layers branch, and an estimate where they do
    not: see `deel_lip_tf.bounds.lipschitz_bound`.

    Args:
        model: a built Keras model, of this library or not; it is not changed.
        supplementary_type2sv: functions `layer -> (smallest, largest)` by exact type of layer, for
            layers of your own; they come before the rules of this library. None by default.

    Returns:
        A list of `(name, (smallest, largest))`; layers of a nested model are named "model/layer".

    Raises:
        TypeError: if `model` is not a Keras model; if `supplementary_type2sv` does not map types
            to functions.
        ValueError: if a layer with a kernel is not built.

    Example:
        >>> dense = lip.layers.SpectralDense(3, "relu", name="dense")
        >>> pool = keras.layers.AveragePooling1D(4, name="pool")
        >>> model = keras.Sequential([keras.Input((4, 3)), dense, pool])
        >>> for name, (smallest, largest) in lip.compute_layer_sv.compute_model_sv(model):
        ...     print(name, round(smallest, 3), round(largest, 3))
        dense 1.0 1.0
        pool 0.5 0.5
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: {type(model).__name__}. A single layer has "
            "`compute_layer_sv(layer)`."
        )
    return [
        (name, compute_layer_sv(layer, supplementary_type2sv)) for name, layer in _leaves(model, "")
    ]


def _checked_rules(supplementary_type2sv: Any) -> Mapping[type, Callable]:
    rules = {} if supplementary_type2sv is None else supplementary_type2sv
    is_map = isinstance(rules, Mapping)
    if not is_map or not all(isinstance(key, type) and callable(f) for key, f in rules.items()):
        raise TypeError(
            "`supplementary_type2sv` must map types of layers to functions, e.g. "
            "{MyLayer: lambda layer: (0.0, 1.0)}. Received: supplementary_type2sv="
            f"{supplementary_type2sv!r}."
        )
    return rules


def _leaves(model: keras.Model, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


def _input_shape(layer: keras.layers.Layer) -> Shape:
    """Shape of the one input the layer is built for, or None where there is none on record."""
    shape = (layer.get_build_config() or {}).get("input_shape")
    if shape is None:
        # Layers without weights keep no record, but the model they are part of does.
        try:
            shape = layer.input.shape
        except (AttributeError, ValueError):
            return None
    return single_shape(shape)


def _of_kernel(layer: keras.layers.Layer, known: Rule, shape: Shape) -> Extremes | Unknown:
    """Of the linear part of a built layer with a kernel."""
    operator = known.linear_part(layer, shape)
    if isinstance(operator, Matrices):
        return dense_extremes(operator.blocks)
    sizes = None if operator is None else all_known(operator.sizes)
    if operator is None or sizes is None:
        return _UNKNOWN
    # Paddings of the library's unconstrained convolution, which follow another rule.
    is_plain = operator.padding in ("same", "valid")
    return extreme_singular_values(
        ConvolutionOperator(
            operator.kernel,
            operator.strides,
            operator.dilation,
            operator.padding,
            sizes,
            None if is_plain else getattr(layer, "amounts", None),
        )
    )
