"""The geometry of a search: a domain in the type of the input, its corners and its projections."""

import numpy as np
import tensorflow as tf

from deel_lip_tf.verify.domain import Domain
from deel_lip_tf.verify.propagation.concretize import DomainTensors


def project(x: tf.Tensor, domain: DomainTensors) -> tf.Tensor:
    """Into the ball, then into the box, which moves no entry away from the center."""
    offset = x - domain.center
    if domain.norm == "l2":
        x = domain.center + offset * tf.minimum(
            1.0, tf.math.divide_no_nan(_radius(domain), _length(offset))
        )
    elif domain.norm == "l1":
        x = domain.center + _onto_l1_ball(offset, domain.radius)
    return tf.clip_by_value(x, domain.lower, domain.upper)


def towards(
    x: tf.Tensor,
    gradient: tf.Tensor,
    domain: DomainTensors,
    length: float,
    is_jump: bool,
    is_vertex: bool,
) -> tf.Tensor:
    """The next point: towards the vertex (all the way for a jump), or against the gradient."""
    if is_vertex:
        share = 1.0 if is_jump else length
        return project(x + share * (_vertex(gradient, domain) - x), domain)
    if domain.norm is not None:
        step = tf.math.divide_no_nan(length * _radius(domain), _length(gradient))
        return project(x - gradient * step, domain)
    return project(x - length * (domain.upper - domain.lower) * tf.sign(gradient), domain)


def _vertex(gradient: tf.Tensor, domain: DomainTensors) -> tf.Tensor:
    """Where the linear function of this gradient is smallest; nearly so for L2."""
    corner = tf.where(gradient > 0, domain.lower, domain.upper)
    if domain.norm == "l1":
        return domain.center + _greedy(gradient, corner - domain.center, domain.radius)
    if domain.norm == "l2":
        far = domain.center - gradient * tf.math.divide_no_nan(_radius(domain), _length(gradient))
        return _stretched(far, gradient, domain)
    return corner


def _stretched(x: tf.Tensor, gradient: tf.Tensor, domain: DomainTensors) -> tf.Tensor:
    """Spends on the other entries what the box has cut off an L2 step."""
    x = tf.clip_by_value(x, domain.lower, domain.upper)
    free = tf.where((x > domain.lower) & (x < domain.upper), gradient, 0.0)
    left = tf.nn.relu(_radius(domain) ** 2 - _length(x - domain.center) ** 2)
    # (s + t)^2 - s^2 = left, with s the part of the offset along the free entries.
    along = _length(tf.where(free != 0.0, x - domain.center, 0.0))
    step = tf.sqrt(along**2 + left) - along
    return project(x - free * tf.math.divide_no_nan(step, _length(free)), domain)


def inside(domain: Domain, dtype: np.dtype) -> DomainTensors:
    """A domain in another type, rounded inward: without points that do not belong to it.

    Where the type has no number between two ends, the box is inverted: whatever comes out of it is
    outside the domain, and no witness.
    """
    lower, upper = domain.lower, domain.upper
    if domain.norm == "linf":
        lower, upper = _tight_ends(domain)
    low, high = lower.astype(dtype), upper.astype(dtype)
    low = np.where(low < lower, np.nextafter(low, dtype.type(np.inf)), low)
    high = np.where(high > upper, np.nextafter(high, dtype.type(-np.inf)), high)
    # A ball is left by the rounding of its points: they stay a little below its surface.
    slack = 16.0 * np.finfo(dtype).eps
    size = np.abs(domain.center).reshape(len(lower), -1)
    spent = slack * (np.linalg.norm(size, axis=1) if domain.norm == "l2" else size.sum(axis=1))
    radius = np.maximum(domain.radius * (1.0 - slack) - spent, 0.0).astype(dtype)
    parts = low, high, domain.center.astype(dtype), radius
    return DomainTensors(domain.ball_norm, *map(tf.constant, parts))


def _tight_ends(domain: Domain) -> tuple[np.ndarray, np.ndarray]:
    """The box of an L-infinity ball without the outward rounding: ends that are in the ball."""
    radius = domain.radius.reshape(-1, *[1] * (domain.lower.ndim - 1))
    lower = np.maximum(domain.lower, domain.center - radius)
    upper = np.minimum(domain.upper, domain.center + radius)
    lower = np.where(domain.center - lower > radius, np.nextafter(lower, np.inf), lower)
    upper = np.where(upper - domain.center > radius, np.nextafter(upper, -np.inf), upper)
    return lower, upper


def column(values, like: tf.Tensor) -> tf.Tensor:
    """(m,) as (m, 1, ...), to go with a tensor (m, *shape)."""
    return tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))


def _radius(domain: DomainTensors) -> tf.Tensor:
    return column(domain.radius, domain.center)


def _length(x: tf.Tensor) -> tf.Tensor:
    """Euclidean norms, (m, 1, ...)."""
    return tf.sqrt(tf.reduce_sum(x**2, axis=list(range(1, x.shape.rank)), keepdims=True))


def _greedy(gradient: tf.Tensor, corner: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """The offset in an L1 ball and a box that lowers a linear function most, steepest axes first.

    `corner` is the offset of the box's corner; the sum of its absolute values is spent in the order
    of the gradient's, until the radius is used up.
    """
    steep = tf.abs(tf.reshape(gradient, (tf.shape(gradient)[0], -1)))
    room = tf.reshape(tf.abs(corner), tf.shape(steep))
    order = tf.argsort(steep, axis=1, direction="DESCENDING")
    sorted_room = tf.gather(room, order, batch_dims=1)
    before = tf.cumsum(sorted_room, axis=1, exclusive=True)
    spent = tf.clip_by_value(tf.reshape(radius, (-1, 1)) - before, 0.0, sorted_room)
    back = tf.gather(spent, tf.argsort(order, axis=1), batch_dims=1)
    return tf.sign(corner) * tf.reshape(back, tf.shape(corner))


def _onto_l1_ball(offset: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """The nearest point of an L1 ball (Duchi et al. 2008): soft thresholding."""
    flat = tf.abs(tf.reshape(offset, (tf.shape(offset)[0], -1)))
    limit = tf.reshape(radius, (-1, 1))
    ordered = tf.sort(flat, axis=1, direction="DESCENDING")
    count = tf.range(1, tf.shape(flat)[1] + 1, dtype=flat.dtype)
    thresholds = (tf.cumsum(ordered, axis=1) - limit) / count
    last = tf.reduce_sum(tf.cast(ordered > thresholds, tf.int32), axis=1) - 1
    threshold = tf.gather(thresholds, tf.maximum(last, 0), batch_dims=1)[:, None]
    shrunk = tf.nn.relu(flat - tf.nn.relu(threshold))
    return tf.sign(offset) * tf.reshape(shrunk, tf.shape(offset))
