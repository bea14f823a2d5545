"""Proofs are confirmed where they show what they say, and however they are forged, nowhere else."""

import ast
import os
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.checking import proof  # noqa: E402
from deel_lip_tf.checking.network import Rejected  # noqa: E402
from deel_lip_tf.checking.proof import LEAF, check  # noqa: E402
from deel_lip_tf.verify.files import decide_file  # noqa: E402
from deel_lip_tf.verify.specification.vnnlib import read_vnnlib  # noqa: E402
from tests.unit.checking import files  # noqa: E402

# Networks, and conditions in which `top` and `low` are numbers that no output reaches on [-1, 1].
NETWORKS = {
    "shallow": ((2, 12, 3), 1),
    "deep": ((2, 8, 8, 8, 8, 2), 2),
    "three": ((3, 10, 10, 2), 3),
}
CONDITIONS = {
    "one row": ["(>= Y_0 {top})"],
    "two rows": ["(>= Y_0 {middle})", "(<= (- Y_0 Y_1) (- {gap} {room}))"],
    "two alternatives": ["(or (and (>= Y_0 {top})) (and (<= Y_0 {low})))"],
    "boxes": [
        "(or (and (<= X_0 0.125) (>= Y_0 {top})) (and (>= X_0 0.125) (<= X_1 0.5) (>= Y_0 {top}))"
        " (and (>= X_1 0.5) (>= Y_0 {top})))"
    ],
    "a box that is empty": ["(or (and (>= X_0 2) (>= Y_0 0)) (and (>= Y_0 {top})))"],
}
CASES = [(net, name) for net in NETWORKS for name in CONDITIONS]


def conditions(net, name, room):
    """What fails by `room` times what the first output spreads, on a grid of inputs."""
    sizes, seed = NETWORKS[net]
    found = files.values(files.dense(sizes, seed), files.grid(sizes[0]))
    spread = np.ptp(found[:, 0])
    middle = np.quantile(found[:, 0], 0.8)
    gap = (found[found[:, 0] >= middle, 0] - found[found[:, 0] >= middle, 1]).min()
    numbers = {"top": found[:, 0].max() + room * spread, "low": found[:, 0].min() - room * spread}
    numbers |= {"middle": middle, "gap": gap, "room": 2 * room * spread}
    return [text.format(**numbers) for text in CONDITIONS[name]]


class Question:
    """A network and a property as files."""

    def __init__(self, folder, net, name, room):
        sizes, seed = NETWORKS[net]
        self.network = files.saved(folder / f"{net}.onnx", files.dense(sizes, seed))
        self.property = folder / f"{net}-{name}-{room}.vnnlib"
        self.property.write_text(files.question(sizes[0], sizes[-1], *conditions(net, name, room)))

    def answered(self):
        """The verdict, and the record of the search."""
        recorded = []
        verdict = decide_file(self.network, read_vnnlib(self.property), 60.0, recorded=recorded)
        return verdict, recorded[0]


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    """Questions by case, with the arrays of a proof."""
    folder = tmp_path_factory.mktemp("proofs")

    @cache
    def of(net, name, room=0.1):
        question = Question(folder, net, name, room)
        verdict, record = question.answered()
        assert verdict.status == "unsat" and record.is_proof
        record.write(folder / "proof", question.network, question.property)
        with np.load(folder / "proof") as arrays:
            return question, dict(arrays)

    return of


def confirmed(question, arrays, folder):
    """The numbers of nodes and leaves; raises `Rejected`."""
    return check(question.network, question.property, files.stored(folder / "proof", arrays))


@pytest.mark.parametrize(("net", "name"), CASES)
def test_what_the_search_proves_is_confirmed(net, name, proven, tmp_path):
    question, arrays = proven(net, name)
    nodes, leaves = confirmed(question, arrays, tmp_path)
    assert nodes == 2 * leaves - len(arrays["lower"])
    assert not {"kept", "columns", "places", "targets"} & {*arrays}  # as in earlier releases


def test_theorems_stand_in_any_order_where_they_are_few(proven, tmp_path, monkeypatch):
    """Of many, each is looked for near the number of the alternative it is about."""
    question, arrays = proven("shallow", "two alternatives", 20.0)
    turned = {n: a if n in ("heading", "axis", "at") else a[::-1] for n, a in arrays.items()}
    assert confirmed(question, arrays, tmp_path) == confirmed(question, turned, tmp_path) == (2, 2)
    monkeypatch.setattr(proof, "MOST_TRIED", 2)
    assert confirmed(question, arrays, tmp_path) == (2, 2)
    with pytest.raises(Rejected, match="says nothing of alternative 0"):
        confirmed(question, turned, tmp_path)


