"""Linear functions of a node, many rows at a time, as they travel backward.

`Dense` holds every coefficient. `Windows` holds, for each place of an image, only the window of the
node that the row can depend on: what a convolution is made of. Both know the same few operations.
A leading axis of size 1 that is marked as shared stands for all samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np
import tensorflow as tf

from deel_lip_tf._rounding import TINY_NORM
from deel_lip_tf.semantics.ir.primitives import Conv, Diagonal, LinearMap, Scale, Shape
from deel_lip_tf.semantics.ir.program import Affine
from deel_lip_tf.verify.propagation.relaxations import Lines
from deel_lip_tf.verify.tensorflow import TENSORFLOW, constant


@dataclass(frozen=True, eq=False)
class Dense:
    """Rows of coefficients of all entries of a node.

    Attributes:
        values: (batch, rows, *shape), or (1, rows, *shape) where shared.
        shape: of the node.
        is_shared: whether the rows are the same for all samples.
    """

    values: tf.Tensor
    shape: Shape
    is_shared: bool = False

    def _flat(self) -> tf.Tensor:
        if len(self.shape) == 1:
            return self.values
        return _with_rows(self.values, self.values, (math.prod(self.shape),))

    def dot(self, vector: tf.Tensor) -> tf.Tensor:
        """(batch, rows) products with a vector (batch or 1, *shape)."""
        return _dot(self._flat(), _flat(vector, self.shape), self.is_shared)

    def absolute_dot(self, vector: tf.Tensor) -> tf.Tensor:
        """(batch, rows) products of the absolute coefficients with a vector."""
        return _dot(tf.abs(self._flat()), _flat(vector, self.shape), self.is_shared)

    def dual_norm(self, norm: str) -> tf.Tensor:
        """(batch or 1, rows) largest product with a vector of norm 1, rounded as it comes."""
        flat = self._flat()
        largest = tf.reduce_max(tf.abs(flat), axis=-1)
        return largest if norm == "l1" else _euclidean(tf.norm(flat, axis=-1), largest)

    def spread(self, vector: tf.Tensor) -> tf.Tensor:
        """A vector (batch or 1, *shape), so that it broadcasts against the coefficients."""
        return vector[:, None]

    def total(self, terms: tf.Tensor) -> tf.Tensor:
        """(batch or 1, rows) sums of what has the shape of the coefficients."""
        return tf.reduce_sum(terms, axis=list(range(2, len(terms.shape))))

    def by_row(self, numbers: tf.Tensor) -> tf.Tensor:
        """Numbers (batch, rows), so that they broadcast against the coefficients."""
        return numbers[(..., *[None] * len(self.shape))]

    def relaxed(self, lines: Lines) -> tuple["Dense", tf.Tensor]:
        """Rows of the input of an activation, and constants (batch, rows), that bound from below.

        A positive coefficient takes the line below, a negative one the line above.
        """
        added = len(lines.lower_slope.shape) - len(lines.lower_offset.shape)  # 1 for a norm
        positive, negative = tf.nn.relu(self.values), tf.minimum(self.values, 0.0)
        constant = Dense(positive, self.shape, self.is_shared).dot(lines.lower_offset)
        constant += Dense(negative, self.shape, self.is_shared).dot(lines.upper_offset)
        if added:
            positive, negative = positive[..., None], negative[..., None]
        low, high = (tf.expand_dims(s, 1) for s in (lines.lower_slope, lines.upper_slope))
        values = positive * low + negative * high
        return Dense(values, tuple(lines.lower_slope.shape[1:])), constant

    def through(self, node: Affine, shapes: Sequence[Shape]) -> Sequence["Dense"]:
        """Rows of the parents of an affine node."""
        rows = tf.reshape(self.values, [-1, *self.shape])
        parts = node.map.adjoint(TENSORFLOW, rows, shapes)
        return [
            Dense(_with_rows(part, self.values, shape), shape, self.is_shared)
            for part, shape in zip(parts, shapes, strict=True)
        ]

    def dense(self) -> "Dense":
        """Itself."""
        return self


def _euclidean(norm: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """A norm with what underflows in it; 0 stays 0."""
    return norm + TINY_NORM * tf.cast(largest > 0.0, tf.float64)


def _with_rows(tensor: tf.Tensor, like: tf.Tensor, shape: Shape) -> tf.Tensor:
    """A tensor in the shape (batch, rows, *shape), with the batch and the rows of another."""
    sizes = tf.constant(shape, tf.int32, [len(shape)])
    return tf.reshape(tensor, tf.concat([tf.shape(like)[:2], sizes], 0))


def _flat(vector: tf.Tensor, shape: Shape) -> tf.Tensor:
    """(batch or 1, entries) of a vector that broadcasts."""
    if tuple(vector.shape[1:]) != tuple(shape):
        batch = 1 if vector.shape[0] == 1 else tf.shape(vector)[0]
        vector = tf.broadcast_to(vector, [batch, *shape])
    return vector if len(shape) == 1 else tf.reshape(vector, [-1, math.prod(shape)])


def _dot(rows: tf.Tensor, vectors: tf.Tensor, is_shared: bool) -> tf.Tensor:
    if is_shared:
        return tf.matmul(vectors, rows[0], transpose_b=True)
    if vectors.shape[0] == 1:
        flat = tf.linalg.matvec(tf.reshape(rows, [-1, tf.shape(rows)[-1]]), vectors[0])
        return tf.reshape(flat, tf.shape(rows)[:2])
    return tf.linalg.matvec(rows, vectors)


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows of coefficients of one window of an image for each place of another.

    The window of place (i, j) begins at `stride * (i, j) + offset` and may reach beyond the image,
    where its coefficients count as 0.

    Attributes:
        values: (batch, places, rows, *window, channels); 1 in place of `batch` where shared, and
            in place of `places` where all windows are the same.
        shape: (rows, columns, channels) of the node.
        places: numbers of places along both axes.
        stride: pixels from one window to the next.
        offset: where the first window begins.
        is_shared: whether the rows are the same for all samples.
        is_uniform: whether they are the same for all places.
    """

    values: tf.Tensor
    shape: Shape
    places: Shape
    stride: Shape
    offset: Shape
    is_shared: bool = True
    is_uniform: bool = True

    @property
    def window(self) -> Shape:
        """Size of a window."""
        return tuple(self.values.shape[3:5])

    @property
    def geometry(self) -> tuple:
        """What two windows must share to be added."""
        return self.shape, self.places, self.stride, self.offset, self.window

    def _positions(self) -> np.ndarray:
        """(places, window pixels) positions in the flattened image; its size for those beyond."""
        axes = []
        for axis in range(2):
            starts = np.arange(self.places[axis]) * self.stride[axis] + self.offset[axis]
            axes.append(starts[:, None] + np.arange(self.window[axis]))
        inside = [(a >= 0) & (a < n) for a, n in zip(axes, self.shape, strict=False)]
        height, width = axes[0][:, None, :, None], axes[1][None, :, None, :]
        valid = inside[0][:, None, :, None] & inside[1][None, :, None, :]
        flat = np.where(valid, height * self.shape[1] + width, self.shape[0] * self.shape[1])
        return flat.reshape(math.prod(self.places), math.prod(self.window))

    def _gathered(self, vector: tf.Tensor) -> tf.Tensor:
        """(batch or 1, places, *window, channels) windows of a vector, 0 beyond the image."""
        rows, columns, channels = self.shape
        full = tf.broadcast_to(vector, [tf.shape(vector)[0], *self.shape])
        pixels = tf.reshape(full, [tf.shape(vector)[0], rows * columns, channels])
        pixels = tf.pad(pixels, [(0, 0), (0, 1), (0, 0)])
        windows = tf.gather(pixels, self._positions(), axis=1)
        size = [tf.shape(vector)[0], math.prod(self.places), *self.window, channels]
        return tf.reshape(windows, size)

    def _masked(self) -> "Windows":
        if (self._positions() < self.shape[0] * self.shape[1]).all():
            return self
        mask = self._gathered(tf.ones([1, *self.shape], tf.float64))
        return replace(self, values=self.values * mask[:, :, None], is_uniform=False)

    def dot(self, vector: tf.Tensor) -> tf.Tensor:
        """(batch, places * rows) products with a vector (batch or 1, *shape)."""
        size, entries = tf.shape(self.values), math.prod(self.window) * self.shape[2]
        rows = tf.reshape(self.values, [size[0], size[1], size[2], entries])
        gathered = self._gathered(vector)
        batch, places = tf.shape(gathered)[0], math.prod(self.places)
        vectors = tf.reshape(gathered, [batch, places, entries])
        if self.is_shared and self.is_uniform:
            products = tf.tensordot(vectors, rows[0, 0], axes=[[2], [1]])
        else:
            products = tf.linalg.matvec(rows, vectors)
        return tf.reshape(products, [tf.shape(products)[0], places * size[2]])

    def absolute_dot(self, vector: tf.Tensor) -> tf.Tensor:
        """(batch, places * rows) products of the absolute coefficients with a vector."""
        return replace(self, values=tf.abs(self.values)).dot(vector)

    def dual_norm(self, norm: str) -> tf.Tensor:
        """(batch or 1, places * rows), as of `Dense`."""
        values = tf.abs(self._masked().values)
        result = tf.reduce_max(values, axis=[3, 4, 5])
        if norm == "l2":
            result = _euclidean(tf.sqrt(tf.reduce_sum(values**2, axis=[3, 4, 5])), result)
        return self._of_rows(result)

    def _of_rows(self, numbers: tf.Tensor) -> tf.Tensor:
        """(batch or 1, places * rows) of (batch or 1, places or 1, rows)."""
        size = tf.shape(numbers)
        numbers = tf.broadcast_to(numbers, [size[0], math.prod(self.places), size[2]])
        return tf.reshape(numbers, [size[0], math.prod(self.places) * size[2]])

    def spread(self, vector: tf.Tensor) -> tf.Tensor:
        """As of `Dense`; 0 beyond the image."""
        return self._gathered(vector)[:, :, None]

    def total(self, terms: tf.Tensor) -> tf.Tensor:
        """(batch or 1, places * rows), as of `Dense`."""
        return self._of_rows(tf.reduce_sum(terms, axis=[3, 4, 5]))

    def by_row(self, numbers: tf.Tensor) -> tf.Tensor:
        """Numbers (batch, places * rows), as of `Dense`."""
        places, rows = math.prod(self.places), tf.shape(self.values)[2]
        return tf.reshape(numbers, [tf.shape(numbers)[0], places, rows, 1, 1, 1])

    def relaxed(self, lines: Lines) -> tuple["Windows | Dense", tf.Tensor]:
        """As of `Dense`, where the lines have one slope for each entry of the node."""
        if len(lines.lower_slope.shape) != len(lines.lower_offset.shape):
            return self.dense().relaxed(lines)
        positive, negative = tf.nn.relu(self.values), -tf.nn.relu(-self.values)
        constant = replace(self, values=positive).dot(lines.lower_offset)
        constant += replace(self, values=negative).dot(lines.upper_offset)
        low, high = (self.spread(s) for s in (lines.lower_slope, lines.upper_slope))
        values = positive * low + negative * high
        return replace(self, values=values, is_shared=False, is_uniform=False), constant

    def through(self, node: Affine, shapes: Sequence[Shape]) -> Sequence["Windows | Dense"]:
        """Rows of the parents of an affine node; as windows where it is a convolution."""
        if isinstance(node.map, Scale):
            return [replace(self, values=self.values * node.map.factor)]
        if isinstance(node.map, Diagonal):
            scale = self.spread(constant(node.map.scale))
            values = self.values * scale
            return [replace(self, values=values, shape=shapes[0], is_uniform=False)]
        if not is_windowed(node.map):
            return self.dense().through(node, shapes)
        sizes = grown_window(node.map, self.window)
        if all(size >= n for size, n in zip(sizes, shapes[0], strict=False)):
            return self.dense().through(node, shapes)
        return [self._masked()._spread(node.map, sizes, shapes[0])]

    def _spread(self, convolution: Conv, sizes: Shape, shape: Shape) -> "Windows":
        """The transposed convolution of each window by itself."""
        size, strides = tf.shape(self.values), convolution.strides
        kernel = constant(convolution.written_out)
        count = size[0] * size[1] * size[2]
        windows = tf.reshape(self.values, [count, *self.window, self.shape[2]])
        outputs = tf.nn.conv2d_transpose(
            windows, kernel, [count, *sizes, shape[2]], strides, "VALID"
        )
        axes = zip(self.offset, strides, convolution.pads, strict=True)
        return replace(
            self,
            values=tf.reshape(outputs, [size[0], size[1], size[2], *sizes, shape[2]]),
            shape=shape,
            stride=tuple(a * b for a, b in zip(self.stride, strides, strict=True)),
            offset=tuple(offset * stride - before for offset, stride, (before, _) in axes),
        )

    def dense(self) -> Dense:
        """All coefficients, with zeros where no window reaches."""
        pixels, places = self.shape[0] * self.shape[1], math.prod(self.places)
        positions = self._positions()
        # For each place and pixel, where in the window it is; the entry past the end is 0.
        inverse = np.full((places, pixels + 1), positions.shape[1])
        np.put_along_axis(inverse, positions, np.arange(positions.shape[1])[None], axis=1)
        size, channels = tf.shape(self.values), self.shape[2]
        values = tf.broadcast_to(self.values, tf.concat([size[:1], [places], size[2:]], 0))
        values = tf.reshape(values, [size[0], places, size[2], positions.shape[1], channels])
        values = tf.pad(values, [(0, 0), (0, 0), (0, 0), (0, 1), (0, 0)])
        by_pixel = tf.transpose(values, [1, 3, 0, 2, 4])
        taken = tf.gather(by_pixel, inverse[:, :pixels], axis=1, batch_dims=1)
        rows = tf.transpose(taken, [2, 0, 3, 1, 4])
        full = tf.reshape(rows, [size[0], places * size[2], *self.shape])
        return Dense(full, self.shape, self.is_shared)


