"""Shifted groups of channels, against their definition."""

import numpy as np
import pytest

from deel_lip_tf.estimates.singular_values import compute_layer_sv
from deel_lip_tf.layers import SpatialShift2D
from tests._oracles.oracles import matrix_of


def moved(x, shift, count, padding):
    """Entry by entry."""
    y = np.zeros_like(x)
    _, rows, columns, channels = x.shape
    for i, j, c in np.ndindex(rows, columns, channels):
        group = min(c // count, 4)
        di, dj = [(shift, 0), (-shift, 0), (0, shift), (0, -shift), (0, 0)][group]
        a, b = i - di, j - dj
        if padding == "circular":
            a, b = a % rows, b % columns
        if 0 <= a < rows and 0 <= b < columns:
            y[:, i, j, c] = x[:, a, b, c]
    return y


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize(("shift", "share", "count"), [(1, 0.25, 2), (2, 0.2, 1), (5, 0.125, 1)])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_entries_are_where_the_formula_says(padding, shift, share, count, data_format):
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 8)).astype("float32")
    layer = SpatialShift2D(shift, share, padding, data_format, k_coef_lip=2.0)
    axes = (0, 1, 2, 3) if data_format == "channels_last" else (0, 3, 1, 2)
    y = np.asarray(layer(np.transpose(x, axes)))
    np.testing.assert_array_equal(
        np.transpose(y, np.argsort(axes)), 2 * moved(x, shift, count, padding)
    )


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_singular_values(padding):
    layer = SpatialShift2D(1, 0.25, padding, k_coef_lip=0.5)
    layer.build((None, 3, 4, 5))
    values = np.linalg.svd(matrix_of(layer, (3, 4, 5)), compute_uv=False)
    assert compute_layer_sv(layer) == pytest.approx((values.min(), values.max()))


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        (dict(share=0.3), (4, 4, 8), "`share` must be above 0 and at most 1/4"),
        (dict(share=0.1), (4, 4, 8), "1 / `share` channels"),
        (dict(padding="same"), (4, 4, 8), "`padding`"),
        (dict(shift=0), (4, 4, 8), "`shift` must be an integer of at least 1"),
        ({}, (16,), "four axes"),
    ],
)
def test_what_it_cannot_do_is_refused(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        SpatialShift2D(**arguments).build((None, *shape))


@pytest.mark.parametrize("padding", ["circular", "zero"])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_export_computes_the_same(padding, shift):
    layer = SpatialShift2D(shift, 0.2, padding, k_coef_lip=0.5)
    layer.build((None, 3, 4, 6))
    exported = matrix_of(layer.vanilla_export(), (3, 4, 6))
    np.testing.assert_array_equal(exported, matrix_of(layer, (3, 4, 6)))
