"""The search by signs of neurons: its answers against linear programs and rational numbers."""

import ast
import functools
import itertools
import math
import time
from fractions import Fraction
from operator import mul
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog

from deel_lip_tf.semantics.ir.elementwise import relu
from deel_lip_tf.verify.search.inputs import decide, points
from deel_lip_tf.verify.search.inputs.decide import decide_program
from deel_lip_tf.verify.search.signs import ascent, chain, tightening
from deel_lip_tf.verify.search.signs import decide as signs
from tests.unit.verify.search.inputs import networks
from tests.unit.verify.search.inputs.networks import asked, conjunction, values_at


@pytest.fixture(autouse=True)
def by_signs(monkeypatch):
    """Networks of few inputs, too, are searched by the signs of their neurons, all made tighter.

    Parts count as deep early, as those of large networks are.
    """
    monkeypatch.setattr(decide, "_FREE", 0)
    monkeypatch.setattr(signs, "BRIEF", tightening.BRIEF._replace(share=1.0))
    monkeypatch.setattr(signs, "_DEEP", 2)


@pytest.fixture
def denied(monkeypatch):
    """No point is ever accepted: what is satisfied somewhere has to stay open."""
    monkeypatch.setattr(points.Points, "witness", lambda *_: None)


def answered(program, *claims, seconds=20.0, **options):
    return decide_program(program, asked(*claims), seconds=seconds, **options)


def least(program, weights, offsets):
    """The smallest t such that some input of [-1, 1] has `weights @ outputs + offsets <= t`.

    A linear program for each pattern of signs of a dense network, in inputs and t.
    """
    affine = [(node.map.matrix.T, node.bias.ravel()) for node in program.nodes[1::2]]
    slopes = [node.function.arguments[0] for node in program.nodes[2::2]]
    size, best = affine[0][0].shape[1], np.inf
    widths = [len(bias) for _, bias in affine[:-1]]
    for pattern in itertools.product((0, 1), repeat=sum(widths)):
        matrix, constant = np.eye(size), np.zeros(size)
        a, b, active = [], [], list(pattern)
        for (kernel, bias), slope in zip(affine, [*slopes, None], strict=True):
            matrix, constant = kernel @ matrix, kernel @ constant + bias
            if slope is None:
                break
            own, active = np.array(active[: len(bias)]), active[len(bias) :]
            sign = np.where(own == 1, -1.0, 1.0)
            a.append(np.c_[sign[:, None] * matrix, np.zeros(len(bias))])
            b.append(-sign * constant)
            scale = np.where(own == 1, 1.0, slope)
            matrix, constant = scale[:, None] * matrix, scale * constant
        a.append(np.c_[weights @ matrix, -np.ones(len(weights))])
        b.append(-(weights @ constant) - offsets)
        found = linprog(
            np.r_[np.zeros(size), 1.0],
            np.concatenate(a),
            np.concatenate(b),
            bounds=[(-1, 1)] * size + [(None, None)],
        )
        if found.status == 0:
            best = min(best, found.fun)
    return best


SHAPES = [((4, 5, 2), relu()), ((3, 3, 3, 2), relu()), ((2, 2, 2, 2, 3), relu(0.1))]
BOX = [-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0]


@functools.cache
def planted(sizes, function, seed):
    """A network, one or two rows of its outputs, and the least value that all of them reach."""
    program = networks.dense(sizes, seed=seed, scale=2.0, function=function)
    random = np.random.default_rng(seed)
    weights = random.normal(size=(1 + seed % 2, sizes[-1]))
    offsets = random.normal(size=len(weights))
    return program, weights, offsets, least(program, weights, offsets)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("sizes", "function"), SHAPES, ids=["wide", "deep", "leaky"])
def test_answers_on_both_sides_of_the_least_value(sizes, function, seed):
    """Beside what linear programs of all patterns find the answer changes."""
    program, weights, offsets, value = planted(sizes, function, seed)
    box = [end[: sizes[0]] for end in BOX]
    margin = 0.01 * (1.0 + abs(value))
    beyond = conjunction(*box, weights, offsets - value + margin)
    found = answered(program, beyond)
    assert found.status == "unsat" and found.boxes > 0
    within = conjunction(*box, weights, offsets - value - 10.0 * margin)
    assert answered(program, beyond, within).status == "sat"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("sizes", "function"), SHAPES, ids=["wide", "deep", "leaky"])
