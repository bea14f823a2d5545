"""Dense layers bounded together: against every pattern of slopes, in floats and in rationals."""

import itertools
import math
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import activations, layers, ops

import deel_lip_tf as lip
from deel_lip_tf._keras import float64_kept
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.bounds.chains import Matrix, chain_norm_bound
from deel_lip_tf.certificates import margin_lipschitz_constants
from deel_lip_tf.semantics.functions import FUNCTIONS

ROUNDING = 1 + 1e-12  # of NumPy's singular values of products of a few small matrices


def bound_of(matrices):
    return chain_norm_bound([Matrix.of(np.asarray(matrix, float)) for matrix in matrices])


def patterns(matrices, slopes=(0, 1)):
    """The products with all patterns of slopes: their norms have their largest value at the ends,
    because a norm is convex in each slope."""
    widths = [len(matrix) for matrix in matrices[:-1]]
    for pattern in itertools.product(slopes, repeat=sum(widths)):
        product, parts = matrices[0], np.split(np.array(pattern), np.cumsum(widths))
        for matrix, part in zip(matrices[1:], parts, strict=False):
            product = matrix @ (part[:, None] * product)
        yield product


def scaled(matrices):
    """The same with entries up to 1, and the product of what they were divided by."""
    sizes = [float(np.abs(matrix).max()) or 1.0 for matrix in matrices]
    return [m / size for m, size in zip(matrices, sizes, strict=True)], sizes


def largest_norm(matrices, slopes=(0, 1)):
    return max(np.linalg.norm(product, 2) for product in patterns(matrices, slopes))


def drawn(rng, *sizes):
    pairs = itertools.pairwise(sizes)
    return [rng.standard_normal((after, before)) for before, after in pairs]


def rank_one(rng):
    return [np.outer(m[:, 0], m[0]) for m in drawn(rng, 3, 4, 4, 2)]


def dead(rng):
    first, second, last = drawn(rng, 3, 4, 3, 2)
    first[1], second[:, 2] = 0.0, 0.0
    return [first, second, last]


def repeated(rng):
    matrix = rng.standard_normal((3, 3))
    return [matrix, matrix, matrix]


def isometries(rng):
    return [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(4)]


def huge_and_tiny(rng):
    scales = 10.0 ** rng.integers(-30, 31, 3)
    return [s * m for s, m in zip(scales, drawn(rng, 3, 4, 4, 2), strict=True)]


def graded(rng):
    first, last = drawn(rng, 5, 5, 5)
    return [first * 10.0 ** -np.arange(0, 150, 30.0), last * 10.0 ** np.arange(0, -150, -30.0)]


def positive(rng):
    return [np.abs(m) for m in drawn(rng, 3, 4, 4, 2)]  # with all slopes 1, the worst is attained


FAMILIES = {
    "random": lambda rng: drawn(rng, 3, 4, 4, 2),
    "deep": lambda rng: drawn(rng, 2, 2, 2, 2, 2, 2, 2),
    "wide": lambda rng: drawn(rng, 2, 9, 3),
    "narrow": lambda rng: drawn(rng, 3, 1, 4, 1),
    "width one": lambda rng: drawn(rng, 1, 1, 1, 1),
    "one matrix": lambda rng: drawn(rng, 4, 3),
    "rank one": rank_one,
    "dead neurons": dead,
    "repeated": repeated,
    "isometries": isometries,
    "scales": huge_and_tiny,
    "graded": graded,
    "positive": positive,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_pattern_of_slopes_exceeds_the_bound(name, rng):
    for _ in range(12):
        matrices = FAMILIES[name](rng)
        small, sizes = scaled(matrices)
        bound = bound_of(matrices)
        for size in sizes:
            bound /= size
        product = math.prod(np.linalg.norm(matrix, 2) for matrix in small)
        assert largest_norm(small) <= bound * ROUNDING
        assert bound <= product * (1 + 1e-9)


def test_it_is_smaller_than_the_product_and_sometimes_exact(rng):
    ratios = []
    for _ in range(30):
        matrices = drawn(rng, 4, 6, 5, 3)
        product = math.prod(np.linalg.norm(matrix, 2) for matrix in matrices)
        ratios.append(bound_of(matrices) / product)
    assert np.median(ratios) < 0.8
    # One hidden neuron: nothing is lost.
    first, last = drawn(rng, 4, 1, 3)
    assert bound_of([first, last]) == pytest.approx(largest_norm([first, last]), rel=1e-10)


def is_positive_semidefinite(matrix):
    """By elimination in rationals."""
    matrix = [row[:] for row in matrix]
    while matrix:
        pivot, *rest = matrix[0]
        if pivot < 0 or (pivot == 0 and any(rest)):
            return False
        matrix = [
            [a - row[0] * b / pivot if pivot else a for a, b in zip(row[1:], rest, strict=True)]
            for row in matrix[1:]
        ]
    return True


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 1, 1, 1, 1), (2, 2, 2), (2, 3, 1), (1, 2, 2, 1)])
def test_no_pattern_exceeds_it_in_rationals(sizes, rng):
    for _ in range(20):
        pairs = list(itertools.pairwise(sizes))
        matrices = [rng.integers(-9, 10, (after, before)) for before, after in pairs]
        if any(not matrix.any() for matrix in matrices):
            continue
        square = Fraction(bound_of(matrices)) ** 2
        for product in patterns([m.astype(object) for m in matrices]):
            gram = product.T @ product
            difference = [
                [square * (i == j) - gram[i, j] for j in range(len(gram))] for i in range(len(gram))
            ]
            assert is_positive_semidefinite(difference)


