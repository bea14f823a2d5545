"""Radii by local constants: against circles of points, and against Jacobians inside the balls."""

import logging

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.bounds.ellipsoids import first_ellipsoid
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.certificates import certify
from deel_lip_tf.certificates.chain import LinearStep, PiecewiseStep
from deel_lip_tf.certificates.local import LocalBounds, _End, _end_of, widened
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.certificates.radii import Evaluated
from deel_lip_tf.semantics.functions import pieces_of

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="local bounds differentiate with TensorFlow"
)

IMAGE = (6, 6, 1)


def chain(shape, *stack):
    return keras.Sequential([keras.Input(shape, dtype="float64"), *stack])


def dense(units, activation=None):
    return layers.Dense(units, activation, dtype="float64", bias_initializer="random_normal")


def conv(filters, **arguments):
    return layers.Conv2D(filters, 3, dtype="float64", bias_initializer="random_normal", **arguments)


def nested():
    x = keras.Input((5,), dtype="float64")
    body = keras.Sequential([keras.Input((7,), dtype="float64"), dense(9, "relu"), dense(4)])
    return keras.Model(x, body(dense(7, "relu")(x)))


def residual():
    x = keras.Input((5,), dtype="float64")
    y = layers.Add(dtype="float64")([x, dense(5, "tanh")(x)])
    return keras.Model(x, dense(3)(dense(8, "relu")(y)))


def called_twice():
    x = keras.Input((5,), dtype="float64")
    body = keras.Sequential([keras.Input((5,), dtype="float64"), dense(5, "relu")])
    return keras.Model(x, dense(3)(body(body(x))))


def images(*stack):
    return lambda: chain(
        IMAGE, *(make() for make in stack), layers.Flatten(dtype="float64"), dense(3)
    )


def float64(layer, *arguments, **keywords):
    return lambda: layer(*arguments, dtype="float64", **keywords)


MODELS = {
    "dense": lambda: chain((5,), dense(12, "relu"), dense(9, "relu"), dense(4)),
    "one output": lambda: chain((5,), dense(12, "relu"), dense(1)),
    "relu6": lambda: chain((5,), dense(12, "relu6"), dense(4)),
    "leaky": lambda: chain((5,), dense(12, "leaky_relu"), dense(9, "hard_tanh"), dense(4)),
    "layers": lambda: chain(
        (5,),
        dense(9),
        layers.ReLU(max_value=0.5, negative_slope=1.5, dtype="float64"),
        dense(9),
        layers.LeakyReLU(negative_slope=1.5, dtype="float64"),
        dense(9),
        layers.PReLU(alpha_initializer="random_normal", dtype="float64"),
        dense(3),
    ),
    "activation at the end": lambda: chain((5,), dense(8, "relu"), dense(3, "relu")),
    "convolutions": images(
        lambda: conv(3, padding="same", activation="relu"), lambda: conv(4, strides=2)
    ),
    "pooled": images(
        float64(layers.Rescaling, 2.0, offset=-1.0),
        lambda: conv(3, activation="relu"),
        float64(layers.BatchNormalization),
        float64(layers.AveragePooling2D, 2),
        float64(layers.ZeroPadding2D),
        float64(layers.UpSampling2D, 2),
        lambda: conv(3, activation="relu"),
    ),
    "normalized": lambda: chain(
        (5,),
        layers.Normalization(mean=0.3, variance=2.0, dtype="float64"),
        dense(9, "relu"),
        dense(3),
    ),
    "volumes": lambda: chain(
        (2, 2, 1, 1),
        float64(layers.SpatialDropout3D, 0.5)(),
        float64(layers.UpSampling3D, 2)(),
        float64(layers.ZeroPadding3D, 1)(),
        float64(layers.Cropping3D, ((0, 1), 0, 0))(),
        float64(layers.AlphaDropout, 0.5)(),
        float64(layers.GlobalAveragePooling3D)(),
        dense(8, "relu"),
        dense(8, "relu"),
        dense(3),
    ),
    "transposed is the end of the chain": images(
        float64(layers.Conv2DTranspose, 2, 3), lambda: conv(3, activation="relu")
    ),
    "nested": nested,
    "residual": residual,
    "called twice": called_twice,
    "constrained": lambda: chain(
        (5,),
        lip.layers.SpectralDense(8, activation="relu", dtype="float64"),
        lip.layers.SpectralDense(3, dtype="float64"),
    ),
}


def randomized(name, rng):
    model = MODELS[name]()
    for weight in model.weights:
        value = rng.normal(size=weight.shape) / np.sqrt(max(1, np.prod(weight.shape[:-1]) / 2))
        weight.assign(np.abs(value) + 0.3 if "variance" in weight.name else value)
    return model


def labels_of(model, x):
    logits = ops.convert_to_numpy(model(x))
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)


