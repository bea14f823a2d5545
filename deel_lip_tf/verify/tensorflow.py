"""The interpreter of the primitives in TensorFlow, in float64 and for any number of samples."""

import weakref
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Program
from deel_lip_tf.verify.activations import activation_of

Shape = tuple[int, ...]
_CONSTANTS: dict[int, tuple[weakref.ref, tf.Tensor]] = {}


def constant(array: np.ndarray) -> tf.Tensor:
    """The tensor of an array: one for as long as the array is there, whatever graph asks."""
    key = id(array)
    if key in _CONSTANTS and _CONSTANTS[key][0]() is array:
        return _CONSTANTS[key][1]
    with tf.init_scope():
        tensor = tf.constant(array, tf.float64)
    _CONSTANTS[key] = weakref.ref(array, lambda _: _CONSTANTS.pop(key, None)), tensor
    return tensor


def linear(node: Affine, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The map of a node, without its bias."""
    return node.map.apply(TENSORFLOW, tensors)


def absolute(node: Affine, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The map whose matrix holds the absolute values, without bias."""
    return node.map.absolute(TENSORFLOW, tensors)


def bias_of(node: Affine) -> tf.Tensor | None:
    """The bias of a node as a tensor."""
    return None if node.bias is None else constant(node.bias)


def evaluate(program: Program, x: tf.Tensor) -> list[tf.Tensor]:
    """All nodes at points (batch, *shape), in float64."""
    values = [tf.convert_to_tensor(x, tf.float64)]
    for node in program.nodes[1:]:
        parents = [values[parent] for parent in node.parents]
        if isinstance(node, Affine):
            value = linear(node, parents)
            values.append(value if node.bias is None else value + bias_of(node))
        elif isinstance(node, Elementwise):
            values.append(activation_of(node.function).value(parents[0]))
        else:
            values.append(tf.norm(parents[0], axis=-1))
    return values


class TensorFlow:
    """`primitives.Arrays` of `tf.Tensor`, eager and in graphs.

    Args:
        is_absolute: whether coefficients are their absolute values.
    """

    transpose = staticmethod(tf.transpose)
    pad = staticmethod(tf.pad)
    concatenate = staticmethod(tf.concat)
    einsum = staticmethod(tf.einsum)
    maximum = staticmethod(tf.maximum)
    minimum = staticmethod(tf.minimum)
    where = staticmethod(tf.where)
    sort = staticmethod(tf.sort)  # of the last axis

    def __init__(self, is_absolute: bool = False):
        self._is_absolute = is_absolute

    @property
    def absolute(self) -> "TensorFlow":
        return _ABSOLUTE

    def coefficients(self, array: np.ndarray) -> tf.Tensor:
        return tf.abs(constant(array)) if self._is_absolute else constant(array)

    def reshape(self, x: tf.Tensor, shape: Shape) -> tf.Tensor:
        return tf.reshape(x, [-1, *shape])

    def take(self, x: tf.Tensor, indices: np.ndarray, axis: int) -> tf.Tensor:
        """As `tf.gather`; a slice where the indices are one."""
        step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        if len(indices) and step > 0 and (np.diff(indices) == step).all():
            part = slice(int(indices[0]), int(indices[-1]) + 1, step)
            return x[(*[slice(None)] * axis, part)]
        return tf.gather(x, indices, axis=axis)

    def scatter(self, x: tf.Tensor, indices: np.ndarray, size: int, axis: int) -> tf.Tensor:
        front = [axis, *(i for i in range(len(x.shape)) if i != axis)]
        summed = tf.math.unsorted_segment_sum(tf.transpose(x, front), indices, size)
        return tf.transpose(summed, np.argsort(front))

    def matmul(self, x: tf.Tensor, matrix: tf.Tensor, transposed: bool = False) -> tf.Tensor:
        if len(x.shape) == 2:
            return tf.matmul(x, matrix, transpose_b=transposed)
        return tf.tensordot(x, matrix, axes=[[-1], [int(transposed)]])

    def sum(self, x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
        return tf.reduce_sum(x, axes, keepdims=True)

    def conv(self, x: tf.Tensor, kernel: tf.Tensor, strides: Shape, dilation: Shape) -> tf.Tensor:
        """A convolution without padding; of one channel in each group, a depthwise one."""
        *sizes, groups, inputs, outputs = kernel.shape
        options = (strides, "valid", "channels_last", dilation)
        # TensorFlow has depthwise convolutions of images, with one stride.
        if groups > 1 and inputs == 1 and len(sizes) < 3 and len(set(strides)) == 1:
            kernel = tf.reshape(kernel, [*sizes, groups, outputs])
            return ops.depthwise_conv(x, kernel, *options)
        return ops.conv(x, _ungrouped(kernel), *options)

    def conv_adjoint(
        self, y: tf.Tensor, kernel: tf.Tensor, strides: Shape, dilation: Shape, sizes: Shape
    ) -> tf.Tensor:
        """TensorFlow's gradient of a linear map is its adjoint, whatever the point.

        The map itself is pruned from the graph.
        """
        channels = kernel.shape[-3] * kernel.shape[-2]
        point = tf.zeros([tf.shape(y)[0], *sizes, channels], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(point)
            image = self.conv(point, kernel, strides, dilation)
        return tape.gradient(image, point, output_gradients=y)


def _ungrouped(kernel: tf.Tensor) -> tf.Tensor:
    """The kernel of all channels, with zeros between the groups."""
    *sizes, groups, inputs, outputs = kernel.shape
    if groups == 1:
        return tf.reshape(kernel, [*sizes, inputs, outputs])
    apart = tf.eye(groups, dtype=tf.float64)[:, None, :, None]
    full = tf.expand_dims(kernel, -2) * apart
    return tf.reshape(full, [*sizes, groups * inputs, groups * outputs])


TENSORFLOW, _ABSOLUTE = TensorFlow(), TensorFlow(is_absolute=True)
