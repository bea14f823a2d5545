"""Bounds under splits, at points and in rational numbers; their slopes against differences."""

from fractions import Fraction

import numpy as np
import pytest

from deel_lip_tf.semantics.ir.elementwise import relu
from deel_lip_tf.verify.search.inputs.bounds import Boxes, Layer
from deel_lip_tf.verify.search.inputs.network import Network
from deel_lip_tf.verify.search.signs.ascent import Ascent, Numbers, ascended
from deel_lip_tf.verify.search.signs.chain import Chain, Known, Rows, lines_of
from deel_lip_tf.verify.search.signs.tightening import Sharpening
from tests.unit.verify.search.inputs import networks
from tests.unit.verify.search.inputs.networks import values_at

PROGRAMS = {
    "dense": networks.dense((4, 10, 10, 2), seed=1),
    "deep": networks.dense((3, 6, 6, 6, 6, 2), seed=2, scale=1.5),
    "leaky": networks.dense((3, 8, 8, 2), seed=3, function=relu(0.2)),
    "residual": networks.residual(seed=4),
    "convolutional": networks.convolutional(seed=5),
    "small": networks.dense((3, 8, 8, 2), seed=6, scale=0.1),
    "large": networks.dense((3, 8, 8, 2), seed=7, scale=1e9),
}
POINTS = 2000


@pytest.fixture(autouse=True)
def overflow():
    """As in a search: what overflows proves nothing."""
    with np.errstate(all="ignore"):
        yield


def chain_of(program, radius=1.0):
    """The chain of a box around 0, its network, and two rows of the outputs."""
    size = int(np.prod(program.input_shape))
    lower, upper = np.full(size, -radius), np.full(size, 0.5 * radius)
    chain = Chain(Boxes(lower[None], upper[None]), program.roundoff)
    network = Network(program, lower, upper, chain=chain)
    weights, offsets = np.array([[1.0, -0.5], [-0.25, 1.0]]), np.array([0.1, -0.2])
    return chain, chain.rows(network.rows(weights, offsets)), network


def at_points(program, network, chain, seed=0):
    """Random points: what the neurons read there, and the values of the two rows."""
    random = np.random.default_rng(seed)
    share = random.random((POINTS, len(network.lower)))
    share[::3] = np.round(share[::3])
    x = network.lower + share * (network.upper - network.lower)
    values, reads = {-1: x}, []
    for index, layer in enumerate(network.layers):
        z = layer.bias + sum(values[s] @ m.T for s, m in layer.weights.items())
        values[index] = np.where(z > 0, z, layer.slopes * z)
        reads.append(z)
    outputs = values_at(program, x)
    rows = np.stack([outputs @ [1.0, -0.5] + 0.1, outputs @ [-0.25, 1.0] - 0.2], axis=1)
    return np.concatenate([np.zeros((POINTS, 0)), *reads], axis=1), rows


def random_part(chain, seed, each=6):
    """Random splits of a few neurons, and random numbers that are free."""
    random = np.random.default_rng(seed)
    splits = np.zeros((each, chain.neurons), np.int8)
    for row in splits[1:]:
        chosen = random.choice(chain.neurons, min(3, chain.neurons), replace=False)
        row[chosen] = random.choice([-1, 1], len(chosen))
    ends = (np.repeat(end[None], each, axis=0) for end in (chain.low, chain.high))
    alphas = random.random(splits.shape).astype(np.float32)
    betas = (random.exponential(size=splits.shape) * (splits != 0)).astype(np.float32)
    shares = random.random((each, 2)).astype(np.float32)
    return Known(*ends, splits), Numbers(alphas, betas, shares)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_point_of_a_part_is_below_its_bound(name):
    """Whatever the slopes, the multipliers and the shares; optimized ones are better."""
    program = PROGRAMS[name]
    chain, rows, network = chain_of(program)
    reads, values = at_points(program, network, chain)
    is_held = 0
    for seed in range(4):
        known, numbers = random_part(chain, seed)
        found = ascended(Ascent(chain, rows, 10), numbers, known)
        bounds = [_proven(chain, rows, known, free) for free in (numbers, found)]
        for part, splits in enumerate(known.splits):
            inside = (reads * splits >= 0).all(axis=1)
            for bound, free in zip(bounds, (numbers, found), strict=True):
                least = (values[inside] @ free.shares[part].astype(np.float64)).min(initial=np.inf)
                assert bound[part] <= least + 1e-12 * np.abs(values).max()
            is_held += inside.any()
        assert (bounds[1] >= bounds[0] - 1e-5 * np.abs(bounds[0])).all()
    assert is_held > 4


