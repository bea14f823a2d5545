"""Bounds against exact optima by enumeration, and against CROWN written out neuron by neuron."""

import itertools
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf import verify
from deel_lip_tf.semantics.ir.elementwise import relu
from deel_lip_tf.semantics.ir.primitives import MatMul
from deel_lip_tf.semantics.ir.program import Builder, Program
from deel_lip_tf.verify.methods import lower_bounds
from deel_lip_tf.verify.models import program_of
from deel_lip_tf.verify.propagation import alpha_beta
from deel_lip_tf.verify.search import branch_and_bound
from tests._oracles import oracles
from tests._tables import verify_cases

# Every model here is tiny, and its own.
pytestmark = pytest.mark.usefixtures("eagerly")

linprog = pytest.importorskip("scipy.optimize").linprog


def network(*widths, seed=0):
    """Dense float64 layers with ReLU between them, and their matrices and biases."""
    rng = np.random.default_rng(seed)
    stack = [
        layers.Dense(width, activation=None if last else "relu", dtype="float64")
        for width, last in zip(widths[1:], [False] * (len(widths) - 2) + [True], strict=True)
    ]
    model = keras.Sequential([keras.Input((widths[0],), dtype="float64"), *stack])
    for layer in stack:
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    return model, [[w.numpy() for w in layer.weights] for layer in stack]


def exact_minimum(parts, row, low, high):
    """The smallest `row . f` on a box: a linear program for each pattern of active neurons."""
    best, hidden = np.inf, [len(bias) for _, bias in parts[:-1]]
    for pattern in itertools.product([0.0, 1.0], repeat=sum(hidden)):
        active = np.split(np.array(pattern), np.cumsum(hidden)[:-1])
        matrix, offset, rows, limits = np.eye(len(low)), np.zeros(len(low)), [], []
        for (kernel, bias), mask in zip(parts[:-1], active, strict=True):
            matrix, offset = kernel.T @ matrix, kernel.T @ offset + bias
            # On this piece the active neurons are not negative, the others not positive.
            rows.append((1 - 2 * mask)[:, None] * matrix)
            limits.append((2 * mask - 1) * offset)
            matrix, offset = mask[:, None] * matrix, mask * offset
        kernel, bias = parts[-1]
        matrix, offset = row @ kernel.T @ matrix, row @ (kernel.T @ offset + bias)
        box = list(zip(low, high, strict=True))
        found = linprog(matrix, np.concatenate(rows), np.concatenate(limits), bounds=box)
        if found.status == 0:
            best = min(best, found.fun + offset)
    return best


ROWS = np.array([[1.0, -1.0], [-0.5, 2.0]])


@pytest.mark.parametrize("widths", [(2, 5, 2), (3, 3, 3, 2)], ids=str)
@pytest.mark.parametrize("eps", [0.05, 0.4])
def test_no_method_beats_the_exact_optimum(widths, eps):
    model, parts = network(*widths)
    x = np.random.default_rng(1).normal(size=(2, widths[0]))
    domain = verify.ball(x, eps, clip=None)
    exact = [
        [exact_minimum(parts, r, *box) for r in ROWS]
        for box in zip(domain.lower, domain.upper, strict=True)
    ]
    for method in verify_cases.METHODS:
        found = verify.bounds(model, domain, ROWS, method).lower
        assert (found <= np.array(exact) + 1e-9).all(), method
    if eps == 0.05:
        crown = verify.bounds(model, domain, ROWS, "crown").lower
        assert (crown >= np.array(exact) - 0.5).all(), "crown is far from the optimum"


@pytest.mark.parametrize("method", ["forward", "crown-ibp", "crown"])
def test_without_unstable_neurons_linear_bounds_are_exact(method):
    model, parts = network(3, 4, 4, 2)
    x = np.random.default_rng(1).normal(size=(1, 3))
    domain = verify.ball(x, 1e-4, clip=None)
    exact = [exact_minimum(parts, r, domain.lower[0], domain.upper[0]) for r in ROWS]
    found = verify.bounds(model, domain, ROWS, method).lower[0]
    np.testing.assert_allclose(found, exact, atol=1e-7)


