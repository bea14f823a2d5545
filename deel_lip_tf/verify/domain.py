"""The inputs a claim is about: a box, or a ball, with the data range cut out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.models import check_instance

NORMS = ("linf", "l2", "l1")
_ROUND = 1.0 + 2.0**-40
"""More than the rounding errors of a Euclidean norm of float64 numbers, relatively."""


@dataclass(frozen=True, eq=False)
class Domain:
    """One set of inputs for each of n samples, made by `box` or `ball`.

    Attributes:
        lower: (n, *shape) float64, smallest value of each feature.
        upper: (n, *shape) float64, largest value.
        center: (n, *shape) float64, in the set: of the ball, or the point a box was made for.
        radius: (n,) float64 of the ball that the box is cut out of; 0 for a box.
        norm: "l2" or "l1" where the set is the box cut out of that ball, "linf" where it is a ball
            in that norm (the box alone, then, says all), `None` for a box.

    Example:
        >>> domain = lip.verify.ball([[0.5, 0.9], [0.5, 0.5]], eps=0.2, norm="l2")
        >>> len(domain), domain.norm, domain.radius.tolist()
        (2, 'l2', [0.2, 0.2])
        >>> print(domain.lower[0].round(4), domain.upper[0].round(4))  # cut to the range [0, 1]
        [0.3 0.7] [0.7 1. ]
    """

    lower: np.ndarray
    upper: np.ndarray
    center: np.ndarray
    radius: np.ndarray
    norm: str | None = None

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, index: Any) -> Domain:
        """The sets of some samples; an index of several, as of an array."""
        ends = self.lower[index], self.upper[index]
        return Domain(*ends, self.center[index], self.radius[index], self.norm)

    @property
    def is_ball(self) -> bool:
        """Whether the box alone does not say all."""
        return self.ball_norm is not None

    @property
    def ball_norm(self) -> str | None:
        """The norm of the ball that the box is cut out of; `None` where the box says all."""
        return self.norm if self.norm in ("l1", "l2") else None

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(n,) whether a point (n, *shape), one for each sample, lies in its set."""
        points = np.asarray(points, np.float64)
        flat = tuple(range(1, points.ndim))
        inside = np.all((points >= self.lower) & (points <= self.upper), axis=flat)
        offset = np.abs(points - self.center)
        if self.norm == "linf":
            inside &= np.all(offset <= _per_sample(self.radius, points), axis=flat)
        elif self.norm == "l2":
            inside &= np.sqrt((offset**2).sum(axis=flat)) <= self.radius
        elif self.norm == "l1":
            inside &= offset.sum(axis=flat) <= self.radius
        return inside

    def enclosing_ball(self) -> tuple[np.ndarray, np.ndarray]:
        """`(center (n, *shape), radius (n,))` of a small L2 ball around each set.

        The smaller one of the ball around the box and of the ball itself: an L1 ball lies in the
        L2 ball of its radius.
        """
        middle = 0.5 * (self.lower + self.upper)
        half_width = np.maximum(self.upper - middle, middle - self.lower) * _ROUND
        radius = np.sqrt((half_width.reshape(len(self), -1) ** 2).sum(axis=1)) * _ROUND
        if not self.is_ball:
            return middle, radius
        by_box = radius < self.radius
        center = np.where(_per_sample(by_box, middle), middle, self.center)
        return center, np.where(by_box, radius, self.radius)


def box(lower: ArrayLike, upper: ArrayLike, center: ArrayLike | None = None) -> Domain:
    """`lower <= x <= upper`, feature by feature; equal ends fix a feature.

    Args:
        lower: (n, *shape) finite real numbers.
        upper: (n, *shape), nowhere below `lower`.
        center: (n, *shape), points inside; the middle by default.

    Returns:
        The domain, one box for each sample, in float64.

    Raises:
        ValueError: shapes that differ, values that are not finite, an inverted box, or a center
            outside.

    Example:
        >>> domain = lip.verify.box([[0.0, 1.0]], [[0.5, 1.0]])  # the second feature is fixed
        >>> print(domain.center)
        [[0.25 1.  ]]
    """
    lower, upper = _real("lower", lower), _real("upper", upper)
    if lower.shape != upper.shape:
        raise ValueError(
            "`lower` and `upper` must have the same shape, (n, *shape of the model's input). "
            f"Received: {lower.shape} and {upper.shape}."
        )
    if (inverted := lower > upper).any():
        where = tuple(int(i) for i in np.argwhere(inverted)[0])
        raise ValueError(
            "`lower` must not exceed `upper`: the box would be empty. Received: "
            f"lower={lower[where]!r} and upper={upper[where]!r} at {where}, and so at "
            f"{int(inverted.sum())} of {inverted.size} entries. Were they exchanged?"
        )
    if center is None:
        center = np.clip(0.5 * lower + 0.5 * upper, lower, upper)
    center = _real("center", center)
    if center.shape != lower.shape or (center < lower).any() or (center > upper).any():
        raise ValueError("`center` must lie in the box, and have its shape.")
    return Domain(lower, upper, center, np.zeros(len(lower)))


