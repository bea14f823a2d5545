"""Models as decomon converts them: a program of primitives, and methods by its names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.semantics.ir.program import Program
from deel_lip_tf.verify.models import program_of

METHODS_BY_NAME = {
    "crown": ("crown",),
    "crown-forward-ibp": ("crown-ibp",),
    "crown-forward-affine": ("forward", "crown"),
    "crown-forward-hybrid": ("ibp", "forward", "crown"),
    "forward-ibp": ("ibp",),
    "forward-affine": ("forward",),
    "forward-hybrid": ("ibp", "forward"),
    # Names of older releases.
    "ibp": ("ibp",),
    "affine": ("forward",),
    "forward": ("forward",),
    "hybrid": ("ibp", "forward"),
    "crown-ibp": ("crown-ibp",),
    "crown-forward": ("forward", "crown"),
    "crown-hybrid": ("ibp", "forward", "crown"),
}
"""Our methods by decomon's name; of several, the best bound counts."""


@dataclass(frozen=True, eq=False)
class Converted:
    """A model and how to bound it.

    Attributes:
        model: the Keras model, as it was given.
        method: decomon's name.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> converted = decomon.clone(model, method="crown-forward-ibp")
        >>> converted.model is model, converted.method
        (True, 'crown-forward-ibp')
    """

    model: keras.Model
    method: str

    @property
    def program(self) -> Program:
        """The model, lowered as it is now."""
        return program_of(self.model)


Model: TypeAlias = "keras.Model | Converted"


def clone(model: keras.Model, method: str = "crown", finetune: bool = False) -> Converted:
    """Chooses how to bound a model.

    Nothing is copied: the bounds are those of the weights at the time of each call.

    Args:
        model: a Sequential or functional model with one input and an output (batch, classes).
        method: one of decomon's seven names, in any case, or of its older ones: those of
            `METHODS_BY_NAME`.
        finetune: accepted for users of decomon, without effect: slopes are chosen for each box.

    Returns:
        A `Converted`, which every function of this module takes in place of a model.

    Raises:
        TypeError: not a Keras model.
        ValueError: an unknown method, or layers without a rule: all of them are named.

    Example:
        >>> from deel_lip_tf.verify import decomon
        >>> dense = keras.layers.Dense(2, kernel_initializer="identity")
        >>> model = keras.Sequential([keras.Input((2,)), dense])
        >>> converted = decomon.clone(model, method="forward-ibp")
        >>> gap = decomon.get_adv_box(converted, [[0.6, 0.0]], [[1.0, 0.5]], source_labels=0)
        >>> print(gap.round(4))  # negative: the label 0 is proven on the whole box
        [-0.1]
    """
    name = getattr(method, "value", method)
    if not isinstance(name, str) or name.lower() not in METHODS_BY_NAME:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS_BY_NAME))}. "
            f"Received: method={method!r}."
        )
    check_classifier_shape(program_of(model).output_shape)
    return Converted(model, name.lower())


def converted_of(model: Model, method: str = "crown") -> Converted:
    """The model itself, where it is converted already."""
    return model if isinstance(model, Converted) else clone(model, method)


def shaped(converted: Converted, name: str, x: ArrayLike) -> np.ndarray:
    """(n, *input shape) from that or from flattened samples."""
    x, shape = np.asarray(x), converted.program.input_shape
    if x.ndim < 2 or not len(x) or np.prod(x.shape[1:]) != np.prod(shape):
        raise ValueError(
            f"`{name}` must have the shape (n, *{shape}), the model's input shape, or its flattened"
            f" form. Received: {x.shape}."
        )
    return x.reshape(len(x), *shape)