def rational(values):
    return [[Fraction(float(v)) for v in row] for row in np.atleast_2d(values)]


def exact_range(parts, low, high):
    """Smallest and largest output of affine maps on a box, in rational numbers."""
    rows, offsets = rational(np.eye(parts[-1][0].shape[1])), [Fraction(0)] * parts[-1][0].shape[1]
    for kernel, bias in reversed(parts):
        kernel, (bias,) = rational(kernel), rational(bias)
        offsets = [
            c + sum(a * b for a, b in zip(r, bias, strict=True))
            for c, r in zip(offsets, rows, strict=True)
        ]
        rows = [[sum(a * b for a, b in zip(r, k, strict=True)) for k in kernel] for r in rows]
    (low,), (high,) = rational(low), rational(high)
    ends = [[(a * x, a * y) for a, x, y in zip(r, low, high, strict=True)] for r in rows]
    return [
        tuple(c + sum(choose(end) for end in row) for choose in (min, max))
        for c, row in zip(offsets, ends, strict=True)
    ]


@pytest.mark.parametrize("method", verify_cases.ALL_METHODS)
@pytest.mark.parametrize("is_linear", [True, False])
def test_rounding_errors_are_counted(method, is_linear, monkeypatch):
    """Terms that cancel: what float64 makes of them is far from the sum, in its last digits.

    A PReLU of slope 1 is linear, and is bounded and split like one that is not; its own slack
    would hide what is lost in the sums, so that there is a model without it.
    """
    for room, name in (
        (alpha_beta, "STEPS"),
        (branch_and_bound, "_STEPS"),
        (branch_and_bound, "_LAST_STEPS"),
    ):
        monkeypatch.setattr(room, name, 2)
    dense = [layers.Dense(units, dtype="float64") for units in (6, 3)]
    kink = [] if is_linear else [layers.PReLU(keras.initializers.Ones(), dtype="float64")]
    model = keras.Sequential([keras.Input((40,), dtype="float64"), dense[0], *kink, dense[1]])
    rng = np.random.default_rng(2)
    for layer in dense:
        shapes = [weight.shape for weight in layer.weights]
        layer.set_weights([rng.normal(size=s) * 10.0 ** rng.uniform(-6, 6, s) for s in shapes])
    parts = [layer.get_weights() for layer in dense]
    x = rng.normal(size=(6, 40)) * 10.0 ** rng.uniform(-6, 6, (6, 40))
    for eps in (0.0, 0.1):
        domain = verify.box(x - eps * np.abs(x), x + eps * np.abs(x))
        found = verify.bounds(model, domain, method=method, time_limit=1.0)
        for i in range(len(x)):
            exact = exact_range(parts, domain.lower[i], domain.upper[i])
            for k, (least, most) in enumerate(exact):
                assert Fraction(found.lower[i, k]) <= least
                assert Fraction(found.upper[i, k]) >= most


def reference_crown(parts, low, high, rows):
    """CROWN with adaptive slopes, one neuron at a time; `parts` are matrices (outputs, inputs).

    What a relu reads also lies in the interval that interval arithmetic finds.
    """
    before = []  # bounds of what each relu reads

    def lower_of(depth, row):
        """The smallest value, as CROWN sees it, of `row . (layer `depth` before its relu)`."""
        matrix, bias = parts[depth]
        constant, row = row @ bias, row @ matrix
        for level in range(depth - 1, -1, -1):
            new = np.zeros(len(row))
            for i, weight in enumerate(row):
                a, b = before[level][0][i], before[level][1][i]
                if a >= 0:
                    slope, offset = 1.0, 0.0
                elif b <= 0:
                    slope, offset = 0.0, 0.0
                elif weight >= 0:
                    slope, offset = float(b > -a), 0.0
                else:
                    slope, offset = b / (b - a), -b * a / (b - a)
                new[i] = weight * slope
                constant += weight * offset
            matrix, bias = parts[level]
            constant, row = constant + new @ bias, new @ matrix
        return constant + sum(min(a * x, a * y) for a, x, y in zip(row, low, high, strict=True))

    low_in, high_in = low, high
    for depth, (matrix, bias) in enumerate(parts[:-1]):
        eye, positive, negative = np.eye(len(bias)), np.maximum(matrix, 0), np.minimum(matrix, 0)
        smallest = positive @ low_in + negative @ high_in + bias
        largest = positive @ high_in + negative @ low_in + bias
        smallest = np.maximum(smallest, [lower_of(depth, row) for row in eye])
        largest = np.minimum(largest, [-lower_of(depth, -row) for row in eye])
        before.append((smallest, largest))
        low_in, high_in = np.maximum(smallest, 0), np.maximum(largest, 0)
    return np.array([lower_of(len(parts) - 1, row) for row in rows])


