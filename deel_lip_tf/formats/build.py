"""The operators of a file become calls of Keras layers, whatever its format."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import keras
import numpy as np

from deel_lip_tf.formats.graph import Node, UnsupportedOperatorError, carries_batch

Tensor = TypeVar("Tensor")
"""What stands for a tensor of the file: each format has its own."""


class KerasGraphBuilder(Generic[Tensor]):
    """The tensors and constants that are known while operators become calls of Keras layers.

    Args:
        dtype: in which to compute.
        constants: arrays by name.
        values: the input, by name.
        version: of the operators, of formats that have versions.
    """

    def __init__(
        self,
        dtype: str,
        constants: dict[str, np.ndarray],
        values: dict[str, Tensor],
        version: int = 1,
    ):
        self.dtype, self.version = dtype, version
        self._constants = dict(constants)
        self._values = dict(values)

    def set(self, name: str, value: Tensor) -> None:
        """Keeps a tensor that was computed."""
        self._values[name] = value

    def know(self, name: str, array: np.ndarray) -> None:
        """Keeps a constant that the file does not hold, such as the shape of a tensor."""
        self._constants[name] = array

    def knows_all(self, node: Node) -> bool:
        """Whether all inputs of an operator are constants, or left out."""
        return all(not name or name in self._constants for name in node.inputs)

    def raise_for_batch(self, node: Node) -> None:
        """Refuses an operator that gets the size of the batch and is not made for it."""
        if any(carries_batch(self._constants.get(name, np.zeros(0))) for name in node.inputs):
            raise node.unsupported(
                "numbers that do not depend on the size of the batch", node.inputs
            )

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is known without the input."""
        return name in self._constants

    def is_computed(self, name: str) -> bool:
        """Whether a tensor is the input, or was computed from it."""
        return name in self._values

    def tensor(self, name: str) -> Tensor:
        """A tensor that was computed."""
        if name not in self._values:
            raise ValueError(
                f"The tensor {name!r} does not depend on the input, or is not computed before it "
                "is used: this is no feed-forward classifier."
            )
        return self._values[name]

    def constant(self, node: Node, position: int, default=None) -> np.ndarray:
        """An input that must be constant; `default` where it was left out."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        if not name and default is not None:
            return np.asarray(default)
        if name not in self._constants:
            raise node.unsupported(f"a constant as input {position}", name)
        return self._constants[name]

    def numbers(self, node: Node, position: int, default=None) -> np.ndarray:
        """A constant to compute with, in the type of the input, which must hold it exactly."""
        given = self.constant(node, position, default)
        kept = given.astype(self.dtype)
        if not np.array_equal(kept, given, equal_nan=True):
            raise node.unsupported(f"constants of the input's type {self.dtype}", given.dtype.name)
        return kept

    def reshaped(self, tensor: Any, shape: Sequence[int]) -> Any:
        """A tensor of Keras, the entries of each sample in another shape."""
        if tuple(tensor.shape[1:]) == tuple(shape):
            return tensor
        if len(shape) == 1:
            return keras.layers.Flatten(dtype=self.dtype)(tensor)
        return keras.layers.Reshape(tuple(shape), dtype=self.dtype)(tensor)


def elementwise(call_on: Callable[..., Any]) -> Callable:
    """The rule of a function of the tensor, the attributes and the type, entry by entry."""

    def call(builder: KerasGraphBuilder, node: Node):
        value = builder.tensor(node.inputs[0])
        return value.of(call_on(value.tensor, node.attributes, builder.dtype))

    return call


def elu(x: Any, attributes: dict, dtype: str) -> Any:
    """An ELU, for `elementwise`."""
    return keras.layers.ELU(alpha=attributes.get("alpha", 1.0), dtype=dtype)(x)


def activation(name: str) -> Callable:
    """The rule of an activation function of Keras."""
    return elementwise(lambda x, _, dtype: keras.layers.Activation(name, dtype=dtype)(x))


def operation(function: Callable) -> Callable:
    """The rule of an operation of Keras on one tensor, entry by entry."""
    return elementwise(lambda x, attributes, dtype: function(x))


def weighted(layer: keras.layers.Layer, tensor: Any, *weights: np.ndarray | None) -> Any:
    """The output of a new layer, which then gets its weights; `None` stands for none."""
    output = layer(tensor)
    layer.set_weights([weight for weight in weights if weight is not None])
    return output


def called(rule: Callable, builder: KerasGraphBuilder, node: Node):
    """The output of an operator by its rule.

    Raises:
        ValueError: its arguments have no rule, here or in Keras; the message names the operator.
    """
    try:
        return rule(builder, node)
    except UnsupportedOperatorError:
        raise
    except KeyError as error:
        raise node.unsupported(f"the attribute {error}", sorted(node.attributes)) from error
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UnsupportedOperatorError(
            f"The operator {node.label} cannot be read: {reason}"
        ) from error