Coefficients = Dense | Windows


def is_windowed(linear: LinearMap) -> TypeGuard[Conv]:
    """Whether a map is a convolution of an image, in which all channels meet."""
    if not isinstance(linear, Conv) or linear.transposed:
        return False
    return len(linear.sizes) == 2 and (linear.kernel.shape[-3] == 1 or linear.kernel.shape[-2] > 1)


def grown_window(convolution: Conv, window: Shape) -> Shape:
    """Size of the window of its input that a window of the output of a convolution reads."""
    kernel = convolution.written_out.shape[:2]
    axes = zip(window, convolution.strides, kernel, strict=True)
    return tuple((n - 1) * stride + k for n, stride, k in axes)


def add(first: Coefficients | None, second: Coefficients) -> Coefficients:
    """The sum of rows of the same node."""
    if first is None:
        return second
    shared = first.is_shared and second.is_shared
    if (
        not isinstance(first, Windows)
        or not isinstance(second, Windows)
        or (first.geometry != second.geometry)
    ):
        return Dense(first.dense().values + second.dense().values, first.shape, shared)
    uniform = first.is_uniform and second.is_uniform
    values = first.values + second.values
    return replace(first, values=values, is_shared=shared, is_uniform=uniform)


def identity(shape: Shape, rows: tf.Tensor | np.ndarray, as_windows: bool) -> Coefficients:
    """Rows that take entries of a node, and then the same rows negated.

    Args:
        shape: of the node.
        rows: which entries, positions in the flattened node; of windows, which channels, at each
            place.
        as_windows: windows of one pixel, for a node (rows, columns, channels).
    """
    if not as_windows:
        one = tf.one_hot(rows, math.prod(shape), dtype=tf.float64)
        both = tf.concat([one, -one], axis=0)
        return Dense(tf.reshape(both, [1, -1, *shape]), shape, True)
    one = tf.one_hot(rows, shape[2], dtype=tf.float64)
    both = tf.concat([one, -one], axis=0)
    values = tf.reshape(both, [1, 1, -1, 1, 1, shape[2]])
    return Windows(values, shape, shape[:2], (1, 1), (0, 0))
