"""The last dense layers, against all patterns of slopes and of exchanged pairs."""

import itertools
import math

import numpy as np
import pytest

from deel_lip_tf.bounds.gaps.slopes import Ends

ORACLE = 1e-12  # relative rounding of numpy's norms of a few entries


def columns_and_kernels(rng, hidden, inputs):
    """Combinations (hidden, 3) and kernels (inputs, hidden) that are made to break a bound."""
    columns, kernel = rng.standard_normal((hidden, 3)), rng.standard_normal((inputs, hidden))
    yield columns, kernel
    yield columns, np.linalg.qr(kernel.T)[0].T if inputs < hidden else np.linalg.qr(kernel)[0]
    yield columns, np.outer(kernel[:, 0], kernel[0])
    yield np.zeros_like(columns), kernel
    yield columns, np.zeros_like(kernel)
    yield np.sign(columns), np.ones_like(kernel)  # all slopes push one way
    yield columns * 10.0 ** rng.integers(-12, 1, columns.shape), kernel
    yield columns * 1e-12, kernel * 1e12
    dead = kernel * (np.arange(hidden) % 3 > 0)
    yield columns * (np.arange(hidden)[:, None] % 2), dead


def sizes_of(columns):
    return 1.01 * np.linalg.norm(columns, axis=0)


def exchanged(column):
    """The column with each choice of pairs exchanged: what sorting can do to a gradient."""
    pairs = column.reshape(-1, 2)
    for choice in itertools.product((False, True), repeat=len(pairs)):
        yield np.where(np.array(choice)[:, None], pairs[:, ::-1], pairs).ravel()


def bent(column, low, high):
    """The column times each choice of smallest and largest slopes."""
    for choice in itertools.product((False, True), repeat=len(column)):
        yield np.where(choice, low, high) * column


def largest(gradients, kernel, inverse):
    return max(math.sqrt((inverse * (kernel @ g) ** 2).sum()) for g in gradients)


@pytest.mark.parametrize("inputs", [4, 9])
def test_no_pattern_exceeds_the_bound(inputs):
    rng = np.random.default_rng(0)
    low, high = rng.uniform(-0.5, 0.5, 6), rng.uniform(0.5, 1.5, 6)
    for columns, kernel in columns_and_kernels(rng, 6, inputs):
        inverse = rng.uniform(0.2, 3.0, inputs)
        cases = [
            (Ends.of_sorted_pairs(columns, sizes_of(columns), kernel), exchanged),
            (
                Ends.of_slopes(columns, sizes_of(columns), kernel, (low, high)),
                lambda column: bent(column, low, high),
            ),
        ]
        for ends, patterns in cases:
            found = np.sqrt(ends.bounds(inverse, ends.start()))
            for column, bound in zip(columns.T, found, strict=True):
                exact = largest(patterns(column), kernel, inverse)
                assert exact * (1 - ORACLE) <= bound
                # The relaxation is at most pi / 2 times the square (Nesterov, 1998); the second
                # term is the rounding of what cancels.
                rounding = 3e-6 * np.linalg.norm(column) * np.linalg.norm(kernel) + 1e-100
                assert bound <= exact * math.sqrt(math.pi / 2) * 1.01 + rounding


def test_without_slopes_it_is_the_norm():
    rng = np.random.default_rng(1)
    columns, kernel = rng.standard_normal((6, 4)), rng.standard_normal((9, 6))
    inverse, ones = rng.uniform(0.2, 3.0, 9), np.ones(6)
    ends = Ends.of_slopes(columns, sizes_of(columns), kernel, (ones, ones))
    exact = np.sqrt(inverse @ (kernel @ columns) ** 2)
    found = np.sqrt(ends.bounds(inverse, ends.start()))
    assert (exact * (1 - ORACLE) <= found).all() and (found <= exact * (1 + 1e-6)).all()
    direct = Ends.of_slopes(
        kernel @ columns, sizes_of(kernel @ columns), None, (1.0 + 0 * inverse,) * 2
    )
    found = np.sqrt(direct.bounds(inverse, direct.start()))
    assert (exact * (1 - ORACLE) <= found).all() and (found <= exact * (1 + 1e-6)).all()


@pytest.mark.parametrize("wrong", ["zero", "one"])
def test_what_is_proven_does_not_rest_on_the_vectors(wrong):
    rng = np.random.default_rng(2)
    columns, kernel = rng.standard_normal((6, 3)), rng.standard_normal((9, 6))
    inverse = rng.uniform(0.2, 3.0, 9)
    ends = Ends.of_sorted_pairs(columns, sizes_of(columns), kernel)
    vectors = np.zeros_like(ends.start())
    if wrong == "one":
        vectors[..., 0] = 1.0
    for column, bound in zip(columns.T, np.sqrt(ends.bounds(inverse, vectors)), strict=True):
        assert largest(exchanged(column), kernel, inverse) * (1 - ORACLE) <= bound
