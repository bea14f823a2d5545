"""Layers that multiply by a matrix."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers

from deel_lip_tf import layers as lip
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.ir.decompositions import sequence_of, step_of
from deel_lip_tf.semantics.ir.primitives import Einsum, MatMul, Sum
from deel_lip_tf.semantics.ir.primitives.base import Unary
from deel_lip_tf.semantics.ir.primitives.products import einsum_terms
from deel_lip_tf.semantics.operators import Matrices, Recurrence, Shape, Sums
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.sizes import is_beside_features
from deel_lip_tf.semantics.state import bias_of, check_built, is_constrained, kernel_of
from deel_lip_tf.semantics.sums import check_bias


@rule(layers.Dense)
class Dense(Rule):
    """`activation(x @ kernel + bias)` along the last axis."""

    gradient = "kernel"
    casts_integers = True
    keeps_size = staticmethod(is_beside_features)

    def operators(self, layer, input_shape):
        return [Matrices(kernel_of(layer)[None])]

    def lower(self, lowering, layer, inputs):
        check_built(layer)
        source = lowering.source
        return lowering.builder.affine(
            only(inputs), MatMul(source.kernel(layer)), source.bias(layer)
        )


@rule(layers.EinsumDense)
class EinsumDense(Rule):
    """`activation(einsum(equation, x, kernel) + bias)`."""

    casts_integers = True

    def operators(self, layer, input_shape):
        """The equation, sorted by what each letter does.

        Letters of both operands are summed up, if the result has not got them, or count the blocks
        of a block-diagonal matrix, if it has; letters of the input alone repeat that matrix or are
        summed up before it, and letters of the kernel alone are columns.
        """
        equation = layer.equation.replace(" ", "")
        tensor, matrix, result = einsum_terms(equation.replace("...", ""))
        if any(len(set(term)) < len(term) for term in (tensor, matrix, result)):
            raise UnsupportedLayerError("a letter occurs twice in one operand of its equation")
        both = [letter for letter in matrix if letter in tensor]
        blocks = [letter for letter in both if letter in result]
        rows = [letter for letter in both if letter not in result]
        columns = [letter for letter in matrix if letter not in tensor and letter in result]
        dropped = [letter for letter in tensor if letter not in matrix and letter not in result]
        kernel = kernel_of(layer)
        kernel = np.einsum(f"{matrix}->{''.join(blocks + rows + columns)}", kernel)
        sizes = dict(zip(blocks + rows + columns, kernel.shape, strict=True))
        shape = [math.prod(sizes[letter] for letter in part) for part in (blocks, rows, columns)]
        keeps_samples = tensor[:1] not in matrix and tensor[:1] == result[:1]
        if equation.startswith("..."):
            keeps_samples = "->..." in equation
        if not keeps_samples or len(matrix) > len(sizes):
            raise UnsupportedLayerError("its equation mixes samples, or sums up its kernel")
        summed = [_size_of(letter, equation, input_shape) for letter in dropped]
        return [Sums(math.prod(summed)), Matrices(kernel.reshape(shape))]

    def linear_part(self, layer, input_shape):
        try:
            sums, matrices = self.operators(layer, input_shape)
        except UnsupportedLayerError:
            return None
        return matrices if sums.count == 1 else None

    def lower(self, lowering, layer, inputs):
        check_built(layer)
        index = only(inputs)
        self.operators(layer, (None, *lowering.builder.shape(index)))  # refuses what has no rule
        linear = Einsum(layer.equation, lowering.source.kernel(layer))
        check_bias(layer, (None, *linear.shape([lowering.builder.shape(index)])))
        return lowering.builder.affine(index, linear, lowering.source.bias(layer))


@rule(layers.SimpleRNN, lip.SpectralSimpleRNN)
class SimpleRNN(Rule):
    """`h_t = activation(x_t @ kernel + h_(t-1) @ recurrent_kernel + bias)`, from zeros."""

    def recurrence(self, layer, input_shape):
        check_built(layer)
        for name in ("stateful", "return_state"):
            if getattr(layer, name, False):
                raise UnsupportedLayerError(
                    f"no rule is known for `{name}=True`: its output is a function of more than "
                    "its input, or it has several; build it without"
                )
        kernel, recurrent, bias = self._weights(layer)
        steps = None if input_shape is None else input_shape[1]
        return Recurrence(kernel, recurrent, steps, layer.return_sequences, bias=bias)

    def lower(self, lowering, layer, inputs):
        shape = lowering.builder.shape(only(inputs))
        known = self.recurrence(layer, (None, *shape))
        maps = MatMul(known.kernel), MatMul(known.recurrent)
        return unrolled(lowering, layer, only(inputs), maps, known.bias)

    @staticmethod
    def _weights(layer) -> tuple:
        """`K`, `R` and the bias, or None, as the layer computes with them."""
        if is_constrained(layer):
            kernel = kernel_of(layer)
            return kernel[: -layer.units], kernel[-layer.units :], bias_of(layer)
        cell = layer.cell
        if type(cell) is not layers.SimpleRNNCell:
            raise UnsupportedLayerError(f"no rule is known for its cell, {type(cell).__name__}")
        bias = bias_of(cell) if cell.use_bias else None
        return kernel_of(cell), kernel_of(cell, "recurrent_kernel"), bias


def unrolled(
    lowering: Any,
    layer: layers.Layer,
    index: int,
    maps: tuple[Unary, Unary],
    bias: Any,
    padded: Callable[[int], int] = int,
) -> int:
    """Appends the states of a recurrent layer, whose maps are of one step and of the state.

    `padded` appends what comes before them. The last activation is left to whoever lowers the
    layer.
    """
    builder = lowering.builder
    steps, states = range(builder.shape(index)[0]), list[int]()
    for step in reversed(steps) if layer.go_backwards else steps:
        parts = [step_of(builder, index, step)]
        if states:
            parts.append(lowering.activate(states[-1], layer.activation))
        parts = [padded(part) for part in parts]
        states.append(builder.affine(parts, Sum(maps[: len(parts)]), bias))
    return sequence_of(builder, states) if layer.return_sequences else states[-1]


def _size_of(letter: str, equation: str, input_shape: Shape) -> int:
    """Size of an axis of the input that an equation names by a letter."""
    tensor = equation.partition(",")[0]
    before, ellipsis, after = tensor.partition("...")
    index = before.find(letter) if letter in before or not ellipsis else None
    index = -len(after) + after.index(letter) if index is None else index
    size = input_shape[index] if input_shape is not None else None
    if size is None:
        raise UnsupportedLayerError("it sums up an axis of unknown size")
    return size
