"""Answers to properties are true, and near the optimum there are answers."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.verify import ball, decision
from deel_lip_tf.verify.decision import decide, decide_further
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.search import witnesses
from deel_lip_tf.verify.search.inputs.decide import Verdict
from deel_lip_tf.verify.specification.vnnlib import read_vnnlib
from deel_lip_tf.verify.specification.writing import to_vnnlib
from tests.unit.verify.specification.questions import BOX, DECLARED, image_model, parsed


def small_net(seed=1, final=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(12, "relu", bias_initializer="random_normal"),
            layers.Dense(12, "relu", bias_initializer="random_normal"),
            layers.Dense(2, final),
        ]
    )


def extremes(model):
    """Smallest and largest `Y_0` on a fine grid of [-1, 1]^2."""
    line = np.linspace(-1, 1, 801)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype("float32")
    first = model.predict(grid, batch_size=100000, verbose=0)[:, 0].astype(np.float64)
    return first.min(), first.max()


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_near_the_optimum(seed, tmp_path):
    """A little below the largest value there is a counterexample, a little above there is none."""
    model = small_net(seed)
    _, largest = extremes(model)
    ask = f"{DECLARED}{BOX}(assert (or (>= Y_0 {{}}) (and (<= Y_0 -1e6) (>= Y_1 0))))"
    below = decide(model, parsed(tmp_path, ask.format(largest - 1e-4)), time_limit=60)
    above = decide(model, parsed(tmp_path, ask.format(largest + 1e-2)), time_limit=60)
    assert (below.status, above.status) == ("sat", "unsat")
    assert above.witness is None
    assert below.witness.shape == (2,) and (np.abs(below.witness) <= 1).all()
    outputs = model.predict(below.witness[None], verbose=0)[0]
    np.testing.assert_array_equal(outputs, below.outputs)
    assert outputs[0] >= largest - 1e-4


RELATIONS = {
    "of two inputs": ("(<= X_0 (+ X_1 -0.25))", lambda x, y: x[:, 0] <= x[:, 1] - 0.25),
    "with coefficients": (
        "(<= (+ (* 0.1 X_0) (* 0.3 X_1)) 0.05)",
        lambda x, y: 0.1 * x[:, 0] + 0.3 * x[:, 1] <= 0.05,
    ),
    "of an input and an output": ("(<= (+ X_0 Y_1) 0)", lambda x, y: x[:, 0] + y[:, 1] <= 0),
}


@pytest.mark.parametrize(
    ("decided_by", "below"), [(decide, 1e-2), (decide_further, 0.1)], ids=["arrays", "graphs"]
)
@pytest.mark.parametrize("name", RELATIONS)
def test_relations_between_inputs(name, decided_by, below, tmp_path):
    """The largest value where the relation holds decides, not that of the box."""
    model, (text, holds) = small_net(1), RELATIONS[name]
    line = np.linspace(-1, 1, 401)
    x = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype("float32")
    y = model.predict(x, batch_size=100000, verbose=0).astype(np.float64)
    inside = holds(x.astype(np.float64), y)
    largest = y[inside, 0].max()
    assert 0.1 < inside.mean() < 0.9
    ask = f"{DECLARED}{BOX}(assert {text})(assert (>= Y_0 {{}}))"
    found = decided_by(model, parsed(tmp_path, ask.format(largest - below)), time_limit=600)
    above = decided_by(model, parsed(tmp_path, ask.format(largest + 0.1)), time_limit=600)
    assert (found.status, above.status) == ("sat", "unsat")
    assert found.outputs.shape == (2,)
    assert holds(found.witness[None].astype(np.float64), found.outputs[None].astype(np.float64))
    assert found.outputs[0] >= largest - below


@pytest.mark.parametrize(("distance", "status"), [(2.0, "sat"), (2.001, "unsat")])
def test_a_relation_alone(distance, status, tmp_path):
    """Two corners of the box are 2 apart, and no other points are."""
    text = f"{DECLARED}{BOX}(assert (>= X_0 (+ X_1 {distance})))"
    decision = decide(small_net(), parsed(tmp_path, text), time_limit=30)
    assert decision.status == status
    if status == "sat":
        assert decision.witness.tolist() == [1.0, -1.0]


def test_a_search_comes_before_the_tightest_bounds(tmp_path, monkeypatch):
    """They take longer, and are for what the search has not found."""
    asked = []

    def noted(program, method, *arguments):
        asked.append(method)
        return lower_bounds(program, method, *arguments)

    monkeypatch.setattr(decision, "lower_bounds", noted)
    open_still = Verdict("unknown", None, None, boxes=0, seconds=0.0)
    monkeypatch.setattr(decision, "decide_program", lambda *_, **__: open_still)
    model = small_net(1)
    smallest, largest = extremes(model)
    found = parsed(tmp_path, f"{DECLARED}{BOX}(assert (>= Y_0 {0.5 * (smallest + largest)}))")
    assert decide(model, found, time_limit=60).status == "sat"
    assert asked == ["crown"]
    none = parsed(tmp_path, f"{DECLARED}{BOX}(assert (>= Y_0 {largest + 1e-3}))")
    assert decide(model, none, time_limit=60).status == "unsat"
    assert asked[1:3] == ["crown", "alpha-crown"]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_exists_is_never_denied(sign, tmp_path, monkeypatch):
    """With a search that finds nothing, a small satisfiable region stays open."""

    rounds = [0]

    def blind(model, domain, claims, **options):
        rounds[0] += 1
        return np.full((len(claims), *domain.lower.shape[1:]), np.nan)

    open_still = Verdict("unknown", None, None, boxes=0, seconds=0.0)
    monkeypatch.setattr(decision, "decide_program", lambda *_, **__: open_still)
    monkeypatch.setattr(decision, "search", blind)
    monkeypatch.setattr(decision, "plain_points", lambda model, domain: np.zeros((0, 0, 2)))
    monkeypatch.setattr(decision, "time", SimpleNamespace(monotonic=lambda: rounds[0]))
    smallest, largest = extremes(small_net(1))
    claims = {1: f"(assert (>= Y_0 {largest - 1e-3}))", -1: f"(assert (<= Y_0 {smallest + 1e-3}))"}
    question = parsed(tmp_path, DECLARED + BOX + claims[sign])
    assert decide(small_net(1), question, time_limit=30).status == "unknown"
    assert rounds[0] == 30


def test_a_conjunction_that_only_holds_in_a_corner(tmp_path):
    """y = x here: the region is a triangle of side 0.02 that no coarse search hits."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    model.set_weights([np.eye(2), np.zeros(2)])
    ask = f"{DECLARED}{BOX}(assert (and (>= (+ Y_0 Y_1) {{}}) (<= Y_1 Y_0) (<= Y_0 Y_1)))"
    strict = ask.replace("(<= Y_1 Y_0)", "(< Y_1 (+ Y_0 0.01))").replace(
        "(<= Y_0 Y_1)", "(< Y_0 (+ Y_1 0.01))"
    )
    assert decide(model, parsed(tmp_path, strict.format(1.98)), time_limit=30).status == "sat"
    assert decide(model, parsed(tmp_path, strict.format(2.001)), time_limit=30).status == "unsat"


