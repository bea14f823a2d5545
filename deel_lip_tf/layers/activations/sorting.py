"""Activations that sort channels: at every point a permutation, or an isometry."""

from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import whole_number
from deel_lip_tf.layers.channels import ChannelLayer
from deel_lip_tf.layers.compiled.sorting import sort_pairs


@register
class GroupSort(ChannelLayer):
    """Sorts the channels, in ascending order, in consecutive groups of `n`.

    A permutation of its input at every point: norms of vectors and of gradients are preserved.

    Args:
        n: size of a group, a divisor of the number of channels; `None`, or more than there are
            channels, sorts all of them.
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is less than 1, or not a divisor of the number of channels.

    Example:
        >>> x = np.array([[3.0, 1.0, 4.0, 1.0, 5.0, 9.0]])
        >>> y = lip.layers.GroupSort(n=3)(x)
        >>> print(np.asarray(y))
        [[1. 3. 4. 1. 5. 9.]]
        >>> bool(np.isclose(np.linalg.norm(y), np.linalg.norm(x)))
        True

    Source: Anil, Lucas, Grosse, 2019, arXiv:1811.05381.
    """

    _own_arguments: tuple[str, ...] = ("n",)

    def __init__(
        self,
        n: int | None = None,
        data_format: str = "channels_last",
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        self.n = None if n is None else whole_number("n", n)

    def build(self, input_shape):
        """Checks that groups fill the channels."""
        self._group_size(self._channels(input_shape))
        self.built = True

    def _group_size(self, channels: int) -> int:
        if self.n is None or self.n > channels:
            return channels
        if channels % self.n:
            raise ValueError(
                f"`n` must be a divisor of the number of channels. Received: n={self.n}, "
                f"{channels} channels in layer {self.name!r}. Use another n, or n=None to sort all."
            )
        return self.n

    def _activate(self, inputs, training=None):
        size = self._group_size(inputs.shape[-1])
        if size == 1:
            return inputs
        if size == 2:
            return sort_pairs(inputs, training)
        shape = ops.shape(inputs)
        groups = ops.reshape(inputs, (*shape[:-1], inputs.shape[-1] // size, size))
        return ops.reshape(ops.sort(groups, axis=-1), shape)


@register
class GroupSort2(GroupSort):
    """`GroupSort` with groups of two: `(x0, x1, ...)` to `(min(x0, x1), max(x0, x1), ...)`.

    A permutation of its input at every point: norms of vectors and of gradients are preserved.

    Args:
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: an odd number of channels.

    Example:
        >>> layer = lip.layers.GroupSort2()
        >>> print(np.asarray(layer(np.array([[2.0, -1.0, 0.0, 5.0]]))))
        [[-1.  2.  0.  5.]]
        >>> lip.bounds.lipschitz_bound(layer).value
        1.0
    """

    _filled_in = ("n",)

    def __init__(self, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs):
        super().__init__(n=2, data_format=data_format, k_coef_lip=k_coef_lip, **kwargs)


@register
class FullSort(GroupSort):
    """Sorts all channels in ascending order: `GroupSort` with one group.

    A permutation of its input at every point: norms of vectors and of gradients are preserved.

    Args:
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError: `k_coef_lip` is not a number.
        ValueError: an unknown number of channels or `data_format`, or `k_coef_lip` is not positive
            and finite.

    Example:
        >>> print(np.asarray(lip.layers.FullSort()(np.array([[3.0, 1.0, 4.0, 2.0]]))))
        [[1. 2. 3. 4.]]
    """

    _filled_in = ("n",)

    def __init__(self, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs):
        super().__init__(n=None, data_format=data_format, k_coef_lip=k_coef_lip, **kwargs)


@register
class MaxMin(ChannelLayer):
    """Concatenates `relu(x)` and `relu(-x)` along the channels, twice as many as before.

    The norm of the output is that of the input; `k_coef_lip`-Lipschitz, and norms of gradients are
    preserved.

    Args:
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same with twice the
    channels.

    Raises:
        TypeError: `k_coef_lip` is not a number.
        ValueError: an unknown number of channels or `data_format`, or `k_coef_lip` is not positive
            and finite.

    Example:
        >>> x = np.array([[1.0, -2.0]])
        >>> y = lip.layers.MaxMin()(x)
        >>> print(np.asarray(y))
        [[1. 0. 0. 2.]]
        >>> bool(np.isclose(np.linalg.norm(y), np.linalg.norm(x)))
        True

    Source: Blot, Cord, Thome, 2016, arXiv:1610.07882.
    """

    def _activate(self, inputs, training=None):
        return ops.concatenate([ops.relu(inputs), ops.relu(-inputs)], axis=-1)

    def compute_output_shape(self, input_shape):
        """The shape of the input with twice the channels."""
        shape = list(input_shape)
        shape[self._channel_axis] = 2 * self._channels(input_shape)
        return tuple(shape)
