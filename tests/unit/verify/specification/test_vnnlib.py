"""VNN-LIB: what is read means what the file says, what is written comes back, answers are true."""

import gzip
import itertools
import re
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
from deel_lip_tf.verify.specification.vnnlib import counterexample, read_vnnlib
from deel_lip_tf.verify.specification.writing import to_vnnlib

DECLARED = "".join(f"(declare-const {v}_{i} Real)\n" for v in "XY" for i in range(2))
BOX = "(assert (and (>= X_0 -1) (<= X_0 1.0) (>= X_1 -1e0) (<= X_1 +1)))\n"


def parsed(tmp_path, text):
    path = tmp_path / "property.vnnlib"
    path.write_text(text, encoding="utf-8")
    return read_vnnlib(path)


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


def image_model(classes=3, final=None):
    inputs = keras.Input((2, 3, 1))
    x = layers.Flatten()(layers.Conv2D(2, 2, activation="relu")(inputs))
    return keras.Model(inputs, layers.Dense(classes, final)(x))


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
