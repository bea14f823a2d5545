"""Operations that move entries, copy them, and add zeros."""

import math

import keras
import numpy as np

from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.integers import hull, same, with_zero
from deel_lip_tf.semantics.ir.decompositions import reshaped
from deel_lip_tf.semantics.operators import Merge
from deel_lip_tf.semantics.rounding import copied
from deel_lip_tf.semantics.rule import Rule, only, rule
from deel_lip_tf.semantics.rules.data_movement import moved
from deel_lip_tf.semantics.rules.merging import check_are_tensors, side_by_side

_MIXES = "it mixes the samples of a batch, or adds a constant"


@rule("Moveaxis", "Repeat", "Swapaxes")
class Movement(Rule):
    """Some of the entries of the input, moved or copied."""

    integers = staticmethod(same)

    def lower_call(self, lowering, call, inputs):
        shape = lowering.builder.shape(only(inputs))
        _check_samples_stay_apart(call, shape)
        return moved(lowering.builder, inputs[0], lambda x: _applied(call, [x]))


class Moving(Movement):
    """The same, with a constant and without rounding."""

    rounding = staticmethod(copied)


@rule("ExpandDims", "Squeeze", "Flip", "Roll")
class Reordering(Moving):
    """All entries of each sample in another order: along axes that are not the batch axis."""

    def keeps_samples(self, operation, before: int, after: int) -> bool:
        """Whether the batch axis stays the first, by the ranks of input and output."""
        axes = operation.axis
        axes = [axes] if isinstance(axes, int) else axes
        return axes is not None and all(axis % max(before, after) != 0 for axis in axes)

    def merge(self, call, norm):
        before, after = call.inputs[0].shape, call.outputs[0].shape
        if None in (*before[1:], *after[1:]) or math.prod(before[1:]) != math.prod(after[1:]):
            raise UnsupportedLayerError("it may mix samples")
        ranks = len(before), len(after)
        if before[0] != after[0] or not self.keeps_samples(call.operation, *ranks):
            raise UnsupportedLayerError("it moves the batch axis")
        return Merge([1.0], False, "reordering of entries")


@rule("Reshape")
class Reshape(Reordering):
    """Another shape."""

    def keeps_samples(self, operation, before, after):
        return True


@rule("Transpose")
class Transpose(Reordering):
    """Axes in another order."""

    def keeps_samples(self, operation, before, after):
        return operation.axes is not None and operation.axes[0] % before == 0


@rule("Take")
class Take(Moving):
    """`take(x, indices, axis)`: an element as often as its index occurs."""

    def merge(self, call, norm):
        indices = call.argument(1, "indices")
        axis, shape = call.operation.axis, call.inputs[0].shape
        is_known = axis is not None and axis % len(shape) != 0 and shape[axis] is not None
        if len(call.inputs) != 1 or not is_known:
            raise UnsupportedLayerError("its axis or size is not known")
        counts = np.bincount(np.asarray(indices).ravel() % shape[axis])
        return Merge([norm.copies(int(counts.max(initial=0)))], False, "copies of entries")


@rule("GetItem")
class GetItem(Moving):
    """`x[key]` with slices and integers: some of the entries, none twice."""

    def merge(self, call, norm):
        key = call.argument(1, "key")
        parts = key if isinstance(key, tuple) else (key,)
        is_plain = all(part is None or part is ... or type(part) in (slice, int) for part in parts)
        if len(call.inputs) != 1 or not is_plain or parts[0] not in (slice(None), ...):
            raise UnsupportedLayerError("it selects more than slices of each sample")
        if parts[0] is ... and len(parts) > len(call.inputs[0].shape):
            raise UnsupportedLayerError("it selects samples")
        return Merge([1.0], False, "part of the entries")


@rule("Split")
class Split(Moving):
    """Parts of a tensor, side by side."""

    def merge(self, call, norm):
        if call.operation.axis % len(call.inputs[0].shape) == 0:
            raise UnsupportedLayerError("it splits along the batch axis")
        return Merge([1.0], False, "parts of the entries")

    def lower_call(self, lowering, call, inputs):
        raise UnsupportedLayerError("no rule is known for several outputs")


@rule("Pad")
class Pad(Moving):
    """Constants around a tensor."""

    def merge(self, call, norm):
        if call.operation.mode != "constant":
            raise UnsupportedLayerError("it copies entries; no rule is known for it")
        if len(call.inputs) > 1:
            raise UnsupportedLayerError("it pads by a tensor")
        if np.any(call.operation.pad_width[0]):  # of the batch, or of all axes
            raise UnsupportedLayerError("it pads the batch")
        return Merge([1.0], False, "padding by a constant")

    def integers(self, call):
        constant = call.argument(1, "constant_values")
        if constant is None:
            return with_zero(call)
        return hull((constant, *same(call))) if isinstance(constant, int) else None

    def lower_call(self, lowering, call, inputs):
        if call.operation.mode != "constant":
            raise UnsupportedLayerError("only padding by a constant has a rule")
        return super().lower_call(lowering, call, inputs)


@rule("Stack")
class Stack(Movement):
    """Tensors side by side along a new axis."""

    def lower_call(self, lowering, call, inputs):
        check_are_tensors(call)
        builder, shape = lowering.builder, lowering.builder.shape(inputs[0])
        axis = call.operation.axis % (len(shape) + 2)
        if axis == 0:
            raise UnsupportedLayerError(_MIXES)
        one = (*shape[: axis - 1], 1, *shape[axis - 1 :])
        return side_by_side(builder, [reshaped(builder, i, one) for i in inputs], axis)


def _applied(call, tensors) -> np.ndarray:
    arguments, keywords = call.arguments(tensors)
    return keras.ops.convert_to_numpy(call.operation(*arguments, **keywords))


def _check_samples_stay_apart(call, shape: tuple[int, ...]) -> None:
    """Refuses what mixes samples, by trying three samples alone and together."""
    key = call.argument(1, "key")
    is_item = type(call.operation).__name__ == "GetItem"
    if is_item and not (isinstance(key, tuple) and key[0] == slice(None)):
        raise UnsupportedLayerError(_MIXES)
    together = np.random.default_rng(0).random((3, *shape))
    try:
        outputs = _applied(call, [together])
        alone = [_applied(call, [sample]) for sample in np.split(together, 3)]
    except Exception as error:  # each backend has errors of its own
        raise UnsupportedLayerError("it takes batches of one size alone") from error
    same_shape = [np.shape(a) == (1, *outputs.shape[1:]) for a in alone]
    if not all(same_shape) or len(outputs) != 3 or (np.concatenate(alone) != outputs).any():
        raise UnsupportedLayerError(_MIXES)
