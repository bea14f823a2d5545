"""Records of a search: they are proofs where it was decided by boxes alone, and nowhere else."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.checking.network import Layer
from deel_lip_tf.verify.search.inputs.decide import decide_program
from deel_lip_tf.verify.search.inputs.record import Record
from tests.unit.verify.search.inputs import networks
from tests.unit.verify.search.inputs.networks import asked, conjunction, values_at

PROGRAM = networks.dense((2, 8, 8, 8, 2), seed=2, scale=1.5)
AFFINE = [node for node in PROGRAM.nodes if hasattr(node, "map")]
LAYERS = [Layer(node.map.matrix.T, node.bias.ravel(), node is not AFFINE[-1]) for node in AFFINE]
BOX = [-1.0] * 2, [1.0] * 2


def threshold(room):
    """What the first output reaches on a grid, and so much more, of what it spreads."""
    line = np.linspace(-1.0, 1.0, 201)
    points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    values = values_at(PROGRAM, points)[:, 0]
    return values.max() + room * np.ptp(values)


def recorded(property, layers=LAYERS, **options):
    record = Record(PROGRAM, property, layers)
    return decide_program(PROGRAM, property, record=record, **options), record


def test_a_search_that_is_recorded_gives_the_same_answer():
    property = asked(conjunction(*BOX, [[-1.0, 0.0]], [threshold(0.01)]))
    verdict, record = recorded(property)
    alone = decide_program(PROGRAM, property)
    assert (verdict.status, alone.status, record.is_proof) == ("unsat", "unsat", True)
    assert 1 < alone.boxes <= verdict.boxes < 2 * alone.boxes


def test_what_was_found_or_left_open_is_no_proof():
    found = conjunction(*BOX, [[-1.0, 0.0]], [threshold(-0.01)])
    refuted = conjunction(*BOX, [[-1.0, 0.0]], [threshold(0.01)])
    for claims, options in {
        (found,): {},
        (refuted, found): {},
        (refuted,): {"seconds": 0.0},
    }.items():
        verdict, record = recorded(asked(*claims), **options)
        assert verdict.status != "unsat" and not record.is_proof


def test_a_question_of_nothing_has_a_proof_of_nothing():
    verdict, record = recorded(networks.Property(2, 2, ()))
    assert (verdict.status, record.is_proof) == ("unsat", True)


def test_what_the_checker_does_not_refute_is_split_further():
    """As if it read another network, and would reject the proof."""
    property = asked(conjunction(*BOX, [[-1.0, 0.0]], [threshold(0.01)]))
    last = LAYERS[-1]._replace(bias=LAYERS[-1].bias + 10.0)
    verdict, record = recorded(property, [*LAYERS[:-1], last], seconds=0.5)
    assert (verdict.status, record.is_proof) == ("unknown", False)
