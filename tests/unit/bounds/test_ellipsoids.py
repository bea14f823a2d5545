"""Ellipsoids of differences, against all corners of the slopes and the products that they make."""

from fractions import Fraction

import numpy as np
import pytest

from deel_lip_tf.bounds import ellipsoids
from deel_lip_tf.bounds.ellipsoids import (
    after_activation,
    after_matrix,
    combinations,
    first_ellipsoid,
)
from tests.unit.bounds.test_sectors import drawn, products

SIZES = ((3, 4, 2), (2, 5, 1), (3, 3, 3, 2), (1, 4, 4, 3))


def carried(matrices, slopes, errors=None):
    """The ellipsoid of the outputs."""
    errors = errors or [0.0] * len(matrices)
    ellipsoid = first_ellipsoid(matrices[0], errors[0])
    for ends, matrix, error in zip(slopes, matrices[1:], errors[1:], strict=True):
        ellipsoid, alive = after_activation(ellipsoid, *ends)
        ellipsoid = after_matrix(ellipsoid, matrix[:, alive], error)
    return ellipsoid


@pytest.mark.parametrize("kind", ["normal", "rank one", "orthogonal"])
@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
def test_no_corner_leaves_the_ellipsoid(kind, scale, rng):
    ratios = []
    for sizes in SIZES * 3:
        matrices, slopes = drawn(rng, sizes, kind)
        ellipsoid = carried([scale * matrix for matrix in matrices], slopes)
        directions = np.concatenate([np.eye(sizes[-1]), rng.normal(size=(5, sizes[-1]))])
        exact = np.max(
            [np.linalg.norm(directions @ one, axis=1) for one in products(matrices, slopes)], axis=0
        )
        found = combinations(ellipsoid, directions) / scale ** len(matrices)
        assert (found >= exact * (1 - 1e-12)).all()
        ratios.extend(found[exact > 1e-6] / exact[exact > 1e-6])
    assert np.median(ratios) < 1.6


def test_unequal_entries_cost_nothing(rng):
    """Scales of single entries cancel: the bound is the same."""
    matrices, slopes = drawn(rng, (3, 5, 4, 2), "normal")
    scales = [2.0 ** rng.integers(-6, 7, size=len(low)) for low, _ in slopes]
    scaled = [matrix.copy() for matrix in matrices]
    for index, one in enumerate(scales):
        scaled[index] *= one[:, None]
        scaled[index + 1] /= one
    directions = np.eye(2)
    plain, other = (combinations(carried(m, slopes), directions) for m in (matrices, scaled))
    assert other == pytest.approx(plain, rel=1e-6)


def test_what_has_one_slope_is_exact(rng):
    matrices = [rng.normal(size=(6, 5)), rng.normal(size=(6, 6)), rng.normal(size=(4, 6))]
    slopes = [rng.choice([0.0, 1.0, -0.3], size=6) for _ in range(2)]
    product = matrices[2] @ (slopes[1][:, None] * matrices[1]) @ (slopes[0][:, None] * matrices[0])
    found = combinations(carried(matrices, [(one, one) for one in slopes]), np.eye(4))
    exact = np.linalg.norm(product, axis=1)
    assert (exact * (1 - 1e-12) <= found).all() and (found <= exact * (1 + 1e-5)).all()


def test_one_entry_that_bends_is_exact():
    """u of one entry, slopes between 0 and 1: what is worst is the slope 1."""
    ellipsoid, alive = after_activation(np.array([[4.0]]), np.zeros(1), np.ones(1))
    assert alive.tolist() == [0]
    assert 4.0 <= ellipsoid[0, 0] <= 4.0 * (1 + 1e-9)


def test_errors_of_matrices_are_counted(rng):
    matrices, slopes = drawn(rng, (3, 3, 3), "normal")
    off = [1e-3 * np.linalg.svd(rng.normal(size=matrix.shape))[0] for matrix in matrices]
    moved = [matrix + change for matrix, change in zip(matrices, off, strict=True)]
    exact = np.max([np.linalg.norm(one, axis=1) for one in products(moved, slopes)], axis=0)
    known = combinations(carried(matrices, slopes, [1.001e-3, 1.001e-3]), np.eye(3))
    assert (known >= exact).all()
    first = first_ellipsoid(np.eye(2), 0.5)
    assert (combinations(first, np.eye(2)) >= 1.5).all()
    assert (combinations(after_matrix(first, np.eye(2), 0.5), np.eye(2)) >= 2.25).all()


def test_sums_that_cancel_are_not_rounded_down(rng):
    """In rational numbers; what is left of terms near 1 is as large as their rounding."""
    for _ in range(40):
        row = rng.normal(size=5)
        ellipsoid = np.outer(row, row) + 1e-17 * np.eye(5)
        direction = rng.normal(size=5)
        direction -= row * (direction @ row) / (row @ row)
        terms = [[Fraction(a) * Fraction(b) for b in direction] for a in direction]
        pairs = zip(np.ravel(terms), ellipsoid.ravel(), strict=True)
        exact = sum(c * Fraction(e) for c, e in pairs)
        assert Fraction(combinations(ellipsoid, direction[None])[0]) ** 2 >= exact


@pytest.mark.parametrize("share", [0.0, 0.5, 1.01])
def test_any_solution_of_the_linear_systems_is_as_sound(share, rng, monkeypatch):
    """The proof takes any matrix in the place of the solution, and steep slopes with it."""
    right = np.linalg.solve
    monkeypatch.setattr(ellipsoids.np.linalg, "solve", lambda a, b: share * right(a, b))
    for sizes in SIZES:
        matrices, slopes = drawn(rng, sizes, "normal")
        slopes = [(8.0 * low, 8.0 * high) for low, high in slopes]
        exact = np.max([np.linalg.norm(one, axis=1) for one in products(matrices, slopes)], axis=0)
        found = combinations(carried(matrices, slopes), np.eye(sizes[-1]))
        assert (found >= exact * (1 - 1e-12)).all()


def test_a_solution_that_is_wrong_moves_steep_entries_the_most(monkeypatch):
    """Two entries that move together: one bends, the other one is straight, and steep."""
    monkeypatch.setattr(ellipsoids.np.linalg, "solve", lambda a, b: 0.0 * b)
    together, high = np.ones((2, 2)), np.array([1.0, 50.0])
    ellipsoid, _ = after_activation(together, np.array([0.0, 50.0]), high)
    # Q of the entry that bends is twice what it moves by, so that S (Q - S)**-1 S is S.
    exact = np.diag([0.5, 50.0]) @ (2.0 * together) @ np.diag([0.5, 50.0])
    exact[0, 0] += 0.5
    assert np.linalg.eigvalsh(ellipsoid - exact).min() >= -1e-9


def test_nothing_is_claimed_of_what_overflows():
    assert first_ellipsoid(np.full((2, 2), 1e200)) is None
    assert first_ellipsoid(np.full((2, 2), 1e-200)) is None
    assert (combinations(first_ellipsoid(np.zeros((2, 2))), np.eye(2)) < 1e-130).all()
    with np.errstate(all="ignore"):
        for end in (np.inf, 1e40):
            ellipsoid, alive = after_activation(np.eye(2), np.zeros(2), np.full(2, end))
            assert not (combinations(ellipsoid, np.eye(len(alive))) < 1e30).any()
