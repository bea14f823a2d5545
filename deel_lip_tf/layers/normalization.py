"""Centering and scaling by the statistics of batches: one affine map at inference."""

import math

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import Rule, flag, number
from deel_lip_tf.distribute import replicas
from deel_lip_tf.layers.base import LipschitzLayer
from deel_lip_tf.layers.centering import Shifted
from deel_lip_tf.normalizers import check_lipschitz_factor
from deel_lip_tf.normalizers.parametrization import at_least_float32


@register
class BatchCentering(Shifted):
    """`y = k_coef_lip * (x - mean) + bias`, with the mean of each channel.

    In training the mean is that of the batch (of the global one under a `tf.distribute` strategy),
    at inference the moving mean of the batches seen: a constant, so that the layer is
    `k_coef_lip`-Lipschitz sample by sample. In training it is an orthogonal projection of the
    whole batch. A frozen layer (`trainable=False`) is always at
    inference, as Keras's batch normalization is.

    Args:
        momentum: weight of the past in the moving mean, in [0, 1[, 0.99 by default. The first
            batches are averaged with equal weights until that is slower.
        use_bias: whether to add a learned bias for each channel.
        data_format: where the channels are: `"channels_last"`, `"channels_first"` or `None` for
            Keras's default.
        k_coef_lip: the Lipschitz constant, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    State: `moving_mean` (channels,) and the number of batches, both saved and not trained.

    Raises:
        TypeError, ValueError: `momentum` is not a number in [0, 1[.

    Example:
        >>> layer = lip.layers.BatchCentering()
        >>> batch = np.array([[1.0, 10.0], [3.0, 30.0]])
        >>> print(np.asarray(layer(batch, training=True)))
        [[ -1. -10.]
         [  1.  10.]]
        >>> print(np.asarray(layer.moving_mean))  # of one batch: its own
        [ 2. 20.]
        >>> print(np.asarray(layer(batch + 1.0, training=False)))
        [[ 0. -9.]
         [ 2. 11.]]
    """

    _own_arguments: tuple[str, ...] = ("momentum",)

    def __init__(self, momentum: float = 0.99, use_bias: bool = True, **kwargs):
        super().__init__(use_bias=use_bias, **kwargs)
        self.momentum = number("momentum", momentum, Rule(lambda m: 0 <= m < 1, "in [0, 1["))

    def build(self, input_shape):
        """Creates the bias and the moving statistics."""
        super().build(input_shape)
        self.moving_mean = self._add_vector("moving_mean", input_shape, "zeros", trainable=False)
        self.batches = self.add_weight(
            name="batches",
            shape=(),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
        )

    def call(self, inputs, training=None):
        """The centered input; `training=True` takes the mean of the batch, and remembers it."""
        if not (training and self.trainable):
            return self._affine(inputs, self.moving_mean, self.k_coef_lip)
        mean, _, size = self._batch_moments(inputs, with_variance=False)
        self._remember(size, (self.moving_mean, mean))
        return self._affine(inputs, mean, self.k_coef_lip)

    def _batch_moments(self, inputs, with_variance: bool):
        rank = len(inputs.shape)
        axes = tuple(axis for axis in range(rank) if axis != self._channel_axis(rank))
        return replicas.moments(at_least_float32(inputs), axes, with_variance)

    def _remember(self, size, *statistics: tuple) -> None:
        # An empty batch has no statistics.
        is_empty = ops.equal(size, 0)
        self.batches.assign_add(ops.where(is_empty, 0.0, 1.0))
        batches = ops.maximum(ops.convert_to_tensor(self.batches), 1.0)
        rate = ops.maximum(1 - self.momentum, 1 / batches)
        for moving, value in statistics:
            known = ops.convert_to_tensor(moving)
            step = ops.cast(rate, moving.dtype) * (ops.cast(value, moving.dtype) - known)
            moving.assign(ops.where(is_empty, known, known + ops.stop_gradient(step)))

    def _affine(self, inputs, mean, scale):
        # In float32 at least: the mean may be far larger than what remains.
        wide = at_least_float32(inputs)
        if mean is not None:
            wide = wide - self._along_channels(ops.cast(mean, wide.dtype), len(inputs.shape))
        return ops.cast(self._shift(wide * ops.cast(scale, wide.dtype)), self.compute_dtype)

    def _export(self, mean, scale: float) -> keras.layers.Layer:
        offset = self.bias
        if mean is not None:
            offset = -scale * mean if offset is None else offset - scale * mean
        return self._rescaling(scale, offset)

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.Rescaling`, of the same name, with the layer's function at inference."""
        mean = ops.convert_to_tensor(self.moving_mean) if self.built else None
        return self._export(mean, self.k_coef_lip)


@register
class BatchLipNorm(BatchCentering):
    """Batch centering, and on demand one scalar factor that normalizes the widest channel.

    `y = k_coef_lip * factor * (x - mean) + bias`. With `normalize=True`,
    `factor = 1 / sqrt(max over channels of the variance)`, the same for all channels: that of the
    batch (unbiased) in training, that of the moving variance at inference, and 1 where that
    variance is below `epsilon`. At inference the factor is a number, frozen by
    `vanilla_export`, and `lipschitz_constant()`, which the bounds and certificates use, is
    `k_coef_lip * factor`: it may exceed `k_coef_lip`, and models of this library warn of it. The
    default, `normalize=False`, only centers and is `k_coef_lip`-Lipschitz.

    Args:
        centering: whether to subtract the mean.
        normalize: whether to multiply by the factor.
        epsilon: variance below which the factor is 1: positive, 1e-5 by default.
        momentum: weight of the past in the moving statistics, in [0, 1[, 0.99 by default. The first
            batches are averaged with equal weights until that is slower.
        use_bias: whether to add a learned bias for each channel.
        data_format: where the channels are: `"channels_last"`, `"channels_first"` or `None` for
            Keras's default.
        k_coef_lip: factor of the whole layer, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    State: that of `BatchCentering`, and `moving_variance` (channels,).

    Raises:
        TypeError, ValueError: `momentum` is not a number in [0, 1[, `epsilon` not a positive
            finite one, or a flag neither True nor False.

    Example:
        >>> layer = lip.layers.BatchLipNorm(normalize=True)
        >>> _ = layer(np.array([[0.0, 1.0], [0.5, 1.0]]), training=True)
        >>> layer.is_guaranteed, round(layer.lipschitz_constant(), 4)  # the factor is counted
        (False, 2.8284)
        >>> lip.layers.BatchLipNorm().is_guaranteed
        True

    Source: `BatchLipNorm` of deel-torchlip, which normalizes by default and does not count the
    factor.
    """

    _own_arguments: tuple[str, ...] = ("centering", "normalize", "epsilon")

    def __init__(
        self,
        centering: bool = True,
        normalize: bool = False,
        epsilon: float = 1e-5,
        momentum: float = 0.99,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(momentum=momentum, use_bias=use_bias, **kwargs)
        self.centering, self.normalize = flag("centering", centering), flag("normalize", normalize)
        self.epsilon = check_lipschitz_factor(epsilon, "epsilon")

    def build(self, input_shape):
        """Creates the bias and the moving statistics."""
        super().build(input_shape)
        self.moving_variance = self._add_vector(
            "moving_variance", input_shape, "ones", trainable=False
        )

    @property
    def is_guaranteed(self) -> bool:
        """Whether the constant is `k_coef_lip` whatever the state: without normalization."""
        return not self.normalize

    def lipschitz_constant(self) -> float | None:
        """`k_coef_lip` times the frozen factor, rounded upward; `None` before the layer is built.

        Raises:
            ValueError: the moving variance is not finite.
        """
        if not self.normalize:
            return self.k_coef_lip
        if not self.built:
            return None
        # The layer computes the factor in float32 at least: a few roundings.
        return self.k_coef_lip * self._frozen_factor() * (1 + 2.0**-21)

    def _frozen_factor(self) -> float:
        if not self.normalize:
            return 1.0
        variance = float(ops.convert_to_numpy(self.moving_variance).max())
        if math.isnan(variance) or math.isinf(variance):
            raise ValueError(f"The moving variance of layer {self.name!r} is {variance}.")
        return 1 / math.sqrt(variance) if variance >= self.epsilon else 1.0

    def _factor(self, variance):
        if not self.normalize:
            return 1.0
        largest = ops.max(variance)
        large = ops.where(largest >= self.epsilon, largest, ops.ones_like(largest))
        return 1 / ops.sqrt(large)

    def call(self, inputs, training=None):
        """The normalized input; `training=True` takes, and remembers, those of the batch."""
        mean, variance = self.moving_mean, ops.convert_to_tensor(self.moving_variance)
        if training and self.trainable:
            mean, variance, size = self._batch_moments(inputs, with_variance=True)
            count = ops.cast(size // variance.shape[0], variance.dtype)
            variance = variance * count / ops.maximum(count - 1, 1)
            self._remember(size, (self.moving_mean, mean), (self.moving_variance, variance))
        factor = self.k_coef_lip * self._factor(variance)
        return self._affine(inputs, mean if self.centering else None, factor)

    def vanilla_export(self) -> keras.layers.Layer:
        """A `keras.layers.Rescaling`, of the same name, with the frozen factor."""
        if not self.built:
            return LipschitzLayer.vanilla_export(self)
        mean = ops.convert_to_tensor(self.moving_mean) if self.centering else None
        return self._export(mean, self.k_coef_lip * self._frozen_factor())
