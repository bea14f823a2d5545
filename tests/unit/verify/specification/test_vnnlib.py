"""VNN-LIB: what is read means what the file says."""

import gzip
import itertools
import re

import numpy as np
import pytest

from deel_lip_tf.verify.specification.vnnlib import read_vnnlib
from tests.unit.verify.specification.questions import BOX, DECLARED, parsed


def evaluated(expression, values):
    """A second reader: SMT-LIB by substitution into Python."""
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", expression))

    def read():
        token = tokens.pop(0)
        if token != "(":
            return values[token] if token in values else float(token)
        head, arguments = tokens.pop(0), []
        while tokens[0] != ")":
            arguments.append(read())
        tokens.pop(0)
        pairs = list(itertools.pairwise(arguments))
        return {
            "and": lambda: all(arguments),
            "or": lambda: any(arguments),
            "<=": lambda: all(a <= b for a, b in pairs),
            ">=": lambda: all(a >= b for a, b in pairs),
            "<": lambda: all(a < b for a, b in pairs),
            ">": lambda: all(a > b for a, b in pairs),
            "=": lambda: all(a == b for a, b in pairs),
            "+": lambda: sum(arguments),
            "-": lambda: arguments[0] - sum(arguments[1:]) if arguments[1:] else -arguments[0],
            "*": lambda: np.prod(arguments),
        }[head]()

    return read()


FORMULAS = [
    "(<= Y_0 Y_1)",
    "(< Y_0 Y_1)",
    "(>= Y_0 Y_1 -0.5)",
    "(> (+ (* 2.0 Y_0) (- Y_1) 0.25) (* -1 0.5))",
    "(or (and (<= Y_0 0) (>= Y_1 0)) (>= Y_0 0.75))",
    "(and (or (<= Y_0 -0.5) (>= Y_0 0.5)) (or (<= Y_1 -0.5) (>= Y_1 0.5)))",
    "(or (and (<= X_0 0) (<= Y_0 0)) (and (> X_0 0.5) (< X_1 0) (> Y_1 0)))",
    "(= Y_0 Y_0)",
    "(or (<= 1 0) (<= (* Y_0 2 0.5) (- Y_1 Y_0)))",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_what_is_read_means_what_the_file_says(formula, tmp_path, rng):
    """On random points, and on a grid where the comparisons are equalities."""
    read = parsed(tmp_path, f"; a comment ( here\n{DECLARED}{BOX}(assert {formula})\n")
    grid = np.array(list(itertools.product([-1.0, -0.5, 0.0, 0.5, 1.5], repeat=4)))
    points = np.concatenate([rng.uniform(-1.2, 1.2, size=(200, 4)), grid])
    for x0, x1, y0, y1 in points:
        values = {"X_0": x0, "X_1": x1, "Y_0": y0, "Y_1": y1}
        expected = evaluated(f"(and (<= -1 X_0 1) (<= -1 X_1 1) {formula})", values)
        x, y = np.array([x0, x1]), np.array([y0, y1])
        assert any(c.holds(x, y) for c in read.conjunctions) == expected
        # The boxes and rows that proofs use contain what holds exactly.
        relaxed = any(
            (c.lower <= x).all() and (x <= c.upper).all() and (c.weights @ y + c.offsets <= 0).all()
            for c in read.conjunctions
        )
        assert relaxed or not expected


def test_unions_of_boxes(tmp_path):
    read = parsed(
        tmp_path,
        f"{DECLARED}(assert (or (and (<= 0 X_0 1) (<= 0 X_1 1)) (and (<= 2 X_0 3) (<= 2 X_1 3))))"
        "(assert (<= Y_0 0))(assert (or (<= Y_1 0) (>= Y_1 1)))",
    )
    boxes = {(*c.lower, *c.upper) for c in read.conjunctions}
    assert len(read.conjunctions) == 4
    assert boxes == {(0.0, 0.0, 1.0, 1.0), (2.0, 2.0, 3.0, 3.0)}


def test_a_box_of_many_inputs_is_read_once(tmp_path):
    """What all conjunctions have in common stands once, or reading would be quadratic."""
    inputs, rivals = 500, 300
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(rivals + 1)]
    text = "".join(f"(declare-const {name} Real)" for name in names)
    text += "".join(f"(assert (<= -0.1 X_{i} 0.7))" for i in range(inputs))
    text += f"(assert (or {' '.join(f'(and (>= Y_{i} Y_0))' for i in range(1, rivals + 1))}))"
    read = parsed(tmp_path, text)
    first = read.conjunctions[0]
    assert len(read.conjunctions) == rivals and len(first.shared) == 2 * inputs
    assert all(len(c.inequalities) == 1 and c.lower is first.lower for c in read.conjunctions)
    y = np.zeros(rivals + 1)
    y[:2] = 1.0, 2.0
    for x, expected in ((np.full(inputs, 0.5), [True, False]), (np.full(inputs, 0.8), [False] * 2)):
        assert [c.holds(x, y) for c in read.conjunctions[:2]] == expected


