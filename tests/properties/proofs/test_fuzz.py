"""Random graphs, files and questions: a seeded part of what `python -m tests.fuzz` does for hours.

Oracles are NumPy, ONNX's reference evaluator and the running model; see `tests/fuzz/__init__.py`.
"""

import keras
import numpy as np
import pytest

from deel_lip_tf import bounds, certificates, verify
from tests.fuzz import command, statements
from tests.fuzz.models import subjects
from tests.fuzz.tally import Tally

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="verification runs on TensorFlow"
    ),
    pytest.mark.filterwarnings("ignore"),  # of what is drawn: layers of any constant, odd names
]

CASES = {"network": 12, "classifier": 8, "question": 5, "file": 10}
SLOW = {"network": 8, "classifier": 8, "question": 4, "file": 8}  # times as many
ANSWERED = {
    "network": ("lipschitz_bound l2", "lipschitz_bound linf", "reload"),
    "classifier": ("certify real", "certify float32 local", "class_divisors"),
    "question": ("robustness crown", "bounds ibp", "to_vnnlib"),
    "file": ("from_onnx", "file decide"),
}
"""Claims of which at least a third of the questions must be answered: refusals try nothing."""


@pytest.fixture(autouse=True)
def untraced():
    with command.untraced():
        yield


def run(group, seeds):
    tally = Tally()
    for seed in seeds:
        command.run_case(group, seed, tally)
    return tally


@pytest.mark.parametrize("group", CASES)
def test_no_claim_is_violated(group):
    tally = run(group, range(CASES[group]))
    assert not tally.violations, tally.summary()
    assert sum(tally.asked.values()) >= 2 * CASES[group]


@pytest.mark.slow
@pytest.mark.parametrize("group", CASES)
def test_no_claim_is_violated_in_more_cases(group):
    tally = run(group, range(1000, 1000 + SLOW[group] * CASES[group]))
    assert not tally.violations, tally.summary()
    shares = {claim: tally.share(claim) for claim in ANSWERED[group]}
    assert min(shares.values()) > 1 / 3, tally.summary()


@pytest.mark.slow
def test_no_statement_is_violated():
    tally = run("statement", range(2000, 2012))
    assert not tally.violations, tally.summary()
    assert len(tally.asked) == len(statements.STATEMENTS), tally.summary()


@pytest.mark.parametrize("make", (subjects.network, subjects.classifier))
def test_the_oracle_computes_what_the_model_computes(make):
    """Not in every case: rounding may cross the steps of integers."""
    agrees = []
    for seed in range(20):
        subject = make([seed, 99])
        points = subject.points(np.random.default_rng(seed), 4)
        try:
            running, expected = subject.run(points), subject(points)
        except (TypeError, ValueError, command.tf.errors.OpError):
            continue  # TensorFlow does not compute every type and data format on a CPU
        difference = np.abs(running - expected).max()
        agrees.append(difference <= subject.rounding(points))
    assert len(agrees) >= 15
    assert np.mean(agrees) >= 0.85


def test_a_case_is_drawn_again_by_its_seed():
    first, second = subjects.classifier([3, 1]), subjects.classifier([3, 1])
    assert first.text() == second.text()
    x = first.points(np.random.default_rng(0), 3)
    np.testing.assert_array_equal(first(x), second(x))


def shrunk(name, value):
    """A function whose result has one attribute multiplied."""
    honest = getattr(*name)

    def planted(*arguments, **keywords):
        found = honest(*arguments, **keywords)
        for attribute, factor in value.items():
            object.__setattr__(found, attribute, factor * getattr(found, attribute))
        return found

    return planted


@pytest.mark.parametrize(
    ("group", "name", "value", "claim"),
    [
        ("network", (bounds, "lipschitz_bound"), {"value": 0.5}, "lipschitz_bound l2"),
        ("classifier", (certificates, "certify"), {"radius": 3.0}, "certify real radius"),
        pytest.param(
            *("question", (verify, "certified_radius"), 3.0, "certified_radius"),
            marks=pytest.mark.slow,
        ),
        ("question", (verify, "bounds"), {"lower": 0.9, "upper": 0.9}, "bounds"),
        *(
            pytest.param("statement", (certificates, name), value, claim, marks=pytest.mark.slow)
            for name, value, claim in (
                ("certify_regression", {"lower": 0.9, "upper": 0.9}, "certify_regression"),
                ("certify_top_k", {"radius": 3.0}, "certify_top_k"),
                ("conformal_sets", {"constants": 0.1}, "conformal_sets"),
                ("certify", {"radius": 3.0}, "certify weights_within"),
                ("certify", {"radius": 3.0}, "one class"),
            )
        ),
        *(
            pytest.param("statement", (bounds, name), value, claim, marks=pytest.mark.slow)
            for name, value, claim in (
                ("local_lipschitz", 0.3, "local_lipschitz"),
                ("lipschitz_bound", {"value": 0.3}, "contraction"),
                ("lipschitz_bound", {"value": 0.1}, "monotonic"),
            )
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_a_false_claim_is_found(group, name, value, claim, monkeypatch):
    honest = getattr(*name)
    is_factor = isinstance(value, float)
    planted = (lambda *a, **k: value * honest(*a, **k)) if is_factor else shrunk(name, value)
    monkeypatch.setattr(*name, planted)
    for seed in range(30):
        tally = run(group, [seed])
        if any(v.claim.startswith(claim) for v in tally.violations):
            return
    raise AssertionError(f"a false {claim} was not found in 30 cases")


def test_the_command_reports_and_exits(tmp_path, capsys):
    log = tmp_path / "fuzz.log"
    arguments = ["--seconds", "60", "--count", "2", "--only", "file", "--log", str(log)]
    code = command.main(arguments)
    printed = capsys.readouterr().out
    assert "seeds 0 to 1" in printed
    assert "2 graphs and files" in printed
    assert code == int("VIOLATION" in printed)
    assert len(log.read_text().splitlines()) >= 2
