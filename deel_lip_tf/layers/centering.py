"""Layers that shift: a fixed scaling with a bias, and the centering of each sample by itself."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import FINITE, flag, number
from deel_lip_tf._validation.shapes import known_size, standardize_data_format
from deel_lip_tf.layers.base import LipschitzLayer, operation_export
from deel_lip_tf.layers.convolution.padding import spatial_axes


class Shifted(LipschitzLayer, keras.layers.Layer):
    """Base of the layers with a learned bias for each channel that know where the channels are."""

    _own_arguments: tuple[str, ...] = ("use_bias", "data_format")

    def __init__(
        self,
        use_bias: bool = True,
        data_format: str | None = None,
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.use_bias = flag("use_bias", use_bias)
        self.data_format = standardize_data_format(data_format)
        self.bias = None
        self.set_klip_factor(k_coef_lip)

    def build(self, input_shape):
        """Creates the bias."""
        known_size(self, input_shape, self._channel_axis(len(input_shape)))
        if self.use_bias:
            self.bias = self._add_vector("bias", input_shape, "zeros", trainable=True)
        self.built = True

    def _add_vector(self, name: str, input_shape, initializer: str, trainable: bool):
        """A variable for each channel, not rounded below float32: it is a mean of many values."""
        return self.add_weight(
            name=name,
            shape=(input_shape[self._channel_axis(len(input_shape))],),
            initializer=initializer,
            trainable=trainable,
            dtype="float64" if self.variable_dtype == "float64" else "float32",
            autocast=False,
            aggregation="mean",
        )

    def _channel_axis(self, rank: int) -> int:
        return rank - 1 if self.data_format == "channels_last" else 1

    def _along_channels(self, vector, rank: int):
        """A vector with one entry per channel, in the shape that broadcasts against the input."""
        return ops.reshape(vector, self._channel_shape(rank))

    def _channel_shape(self, rank: int) -> tuple:
        axis = self._channel_axis(rank)
        return (1,) * axis + (-1,) + (1,) * (rank - 1 - axis)

    def _shift(self, outputs):
        if self.bias is None:
            return outputs
        bias = ops.cast(self.bias, outputs.dtype)
        return outputs + self._along_channels(bias, len(outputs.shape))

    def _rescaling(self, scale: float, offset) -> keras.layers.Layer:
        """The plain layer `scale * x + offset`, of the same name; `offset` is a vector or None."""
        if offset is None:
            offset = 0.0
        elif self.built:
            rank = len(self.get_build_config()["input_shape"])
            offset = ops.convert_to_numpy(self._along_channels(offset, rank)[0]).tolist()
        return keras.layers.Rescaling(scale, offset, name=self.name, dtype=self.dtype_policy)

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return tuple(input_shape)


@register
class ScaleBias(Shifted):
    """`y = k_coef_lip * scalar * x + bias`, with a fixed number and one learned bias per channel.

    `k_coef_lip * |scalar|`-Lipschitz; a `scalar` beyond 1 is counted by `lipschitz_constant()`.

    Args:
        scalar: the number; it is not trained.
        use_bias: whether to add a bias.
        data_format: where the channels are: `"channels_last"`, `"channels_first"` or `None` for
            Keras's default.
        k_coef_lip: factor, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError, ValueError: `scalar` is not a finite number.

    Example:
        >>> layer = lip.layers.ScaleBias(scalar=-0.5)
        >>> print(np.asarray(layer(np.array([[2.0, 4.0]]))))
        [[-1. -2.]]
        >>> layer.lipschitz_constant()
        0.5
    """

    _own_arguments: tuple[str, ...] = ("scalar",)

    def __init__(self, scalar: float = 1.0, use_bias: bool = True, **kwargs):
        super().__init__(use_bias=use_bias, **kwargs)
        self.scalar = number("scalar", scalar, FINITE)

    @property
    def is_guaranteed(self) -> bool:
        """Whether the constant is at most `k_coef_lip`."""
        return abs(self.scalar) <= 1

    def lipschitz_constant(self) -> float:
        """`k_coef_lip * |scalar|`."""
        return self.k_coef_lip * abs(self.scalar)

    def call(self, inputs):
        """The scaled and shifted input."""
        return self._shift(inputs * (self.k_coef_lip * self.scalar))

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.Rescaling`, of the same name."""
        return self._rescaling(self.k_coef_lip * self.scalar, self.bias)


@register
class LayerCentering(Shifted):
    """`y = k_coef_lip * (x - mean(x)) + bias`, the mean over some axes of each sample by itself.

    Subtracting the mean is an orthogonal projection: `k_coef_lip`-Lipschitz, at training and at
    inference alike.

    Args:
        axis: the axes of the mean, an integer or a tuple. Default: all but batch and channels; an
            input (batch, features) has none of these, so that `axis=-1` must be said.
        use_bias: whether to add a learned bias for each channel.
        data_format: where the channels are: `"channels_last"`, `"channels_first"` or `None` for
            Keras's default.
        k_coef_lip: the Lipschitz constant, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError: `axis` is something else.
        ValueError: the axes contain the batch, are out of range, occur twice, or there are none.

    Example:
        >>> layer = lip.layers.LayerCentering(axis=-1)
        >>> print(np.asarray(layer(np.array([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))))
        [[-2. -1.  3.]
         [ 0.  0.  0.]]

    Source: `LayerCentering` of deel-torchlip, whose default takes the mean over the batch where
    the input has two axes.
    """

    _own_arguments: tuple[str, ...] = ("axis",)

    def __init__(self, axis=None, use_bias: bool = True, **kwargs):
        super().__init__(use_bias=use_bias, **kwargs)
        self.axis = tuple(axis) if isinstance(axis, list | tuple) else axis
        given = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if axis is not None and not all(type(one) is int for one in given):
            raise TypeError(
                "`axis` of LayerCentering must be an integer, a tuple of integers, or None for all "
                f"axes but batch and channels. Received: axis={axis!r}."
            )

    def build(self, input_shape):
        """Creates the bias and checks the axes."""
        self._axes(len(input_shape))
        super().build(input_shape)

    def _axes(self, rank: int) -> tuple:
        if self.axis is None:
            axes = spatial_axes(self.data_format, rank - 2)
        else:
            given = self.axis if isinstance(self.axis, tuple) else (self.axis,)
            axes = tuple(axis + rank if axis < 0 else axis for axis in given)
        if not axes or len(set(axes)) < len(axes) or not all(0 < axis < rank for axis in axes):
            raise ValueError(
                "`axis` of LayerCentering must name different axes of a sample, never the batch "
                f"axis 0. Received: axis={self.axis} for an input of {rank} axes. "
                "For the features of a (batch, features) input, set axis=-1."
            )
        return axes

    def _centered(self, inputs):
        mean = ops.mean(inputs, axis=self._axes(len(inputs.shape)), keepdims=True)
        return (inputs - mean) * self.k_coef_lip

    def call(self, inputs):
        """The centered input."""
        return self._shift(self._centered(inputs))

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name, of Keras's own operations."""
        if self.bias is None:
            return operation_export(self, self._centered)
        bias = ops.convert_to_numpy(self.bias)

        def operation(inputs):
            shape = self._channel_shape(len(inputs.shape))
            return ops.cast(self._centered(inputs) + bias.reshape(shape), self.compute_dtype)

        return operation_export(self, operation)
