"""The polynomial near the inverse root, on eigenvalues that fill the interval it is made for."""

import numpy as np
import pytest

from deel_lip_tf.normalizers.polar.inverse_root import (
    KNOWN_ERROR,
    KNOWN_RADIUS,
    LARGEST_RADIUS,
    LARGEST_RADIUS_OF_LARGE,
    SLIGHTLY_LESS,
    inverse_root,
)

# Of `(I + R) p**2` from the identity; the constants of `factor` rest on it.
DISTANCE, CLOSER, CLOSER_UP_TO = 9e-5, 2e-5, 0.4


def squares(radius, center=1.0, **options):
    """The eigenvalues of `(cI + R) p(R)**2`, where those of `R` are spread over the interval.

    Of a multiple of the identity, which they are divided by.
    """
    errors = center * np.linspace(-radius, radius, 401, dtype="float32")
    polynomial = inverse_root(
        np.diag(errors),
        np.diag(errors**2),
        np.full((1, 1), center, "float32"),
        np.full((1, 1), radius, "float32"),
        **options,
    )
    exact = np.float64(center) + errors.astype("float64")
    return exact * np.square(np.diag(polynomial).astype("float64")) / SLIGHTLY_LESS**2


@pytest.mark.parametrize("center", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("options", [(False, False), (True, False), (True, True)], ids=str)
def test_it_is_as_near_as_is_said(options, center):
    is_large, is_known = options
    largest = LARGEST_RADIUS_OF_LARGE if is_large else LARGEST_RADIUS
    radii = (1e-6, 0.0395, 0.04, 0.13, 0.195, 0.2, CLOSER_UP_TO, 0.5, KNOWN_RADIUS, largest)
    for radius in [radius for radius in radii if radius <= largest]:
        found = squares(radius, center, is_large=is_large, is_known=is_known)
        limit = CLOSER if radius <= CLOSER_UP_TO else DISTANCE
        assert np.abs(found - 1).max() <= limit, radius
        if is_known and radius <= KNOWN_RADIUS:
            assert found.max() / found.min() <= (1 + KNOWN_ERROR) ** 2, radius


def test_what_is_known_ends_where_it_is_said_to():
    """The limits are not far below what they might be."""
    beyond = squares(KNOWN_RADIUS + 0.02, is_large=True, is_known=True)
    assert beyond.max() / beyond.min() > (1 + KNOWN_ERROR) ** 2
    beyond = squares(LARGEST_RADIUS_OF_LARGE + 0.02, is_large=True)
    assert np.abs(beyond - 1).max() > DISTANCE
