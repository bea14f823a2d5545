"""Constants in files count as they are written: every reader against exact rational numbers.

Random small graphs are written as ONNX, as a SavedModel and as `.keras`, with constants that fill
their type, and evaluated in fractions. At a point the claimed bounds contain the exact output, and
no question that the exact output answers with yes is answered with no.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from deel_lip_tf import verify
from deel_lip_tf.layers import LipResidual
from deel_lip_tf.verify.specification.property import rounded

# Every model here is tiny, and its own.
pytestmark = pytest.mark.usefixtures("eagerly")


def fractions(values):
    array = np.asarray(values, np.float64)
    return np.vectorize(Fraction, otypes=[object])(array) if array.ndim else Fraction(float(array))


class Step(NamedTuple):
    """One operator: what it computes of a vector, and how each format writes it."""

    exact: Callable
    onnx: tuple | None = None  # (type, constants by name, attributes, order of the inputs)
    tensorflow: Callable | None = None
    keras: Callable | None = None


def numbers(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def gemm(rng, size):
    kernel, bias, (alpha, beta) = numbers(rng, 3, size), numbers(rng, 3), numbers(rng, 2)
    offset = (beta.astype(np.float64) * bias).tolist()

    def call(x):
        dense = layers.Dense(3, use_bias=False)
        x = layers.Rescaling(float(alpha), offset)(dense(x))
        dense.set_weights([kernel.T])
        return x

    attributes = {"transB": 1, "alpha": float(alpha), "beta": float(beta)}
    return Step(
        lambda x: fractions(alpha) * (fractions(kernel) @ x) + fractions(beta) * fractions(bias),
        ("Gemm", {"w": kernel, "b": bias}, attributes, "xwb"),
        keras=call,
    )


def gemm_of_halves(rng, size):
    """Factors that fold into the weights, and a bias of one row."""
    kernel, bias = numbers(rng, size, 3), numbers(rng, 1, 3)
    return Step(
        lambda x: (x @ fractions(kernel)) / 4 - fractions(bias[0]) * 2,
        ("Gemm", {"w": kernel, "b": bias}, {"alpha": 0.25, "beta": -2.0}, "xwb"),
    )


def matmul(rng, size):
    kernel = numbers(rng, size, 3)

    def call(x):
        dense = layers.Dense(3, use_bias=False)
        x = dense(x)
        dense.set_weights([kernel])
        return x

    return Step(
        lambda x: x @ fractions(kernel),
        ("MatMul", {"w": kernel}, {}, "xw"),
        lambda x: tf.matmul(x, kernel),
        call,
    )


def entrywise(kind, exact, function, reverse=False):
    def make(rng, size):
        constant = numbers(rng, *[(), (1,), (size,)][rng.integers(3)])
        order = "cx" if reverse else "xc"

        def call(x):
            return function(constant, x) if reverse else function(x, constant)

        def value(x):
            c = fractions(constant)
            return exact(c, x) if reverse else exact(x, c)

        return Step(value, (kind, {"c": constant}, {}, order), call, call)

    return make


def batch_normalization(rng, size):
    """The variance and epsilon add up to a square, so that the root is rational."""
    epsilon, roots = 2.0**-10, rng.integers(1, 60, size) / 8.0
    weights = [numbers(rng, size), numbers(rng, size), numbers(rng, size), roots**2 - epsilon]
    scale, shift, mean, _ = map(fractions, weights)

    def call(x):
        layer = layers.BatchNormalization(epsilon=epsilon)
        x = layer(x)
        layer.set_weights(weights)
        return x

    names = dict(zip("gbmv", (w.astype(np.float32) for w in weights), strict=True))
    return Step(
        lambda x: (x - mean) / fractions(roots) * scale + shift,
        ("BatchNormalization", names, {"epsilon": epsilon}, "xgbmv"),
        keras=call,
    )


def relu(rng, size):
    return Step(lambda x: np.maximum(x, 0), ("Relu", {}, {}, "x"), tf.nn.relu, layers.ReLU())


def leaky_relu(rng, size):
    slope = float(np.float32(rng.uniform(0.01, 0.9)))
    return Step(
        lambda x: np.maximum(x, 0) + fractions(slope) * np.minimum(x, 0),
        ("LeakyRelu", {}, {"alpha": slope}, "x"),
        lambda x: tf.nn.leaky_relu(x, slope),
        layers.LeakyReLU(slope),
    )


def leaky_relu_by_default(rng, size):
    slope = fractions(np.float32(0.01))
    exact = lambda x: np.maximum(x, 0) + slope * np.minimum(x, 0)  # noqa: E731
    return Step(exact, ("LeakyRelu", {}, {}, "x"))


def rescaling(rng, size):
    """Arguments that float32 has not got."""
    scale, offset = 1 / rng.integers(3, 300), rng.normal()
    return Step(
        lambda x: x * fractions(scale) + fractions(offset), keras=layers.Rescaling(scale, offset)
    )


def quotient(rng, size):
    number = float(rng.integers(3, 300)) / 7.0
    return Step(lambda x: x / fractions(number), keras=lambda x: x / number)


MAKERS = [
    gemm,
    gemm_of_halves,
    matmul,
    entrywise("Add", lambda a, b: a + b, ops.add),
    entrywise("Sub", lambda a, b: a - b, ops.subtract),
    entrywise("Sub", lambda a, b: a - b, ops.subtract, reverse=True),
    entrywise("Mul", lambda a, b: a * b, ops.multiply),
    entrywise("Div", lambda a, b: a / b, ops.divide),
    entrywise("Div", lambda a, b: a / b, ops.divide),
    batch_normalization,
    relu,
    leaky_relu,
    leaky_relu_by_default,
    rescaling,
    quotient,
]


def random_steps(rng, form, size, count=7):
    steps = []
    while len(steps) < count:
        step = MAKERS[rng.integers(len(MAKERS))](rng, size)
        if getattr(step, form) is not None:
            steps.append(step)
            zeros = step.exact(fractions(np.zeros(size)))
            size = len(zeros)
    return steps


def onnx_model(nodes, constants, shape):
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 15)]
    return verify.from_onnx(helper.make_model(graph, opset_imports=opset, ir_version=8))


def as_onnx(steps, size, folder):
    helper = pytest.importorskip("onnx", reason="needs the verify extra").helper
    nodes, constants = [], {}
    for i, step in enumerate(steps):
        kind, own, attributes, order = step.onnx
        constants |= {f"{name}{i}": array for name, array in own.items()}
        source = f"h{i - 1}" if i else "x"
        inputs = [source if name == "x" else f"{name}{i}" for name in order]
        nodes.append(helper.make_node(kind, inputs, [f"h{i}"], **attributes))
    return onnx_model(nodes, constants, (size,))


def as_saved_model(steps, size, folder):
    def run(x):
        for step in steps:
            x = step.tensorflow(x)
        return {"y": tf.convert_to_tensor(x)}

    module = tf.Module()
    # Without eager execution: the graph is what is saved.
    tf.config.run_functions_eagerly(False)
    module.run = tf.function(run, [tf.TensorSpec([None, size], tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), {"serving_default": module.run})
    model = verify.from_saved_model(folder)
    tf.config.run_functions_eagerly(True)
    return model


def as_keras(steps, size, folder):
    x = inputs = keras.Input((size,))
    for step in steps:
        x = step.keras(x)
    keras.Model(inputs, x).save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


FORMATS = {"onnx": as_onnx, "tensorflow": as_saved_model, "keras": as_keras}


def question(tmp_path, point, output, value, sense):
    """Whether one output reaches its exact value, rounded to the side that keeps this true."""
    number = rounded(value, -1 if sense == ">=" else 1)
    lines = [f"(declare-const X_{i} Real)" for i in range(len(point))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(output + 1)]
    lines += [f"(assert (<= {float(v)!r} X_{i} {float(v)!r}))" for i, v in enumerate(point)]
    path = tmp_path / "question.vnnlib"
    path.write_text("\n".join([*lines, f"(assert ({sense} Y_{output} {number!r}))"]))
    return verify.read_vnnlib(path)


def check(model, exact, point, tmp_path):
    """Bounds hold and are narrow, and both thresholds may be reached."""
    x = point[None].astype(np.float64)
    for method in ("ibp", "crown", "forward"):
        found = verify.bounds(model, verify.box(x, x), method=method)
        low, high = fractions(found.lower).ravel(), fractions(found.upper).ravel()
        assert (low <= exact).all() and (exact <= high).all(), method
        assert (high - low <= 1e-9 * (1 + np.abs(exact))).all(), "these bounds would hide an error"
    got = model(x.astype(np.float32), training=False).numpy().ravel()
    np.testing.assert_allclose(got, exact.astype(float), rtol=1e-3, atol=1e-3)
    last = len(exact) - 1
    for sense in (">=", "<="):
        asked = question(tmp_path, point.ravel(), last, exact[last], sense)
        assert verify.decide(model, asked, time_limit=0.1).status != "unsat"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 16))]
)
def test_random_graphs(form, seed, tmp_path):
    rng = np.random.default_rng(seed)
    steps = random_steps(rng, form, size=4)
    model = FORMATS[form](steps, 4, tmp_path)
    point = numbers(rng, 4)
    exact = fractions(point)
    for step in steps:
        exact = step.exact(exact)
    check(model, exact, point, tmp_path)


def convolved(image, kernel, bias):
    """`kernel` (outputs, inputs, rows, columns) on (channels, rows, columns), without padding."""
    rows, columns = (n - k + 1 for n, k in zip(image.shape[1:], kernel.shape[2:], strict=True))
    places = [(i, j) for i in range(rows) for j in range(columns)]
    parts = [image[:, i : i + kernel.shape[2], j : j + kernel.shape[3]] for i, j in places]
    values = [[(k * part).sum() + b for part in parts] for k, b in zip(kernel, bias, strict=True)]
    return np.array(values, object).reshape(len(kernel), rows, columns)


@pytest.mark.parametrize("seed", range(2))
def test_images(seed, tmp_path):
    """Convolution, a quotient for each channel, a mean of nine, for each entry a product."""
    helper = pytest.importorskip("onnx", reason="needs the verify extra").helper
    rng = np.random.default_rng(seed)
    kernel, bias = numbers(rng, 2, 3, 2, 2), numbers(rng, 2)
    divisor, factor = numbers(rng, 2, 1, 1), numbers(rng, 1, 2, 2, 2)
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["h0"]),
        helper.make_node("Div", ["h0", "d"], ["h1"]),
        helper.make_node("AveragePool", ["h1"], ["h2"], kernel_shape=[3, 3]),
        helper.make_node("Mul", ["f", "h2"], ["h3"]),
        helper.make_node("Flatten", ["h3"], ["h4"]),
    ]
    model = onnx_model(nodes, {"k": kernel, "b": bias, "d": divisor, "f": factor}, (3, 5, 5))
    point = numbers(rng, 3, 5, 5)
    image = convolved(*map(fractions, (point, kernel, bias))) / fractions(divisor)
    ones = np.full((1, 1, 3, 3), Fraction(1, 9), object)
    means = [convolved(channel[None], ones, [0])[0] for channel in image]
    exact = (np.array(means, object) * fractions(factor[0])).ravel()
    check(model, exact, point, tmp_path)


def test_a_float64_file_is_computed_in_float64(tmp_path):
    """Sums of tensors and moved axes too."""
    onnx = pytest.importorskip("onnx", reason="needs the verify extra")
    helper, rng = onnx.helper, np.random.default_rng(0)
    factor = rng.normal(size=(2, 3, 4))
    nodes = [
        helper.make_node("Mul", ["x", "f"], ["h0"]),
        helper.make_node("Transpose", ["h0"], ["h1"], perm=[0, 2, 3, 1]),
        helper.make_node("Div", ["h1", "c"], ["h2"]),
        helper.make_node("Add", ["h1", "h2"], ["h3"]),
        helper.make_node("Flatten", ["h3"], ["h4"]),
        helper.make_node("Gemm", ["h4", "w", "b"], ["y"], alpha=0.3, beta=0.7),
    ]
    kernel, bias = rng.normal(size=(24, 2)), rng.normal(size=2)
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["n", 2, 3, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
        [
            onnx.numpy_helper.from_array(np.asarray(v), k)
            for k, v in {"f": factor, "c": 3.0, "w": kernel, "b": bias}.items()
        ],
    )
    model = verify.from_onnx(helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)]))
    x = rng.normal(size=(5, 2, 3, 4))
    moved = np.moveaxis(x * factor, 1, -1)
    alpha, beta = (float(np.float32(factor)) for factor in (0.3, 0.7))
    expected = alpha * ((moved + moved / 3.0).reshape(5, -1) @ kernel) + beta * bias
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-13)
    path = tmp_path / "model.keras"
    model.save(path)
    np.testing.assert_array_equal(keras.models.load_model(path)(x).numpy(), model(x).numpy())


@pytest.mark.parametrize("alpha", [-800.0, -30.0, 0.3, 30.0, 800.0])
def test_the_smaller_share_of_a_residual_keeps_its_digits(alpha):
    """`1 - sigmoid(30)` in float64 has three of them."""
    inputs = keras.Input((1,), dtype="float64")
    zero = layers.Rescaling(0.0, dtype="float64")(inputs)
    layer = LipResidual(dtype="float64")
    model = keras.Model(inputs, layer([zero, inputs]))
    layer.alpha.assign(alpha)
    one = np.ones((1, 1))
    found = verify.bounds(model, verify.box(one, one))
    expected = float(np.exp(-np.logaddexp(0.0, alpha)))
    np.testing.assert_allclose([found.lower, found.upper], expected, rtol=1e-10, atol=1e-300)