def ascend(model, x, directions, radius, steps=6):
    """Points of the sphere towards which the combination of logits falls."""
    import tensorflow as tf

    point = x
    for _ in range(steps):
        with tf.GradientTape() as tape:
            z = tf.constant(point)
            tape.watch(z)
            value = tf.reduce_sum(model(z) * directions, axis=1)
        gradient = tape.gradient(value, z).numpy().reshape(len(x), -1)
        gradient /= np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-300)
        shape = (-1, *[1] * (x.ndim - 1))
        point = x - radius.reshape(shape) * gradient.reshape(x.shape)
    return point


@pytest.mark.parametrize("name", MODELS)
def test_no_point_of_the_ball_has_another_label(name, rng):
    model = randomized(name, rng)
    x = rng.normal(size=(60, *model.input_shape[1:]))
    known = certify(model, x, batch_size=25)  # the same batches, so that the logits are the same
    local = certify(model, x, local=True, batch_size=25)
    assert (local.radius >= known.radius).all()
    assert (local.label == known.label).all()
    assert local.margin == pytest.approx(known.margin, rel=1e-9)
    model = lip.vanillaModel(model)  # a constrained kernel need not be computed at each call
    label = labels_of(model, x)
    logits = ops.convert_to_numpy(model(x))
    one_hot = np.eye(max(2, logits.shape[1]))
    for rival in range(logits.shape[1]):
        gap = one_hot[local.label] - one_hot[rival]
        directions = np.sign(logits) if logits.shape[1] == 1 else gap
        for share in (0.5, 1.0):
            point = ascend(model, x, directions, share * local.radius)
            assert (labels_of(model, point) == label).all()
    step = rng.normal(size=(40, *x.shape))
    norms = np.linalg.norm(step.reshape(40, len(x), -1), axis=2)
    norms = norms.reshape(40, len(x), *[1] * (x.ndim - 1))
    for moved in x + local.radius.reshape(norms.shape[1:]) * step / norms:
        assert (labels_of(model, moved) == label).all()


def test_every_direction_of_the_plane(rng):
    """Two inputs: the whole circle, and how much of the way to the boundary is certified."""
    model = chain((2,), dense(16, "relu"), dense(16, "relu"), dense(3))
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    x = rng.normal(size=(3000, 2))
    nearest = np.argsort(certify(model, x).margin)
    x = x[np.concatenate([nearest[5:55], nearest[-50:]])]
    known, local = certify(model, x), certify(model, x, local=True)
    label = labels_of(model, x)
    angles = np.linspace(0, 2 * np.pi, 721)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for radius in (0.3 * local.radius, 0.7 * local.radius, local.radius):
        points = x[:, None] + radius[:, None, None] * circle
        assert (labels_of(model, points.reshape(-1, 2)).reshape(100, -1) == label[:, None]).all()
    # The local bound is exact where nothing changes sides: near the boundary of two classes.
    reach = boundary_distance(model, x, label, circle)
    near = reach < 0.05
    assert near.sum() > 5
    share_of_local, share_of_known = (c.radius[near] / reach[near] for c in (local, known))
    assert share_of_local.mean() > max(0.2, 2 * share_of_known.mean())


def boundary_distance(model, x, label, circle):
    """Distance of the nearest point of another label, to within some percent."""
    distances = np.full(len(x), np.inf)
    for radius in np.geomspace(1e-3, 3, 150)[::-1]:
        points = (x[:, None] + radius * circle).reshape(-1, 2)
        changed = labels_of(model, points).reshape(len(x), -1) != label[:, None]
        distances[changed.any(axis=1)] = radius
    return distances


def local_divisors(model, x, radius, directions):
    proof = prove(model)
    exact = Float64Evaluator(model, proof.propagation)
    local = LocalBounds(model, proof.propagation, exact)
    # What is known without the ball here is the product of the constants of single calls.
    product = exact.evaluate_model(x).constant
    local.observe()
    rows = np.arange(len(x))
    return local.divisors(radius, rows, directions), product


@pytest.mark.parametrize("name", ["dense", "leaky", "layers", "convolutions", "pooled", "nested"])
def test_gradients_in_the_ball_are_below_the_local_constant(name, rng):
    import tensorflow as tf

    model = randomized(name, rng)
    x = rng.normal(size=(30, *model.input_shape[1:]))
    directions = rng.normal(size=(30, model.output_shape[1]))
    worst = 0.0
    for size in (1e-9, 0.05, 0.5, 5.0):
        bounds, whole = local_divisors(model, x, np.full(30, size), directions)
        limits = whole * np.linalg.norm(directions, axis=1)
        assert (bounds <= limits * (1 + 1e-6)).all()
        for share in (0.0, 0.5, 0.9, 1.0):
            step = rng.normal(size=x.shape)
            norms = np.linalg.norm(step.reshape(30, -1), axis=1).reshape(-1, *[1] * (x.ndim - 1))
            with tf.GradientTape() as tape:
                point = tf.constant(x + share * size * step / norms)
                tape.watch(point)
                value = tf.reduce_sum(model(point) * directions)
            gradient = tape.gradient(value, point).numpy().reshape(30, -1)
            found = np.linalg.norm(gradient, axis=1) / bounds
            worst = max(worst, found.max())
    assert worst <= 1
    # in the smallest ball nothing changes sides: the gradient is the constant
    assert worst > 1 - 1e-4