def test_slopes_below_zero_would_break_it():
    matrices = [np.ones((2, 1)), np.array([[1.0, -1.0]])]
    bound = bound_of(matrices)
    assert largest_norm(matrices) == 1.0 <= bound
    assert largest_norm(matrices, (-1, 1)) == 2.0 > bound


def test_zeros_prove_nothing_where_the_product_is_zero():
    assert bound_of([np.zeros((2, 3)), np.ones((2, 2))]) == math.inf
    model = dense_model([np.zeros((2, 3)), np.ones((2, 2))], ["relu", None])
    assert lipschitz_bound(model).value < 1e-300 and lipschitz_bound(model).chains == ()


def test_rounding_of_merged_layers_is_counted():
    # 1 + 2**-60 is not a float64: what is lost has to be in the bound.
    first = Matrix.of(np.array([[1.0], [2.0**-30]]))
    merged = Matrix.of(np.array([[1.0, 2.0**-30]])).after(first)
    assert Fraction(chain_norm_bound([merged])) >= 1 + Fraction(1, 2**60)


# --- models ---------------------------------------------------------------------------------------


def dense_model(matrices, functions, dtype="float64"):
    """A Sequential of dense layers with these matrices (outputs, inputs)."""
    stack = [keras.Input((matrices[0].shape[1],), dtype=dtype)]
    for matrix, function in zip(matrices, functions, strict=True):
        stack.append(layers.Dense(len(matrix), function, use_bias=False, dtype=dtype))
    model = keras.Sequential(stack)
    model.set_weights([matrix.T for matrix in matrices])
    return model


def steepest(model, rng, count=300):
    """The largest quotient of differences at random points of all sizes, in float64."""
    shape = model.inputs[0].shape[1:]
    x = rng.standard_normal((count, *shape)) * 10.0 ** rng.uniform(
        -1, 1, (count, *[1] * len(shape))
    )
    step = rng.standard_normal((count, *shape)) * 1e-3
    change = ops.convert_to_numpy(model(x + step)) - ops.convert_to_numpy(model(x))
    sizes = [np.linalg.norm(array.reshape(count, -1), axis=1) for array in (change, step)]
    return float((sizes[0] / sizes[1]).max())


RISING = [f for f, row in FUNCTIONS.items() if row.never_falls and f in vars(activations).values()]
FALLING = [f for f, row in FUNCTIONS.items() if not row.never_falls and row.slope is not None]


SINGLE = [function for function in FUNCTIONS if function is not activations.softmax]


