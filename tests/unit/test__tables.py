"""What is printed: numbers on the safe side of theirs, tables as text and as HTML."""

import math
from decimal import Decimal
from html.parser import HTMLParser

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf._tables import at_least, at_most, html_table, text_table

CLOSE = [0.0, 1.0, 1 + 2**-52, 1 + 1e-9, 1 - 2**-53, 0.1, 1 / 3, 2.4494897427831783, 999999.5]
VALUES = [*CLOSE, 123456789.0, 1e-300, 5e-324, 1.7976931348623157e308, 36 / 255]


@pytest.mark.parametrize("digits", [1, 4, 6, 9])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_numbers_are_on_the_safe_side(value, digits):
    above, below = at_most(value, digits), at_least(value, digits)
    assert Decimal(below) <= Decimal(value) <= Decimal(above)
    # and by one unit of the last digit at most
    assert Decimal(above) - Decimal(below) <= abs(Decimal(value)) * Decimal(10) ** (1 - digits)


def test_random_numbers_are_on_the_safe_side(rng):
    for value in np.exp(rng.uniform(-700, 700, 2000)).tolist():
        assert Decimal(at_least(value)) <= Decimal(value) <= Decimal(at_most(value))


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (1 + 1e-9, "1.000001"), (2.0, "2"), (math.inf, "inf")]
)
def test_bounds_as_they_are_printed(value, text):
    assert at_most(value) == text


def test_columns_are_aligned():
    assert text_table([("a", "bb", "c"), ("aaa", "b", "cc")], right=(1,)) == [
        "a    bb  c",
        "aaa   b  cc",
    ]


class Cells(HTMLParser):
    """The texts of the cells, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_what_looks_like_html_is_text():
    assert Cells(html_table([("<b>", "&")], caption="<i>")).rows == [["<b>", "&"]]


def model():
    dense = keras.layers.Dense(2, kernel_initializer="identity", name="head")
    return keras.Sequential([keras.Input((2,)), dense])


SAMPLES = np.array([[0.9, 0.1], [0.6, 0.5]])


def test_a_bound_in_a_notebook():
    bound = lip.lipschitz_bound(model())
    rows = Cells(bound._repr_html_()).rows
    assert rows[0] == ["layer", "type", "bound", "method"]
    assert rows[1][:3] == ["head", "Dense", "1.000001"]
    assert rows[-1][0] == "total" and Decimal(rows[-1][2]) >= Decimal(bound.value)
    assert str(bound).splitlines()[-1].split()[1] == rows[-1][2]


def test_a_printed_bound_is_one():
    matrix = np.diag([np.float32(1 + 2**-23), 0.5])
    dense = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(matrix))
    bound = lip.lipschitz_bound(keras.Sequential([keras.Input((2,)), dense]))
    printed = str(bound).splitlines()
    assert bound.value > 1
    assert Decimal(printed[2].split()[2]) >= Decimal(bound.value)  # of the layer
    assert Decimal(printed[-1].split()[1]) >= Decimal(bound.value)
    certificates = lip.certify(keras.Sequential([keras.Input((2,)), dense]), SAMPLES)
    first = certificates.summary().splitlines()[0]
    assert Decimal(first.rsplit(" ", 1)[1]) >= Decimal(certificates.bound)


def test_a_report_in_a_notebook():
    report = lip.bounds.report(model(), samples=1, steps=3)
    rows = dict(row for row in Cells(report._repr_html_()).rows if len(row) == 2)
    assert Decimal(rows["proven upper bound"]) >= Decimal(report.bound.value)
    assert Decimal(rows["lower estimate, attack"]) <= Decimal(report.attack)


def test_certificates_in_a_notebook():
    certificates = lip.certify(model(), SAMPLES, [0, 1])
    rows = Cells(certificates._repr_html_()).rows
    assert rows[0] == ["radius", "certified accuracy"]
    assert rows[1] == ["0.0000", "50.00%"]
    assert [line.split() for line in certificates.summary().splitlines()[3:]] == rows[1:]
    assert "2 samples" in certificates._repr_html_() and "'real'" not in str(rows)


def test_answers_in_a_notebook():
    answer = lip.verify.robustness(model(), SAMPLES, [0, 0], eps=0.2)
    rows = Cells(answer._repr_html_()).rows
    assert [row[:2] for row in rows[1:]] == [["robust", "1"], ["falsified", "1"], ["unknown", "0"]]
    assert "crown" in rows[1][2]
    assert str(answer).splitlines()[1].split()[:2] == ["robust", "1"]
