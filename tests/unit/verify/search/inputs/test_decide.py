"""Input splitting in NumPy: its answers against brute force, rational numbers and known answers."""

import ast
import csv
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deel_lip_tf.semantics.ir.elementwise import Function, relu
from deel_lip_tf.semantics.ir.primitives import MatMul
from deel_lip_tf.semantics.ir.program import Builder
from deel_lip_tf.verify.search.inputs import bounds, decide, points, refutation
from deel_lip_tf.verify.search.inputs.decide import decide_program
from deel_lip_tf.verify.search.inputs.network import Network
from tests.unit.verify.search.inputs import networks
from tests.unit.verify.search.inputs.networks import asked, conjunction, values_at

PROGRAMS = {
    "dense": networks.dense((3, 12, 12, 2), seed=1),
    "deep": networks.dense((2, 8, 8, 8, 8, 2), seed=2, scale=1.5),
    "leaky": networks.dense((3, 10, 10, 2), seed=3, function=relu(0.2)),
    "residual": networks.residual(seed=4),
    "convolutional": networks.convolutional(seed=5),
}


def in_float32(program):
    return lambda x: values_at(program, x.astype(np.float64)).astype(np.float32)


def grid(size, count):
    line = np.linspace(-1.0, 1.0, count)
    return np.stack(np.meshgrid(*[line] * size, indexing="ij"), -1).reshape(-1, size)


def answered(program, *conjunctions, **options):
    options = {"seconds": 20.0, "run": in_float32(program), **options}
    return decide_program(program, asked(*conjunctions), **options)


def replays(verdict, claim, program):
    outputs = in_float32(program)(verdict.witness[None])[0]
    assert verdict.witness.dtype == np.float32
    np.testing.assert_array_equal(outputs, verdict.outputs)
    return claim.holds(verdict.witness, outputs)


@pytest.mark.parametrize("name", PROGRAMS)
def test_answers_on_both_sides_of_the_largest_value(name):
    """Just below what a grid reaches there is an input, and where "unsat" is said there is none."""
    program = PROGRAMS[name]
    size = int(np.prod(program.input_shape))
    values = values_at(program, grid(size, {2: 401, 3: 41, 4: 17}[size]))[:, 0]
    reached, spread = values.max(), values.max() - values.min()
    box = [-1.0] * size, [1.0] * size
    below = conjunction(*box, [[-1.0, 0.0]], [reached - 1e-3 * spread])
    found = answered(program, below)
    assert found.status == "sat" and replays(found, below, program)
    above = answered(program, conjunction(*box, [[-1.0, 0.0]], [reached + 0.05 * spread]))
    assert above.status == "unsat" and above.witness is None


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_value_in_rational_numbers(seed):
    """One input: between 2**-30 above it and 2**-20 below it the answer changes."""
    program = networks.dense((1, 5, 5, 1), seed=seed, dyadic=True)
    smallest, largest = networks.exact_extremes(program, -1, 1)
    for sign, extreme in ((-1.0, largest), (1.0, -smallest)):
        beyond = conjunction([-1.0], [1.0], [[sign]], [float(extreme + Fraction(1, 2**30))])
        assert answered(program, beyond).status == "unsat"
        within = conjunction([-1.0], [1.0], [[sign]], [float(extreme - Fraction(1, 2**20))])
        found = answered(program, within)
        assert found.status == "sat" and replays(found, within, program)


def no_gap(layer, read):
    chord, gap = CHORD(layer, read)
    return chord, 0.9 * gap


def narrow(self, layer, signs=None):
    read = READ(self, layer, signs)
    return bounds.Read(read.form, 0.9 * read.low, 0.9 * read.high)


def rash(self):
    parts = [np.where(r.low + r.high >= 0, 1, -1) for r in self.reads]
    return np.concatenate([np.zeros((len(self.boxes), 0)), *parts], axis=1).astype(np.int8)


CHORD, READ = bounds._chord, bounds.Relaxation.read


