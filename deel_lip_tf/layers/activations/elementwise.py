"""Activations of single entries, the same for every channel or for some of them."""

import keras
from keras import ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import Rule, number
from deel_lip_tf.constraints import WeightClipConstraint
from deel_lip_tf.layers.base import LipschitzLayer, operation_export, rescaled_export
from deel_lip_tf.layers.channels import ChannelLayer
from deel_lip_tf.layers.copying import configuration

_SHARE = Rule(lambda value: 0 <= value <= 1, "between 0 and 1")
# Its square, and what it is divided by, are to be normal numbers in float32.
_BEND = Rule(lambda value: 1e-6 <= value <= 1e6, "between 1e-6 and 1e6")


@register
class Abs(ChannelLayer):
    """`|x|` of a share of the channels, the last ones; the others stay as they are.

    At every point a change of signs: norms of vectors and of gradients are preserved, and nothing
    is sorted. With a share of one half it is `GroupSort2` between two rotations of pairs.

    Args:
        fraction: share of the channels that lose their sign, between 0 and 1; of `C` channels the
            last `round(fraction * C)`. 1, the default, for all of them; 0.5 is the "half-abs".
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError: `fraction` or `k_coef_lip` is not a number.
        ValueError: one of them is out of range.

    Example:
        >>> x = np.array([[-3.0, 1.0, -2.0, 0.5]])
        >>> print(np.asarray(lip.layers.Abs()(x)))
        [[3.  1.  2.  0.5]]
        >>> print(np.asarray(lip.layers.Abs(0.5)(x)))
        [[-3.   1.   2.   0.5]]

    Source: `Abs` of orthogonium; of a share of the channels, arXiv:2601.18513.
    """

    _own_arguments: tuple[str, ...] = ("fraction",)

    def __init__(
        self,
        fraction: float = 1.0,
        data_format: str = "channels_last",
        k_coef_lip: float = 1.0,
        **kwargs,
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        self.fraction = number("fraction", fraction, _SHARE)

    def kept(self, channels: int) -> int:
        """How many channels stay as they are, the first ones."""
        return channels - round(self.fraction * channels)

    def _activate(self, inputs, training=None):
        kept = self.kept(inputs.shape[-1])
        if kept == 0:
            return ops.abs(inputs)
        return ops.concatenate([inputs[..., :kept], ops.abs(inputs[..., kept:])], axis=-1)

    def vanilla_export(self) -> keras.layers.Layer:
        """A Keras model of the same name, of Keras's own operations."""
        return operation_export(self, self.call)


@register
class SoftHuber(LipschitzLayer, keras.layers.Layer):
    """`k_coef_lip * delta * (sqrt(1 + (x / delta)**2) - 1)`, an absolute value without a kink.

    About `|x| - delta` far from 0 and `x**2 / (2 delta)` near it. Its derivative
    `x / sqrt(x**2 + delta**2)` lies between -1 and 1: `k_coef_lip`-Lipschitz in every Lp norm, and
    smooth, so that gradients and certificates of higher order exist everywhere.

    Args:
        delta: how wide the bend is: between 1e-6 and 1e6, 0.05 by default.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis. Output shape: the same.

    Raises:
        TypeError: `delta` or `k_coef_lip` is not a number.
        ValueError: one of them is out of range.

    Example:
        >>> x = np.array([[-2.0, 0.0, 0.05]])
        >>> print(np.round(lip.layers.SoftHuber()(x), 4))
        [[1.9506 0.     0.0207]]
        >>> lip.bounds.lipschitz_bound(lip.layers.SoftHuber()).value
        1.0

    Source: the pseudo-Huber function, scaled to the constant 1 as in orthogonium's `SoftHuber`.
    """

    _own_arguments: tuple[str, ...] = ("delta",)

    def __init__(self, delta: float = 0.05, k_coef_lip: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.delta = number("delta", delta, _BEND)
        self.supports_masking = True
        self.set_klip_factor(k_coef_lip)

    def call(self, inputs):
        """The activation, elementwise."""
        # `sqrt(x**2 + delta**2)`, divided and multiplied by the larger of the two: no square
        # overflows. It does not depend on that number, nor does its derivative.
        unit = ops.stop_gradient(ops.maximum(ops.abs(inputs), self.delta))
        root = unit * ops.sqrt(ops.square(inputs / unit) + ops.square(self.delta / unit))
        # sqrt(1 + t**2) - 1 = t**2 / (1 + sqrt(1 + t**2)), where nothing cancels
        outputs = inputs * (inputs / (self.delta + root))
        return outputs if self.k_coef_lip == 1 else outputs * self.k_coef_lip

    def compute_output_shape(self, input_shape):
        """The shape of the input."""
        return tuple(input_shape)


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
        super().__init__(**{**self._keyword_defaults(), **kwargs})
        self.set_klip_factor(k_coef_lip)

    @staticmethod
    def _keyword_defaults() -> dict:
        return {"alpha_constraint": WeightClipConstraint(c=1.0)}

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
