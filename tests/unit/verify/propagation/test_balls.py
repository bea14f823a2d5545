"""Bounds in balls of what ReLUs read: in rational numbers, against the formula and attacks."""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.semantics.ir.program import left_slope
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.proofs import stages_of
from deel_lip_tf.verify.propagation import balls, lipschitz
from deel_lip_tf.verify.propagation.coefficients import Dense, Windows
from deel_lip_tf.verify.propagation.concretize import DomainTensors, concretize_exactly
from deel_lip_tf.verify.propagation.interval import interval
from deel_lip_tf.verify.search.branch_and_bound import branch_and_bound
from deel_lip_tf.verify.tensorflow import evaluate
from tests._tables import verify_cases

pytestmark = pytest.mark.usefixtures("eagerly")

ROUNDOFF = 1e-13


def bounds_of(c, g, left, center, radius, low, high):
    """(n,) what `in_ball` says of one row for each of n samples, given as (n, entries)."""
    c, g, center, low, high = (tf.constant(x, tf.float64) for x in (c, g, center, low, high))
    rows = (Dense(x[:, None], tuple(center.shape[1:])) for x in (c, g))
    ball = balls.Ball(center, tf.constant(np.maximum(radius, 1e-280), tf.float64))
    return balls.in_ball(*rows, left, ball, interval(low, high), ROUNDOFF).numpy()[:, 0]


# --- one row, in rational numbers -----------------------------------------------------------------

TRIPLES = ((3, 4, 5), (-5, 12, 13), (8, -15, 17), (-20, -21, 29), (1, 0, 1), (0, -1, 1), (0, 0, 1))
CENTERS = {"anywhere": (0.3, -0.2), "on the kink": (0.0, 0.0), "far from it": (1e6, -1e6)}
SCALES, RADII = (1.0, 1e30, 1e-30, 1e140, 1e-200), (0.0, 1e-12, 1.0, 1e12)


def rows(center, trials, seed=3):
    """Coefficients, centers, radii and ends of intervals, (n, 2) each and (n,)."""
    rng, factors = np.random.default_rng(seed), [(s, r) for s in SCALES for r in RADII]
    scale, radius = (np.repeat(part, trials) for part in zip(*factors, strict=True))
    radius, center = radius * scale, np.array(CENTERS[center]) * scale[:, None]
    c, g = rng.normal(size=(2, len(scale), 2)) * 10.0 ** rng.uniform(-3, 3, (2, len(scale), 2))
    g *= rng.integers(0, 2, g.shape)
    width = rng.uniform(0, 2, g.shape) * radius[:, None]
    low, high = np.minimum(center - width, -width), np.maximum(center + width, width)
    return c, g, center, radius, low, high


def value(c, g, left, z):
    """`c . f(z) - g . z` in rational numbers."""
    terms = zip(c, g, [(t if t > 0 else Fraction(left) * t) for t in z], z, strict=True)
    return sum(Fraction(a) * f - Fraction(b) * t for a, b, f, t in terms)


def smallest(c, g, left, center, radius, low, high):
    """The smallest value at points in ball and box: Pythagoras', cut at the ends of intervals.

    An entry whose interval does not have 0 inside is outside of the ball: it may be at its ends.
    """
    is_free = (low >= 0) | (high <= 0)
    found = []
    for x, y, length in TRIPLES:
        pairs = zip(center, (x, y), strict=True)
        z = [Fraction(m) + Fraction(radius) * Fraction(a, length) for m, a in pairs]
        z = [min(max(t, Fraction(a)), Fraction(b)) for t, a, b in zip(z, low, high, strict=True)]
        for ends in (low, high):
            moved = [Fraction(e) if f else t for t, e, f in zip(z, ends, is_free, strict=True)]
            found.append(value(c, g, left, moved))
    return min(found)