# --- proofs that are wrong ----------------------------------------------------------------------


def changed(arrays, name, index, value):
    """A copy with one number changed."""
    found = arrays[name].astype(np.float64)
    found[index] = value
    return {**arrays, name: found}


def leaf_of(arrays, rng):
    return rng.integers(len(arrays["multipliers"]))


def without(arrays, nodes):
    """A copy without some nodes."""
    kept = np.setdiff1d(np.arange(len(arrays["axis"])), nodes)
    number = np.cumsum(arrays["axis"] == LEAF) - 1
    leaves = number[kept][arrays["axis"][kept] == LEAF]
    own = {name: arrays[name][leaves] for name in ("multipliers", "slopes", "betas")}
    return {**arrays, **own, "axis": arrays["axis"][kept], "at": arrays["at"][kept]}


def cut_off(arrays, rng):
    first = rng.integers(1, len(arrays["axis"]))
    return without(arrays, np.arange(first, len(arrays["axis"])))


def dropped(arrays, rng):
    return without(arrays, rng.choice(np.flatnonzero(arrays["axis"] == LEAF)))


def no_multiplier(arrays, rng):
    return changed(arrays, "multipliers", leaf_of(arrays, rng), 0.0)


def negative(arrays, rng):
    place = leaf_of(arrays, rng), rng.integers(arrays["multipliers"].shape[1])
    return changed(arrays, "multipliers", place, -rng.random() - 1e-9)


def negative_beta(arrays, rng):
    place = leaf_of(arrays, rng), rng.integers(arrays["betas"].shape[1])
    return changed(arrays, "betas", place, -rng.random() - 1e-9)


def steep(arrays, rng):
    place = leaf_of(arrays, rng), rng.integers(arrays["slopes"].shape[1])
    return changed(arrays, "slopes", place, rng.choice([-0.001, 1.001, np.inf, -np.inf]))


def no_number(arrays, rng):
    name = rng.choice(["lower", "upper", "weights", "offsets", "at", "multipliers", "betas"])
    place = tuple(rng.integers(size) for size in arrays[name].shape)
    return changed(arrays, name, place, rng.choice([np.nan, np.inf]))


def smaller_box(arrays, rng):
    """By one unit in the last place."""
    name, towards = [("lower", np.inf), ("upper", -np.inf)][rng.integers(2)]
    place = tuple(rng.integers(size) for size in arrays[name].shape)
    return changed(arrays, name, place, np.nextafter(arrays[name][place], towards))


def stronger_row(arrays, rng):
    """A theorem about fewer inputs, by one unit in the last place of what an output must reach."""
    place = tuple(rng.integers(size) for size in arrays["offsets"].shape)
    return changed(arrays, "offsets", place, np.nextafter(arrays["offsets"][place], np.inf))


def other_row(arrays, rng):
    place = tuple(rng.integers(size) for size in arrays["weights"].shape)
    return changed(arrays, "weights", place, arrays["weights"][place] + rng.choice([-2.0, 0.5]))


def outside(arrays, rng):
    node = rng.choice(np.flatnonzero(arrays["axis"] != LEAF))
    return changed(arrays, "at", node, rng.choice([-1.0001, 1.0001]))


def nowhere(arrays, rng):
    node = rng.choice(np.flatnonzero(arrays["axis"] != LEAF))
    beyond = len(arrays["lower"][0]) + arrays["slopes"].shape[1]
    return changed(arrays, "axis", node, rng.choice([beyond, -2, 2.0**40]))


def split_leaf(arrays, rng):
    node = rng.choice(np.flatnonzero(arrays["axis"] == LEAF))
    number = (np.cumsum(arrays["axis"] == LEAF) - 1)[node]
    own = {n: np.delete(arrays[n], number, axis=0) for n in ("multipliers", "slopes", "betas")}
    return changed({**arrays, **own}, "axis", node, 0)


def other_shape(arrays, rng):
    name = rng.choice([name for name in arrays if name != "heading"])
    return {**arrays, name: arrays[name][..., None]}


def other_format(arrays, rng):
    return {**arrays, "heading": np.array(["deel_lip_tf proof 0", *arrays["heading"][1:]])}


def other_hash(arrays, rng):
    found = arrays["heading"].copy()
    which = rng.integers(1, 3)
    found[which] = found[which][::-1]
    return {**arrays, "heading": found}


def missing(arrays, rng):
    name = rng.choice([*arrays])
    return {key: value for key, value in arrays.items() if key != name}


