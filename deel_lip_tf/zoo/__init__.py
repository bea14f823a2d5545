"""Small trained networks with what is proven of them, loaded in one line.

    model = deel_lip_tf.zoo.load("mnist")

Each is a `.keras` file of this folder, trained by the recipe of `benchmarks/recipes.py` that its
card names, and a card: what was proven of it on all test images, and on which.
"""

import json
from pathlib import Path
from typing import Any

import keras

from deel_lip_tf._lazy import public_names

__all__ = ["card", "load", "names"]

__dir__ = public_names(__name__)

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The names of the networks, in alphabetical order.

    Example:
        >>> lip.zoo.names()
        ('cifar10', 'mnist')
    """
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.keras")))


def _path(name: str, suffix: str) -> Path:
    if name not in names():
        raise ValueError(
            f"`name` must be one of the networks that this package brings, {', '.join(names())}. "
            f"Received: name={name!r}"
        )
    return _FOLDER / f"{name}{suffix}"


def load(name: str) -> keras.Model:
    """A trained network, not compiled; its inputs are pixels from 0 to 1, its outputs logits.

    Args:
        name: one of `names()`.

    Returns:
        A `deel_lip_tf.Sequential`; `certificates.certify` proves of it, on the images that its card
        names, the figures of its card.

    Raises:
        ValueError: `name` is none of `names()`.

    Example:
        >>> model = lip.zoo.load("mnist")
        >>> model.input_shape
        (None, 28, 28, 1)
    """
    return keras.models.load_model(_path(name, ".keras"), compile=False)


def card(name: str) -> dict[str, Any]:
    """How a network was trained, and what is proven of it.

    Args:
        name: one of `names()`.

    Returns:
        The recipe, the data and the minutes of training; `"constant"`, the proven Lipschitz
        constant in the 2-norm; `"clean"`, the accuracy; `"certified"`, the proven certified
        accuracy by radius in the 2-norm, in units of pixels from 0 to 1.

    Raises:
        ValueError: `name` is none of `names()`.

    Example:
        >>> lip.zoo.card("mnist")["certified"]["1.58"] > 0.3
        True
    """
    return json.loads(_path(name, ".json").read_text())
