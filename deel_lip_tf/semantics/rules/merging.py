"""Layers of several inputs.

They broadcast: an input with fewer elements is copied, `count ** (1 / p)` times as long.
"""

import math

from keras import layers, tree

from deel_lip_tf import layers as lip
from deel_lip_tf._rounding import number_rounding, product_up, quotient_up
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Call
from deel_lip_tf.semantics.integers import hull, same
from deel_lip_tf.semantics.ir.decompositions import combined, extreme_of
from deel_lip_tf.semantics.ir.primitives import Concatenate
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.semantics.norms import Norm
from deel_lip_tf.semantics.operators import Merge, all_known
from deel_lip_tf.semantics.rounding import copied, gamma
from deel_lip_tf.semantics.rule import Rule, rule
from deel_lip_tf.semantics.sizes import are_equal, every_axis
from deel_lip_tf.semantics.state import as_float64


class _Sum(Rule):
    """A sum with signs or shares."""

    keeps_size = staticmethod(every_axis)

    def merge(self, call, norm):
        return summed(call, norm)

    def rounding(self, layer, shapes):
        return shapes.rounding(gamma(shapes.branches + 4))

    def lower(self, lowering, layer, inputs):
        check_ranks(lowering, inputs)
        return combined(lowering.builder, inputs, self.weights(layer, len(inputs)))

    def weights(self, layer, count: int) -> list[float]:
        """The factor of each input."""
        return [1.0] * count


@rule(layers.Add)
class Sum(_Sum):
    """The sum of its inputs."""

    def integers(self, call):
        """Branches are added one by one: of all partial sums."""
        low = high = 0
        reached = []
        for value in call.inputs:
            low, high = low + value.integers[0], high + value.integers[1]
            reached += [low, high]
        return hull(reached)

    def singular_values(self, layer, input_shape):
        """As if all inputs were the same tensor."""
        shapes = (layer.get_build_config() or {}).get("input_shape")
        return (float(len(shapes)),) * 2 if shapes else None


@rule(layers.Subtract)
class Difference(_Sum):
    """The first input minus the second."""

    def integers(self, call):
        (a, b), (c, d) = (value.integers for value in call.inputs)
        return a - d, b - c

    def weights(self, layer, count):
        return [1.0, -1.0]


@rule(layers.Average)
class Average(_Sum):
    """The mean of its inputs."""

    def merge(self, call, norm):
        weights = broadcast_weights(call, norm)
        shares = [quotient_up(weight, len(weights)) for weight in weights]
        return Merge(shares, False, "mean of branches")

    def weights(self, layer, count):
        return [1.0 / count] * count


@rule(lip.LipResidual)
class Residual(_Sum):
    """`k_coef_lip * (a * x + (1 - a) * y)` with a learned share `a`."""

    def merge(self, call, norm):
        if len(call.inputs) != 2:
            raise UnsupportedLayerError("it takes two inputs")
        broadcast_weights(call, norm)  # refuses what may be broadcast; known sizes are equal
        # The shares are rounded to the compute type of the layer.
        rounding = number_rounding(call.operation.compute_dtype)
        shares = [product_up(share, rounding) for share in call.operation.shares()]
        return Merge(shares, False, "convex combination of branches")

    def lipschitz(self, layer, input_shape, norm):
        return layer.lipschitz_constant() if norm.name == "l2" else None

    def rounding(self, layer, shapes):
        # `1 - share` is wrong by a few units of 1, and the larger share is at least a half.
        return shapes.rounding(gamma(256))

    def weights(self, layer, count):
        alpha = float(as_float64(layer.alpha))
        # 1 - share would keep few digits of a small difference.
        return [layer.k_coef_lip * _sigmoid(sign * alpha) for sign in (1.0, -1.0)]


@rule(layers.Maximum, layers.Minimum)
class Extreme(Rule):
    """The largest, or the smallest, of its inputs at every entry."""

    rounding = staticmethod(copied)
    integers = staticmethod(same)
    keeps_size = staticmethod(every_axis)

    def merge(self, call, norm):
        return largest(call, norm)

    def lower(self, lowering, layer, inputs):
        check_ranks(lowering, inputs)
        sign = 1.0 if isinstance(layer, layers.Maximum) else -1.0
        return extreme_of(lowering.builder, inputs, sign)


