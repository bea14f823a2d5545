"""Proofs of every kind that are changed: confirmed where they prove in rational numbers alone."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

from onnx import helper

from deel_lip_tf.checking import bounds, proof
from deel_lip_tf.checking.network import Rejected
from deel_lip_tf.checking.proof import LEAF, check
from deel_lip_tf.verify.files import decide_file
from deel_lip_tf.verify.search.inputs import decide
from deel_lip_tf.verify.search.signs import decide as signs
from deel_lip_tf.verify.specification.vnnlib import read_vnnlib
from tests._oracles.proof_oracle import ExactProof
from tests.unit.checking import files

ROOM = 0.004
"""What is missing to a counterexample, relative to what an output spreads."""

IMAGE, FREE = (2, 3, 3), (4, 10)
"""An image, and which two of its entries are free."""


def dense(path, seed):
    """A chain of two inputs: the file, its layers, and a point of the box."""
    layers = files.dense((2, 5, 5, 2), seed)
    return files.saved(path, layers), [(w.T, b) for w, b in layers], np.zeros(2)


def convolutional(path, seed):
    """A convolution and a dense layer of an image, most of which is fixed."""
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(size=(2, 2, 2, 2)), rng.normal(size=2)
    constants = {"k": kernel, "b": bias, "w": rng.normal(size=(8, 4)), "c": rng.normal(size=4)}
    constants |= {"v": rng.normal(size=(4, 2)), "d": rng.normal(size=2)}
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["i"]),
        helper.make_node("Flatten", ["i"], ["j"]),
        helper.make_node("Gemm", ["j", "w", "c"], ["m"]),
        helper.make_node("Relu", ["m"], ["n"]),
        helper.make_node("Gemm", ["n", "v", "d"], ["y"]),
    ]
    matrix = np.zeros((2, 2, 2, *IMAGE))
    for row, column in np.ndindex(2, 2):
        matrix[:, row, column, :, row : row + 2, column : column + 2] = constants["k"]
    layers = [(matrix.reshape(8, 18), np.repeat(constants["b"], 4))]
    layers += [(constants[w].T, constants[b]) for w, b in ("wc", "vd")]
    return files.written(path, nodes, IMAGE, constants, "y"), layers, rng.normal(size=18).round(3)


KINDS = {
    "inputs": (dense, False),
    "signs": (dense, True),
    "inputs of an image": (convolutional, False),
    "signs of an image": (convolutional, True),
}


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    """Files by kind, the arrays of a proof, and what it is in rational numbers."""

    @cache
    def of(kind, seed=1):
        build, by_signs = KINDS[kind]
        folder = tmp_path_factory.mktemp("mutations")
        network, layers, middle = build(folder / "model.onnx", seed)
        free = FREE if len(middle) > 2 else (0, 1)
        lower, upper = middle.copy(), middle.copy()
        lower[[*free]], upper[[*free]] = -1.0, 1.0
        found = outputs(layers, free, middle)
        spread = np.ptp(found, axis=0)
        top, low = found[:, 0].max() + ROOM * spread[0], found[:, 0].min() - ROOM * spread[0]
        gap = (found[:, 0] - found[:, 1]).min() - ROOM * np.ptp(found[:, 0] - found[:, 1])
        rows = [[([-1.0, 0.0], top)], [([1.0, 0.0], -low), ([1.0, -1.0], -gap)]]
        question = folder / "question.vnnlib"
        question.write_text(asked(lower, upper, top, low, gap))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decide, "_FREE", 0 if by_signs else 24)
            patch.setattr(signs, "_FIRST_STEPS", 1)  # so that there is something to split
            patch.setattr(signs, "_STEPS", 2)
            recorded = []
            verdict = decide_file(network, read_vnnlib(question), 60.0, recorded=recorded)
        assert verdict.status == "unsat" and recorded[0].is_proof
        recorded[0].write(folder / "proof", network, question)
        with np.load(folder / "proof") as given:
            arrays = explicit(dict(given), sum(len(bias) for _, bias in layers[:-1]))
        return network, question, arrays, ExactProof(layers, rows, (lower, upper))

    return of


def outputs(layers, free, middle):
    """What a chain computes on a grid of the free inputs."""
    grid = files.grid(2)
    x = np.tile(middle, (len(grid), 1))
    x[:, [*free]] = grid
    for k, (weight, bias) in enumerate(layers):
        x = x @ weight.T.astype(np.float64) + bias
        x = np.maximum(x, 0.0) if k < len(layers) - 1 else x
    return x


def asked(lower, upper, top, low, gap):
    names = [f"X_{i}" for i in range(len(lower))]
    lines = [f"(declare-const {n} Real)" for n in (*names, "Y_0", "Y_1")]
    lines += [
        f"(assert (>= {n} {a}))(assert (<= {n} {b}))"
        for n, a, b in zip(names, lower, upper, strict=True)
    ]
    second = f"(and (<= Y_0 {low}) (<= (- Y_0 Y_1) {gap}))"
    return "\n".join([*lines, f"(assert (or (and (>= Y_0 {top})) {second}))"])


def explicit(arrays, neurons):
    """With slopes and multipliers of all neurons, all of them numbers."""
    columns = arrays.get("columns", np.arange(neurons))
    slopes, betas = (np.zeros((len(arrays["slopes"]), neurons)) for _ in range(2))
    slopes[:, columns], betas[:, columns] = (
        np.nan_to_num(arrays["slopes"], nan=0.5),
        arrays["betas"],
    )
    if "columns" in arrays:
        arrays["columns"] = np.arange(neurons)
    return {**arrays, "slopes": slopes, "betas": betas}


def changed(arrays, rng):
    """One, two or three numbers are others, or a row of them, or two rows are exchanged."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    names = [n for n in arrays if n not in ("heading", "columns") and arrays[n].size]
    for _ in range(rng.integers(1, 4)):
        array = arrays[name := rng.choice(names)]
        place = tuple(rng.integers(size) for size in array.shape)
        if name in ("axis", "places", "targets", "kept"):
            array[place] = rng.choice(
                [array[place] - 1, rng.integers(-3, 20), LEAF, rng.choice(array)]
            )
        elif rng.random() < 0.2:
            other = rng.integers(len(array))
            array[[place[0], other]] = array[[other, place[0]]]
        else:
            scale = 10.0 ** -rng.integers(0, 17)
            array[place] = rng.choice(
                [array[place] + scale * rng.normal(), 0.0, -array[place], 1.0]
            )
    return arrays