@pytest.mark.parametrize("left", [0.0, 0.2, -3.0])
@pytest.mark.parametrize("center", CENTERS)
def test_no_point_of_ball_and_box_is_below(center, left):
    drawn = rows(center, trials=3)
    c, g, *others = drawn
    found = bounds_of(c, g, left, *others)
    assert not np.isnan(found).any() and np.isfinite(found).mean() > 0.9
    for lowest, *row in zip(found, *drawn, strict=True):
        if lowest > -np.inf:
            assert Fraction(lowest) <= smallest(row[0], row[1], left, *row[2:])


def root(x):
    """The square root of a rational number, less by at most 1e-60 of it."""
    scale = 10**160
    return Fraction(math.isqrt(x.numerator * scale // x.denominator), 10**80)


def test_rounding_errors_are_counted():
    """A ReLU of slope 1 is linear, and its bound in a ball is the minimum: none may be above it."""
    rng, count = np.random.default_rng(0), 300
    c, g, center = rng.normal(size=(3, count, 2)) * 10.0 ** rng.uniform(-2, 2, (3, count, 2))
    radius, wide = rng.uniform(0.5, 2.0, count), np.full(center.shape, 1e5)
    found = bounds_of(c, g, 1.0, center, radius, -wide, wide)
    for lowest, *row, r in zip(found, c, g, center, radius, strict=True):
        row = [[Fraction(x) for x in part] for part in row]
        a = [x - y for x, y in zip(*row[:2], strict=True)]
        at_center = sum(x * m for x, m in zip(a, row[2], strict=True))
        exact = at_center - root(sum(x * x for x in a)) * Fraction(r)
        assert Fraction(lowest) <= exact
        assert float(exact) - lowest < 1e-5 * (1.0 + abs(lowest))


# --- the formula ----------------------------------------------------------------------------------


def formula(c, g, center, radius):
    """SDP-CROWN's bound for the best of many multipliers, around the origin of what is read."""
    v = np.geomspace(1e-3, 1e3, 2001)[:, None]
    parts = np.minimum(np.minimum(c - g - v * center, g + v * center), 0)
    squares = v[:, 0] * (radius**2 - (center**2).sum()) + (parts**2).sum(axis=1) / v[:, 0]
    return (-0.5 * squares).max()


def test_it_is_as_good_as_the_formula_and_as_the_lines():
    rng, count, size = np.random.default_rng(1), 40, 12
    c, center = rng.normal(size=(2, count, size))
    g, radius = c * rng.uniform(0, 1, c.shape), rng.uniform(0.1, 3, count)
    width = np.minimum(radius[:, None], rng.uniform(0.2, 3, c.shape))
    low, high = np.minimum(center - width, -1e-3), np.maximum(center + width, 1e-3)
    found = bounds_of(c, g, 0.0, center, radius, low, high)
    without_box = bounds_of(c, g, 0.0, center, radius, 0 * low - 1e3, 0 * high + 1e3)
    by_formula = np.array([formula(*row) for row in zip(c, g, center, radius, strict=True)])
    # A few multipliers instead of all of them.
    few = 0.01 * (1.0 + np.abs(by_formula))
    np.testing.assert_allclose(without_box, by_formula, rtol=0.02, atol=0.02)
    by_box = np.minimum(np.minimum((c - g) * high, -g * low), 0).sum(axis=1)
    assert (found >= np.maximum(by_box, without_box) - few).all()
    assert (found > np.maximum(by_box, without_box) + few).any()


def test_windows_are_as_their_dense_coefficients():
    rng, shape = np.random.default_rng(2), (5, 4, 2)
    c, g = rng.normal(size=(2, 2, 6, 3, 2, 2, 2))
    geometry = shape, (3, 2), (2, 2), (-1, 0)
    rows = [Windows(tf.constant(x), *geometry, False, False) for x in (c, g)]
    center = rng.normal(size=(2, *shape))
    read = interval(*(tf.constant(center + x) for x in (-0.7, 0.9)))
    ball = balls.Ball(tf.constant(center), tf.constant([0.5, 1.5], tf.float64))
    own = balls.in_ball(*rows, 0.1, ball, read, ROUNDOFF)
    dense = balls.in_ball(*(row.dense() for row in rows), 0.1, ball, read, ROUNDOFF)
    np.testing.assert_allclose(own, dense, rtol=1e-9, atol=1e-9)


# --- the radius of a ball -------------------------------------------------------------------------


def image(*parts):
    return keras.Sequential([keras.Input((5, 4, 2), dtype="float64"), *parts])


def dense(units, **arguments):
    return layers.Dense(units, dtype="float64", **arguments)


PREFIXES = {
    "dense": lambda: keras.Sequential(
        [keras.Input((6,), dtype="float64"), dense(5, activation="relu"), dense(4), layers.ReLU()]
    ),
    "convolutions": lambda: image(
        layers.Conv2D(3, 2, strides=2, padding="same", activation="relu", dtype="float64"),
        layers.Conv2DTranspose(2, 3, strides=2, activation="leaky_relu", dtype="float64"),
        layers.BatchNormalization(dtype="float64"),
        layers.ReLU(dtype="float64"),
    ),
    "sorting": lambda: image(
        layers.Conv2D(8, 2, dtype="float64"),
        lip.layers.GroupSort(4, dtype="float64"),
        lip.layers.FullSort(dtype="float64"),
    ),
    "reflections": lambda: image(
        layers.Conv2D(4, 2, dtype="float64"), lip.layers.Householder(dtype="float64")
    ),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_no_two_points_move_farther_apart_than_their_constant(name):
    model = PREFIXES[name]()
    verify_cases.randomize(model)
    program = lower_model(model)
    known = lipschitz.node_constants(program)
    inside = [n.parents[0] for n in program.nodes[1:] if n.parents != (0,)]
    assert set(inside) & set(known)
    rng = np.random.default_rng(4)
    x, step = rng.normal(size=(2, 4000, *program.input_shape))
    step *= 10.0 ** rng.uniform(-3, 1, (4000, *[1] * len(program.input_shape)))
    first, second = (evaluate(program, tf.constant(p)) for p in (x, x + step))
    length = np.linalg.norm(step.reshape(4000, -1), axis=1)
    for index, constant in known.items():
        moved = (second[index] - first[index]).numpy().reshape(4000, -1)
        assert (np.linalg.norm(moved, axis=1) <= constant * length * (1 + 1e-9)).all(), index
    read = [n.parents[0] for n in program.nodes if left_slope(n) is not None]
    assert set(read) <= set(known)


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 1e-200, 0.0])
def test_the_norm_of_chosen_rows(scale):
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(7, 9)) * 10.0 ** rng.uniform(-4, 1, (7, 9)) * scale
    model = keras.Sequential([keras.Input((7,), dtype="float64"), dense(9, activation="relu")])
    model.layers[0].set_weights([matrix, np.zeros(9)])
    program = lower_model(model)
    rows = lipschitz._rows_of(program, next(n.parents[0] for n in program.nodes[::-1]))
    chosen = np.array([[True] * 9, [False] * 9, [True, False, True] * 3, [True] + [False] * 8])
    found = rows.norms(tf.constant(chosen), program.roundoff).numpy()
    exact = [np.linalg.norm(matrix[:, c], 2) if c.any() else 0.0 for c in chosen]
    assert (found >= exact).all()
    assert (found <= np.array(exact) * 1.05 + 1e-6 * np.abs(matrix).max() + 1e-139).all()


