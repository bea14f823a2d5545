"""Looking for what a claim denies: steep pairs, points of a ball or box where a function is low.

A function takes (points, size) and returns (points, outputs). Nothing here believes a claim: what
is returned was evaluated, and is judged elsewhere in a wider type.
"""

import numpy as np

__all__ = ["inside", "jacobians", "lowest", "steepest"]

ORDERS = {"l2": 2, "linf": np.inf, "l1": 1}


def ratios(function, a, b, norm: str) -> np.ndarray:
    """`||f(a) - f(b)|| / ||a - b||` of pairs of rows, 0 where the points are equal."""
    order = ORDERS[norm]
    change = np.linalg.norm((function(a) - function(b)).astype(np.float64), order, axis=1)
    length = np.linalg.norm((a - b).astype(np.float64), order, axis=1)
    with np.errstate(all="ignore"):
        return np.where(length > 0, np.nan_to_num(change / length, posinf=0.0), 0.0)


def jacobians(function, points: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """(points, outputs, size) central differences."""
    count, size = points.shape
    moved = points[:, None, :] + step * np.concatenate([np.eye(size), -np.eye(size)])
    values = function(moved.reshape(-1, size)).reshape(count, 2 * size, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        slopes = (values[:, :size] - values[:, size:]) / (2 * step)
    return np.nan_to_num(np.moveaxis(slopes, 1, 2), posinf=0.0, neginf=0.0)


def _directions(matrices: np.ndarray, norm: str) -> np.ndarray:
    """For each matrix the direction that it stretches most, in a norm."""
    size = matrices.shape[-1]
    if norm == "l2":
        return np.linalg.svd(matrices)[2][:, 0]
    if norm == "linf":
        rows = np.abs(matrices).sum(axis=-1).argmax(axis=-1)
        return np.where(matrices[np.arange(len(matrices)), rows] >= 0, 1.0, -1.0)
    return np.eye(size)[np.abs(matrices).sum(axis=-2).argmax(axis=-1)]


def steepest(function, starts: np.ndarray, norm: str, rng, limits=None):
    """A pair of points `(a, b)`, each (size,), between which a function is steep.

    Random pairs, and pairs along the steepest direction at each start. Of a segment one half is at
    least as steep as the whole: halving leads to kinks and jumps. Where `limits` (lowest, highest)
    of each entry are given, some are integers, which are not halved.
    """
    others = rng.permutation(starts)
    a, b = [starts], [others]
    if limits is not None:
        unit = np.eye(starts.shape[1])[rng.integers(starts.shape[1], size=len(starts))]
        near = [np.clip(moved, *limits) for moved in (starts + unit, starts - unit)]
        a, b = [starts, starts, starts], [others, *near]
    else:
        slopes = jacobians(function, starts)
        directions = _directions(slopes, norm)
        for length in (1e-4, 1e-2, 1.0):
            a.append(starts - length * directions)
            b.append(starts + length * directions)
        unit = directions[np.linalg.norm(slopes, axis=(1, 2)).argmax()]
        a.append(starts)
        b.append(starts + rng.choice([1e-3, 0.1, 5.0]) * unit)
    a, b = np.concatenate(a), np.concatenate(b)
    for _ in range(18 if limits is None else 0):
        middle = 0.5 * (a + b)
        is_left = ratios(function, a, middle, norm) >= ratios(function, middle, b, norm)
        a, b = np.where(is_left[:, None], a, middle), np.where(is_left[:, None], middle, b)
        best = ratios(function, a, b, norm).argmax()
        if np.linalg.norm(a[best] - b[best]) < 1e-5:
            break
    best = ratios(function, a, b, norm).argmax()
    return a[best], b[best]


def inside(rng, count: int, lower, upper, center, radius: float, norm: str | None) -> np.ndarray:
    """(count, size) points of a box cut out of a ball: corners, inner points, and the sphere."""
    share = rng.random((count, len(lower)))
    share[: count // 3] = np.round(share[: count // 3])
    points = lower + share * (upper - lower)
    return drawn_in(points, lower, upper, center, radius, norm)


def drawn_in(points, lower, upper, center, radius: float, norm: str | None) -> np.ndarray:
    """Points moved towards the center until they lie in the ball; the box is kept."""
    points = np.clip(points, lower, upper)
    if norm is None:
        return points
    length = np.linalg.norm(points - center, ORDERS[norm], axis=1, keepdims=True)
    factor = np.minimum(1.0, radius * (1 - 1e-13) / np.maximum(length, 1e-300))
    # Between two points of the box there is the box; a rounding may leave it, and is cut off.
    return np.clip(center + factor * (points - center), lower, upper)


def lowest(function, rng, lower, upper, center, radius=np.inf, norm=None, count=48) -> np.ndarray:
    """(outputs, size) for each output a point of the domain where it is low.

    The best of random points and of the center, then steps along finite differences, of lengths
    that shrink, each drawn back into the domain.
    """
    domain = (lower, upper, center, radius, norm)
    points = np.concatenate([center[None], inside(rng, count, *domain)])
    values = _finite(function(points))
    places = values.argmin(axis=0)
    best, reached = points[places], values[places, np.arange(values.shape[1])]
    width = np.minimum(upper - lower, 2 * radius)
    for share in (1.0, 0.5, 0.2, 0.05, 0.01):
        slopes = jacobians(function, best, 1e-6)[np.arange(len(best)), np.arange(len(best))]
        scale = np.linalg.norm(slopes, axis=1, keepdims=True)
        unit = slopes / np.maximum(scale, 1e-300)
        for move in (share * width * np.sign(slopes), share * np.linalg.norm(width) * unit):
            tried = drawn_in(best - move, *domain)
            values = _finite(function(tried))[np.arange(len(best)), np.arange(len(best))]
            is_better = values < reached
            best = np.where(is_better[:, None], tried, best)
            reached = np.minimum(values, reached)
    return best


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf).astype(np.float64)
