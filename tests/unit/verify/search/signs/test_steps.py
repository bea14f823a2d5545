"""Searches by signs that are recorded: what they write is a proof, and nothing else is."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.checking.network import Rejected
from deel_lip_tf.checking.proof import check
from deel_lip_tf.verify.files import decide_file
from deel_lip_tf.verify.search.signs import decide
from deel_lip_tf.verify.specification.vnnlib import read_vnnlib
from tests.unit.checking import files

SIZES = (26, 8, 8, 2)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A network, and whether its first output is below what it reaches by a little or a lot."""
    monkeypatch.setattr(decide, "_FIRST_STEPS", 2)  # so that there is something to split
    network = files.saved(tmp_path / "model.onnx", files.dense(SIZES, 3, 2.0))
    x = np.sign(np.random.default_rng(0).normal(size=(20000, 26)))
    top = files.values(files.dense(SIZES, 3, 2.0), x)[:, 0].max()

    def of(factor):
        question = tmp_path / f"{factor}.vnnlib"
        question.write_text(files.question(26, 2, f"(or (and (>= Y_0 {factor * top})))"))
        return network, question

    return of


def recorded(network, question, seconds=60.0):
    found = []
    verdict = decide_file(network, read_vnnlib(question), seconds, recorded=found)
    return verdict, found[0]


def test_a_search_that_is_recorded_is_a_proof(asked, tmp_path):
    network, question = asked(1.45)
    verdict, record = recorded(network, question)
    assert (verdict.status, record.is_proof) == ("unsat", True)
    assert decide_file(network, read_vnnlib(question), 60.0).status == "unsat"
    record.write(tmp_path / "proof", network, question)
    nodes, leaves = check(network, question, tmp_path / "proof")
    assert nodes == 2 * leaves - 1 and leaves > 1
    with np.load(tmp_path / "proof") as arrays:
        assert (arrays["places"] >= 0).any() and (arrays["betas"] > 0).any()


def test_what_was_found_or_left_open_is_no_proof(asked):
    for factor, seconds, status in ((0.8, 60.0, "sat"), (1.6, 0.0, "unknown")):
        verdict, record = recorded(*asked(factor), seconds)
        assert (verdict.status, record.is_proof) == (status, False)


def test_what_the_checker_does_not_refute_is_not_closed(asked, monkeypatch):
    """As if it read another network."""
    from deel_lip_tf.verify.search.inputs import record

    def other(program, layers):
        order = ORDER(program, layers)
        layers[-1] = layers[-1]._replace(bias=layers[-1].bias + 10.0)
        return order

    ORDER = record._order
    monkeypatch.setattr(record, "_order", other)
    verdict, found = recorded(*asked(1.6), 1.0)
    assert (verdict.status, found.is_proof) == ("unknown", False)


def test_a_network_that_is_read_in_another_order_is_not_recorded(asked, monkeypatch, tmp_path):
    from deel_lip_tf.verify.search.inputs import record

    monkeypatch.setattr(record, "_order", lambda program, layers: {})
    network, question = asked(1.45)
    verdict, found = recorded(network, question)
    assert (verdict.status, found.is_proof) == ("unsat", False)
    with pytest.raises(Rejected):
        check(network, question, network)