# --- networks -------------------------------------------------------------------------------------


class Attack:
    """The smallest values of a row of the output that are found in L2 balls."""

    def __init__(self, program):
        def function(x, row):
            with tf.GradientTape() as tape:
                tape.watch(x)
                values = tf.linalg.matvec(evaluate(program, x)[program.output], row)
            return values, tape.gradient(values, x)

        shapes = [[None, *program.input_shape], [program.outputs]]
        specs = [tf.TensorSpec(shape, tf.float64) for shape in shapes]
        tf.config.run_functions_eagerly(False)
        self._function = tf.function(function, specs).get_concrete_function()
        tf.config.run_functions_eagerly(True)

    def __call__(self, row, domain, count=200, steps=30):
        center = np.repeat(domain.center, count, axis=0)
        radius = np.repeat(domain.radius, count)[:, None] * (1 - 1e-12)
        move = np.random.default_rng(6).normal(size=center.shape)
        best = np.full(len(center), np.inf)
        for step in range(steps):
            length = np.linalg.norm(move, axis=1, keepdims=True)
            move *= np.minimum(1.0, radius / np.maximum(length, 1e-300))
            values, slope = self._function(tf.constant(center + move), tf.constant(row))
            best, slope = np.minimum(best, values.numpy()), slope.numpy()
            slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
            move = move - 0.5 * 0.85**step * radius * slope
        return best.reshape(len(domain), count).min(axis=1)