MUTATIONS = (
    *(cut_off, dropped, no_multiplier, negative, negative_beta, steep, no_number, smaller_box),
    *(stronger_row, other_row, outside, nowhere, split_leaf, other_shape, other_format),
    *(other_hash, missing),
)
"""Each makes any proof that has one theorem and splits wrong."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_proof_that_is_changed_is_rejected(mutation, proven, tmp_path):
    """60 of each: more than 1,000 in all."""
    question, arrays = proven("three", "two rows", 0.02)
    assert confirmed(question, arrays, tmp_path)[1] > 8
    rng = np.random.default_rng(0)
    for _ in range(60):
        with pytest.raises(Rejected):
            confirmed(question, mutation(arrays, rng), tmp_path)


# --- properties that are false ------------------------------------------------------------------


def forged(arrays, rng):
    """Whatever a proof may hold: the tree, the certificates, or both are others."""
    found = dict(arrays)
    neurons, inputs = arrays["slopes"].shape[1], arrays["lower"].shape[1]
    if rng.random() < 0.5:
        depth = rng.integers(1, 6)
        axis = [np.full(2**level, rng.integers(inputs + neurons)) for level in range(depth)]
        found["axis"] = np.concatenate([*axis, np.full(2**depth, LEAF)])
        found["at"] = np.where(rng.random(len(found["axis"])) < 0.5, 1.0, rng.uniform(-1, 1))
    leaves = int((found["axis"] == LEAF).sum())
    shares = rng.random((leaves, arrays["multipliers"].shape[1]))
    found["multipliers"] = shares * 10.0 ** rng.integers(-300, 300, (leaves, 1))
    found["slopes"] = rng.choice([0.0, 1.0, np.nan, 5e-324, rng.random()], (leaves, neurons))
    found["betas"] = rng.random((leaves, neurons)) * 10.0 ** rng.integers(-8, 20)
    return found


@pytest.mark.parametrize("net", NETWORKS)
def test_no_proof_of_a_property_that_is_false_is_confirmed(net, proven, tmp_path):
    _, arrays = proven(net, "one row", 0.02)
    question = Question(tmp_path, net, "one row", -0.02)
    assert question.answered()[0].status == "sat"
    reached = float(re.findall(r"Y_0 (.*)\)\)", question.property.read_text())[-1])
    arrays = files.about(arrays, question.network, question.property)
    with pytest.raises(Rejected, match="says nothing of alternative 0"):
        confirmed(question, arrays, tmp_path)
    arrays["offsets"] = np.full_like(arrays["offsets"], reached)
    rng = np.random.default_rng(0)
    for attempt in (arrays, *(forged(arrays, rng) for _ in range(100))):
        with pytest.raises(Rejected, match="not refuted|outside of its box"):
            confirmed(question, attempt, tmp_path)


def test_the_forgeries_are_proofs_where_there_is_something_to_prove(proven, tmp_path):
    """Some of them, of a threshold that is far off: so the test above is not about their shapes."""
    question, arrays = proven("shallow", "one row", 20.0)
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(20):
        try:
            outcomes.append(confirmed(question, forged(arrays, rng), tmp_path))
        except Rejected:
            outcomes.append(None)
    assert sum(outcome is not None for outcome in outcomes) > 5


def test_a_file_that_is_damaged_is_no_proof(proven, tmp_path):
    """Or still the same one: archives check their contents."""
    question, arrays = proven("three", "one row", 0.02)
    data = files.stored(tmp_path / "whole", arrays).read_bytes()
    rng = np.random.default_rng(0)
    expected = check(question.network, question.property, tmp_path / "whole")
    for _ in range(100):
        damaged = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(bytes(damaged[: rng.choice([len(data), 500, 30, 0])]))
        try:
            found = check(question.network, question.property, tmp_path / "damaged")
        except Rejected:
            continue
        assert found == expected


# --- fixed signs --------------------------------------------------------------------------------


def by_signs(layers, threshold):
    """A proof that the first output of one hidden layer is below a number: all signs are split.

    Where all of them are fixed the network is linear, and its smallest value by linear programming
    has the multipliers of the signs as dual solution.
    """
    optimize = pytest.importorskip("scipy.optimize")
    (weight, bias), (last, _) = ((w.astype(np.float64), b.astype(np.float64)) for w, b in layers)
    inputs, neurons = weight.shape
    signs = np.array([[1 if i >> k & 1 else -1 for k in range(neurons)] for i in range(2**neurons)])
    betas = np.zeros(signs.shape)
    for leaf, own in enumerate(signs):
        # The last variable says by how much a sign may be missed, and costs more than that gains.
        slope = np.append(-(weight * (own > 0)) @ last[:, 0], 1e3)
        limits = np.column_stack([-(weight * own).T, -np.ones(neurons)])
        ends = [*[(-1, 1)] * inputs, (0, None)]
        found = optimize.linprog(slope, limits, own * bias, bounds=ends)
        betas[leaf] = -found.ineqlin.marginals
    axis = [np.full(2**k, inputs + k) for k in range(neurons)]
    axis = np.concatenate([*axis, np.full(2**neurons, LEAF)])
    nan = np.full(betas.shape, np.nan)
    return {
        "axis": axis,
        "at": np.zeros(len(axis)),
        "lower": -np.ones((1, inputs)),
        "upper": np.ones((1, inputs)),
        "weights": np.array([[[-1.0]]]),
        "offsets": np.array([[threshold]]),
        "multipliers": np.ones((2**neurons, 1)),
        "slopes": nan,
        "betas": betas,
    }


@pytest.mark.parametrize("seed", range(3))
def test_proofs_by_the_signs_of_neurons(seed, tmp_path):
    """They are as sharp as linear programming; with other multipliers they show nothing."""
    layers = files.dense((2, 4, 1), seed)
    top = files.values(layers, files.grid(2)).max()
    network = files.saved(tmp_path / "model.onnx", layers)
    property = tmp_path / "question.vnnlib"
    verdicts = []
    for room in (1e-2, -1e-2):
        property.write_text(files.question(2, 1, f"(>= Y_0 {top + room})"))
        arrays = files.about(by_signs(layers, top + room), network, property)
        for betas in (arrays["betas"], 0 * arrays["betas"], 9 * arrays["betas"]):
            stored = files.stored(tmp_path / "proof", {**arrays, "betas": betas})
            try:
                verdicts.append(check(network, property, stored) == (31, 16))
            except Rejected:
                verdicts.append(False)
    assert verdicts[0] and not any(verdicts[3:])


# --- who is trusted -----------------------------------------------------------------------------


def imported(tree):
    """The modules that a module imports."""
    names = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    return {*names, *(n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom))}


def code_lines(source, tree):
    """How many lines hold code: no comments, docstrings and empty lines."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [
        n.body[0] for n in ast.walk(tree) if isinstance(n, kinds) and ast.get_docstring(n)
    ]
    left_out = {i for one in docstrings for i in range(one.lineno, one.end_lineno + 1)}
    lines = enumerate(source.splitlines(), 1)
    return sum(
        bool(line.strip()) and line.strip()[0] != "#" and i not in left_out for i, line in lines
    )


