"""Exchange of space for channels: isometries that halve an image without losing anything."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf._validation.shapes import standardize_data_format
from deel_lip_tf.layers.base import LipschitzLayer, operation_export


class _Resampling2D(LipschitzLayer, keras.layers.Layer):
    """A reordering of the entries of an image."""

    _own_arguments: tuple[str, ...] = ("pool_size", "data_format")

    def __init__(
        self,
        pool_size,
        data_format: str | None = "channels_last",
        name: str | None = None,
        dtype=None,
        *,
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(name=name, dtype=dtype, **kwargs)
        self.pool_size = _pair(pool_size)
        self.data_format = standardize_data_format(data_format)
        self.set_klip_factor(k_coef_lip)

    def build(self, input_shape):
        """Checks that the windows fill the image."""
        self.compute_output_shape(input_shape)
        self.built = True

    def _unpack(self, shape) -> tuple:
        if len(shape) != 4:
            raise ValueError(
                f"Layer {self.name!r} needs a batch of images, four axes. Received an input of "
                f"shape {tuple(shape)}."
            )
        batch, *rest = shape
        if self.data_format == "channels_first":
            return batch, rest[1], rest[2], rest[0]
        return batch, *rest

    def _pack(self, batch, rows, columns, channels) -> tuple:
        if self.data_format == "channels_first":
            return batch, channels, rows, columns
        return batch, rows, columns, channels

    def _reorder(self, inputs):
        raise NotImplementedError

    def call(self, inputs):
        """The same entries in another order, times `k_coef_lip`."""
        outputs = self._reorder(inputs)
        return outputs if self.k_coef_lip == 1 else outputs * self.k_coef_lip

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name, of Keras's own operations."""
        return operation_export(self, self.call)


def _pair(pool_size) -> tuple[int, int]:
    pair = tuple(pool_size) if isinstance(pool_size, list | tuple) else (pool_size,) * 2
    if len(pair) != 2:
        raise ValueError(
            "`pool_size` must be an integer or a pair: expected 2-dimensional pool_size, but got "
            f"{len(pair)}-dimensional instead. Received: pool_size={pool_size!r}."
        )
    return whole_number("pool_size", pair[0]), whole_number("pool_size", pair[1])


_PAD = "Pad the input with keras.layers.ZeroPadding2D, or choose another `pool_size`."
_MORE_CHANNELS = "Give the layer before it another number of channels, or choose a `pool_size`."


def _divide(size, divisor: int, what: str, way_out: str = _PAD):
    if size is None:
        return None
    if isinstance(size, int) and (size % divisor or size == 0):
        raise ValueError(
            f"The number of {what} must be a multiple of {divisor}. Received: {size}. {way_out}"
        )
    return size // divisor


@register
class InvertibleDownSampling(_Resampling2D):
    """Moves each window of an image into the channels.

    `(rows, columns, n)` becomes `(rows / h, columns / w, n * h * w)` for windows of `(h, w)`: pixel
    `(i, j)` of a window and channel `c` go to channel `c * h * w + i * w + j`. An isometry, times
    `k_coef_lip`.

    Args:
        pool_size: size of the windows, an integer or a pair.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        name: name of the layer; by default one that Keras makes up.
        dtype: dtype or dtype policy of the computation; by default the global one of Keras.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`.

    Input shape: `(batch, rows, columns, channels)`, or channels first. Output shape:
    `(batch, rows / h, columns / w, channels * h * w)`.

    Raises:
        TypeError: `pool_size` is not of integers.
        ValueError: `pool_size` is not a positive integer or a pair of them, or windows that do not
            fill the image.

    Example:
        >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
        >>> y = lip.layers.InvertibleDownSampling(2)(x)
        >>> tuple(y.shape), np.asarray(y)[0, 0, 0].tolist()  # the first window of x
        ((1, 2, 2, 4), [0.0, 1.0, 4.0, 5.0])
        >>> bool((np.asarray(lip.layers.InvertibleUpSampling(2)(y)) == x).all())
        True
    """

    def compute_output_shape(self, input_shape):
        """Shape of the output."""
        batch, rows, columns, channels = self._unpack(input_shape)
        height, width = self.pool_size
        return self._pack(
            batch,
            _divide(rows, height, "rows"),
            _divide(columns, width, "columns"),
            None if channels is None else channels * height * width,
        )

    def _reorder(self, inputs):
        _, rows, columns, channels = self._unpack(ops.shape(inputs))
        height, width = self.pool_size
        rows, columns = _divide(rows, height, "rows"), _divide(columns, width, "columns")
        if self.data_format == "channels_first":
            split = ops.reshape(inputs, (-1, channels, rows, height, columns, width))
        else:
            split = ops.reshape(inputs, (-1, rows, height, columns, width, channels))
        moved = ops.transpose(split, (0, 1, 3, 5, 2, 4))
        return ops.reshape(moved, self._pack(-1, rows, columns, channels * height * width))


@register
class InvertibleUpSampling(_Resampling2D):
    """The inverse of `InvertibleDownSampling`.

    `(rows, columns, n * h * w)` becomes `(rows * h, columns * w, n)`. An isometry, times
    `k_coef_lip`.

    Args:
        pool_size: size of the windows, an integer or a pair.
        data_format: `"channels_last"`, `"channels_first"` or `None` for Keras's default.
        name: name of the layer; by default one that Keras makes up.
        dtype: dtype or dtype policy of the computation; by default the global one of Keras.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`.

    Input shape: `(batch, rows, columns, channels * h * w)`, or channels first. Output shape:
    `(batch, rows * h, columns * w, channels)`.

    Raises:
        TypeError: `pool_size` is not of integers.
        ValueError: `pool_size` is not a positive integer or a pair of them, or channels that do not
            fill the windows.

    Example:
        >>> x = np.arange(16.0).reshape(1, 2, 2, 4)
        >>> y = lip.layers.InvertibleUpSampling(2)(x)
        >>> print(np.asarray(y)[0, :, :, 0])
        [[ 0.  1.  4.  5.]
         [ 2.  3.  6.  7.]
         [ 8.  9. 12. 13.]
         [10. 11. 14. 15.]]
        >>> bool((np.asarray(lip.layers.InvertibleDownSampling(2)(y)) == x).all())
        True
    """

    def compute_output_shape(self, input_shape):
        """Shape of the output."""
        batch, rows, columns, channels = self._unpack(input_shape)
        height, width = self.pool_size
        return self._pack(
            batch,
            None if rows is None else rows * height,
            None if columns is None else columns * width,
            _divide(channels, height * width, "channels", _MORE_CHANNELS),
        )

    def _reorder(self, inputs):
        _, rows, columns, channels = self._unpack(ops.shape(inputs))
        height, width = self.pool_size
        channels = _divide(channels, height * width, "channels", _MORE_CHANNELS)
        if self.data_format == "channels_first":
            split = ops.reshape(inputs, (-1, channels, height, width, rows, columns))
        else:
            split = ops.reshape(inputs, (-1, rows, columns, channels, height, width))
        moved = ops.transpose(split, (0, 1, 4, 2, 5, 3))
        return ops.reshape(moved, self._pack(-1, rows * height, columns * width, channels))
