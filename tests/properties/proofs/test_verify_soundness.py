"""No point of a domain leaves its bounds: every layer and activation, by every method."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from deel_lip_tf import verify
from deel_lip_tf.semantics import functions as activation_functions
from deel_lip_tf.semantics.ir.program import Affine
from deel_lip_tf.semantics.rule import registered
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation import alpha_beta
from deel_lip_tf.verify.search import branch_and_bound
from deel_lip_tf.verify.tensorflow import evaluate
from tests._tables import verify_cases

POINTS = 4500  # of each of two samples, for each of more than a hundred rows
STARTS, STEPS = 4, 8
LEAVES = 40  # of branch and bound: the rows themselves, and their halves
OBJECTIVES = np.concatenate([np.eye(3), [[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]])


# Where Keras rounds an argument, the model is not the function that the bounds are about.
# TensorFlow runs convolutions of volumes in groups only where they are compiled.
COMPILED = {"Conv3D(filters=4,kernel_size=2,groups=2)"}
RUN_AS_WRITTEN = [
    row for row in verify_cases.DISTINCT if row.written is None and row.name not in COMPILED
]


@pytest.fixture
def briefly(monkeypatch):
    """Few steps of the optimizations: any slopes and multipliers are sound."""
    monkeypatch.setattr(alpha_beta, "STEPS", 2)
    monkeypatch.setattr(branch_and_bound, "_STEPS", 2)
    monkeypatch.setattr(branch_and_bound, "_LAST_STEPS", 2)


def values(model, x):
    """Outputs at (count, n, *shape) points, by Keras itself."""
    flat = model(x.reshape(-1, *x.shape[2:]), training=False)
    return np.asarray(flat).reshape(*x.shape[:2], *flat.shape[1:])


def descended(model, domain):
    """Ends of projected gradient searches for the smallest and the largest of each output.

    The gradient is that of the program, in which constrained kernels are computed once; what is
    found there is judged by the model.
    """
    program = program_of(model)
    x = verify_cases.points(domain, 2 * program.outputs * STARTS, seed=1)
    signs = tf.repeat(tf.concat([np.eye(program.outputs), -np.eye(program.outputs)], 0), STARTS, 0)
    signs = tf.repeat(signs, len(domain), axis=0)
    width = (domain.upper - domain.lower)[None]
    for step in range(STEPS):
        point = tf.constant(x.reshape(-1, *x.shape[2:]))
        with tf.GradientTape() as tape:
            tape.watch(point)
            output = tf.reduce_sum(signs * evaluate(program, point)[program.output])
        slope = np.asarray(tape.gradient(output, point)).reshape(x.shape)
        x = verify_cases.project(domain, x - 0.5 * 0.7**step * width * np.sign(slope))
    return x


def ends(model, domain, count):
    """Smallest and largest of `OBJECTIVES` found on each domain, (n, functions)."""
    x = np.concatenate([verify_cases.points(domain, count), descended(model, domain)])
    assert all(domain.contains(point).all() for point in x[::100])
    found = values(model, x) @ OBJECTIVES.T
    assert found[..., 0].size >= count * len(domain)
    return found.min(axis=0), found.max(axis=0)


def check(model, domain, methods, least, most):
    """The default method as users call it, which runs the model, too; the others without that."""
    found = verify.bounds(model, domain, OBJECTIVES)
    hold(found.lower, found.upper, "crown", least, most)
    rows = np.concatenate([OBJECTIVES, -OBJECTIVES])[None]
    for method in methods:
        if method != "crown":
            found = lower_bounds(program_of(model), method, domain, rows)
            low, high = found[:, : len(OBJECTIVES)], -found[:, len(OBJECTIVES) :]
            hold(low, high, method, least, most)


def check_search(model, domain, least, most):
    """Branch and bound, and before any split "alpha-crown", of which it is the first step."""
    rows = np.concatenate([OBJECTIVES, -OBJECTIVES])
    rows = np.broadcast_to(rows, (len(domain), *rows.shape))
    options = {"target": None, "max_subdomains": LEAVES}
    found = branch_and_bound.branch_and_bound(program_of(model), domain, rows, **options)
    for bounds in (found.whole, found.lower):
        low, high = bounds[:, : len(OBJECTIVES)], -bounds[:, len(OBJECTIVES) :]
        hold(low, high, "branch-and-bound", least, most)


def hold(lower, upper, method, least, most):
    assert not np.isnan(lower).any(), method
    assert (lower <= least).all(), method
    assert (upper >= most).all(), method
    # They say something, unless the layer has no Lipschitz constant.
    assert np.isfinite(lower).all() or method == "lipschitz", method
    assert (lower <= upper).all(), method


@pytest.mark.parametrize("row", RUN_AS_WRITTEN, ids=str)
def test_no_point_of_a_box_leaves_the_bounds(row, eagerly, briefly):
    model, domain = verify_cases.with_head(row), verify_cases.domains(row.shape)["box"]
    least, most = ends(model, domain, POINTS)
    check(model, domain, verify_cases.METHODS, least, most)
    if row in verify_cases.KERAS or not is_affine(model):
        check_search(model, domain, least, most)


def is_affine(model):
    """Whether all that can be split is the head: as in rows of layers of Keras, which are searched.

    The backward pass through the row, to which a search has nothing to add, is that of "crown".
    """
    nodes = program_of(model).nodes[1:]
    return sum(not isinstance(node, Affine) for node in nodes) == 1


def test_the_points_are_a_million():
    """Each row counts its own; every method is held against all of them."""
    points = POINTS * 2 * len(RUN_AS_WRITTEN)
    print(f"{points} points by {len(verify_cases.ALL_METHODS)} methods")
    assert points >= 1_000_000


def test_every_layer_and_activation_is_in_the_table():
    models = [row.model() for row in verify_cases.ROWS]
    used = [part for model in models for part in model._flatten_layers()]
    # A softmax may only end a model; pooling in space has no kernel in float64 on a CPU.
    elsewhere = {layers.Softmax, layers.AveragePooling3D, layers.MaxPooling3D}
    kinds = {kind for kind, rule in registered().items() if rule.knows("lower")}
    missing = (
        {kind for kind in kinds if isinstance(kind, type)}
        - {type(part) for part in used}
        - elsewhere
    )
    assert not missing, "a rule without a row is checked by nothing"
    functions = {getattr(part, "activation", None) for part in used}
    rows = activation_functions.FUNCTIONS.items()
    missing = {f for f, row in rows if row.function and f.__module__.startswith("keras.src.act")}
    assert not missing - functions


BALLS = [
    row
    for row in RUN_AS_WRITTEN
    if str(row).startswith(("Dense(units=4", "residual", "GroupSort2", "ScaledL2NormPooling2D"))
]


@pytest.mark.parametrize("kind", ["l2", "l1"])  # to a bound an L-infinity ball is a box
@pytest.mark.parametrize("row", BALLS, ids=str)
def test_no_point_of_a_ball_leaves_the_bounds(row, kind, eagerly, briefly):
    model, domain = verify_cases.with_head(row), verify_cases.domains(row.shape)[kind]
    least, most = ends(model, domain, POINTS)
    check(model, domain, (*verify_cases.METHODS, "sdp-crown", "alpha-crown"), least, most)
    check_search(model, domain, least, most)


# The bounds of a layer are those of its last call.
ONCE = [row for row in RUN_AS_WRITTEN if row.name not in ("shared", "nested")]


@pytest.mark.parametrize("row", ONCE[::23], ids=str)
def test_no_layer_leaves_its_bounds(row, eagerly):
    model, domain = verify_cases.with_head(row), verify_cases.domains(row.shape)["box"]
    x = verify_cases.points(domain, 500)
    parts = [part for part in model.layers[1:] if isinstance(part, layers.Layer)]
    outputs = keras.Model(model.inputs[0], [p.output for p in parts])(x.reshape(-1, *row.shape))
    outputs = [np.asarray(part).reshape(*x.shape[:2], *part.shape[1:]) for part in outputs]
    for method in verify_cases.METHODS:
        layers_of = verify.bounds(model, domain, method=method, per_layer=True).layers
        for part, found in zip(parts, outputs, strict=True):
            if part.name not in layers_of:
                continue  # a nested model: its layers are there
            low, high = layers_of[part.name]
            assert (low <= found).all() and (high >= found).all(), (method, part.name)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_scales_change_nothing(scale, eagerly):
    row = verify_cases.ACTIVATION_LAYERS[0]
    model, domain = verify_cases.with_head(row), verify_cases.domains(row.shape, scale=scale)["box"]
    least, most = ends(model, domain, POINTS)
    check(model, domain, verify_cases.METHODS, least, most)


@pytest.mark.parametrize("method", list(verify_cases.METHODS))
def test_a_point_is_bounded_by_its_value(method, eagerly):
    row = RUN_AS_WRITTEN[0]
    model, x = verify_cases.with_head(row), np.random.default_rng(0).normal(size=(3, *row.shape))
    bounds = verify.bounds(model, verify.ball(x, 0.0, clip=None), method=method)
    expected = np.asarray(model(x))
    assert (bounds.lower <= expected).all() and (bounds.upper >= expected).all()
    np.testing.assert_allclose(bounds.upper, bounds.lower, rtol=0, atol=1e-9)