def test_compressed_files(tmp_path):
    path = tmp_path / "property.vnnlib.gz"
    path.write_bytes(gzip.compress(f"{DECLARED}{BOX}(assert (<= Y_0 Y_1))".encode()))
    assert len(read_vnnlib(path).conjunctions) == 1
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not compressed by gzip"):
        read_vnnlib(path)


def test_empty_boxes_and_contradictions_are_left_out(tmp_path):
    text = f"{DECLARED}{BOX}(assert (or (>= X_0 2) (and (<= 1 0) (<= Y_0 0)) (<= Y_1 0)))"
    assert len(parsed(tmp_path, text).conjunctions) == 1


WRONG = {
    "no bound": (f"{DECLARED}(assert (<= X_0 1))(assert (<= Y_0 0))", "upper bound. Without: X_0"),
    "relation alone": (f"{DECLARED}(assert (<= X_0 X_1))", "upper bound. Without: X_0, X_1"),
    "undeclared": (f"{DECLARED}{BOX}(assert (<= Y_2 0))", "'Y_2'"),
    "open": (f"{DECLARED}{BOX}(assert (<= Y_0 0)", "without its '\\)'"),
    "closed": (f"{DECLARED}{BOX})(assert (<= Y_0 0))", "without its '\\('"),
    "product": (f"{DECLARED}{BOX}(assert (<= (* Y_0 Y_1) 0))", "product"),
    "operator": (f"{DECLARED}{BOX}(assert (not (<= Y_0 0)))", "'Y_0'|'not'|must be one of|term"),
    "empty": (DECLARED, "asserts nothing"),
    "gap": (f"(declare-const X_1 Real){BOX}", "gap|declared"),
    "name": ("(declare-const Z_0 Real)", "X_i or Y_i"),
    "command": (f"{DECLARED}(push 1)", "push"),
    "infinite": (f"{DECLARED}{BOX}(assert (<= Y_0 1e999))", "finite"),
    "deep": (f"{DECLARED}{BOX}(assert {'(and ' * 9999}(<= Y_0 1){')' * 9999})", "parentheses"),
    "deep term": (f"{DECLARED}{BOX}(assert (<= {'(+ 1 ' * 9999}Y_0{')' * 9999} 1))", "parenthes"),
    "deep, version 2": (f"(declare-network N {'(' * 9999}{')' * 9999})", "parentheses"),
    "overflow of a product": (f"{DECLARED}{BOX}(assert (<= (* 1e308 1e308 Y_0) 1))", "of Y_0"),
    "overflow of a bound": (
        f"{DECLARED}(assert (<= (* 1e-300 X_0) 1e300))(assert (>= X_0 0))"
        "(assert (<= 0 X_1 1))(assert (<= Y_0 0))",
        "finite",
    ),
    "a sum of coefficients": (
        f"{DECLARED}{BOX}(assert (<= (* 2.25 Y_0) (+ Y_1 (* 0.123456 Y_0))))",
        "coefficient of Y_0, added up exactly",
    ),
    "explosion": (
        DECLARED + BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 20,
        "65536 alternatives",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused_with_a_reason(name, tmp_path):
    text, reason = WRONG[name]
    with pytest.raises(ValueError, match=reason):
        parsed(tmp_path, text)


def test_several_assertions_of_version_2_all_hold(tmp_path):
    """The package's own transformation makes alternatives of them."""
    pytest.importorskip("vnnlib", minversion="1.0", reason="needs the verify extra")
    read = parsed(
        tmp_path,
        "(vnnlib-version <2.0>)(declare-network N (declare-input X float32 [1,2])"
        "(declare-output Y float32 [1,2]))"
        "(assert (and (>= X[0,0] -1.0) (<= X[0,0] 0.5)))(assert (>= X[0,1] 0.0))"
        "(assert (<= X[0,1] 0.25))(assert (>= (- (* 2.0 Y[0,0]) Y[0,1]) (- 0.5)))",
    )
    (conjunction,) = read.conjunctions
    np.testing.assert_array_equal(conjunction.lower, [-1, 0])
    np.testing.assert_array_equal(conjunction.upper, [0.5, 0.25])
    np.testing.assert_array_equal(conjunction.weights, [[-2, 1]])
    np.testing.assert_array_equal(conjunction.offsets, [-0.5])


def test_relations_are_read_exactly(tmp_path):
    """Each linear function once, whatever its sign; coefficients that float64 does not hold."""
    text = f"{DECLARED}{BOX}(assert (or (<= X_0 X_1) (and (<= X_1 X_0) (<= (* 2 X_0) 1 X_1))))"
    read = parsed(tmp_path, text)
    assert read.relations.tolist() == [[1.0, -1.0]]
    assert [c.weights[:, 2:].ravel().tolist() for c in read.conjunctions] == [[1.0], [-1.0]]
    assert read.conjunctions[1].upper.tolist() == [0.5, 1.0]
    for first, expected in ((0.1, True), (np.nextafter(0.1, 1.0), False)):
        assert read.conjunctions[0].holds(np.array([first, 0.1]), np.zeros(2)) == expected
    with pytest.raises(ValueError, match="coefficient of X_0, added up exactly"):
        parsed(tmp_path, f"{DECLARED}{BOX}(assert (<= (+ (* 2.25 X_0) (* 0.123456 X_0)) X_1))")