@pytest.mark.parametrize("fault", ["lines", "intervals", "signs"])
def test_a_bound_that_is_too_small_is_found(fault, monkeypatch):
    """The tests above would fail: what exists is denied."""
    monkeypatch.setattr(points.Points, "witness", lambda *_: None)
    if fault == "lines":
        monkeypatch.setattr(bounds, "_chord", no_gap)
    elif fault == "intervals":
        monkeypatch.setattr(bounds.Relaxation, "read", narrow)
    else:
        monkeypatch.setattr(bounds.Relaxation, "signs", property(rash))
    denied = 0
    for seed in range(6):
        program = networks.dense((1, 5, 5, 1), seed=seed, dyadic=True)
        smallest, largest = networks.exact_extremes(program, -1, 1)
        for sign, extreme in ((-1.0, largest), (1.0, -smallest)):
            claim = conjunction([-1.0], [1.0], [[sign]], [float(extreme - Fraction(1, 2**20))])
            denied += answered(program, claim, seconds=0.3).status == "unsat"
    assert denied > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_exists_is_never_denied(name, monkeypatch):
    """Where no point is ever accepted, a region that is not empty stays open."""
    monkeypatch.setattr(points.Points, "witness", lambda *_: None)
    program, rng = PROGRAMS[name], np.random.default_rng(0)
    size = int(np.prod(program.input_shape))
    for x in rng.uniform(-1, 1, (3, size)):
        rows = rng.normal(size=(3, 2))
        offsets = -(rows @ values_at(program, x[None])[0]) - 1e-9
        claim = conjunction(x - rng.uniform(0, 0.5, size), x + 0.1, rows, offsets)
        assert answered(program, claim, seconds=0.4).status == "unknown"


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("is_tight", "is_known"), [(True, False), (False, False), (True, True)])
def test_bounds_of_neurons_hold_at_points(name, is_tight, is_known):
    """Of the reduced network, on smaller boxes: outputs of the program itself are inside."""
    program, rng = PROGRAMS[name], np.random.default_rng(1)
    size = int(np.prod(program.input_shape))
    network = Network(program, -1.5 * np.ones(size), 1.5 * np.ones(size))
    rows = network.rows(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]), np.zeros(3))
    middle, half = rng.uniform(-0.7, 0.7, (20, size)), rng.uniform(0, 0.3, (20, size))
    boxes, signs = bounds.Boxes(middle - half, middle + half), None
    if is_known:  # of boxes that are twice as wide
        wide = bounds.Boxes(middle - 2.0 * half, middle + 2.0 * half)
        signs = bounds.relaxed(network.layers, wide, network.roundoff).signs
    relaxation = bounds.Relaxation(boxes, network.roundoff, is_tight, signs)
    for layer in network.layers:
        relaxation.append(layer)
    if is_known:
        assert (signs != 0).any() and (relaxation.signs * signs == signs**2).all()
    read = relaxation.read(rows)
    for share in rng.choice([-1.0, 1.0, 0.0, 0.3, -0.8], (100, 20, size)):
        y = values_at(program, middle + share * half)
        y = np.stack([y[:, 0], y[:, 1], y[:, 0] - y[:, 1]], 1)
        assert (y >= read.low - 1e-12).all() and (y <= read.high + 1e-12).all()


def plain(size=2):
    """The identity."""
    builder = Builder((size,))
    return networks.finished(builder, builder.affine(0, MatMul(np.eye(size))))