def _proven(chain, rows, known, numbers):
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float64)
    return chain.proven(rows, numbers.shares, lines)[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_intervals_hold_where_the_conjunction_does(name):
    """At every point of a part where no row is positive, a neuron reads what lies between them."""
    program = PROGRAMS[name]
    chain, rows, network = chain_of(program)
    reads, values = at_points(program, network, chain)
    known, _ = random_part(chain, seed=11, each=12)
    rows = rows._replace(constant=rows.constant - np.quantile(values, 0.4, axis=0))
    values = values - np.quantile(values, 0.4, axis=0)
    costs, sharpening = np.ones(known.low.shape), Sharpening(chain, rows)
    slack = 1e-12 * np.abs(reads).max(initial=0.0)
    # A climb begins where that of another part, and of another conjunction, has ended.
    for number, own in enumerate(([True, True], [False, False], [True, False], [True, True])):
        is_anew = number == 2
        found = sharpening.sharpened(known, costs, np.tile(own, (12, 1)), np.inf, None, is_anew)
        for part, splits in enumerate(known.splits):
            inside = (reads * splits >= 0).all(axis=1) & (values[:, own] <= 0).all(axis=1)
            assert (found.low[part] <= reads[inside] + slack).all()
            assert (found.high[part] >= reads[inside] - slack).all()
    if name in ("dense", "deep"):
        each = (np.full((12, 2), is_own) for is_own in (True, False))
        found, plain = (Sharpening(chain, rows).sharpened(known, costs, o, np.inf) for o in each)
        later = chain.neurons_of(0).stop
        widths = [(ends.high - ends.low)[:, later:].sum() for ends in (found, plain, known)]
        assert widths[0] < 0.99 * widths[1] < 0.99 * widths[2]


@pytest.mark.parametrize("name", ["dense", "leaky", "residual"])
def test_slopes_are_those_of_differences(name):
    """What goes forward is the derivative by alphas, betas and shares, in float64."""
    program = PROGRAMS[name]
    chain, rows, _ = chain_of(program)
    known, numbers = random_part(chain, seed=3)
    arrays = [part.astype(np.float64) for part in numbers.arrays]

    def bound(alphas, betas, shares):
        lines = lines_of(known, alphas, betas, np.float64)
        start = shares @ rows.matrix
        return chain.backward(start, shares @ rows.constant, lines), start, lines

    _, start, lines = bound(*arrays)
    reads, values = chain.forward(start, lines)
    bent = start[:, chain.inputs :] * (1.0 - chain.slopes)
    slopes = (
        np.maximum(bent, 0.0) * reads * (known.signs == 0),
        -known.splits * reads,
        values @ rows.matrix.T + rows.constant,
    )
    random, step = np.random.default_rng(0), 1e-7
    for number, slope in enumerate(slopes):
        direction = random.normal(size=slope.shape)
        if number == 1:
            direction *= known.splits != 0
        ends = []
        for sign in (1.0, -1.0):
            moved = [
                part + sign * step * direction if k == number else part
                for k, part in enumerate(arrays)
            ]
            ends.append(bound(*moved)[0])
        expected = (ends[0] - ends[1]) / (2.0 * step)
        np.testing.assert_allclose((slope * direction).sum(axis=1), expected, rtol=1e-4, atol=1e-5)


def test_functions_of_many_inputs_that_span_few_dimensions():
    """Passes by directions find the bounds, and the values, of passes by inputs."""
    program = networks.dense((40, 5, 12, 12, 2), seed=8)
    chain, rows, _ = chain_of(program)
    other, turned = chain.by_directions(rows)
    more = other.before - chain.before
    assert 0 < more <= 5 and other.neurons == chain.neurons
    known, numbers = random_part(chain, seed=1)
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float32)
    found = []
    for own, functions in ((chain, rows), (other, turned)):
        start = (numbers.shares @ functions.matrix).astype(np.float32)
        value = own.backward(start, (numbers.shares @ functions.constant).astype("f4"), lines)
        reads, values = own.forward(start, lines)
        found.append((value, start[:, own.before :], reads, values @ functions.matrix.T))
        chosen = own.reads(2, np.arange(3)).matrix
        found[-1] += (values @ chosen.T, own.steepness(1))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def test_functions_that_span_many_dimensions_stay():
    chain, rows, _ = chain_of(PROGRAMS["dense"])
    assert chain.by_directions(rows) == (chain, rows)