def test_dense_layers_gain_from_what_bends_together(rng, monkeypatch):
    model = chain((20,), dense(40, "relu"), dense(40, "relu"), dense(4))
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) / np.sqrt(weight.shape[0]))
    x = rng.normal(size=(60, 20))
    together = certify(model, x, local=True).radius
    monkeypatch.setattr("deel_lip_tf.certificates.local._WIDEST", 0)
    one_by_one = certify(model, x, local=True).radius
    assert (together >= one_by_one * (1 - 1e-3)).all()
    assert together.mean() > 1.1 * one_by_one.mean()


def test_slopes_on_an_interval():
    pieces = pieces_of(layers.ReLU(max_value=2.0, negative_slope=0.5))
    low = np.array([-3.0, -3.0, -1.0, 0.5, 1.0, 3.0, 2.0])
    high = np.array([-1.0, 1.0, 5.0, 1.5, 2.5, 4.0, 2.0])
    smallest, largest = pieces.range_of_slopes(low, high)
    assert smallest.tolist() == [0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert largest.tolist() == [0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    assert pieces_of(layers.ReLU(threshold=1.0)) is None
    assert pieces_of(keras.activations.gelu) is None
    assert pieces_of(layers.Activation("gelu")) is None


def test_float32_and_local_together(rng):
    model = keras.Sequential(
        [keras.Input((20,)), layers.Dense(30, "relu"), layers.Dense(30, "relu"), layers.Dense(4)]
    )
    x = rng.normal(size=(40, 20))
    real = certify(model, x, local=True)
    both = certify(model, x, semantics="float32", local=True)
    known = certify(model, x, semantics="float32")
    assert (known.radius <= both.radius).all()
    # the search for the best ball ends within some percent of it
    assert (both.radius <= real.radius * 1.05).all()
    assert (both.radius > known.radius).mean() > 0.5


class Growing:
    """Stands for `LocalBounds`: divisors that grow with the ball, by steps or without."""

    def __init__(self, growth):
        self.growth = growth

    def divisors(self, radius, sample, directions):
        return self.growth(radius[sample]) * np.linalg.norm(directions, axis=1) / 2**0.5


# With a divisor of the whole space of 2, and gaps to two rivals.
GROWTHS = {
    "linear": lambda radius: np.minimum(2.0, 0.5 + 0.5 * radius),
    "steep": lambda radius: np.minimum(2.0, np.exp(3.0 * radius - 1.0)),
    "by a step": lambda radius: np.where(radius > 0.31, 2.0, 0.25),
    "none": lambda radius: np.full(radius.shape, 0.25),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_the_search_finds_the_largest_ball(name):
    growth, gap = GROWTHS[name], np.linspace(0.02, 3.0, 50)
    logits = np.stack([gap, np.zeros(50), -0.2 * gap], axis=1)
    label, divisors = np.zeros(50, int), np.full((50, 3), 2.0)
    nothing, everywhere = np.zeros(50), np.full(50, np.inf)
    evaluated = Evaluated(logits, nothing, 0.0, everywhere)
    radius = widened(evaluated, label, divisors, Growing(growth)).radius
    grid = np.linspace(0.0, 15.0, 150_001)  # the largest R with R <= gap / divisor(R)
    largest = np.array([grid[grid * growth(grid) <= one].max() for one in gap])
    largest = np.maximum(largest, gap / 2.0)
    assert (radius <= largest + 1e-4).all()
    assert (radius >= largest * 0.985 - 1e-4).all()


def test_a_classifier_that_never_changes_is_certified_everywhere():
    model = chain((5,), dense(4, "relu"), dense(3))
    for weight in model.weights:
        weight.assign(
            np.zeros(weight.shape) if len(weight.shape) > 1 else np.arange(weight.shape[0])
        )
    x = np.ones((2, 5))
    assert (certify(model, x, local=True).radius == certify(model, x).radius).all()


def test_networks_that_sort_gain_nothing_and_lose_nothing(rng):
    stack = [lip.layers.SpectralDense(8, activation=lip.layers.GroupSort2())]
    model = lip.Sequential([keras.Input((5,)), *stack, lip.layers.SpectralDense(3)])
    x = rng.normal(size=(20, 5))
    assert (certify(model, x, local=True).radius >= certify(model, x).radius).all()


SMALL = {
    "float64": ("float64", [1e-86, 1e-86]),
    "three": ("float64", [1e-60, 1e-60, 1e-52]),
    "float32": ("float32", [1e-37, 1e-37, 1e-37, 1e-37, 1e-22]),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_gradients_whose_squares_underflow_are_not_zero(name, kind):
    """The logits are those of the identity, times less than float64 has the square of."""
    dtype, scales = SMALL[name]
    options = {"activation": "relu", "dtype": dtype}
    hidden = [
        layers.Dense(2, **options) if kind == "dense" else layers.Conv1D(2, 1, **options)
        for _ in scales[1:]
    ]
    shape = (2,) if kind == "dense" else (1, 2)
    last = layers.Dense(2, dtype=dtype)
    stack = [*hidden, layers.Flatten(dtype=dtype), last]
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *stack])
    for layer, scale in zip([*hidden, last], scales, strict=True):
        layer.set_weights([scale * np.eye(2).reshape(layer.kernel.shape), np.zeros(2)])
    x = np.array([3.0, 1.0]).reshape(1, *shape)
    radius = certify(model, x, local=True).radius
    assert 0 < certify(model, x).radius <= radius <= 2.0**0.5


def test_an_input_that_may_be_wrong_by_more_than_its_size_may_have_either_sign():
    step = PiecewiseStep(pieces_of(layers.ReLU()), 1.0, 1.0, np.ones(2))
    found = step.slopes(np.array([[1e-9, 1e-9]]), np.array([1e-8]), np.zeros(1))
    np.testing.assert_array_equal(found.half_width, [[0.5, 0.5]])
    found = step.slopes(np.array([[1e-9, 1e-9]]), np.array([1e-10]), np.zeros(1))
    np.testing.assert_array_equal(found.half_width, [[0.0, 0.0]])


def test_what_an_open_activation_leaves_open_stays_so_before_one_that_is_straight():
    """`1 - relu(relu(x) - 2)` at 2: the inner ReLU is straight there, the outer one is not."""
    shift, head = layers.Rescaling(1.0, offset=-2.0), layers.Dense(2)
    stack = [layers.Dense(1), layers.ReLU(), shift, layers.ReLU(), head]
    model = keras.Sequential([keras.Input((1,)), *stack])
    model.set_weights([np.ones((1, 1)), np.zeros(1), np.array([[-1.0, 0.0]]), np.array([1.0, 0.0])])
    for x in (1.75, 2.0, 2.25):
        radius = certify(model, np.array([[x]]), local=True).radius.item()
        assert 0 < radius <= 3.0 - x


def test_matrices_of_an_ellipsoid_are_as_wrong_as_adjoints_may_be(rng):
    """Layers five times an isometry, whose adjoints are off by what their rounding allows."""
    exact = [5.0 * np.linalg.svd(rng.normal(size=(4, 4)))[0] for _ in range(4)]
    steps: list = [
        (LinearStep(None, lambda x, w=1.0002 * one: x @ w, 1.0, 5.0, 0.00101, None), None)
        for one in exact
    ]
    bent = PiecewiseStep(pieces_of(keras.activations.relu), 1.0, 1.0, np.ones(4))
    steps[0] = steps[0][0], bent
    end = _end_of(steps, [(4,)] * 4, [(4,)] * 4)
    product = exact[3] @ exact[2] @ exact[1]
    for found, (matrix, error) in zip((exact[0], product), end.matrices, strict=True):
        assert 0 < np.linalg.norm(found - matrix, 2) <= error < 1.0


@pytest.mark.parametrize("constant, radius, exact", [(10.0, 0.2, 10.0), (0.1, 0.2, 0.0)])
def test_an_ellipsoid_counts_what_is_before_it(constant, radius, exact):
    """A ReLU that reads -1, of what moves by up to `constant * radius`: it is off, or may be on."""
    relu = PiecewiseStep(pieces_of(keras.activations.relu), 1.0, constant, np.full(1, np.inf))
    one = np.eye(1), 0.0
    end = _End([one, one], [(relu, 0)], first_ellipsoid(one[0]), constant)
    points = [(np.array([[-1.0]]), np.zeros(1))]
    found = end.divisors(points, np.array([radius]), np.zeros(1, int), np.eye(1))
    assert exact <= found[0] <= exact * (1 + 1e-6) + 1e-100


def test_the_layers_of_a_deep_network_are_traced_without_a_warning(rng, caplog):
    model = chain((6,), *(dense(6, "relu") for _ in range(6)), dense(3))
    with caplog.at_level(logging.WARNING):
        certify(model, rng.normal(size=(4, 6)), local=True)
    assert "retracing" not in caplog.text