def test_input_constraints_alone(tmp_path):
    model = small_net()
    found = decide(model, parsed(tmp_path, f"{DECLARED}{BOX}"), time_limit=10)
    assert found.status == "sat" and (np.abs(found.witness) <= 1).all()
    none = parsed(tmp_path, f"{DECLARED}{BOX}(assert (>= X_0 2))")
    assert decide(model, none, time_limit=10).status == "unsat"


def test_strict_and_loose_at_the_boundary(tmp_path):
    """`y = 0` everywhere: `y > 0` never, `y >= 0` always, but only with equality."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    model.set_weights([np.zeros((2, 2)), np.zeros(2)])
    strict = parsed(tmp_path, f"{DECLARED}{BOX}(assert (> Y_0 1e-30))")
    assert decide(model, strict, time_limit=10).status == "unsat"
    loose = parsed(tmp_path, f"{DECLARED}{BOX}(assert (>= Y_0 0))")
    assert decide(model, loose, time_limit=10).status == "sat"


def relu_net(kernel, bias, outer, dtype="float32"):
    """`outer * relu(kernel x + bias)` of one number."""
    stack = [
        layers.Dense(1, "relu", dtype=dtype),
        layers.Dense(1, use_bias=False, dtype=dtype),
    ]
    model = keras.Sequential([keras.Input((1,), dtype=dtype), *stack])
    model.set_weights([np.array([[kernel]]), np.array([bias]), np.array([[outer]])])
    return model


ONE = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= {} X_0 {}))(assert {})"


WITH_EQUALITY = {
    "plateau": ((1.0, -0.25, -1.0), (-1, 1), "(>= Y_0 0)", "sat"),
    "plateau in a half": ((1.0, 0.25, -1.0), (-1, 1), "(>= Y_0 0)", "sat"),
    "corner": ((1.0, 0.0, 1.0), (-1, 1), "(>= Y_0 1)", "sat"),
    "one point": ((1.0, 0.0, 1.0), (0.5, 0.5), "(= Y_0 0.5)", "sat"),
    "strictly above a plateau": ((1.0, -0.25, -1.0), (-1, 1), "(> Y_0 0)", "unknown"),
    "strictly beyond a corner": ((1.0, 0.0, 1.0), (-1, 1), "(> Y_0 1)", "unknown"),
}


@pytest.mark.parametrize("name", WITH_EQUALITY)
def test_equality_is_an_answer_where_the_question_allows_it(name, tmp_path):
    weights, box, asked, status = WITH_EQUALITY[name]
    model = relu_net(*weights)
    question = parsed(tmp_path, ONE.format(*box, asked))
    answer = decide(model, question, time_limit=10 if status == "sat" else 1)
    assert answer.status == status
    if status == "sat":
        output = model(answer.witness[None], training=False).numpy()[0]
        assert any(c.holds(answer.witness, output) for c in question.conjunctions)


@pytest.mark.parametrize(
    ("asked", "is_witness"),
    [
        ("(>= Y_0 1.75)", False),  # the model returns 2, and the exact function is 1.5
        ("(> Y_0 1.5)", False),  # strictly by rounding alone
        ("(>= Y_0 1.5)", True),
        ("(<= Y_0 1.5)", False),  # true of the exact function, but not of the model
        ("(>= Y_0 1.25)", True),
    ],
)
def test_the_model_and_the_exact_function_must_agree_on_a_witness(asked, is_witness, tmp_path):
    """`(x + 2**24) - 2**24` is 2 in float32 at 1.5."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1), layers.Dense(1)])
    model.set_weights(
        [np.ones((1, 1)), np.array([2.0**24])] + [np.ones((1, 1)), np.array([-(2.0**24)])]
    )
    x = np.full((1, 1), 1.5, "float32")
    assert model(x).numpy() == 2.0
    (conjunction,) = parsed(tmp_path, ONE.format(1, 2, asked)).conjunctions
    found = witnesses.first_witness(model, program_of(model), [conjunction], x)
    assert (found is not None) == is_witness


