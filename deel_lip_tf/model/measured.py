"""Lipschitz constants of the gaps between logits, differentiable in the weights: for losses.

What certifies is `certificates.class_divisors`, in float64 and rounded upward. Here the same
constants are upper bounds in the dtype of the weights, rounding aside, made of tensors.
"""

import math
from functools import reduce
from typing import Any

import keras
from keras import layers, ops

from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.layers.blocks.linear import LiResConv2D
from deel_lip_tf.layers.dense import SpectralDense
from deel_lip_tf.normalizers import (
    flatten_kernel,
    max_duplication,
    spectral_norm_bound,
)
from deel_lip_tf.normalizers.numerics.arithmetic import safe_sqrt
from deel_lip_tf.normalizers.parametrization import at_least_float32
from deel_lip_tf.semantics.functions import activation_constant
from deel_lip_tf.semantics.graph import Call, Graph, graph_of
from deel_lip_tf.semantics.rule import lipschitz_constant, rule_for
from deel_lip_tf.semantics.rules import dense as rules
from deel_lip_tf.semantics.state import is_constrained

Tensor = Any

# Of the Gram matrix: the bound of a kernel of n rows or columns is at most n^(1/64) times its norm,
# 10 % above it for 512 equal singular values, and mostly much nearer.
SQUARINGS = 4
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)


def gap_constants(model: keras.Model) -> Tensor:
    """Upper bounds of the Lipschitz constants of `f_i - f_j`, for the logits `f` of a chain.

    `K ||w_i - w_j||` with `w` the columns of a linear dense head and `K` the product of the
    constants of the layers before it; `sqrt(2) K` with the product of all layers otherwise. Plain
    dense layers and convolutions are bounded by Gram iteration, from above, layers of this library
    by what they guarantee, or likewise where that is nothing (`LiResConv2D`), and layers without a
    kernel by what is proven of them.

    A bound of a plain kernel of n rows or columns costs five products of n x n matrices, and ten
    for its gradient, whatever the batch: where n is above the size of the batch, that is most of a
    step.

    Args:
        model: a built Sequential or functional model, each layer of which reads the output of the
            one before alone.

    Returns:
        A tensor `(C, C)`, or `()` where there is no such head. Gradients flow to the kernels.

    Raises:
        ValueError: if the model is no such chain, or has a layer that cannot be measured: one of
            the reasons is that it has weights other than a kernel and a bias.

    Example:
        >>> head = keras.layers.Dense(2, use_bias=False)
        >>> model = keras.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2), head])
        >>> head.set_weights([np.array([[3.0, 0.0], [0.0, 4.0]])])
        >>> print(np.round(lip.model.gap_constants(model), 3))
        [[0. 5.]
         [5. 0.]]
        >>> loss = lip.losses.EMMA(radius=0.1, lipschitz="measured")
        >>> loss.attach(lambda: lip.model.gap_constants(model))  # for a plain Keras model
        >>> model.compile("sgd", loss)
    """
    chain = _chain(model)
    head = chain[-1].operation if chain else None
    is_linear = getattr(head, "activation", None) in (None, keras.activations.linear)
    is_dense = isinstance(rule_for(head), rules.Dense)
    if not is_dense or not is_linear or _has_orthogonal_columns(chain[-1]):
        return ops.multiply(math.sqrt(2.0), _product(chain))
    # a Gram matrix, so that no tensor has three axes; differences of equal columns are 0
    kernel = _kernel(head)
    gram = ops.matmul(ops.transpose(kernel), kernel)
    squares = ops.diagonal(gram)
    apart = ops.maximum(squares[:, None] + squares[None] - 2 * gram, 0.0)
    return ops.multiply(_product(chain[:-1]), safe_sqrt(apart))


def _chain(model: keras.Model) -> list[Call]:
    graph: Graph = graph_of(model)
    reads = [call.inputs for call in graph.calls]
    made = [*graph.inputs, *(value for call in graph.calls for value in call.outputs)]
    is_chain = len(graph.inputs) == len(graph.outputs) == 1 and graph.outputs[0] is made[-1]
    if not is_chain or reads != [[value] for value in made[:-1]]:
        raise ValueError(
            "`model` must be a chain, in which every layer reads the one before, for constants "
            f"that are measured in each step. Received: {model.name!r}, which is not. Give the "
            "loss a number, or a measure of your own by `loss.attach(measure)`."
        )
    return graph.calls


