"""Bounds of gradients and of differences, against difference quotients of the models themselves."""

import itertools
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.semantics.ir import elementwise
from deel_lip_tf.semantics.ir.elementwise import Function
from deel_lip_tf.verify import ball, box
from deel_lip_tf.verify.activations import DERIVATIVES, FORMULAS, activation_of, derivative_of
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation.gradients import (
    are_alike,
    difference_bounds,
    gradient_bounds,
)
from deel_lip_tf.verify.propagation.steepness import Derivative, Piece
from deel_lip_tf.verify.properties.gradients import gradients_on, node_intervals
from tests._tables import verify_cases

# TensorFlow runs convolutions of volumes in groups only where they are compiled.
ROWS = [
    row
    for row in verify_cases.DISTINCT
    if row.written is None and row.name != "Conv3D(filters=4,kernel_size=2,groups=2)"
]
ROUNDING = 1e-8  # of quotients of float64 outputs over steps of at least 1e-6
POINTS = 6


def quotients(model, domain, share):
    """(points, n, inputs, outputs) of differences along each axis, NaN where a step is too small.

    A step goes the given share of the way to another point of the domain.
    """
    shape, size = domain.lower.shape[1:], domain.lower[0].size
    x, other = (verify_cases.points(domain, POINTS, seed=seed) for seed in (1, 2))
    x, other = (p.reshape(*p.shape[:2], size) for p in (x, other))
    start = np.repeat(x[:, :, None], size, axis=2)
    axes = np.arange(size)
    end = start.copy()
    end[:, :, axes, axes] += share * (other - x)
    values = [
        np.asarray(model(p.reshape(-1, *shape), training=False)).reshape(*p.shape[:3], -1)
        for p in (start, end)
    ]
    step = (end - start)[:, :, axes, axes][..., None]
    with np.errstate(all="ignore"):
        return np.where(abs(step) > 1e-6, (values[1] - values[0]) / step, np.nan)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_no_quotient_leaves_the_bounds_of_the_gradient(row, eagerly):
    model, domain = verify_cases.with_head(row), verify_cases.domains(row.shape)["box"]
    program = program_of(model)
    lower, upper = gradients_on(program, domain, np.eye(3)[None], "ibp")
    flat = (len(domain), 3, -1)
    lower, upper = (end.reshape(flat).transpose(0, 2, 1) for end in (lower, upper))
    for share in (1.0, 1e-3):
        found = quotients(model, domain, share)
        slack = ROUNDING * (1.0 + np.nanmax(abs(found)))
        assert not (found < lower - slack).any()
        assert not (found > upper + slack).any()
    assert np.isfinite(lower).all() and np.isfinite(upper).all()


def test_bounds_that_are_too_narrow_are_found(eagerly):
    """The test above fails where a slope is taken for that of the middle."""
    row = verify_cases.layer(layers.Dense, (6,), units=6, activation="relu")
    model, domain = verify_cases.with_head(row), verify_cases.domains(row.shape)["box"]
    middle = box(domain.center, domain.center)
    lower, upper = gradients_on(program_of(model), middle, np.eye(3)[None], "ibp")
    lower, upper = (end.transpose(0, 2, 1) for end in (lower, upper))
    found = quotients(model, domain, 1.0)
    assert (found < lower - 1e-6).any() or (found > upper + 1e-6).any()


def masks(pieces):
    return itertools.product((0.0, 1.0), repeat=pieces)