def as_matrices(model, shape):
    """Each layer of a network as `(matrix, bias)` of flattened vectors."""
    parts = []
    for layer in model.layers:
        if not layer.weights:
            continue
        kernel, bias = (w.numpy() for w in layer.weights)
        if kernel.ndim == 2:
            parts.append((kernel.T, bias))
            continue
        strides, padding = layer.strides, layer.padding

        def apply(x, kernel=kernel, strides=strides, padding=padding):
            return oracles.conv2d(x, kernel, strides, padding)

        matrix = oracles.matrix_of(apply, shape)
        shape = apply(np.zeros((1, *shape))).shape[1:]
        parts.append((matrix, np.tile(bias, int(np.prod(shape[:-1])))))
    return parts


def dense_network(shape):
    return [
        layers.Flatten(),
        *(layers.Dense(n, activation="relu") for n in (9, 8, 7)),
        layers.Dense(3),
    ]


def convolutional_network(shape):
    return [
        layers.Conv2D(3, 3, padding="same", activation="relu"),
        layers.Conv2D(4, (2, 3), strides=2, padding="same", activation="relu"),
        layers.Conv2D(2, 2, activation="relu"),
        layers.Flatten(),
        layers.Dense(5, activation="relu"),
        layers.Dense(3),
    ]


def wide_network(shape):
    """Windows that reach beyond the image on both sides, and then cover it."""
    return [
        layers.Conv2D(2, 5, padding="same", activation="relu"),
        layers.Conv2D(2, 5, padding="same", activation="relu"),
        layers.Conv2D(2, 3, padding="valid", activation="relu"),
        layers.Flatten(),
        layers.Dense(3),
    ]


