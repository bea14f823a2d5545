"""Optimized slopes and branch and bound, against exact minima over all pieces of tiny networks."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deel_lip_tf import verify
from deel_lip_tf.layers import GroupSort2
from deel_lip_tf.verify.methods import domains_and_intervals
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation import alpha_beta
from deel_lip_tf.verify.propagation.coefficients import Dense
from deel_lip_tf.verify.propagation.concretize import DomainTensors
from deel_lip_tf.verify.propagation.interval import Interval
from deel_lip_tf.verify.search import branch_and_bound, subdomains
from deel_lip_tf.verify.tensorflow import evaluate

linprog = pytest.importorskip("scipy.optimize").linprog

EXACT = 1e-6
"""What a bound may lack where nothing is left to split: the optimization stops somewhere."""


def two_slopes(left):
    """Pieces of an activation with a breakpoint at 0: `(matrix, constraints >= 0)` of a layer."""

    def pieces(size):
        for mask in itertools.product([0.0, 1.0], repeat=size):
            side = np.array(mask)
            yield np.diag(np.where(side, 1.0, left)), np.diag(2.0 * side - 1.0)

    return pieces


def sorted_pairs(size):
    """The pieces of a layer that sorts pairs: each is as it was, or exchanged."""
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    for pattern in itertools.product([np.eye(2), swap], repeat=size // 2):
        matrix = np.zeros((size, size))
        for i, block in enumerate(pattern):
            matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
        yield matrix, (matrix[1::2] - matrix[::2])


# Name, activation, its pieces, widths.
NETWORKS = {
    "relu": (lambda: layers.ReLU(dtype="float64"), two_slopes(0.0), (3, 3, 3, 2)),
    "concave": (
        lambda: layers.PReLU(keras.initializers.Constant(2.0), dtype="float64"),
        two_slopes(2.0),
        (2, 3, 3, 2),
    ),
    "sorted": (lambda: GroupSort2(dtype="float64"), sorted_pairs, (2, 6, 4, 2)),
}
ROWS = np.array([[1.0, -1.0], [-0.5, 2.0], [-1.0, 1.0]])
EPS = np.array([0.02, 0.3, 1.0])


def network(name, seed=0):
    """The model of a name, and its matrices (outputs, inputs) and biases."""
    activation, _, widths = NETWORKS[name]
    rng = np.random.default_rng(seed)
    dense = [layers.Dense(width, dtype="float64") for width in widths[1:]]
    stack = [layer for pair in ((d, activation()) for d in dense) for layer in pair][:-1]
    model = keras.Sequential([keras.Input((widths[0],), dtype="float64"), *stack])
    for layer in dense:
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return model, [(layer.kernel.numpy().T, layer.bias.numpy()) for layer in dense]


def exact_minimum(parts, pieces, row, low, high):
    """The smallest `row . f` on a box: a linear program for each combination of pieces."""
    best = np.inf
    for chosen in itertools.product(*(list(pieces(len(bias))) for _, bias in parts[:-1])):
        matrix, offset, limits = np.eye(len(low)), np.zeros(len(low)), []
        for (kernel, bias), (piece, constraint) in zip(parts[:-1], chosen, strict=True):
            matrix, offset = kernel @ matrix, kernel @ offset + bias
            limits.append((-constraint @ matrix, constraint @ offset))
            matrix, offset = piece @ matrix, piece @ offset
        kernel, bias = parts[-1]
        rows, ends = (np.concatenate(part) for part in zip(*limits, strict=True))
        box = list(zip(low, high, strict=True))
        found = linprog(row @ kernel @ matrix, rows, ends, bounds=box)
        if found.status == 0:
            best = min(best, found.fun + row @ (kernel @ offset + bias))
    return best


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request):
    """A network, boxes of several sizes around one point, and the exact minima of `ROWS`."""
    model, parts = network(request.param)
    x = np.random.default_rng(1).normal(size=(1, model.input_shape[1])).repeat(len(EPS), axis=0)
    domain = verify.ball(x, EPS, clip=None)
    pieces = NETWORKS[request.param][1]
    boxes = zip(domain.lower, domain.upper, strict=True)
    exact = [[exact_minimum(parts, pieces, row, *box) for row in ROWS] for box in boxes]
    return model, x, domain, np.array(exact)


def branched(model, domain, **options):
    rows = np.broadcast_to(ROWS, (len(domain), *ROWS.shape))
    return branch_and_bound.branch_and_bound(program_of(model), domain, rows, **options)


@pytest.mark.slow
def test_branch_and_bound_reaches_the_exact_minimum_and_never_more(case):
    model, _, domain, exact = case
    found = branched(model, domain, target=None)
    assert (found.lower <= exact + 1e-9).all()
    np.testing.assert_allclose(found.lower, exact, rtol=0, atol=EXACT)
    crown = verify.bounds(model, domain, ROWS, "crown").lower
    assert (crown < exact - 0.01).any(), "without splits the bound was exact: the test says nothing"


@pytest.mark.slow
def test_optimized_slopes_lie_between_crown_and_the_exact_minimum(case):
    model, _, domain, exact = case
    crown = verify.bounds(model, domain, ROWS, "crown").lower
    found = verify.bounds(model, domain, ROWS, "alpha-crown").lower
    assert (found >= crown - 1e-9).all()
    assert (found <= exact + 1e-9).all()
    assert (found > crown + 1e-3).any()


@pytest.mark.parametrize("limit", [None, 1e-6])
def test_answers_agree_with_the_exact_minimum(case, limit, eagerly):
    model, x, domain, exact = case
    labels = np.argmax(model.predict(x, verbose=0), axis=1)
    margins = np.where(labels == 0, exact[:, 0], exact[:, 2])
    answer = verify.prove(model, domain, labels, "branch-and-bound", time_limit=limit)
    assert (answer.margin <= margins + 1e-9).all()
    assert not (answer.status[margins < 0] == "robust").any()
    assert not (answer.status[margins > 0] == "falsified").any()
    if limit is None:
        assert (answer.status != "unknown").all()
    falsified = answer.status == "falsified"
    if falsified.any():
        replayed = model.predict(answer.witness[falsified], verbose=0).argmax(axis=1)
        assert (replayed != labels[falsified]).all()
        assert domain[falsified].contains(answer.witness[falsified]).all()


def test_any_slopes_and_multipliers_are_sound(case):
    """Numbers at random, of both signs: no point of a branch lies below its bound."""
    model, _, domain, _ = case
    program, rng, count = program_of(model), np.random.default_rng(0), 48
    domain = domain[np.full(count, len(EPS) - 1)]
    state = domains_and_intervals(program, domain)
    x = rng.uniform(domain.lower[0], domain.upper[0], size=(20000, domain.lower.shape[1]))
    nodes, values = alpha_beta.splittable_nodes(program), evaluate(program, x)
    reads = np.concatenate(
        [values[program.nodes[i].parents[0]].numpy().reshape(len(x), -1) for i in nodes], axis=1
    )
    splits = rng.choice([-1, 0, 0, 1], size=(count, reads.shape[1])).astype(np.int8)
    splits[: count // 2] = 0
    intervals = [Interval(*state[i : i + 3]) for i in range(4, len(state), 3)]
    relaxation = subdomains._branched(program, intervals, tf.constant(splits))
    rows = np.resize(ROWS, (count, 1, 2))  # each in turn
    breakpoints = alpha_beta.breakpoints_of(program, relaxation.intervals)
    subproblems = alpha_beta.Subproblems(
        DomainTensors(None, *state[:4]),
        Dense(tf.constant(rows), (2,)),
        relaxation,
        breakpoints,
    )
    # Large multipliers make loose bounds, which would hide a mistake elsewhere.
    sizes = rng.choice([0.0, 0.01, 1.0], (count, 1))
    free = alpha_beta.AlphaBeta(
        rng.uniform(size=splits.shape), sizes * rng.normal(size=splits.shape)
    )
    free = alpha_beta.AlphaBeta(*map(tf.constant, free))
    bounds = alpha_beta.evaluate(program, subproblems, free)[0].numpy()
    outputs, tried = values[program.output].numpy(), 0
    for bound, row, split in zip(bounds, rows[:, 0], splits, strict=True):
        inside = (reads * split >= 0).all(axis=1)
        tried += inside.any()
        assert (outputs[inside] @ row >= bound).all()
    assert tried > 5


def image_model():
    """A small network with all the kinds of activations that are split, and one that is not."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(2, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(4, activation="tanh"),
            layers.Dense(4),
            layers.LeakyReLU(),
            layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(3)
    for layer in model.layers:
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_graphs_for_balls_bound_as_they_do_eagerly(norm, monkeypatch):
    monkeypatch.setattr(branch_and_bound, "_LAST_STEPS", 20)
    model, _ = network("relu")
    domain = verify.ball(np.random.default_rng(0).uniform(size=(2, 3)), 0.5, norm)
    rows = np.broadcast_to(ROWS, (2, *ROWS.shape))
    graph = branch_and_bound.branch_and_bound(
        program_of(model), domain, rows, None, max_subdomains=30
    )
    tf.config.run_functions_eagerly(True)
    try:
        eager = branch_and_bound.branch_and_bound(
            program_of(model), domain, rows, None, max_subdomains=30
        )
    finally:
        tf.config.run_functions_eagerly(False)
    assert graph.subdomains == eager.subdomains
    np.testing.assert_allclose(graph.lower, eager.lower, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_point_of_a_domain_lies_below_the_bounds(norm, eagerly, monkeypatch):
    monkeypatch.setattr(branch_and_bound, "_LAST_STEPS", 20)
    model, rng = image_model(), np.random.default_rng(0)
    x = rng.uniform(size=(3, 4, 4, 1))
    domain = verify.ball(x, {"linf": 0.2, "l2": 0.6, "l1": 1.5}[norm], norm)
    rows = np.broadcast_to([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], (3, 2, 3))
    program = program_of(model)
    crown = verify.bounds(model, domain, rows, "crown").lower
    found = branch_and_bound.branch_and_bound(program, domain, rows, None, crown, max_subdomains=60)
    assert (found.lower >= crown).all()
    assert (found.lower > crown + 1e-6).any()
    for sample in range(3):
        one = domain[[sample]]
        points = rng.uniform(one.lower, one.upper, size=(4000, 4, 4, 1))
        corner = np.where(rng.uniform(size=points.shape) < 0.5, one.lower, one.upper)
        share = rng.uniform(size=(4000, 1, 1, 1)) ** 0.2
        points = np.concatenate([points, x[sample] + share * (corner - x[sample])])
        if norm != "linf":
            # Most corners are far outside the ball: what lies beyond is moved to its surface.
            away = (points - x[sample]).reshape(len(points), -1)
            length = np.linalg.norm(away, int(norm[1]), axis=1).reshape(-1, 1, 1, 1)
            share = np.minimum(1, one.radius * (1 - 1e-9) / length)
            points = x[sample] + share * (points - x[sample])
        points = points[one[np.zeros(len(points), int)].contains(points)]
        assert len(points) > 100
        values = evaluate(program, points)[program.output].numpy() @ rows[sample].T
        assert (values.min(axis=0) >= found.lower[sample]).all()


def test_without_kinks_nothing_is_split():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2)])
    domain = verify.ball(np.full((1, 3), 0.5), 0.2)
    crown = verify.bounds(model, domain, ROWS, "crown").lower
    found = branched(model, domain, target=None)
    # The same formula, compiled in another graph: the last digits may differ.
    np.testing.assert_allclose(found.lower, crown, rtol=1e-12)
    alpha = verify.bounds(model, domain, ROWS, "alpha-crown").lower
    np.testing.assert_allclose(alpha, crown, rtol=1e-12)


def test_bounds_that_are_known_are_kept_without_work():
    model, _ = network("relu")
    domain = verify.ball(np.zeros((2, 3)), 0.5, clip=None)
    known = np.array([[0.5, 1.0, 0.1], [2.0, 3.0, 0.2]])
    found = branched(model, domain, known=known)
    np.testing.assert_array_equal(found.lower, known)
    assert found.subdomains == 0
