"""Reflections of pairs of channels."""

import math
import numbers

from keras import initializers, ops

from deel_lip_tf._registration import register
from deel_lip_tf._validation.scalars import FINITE, number
from deel_lip_tf.layers.channels import ChannelLayer
from deel_lip_tf.normalizers.parametrization import at_least_float32

# Within ]0, 2 pi[, exact in float32: the ends of narrower pieces would not be told apart.
_OPEN = (1 / 64, 6.25)


@register
class Householder(ChannelLayer):
    """Reflects pairs of channels across a learned line, on one side of it.

    The first half of the channels pairs with the second half. A pair `(z1, z2)` with angle `t` is
    kept where `z1 sin(t/2) - z2 cos(t/2) <= 0` and becomes
    `(z1 cos t + z2 sin t, z1 sin t - z2 cos t)` elsewhere: continuous, and at every point an
    isometry. `t = pi/2` gives `(min(z1, z2), max(z1, z2))`.

    Of order 2 the plane of a pair is folded along four half-lines, as paper is: with angles
    `t0, t1, t2`, of which `t1` and `t2` count as clipped to [1/64, 6.25] (no piece is empty), and
    angles counted from `t0 / 2`, what lies in `[0, t1/2]` is kept, in `[t1/2, (t1+t2)/2]` reflected
    across the first of these ends, in `[(t1+t2)/2, pi + t2/2]` rotated by `-t2`, and the rest is
    reflected across the line of angle 0. Neighbours agree on the half-line between them, so that it
    is continuous, and 1-Lipschitz as every piece is an isometry.

    Args:
        data_format: where the channels are: `"channels_last"` (the default) or `"channels_first"`.
        k_coef_lip: factor of the output and the Lipschitz constant: positive, 1 by default.
        theta_initializer: of the angles, shape (channels / 2,), or (3, channels / 2) of order 2: a
            Keras initializer, its name, a number, or `None` for pi/2.
        order: 1, the default, or 2.
        **kwargs: every other argument of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Input shape: any, with a batch axis and channels. Output shape: the same.

    Raises:
        TypeError, ValueError: `k_coef_lip` is not a positive finite number.
        ValueError: an odd number of channels, an angle that is not finite, an unknown initializer,
            or another order.

    Example:
        >>> print(np.round(lip.layers.Householder()(np.array([[3.0, 1.0]])), 5))
        [[1. 3.]]
        >>> x = np.array([[3.0, -1.0, 2.0, 0.5]])
        >>> y = lip.layers.Householder(theta_initializer=0.3)(x)
        >>> bool(np.isclose(np.linalg.norm(y), np.linalg.norm(x)))
        True
        >>> twice = lip.layers.Householder(order=2)
        >>> print(np.round(twice(np.array([[3.0, 1.0], [1.0, 3.0], [-1.0, -3.0]])), 3) + 0.0)
        [[ 1.  3.]
         [ 1.  3.]
         [-3.  1.]]

    Source: Singla, Singla, Feizi, 2021, arXiv:2108.04062.
    """

    def __init__(
        self,
        data_format: str = "channels_last",
        k_coef_lip: float = 1.0,
        theta_initializer=None,
        order: int = 1,
        **kwargs,
    ):
        super().__init__(data_format, k_coef_lip, **kwargs)
        if order not in (1, 2):
            raise ValueError(f"`order` must be 1 or 2. Received: order={order!r}.")
        self.order = int(order)
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
            name="theta",
            shape=(channels // 2,) if self.order == 1 else (3, channels // 2),
            initializer=self.theta_initializer,
            autocast=False,
        )
        self.built = True

    def _activate(self, inputs, training=None):
        first, second = ops.split(inputs, 2, axis=-1)
        # Angles in full precision: cos and sin of a rounded angle are not on the unit circle.
        theta = ops.convert_to_tensor(self.theta)
        fold = _reflected if self.order == 1 else _folded
        return ops.concatenate(fold(first, second, theta), axis=-1)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        theta = initializers.serialize(self.theta_initializer)
        return {**super().get_config(), "theta_initializer": theta, "order": self.order}


def _reflected(first, second, theta) -> tuple:
    """The pairs, reflected where they are beyond the line of angle `theta / 2`."""

    def rounded(x):
        return ops.cast(x, first.dtype)

    half_sin, half_cos = rounded(ops.sin(theta / 2)), rounded(ops.cos(theta / 2))
    sin, cos = rounded(ops.sin(theta)), rounded(ops.cos(theta))
    keep = first * half_sin - second * half_cos <= 0
    reflected = (first * cos + second * sin, first * sin - second * cos)
    return ops.where(keep, first, reflected[0]), ops.where(keep, second, reflected[1])


def folds(theta, xp=ops) -> tuple[tuple, tuple]:
    """The creases of order 2 and the isometries between them.

    Sums of angles are products of numbers on the unit circle: a sum of large angles would be
    rounded by more than a unit, and pieces that are neighbours would no longer agree.

    Args:
        theta: (3, n) angles.
        xp: `keras.ops`, or `numpy`.

    Returns:
        Unit vectors `(cos, sin)` along the four half-lines, in the order of their angles from the
        one that the first piece begins with; and the matrices `((a, b), (c, d))` of the pieces,
        piece k between half-line k and k + 1.
    """
    t0, t1, t2 = theta[0], xp.clip(theta[1], *_OPEN), xp.clip(theta[2], *_OPEN)

    def turn(angle):
        return xp.cos(angle), xp.sin(angle)

    def times(u, v):
        return u[0] * v[0] - u[1] * v[1], u[0] * v[1] + u[1] * v[0]

    start = turn(t0 / 2)
    first = times(start, turn(t1 / 2))
    last = times(start, turn(t2 / 2))
    rays = (start, first, times(first, turn(t2 / 2)), (-last[0], -last[1]))
    (c0, s0), (c2, s2) = turn(t0), turn(t2)
    c1, s1 = times((c0, s0), turn(t1))
    one, zero = xp.ones_like(t0), xp.zeros_like(t0)
    pieces = (
        ((one, zero), (zero, one)),
        ((c1, s1), (s1, -c1)),
        ((c2, s2), (-s2, c2)),
        ((c0, s0), (s0, -c0)),
    )
    return rays, pieces


def _folded(first, second, theta) -> tuple:
    """The pairs, each by the isometry of the piece of the plane that it lies in."""
    rays, (_, *pieces) = folds(at_least_float32(theta))

    def rounded(x):
        return ops.cast(x, first.dtype)

    # On which side of the line of each crease; no piece is wider than a half-plane.
    left = [second * rounded(c) - first * rounded(s) >= 0 for c, s in rays]
    within = [ops.logical_and(left[k], ops.logical_not(left[(k + 1) % 4])) for k in (0, 3, 1)]

    def chosen(row):
        reflected, turned, last = (
            first * rounded(piece[row][0]) + second * rounded(piece[row][1]) for piece in pieces
        )
        others = ops.where(within[1], last, ops.where(within[2], reflected, turned))
        return ops.where(within[0], first if row == 0 else second, others)

    return chosen(0), chosen(1)