@rule(layers.Concatenate, "Concatenate")
class Concatenation(Rule):
    """Its inputs side by side, of the layer and of the operation."""

    rounding = staticmethod(copied)
    integers = staticmethod(same)

    def merge(self, call, norm):
        axis = call.operation.axis
        if axis is None or axis % len(call.outputs[0].shape) == 0:
            raise UnsupportedLayerError("it joins samples along the batch axis")
        return Merge([1.0] * len(call.inputs), True, "concatenation of branches")

    def lower(self, lowering, layer, inputs):
        return side_by_side(lowering.builder, inputs, layer.axis)

    def lower_call(self, lowering, call, inputs):
        check_are_tensors(call)
        return self.lower(lowering, call.operation, inputs)


@rule(layers.Multiply, layers.Dot)
class Product(Rule):
    """Products of its inputs."""

    def merge(self, call, norm):
        raise UnsupportedLayerError("a product of tensors has no Lipschitz constant")


def summed(call: Call, norm: Norm) -> Merge:
    """The merge of a sum or difference."""
    return Merge(broadcast_weights(call, norm), False, "sum of branches")


def largest(call: Call, norm: Norm) -> Merge:
    """The merge of a maximum or minimum."""
    # |max(a, b) - max(c, d)| <= max(|a - c|, |b - d|) at every entry.
    return Merge(broadcast_weights(call, norm), True, "largest or smallest of branches")


def broadcast_weights(call: Call, norm: Norm) -> list[float]:
    """By how much each input grows where it is broadcast to the shape of the output.

    Raises:
        UnsupportedLayerError: if that is not known.
    """
    check_batch(call)
    output = call.outputs[0].shape[1:]
    shapes = [tensor.shape[1:] for tensor in call.inputs]
    if shapes == [output]:
        return [1.0]
    if len({len(shape) for shape in shapes}) > 1:
        raise UnsupportedLayerError("inputs of different ranks are broadcast: reshape them first")
    known = [sizes for shape in (output, *shapes) if (sizes := all_known(shape)) is not None]
    written, *read = known if len(known) > len(shapes) else _known_sizes(call)
    counts = [math.prod(written) // max(math.prod(sizes), 1) for sizes in read]
    return [norm.copies(count) for count in counts]


def _known_sizes(call: Call) -> list[tuple[int, ...]]:
    """Sizes of the output and of each input without the axes of unknown size, if these are equal.

    Raises:
        UnsupportedLayerError: if one of them may be broadcast.
    """
    tensors = [call.outputs[0], *call.inputs]
    axes = range(1, len(tensors[0].shape))
    is_open = {axis: any(x.shape[axis] is None for x in tensors) for axis in axes}
    if not all(are_equal(tensors, axis) for axis in axes if is_open[axis]):
        raise UnsupportedLayerError(
            "inputs of unknown size may be broadcast: give the model fixed sizes by `Input(shape)`"
        )
    closed = [[x.shape[axis] for axis in axes if not is_open[axis]] for x in tensors]
    return [tuple(size for size in sizes if size is not None) for sizes in closed]


def check_batch(call: Call) -> None:
    """Refuses a call that broadcasts the batch axis."""
    if any(x.shape[0] != call.outputs[0].shape[0] for x in call.inputs):
        raise UnsupportedLayerError("it broadcasts the batch axis")


def check_ranks(lowering, inputs: list[int]) -> None:
    """Refuses nodes of different numbers of axes."""
    if len({len(lowering.builder.shape(index)) for index in inputs}) > 1:
        raise UnsupportedLayerError("inputs of different ranks are broadcast: reshape them first")


def check_are_tensors(call: Call) -> None:
    """Refuses constants among what is put side by side."""
    if len(tree.flatten((call.args, call.kwargs))) != len(call.inputs):
        raise UnsupportedLayerError("it puts a constant beside tensors")


def side_by_side(builder: Builder, inputs: list[int], axis: int | None) -> int:
    """Appends nodes side by side along an axis, counted with the batch axis.

    Raises:
        UnsupportedLayerError: if that is the batch axis.
    """
    rank = len(builder.shape(inputs[0])) + 1
    if axis is None or axis % rank == 0:
        raise UnsupportedLayerError("it joins samples along the batch axis")
    return builder.affine(inputs, Concatenate(axis % rank))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))
