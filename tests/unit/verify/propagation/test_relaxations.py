"""Lines of activations, against the functions in NumPy."""

import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf.semantics.functions import FUNCTIONS
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.elementwise import gelu
from deel_lip_tf.verify.activations import activation_of
from deel_lip_tf.verify.propagation.relaxations import (
    image,
    lines,
    norm_image,
    norm_lines,
    offsets,
)

erfc = np.vectorize(math.erfc)


def sigmoid(x):
    return np.where(
        x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
    )


def elu(x, alpha=1.0, scale=1.0):
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky(slope):
    return lambda x: np.where(x > 0, x, slope * x)


def tanh_gelu(x):
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + float(np.float32(0.044715)) * x**3))


def keras_function(name):
    return next(row.function for one, row in FUNCTIONS.items() if one.__name__ == name)


CASES = {
    "relu": (elementwise.relu(), leaky(0.0)),
    "relu6": (keras_function("relu6"), lambda x: np.clip(x, 0, 6)),
    "capped leaky relu": (
        elementwise.relu(0.3, 2.0),
        lambda x: np.clip(x, 0, 2) + 0.3 * np.minimum(x, 0),
    ),
    "leaky_relu": (elementwise.relu(0.25), leaky(0.25)),
    "steep leaky_relu": (elementwise.relu(2.5), leaky(2.5)),
    "abs": (elementwise.relu(-1.0), np.abs),
    "prelu": (elementwise.prelu(np.array([-1.5])), leaky(-1.5)),
    "elu": (keras_function("elu"), elu),
    "elu of 2": (elementwise.elu(2.0), lambda x: elu(x, 2.0)),
    "elu of -1": (elementwise.elu(-1.0), lambda x: elu(x, -1.0)),
    "selu": (
        keras_function("selu"),
        lambda x: elu(x, 1.6732632423543772848, 1.0507009873554804934),
    ),
    "gelu": (gelu(), lambda x: 0.5 * x * erfc(-x * float(np.float32(math.sqrt(0.5))))),
    "gelu with tanh": (gelu(approximate=True), tanh_gelu),
    "silu": (keras_function("silu"), lambda x: x * sigmoid(x)),
    "sigmoid": (keras_function("sigmoid"), sigmoid),
    "tanh": (keras_function("tanh"), np.tanh),
    "softplus": (keras_function("softplus"), lambda x: np.logaddexp(x, 0)),
    "softsign": (keras_function("softsign"), lambda x: x / (1 + np.abs(x))),
    "exponential": (keras_function("exponential"), np.exp),
    "hard_sigmoid": (keras_function("hard_sigmoid"), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
}
CASES |= {
    "clip": (elementwise.clip(-0.4, 1.3), lambda x: np.clip(x, -0.4, 1.3)),
    "hard_tanh": (keras_function("hard_tanh"), lambda x: np.clip(x, -1, 1)),
    "soft_shrink": (
        keras_function("soft_shrink"),
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    ),
    "soft_shrink of 0": (elementwise.soft_shrink(0.0), lambda x: x),
    "sparse_sigmoid": (keras_function("sparse_sigmoid"), lambda x: np.clip((x + 1) / 2, 0, 1)),
    "sparse_plus": (
        keras_function("sparse_plus"),
        lambda x: np.where(x >= 1, x, np.where(x > -1, (x + 1) ** 2 / 4, 0)),
    ),
    "hard_silu": (keras_function("hard_silu"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "celu": (keras_function("celu"), elu),
    "celu of 0.3": (
        elementwise.celu(0.3),
        lambda x: np.where(x > 0, x, 0.3 * np.expm1(np.minimum(x, 0) / 0.3)),
    ),
    "squareplus": (keras_function("squareplus"), lambda x: (x + np.sqrt(x**2 + 4)) / 2),
    "squareplus of 0": (elementwise.squareplus(0.0), leaky(0.0)),
    "squareplus of 0.01": (elementwise.squareplus(0.01), lambda x: (x + np.sqrt(x**2 + 0.01)) / 2),
    "log_sigmoid": (keras_function("log_sigmoid"), lambda x: -np.logaddexp(-x, 0)),
    "tanh_shrink": (keras_function("tanh_shrink"), lambda x: x - np.tanh(x)),
    "mish": (keras_function("mish"), lambda x: x * np.tanh(np.logaddexp(x, 0))),
}
CASES = {name: (activation_of(one), function) for name, (one, function) in CASES.items()}
everywhere = pytest.mark.parametrize("name", list(CASES))


def intervals(count=300, seed=0):
    """Intervals of all sizes, on both sides of 0 and around it, points among them."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-6, 1.3, (count, 2))
    ends = np.sort(scale * rng.choice([-1.0, 1.0], (count, 2)), axis=1)
    ends[:10, 1] = ends[:10, 0]
    ends[10:20] = [[-0.0, 0.0]] * 3 + [[-1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]] + [[-30.0, 30.0]] * 4
    return ends[:, 0], ends[:, 1]


def inside(low, high, count=400):
    """(count, intervals) points, both ends among them."""
    share = np.linspace(0.0, 1.0, count)[:, None]
    return np.clip(low + share * (high - low), low, high)


def numpy(tensors):
    return [np.asarray(tensor) for tensor in tensors]


@everywhere
def test_the_lines_hold_the_function(name):
    activation, function = CASES[name]
    low, high = intervals()
    below, down, above, up = numpy(lines(activation, tf.constant(low), tf.constant(high)))
    x = inside(low, high)
    y = function(x)
    assert (below * x + down <= y).all()
    assert (above * x + up >= y).all()


@everywhere
def test_any_slope_has_sound_offsets_that_touch(name):
    activation, function = CASES[name]
    low, high = intervals(200, seed=1)
    slope = np.random.default_rng(2).normal(size=low.shape)
    down, up = numpy(offsets(activation, tf.constant(low), tf.constant(high), slope, slope))
    x = inside(low, high, 4001)
    gap = function(x) - slope * x
    assert (down <= gap).all() and (up >= gap).all()
    # The samples miss the exact extremes by a part of what they span.
    missed = 1e-2 * np.ptp(gap, axis=0) + 1e-9 * (1 + np.abs(gap).max(axis=0))
    assert (gap.min(axis=0) - down <= missed).all() and (up - gap.max(axis=0) <= missed).all()


@pytest.mark.parametrize("high", [1e-3, 0.1, 8.0])
def test_offsets_of_steep_lines_are_exact_numbers_on_the_right_side(high):
    """In rational numbers: products with a slope are rounded, where the function itself is 0."""
    low = -(10.0 ** np.random.default_rng(0).uniform(-2, 6, 300))
    slope = np.random.default_rng(1).normal(size=300)
    ends = tf.constant(low), tf.constant(np.full(300, high))
    down, up = numpy(offsets(activation_of(elementwise.relu()), *ends, slope, slope))
    for point in (low, np.zeros(300), np.full(300, high)):
        exact = [
            Fraction(max(x, 0.0)) - Fraction(s) * Fraction(x)
            for x, s in zip(point, slope, strict=True)
        ]
        assert all(Fraction(x) <= y for x, y in zip(down, exact, strict=True))
        assert all(Fraction(x) >= y for x, y in zip(up, exact, strict=True))


@everywhere
def test_the_image_is_that_of_the_function(name):
    activation, function = CASES[name]
    low, high = intervals(seed=3)
    smallest, largest = numpy(image(activation, tf.constant(low), tf.constant(high)))
    y = function(inside(low, high))
    assert (smallest <= y).all() and (largest >= y).all()


@everywhere
def test_no_parallel_or_tangent_line_is_closer(name):
    """In the middle, no sound line of another slope is closer than the one chosen, nearly."""
    activation, function = CASES[name]
    low, high = intervals(60, seed=4)
    low, high = np.maximum(low, -10.0), np.minimum(high, 10.0)
    low, high = np.minimum(low, high), np.maximum(low, high)
    middle, x = 0.5 * (low + high), inside(low, high, 801)
    y = function(x)
    below, down, above, up = numpy(lines(activation, tf.constant(low), tf.constant(high)))
    height = np.ptp(y, axis=0) + 1e-9
    for position in range(0, 801, 50):
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.nan_to_num((y[position] - y[400]) / (x[position] - middle))
        best = (y - slope * (x - middle)).max(axis=0)
        assert (above * middle + up <= best + 0.02 * height).all()
        best = (y - slope * (x - middle)).min(axis=0)
        assert (below * middle + down >= best - 0.02 * height).all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, 3.0, (1, 0, 1, 0)),
        (-3.0, -1.0, (0, 0, 0, 0)),
        (-1.0, 3.0, (1, 0, 0.75, 0.75)),
        (-3.0, 1.0, (0, 0, 0.25, 0.75)),
    ],
)
def test_relu_has_the_lines_of_the_textbook(low, high, expected):
    found = lines(
        activation_of(elementwise.relu()),
        tf.constant([low], tf.float64),
        tf.constant([high], tf.float64),
    )
    np.testing.assert_allclose([float(part[0]) for part in found], expected, atol=1e-12)


@everywhere
@pytest.mark.parametrize("ends", [(-np.inf, np.inf), (-np.inf, 2.0), (-1.0, np.inf)])
def test_infinite_intervals_are_bounded_by_the_range(name, ends):
    activation, function = CASES[name]
    low, high = (tf.constant([end], tf.float64) for end in ends)
    below, down, above, up = (float(part[0]) for part in lines(activation, low, high))
    y = function(np.linspace(max(ends[0], -60.0), min(ends[1], 60.0), 10001))
    assert below == above == 0.0
    assert down <= y.min() and up >= y.max()


@everywhere
def test_huge_intervals_give_no_nan(name):
    activation, _ = CASES[name]
    ends = (
        tf.constant([-1e300, -800.0, 700.0], tf.float64),
        tf.constant([1e300, 800.0, 900.0], tf.float64),
    )
    for part in lines(activation, *ends):
        assert not np.isnan(part).any()


def test_norms_lie_between_their_lines():
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(size=(200, 3, 2)) * 10.0 ** rng.uniform(-4, 2, (200, 1, 1)), axis=-1)
    ends[:5] = 0.0
    ends[5:10, :, 0] = ends[5:10, :, 1]
    low, high = ends[..., 0], ends[..., 1]
    below, down, above, up = numpy(norm_lines(tf.constant(low), tf.constant(high)))
    smallest, largest = numpy(norm_image(tf.constant(low), tf.constant(high)))
    share = rng.uniform(size=(2000, 200, 3))
    share[:500] = np.round(share[:500])
    x = low + share * (high - low)
    y = np.linalg.norm(x, axis=-1)
    assert ((below * x).sum(-1) + down <= y * (1 + 1e-12)).all()
    assert ((above * x).sum(-1) + up >= y * (1 - 1e-12)).all()
    assert (smallest <= y * (1 + 1e-12)).all() and (largest >= y * (1 - 1e-12)).all()


@pytest.mark.parametrize("scale", [2.6e-162, 1e-161, 1e-155, 1e-100, 1.0])
def test_norms_whose_squares_underflow(scale):
    """Exactly: the line below has a gradient of norm 1 at most, and the image holds the norm."""
    for direction in ([1.0, 1.0], [3.0, 4.0], [1.0, -0.7], [0.0, 1.0]):
        point = scale * np.array([direction])
        gradient = numpy(norm_lines(tf.constant(point), tf.constant(point)))[0][0]
        assert sum(Fraction(float(g)) ** 2 for g in gradient) <= 1
        smallest, largest = numpy(norm_image(tf.constant(point), tf.constant(point)))
        square = sum(Fraction(float(entry)) ** 2 for entry in point[0])
        assert Fraction(float(smallest[0])) ** 2 <= square <= Fraction(float(largest[0])) ** 2