def test_softmax_is_compared_and_not_measured(tmp_path):
    model = small_net(final="softmax")
    ask = f"{DECLARED}{BOX}(assert (<= (* 2.0 Y_0) (* 2.0 Y_1)))"
    order = parsed(tmp_path, ask)
    values = model.predict(np.random.default_rng(0).uniform(-1, 1, (5000, 2)), verbose=0)
    answer = decide(model, order, time_limit=20)
    assert answer.status == ("sat" if (values[:, 0] <= values[:, 1]).any() else "unsat")
    with pytest.raises(ValueError, match="softmax"):
        decide(model, parsed(tmp_path, f"{DECLARED}{BOX}(assert (<= Y_0 0.2))"))


def test_a_property_of_another_model_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="3 inputs and 2 outputs"):
        decide(model, parsed(tmp_path, f"{DECLARED}{BOX}(assert (<= Y_0 0))"))


def test_our_question_is_answered_as_robustness_answers_it(tmp_path, rng):
    model = image_model()
    x = rng.uniform(size=(4, 2, 3, 1)).astype("float32")
    labels = model.predict(x, verbose=0).argmax(axis=1)
    seen = set()
    for sample, label, eps in zip(x, labels, [0.001, 0.5, 0.01, 0.9], strict=True):
        path = tmp_path / "question.vnnlib"
        to_vnnlib(path, model, sample, int(label), eps)
        answer = decide(model, read_vnnlib(path), time_limit=20)
        seen.add(answer.status)
        points = ball(sample[None], eps)
        random = rng.uniform(points.lower[0], points.upper[0], size=(2000, 2, 3, 1))
        changed = (model.predict(random, verbose=0).argmax(axis=1) != label).any()
        assert not (answer.status == "unsat" and changed)
        if answer.status == "sat":
            assert points.contains(answer.witness[None].astype(np.float64)).all()
            assert model.predict(answer.witness[None], verbose=0).argmax() != label
    assert seen >= {"sat", "unsat"}
