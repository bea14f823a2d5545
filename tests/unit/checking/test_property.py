"""The checker reads VNN-LIB in exact numbers, and weakens nothing."""

from fractions import Fraction

import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.checking.network import Rejected
from deel_lip_tf.checking.property import Row, box_of, implies, read_property

NAMES = "(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real)"
NAMES += "(declare-const Y_1 Real)"


def rows_of(*conditions):
    counts, alternatives = read_property(NAMES + "".join(f"(assert {one})" for one in conditions))
    assert counts == [2, 2]
    return alternatives


def row(constant, **terms):
    return Row({name: Fraction(value) for name, value in terms.items()}, Fraction(constant))


READ = {
    "(<= X_0 0.1)": [[row(-0.1, X_0=1)]],
    "(>= X_0 -1e-3)": [[row(-1e-3, X_0=-1)]],
    "(< Y_0 Y_1)": [[row(0, Y_0=1, Y_1=-1)]],
    "(>= Y_0 (- 3))": [[row(-3, Y_0=-1)]],
    "(<= 0 X_0 1)": [[row(0, X_0=-1), row(-1, X_0=1)]],
    "(<= (+ Y_0 Y_0 (- Y_1 X_0)) (- 2 1 4))": [[row(3, Y_0=2, Y_1=1, X_0=-1)]],
    "(<= Y_0 (+ Y_0 1))": [[row(-1)]],
    "(<= Y_0 Y_0)": [[row(0)]],
    "(> Y_0 Y_0)": [[row(1)]],
    "(< 0 0)": [[row(1)]],
    "(or (<= Y_0 1) (and (<= Y_1 1) (<= Y_0 2)))": [
        [row(-1, Y_0=1)],
        [row(-1, Y_1=1), row(-2, Y_0=1)],
    ],
    "(and (or (<= Y_0 1) (<= Y_0 2)) (or (<= Y_1 1) (<= Y_1 2)))": [
        [row(-a, Y_0=1), row(-b, Y_1=1)] for a in (1, 2) for b in (1, 2)
    ],
    "(or)": [],
}


@pytest.mark.parametrize("text", READ)
def test_what_a_condition_means(text):
    """After `0 <= 0`, which every alternative begins with."""
    assert rows_of(text) == [[row(0), *own] for own in READ[text]]


@pytest.mark.parametrize(
    "text",
    [
        "(<= (* 2 Y_0) 1)",
        "(<= (* Y_0 Y_1) 1)",
        "(= Y_0 1)",
        "(not (<= Y_0 1))",
        "(<= Y_7 1)",
        "(<= Y_0 one)",
        "(<= Y_0 nan)",
        "(<= Y_0 inf)",
        "true",
        "(<= Y_0 1",
        "(<= Y_0 1))",
        "(and " * 5000 + "(<= Y_0 1)" + ")" * 5000,
        "(and " + "(or (<= Y_0 1) (<= Y_1 1))" * 17 + ")",
    ],
    ids=lambda text: text[:30],
)
def test_what_is_refused(text):
    with pytest.raises(
        (Rejected, ValueError, LookupError, TypeError, OverflowError, RecursionError)
    ):
        rows_of(text)


@pytest.mark.parametrize(
    "text",
    [
        NAMES + "(check-sat)",
        NAMES.replace("X_1", "X_2"),
        NAMES + "(assert (<= X_0 1)) (declare-const X_2 Real)",
        "(declare-network N (declare-input X real [2]))",
    ],
)
def test_files_that_are_refused(text):
    with pytest.raises((Rejected, ValueError)):
        read_property(text)


def test_boxes():
    (rows,) = rows_of("(<= X_0 1)", "(<= X_0 0.5)", "(>= X_0 -2)", "(>= X_0 -3)", "(<= X_0 X_1)")
    assert box_of(rows) == ({"X_0": Fraction(-2)}, {"X_0": Fraction(1, 2)})
    assert box_of(rows_of("(<= X_0 1)", "(>= X_0 2)")[0]) is None
    assert box_of(rows_of("(>= 0 1)")[0]) is None
    assert box_of(rows_of("(>= 1 1)")[0]) == ({}, {})
    # Half of a bound of twice the input.
    assert box_of(rows_of("(<= (+ X_0 X_0) 1)")[0]) == ({}, {"X_0": Fraction(1, 2)})


@pytest.mark.parametrize(
    ("weights", "offset", "expected"),
    [
        ([1.0, -1.0], -0.5, True),
        ([1.0, -1.0], -0.75, True),
        ([1.0, -1.0], -0.5 + 2**-53, False),
        ([2.0, -2.0], -1.0, False),  # true, but a proof must state it as the file does
        ([1.0, 0.0], -0.5, False),
        ([0.0, 0.0], 0.0, True),
        ([0.0, 0.0], -1.0, True),
        ([0.0, 0.0], 5e-324, False),
    ],
)
def test_what_is_implied(weights, offset, expected):
    (rows,) = rows_of("(<= Y_0 (+ Y_1 0.5))", "(<= X_0 1)")
    assert implies(rows, weights, offset) is expected
