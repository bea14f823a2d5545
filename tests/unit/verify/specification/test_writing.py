"""VNN-LIB: what is written comes back."""

import itertools
import re

import numpy as np
import pytest

from deel_lip_tf.verify import ball
from deel_lip_tf.verify.specification.vnnlib import counterexample, read_vnnlib
from deel_lip_tf.verify.specification.writing import to_vnnlib
from tests.unit.verify.specification.questions import image_model


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_is_written_is_read_back(version, tmp_path, rng):
    """Box and comparisons, to the last digit of float64; also numbers that need an exponent."""
    if version == "2.0":
        pytest.importorskip("vnnlib", minversion="1.0", reason="needs the verify extra")
    model, x = image_model(), rng.uniform(size=(2, 3, 1)) ** 20
    path = tmp_path / "written.vnnlib"
    to_vnnlib(path, model, x, label=1, eps=1e-7, version=version)
    domain, read = ball(x[None], 1e-7), read_vnnlib(path)
    assert len(read.conjunctions) == 2
    for conjunction in read.conjunctions:
        np.testing.assert_array_equal(conjunction.lower, domain.lower.ravel())
        np.testing.assert_array_equal(conjunction.upper, domain.upper.ravel())
    for outputs in itertools.permutations([0.0, 1.0, 2.0]):
        denied = any(c.holds(x, np.array(outputs)) for c in read.conjunctions)
        assert denied == (outputs[1] != 2.0)


def test_the_package_reads_the_same(tmp_path, rng):
    """The syntax tree of `vnnlib`, walked here: every comparison of the file."""
    vnnlib = pytest.importorskip("vnnlib", minversion="1.0", reason="needs the verify extra")
    model, x = image_model(), rng.uniform(size=(2, 3, 1))
    path = tmp_path / "written.vnnlib"
    to_vnnlib(path, model, x, label=2, eps=0.1, version="2.0")
    query = vnnlib.parse_query_file(str(path))
    (network,) = query.networks
    assert network.inputs[0].shape == [1, 2, 3, 1] and network.outputs[0].shape == [1, 3]
    *bounds, last = [assertion.expr for assertion in query.assertions]
    ends = {type(e): np.zeros(6) for e in bounds}
    for bound in bounds:
        ends[type(bound)][np.ravel_multi_index(bound.lhs.indices, [1, 2, 3, 1])] = bound.rhs.value
    domain = ball(x[None], 0.1)
    np.testing.assert_array_equal(ends[vnnlib.GreaterEqual], domain.lower.ravel())
    np.testing.assert_array_equal(ends[vnnlib.LessEqual], domain.upper.ravel())
    rivals = {(type(c).__name__, c.lhs.indices[1], c.rhs.indices[1]) for c in last.args}
    assert rivals == {("GreaterEqual", 0, 2), ("GreaterEqual", 1, 2)}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"norm": "l2"}, "boxes"),
        ({"version": "3.0"}, "version"),
        ({"label": 3}, "label"),
        ({"label": -1}, "label"),
        ({"x": np.zeros((2, 2, 3, 1))}, "one sample"),
        ({"eps": -1.0}, "eps"),
    ],
)
def test_questions_that_cannot_be_written(arguments, reason, tmp_path):
    given = {"x": np.zeros((2, 3, 1)), "label": 0, "eps": 0.1, **arguments}
    with pytest.raises(ValueError, match=reason):
        to_vnnlib(tmp_path / "a.vnnlib", image_model(), **given)


def test_counterexamples_keep_every_digit():
    x, y = np.array([[0.1, 1e-9]], np.float32), np.array([-3.5e10], np.float32)
    found = dict(re.findall(r"\((\w+_\d+) (\S+?)\)", counterexample(x, y)))
    assert list(found) == ["X_0", "X_1", "Y_0"] and "e" not in "".join(found.values())
    np.testing.assert_array_equal([float(v) for v in found.values()], [*x[0], *y])