def stack(*parts):
    model = keras.Sequential([keras.Input((5,), dtype="float64"), *parts, dense(3)])
    verify_cases.randomize(model)
    return model


NETWORKS = {
    "relu": lambda: stack(dense(8, activation="relu"), dense(7, activation="relu")),
    "leaky": lambda: stack(dense(8), layers.LeakyReLU(0.3, dtype="float64"), dense(6)),
    "maxmin": lambda: stack(
        lip.layers.SpectralDense(8, dtype="float64"),
        lip.layers.MaxMin(dtype="float64"),
        lip.layers.SpectralDense(8, dtype="float64"),
        lip.layers.GroupSort(4, dtype="float64"),
    ),
    "residual": lambda: residual(),
}


def residual():
    inputs = keras.Input((5,), dtype="float64")
    branch = dense(5, activation="relu")(dense(6, activation="relu")(inputs))
    added = layers.Add(dtype="float64")([inputs, branch])
    model = keras.Model(inputs, dense(3)(dense(6, activation="relu")(added)))
    verify_cases.randomize(model)
    return model


ROW = np.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize("name", NETWORKS)
def test_no_attack_goes_below_the_bound(name):
    program, x = lower_model(NETWORKS[name]()), np.random.default_rng(7).normal(size=(3, 5))
    attack, rows_of_output = Attack(program), np.stack([ROW, -ROW])
    for eps in (0.0, 0.3, 3.0):
        domain = verify.ball(x, eps, "l2", clip=None)
        plain, found = (
            lower_bounds(program, method, domain, rows_of_output[None])
            for method in ("crown", "sdp-crown")
        )
        reached = np.stack([attack(row, domain) for row in rows_of_output], axis=1)
        assert (found <= reached + 1e-9 * (1 + np.abs(reached))).all(), eps
        assert (found >= plain - 1e-9 * (1 + np.abs(plain))).mean() > 0.8, eps
    assert (found > plain + 0.01 * np.abs(plain)).any()


@pytest.mark.slow
def test_optimized_and_branched_bounds_know_the_balls(monkeypatch):
    """Each is above the one before it, none above what an attack finds; the last ends at it."""
    monkeypatch.setattr("deel_lip_tf.verify.propagation.alpha_beta.STEPS", 10)
    tf.config.run_functions_eagerly(False)  # many steps of one graph
    program = lower_model(NETWORKS["relu"]())
    domain = verify.ball(np.random.default_rng(7).normal(size=(3, 5)), 0.4, "l2", clip=None)
    objectives = np.broadcast_to(ROW, (3, 1, 3))
    plain, found, optimized = (
        lower_bounds(program, method, domain, objectives)[:, 0]
        for method in ("crown", "sdp-crown", "alpha-crown")
    )
    branched = branch_and_bound(program, domain, objectives, None, max_subdomains=40).lower[:, 0]
    reached = Attack(program)(ROW, domain)
    assert (plain <= found).all() and (found <= optimized).all() and (plain < optimized).all()
    assert (branched <= reached + 1e-9 * np.abs(reached)).all()
    assert (reached - branched < 0.5 * (reached - found)).all()


