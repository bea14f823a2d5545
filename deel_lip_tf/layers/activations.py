"""Activations that are 1-Lipschitz, most of them preserving the norm of gradients."""

import math
import numbers

import keras
from keras import initializers, ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import FINITE, number, whole_number
from deel_lip_tf._validation.shapes import known_size, standardize_data_format
from deel_lip_tf.constraints import WeightClipConstraint
from deel_lip_tf.layers.base import LipschitzLayer, rescaled_export
from deel_lip_tf.layers.compiled.sorting import sort_pairs
from deel_lip_tf.layers.copying import configuration


class _ChannelActivation(LipschitzLayer, keras.layers.Layer):
    """An activation that mixes channels; shared by those below."""

    def __init__(self, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.data_format = standardize_data_format(data_format)
        self.supports_masking = True
        self.set_klip_factor(k_coef_lip)

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _channels(self, shape) -> int:
        return known_size(self, shape, self._channel_axis)

    def build(self, input_shape):
        """Checks that there are channels."""
        self._channels(input_shape)
        self.built = True

    def call(self, inputs, training=None):
        """The activation, times `k_coef_lip`; `training` chooses how it is computed, not what."""
        if self.data_format == "channels_last":
            outputs = self._activate(inputs, training)
        else:
            outputs = self._activate(ops.moveaxis(inputs, 1, -1), training)
            outputs = ops.moveaxis(outputs, -1, 1)
        # Multiplying by 1 would cost a pass over the tensor.
        return outputs if self.k_coef_lip == 1 else outputs * self.k_coef_lip

    def _activate(self, inputs, training=None):
        """The 1-Lipschitz activation, channels last."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {**super().get_config(), "data_format": self.data_format}


@register
class GroupSort(_ChannelActivation):
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

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {**super().get_config(), "n": self.n}


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

    def __init__(self, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs):
        super().__init__(n=2, data_format=data_format, k_coef_lip=k_coef_lip, **kwargs)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return _without_n(super().get_config())


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

    def __init__(self, data_format: str = "channels_last", k_coef_lip: float = 1.0, **kwargs):
        super().__init__(n=None, data_format=data_format, k_coef_lip=k_coef_lip, **kwargs)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return _without_n(super().get_config())


def _without_n(config: dict) -> dict:
    return {name: value for name, value in config.items() if name != "n"}


@register
class MaxMin(_ChannelActivation):
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


@register
class Householder(_ChannelActivation):
    """Reflects pairs of channels across a learned line, on one side of it.

    The first half of the channels pairs with the second half. A pair `(z1, z2)` with angle `t` is
    kept where `z1 sin(t/2) - z2 cos(t/2) <= 0` and becomes
    `(z1 cos t + z2 sin t, z1 sin t - z2 cos t)` elsewhere: continuous, and at every point an
    isometry. `t = pi/2` gives `(min(z1, z2), max(z1, z2))`.

    Args:
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        theta_initializer: of the angles, shape (channels / 2,): a Keras initializer, its name, a
            number, or `None` for pi/2.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: an odd number of channels, an angle that is not finite, or an unknown
            initializer.

    Example:
        >>> print(np.round(lip.layers.Householder()(np.array([[3.0, 1.0]])), 5))
        [[1. 3.]]
        >>> x = np.array([[3.0, -1.0, 2.0, 0.5]])
        >>> y = lip.layers.Householder(theta_initializer=0.3)(x)
        >>> bool(np.isclose(np.linalg.norm(y), np.linalg.norm(x)))
        True

    Source: Singla, Singla, Feizi, 2021, arXiv:2108.04062.
    """

    def __init__(
        self,
        data_format: str = "channels_last",
        k_coef_lip: float = 1.0,
        theta_initializer=None,
        **kwargs,
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        if theta_initializer is None:
            theta_initializer = math.pi / 2
        if isinstance(theta_initializer, numbers.Real):
            angle = number("theta_initializer", theta_initializer, FINITE)
            theta_initializer = initializers.Constant(angle)
        try:
            self.theta_initializer = initializers.get(theta_initializer)
        except ValueError as error:
            raise ValueError(
                "`theta_initializer` must be a Keras initializer, its name, a number, or None for "
                f"pi/2. Received: theta_initializer={theta_initializer!r}."
            ) from error

    def build(self, input_shape):
        """Creates the angles."""
        channels = self._channels(input_shape)
        if channels % 2:
            raise ValueError(
                "Householder pairs channels, so 2 must be a divisor of their number. Received "
                f"{channels} channels in layer {self.name!r}. Add or drop one channel before it."
            )
        self.theta = self.add_weight(
            name="theta", shape=(channels // 2,), initializer=self.theta_initializer, autocast=False
        )
        self.built = True

    def _activate(self, inputs, training=None):
        first, second = ops.split(inputs, 2, axis=-1)
        # Angles in full precision: cos and sin of a rounded angle are not on the unit circle.
        theta = ops.convert_to_tensor(self.theta)

        def rounded(x):
            return ops.cast(x, inputs.dtype)

        half_sin, half_cos = rounded(ops.sin(theta / 2)), rounded(ops.cos(theta / 2))
        sin, cos = rounded(ops.sin(theta)), rounded(ops.cos(theta))
        keep = first * half_sin - second * half_cos <= 0
        reflected = (first * cos + second * sin, first * sin - second * cos)
        return ops.concatenate(
            [ops.where(keep, first, reflected[0]), ops.where(keep, second, reflected[1])], axis=-1
        )

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        theta = initializers.serialize(self.theta_initializer)
        return {**super().get_config(), "theta_initializer": theta}


@register
class PReLUlip(LipschitzLayer, keras.layers.PReLU):
    """`k_coef_lip * (x if x >= 0 else clip(alpha, -1, 1) * x)` with a learned slope `alpha`.

    `k_coef_lip`-Lipschitz, in every Lp norm. The slope is clipped where it is used, so that the
    constant holds whatever the weights are, and clipped by a constraint after each update, so
    that it does not drift where it has no gradient.

    Args:
        k_coef_lip: the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.PReLU`, such as `alpha_initializer` and
            `shared_axes`; `alpha_constraint` clips to [-1, 1] where it is left out.

    Input shape: any, with a batch axis. Output shape: the same.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.

    Example:
        >>> layer = lip.layers.PReLUlip(alpha_initializer=keras.initializers.Constant(3.0))
        >>> print(np.asarray(layer(np.array([[-2.0, 1.0]]))))  # a slope of 3 counts as 1
        [[-2.  1.]]
    """

    def __init__(self, k_coef_lip: float = 1.0, **kwargs):
        kwargs.setdefault("alpha_constraint", WeightClipConstraint(c=1.0))
        super().__init__(**kwargs)
        self.set_klip_factor(k_coef_lip)

    def call(self, inputs):
        """The activation, elementwise."""
        slope = ops.clip(self.alpha, -1, 1)
        return self.k_coef_lip * (ops.relu(inputs) - slope * ops.relu(-inputs))

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.PReLU` with the clipped slopes, and a `Rescaling` where `k` is not 1."""
        config = {**configuration(self), "alpha_constraint": None}
        config.pop("k_coef_lip")
        plain = keras.layers.PReLU.from_config(config)
        if self.built:
            plain.build(self.get_build_config()["input_shape"])
            plain.set_weights([ops.convert_to_numpy(ops.clip(self.alpha, -1, 1))])
        return rescaled_export(self, plain, self.k_coef_lip)
