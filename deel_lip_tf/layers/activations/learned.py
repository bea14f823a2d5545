"""Activations that each channel learns: piecewise linear functions of slopes between -1 and 1."""

import numpy as np
from keras import initializers, ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import POSITIVE, number, whole_number
from deel_lip_tf.constraints import WeightClipConstraint
from deel_lip_tf.layers.channels import ChannelLayer
from deel_lip_tf.normalizers.parametrization import at_least_float32


def _initializer(name: str, given, default: str):
    """An initializer, or None as it is.

    Raises:
        ValueError: Keras knows none of this name.
    """
    try:
        return None if given is None else initializers.get(given)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be a Keras initializer, its name, or None for {default}. Received: "
            f"{name}={given!r}."
        ) from error


@register
class NActivation(ChannelLayer):
    """Slopes +1, -1, +1 between two knots that each channel learns: the shape of an N.

    Of a channel with knots `a <= b`, `x - 2 a` below `a`, `-x` between them and `x - 2 b` above
    `b`, which is `x - 2 clip(x, a, b)`. At every point an isometry, `k_coef_lip`-Lipschitz in every
    Lp norm. Equal knots make a shifted identity of it, and a knot that is far away the absolute
    value or its negative.

    Args:
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        knots_initializer: of the knots, shape (2, channels), in any order: a Keras initializer or
            its name; `None`, the default, for -1 and 0 of every other channel, and twice 0 of those
            between them, which begin as identities.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: an unknown initializer or number of channels.

    Example:
        >>> layer = lip.layers.NActivation()
        >>> x = np.array([[-2.0, -2.0], [-0.5, -0.5], [1.0, 1.0]])
        >>> print(np.asarray(layer(x)))  # knots -1 and 0, and twice 0
        [[ 0.  -2. ]
         [ 0.5 -0.5]
         [ 1.   1. ]]

    Source: Prach and Lampert, 2023, arXiv:2311.06103, and the published code, from which the
    default of the knots is taken.
    """

    def __init__(
        self,
        data_format: str = "channels_last",
        k_coef_lip: float = 1.0,
        knots_initializer=None,
        **kwargs,
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        default = "-1 and 0, or 0 and 0, in turn"
        self.knots_initializer = _initializer("knots_initializer", knots_initializer, default)

    def build(self, input_shape):
        """Creates the knots."""
        self.knots = self.add_weight(
            name="knots",
            shape=(2, self._own_channels(input_shape)),
            initializer=self.knots_initializer or _alternating_knots,
        )
        self.built = True

    def _activate(self, inputs, training=None):
        knots = ops.sort(ops.convert_to_tensor(self.knots), axis=0)
        return inputs - 2 * ops.minimum(ops.maximum(inputs, knots[0]), knots[1])

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        written = initializers.serialize(self.knots_initializer) if self.knots_initializer else None
        return {**super().get_config(), "knots_initializer": written}


def _alternating_knots(shape, dtype=None):
    knots = np.zeros(shape)
    knots[0, ::2] = -1.0
    return ops.convert_to_tensor(knots, dtype=dtype)


@register
class LipschitzSpline(ChannelLayer):
    """A continuous piecewise linear function of each channel, with learned slopes in [-1, 1].

    The knots lie on a fixed grid, `knots` of them from `-radius` to `radius`; each channel has one
    slope between any two, and one beyond either end. Slopes are clipped to [-1, 1] where they are
    used, so that the layer is `k_coef_lip`-Lipschitz in every Lp norm whatever the weights are, and
    by a constraint after each update, so that they do not drift where they have no gradient. The
    function is 0 at 0: what shifts it is the bias of the layer after it.

    Args:
        knots: how many, an odd number, so that one of them is 0; 11 by default.
        radius: the largest knot: positive and finite, 1 by default.
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        slopes_initializer: of the slopes, shape (knots + 1, channels), from the left to the right:
            a Keras initializer or its name; `None`, the default, for -1 left of 0 and 1 right of it
            in every other channel, and 1 in those between them: absolute values and identities.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError: `knots` is not an integer, or another argument not a number.
        ValueError: `knots` is even, a number is out of range, an unknown initializer or number of
            channels.

    Example:
        >>> layer = lip.layers.LipschitzSpline(knots=3, radius=1.0)
        >>> x = np.array([[-2.0, -2.0], [0.5, 0.5]])
        >>> print(np.asarray(layer(x)))
        [[ 2.  -2. ]
         [ 0.5  0.5]]
        >>> _ = layer.slopes.assign([[0.0, 0.0], [9.0, 0.5], [9.0, 0.5], [0.0, 0.0]])
        >>> print(np.asarray(layer(x)))  # a slope of 9 counts as 1
        [[-1.   -0.5 ]
         [ 0.5   0.25]]

    Source: Ducotterd et al., 2024, arXiv:2210.16222, whose splines are projected to the same set;
    there values at the knots are learned, here the slopes between them.
    """

    _own_arguments: tuple[str, ...] = ("knots", "radius")

    def __init__(
        self,
        knots: int = 11,
        radius: float = 1.0,
        data_format: str = "channels_last",
        k_coef_lip: float = 1.0,
        slopes_initializer=None,
        **kwargs,
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        self.knots = whole_number("knots", knots)
        if not self.knots % 2:
            raise ValueError(
                "`knots` must be odd, so that one of them is 0, where the function is. Received: "
                f"knots={knots}. Take one more."
            )
        self.radius = number("radius", radius, POSITIVE)
        default = "absolute values and identities in turn"
        self.slopes_initializer = _initializer("slopes_initializer", slopes_initializer, default)

    @property
    def grid(self) -> np.ndarray:
        """The knots in ascending order, in float64."""
        return self.radius * np.linspace(-1.0, 1.0, self.knots) if self.knots > 1 else np.zeros(1)

    def build(self, input_shape):
        """Creates the slopes."""
        self.slopes = self.add_weight(
            name="slopes",
            shape=(self.knots + 1, self._own_channels(input_shape)),
            initializer=self.slopes_initializer or _alternating_slopes,
            constraint=WeightClipConstraint(c=1.0),
            autocast=False,
        )
        self.built = True

    def _activate(self, inputs, training=None):
        slopes = ops.clip(at_least_float32(ops.convert_to_tensor(self.slopes)), -1, 1)
        grid, channels = self.grid, inputs.shape[-1]
        # Between neighbouring knots the function grows by slope times distance, and is 0 at 0.
        steps = slopes[1:-1] * ops.convert_to_tensor(np.diff(grid)[:, None], dtype=slopes.dtype)
        sums = ops.concatenate([ops.zeros_like(slopes[:1]), ops.cumsum(steps, axis=0)], axis=0)
        values = sums - sums[self.knots // 2]
        # How many knots are to the left: which piece it is, and the knot that it is seen from, of
        # its two ends the one nearer to 0, so that rounding is relative to the input.
        x = ops.cast(inputs, slopes.dtype)
        piece = self._piece(ops.stop_gradient(x))
        knot = ops.where(piece <= self.knots // 2, piece, piece - 1)
        at = ops.take(ops.convert_to_tensor(grid, dtype=slopes.dtype), knot)
        columns = ops.arange(channels, dtype="int32")

        def of_each(table, row):
            return ops.take(ops.reshape(table, (-1,)), row * channels + columns)

        return ops.cast(of_each(values, knot) + of_each(slopes, piece) * (x - at), inputs.dtype)

    def _piece(self, x):
        if self.knots == 1:
            return ops.cast(x >= 0, "int32")
        place = ops.floor((x + self.radius) * ((self.knots - 1) / (2.0 * self.radius))) + 1
        place = ops.where(ops.isnan(x), 0.0, ops.clip(place, 0, self.knots))
        return ops.cast(place, "int32")

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        given = self.slopes_initializer
        written = initializers.serialize(given) if given else None
        return {**super().get_config(), "slopes_initializer": written}


def _alternating_slopes(shape, dtype=None):
    slopes = np.ones(shape)
    slopes[: shape[0] // 2, ::2] = -1.0
    return ops.convert_to_tensor(slopes, dtype=dtype)