@pytest.mark.parametrize("function", SINGLE, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_what_never_falls_never_falls(function):
    points = np.concatenate([np.linspace(-30, 30, 20001), np.linspace(-1, 1, 20001)])
    points.sort()
    with float64_kept():  # elsewhere than on TensorFlow Keras computes tanh in float32
        values = ops.convert_to_numpy(function(ops.convert_to_tensor(points, "float64")))
    falls = (np.diff(values) < -1e-12 * np.abs(values[1:]).max()).any()
    assert falls != FUNCTIONS[function].never_falls or FUNCTIONS[function].slope is None


@pytest.mark.parametrize("function", RISING, ids=lambda f: f.__name__)
def test_every_rising_activation(function, rng):
    matrices = drawn(rng, 4, 8, 8, 3)
    model = dense_model(matrices, [function, function, None])
    bound = lipschitz_bound(model)
    [chain] = bound.chains
    assert chain.is_smaller and bound.value == chain.value < 0.95 * chain.product
    assert steepest(model, rng) <= bound.value


@pytest.mark.parametrize("function", FALLING, ids=lambda f: f.__name__)
def test_no_chain_goes_through_another_activation(function, rng):
    matrices = drawn(rng, 4, 8, 3)
    assert lipschitz_bound(dense_model(matrices, [function, None])).chains == ()


def hidden(units=8, **arguments):
    return layers.Dense(units, dtype="float64", **arguments)


BETWEEN = {
    "relu": [layers.ReLU()],
    "capped": [layers.ReLU(max_value=2.0, negative_slope=0.1)],
    "leaky": [layers.LeakyReLU(0.3)],
    "leaky beyond 1": [layers.LeakyReLU(1.5)],
    "prelu": [layers.PReLU(alpha_initializer="ones")],
    "elu": [layers.ELU(0.5)],
    "function": [layers.Activation("softplus")],
    "two": [
        layers.Dropout(0.5),
        layers.ReLU(),
        layers.GaussianNoise(0.1),
        layers.Activation("tanh"),
    ],
}
APART = {
    "falls": [layers.PReLU(alpha_initializer=keras.initializers.Constant(-0.5))],
    "mixes": [layers.Softmax()],
    "sorts": [lip.layers.GroupSort2()],
    "elu that falls": [layers.ELU(-0.5)],
    "absolute": [lip.layers.Abs()],
}


@pytest.mark.parametrize("name", [*BETWEEN, *APART])
def test_layers_between(name, rng):
    stack = [
        type(layer).from_config({**layer.get_config(), "dtype": "float64"})
        for layer in {**BETWEEN, **APART}[name]
    ]
    model = keras.Sequential([keras.Input((4,), dtype="float64"), hidden(), *stack, hidden(3)])
    bound = lipschitz_bound(model)
    assert len(bound.chains) == (name in BETWEEN)
    assert all(chain.is_smaller for chain in bound.chains)
    assert steepest(model, rng) <= bound.value


def test_linear_layers_are_multiplied(rng):
    first, second, last = drawn(rng, 5, 4, 6, 3)
    model = dense_model([first, second, last], [None, None, None])
    assert lipschitz_bound(model).value == pytest.approx(np.linalg.norm(last @ second @ first, 2))
    model = dense_model([first, second, last], [None, "relu", None])
    exact = largest_norm([second @ first, last])
    assert exact <= lipschitz_bound(model).value <= bound_of([second @ first, last]) * (1 + 1e-9)


def test_what_ends_a_chain_multiplies_it(rng):
    matrices = drawn(rng, 4, 8, 6)
    plain = lipschitz_bound(dense_model(matrices, ["relu", None])).value
    for function, slope in (("softmax", 0.5), ("sigmoid", 0.25), ("tanh", 1.0)):
        model = dense_model(matrices, ["relu", function])
        assert lipschitz_bound(model).value == pytest.approx(slope * plain)
        assert steepest(model, rng) <= lipschitz_bound(model).value
    # A new chain begins behind what cannot be inside one.
    sort = lip.layers.GroupSort2(dtype="float64")
    model = keras.Sequential(
        [keras.Input((4,), dtype="float64"), hidden(activation="relu"), hidden(activation=sort)]
        + [hidden(activation="relu"), hidden(3)]
    )
    assert [chain.names for chain in lipschitz_bound(model).chains] == [
        tuple(layer.name for layer in model.layers[:2]),
        tuple(layer.name for layer in model.layers[2:]),
    ]
    assert steepest(model, rng) <= lipschitz_bound(model).value


def test_shared_nested_and_branching(rng):
    x = keras.Input((4,), dtype="float64")
    shared = hidden(4, activation="relu")
    inner = keras.Sequential([keras.Input((4,), dtype="float64"), shared, hidden(4)], name="inner")
    middle = layers.ReLU(dtype="float64")(inner(shared(shared(x))))
    model = keras.Model(x, layers.Add(dtype="float64")([hidden(4)(middle), middle]))
    bound = lipschitz_bound(model)
    [chain] = bound.chains
    assert chain.names[2].startswith("inner/") and len(chain.names) == 6
    assert steepest(model, rng) <= bound.value
    assert bound.value < math.prod(entry.value for entry in bound.per_layer)


def test_sequences_of_unknown_length(rng):
    x = keras.Input((None, 4), dtype="float64")
    model = keras.Model(x, hidden(3)(hidden(activation="relu")(x)))
    [chain] = lipschitz_bound(model).chains
    flat = keras.Sequential([keras.Input((4,), dtype="float64"), *model.layers[1:]])
    assert lipschitz_bound(flat).value == chain.value < 0.95 * chain.product


def test_constrained_integer_and_narrow_types(rng):
    x = keras.Input((6,), dtype="int32")
    model = keras.Model(x, layers.Dense(3)(layers.Dense(8, "relu")(x)))
    [chain] = lipschitz_bound(model).chains
    kernels = [np.asarray(w, np.float64).T for w in model.get_weights()[::2]]
    assert largest_norm(kernels) <= chain.value * ROUNDING
    narrow = dense_model(drawn(rng, 4, 8, 3), ["relu", None], dtype="bfloat16")
    kernels = [ops.convert_to_numpy(ops.cast(layer.kernel, "float64")).T for layer in narrow.layers]
    assert largest_norm(kernels) <= lipschitz_bound(narrow).value * ROUNDING
    constrained = lip.Sequential(
        [
            keras.Input((4,)),
            lip.layers.SpectralDense(8, activation="relu"),
            lip.layers.SpectralDense(3),
        ]
    )
    kernels = [
        layer.vanilla_export().kernel.numpy().astype(float).T for layer in constrained.layers
    ]
    assert largest_norm(kernels) <= lipschitz_bound(constrained).value * ROUNDING


def test_other_norms_and_small_budgets_leave_it_out(rng):
    model = dense_model(drawn(rng, 40, 60, 30), ["relu", None])
    assert lipschitz_bound(model).chains
    assert lipschitz_bound(model, budget=1e-6).chains == ()
    for norm in ("linf", "l1"):
        assert lipschitz_bound(model, norm).chains == ()


def test_the_table_and_the_report_say_which(rng):
    model = dense_model(drawn(rng, 6, 8, 3), ["relu", None])
    bound = lipschitz_bound(model)
    [chain] = bound.chains
    assert f"{chain.names[0]} ... {chain.names[-1]}" in str(bound) and "of the product" in str(
        bound
    )
    report = lip.bounds.report(model, samples=2, steps=5)
    assert report.bound.value == chain.value < report.product == pytest.approx(chain.product)
    assert report.as_dict()["chains"][0]["bound"] == chain.value
    assert "together by one matrix" in str(report)
    isometry = dense_model([np.eye(3), np.eye(3)], ["relu", None])
    assert "no smaller together" in str(lipschitz_bound(isometry))


# --- certificates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 6, 3), (3, 4, 4, 3), (3, 5, 1), (2, 1, 2)])
def test_gaps_of_logits_are_bounded_with_the_head(sizes, rng):
    smaller = 0
    for _ in range(3):
        matrices = drawn(rng, *sizes)
        model = dense_model(matrices, [*["relu"] * (len(sizes) - 2), None])
        found = margin_lipschitz_constants(model)
        *before, head = matrices
        backbone = math.prod(np.linalg.norm(matrix, 2) for matrix in before)
        for i, j in itertools.combinations(range(len(head)), 2) if len(head) > 1 else [(0, 0)]:
            row = head[[i]] - head[[j]] if i != j else head[[0]]
            assert largest_norm([*before, row]) <= found[i, j] * ROUNDING
            smaller += found[i, j] < 0.97 * backbone * np.linalg.norm(row)
    assert smaller >= 3 or sizes[1] == 1


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras's products of float64 are float32 on PyTorch"
)
def test_a_certificate_at_the_boundary_is_true():
    # f_0 - f_1 = 2 relu(3 x): there is a tie at a distance of x, and not before.
    first, head = np.array([[3.0]]), np.array([[1.0], [-1.0]])
    model = dense_model([first, head], ["relu", None])
    x = np.array([0.5, 3.0, 1e-3])
    radius = lip.certificates.certify(model, x[:, None]).radius
    assert (radius <= x).all() and (radius > (1 - 1e-9) * x).all()