@pytest.mark.parametrize("make", [dense_network, convolutional_network, wide_network])
@pytest.mark.parametrize("eps", [0.02, 0.2])
def test_crown_is_the_reference_neuron_by_neuron(make, eps):
    shape = (7, 6, 2)
    keras.config.set_floatx("float64")
    try:
        model = keras.Sequential([keras.Input(shape), *make(shape)])
    finally:
        keras.config.set_floatx("float32")
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights(
            [rng.normal(size=w.shape) / np.sqrt(w.shape[0] * 4) for w in layer.weights]
        )
    x = rng.uniform(size=(2, *shape))
    domain = verify.ball(x, eps)
    rows = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
    found = verify.bounds(model, domain, rows, "crown").lower
    parts = as_matrices(model, shape)
    boxes = zip(domain.lower.reshape(2, -1), domain.upper.reshape(2, -1), strict=True)
    expected = [reference_crown(parts, low, high, rows) for low, high in boxes]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_linear_function_of_a_ball_in_a_box_is_minimized_exactly(norm):
    """Against the steps themselves, found by sorting or by a search for their common scale."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 4))
    model = keras.Sequential(
        [keras.Input((6,), dtype="float64"), layers.Dense(4, use_bias=False, dtype="float64")]
    )
    model.set_weights([kernel])
    x = rng.uniform(size=(3, 6))
    x[0, :3] = 0.0
    domain = verify.ball(x, np.array([0.1, 0.6, 5.0]), norm)
    found = verify.bounds(model, domain, method="crown").lower
    expected = [[smallest(kernel[:, k], domain[i : i + 1]) for k in range(4)] for i in range(3)]
    assert (found <= np.array(expected) + 1e-9).all()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def smallest(a, domain):
    """The smallest `a . x`: each axis moves by its share until the ball is full."""
    center, radius = domain.center[0], domain.radius[0]
    limit = np.where(a > 0, center - domain.lower[0], domain.upper[0] - center)
    if domain.norm == "l1":
        moved = np.zeros(len(a))
        for axis in np.argsort(-np.abs(a)):
            moved[axis] = min(limit[axis], radius - moved.sum())
    else:
        low, high = 0.0, 1e9
        for _ in range(200):
            middle = 0.5 * (low + high)
            fits = np.linalg.norm(np.minimum(limit, middle * np.abs(a))) <= radius
            low, high = (middle, high) if fits else (low, middle)
        moved = np.minimum(limit, low * np.abs(a))
    return a @ center - np.abs(a) @ moved


SCALES = {
    "large, then small": [1e38] * 8 + [1e-38] * 9,
    "small, then large": [1e-38] * 9 + [1e38] * 8,
    "one large, then small": [1e200, 1e-170, 1e-170],
    "small, then one large": [1e-170, 1e-170, 1e200],
    "so small that squares underflow": [1e-100, 1e-70],
}
DOMAINS = {
    "box": verify.box([[-1.0]], [[1.0]]),
    "l2": verify.ball([[0.0]], 1.0, "l2", clip=None),
    "l1": verify.ball([[0.0]], 1.0, "l1", clip=None),
}


def scaled(scales):
    """A program of one input that multiplies `relu(x - .1)`, and the exact product."""
    builder, index, product = Builder((1,)), 0, Fraction(1)
    for depth, scale in enumerate(scales):
        matrix = scale * np.eye(1 if depth == 0 else 2, 2 if depth < len(scales) - 1 else 1)
        bias = -0.1 * scale * np.ones(2) if depth == 0 else np.zeros(matrix.shape[1])
        index = builder.affine(index, MatMul(matrix), bias)
        if depth < len(scales) - 1:
            index = builder.function(index, relu())
        product *= Fraction(scale)
    return Program(tuple(builder.nodes), index, ()), product


@pytest.mark.parametrize("method", verify.METHODS)
@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize(
    "domain", ["box", *(pytest.param(ball, marks=pytest.mark.slow) for ball in ("l2", "l1"))]
)
def test_products_of_weights_that_underflow_are_counted(domain, name, method):
    program, product = scaled(SCALES[name])
    # At 1 all neurons are on: .9 times the product, up to the rounding of the bias.
    reached = -product * (1 - Fraction(0.1) * (1 + Fraction(1, 2**50)))
    ((found,),) = lower_bounds(program, method, DOMAINS[domain], np.array([[[-1.0]]]))
    assert found == -np.inf or Fraction(float(found)) <= reached


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method", verify.METHODS)
def test_what_cancels_in_float64_and_not_exactly_is_counted(norm, method):
    first, second = np.array([[1.0, 2.0**-30, 1.0]]), np.array([[1.0], [2.0**-30], [-1.0]])
    assert first @ second == 0.0  # exactly it is 2**-60
    denses = [layers.Dense(3, use_bias=False), layers.Dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((1,)), *denses])
    model.set_weights([first, second])
    domain = verify.ball([[0.0]], 1024.0, norm, clip=None)
    ((found,),) = lower_bounds(program_of(model), method, domain, np.array([[[1.0]]]))
    assert Fraction(float(found)) <= -1024 * Fraction(1, 2**60)


def test_what_is_0_stays_exactly_0():
    """A dead branch costs no bound: nothing is added to what has no coefficients."""
    builder = Builder((2,))
    index = builder.affine(0, MatMul(np.zeros((2, 3))), np.zeros(3))
    index = builder.affine(builder.function(index, relu()), MatMul(np.ones((3, 1))), np.zeros(1))
    program = Program(tuple(builder.nodes), index, ())
    domain = verify.box([[-1.0, 0.0]], [[1.0, 2.0]])
    for method in ("ibp", "crown-ibp", "crown"):
        assert lower_bounds(program, method, domain, np.array([[[1.0]]])) == 0.0