def ball(
    x: ArrayLike, eps: ArrayLike, norm: str = "linf", clip: tuple | None = (0.0, 1.0)
) -> Domain:
    """The points at a distance of at most `eps` from `x`, in the data range.

    Args:
        x: (n, *shape) finite real numbers.
        eps: radius, not negative, a number or one for each sample, in the units of `x`.
        norm: "linf", "l2" or "l1", of the flattened difference.
        clip: smallest and largest value of the data, numbers or arrays that broadcast against
            `x`, or `None` where there is no range. `x` must lie in it.

    Returns:
        The domain; the box of an L-infinity ball is rounded outward.

    Raises:
        ValueError: a value that is not finite, a negative `eps`, an unknown norm, an inverted
            range, or `x` outside the range.

    Example:
        >>> domain = lip.verify.ball([[0.5, 0.9]], eps=0.2)
        >>> print(domain.lower.round(4), domain.upper.round(4))  # cut to the range [0, 1]
        [[0.3 0.7]] [[0.7 1. ]]
    """
    x = _real("x", x)
    if norm not in NORMS:
        raise ValueError(f"`norm` must be one of {', '.join(NORMS)}. Received: norm={norm!r}.")
    radius = _radius(eps, len(x))
    half_width = _per_sample(radius, x)
    # Rounded outward, except where the ball is a point.
    lower = np.where(half_width > 0, np.nextafter(x - half_width, -np.inf), x)
    upper = np.where(half_width > 0, np.nextafter(x + half_width, np.inf), x)
    if clip is not None:
        smallest, largest = _range(clip, x)
        lower, upper = np.maximum(lower, smallest), np.minimum(upper, largest)
    return Domain(lower, upper, x, radius, norm)


def check_domain(domain: Any) -> None:
    """Raises a `TypeError` for what is no domain, such as the samples themselves."""
    check_instance("domain", domain, Domain, "a domain, made by `box` or `ball`")


def _real(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim < 2 or not len(array):
        raise ValueError(
            f"`{name}` must hold real numbers, of shape (n, *shape of the model's input) with "
            f"n > 0. Received: shape {array.shape}, dtype {array.dtype}."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"`{name}` must be finite. Received: {count} of {array.size} entries that are NaN or "
            "infinite. Clean the data, or bound every feature."
        )
    return array


def _radius(eps: ArrayLike, samples: int) -> np.ndarray:
    radius = np.asarray(eps)
    fits = radius.dtype.kind in "iuf" and radius.shape in ((), (samples,))
    if not fits or not (np.isfinite(radius) & (radius >= 0)).all():
        raise ValueError(
            "`eps` must be a finite number, not negative, or one for each sample. "
            f"Received: eps={eps!r}."
        )
    return np.broadcast_to(radius.astype(np.float64), (samples,)).copy()


def _range(clip: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        smallest, largest = (np.broadcast_to(np.asarray(end, float), x.shape) for end in clip)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`clip` must be a pair (smallest, largest value) or None, of numbers or of arrays that "
            f"broadcast against `x`, here of shape {x.shape}. Received: clip={clip!r}."
        ) from error
    if np.isnan(smallest).any() or np.isnan(largest).any() or (smallest > largest).any():
        raise ValueError(
            f"`clip` must be a pair (smallest, largest) in this order. Received: clip={clip!r}."
        )
    if (outside := (x < smallest) | (x > largest)).any():
        raise ValueError(
            f"`x` must lie in the data range `clip`. Received: {int(outside.sum())} entries of x "
            f"outside {clip!r}, from {x.min()!r} to {x.max()!r}. Pass the range of your data, or "
            "clip=None where there is none."
        )
    return smallest, largest


def _per_sample(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (like.ndim - 1))