def test_rows_are_refuted_together():
    """`y0 >= 0.1`, `y1 >= 0.1` and `y0 + y1 <= 0.19`: each has a solution, two of them as well."""
    rows = [[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]
    claim = conjunction([-1.0, -1.0], [1.0, 1.0], rows, [0.1, 0.1, -0.19])
    verdict = answered(plain(), claim)
    assert verdict.status == "unsat" and verdict.boxes <= 3
    open_still = conjunction([-1.0, -1.0], [1.0, 1.0], rows, [0.1, 0.1, -0.21])
    assert answered(plain(), open_still).status == "sat"


def test_any_of_several_conjunctions_in_several_boxes():
    """Only the last box of four holds a counterexample, of its second conjunction."""
    program = PROGRAMS["dense"]
    never, always = ([[1.0, 0.0]], [1e3]), ([[1.0, 0.0], [0.0, 1.0]], [-1e3, -1e3])
    boxes = [([0.2 * i] * 3, [0.2 * i + 0.1] * 3) for i in range(4)]
    claims = [conjunction(*box, *never) for box in boxes]
    assert answered(program, *claims).status == "unsat"
    found = answered(program, *claims, conjunction(*boxes[-1], *always))
    assert found.status == "sat" and (found.witness >= np.float32(0.6)).all()


def test_strict_and_loose_at_the_boundary():
    """`y0 = x0` reaches 0.5 at the end of the box, and is not above it."""
    program = plain()
    loose, strict = (
        conjunction([-1.0, -1.0], [0.5, 1.0], [[-1.0, 0.0]], [0.5], [flag])
        for flag in (False, True)
    )
    assert answered(program, loose).status == "sat"
    assert answered(program, strict, seconds=0.5).status != "sat"


def test_what_is_cut_off_satisfies_nothing():
    """Rows of random linear functions: no point outside the ends has all of them at most 0."""
    rng = np.random.default_rng(2)
    rows = refutation.Rows(rng.normal(size=(200, 3, 2)), rng.normal(0.8, 1.0, size=(200, 3)))
    below, above = refutation.contracted(rows)
    assert ((below > -1) | (above < 1)).any() and (below > above).any()
    weights = refutation.multipliers(rows)
    assert (weights >= 0).all()
    summed = np.einsum("nm,nmf->nf", weights, rows.coefficients)
    lowest = (weights * rows.constant).sum(axis=1) - np.abs(summed).sum(axis=1)
    assert (lowest >= rows.lowest.max(axis=1) - 1e-9).all()
    assert ((lowest > 0) & (rows.lowest <= 0).all(axis=1)).any()  # together, and not alone
    for e in grid(2, 41):
        holds = (rows.coefficients @ e + rows.constant <= 0).all(axis=1)
        outside = ((e < below) | (e > above)).any(axis=1)
        assert not (holds & (outside | (lowest > 0))).any()


def test_no_row_is_satisfied_anywhere_and_no_conjunction_nowhere():
    program = plain()
    everything = conjunction([-1.0, -1.0], [1.0, 1.0], np.zeros((0, 2)), np.zeros(0))
    assert answered(program, everything).status == "sat"
    nothing = decide.Property(2, 2, ())
    assert decide_program(program, nothing, seconds=1.0).status == "unsat"


def test_a_fixed_input_that_the_type_does_not_hold():
    """0.1 is no float32: no input satisfies it exactly, and the nearest one is offered if asked."""
    program = plain()
    claim = conjunction([0.1, -1.0], [0.1, 1.0], [[0.0, -1.0]], [0.5])
    exact = answered(program, claim)
    assert exact.status == "unknown" and exact.is_final and exact.seconds < 5.0
    nearest = answered(program, claim, is_nearest=True)
    assert nearest.status == "sat"
    assert nearest.witness[0] == np.float32(0.1)
    assert nearest.distance == abs(float(np.float32(0.1)) - 0.1)
    impossible = conjunction([0.1, -1.0], [0.1, 1.0], [[0.0, -1.0]], [1.5])
    assert answered(program, impossible, is_nearest=True).status == "unsat"


def test_a_network_that_runs_otherwise_gives_no_witness():
    """The exact function satisfies it, and the network as it runs does not."""
    claim = conjunction([-1.0, -1.0], [1.0, 1.0], [[-1.0, 0.0]], [0.5])
    found = answered(plain(), claim, run=lambda x: np.zeros((len(x), 2), np.float32), seconds=0.5)
    assert found.status == "unknown" and found.witness is None


def test_a_witness_of_the_exact_function_without_a_network_that_runs():
    claim = conjunction([-1.0, -1.0], [1.0, 1.0], [[-1.0, 0.0]], [0.5])
    found = decide_program(plain(), asked(claim), seconds=5.0)
    assert found.status == "sat" and claim.holds(found.witness, found.witness)


def test_other_functions_are_no_answer():
    builder = Builder((2,))
    program = networks.finished(builder, builder.function(0, Function("tanh")))
    claim = conjunction([-1.0, -1.0], [1.0, 1.0], [[-1.0, 0.0]], [3.0])
    assert decide_program(program, asked(claim)).status == "unknown"


def test_without_time_nothing_is_proven():
    claim = conjunction([-1.0] * 3, [1.0] * 3, [[1.0, 0.0]], [1e3])
    assert answered(PROGRAMS["dense"], claim).status == "unsat"
    assert answered(PROGRAMS["dense"], claim, seconds=0.0).status == "unknown"


def test_a_constant_network():
    builder = Builder((2,))
    program = networks.finished(builder, builder.affine(0, MatMul(np.zeros((2, 1)))))
    for strict, offset, status in ((True, 1e-30, "unsat"), (False, 0.0, "sat")):
        claim = conjunction([-1.0, -1.0], [1.0, 1.0], [[-1.0]], [offset], [strict])
        assert answered(program, claim).status == status


def test_what_overflows_refutes_nothing():
    builder = Builder((1,))
    index = builder.affine(0, MatMul(np.full((1, 4), 1e300)), np.array([1e300, -1e300, 1.0, 0.0]))
    index = builder.affine(builder.function(index, relu()), MatMul(np.full((4, 1), 1e300)))
    program = networks.finished(builder, index)
    claim = conjunction([-1.0], [1.0], [[-1.0]], [1.0])
    assert answered(program, claim, seconds=0.5).status != "unsat"


def test_a_property_of_another_network_is_refused():
    with pytest.raises(ValueError, match="3 inputs and 2 outputs"):
        answered(PROGRAMS["dense"], conjunction([0.0], [1.0], [[1.0, 0.0]], [0.0]))


def test_its_modules_import_no_framework():
    folder = Path(decide.__file__).parent
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {"tensorflow", "keras"}, path.name


DATA = os.environ.get("VNNCOMP_DATA", "")
KNOWN = [("acasxu", "1_1", "prop_3"), ("acasxu", "1_7", "prop_3"), ("acasxu", "2_1", "prop_2")]


@pytest.mark.skipif(not DATA, reason="VNNCOMP_DATA names no folder of competition instances")
@pytest.mark.parametrize(("family", "network", "name"), KNOWN)
def test_known_answers_of_the_competition(family, network, name):
    from deel_lip_tf.semantics.ir.lowering import lower_model
    from deel_lip_tf.verify import from_onnx, read_vnnlib

    with open(Path(DATA) / "instances.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == family]
    (row,) = [r for r in rows if f"_{network}_" in r["onnx"] and r["property"].startswith(name)]
    folder = Path(DATA) / family
    program = lower_model(from_onnx(folder / row["onnx"]))
    verdict = decide_program(program, read_vnnlib(folder / row["property"]), seconds=60.0)
    assert verdict.status == row["verdict"]
