"""What is known of one kind of layers stands in one class, and every analysis asks it.

A class of `semantics/rules/` says what its layers compute by overriding methods of `Rule`. What it
does not override is not known: whoever asks names the layer as unsupported, and guesses nothing.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from deel_lip_tf._keras import operation_name
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import (
    Convolution,
    Matrices,
    Merge,
    Operator,
    Potential,
    Recurrence,
    Shape,
)
from deel_lip_tf.semantics.rounding import CallShapes, Rounding
from deel_lip_tf.semantics.state import is_constrained

if TYPE_CHECKING:
    from deel_lip_tf.semantics.functions import PiecewiseLinear
    from deel_lip_tf.semantics.graph import Call
    from deel_lip_tf.semantics.ir.lowering import Lowering


Gradient = Literal["kernel", "scale", "average"] | None


class Rule:
    """Answers questions about the layers of one kind; every answer is a theorem.

    Attributes:
        gradient: how a local certificate maps gradients back through the layer: through a "kernel"
            that copies no pixels, a "scale" of each entry, or an "average": a linear map without
            negative entries. None: it does not.
        slides: whether it slides a window over an image. TensorFlow's CPU does that in float64
            only where the channels come last.
        casts_integers: whether it makes floats of integers before all else.
    """

    gradient: Gradient = None
    slides = False
    casts_integers = False

    def knows(self, question: str) -> bool:
        """Whether the kind answers a method of this class by itself."""
        return getattr(type(self), question) is not getattr(Rule, question)

    def operators(self, layer: keras.layers.Layer, input_shape: Shape) -> list[Operator] | None:
        """The linear part of a built layer with a kernel, without bias and activation.

        Returns:
            Operators whose product is the linear part, the first applied first; None where there
            is no kernel.

        Raises:
            UnsupportedLayerError: if an argument of the layer has no rule.
        """
        return None

    def potential(self, layer: keras.layers.Layer, input_shape: Shape) -> Potential | None:
        """A built layer as the input minus the gradient of a convex function; None if it is not."""
        return None

    def recurrence(self, layer: keras.layers.Layer, input_shape: Shape) -> Recurrence | None:
        """A built layer as a recurrence whose `activation` is in every step; None if it is not.

        Raises:
            UnsupportedLayerError: if an argument of the layer has no rule.
        """
        return None

    def linear_part(
        self, layer: keras.layers.Layer, input_shape: Shape
    ) -> Matrices | Convolution | None:
        """The linear part as one operator, whose singular values are those of the layer; or None.

        A transposed convolution is given as the convolution of its output whose adjoint it is.
        """
        operators = self.operators(layer, input_shape) or []
        whole = [one for one in operators if isinstance(one, Matrices | Convolution)]
        return whole[0] if len(whole) == len(operators) == 1 else None

    def lipschitz(self, layer: keras.layers.Layer, input_shape: Shape, norm: Norm) -> float | None:
        """A proven Lipschitz constant of a layer without a kernel, at inference.

        It bounds `||f(x) - f(y)||_p <= constant * ||x - y||_p` for one sample. None where there is
        none, or the layer has not got its weights yet.
        """
        return None

    def groups(
        self, layer: keras.layers.Layer, input_shape: Shape
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Which entries a layer without a kernel treats apart from the others.

        The difference of the outputs of a group is at most the constant of the layer times that of
        the inputs of the group, in the Euclidean norm.

        Args:
            layer: built.
            input_shape: of known sizes, the batch axis aside.

        Returns:
            For each entry of the input, and for each entry of the output, the number of its group;
            every group of outputs has inputs. None where they are not known.
        """
        is_single = self.pieces(layer) is not None or self.never_falls(layer)
        return each_entry(input_shape) if is_single else None

    def reason(self, layer: keras.layers.Layer) -> str | None:
        """Why there is no constant, where more is known than that."""
        return None

    def merge(self, call: "Call", norm: Norm) -> Merge:
        """What a call of several inputs, or of an operation, does to the differences of its inputs.

        Raises:
            UnsupportedLayerError: if it has no rule for the way it is called.
        """
        raise UnsupportedLayerError("no rule is known for several inputs or outputs")

    def call_operator(self, call: "Call") -> Operator:
        """The linear operator that a call of an operation is, for those that need a norm proven.

        Raises:
            UnsupportedLayerError: if it has no rule for the way it is called.
        """
        raise UnsupportedLayerError("it is not a linear operation")

    def rounding(self, layer: keras.layers.Layer, shapes: CallShapes) -> Rounding:
        """What float32 adds to a call of a layer without a kernel, or of an operation.

        Raises:
            UnsupportedLayerError: if an argument has no rule.
        """
        raise UnsupportedLayerError("no float32 rule is known for this type")

    def singular_values(
        self, layer: keras.layers.Layer, input_shape: Shape
    ) -> tuple[float, float] | None:
        """The smallest and largest singular value of a layer without a kernel, or None.

        Of what is not linear, the constant, twice.
        """
        constant = lipschitz_constant(layer, input_shape)
        return None if constant is None else (constant, constant)

    def pieces(self, layer: keras.layers.Layer) -> "PiecewiseLinear | None":
        """An activation layer as a function of straight pieces, if it is one."""
        return None

    def never_falls(self, layer: keras.layers.Layer) -> bool:
        """Whether a layer is a function of single entries, each of which never decreases."""
        pieces = self.pieces(layer)
        return pieces is not None and all(np.min(slope) >= 0.0 for slope in pieces.slopes)

    def lower(self, lowering: "Lowering", layer: keras.layers.Layer, inputs: list[int]) -> int:
        """Appends the primitives that a layer consists of, before its own `activation`.

        Args:
            lowering: its `builder` takes them; its `layer` lowers a layer inside this one.
            layer: to be lowered.
            inputs: the nodes of its inputs.

        Returns:
            The node of its output.

        Raises:
            UnsupportedLayerError: if the layer, or an argument, has no rule.
        """
        raise UnsupportedLayerError("no rule is known for this type")

    def lower_call(self, lowering: "Lowering", call: "Call", inputs: list[int]) -> int:
        """Appends the primitives that a call of an operation consists of; as `lower`."""
        raise UnsupportedLayerError("no rule is known for this operation")

    def integers(self, call: "Call") -> tuple[int, int] | None:
        """The smallest and largest integer that a call makes of integers; None: not known."""
        return None

    def keeps_size(self, layer: keras.layers.Layer, axis: int, rank: int) -> bool:
        """Whether the size of an axis of unknown size stays what it is, the activation aside."""
        return False