def test_a_network_of_one_layer_has_exact_bounds(eagerly):
    """Of `w2 relu(w1 x)` with all signs open, each entry of the gradient is a sum over subsets."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 4)), rng.normal(size=(4, 1))
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="float64"),
            layers.Dense(4, "relu", use_bias=False, dtype="float64"),
            layers.Dense(1, use_bias=False, dtype="float64"),
        ]
    )
    model.set_weights([first, second])
    domain = box([[-1.0, -1.0]], [[1.0, 1.0]])
    lower, upper = gradients_on(program_of(model), domain, np.eye(1)[None])
    for feature in range(2):
        terms = first[feature] * second[:, 0]
        sums = [sum(m * t for m, t in zip(mask, terms, strict=True)) for mask in masks(4)]
        np.testing.assert_allclose(lower[0, 0, feature], min(sums), rtol=1e-12)
        np.testing.assert_allclose(upper[0, 0, feature], max(sums), rtol=1e-12)
        assert lower[0, 0, feature] <= min(sums) and upper[0, 0, feature] >= max(sums)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_bounds_hold_in_rational_arithmetic(scale, eagerly):
    """A linear network of many numbers that cancel: its gradient is known to the last digit."""
    rng = np.random.default_rng(5)
    weights = [
        rng.normal(size=(3, 40)) * scale,
        rng.normal(size=(40, 40)),
        rng.normal(size=(40, 2)),
    ]
    weights[1][:, 20:] = -weights[1][:, :20] * (1.0 + 2.0**-40)
    weights[2][20:] = weights[2][:20]
    model = keras.Sequential([keras.Input((3,), dtype="float64")])
    for matrix in weights:
        model.add(layers.Dense(matrix.shape[1], use_bias=False, dtype="float64"))
    model.set_weights(weights)
    domain = box(np.zeros((1, 3)), np.zeros((1, 3)))
    lower, upper = gradients_on(program_of(model), domain, np.eye(2)[None], "ibp")
    exact = [[Fraction(float(w)) for w in row] for row in weights[0]]
    for matrix in weights[1:]:
        columns = [[Fraction(float(w)) for w in column] for column in matrix.T]
        exact = [
            [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns]
            for row in exact
        ]
    for feature, output in itertools.product(range(3), range(2)):
        assert Fraction(lower[0, output, feature]) <= exact[feature][output]
        assert Fraction(upper[0, output, feature]) >= exact[feature][output]


@pytest.mark.parametrize("smallest", [1e-200, 5e-324])
def test_what_might_underflow_is_not_known(smallest, eagerly):
    """The product of two such weights is negative, and 0 in float64."""
    model = keras.Sequential([keras.Input((1,), dtype="float64")])
    for weight in (smallest, -smallest):
        dense = layers.Dense(1, "relu", use_bias=False, dtype="float64")
        model.add(dense)
        dense.set_weights([np.array([[weight]])])
    domain = box([[0.0]], [[1.0]])
    lower, _ = gradients_on(program_of(model), domain, np.ones((1, 1, 1)), "ibp")
    assert lower[0, 0, 0] < 0


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_derivatives_hold_between_any_two_points(name):
    """Chords, and short ones near the ends of pieces, where slopes jump."""
    functions = {
        "relu": [elementwise.relu(), elementwise.relu(0.2), elementwise.relu(0.0, 6.0)],
        "prelu": [elementwise.prelu(np.array([0.25])), elementwise.prelu(np.array([-1.5]))],
        "clip": [elementwise.clip(-1.0, 2.0)],
        "soft_shrink": [elementwise.soft_shrink(0.5)],
        "celu": [elementwise.celu(0.5), elementwise.celu(2.0)],
        "squareplus": [elementwise.squareplus(0.0), elementwise.squareplus(4.0)],
        "elu": [elementwise.elu(), elementwise.selu(), elementwise.elu(-1.0)],
        "gelu": [elementwise.gelu(), elementwise.gelu(True)],
    }
    assert set(DERIVATIVES) == set(FORMULAS)
    rng = np.random.default_rng(0)
    for function in functions.get(name, [Function(name)]):
        value = activation_of(function).value
        width = 10.0 ** rng.uniform(-3, 1, 4000)
        low = rng.uniform(-8, 8, 4000) * rng.choice([0.0, 0.25, 1.0], 4000)
        high = low + width
        smallest, largest = derivative_of(function).on(low[None], high[None])
        for _ in range(20):
            ends = np.sort(low + width * rng.uniform(size=(2, 4000)), axis=0)
            step = np.maximum(ends[1] - ends[0], 1e-9)
            slope = (np.asarray(value(ends[1])) - np.asarray(value(ends[0]))) / step
            error = 1e-14 * (1.0 + abs(np.asarray(value(ends[1])))) / step
            is_long = ends[1] - ends[0] > 1e-6
            assert (slope >= smallest[0] - error)[is_long].all()
            assert (slope <= largest[0] + error)[is_long].all()


def test_slopes_of_a_point_and_of_one_side(eagerly):
    on = derivative_of(elementwise.relu()).on
    low, high = np.array([[0.0, 0.0, -1.0, 1.0, np.nan]]), np.array([[0.0, 1.0, 0.0, 2.0, 1.0]])
    smallest, largest = on(low, high)
    assert smallest[0, :4].tolist() == [0.0, 1.0, 0.0, 1.0] and smallest[0, 4] == -np.inf
    assert largest[0, :4].tolist() == [1.0, 1.0, 0.0, 1.0] and largest[0, 4] == np.inf


def pair_of(*parts, seed=0, noise=1e-2):
    """A model in float64 and the same with other weights."""
    keras.utils.set_random_seed(seed)
    first = keras.Sequential([keras.Input((4, 4, 2), dtype="float64"), *parts])
    second = keras.models.clone_model(first)
    rng = np.random.default_rng(seed)
    first.set_weights([w + 0.1 * rng.normal(size=w.shape) for w in first.get_weights()])
    moved = [w + noise * rng.normal(size=w.shape) for w in first.get_weights()]
    second.set_weights(moved)
    return first, second


def plain(cls, *arguments, **options):
    return cls(*arguments, dtype="float64", **options)


PAIRS = {
    "convolutional": lambda: pair_of(
        plain(layers.Conv2D, 3, 3, activation="relu"),
        plain(layers.MaxPooling2D),
        plain(layers.Flatten),
        plain(layers.Dense, 3),
    ),
    "smooth": lambda: pair_of(
        plain(layers.Flatten),
        plain(layers.Dense, 6, activation="tanh"),
        plain(layers.Dense, 6, activation="gelu"),
        plain(layers.Dense, 2),
    ),
    "sorting": lambda: pair_of(
        plain(layers.Flatten),
        plain(layers.Dense, 8),
        plain(lip.layers.GroupSort, n=4),
        plain(layers.Dense, 8),
        plain(lip.layers.MaxMin),
        plain(layers.Dense, 2),
    ),
    "normalized": lambda: pair_of(
        plain(lip.layers.LayerCentering),
        plain(layers.Flatten),
        plain(layers.Dense, 6, activation="relu"),
        plain(layers.Dense, 2),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_no_difference_leaves_its_bounds(name, eagerly):
    first, second = PAIRS[name]()
    programs = [program_of(model) for model in (first, second)]
    assert are_alike(*programs)
    domain = ball(np.random.default_rng(1).uniform(size=(3, 4, 4, 2)), 0.05)
    intervals = tuple(node_intervals(program, domain, "crown") for program in programs)
    count = programs[0].outputs
    lower, upper = difference_bounds(*programs, intervals, np.eye(count)[None])
    x = verify_cases.points(domain, 400)
    flat = x.reshape(-1, *x.shape[2:])
    values = [np.asarray(model(flat)).reshape(*x.shape[:2], -1) for model in (first, second)]
    found = values[1] - values[0]
    assert (found >= lower - 1e-12).all() and (found <= upper + 1e-12).all()
    # They say something: wider than what was found by less than the weights differ.
    assert (upper - lower).max() < 2.0
    same = difference_bounds(programs[0], programs[0], (intervals[0],) * 2, np.eye(count)[None])
    assert not same[0].any() and not same[1].any()


def test_programs_of_other_structure_are_not_alike(eagerly):
    parts = [
        [plain(layers.Flatten), plain(layers.Dense, 2, activation=a)] for a in ("relu", "tanh")
    ]
    models = [keras.Sequential([keras.Input((2, 2), dtype="float64"), *one]) for one in parts]
    assert not are_alike(*(program_of(model) for model in models))
    deeper = keras.Sequential([models[0], plain(layers.Dense, 2)])
    deeper.build((None, 2, 2))
    assert not are_alike(program_of(models[0]), program_of(deeper))


def test_an_interval_without_end_is_no_number(eagerly):
    """What overflows is unbounded, and not a gradient."""
    model = keras.Sequential([keras.Input((1,), dtype="float64")])
    for _ in range(2):
        model.add(layers.Dense(1, use_bias=False, dtype="float64"))
    model.set_weights([np.full((1, 1), 1e200)] * 2)
    program = program_of(model)
    nodes = [(np.zeros((1, *n.shape)),) * 2 for n in program.nodes]
    lower, upper = gradient_bounds(program, nodes, np.ones((1, 1, 1)))
    assert (lower.item(), upper.item()) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    ("ends", "slopes"),
    [((0.0, 0.0), (0, 1)), ((-1.0, 0.0), (0, 0)), ((0.0, 1.0), (1, 1)), ((-1.0, 1.0), (0, 1))],
)
def test_a_point_where_pieces_meet_has_the_slopes_of_both(ends, slopes):
    """An interval that meets a piece in one point alone has those of the piece beside it."""
    relu = Derivative((Piece(-np.inf, 0.0, 0.0), Piece(0.0, np.inf, 1.0)))
    assert relu.on(*(np.array([end]) for end in ends)) == slopes