def test_the_checker_is_small_and_stands_alone():
    """Less than 300 lines, and 160 of its readers, which share nothing with what they check."""
    count, modules = {}, set()
    for path in sorted(Path(proof.__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        count[path.stem] = code_lines(source, ast.parse(source))
        modules |= imported(ast.parse(source))
    own = {name for name in modules if name.startswith("deel_lip_tf.checking.")}
    others = {name.split(".")[0] for name in modules - own} - sys.stdlib_module_names
    assert others == {"numpy", "onnx", "google"}
    assert count.pop("network") + count.pop("property") < 160
    assert sum(count.values()) < 300


# --- instances of the competition ---------------------------------------------------------------

DATA = os.environ.get("VNNCOMP_DATA", "")
KNOWN = [
    ("acasxu/*_1_1_batch*", "prop_1"),
    ("acasxu/*_1_1_batch*", "prop_3"),
    ("acasxu/*_1_7_batch*", "prop_2"),
    ("acasxu/*_2_2_batch*", "prop_1"),
    ("acasxu/*_3_3_batch*", "prop_4"),
    ("mnist_fc/*256x2*", "prop_9_0.05"),
    ("mnist_fc/*256x4*", "prop_2_0.03"),
    ("oval21/cifar_wide_kw.onnx*", "cifar_wide_kw-img9062-*"),
    (
        "collins_rul_cnn/NN_rul_small_window_20*",
        "robustness_4perturbations_delta20_epsilon10_w20",
    ),
]


@pytest.mark.skipif(not DATA, reason="VNNCOMP_DATA names no folder of competition instances")
@pytest.mark.parametrize(("network", "name"), KNOWN)
def test_proofs_of_instances_of_the_competition(network, name, tmp_path):
    (model,) = Path(DATA).glob(network)
    (question,) = model.parent.glob(f"{name}.vnnlib*")
    recorded = []
    verdict = decide_file(model, read_vnnlib(question), 60.0, recorded=recorded)
    assert verdict.status == "unsat" and recorded[0].is_proof
    recorded[0].write(tmp_path / "proof", model, question)
    nodes, leaves = check(model, question, tmp_path / "proof")
    assert nodes == 2 * leaves - len(read_vnnlib(question).conjunctions)