def _has_orthogonal_columns(call: Call) -> bool:
    """Whether `sqrt(2)` is what the columns would give, without projecting them once more."""
    head, inputs = call.operation, call.inputs[0].shape[-1]
    return isinstance(head, SpectralDense) and _is_kept(head) and head.units <= inputs


def _is_kept(layer: keras.layers.Layer) -> bool:
    """Whether `k_coef_lip` bounds all outputs together, whatever the weights."""
    is_joint = not getattr(layer, "disjoint_neurons", False)
    return isinstance(layer, LipschitzLayer) and layer.is_guaranteed and is_joint


def _product(chain: list[Call]) -> Tensor:
    # of `ops`, which also multiplies tensors of different types
    return reduce(ops.multiply, map(_constant, chain), 1.0)


def _constant(call: Call) -> Tensor:
    layer, shape = call.operation, call.inputs[0].shape
    if rule_for(layer).knows("recurrence") and _slope(layer) > 1.0:
        raise _unknown(layer)  # what its activation adds grows from step to step
    if _is_kept(layer):
        return layer.k_coef_lip * _ceiling(layer) * _slope(layer)
    if isinstance(layer, layers.Dense) and (type(layer) is layers.Dense or is_constrained(layer)):
        return _norm(_kernel(layer)) * _slope(layer)
    if isinstance(layer, LiResConv2D):
        return layer.operation.norm_bound(_kernel(layer)) * _slope(layer)
    if type(layer) in CONVOLUTIONS:
        return _norm(_kernel(layer)) * math.sqrt(_copies(layer, shape)) * _slope(layer)
    return _without_weights(layer, shape)


def _ceiling(layer: keras.layers.Layer) -> Tensor:
    """The share of its constant that a layer makes use of, where it has learned it."""
    own = getattr(layer, "parametrization", None)
    return 1.0 if own is None else own.ceiling(layer.raw_weights)


def _slope(layer: keras.layers.Layer) -> float:
    """The constant of its activation."""
    activation = getattr(layer, "activation", None)
    if isinstance(activation, layers.Layer):
        return activation.k_coef_lip if _is_kept(activation) else _without_weights(activation)
    slope = activation_constant(activation)
    if slope is None:
        raise _unknown(layer)
    return slope


def _without_weights(layer: keras.layers.Layer, shape: Any = None) -> float:
    # what is proven of weights is proven of their values, which a traced step does not have
    constant = None if getattr(layer, "weights", []) else lipschitz_constant(layer, shape)
    if constant is None:
        raise _unknown(layer)
    return constant


def _unknown(layer: keras.layers.Layer) -> ValueError:
    return ValueError(
        "`model` must consist of layers whose constant can be measured in each step: dense layers, "
        "convolutions, layers of this library, and layers without weights that have a constant. "
        f"Received: layer {layer.name!r} of type {type(layer).__name__}. Give the loss a number, "
        "or a measure of your own by `loss.attach(measure)`."
    )


def _kernel(layer: keras.layers.Layer) -> Tensor:
    kernel = layer.effective_kernel() if is_constrained(layer) else layer.kernel
    return at_least_float32(ops.convert_to_tensor(kernel))


def _norm(kernel: Tensor) -> Tensor:
    return spectral_norm_bound(flatten_kernel(kernel), SQUARINGS)


def _copies(layer: keras.layers.Layer, shape: Any) -> int:
    """In how many patches a pixel is at most; a patch is multiplied by the flattened kernel."""
    if layer.groups != 1 or any(rate != 1 for rate in layer.dilation_rate):
        raise _unknown(layer)
    sizes = shape[1:-1] if layer.data_format == "channels_last" else shape[2:]
    axes = zip(sizes, layer.kernel_size, layer.strides, strict=True)
    return math.prod(max_duplication(*axis, layer.padding) for axis in axes)
