"""What attributes of ONNX operators mean, whatever the operators become."""

import numpy as np

from deel_lip_tf.formats.graph import Node

IN_FILES = np.float32
"""The type of an attribute that is a number: defaults are rounded to it like what is written."""

Pairs = list[tuple[int, int]]


def check_dropout(node: Node, version: int, is_training: np.ndarray) -> None:
    """Refuses `Dropout` at training, by its third input.

    Raises:
        UnsupportedOperatorError: it is.
    """
    _refuse_training(node, version)
    if is_training.any():
        raise node.unsupported("no training mode", f"training_mode={bool(is_training)}")


def check_normalization(node: Node, version: int) -> None:
    """Refuses `BatchNormalization` at training, and statistics that are not of channels.

    Raises:
        UnsupportedOperatorError: it has some.
    """
    node.expect("training_mode", 0, 0)
    node.expect("spatial", 1, 1)
    _refuse_training(node, version)
    if version < 14 and any(node.further_outputs):
        raise node.unsupported("one output, since several mean training", node.further_outputs)


def _refuse_training(node: Node, version: int) -> None:
    """Old versions of an operator are at training unless `is_test` says otherwise."""
    if version < 7:
        node.expect("is_test", 0, 1)


def steps_of(node: Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations along the axes of an image."""
    strides, dilations = (
        tuple(node.attributes.get(key, [1] * rank)) for key in ("strides", "dilations")
    )
    return strides, dilations


def pairs_of(node: Node, rank: int) -> Pairs:
    """What `pads` adds before and behind each axis of an image."""
    flat = node.attributes.get("pads", [0] * 2 * rank)
    return list(zip(flat[:rank], flat[rank:], strict=True))