def test_a_ball_that_is_too_small_is_found(monkeypatch):
    program = lower_model(NETWORKS["relu"]())
    domain = verify.ball(np.random.default_rng(7).normal(size=(8, 5)), 1.0, "l2", clip=None)
    reached, true = Attack(program)(ROW, domain), balls.in_ball

    def smaller(coefficients, part, left, ball, *others):
        return true(coefficients, part, left, ball._replace(radius=0.3 * ball.radius), *others)

    monkeypatch.setattr("deel_lip_tf.verify.propagation.backward.in_ball", smaller)
    found = lower_bounds(program, "sdp-crown", domain, ROW[None, None])
    assert (found[:, 0] > reached).any()


def test_one_layer_is_never_worse_than_by_lines():
    """The lines are the same, and of their constants the better one is taken."""
    model = stack(dense(30, activation="relu"))
    domain = verify.ball(np.random.default_rng(8).normal(size=(20, 5)), 0.7, "l2", clip=None)
    objectives = np.random.default_rng(9).normal(size=(1, 6, 3))
    program = lower_model(model)
    plain, found = (lower_bounds(program, m, domain, objectives) for m in ("crown", "sdp-crown"))
    assert (found >= plain).all() and (found > plain + 0.01).mean() > 0.2


def test_on_a_box_it_is_crown():
    program = lower_model(NETWORKS["relu"]())
    for norm in ("linf", "l1"):
        domain = verify.ball(np.zeros((2, 5)), 0.5, norm, clip=None)
        plain, found = (
            lower_bounds(program, m, domain, ROW[None, None]) for m in ("crown", "sdp-crown")
        )
        np.testing.assert_array_equal(found, plain)
    assert len([key for key in program.compiled if key[0] == "bound"]) == 2


def test_weights_of_all_sizes():
    model = NETWORKS["relu"]()
    first, domain = model.layers[1].get_weights(), np.random.default_rng(10).normal(size=(4, 5))
    domain = verify.ball(domain, 0.5, "l2", clip=None)
    for scale in (1e-30, 1e30, 1e-170, 1e150, 0.0):
        model.layers[1].set_weights([scale * weight for weight in first])
        program = lower_model(model)
        (found,) = lower_bounds(program, "sdp-crown", domain, ROW[None, None]).T
        reached = Attack(program)(ROW, domain, 100, 10)
        assert not np.isnan(found).any()
        assert (found <= reached + 1e-9 * (1 + np.abs(reached))).all(), scale


def test_auto_uses_balls_in_l2_alone():
    program = lower_model(NETWORKS["relu"]())
    assert "sdp-crown" in stages_of(program, "auto", "l2")
    assert "sdp-crown" not in stages_of(program, "auto", "l1")
    smooth = lower_model(stack(dense(4, activation="tanh")))
    assert "sdp-crown" not in stages_of(smooth, "auto", "l2")


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("scale", [1.0, 1e-100, 1e-170])
@pytest.mark.parametrize("radius", [0.5, 100.0])
def test_rows_whose_squares_underflow_fall_as_far_as_others(norm, scale, radius, rng):
    """Judged by points of the ball that is cut to the box."""
    row, center = np.array([1.0, -2.0, 0.5]) * scale, np.array([0.25, 0.5, -0.75])
    moves = rng.normal(size=(2000, 3)) ** 3
    lengths = np.linalg.norm(moves, 2 if norm == "l2" else 1, axis=1, keepdims=True)
    points = np.clip(center + radius * moves / lengths, -1.0, 1.0)
    ends = [tf.constant(np.full((1, 3), end)) for end in (-1.0, 1.0)]
    ball = tf.constant(center[None]), tf.constant([radius], tf.float64)
    coefficients = Dense(tf.constant(row[None, None]), (3,))
    found = concretize_exactly(coefficients, DomainTensors(norm, *ends, *ball), 2.0**-50)
    reached = (points @ row).min()
    assert 2.0 * reached < found.numpy().item() <= reached < 0.0