def test_what_exists_is_never_denied(sizes, function, seed, denied):
    """A region that is hardly there stays open, whatever is split."""
    program, weights, offsets, value = planted(sizes, function, seed)
    box = [end[: sizes[0]] for end in BOX]
    margin = 1e-6 * (1.0 + abs(value))
    claim = conjunction(*box, weights, offsets - value - margin)
    assert answered(program, claim, seconds=1.0).status == "unknown"


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_value_in_rational_numbers(seed, denied):
    """One input: 2**-4 above it nothing is, and 2**-40 below it something."""
    program = networks.dense((1, 5, 5, 1), seed=seed, dyadic=True)
    smallest, largest = networks.exact_extremes(program, -1, 1)
    for sign, extreme in ((-1.0, largest), (1.0, -smallest)):
        beyond = conjunction([-1.0], [1.0], [[sign]], [float(extreme + Fraction(1, 2**4))])
        assert answered(program, beyond).status == "unsat"
        within = conjunction([-1.0], [1.0], [[sign]], [float(extreme - Fraction(1, 2**40))])
        assert answered(program, within, seconds=1.0).status == "unknown"


def one_side(parts):
    numbers, known = STACKED(parts)
    return numbers, known._replace(splits=np.abs(known.splits))


def no_gap(known, alphas, betas, dtype):
    lines = LINES(known, alphas, betas, dtype)
    return lines._replace(over=0.8 * lines.over)


def narrow(*arguments):
    below, above = ENDS(*arguments)
    cut = 0.1 * (above - below)
    return below + cut, above - cut


def rash(*arguments):
    known = SHARPENED(*arguments)
    return known._replace(low=np.where(known.low + known.high > 0, 0.0, known.low))