_RULES: dict[type | str, Rule] = {}
_UNKNOWN = Rule()


def rule(*kinds: type | str) -> Callable[[type[Rule]], type[Rule]]:
    """Registers one instance of a class for layers of these exact types.

    Args:
        *kinds: types of layers; the names of the classes of operations of `keras.ops`, for which
            Keras has no public types.

    Raises:
        ValueError: a kind has a rule already.
    """

    def register(cls: type[Rule]) -> type[Rule]:
        instance = cls()
        for kind in kinds:
            if kind in _RULES:
                raise ValueError(
                    f"{kind!r} has a rule already, {type(_RULES[kind]).__name__}: a layer is known "
                    f"in one place. Received: {cls.__name__}."
                )
            _RULES[kind] = instance
        return cls

    return register


def rule_for(operation: Any) -> Rule:
    """What is known of a layer or an operation, by its exact type: a subclass may compute anything.

    A constrained layer of this library applies its effective kernel as the Keras layer does that it
    is exported to. Of any other type the rule is one that answers nothing.
    """
    kind, rules = type(operation), registered()
    if name := operation_name(operation):
        return rules.get(name, _UNKNOWN)
    is_own = kind.__module__.startswith("deel_lip_tf.layers.")
    if kind not in rules and is_own and is_constrained(operation):
        return next((rules[parent] for parent in kind.__mro__ if parent in rules), _UNKNOWN)
    return rules.get(kind, _UNKNOWN)


def registered() -> Mapping[type | str, Rule]:
    """All rules, by kind."""
    from deel_lip_tf.semantics import rules  # noqa: F401  they register themselves

    return MappingProxyType(_RULES)


def lipschitz_constant(
    layer: keras.layers.Layer, input_shape: Shape = None, norm: Norm = L2
) -> float | None:
    """A proven Lipschitz constant of a layer without a kernel, at inference.

    Args:
        layer: a Keras layer, or a layer of this library that guarantees its `k_coef_lip`.
        input_shape: shape of the layer's input with the batch axis, `None` for unknown sizes. It
            only makes some constants smaller: global averages, padded average pooling.
        norm: of inputs and outputs.

    Returns:
        An upper bound on the constant with respect to one sample, or None where the exact type is
        unknown, the layer is not Lipschitz under its arguments (`LayerNormalization`,
        `UnitNormalization`, `Masking`, `ReLU(threshold=1.0)`), or its state is not built yet.
    """
    constant = rule_for(layer).lipschitz(layer, input_shape, norm)
    return constant if constant is not None and math.isfinite(constant) else None


def each_entry(input_shape: Any) -> tuple[np.ndarray, np.ndarray]:
    """The groups of a layer whose outputs are functions of single entries, in their order."""
    names = np.arange(math.prod(input_shape[1:]))
    return names, names


def as_laid_out(names: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    """Names of the entries of a sample with its channels last, in the order that a layer has."""
    is_first = layer.data_format == "channels_first"
    return (np.moveaxis(names, -1, 0) if is_first else names).ravel()


def only(inputs: list[int]) -> int:
    """The one input of a layer.

    Raises:
        UnsupportedLayerError: there are several.
    """
    if len(inputs) != 1:
        raise UnsupportedLayerError("no rule is known for several inputs")
    return inputs[0]