def test_splits_that_contradict_each_other_are_seen_below_any_row():
    """x_0 >= .5 and x_0 <= -.5: where rows count as much as ever, multipliers take forever."""
    bias, none = np.full(2, -0.5), np.zeros(2)
    layer = Layer({-1: np.array([[1.0, 0.0], [-1.0, 0.0]])}, bias, none, none + 1.5, none, none + 1)
    chain = Chain(Boxes(-np.ones((1, 2)), np.ones((1, 2))), 1e-14)
    chain.append(layer, none - 1.5, none + 0.5)
    rows = Rows(np.array([[0.0, 1.0, 1.0, 1.0]]), np.array([-1e6]), np.zeros(1))
    splits = np.array([[1, 1], [1, 0], [-1, -1]], np.int8)
    known = Known(*(np.repeat(end[None], 3, axis=0) for end in (chain.low, chain.high)), splits)
    free = np.zeros((3, 2), np.float32)
    numbers = Numbers(free, free.copy(), np.ones((3, 1), np.float32))
    own = np.ones((3, 1), bool)
    joint = ascended(Ascent(chain, rows, 100, own, is_joint=True), numbers, known)
    assert (_proven(chain, rows, known, joint) > 0).tolist() == [True, False, False]
    alone = ascended(Ascent(chain, rows, 100), numbers, known)
    assert (_proven(chain, rows, known, alone) < -1e5).all()


@pytest.mark.parametrize("seed", range(12))
def test_rounding_is_on_the_safe_side(seed):
    """Sums that cancel all their digits: bounds against the smallest value in rational numbers."""
    random = np.random.default_rng(seed)
    program = networks.dense((1, 6, 6, 1), seed=seed, dyadic=True)
    scales = 2.0 ** random.integers(-40, 60, 6)
    first, _, second, _, last = program.nodes[1:]
    first.bias[:] = np.round(first.bias * 2**50) + 0.25
    object.__setattr__(second.map, "matrix", second.map.matrix * scales[:, None])
    object.__setattr__(last.map, "matrix", last.map.matrix * scales[:, None])
    smallest, largest = networks.exact_extremes(program, -1, 1)
    chain = Chain(Boxes(np.array([[-1.0]]), np.array([[1.0]])), program.roundoff)
    network = Network(program, np.array([-1.0]), np.array([1.0]), chain=chain)
    rows = chain.rows(network.rows(np.array([[1.0], [-1.0]]), np.zeros(2)))
    nothing = np.zeros((2, chain.neurons), np.int8)
    ends = (np.repeat(end[None], 2, axis=0) for end in (chain.low, chain.high))
    free = Numbers(nothing.astype(np.float32), nothing.astype(np.float32), np.eye(2, dtype="f4"))
    below, above = _proven(chain, rows, Known(*ends, nothing), free)
    assert below == -np.inf or Fraction(below) <= smallest
    assert above == -np.inf or Fraction(-above) >= largest
