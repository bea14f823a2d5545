"""Chains with slopes between known ends, against all corners of the slopes and dense products."""

import itertools

import numpy as np
import pytest

from deel_lip_tf.bounds.chains import Matrix
from deel_lip_tf.bounds.sectors import sector_bound


def products(matrices, slopes):
    """The chain with each combination of smallest and largest slopes."""
    ends = [(i, j) for i, (low, _) in enumerate(slopes) for j in range(len(low))]
    free = [(i, j) for i, j in ends if slopes[i][0][j] < slopes[i][1][j]]
    for corner in itertools.product((0, 1), repeat=len(free)):
        chosen = [low.copy() for low, _ in slopes]
        for (i, j), side in zip(free, corner, strict=True):
            chosen[i][j] = slopes[i][side][j]
        product = matrices[0]
        for diagonal, matrix in zip(chosen, matrices[1:], strict=True):
            product = matrix @ (diagonal[:, None] * product)
        yield product


def steepest(matrices, slopes):
    """The largest norm of a product with slopes in their intervals: convex, so at a corner."""
    return max(np.linalg.norm(product, 2) for product in products(matrices, slopes))


def drawn(rng, sizes, kind):
    matrices = [rng.normal(size=(n, m)) for m, n in itertools.pairwise(sizes)]
    if kind == "rank one":
        matrices = [np.outer(matrix[:, 0], matrix[0]) for matrix in matrices]
    if kind == "orthogonal":
        matrices = [np.linalg.svd(m, full_matrices=False) for m in matrices]
        matrices = [u @ v for u, _, v in matrices]
    slopes = []
    for size in sizes[1:-1]:
        ends = np.sort(rng.uniform(-1.0, 2.0, size=(2, size)), axis=0)
        fixed = rng.random(size) < 0.4
        ends[1, fixed] = ends[0, fixed]
        ends[:, rng.random(size) < 0.2] = 0.0
        relu = rng.random(size) < 0.3
        ends[:, relu] = [[0.0], [1.0]]
        slopes.append((ends[0], ends[1]))
    return matrices, slopes


@pytest.mark.parametrize("kind", ["normal", "rank one", "orthogonal"])
@pytest.mark.parametrize("scale", [1.0, 1e60, 1e-60])
def test_no_corner_exceeds_the_bound(kind, scale, rng):
    ratios = []
    for sizes in ((3, 4, 2), (2, 5, 1), (3, 3, 3, 2), (1, 4, 4, 3)) * 4:
        matrices, slopes = drawn(rng, sizes, kind)
        bound = sector_bound([Matrix.of(scale * matrix) for matrix in matrices], slopes)
        exact = steepest(matrices, slopes) * scale ** len(matrices)
        assert bound >= exact * (1 - 1e-12)
        ratios.append(bound / exact if exact else 1.0)
    known = np.isfinite(ratios)
    assert known.mean() > 0.8 and np.median(np.array(ratios)[known]) < 1.5


def test_what_has_one_slope_is_exact(rng):
    matrices = [rng.normal(size=(6, 5)), rng.normal(size=(6, 6)), rng.normal(size=(4, 6))]
    slopes = [rng.choice([0.0, 1.0, -0.3], size=6) for _ in range(2)]
    product = matrices[2] @ (slopes[1][:, None] * matrices[1]) @ (slopes[0][:, None] * matrices[0])
    bound = sector_bound(list(map(Matrix.of, matrices)), [(one, one) for one in slopes])
    exact = np.linalg.norm(product, 2)
    assert exact * (1 - 1e-12) <= bound <= exact * (1 + 1e-5)


def test_errors_of_matrices_are_counted(rng):
    matrices, slopes = drawn(rng, (3, 3, 3), "normal")
    exact = steepest(matrices, slopes)
    known = [Matrix.of(matrix, error=1e-3) for matrix in matrices]
    assert sector_bound(known, slopes) >= exact * (1 + 1e-3)


def test_nothing_is_claimed_of_nothing():
    zero = [Matrix.of(np.zeros((2, 2)))] * 2
    assert sector_bound(zero, [(np.zeros(2), np.ones(2))]) == np.inf
    one = [Matrix.of(np.eye(2))] * 2
    assert sector_bound(one, [(np.zeros(2), np.zeros(2))]) == np.inf  # nothing passes
    assert sector_bound(one, [(np.zeros(2), np.full(2, np.inf))]) == np.inf