def outcomes(given, folder, count, seed=0):
    """How many changed proofs are confirmed and rejected; each that is confirmed is exact."""
    network, question, arrays, oracle = given
    rng, found = np.random.default_rng(seed), Counter()
    for _ in range(count):
        mutant = changed(arrays, rng)
        try:
            check(network, question, files.stored(folder / "proof", mutant))
        except Rejected:
            found["rejected"] += 1
            continue
        assert oracle.proves(mutant)
        found["confirmed"] += 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_proof_is_confirmed_where_it_proves(kind, proven, tmp_path):
    given = proven(kind)
    network, question, arrays, oracle = given
    assert check(network, question, files.stored(tmp_path / "proof", arrays))[1] > 4
    assert oracle.proves(arrays)
    found = outcomes(given, tmp_path, 25)
    assert min(found["rejected"], found["confirmed"]) > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_changed_proofs(kind, proven, tmp_path):
    """More than 1,000 over all kinds."""
    found = outcomes(proven(kind), tmp_path, 260, seed=1)
    assert found.total() == 260 and min(found["rejected"], found["confirmed"]) > 50


def no_gap(low, high, slopes):
    below, chord, over = LINES(low, high, slopes)
    return below, chord, 0.5 * over


def other_end(low, high, part, target, found):
    NARROW(low, high, part, -target, found)


LINES, NARROW = bounds._lines, bounds._narrow
FAULTS = {
    "negative multipliers": ("inputs", (proof, "RANGES", {})),
    "chords": ("inputs of an image", (bounds, "_lines", no_gap)),
    "rows": ("signs of an image", (proof, "implies", lambda *claim: True)),
    "ends": ("signs", (bounds, "_narrow", other_end)),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_checker_that_is_wrong_is_found(fault, proven, tmp_path, monkeypatch):
    """The tests above would fail: something is confirmed that does not prove."""
    kind, wrong = FAULTS[fault]
    given = proven(kind)
    monkeypatch.setattr(*wrong)
    with pytest.raises(AssertionError):
        outcomes(given, tmp_path, 200)