LINES, STACKED = chain.lines_of, signs._stacked
ENDS, SHARPENED = tightening._proven, tightening.Sharpening.sharpened
FAULTS = {
    "sides": [(signs, "_stacked", one_side)],
    "lines": [(module, "lines_of", no_gap) for module in (signs, tightening, ascent)],
    "intervals": [(tightening, "_proven", narrow)],
    "signs": [(tightening.Sharpening, "sharpened", rash)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bound_that_is_too_large_is_found(fault, denied, monkeypatch):
    """The tests above would fail: what exists is denied."""
    for module, name, wrong in FAULTS[fault]:
        monkeypatch.setattr(module, name, wrong)
    number = 0
    for seed in range(2):
        for sizes, function in SHAPES:
            program, weights, offsets, value = planted(sizes, function, seed)
            box = [end[: sizes[0]] for end in BOX]
            claim = conjunction(*box, weights, offsets - value - 1e-6 * (1.0 + abs(value)))
            number += answered(program, claim, seconds=1.0).status == "unsat"
    assert number > 0


@pytest.mark.parametrize("seed", range(10))
def test_weights_of_all_sizes(seed, denied):
    """Rows that are satisfied at a point stay open, whatever overflows or vanishes."""
    random = np.random.default_rng(seed)
    program = networks.dense((3, 5, 5, 2), seed=seed)
    for node in program.nodes[1::2]:
        scales = 10.0 ** random.integers(-60, 60, node.map.matrix.shape[1])
        object.__setattr__(node.map, "matrix", node.map.matrix * scales)
        object.__setattr__(node, "bias", node.bias * scales * 10.0 ** random.integers(-30, 30))
    weights = random.normal(size=(2, 2)) * 10.0 ** random.integers(-30, 30, (2, 2))
    x = random.uniform(-1.0, 1.0, 3)
    value, size = exact(program, x, weights)
    offsets = [float(-v - s * Fraction(2) ** -50) for v, s in zip(value, size, strict=True)]
    claim = conjunction([-1.0] * 3, [1.0] * 3, weights, offsets)
    assert answered(program, claim, seconds=0.2).status != "unsat"


def exact(program, x, weights):
    """Rows of the outputs at a point in rational numbers, and sums of their absolute values."""
    values = [Fraction(v) for v in x]
    sizes = [abs(v) for v in values]
    layers = [(node.map.matrix.T, node.bias.ravel()) for node in program.nodes[1::2]]
    for depth, (kernel, bias) in enumerate([*layers, (weights, np.zeros(len(weights)))]):
        rows = [[Fraction(w) for w in row] for row in kernel]
        biases = [Fraction(b) for b in bias]
        values = [sum(map(mul, row, values), b) for row, b in zip(rows, biases, strict=True)]
        rows = [[abs(w) for w in row] for row in rows]
        sizes = [sum(map(mul, row, sizes), abs(b)) for row, b in zip(rows, biases, strict=True)]
        if depth < len(layers) - 1:
            values = [max(v, Fraction(0)) for v in values]
    return values, sizes


UNDERFLOW = {"double": [1e200, *[1e-170] * 2], "float": [1e38] * 8 + [1e-38] * 9}


@pytest.mark.parametrize("inputs", (1, 30))
@pytest.mark.parametrize("scales", UNDERFLOW.values(), ids=UNDERFLOW)
@pytest.mark.parametrize("free", (0, 24), ids=["signs", "inputs"])
def test_coefficients_that_underflow(scales, inputs, free, denied, monkeypatch):
    """`relu(x - 0.1)` times factors whose product is a number, though that of the last is none."""
    monkeypatch.setattr(decide, "_FREE", free)
    program = networks.dense((inputs, *[1] * len(scales)))
    for depth, scale in enumerate(scales):
        node = program.nodes[1 + 2 * depth]
        kernel = scale * np.eye(len(node.map.matrix), 1)
        object.__setattr__(node.map, "matrix", kernel)
        object.__setattr__(node, "bias", np.array([-0.1 * scale * (depth == 0)]))
    value = math.prod(map(Fraction, scales)) * (1 - Fraction(0.1))
    box = [-1.0] * inputs, [1.0] * inputs
    claim = conjunction(*box, [[-1.0]], [float(value / 2)])
    assert answered(program, claim, seconds=0.2).status == "unknown"


def test_each_conjunction_is_closed_by_itself():
    """The one that is satisfied is found among others, of several rows and of none strict."""
    program = networks.dense((4, 8, 8, 3), seed=1)
    box, far = BOX, np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.5]])
    impossible = [conjunction(*box, far, [50.0 + k, 0.1], [False, True]) for k in range(3)]
    assert answered(program, *impossible).status == "unsat"
    center = values_at(program, np.full((1, 4), 0.25))[0]
    exists = conjunction(*box, np.array([[1.0, 0.0, 0.0]]), [-center[0] - 0.01])
    assert answered(program, *impossible, exists).status == "sat"


def test_another_search_is_thorough(monkeypatch):
    """The first one has no time beyond the whole box; the other one decides, and looks ahead."""
    monkeypatch.setattr(signs, "_DEEP", 2)
    monkeypatch.setattr(decide, "_ALONE", 0.0)
    chosen, choose = [], signs.branching_neurons
    monkeypatch.setattr(signs, "branching_neurons", lambda *a: chosen.append(a[-1]) or choose(*a))
    program, weights, offsets, value = planted(*SHAPES[0], 1)
    margin = 1e-4 * (1.0 + abs(value))
    claim = conjunction(*BOX, weights, offsets - value + margin)
    assert answered(program, claim).status == "unsat"
    assert chosen and all(chosen)


def test_the_clock_is_seen_inside_a_round(denied):
    """Many conjunctions of a network that is far from closed."""
    program = networks.dense((30, 60, 60, 60, 4), seed=1, scale=2.0)
    box = np.full(30, -1.0), np.full(30, 1.0)
    claims = [conjunction(*box, np.eye(4)[[k]], [0.0]) for k in range(4)]
    start = time.monotonic()
    assert answered(program, *claims, seconds=0.5).status == "unknown"
    assert time.monotonic() - start < 5.0


def test_its_modules_import_no_framework():
    for path in sorted(Path(signs.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {"tensorflow", "keras"}, path.name
