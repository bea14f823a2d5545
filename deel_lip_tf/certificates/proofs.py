"""What is proved of a classifier once, for all samples: how fast the gap of two logits changes."""

from dataclasses import dataclass

import keras
import numpy as np

from deel_lip_tf.bounds.graph import GraphWalk, symbolic_tensors
from deel_lip_tf.bounds.layers import kernel_of
from deel_lip_tf.bounds.rounding import gamma, norm_up, product_up, sqrt_up

__all__ = ["Proof", "class_divisors", "last_call", "prove"]

_PROBABILITIES = ("softmax", "sigmoid", "log_softmax", "log_sigmoid", "hard_sigmoid", "sparsemax")


@dataclass(frozen=True)
class Proof:
    """A classifier and its constants.

    Attributes:
        model: the classifier.
        walk: the pass over its graph that proved them.
        bound: Lipschitz constant of the logits together.
        divisors: see `class_divisors`.
    """

    model: keras.Model
    walk: GraphWalk
    bound: float
    divisors: np.ndarray


def class_divisors(model: keras.Model) -> np.ndarray:
    """Proves how fast the gap between two logits may change.

    With logits f, a linear head of columns `w_j` over a K-Lipschitz backbone and L the constant of
    the whole model, `f_i - f_j` is `min(K ||w_i - w_j||, sqrt(2) L)`-Lipschitz. Without a linear
    head only the second constant counts. A single logit is `min(K ||w||, L)`-Lipschitz.

    Args:
        model: as in `certify`.

    Returns:
        (classes, classes) float64, each entry not below the exact constant, and symmetric; the
        diagonal, which is 0 by definition, holds no information. (1, 1) for one output.

    Raises:
        TypeError, ValueError: as `certify`, for the model.
    """
    return prove(model).divisors


def prove(model: keras.Model) -> Proof:
    """The constants of a classifier.

    Raises:
        TypeError, ValueError: as `certify`, for the model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {type(model).__name__}.")
    walk = GraphWalk()
    constants = walk.model(model, None, "")
    walk.raise_if_refused()
    _check_outputs(model)
    count = model.outputs[0].shape[-1]
    return Proof(model, walk, constants[0], _divisors(model, walk, constants[0], count))


def _check_outputs(model: keras.Model) -> None:
    shapes = [tensor.shape for tensor in model.outputs]
    if len(model.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2 or not shapes[0][-1]:
        raise ValueError(
            "`model` must have one input and one output of shape (batch, classes). Received: "
            f"{len(model.inputs)} inputs and outputs of shapes {shapes}. Certify a model of one "
            "output at a time, by `keras.Model(model.inputs, model.outputs[0])`."
        )
    last = last_call(model).operation
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    if name in _PROBABILITIES:
        raise ValueError(
            f"`model` must return logits. Received: a model that ends with {name!r} in layer "
            f"{last.name!r}. Leave it out (`activation=None`, and `from_logits=True` in the loss)."
        )


def last_call(model: keras.Model):
    """The call that makes the output, inside nested models."""
    operation, index, _ = symbolic_tensors(model)[1][0]._keras_history
    if isinstance(operation, keras.Model) and symbolic_tensors(operation):
        return last_call(operation)
    return operation._inbound_nodes[index]


def _divisors(model: keras.Model, walk: GraphWalk, bound: float, count: int) -> np.ndarray:
    joint = bound if count == 1 else product_up(sqrt_up(2.0), bound)
    divisors = np.full((count, count), joint)
    if (head := _linear_head(model, [1.0], walk)) is None:
        return divisors
    layer, backbone = head
    kernel = kernel_of(layer)
    for top in range(count):
        differences = kernel if count == 1 else kernel[:, top, None] - kernel
        # One rounding for each difference, and those of a sum of squares and of its root.
        norms = [norm_up(np.abs(column)) * (1.0 + gamma(8)) for column in differences.T]
        pairwise = [product_up(backbone, norm) for norm in norms]
        divisors[top] = np.minimum(divisors[top], pairwise)
    return divisors


def _linear_head(model: keras.Model, constants: list[float], walk: GraphWalk):
    """`(layer, constant of its input)` where a dense layer without activation makes the logits."""
    inputs, outputs = symbolic_tensors(model)
    operation, index, _ = outputs[0]._keras_history
    node = operation._inbound_nodes[index]
    is_dense = isinstance(operation, keras.layers.Dense)
    if not is_dense and not isinstance(operation, keras.Model):
        return None
    before = walk.tensors(inputs, constants, node.input_tensors, "")
    if not is_dense:
        return _linear_head(operation, before, walk)
    is_linear = operation.activation in (None, keras.activations.linear)
    return (operation, before[0]) if is_linear and len(node.input_tensors[0].shape) == 2 else None
