"""Certificates of the float32 program: what it computes never strays further than is proved.

Oracles: the same graph rebuilt in float64, exact fractions, and NumPy in float32 in several orders
of summation.
"""

from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.certificates import certify
from deel_lip_tf.certificates.execution import Float32ErrorAnalysis
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.semantics.rounding import UNIT
from tests._tables.cancelling import cancelling_model

pytestmark = pytest.mark.usefixtures("keras_in_float64")
IMAGE = (6, 6, 2)
# On PyTorch what "same" averages are copies of the border, too, of which nothing is proven.
COUNTED = "valid" if keras.backend.backend() == "torch" else "same"


def chain(*stack, shape=IMAGE):
    return keras.Sequential([keras.Input(shape), *stack])


def image(*stack):
    """Layers of images, and a head."""
    return lambda: chain(*(make() for make in stack), layers.Flatten(), layers.Dense(3))


def vector(*stack):
    return lambda: chain(*(make() for make in stack), layers.Dense(3), shape=(12,))


def merged(merge):
    def make():
        x = keras.Input((12,))
        a, b = layers.Dense(8)(x), layers.Dense(8, activation="relu")(x)
        return keras.Model(x, layers.Dense(3)(merge(a, b)))

    return make


def deep():
    widths = (64, 64, 64)
    return chain(
        *(layers.Dense(w, activation="relu", bias_initializer="random_normal") for w in widths),
        layers.Dense(10),
        shape=(200,),
    )


MODELS = {
    "deep": deep,
    "dense tanh": vector(lambda: layers.Dense(20, activation="tanh")),
    "dense gelu": vector(lambda: layers.Dense(20, activation="gelu")),
    "dense softplus": vector(lambda: layers.Dense(20, activation="softplus")),
    "dense silu": vector(lambda: layers.Dense(20, activation="silu")),
    "dense selu": vector(lambda: layers.Dense(20, activation="selu")),
    "dense leaky": vector(lambda: layers.Dense(20, activation="leaky_relu")),
    "layers of activation": vector(
        layers.ReLU,
        lambda: layers.LeakyReLU(negative_slope=0.3),
        lambda: layers.PReLU(alpha_initializer="random_normal"),
        lambda: layers.ReLU(max_value=0.7, negative_slope=0.1),
        lambda: layers.ELU(1.3),
    ),
    "softmax inside": vector(lambda: layers.Dense(9, activation="softmax")),
    "einsum": lambda: chain(
        layers.EinsumDense("abc,cd->abd", output_shape=(4, 7), bias_axes="d"),
        layers.Flatten(),
        layers.Dense(3),
        shape=(4, 5),
    ),
    "convolutions": image(
        lambda: layers.Conv2D(4, 3, padding="same", activation="relu"),
        lambda: layers.Conv2D(4, 3, strides=2, bias_initializer="random_normal"),
    ),
    "groups and dilation": image(
        lambda: layers.Conv2D(4, 2, groups=2, dilation_rate=2),
        lambda: layers.DepthwiseConv2D(2, depth_multiplier=2, activation="relu"),
    ),
    "transposed": image(lambda: layers.Conv2DTranspose(3, 3, strides=2)),
    "sequences": lambda: chain(
        layers.Conv1D(4, 3, padding="causal"), layers.Flatten(), layers.Dense(3), shape=(9, 2)
    ),
    "recurrent": lambda: chain(
        lip.layers.SpectralSimpleRNN(5, return_sequences=True),
        layers.SimpleRNN(4, activation="relu"),
        layers.Dense(3),
        shape=(3, 2),
    ),
    "poolings": image(
        lambda: layers.MaxPooling2D(2, strides=1),
        lambda: layers.AveragePooling2D(2, padding=COUNTED),
    ),
    "global": lambda: chain(layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(3)),
    "scales": image(
        lambda: layers.Rescaling(1 / 0.3, offset=-0.7),
        lambda: layers.Normalization(mean=[0.3, 5.0], variance=[0.1, 2.0]),
        layers.BatchNormalization,
    ),
    "shapes": image(
        lambda: layers.ZeroPadding2D(1),
        lambda: layers.Cropping2D(1),
        lambda: layers.UpSampling2D(2),
        lambda: layers.Permute((2, 3, 1)),
        lambda: layers.Dropout(0.5),
    ),
    "sorting": image(
        lambda: lip.layers.SpectralConv2D(4, 3, activation=lip.layers.GroupSort2()),
        lambda: lip.layers.ScaledL2NormPooling2D(2),
        lambda: lip.layers.MaxMin(k_coef_lip=1.7),
    ),
    "paddings": image(
        lambda: lip.layers.SpectralConv2D(4, 3, padding="reflect"),
        lambda: lip.layers.SpectralConv2D(4, 3, padding="circular", strides=2),
        lambda: lip.layers.PadConv2D(4, 3, padding="symmetric", activation="relu"),
    ),
    "library": image(
        lambda: lip.layers.SpectralConv2DTranspose(4, 3, strides=2, padding="circular"),
        lambda: lip.layers.SpectralDepthwiseConv2D(3),
        lambda: lip.layers.Householder(theta_initializer="random_normal"),
        lip.layers.BatchCentering,
        lip.layers.LayerCentering,
        lambda: lip.layers.ScaleBias(0.7),
        lambda: lip.layers.InvertibleDownSampling(2),
        lambda: lip.layers.PReLUlip(alpha_initializer="random_normal"),
        lip.layers.ScaledGlobalL2NormPooling2D,
    ),
    "bent": image(
        lambda: lip.layers.Householder(order=2, theta_initializer="random_normal"),
        lambda: lip.layers.Abs(0.5, k_coef_lip=1.3),
        lambda: lip.layers.SoftHuber(0.1),
        lip.layers.NActivation,
        lambda: lip.layers.LipschitzSpline(7, 2.0),
    ),
    "add": merged(lambda a, b: layers.Add()([a, b])),
    "subtract": merged(lambda a, b: layers.Subtract()([a, b])),
    "average": merged(lambda a, b: layers.Average()([a, b])),
    "maximum": merged(lambda a, b: layers.Maximum()([a, b])),
    "concatenate": merged(lambda a, b: layers.Concatenate()([a, b])),
    "residual": merged(lambda a, b: lip.layers.LipResidual()([a, b])),
    "operators": merged(lambda a, b: 0.3 * a - b / 3.0 + 0.1),
    "nested": merged(lambda a, b: chain(layers.Dense(5), shape=(8,))(a + b)),
}


def randomize(model, rng, scale=1.0):
    """Random weights; variances stay positive."""
    for weight in model.weights:
        value = rng.normal(size=weight.shape) * scale
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.name else value)


def in_float64(model):
    """The exported graph with the same weights in float64: knows nothing of bounds."""
    plain = lip.vanillaModel(model)

    def wider(layer):
        config = layer.get_config()
        if isinstance(layer, layers.Layer):
            config["dtype"] = "float64"
        return type(layer).from_config(config)

    inputs = keras.Input(plain.inputs[0].shape[1:], dtype="float64")
    copy = keras.models.clone_model(plain, input_tensors=inputs, clone_function=wider)
    copy.set_weights([np.asarray(ops.convert_to_numpy(w), np.float64) for w in plain.weights])
    return copy


def deviation(model, exact, points):
    """Distance of the float32 program to the float64 one, for points rounded to float32."""
    got = np.asarray(ops.convert_to_numpy(model(points.astype("float32"))), np.float64)
    expected = np.asarray(ops.convert_to_numpy(exact(points.astype("float64"))))
    return np.linalg.norm(got - expected, axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_the_program_never_strays_further_than_proved(name, rng):
    model = MODELS[name]()
    worst = 0.0
    for scale in (1.0, 30.0):
        randomize(model, rng, scale)
        exact = in_float64(model)
        proof = prove(model)
        x = rng.normal(size=(16, *model.input_shape[1:]))
        evaluated = Float32ErrorAnalysis(model, proof.propagation).execute(x)
        assert np.isfinite(evaluated.errors).all() and (evaluated.reach > 1e6).all()
        for distance in (0.0, 1.0, 100.0):
            step = rng.normal(size=x.shape)
            norms = np.linalg.norm(step.reshape(16, -1), axis=1).reshape(-1, *[1] * (x.ndim - 1))
            found = deviation(model, exact, x + distance * step / norms)
            allowed = evaluated.errors + evaluated.growth * distance
            worst = max(worst, (found / allowed).max())
    assert worst <= 1
    # a bound that nothing comes near would prove nothing; typical errors cancel, the worst do not
    assert worst > 1e-5


@pytest.mark.parametrize("name", ["deep", "convolutions", "sorting", "poolings", "add"])
def test_what_is_added_with_the_distance(name, rng):
    """Near 0 and without biases the program is exact; far away its error is that of the growth."""
    model = MODELS[name]()
    randomize(model, rng)
    for weight in model.weights:
        if "bias" in weight.name:
            weight.assign(np.zeros(weight.shape))
    x = 1e-9 * rng.normal(size=(16, *model.input_shape[1:]))
    evaluated = Float32ErrorAnalysis(model, prove(model).propagation).execute(x)
    step = rng.normal(size=x.shape)
    found = deviation(model, in_float64(model), x + step)
    distance = np.linalg.norm(step.reshape(16, -1), axis=1)
    assert (evaluated.errors < found).all()
    assert (found <= evaluated.errors + evaluated.growth * distance).all()


ORDERS = {
    "as it comes": lambda terms: np.cumsum(terms, dtype=np.float32)[-1],
    "backwards": lambda terms: np.cumsum(terms[::-1], dtype=np.float32)[-1],
    "largest first": lambda terms: np.cumsum(terms[np.argsort(-np.abs(terms))], dtype=np.float32)[
        -1
    ],
    "smallest first": lambda terms: np.cumsum(terms[np.argsort(np.abs(terms))], dtype=np.float32)[
        -1
    ],
    "in pairs": lambda terms: np.sum(terms, dtype=np.float32),
}


def logits_in_float32(kernel, bias, x, order):
    """One product and one sum at a time."""
    columns = [
        ORDERS[order](np.append(x * column, b)) for column, b in zip(kernel.T, bias, strict=True)
    ]
    return np.array(columns, np.float32)


def exact_logits(kernel, bias, x):
    terms = [
        [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, c, strict=True)]
        for c in kernel.T
    ]
    return [sum(column) + Fraction(float(b)) for column, b in zip(terms, bias, strict=True)]


def rounding_search(model, x, radius, rng, trials=200):
    """Float32 points within the radius where an execution has another largest logit.

    Yields the exact squared distance, and whether the exact function has changed its answer.
    """
    kernel, bias = (ops.convert_to_numpy(weight) for weight in model.weights)
    label = int(np.argmax([float(v) for v in exact_logits(kernel, bias, x)]))
    away = (kernel[:, 1 - label] - kernel[:, label]).astype(float)
    away /= np.linalg.norm(away)
    for _ in range(trials):
        noise = rng.normal(size=x.shape)
        step = away + 0.02 * noise / np.linalg.norm(noise)
        share = 1 - 10.0 ** rng.uniform(-6, -1)
        step *= radius * share / np.linalg.norm(step)
        point = (x.astype(float) + step).astype("float32")
        pairs = zip(point, x, strict=True)
        distance = sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in pairs)
        if distance >= Fraction(float(radius)) ** 2:
            continue
        logits = [logits_in_float32(kernel, bias, point, order) for order in ORDERS]
        logits.append(ops.convert_to_numpy(model(point[None]))[0])
        if any(value[label] <= value[1 - label] for value in logits):
            exact = exact_logits(kernel, bias, point)
            yield float(distance) ** 0.5, exact[label] <= exact[1 - label]


@pytest.mark.parametrize("gap", [0.02, 0.1, 0.3])
def test_a_rounding_search_breaks_the_exact_certificate_in_float32_only(gap, rng):
    model, x = cancelling_model(gap, rng)
    radius = certify(model, x[None]).radius[0]
    assert radius > 0
    flips = list(rounding_search(model, x, radius, rng))
    assert flips and not any(changed for _, changed in flips)
    # The float32 certificate ends before the nearest of them.
    assert certify(model, x[None], semantics="float32").radius[0] < min(d for d, _ in flips)


def test_a_float32_certificate_survives_the_same_search(rng):
    model, x = cancelling_model(60.0, rng)
    real = certify(model, x[None]).radius[0]
    radius = certify(model, x[None], semantics="float32").radius[0]
    assert 0 < radius < real
    assert not list(rounding_search(model, x, radius, rng))
    # and beyond it, where rounding may decide, executions do differ
    assert list(rounding_search(model, x, real, rng))


def test_float32_radii_are_below_the_exact_ones(rng):
    model = deep()
    x = rng.uniform(size=(20, 200))
    real, float32 = certify(model, x), certify(model, x, semantics="float32")
    assert (real.label == float32.label).all()
    assert (float32.radius <= real.radius).all()
    # What float32 may lose is counted with the product of all constants: the share of the bound.
    product = np.prod([layer.value for layer in lip.lipschitz_bound(model).per_layer])
    assert (float32.radius > 0.9 * real.radius - 1e-3 * product / real.bound).all()
    assert "executed in float32" in str(float32) and "exact function" in str(real)


def test_the_error_of_a_dense_layer_is_the_textbook_one(rng):
    """With one layer, the deviation is gamma(n + 4) of the absolute values, and the input's."""
    kernel, n = rng.normal(size=(30, 4)).astype("float32"), 30
    model = chain(layers.Dense(4, use_bias=False), shape=(n,))
    model.set_weights([kernel])
    x = rng.normal(size=(1, n))
    evaluated = Float32ErrorAnalysis(model, prove(model).propagation).execute(x)
    norms = np.linalg.norm(np.abs(kernel).astype(float), 2), np.linalg.norm(kernel.astype(float), 2)
    share = UNIT * (34 * norms[0] + norms[1])
    assert evaluated.errors[0] == pytest.approx(share * np.linalg.norm(x), rel=1e-4)
    assert evaluated.growth == pytest.approx(share, rel=1e-4)


@pytest.mark.filterwarnings("ignore:At .* the model itself differs")  # some overflow as they run
@pytest.mark.parametrize("scale", [1e18, 1e30, 1e38])
def test_nothing_is_certified_where_numbers_may_overflow(scale):
    # 2 * scale * 1e19 passes the largest float32 on the way to a small logit
    kernel = np.array([[scale, 1.0], [-scale, 0.0]])
    model = chain(layers.Dense(2), shape=(2,))
    model.set_weights([kernel, np.zeros(2)])
    x = np.array([[1e19, 1e19], [1.0, 0.0]])
    certificates = certify(model, x, semantics="float32")
    with np.errstate(over="ignore"):
        overflows = scale * np.abs(x).max(axis=1) > 1e37
    assert (certificates.radius[overflows] == 0).all()
    reach = certificates.radius * scale
    assert (reach < 2.0**127).all()


LARGE_BIASES = {
    "dense": lambda: chain(layers.Dense(2), shape=(2,)),
    "dense relu": lambda: chain(layers.Dense(2, "relu"), shape=(2,)),
    "recurrent": lambda: chain(layers.SimpleRNN(2, "relu"), shape=(1, 2)),
}


@pytest.mark.parametrize("name", LARGE_BIASES)
def test_the_rounding_of_a_large_bias_counts(name):
    """An input of 1 is lost beside it."""
    model = LARGE_BIASES[name]()
    kernels = [np.eye(2)] * (len(model.weights) - 1)
    model.set_weights([*kernels, np.array([2.0**25, 0.0])])
    proof, x = prove(model), np.array([1.0, 0.5]).reshape(1, *model.input_shape[1:])
    found = Float32ErrorAnalysis(proof.model, proof.propagation).execute(x)
    own = np.asarray(model(x.astype("float32"))).astype("float64")
    assert found.logits[0, 0] - own[0, 0] == 1.0 <= found.errors


def _average_of_many():
    x = keras.Input((2,))
    return keras.Model(x, layers.Average()([x] * 16))


def _small_weights():
    model = chain(layers.Dense(2), shape=(2,))
    model.set_weights([1e-38 * np.eye(2), np.array([100.0, 0.0])])
    return model


LARGE_SUMS = {
    "the input": (_small_weights, 0.0),
    "inputs": (_average_of_many, 2.0**124),
    "a mean": (lambda: chain(layers.GlobalAveragePooling1D(), shape=(256, 2)), 2.0**120),
    "a centering": (
        lambda: chain(lip.layers.LayerCentering(axis=1), layers.Flatten(), shape=(1024, 2)),
        2.0**118,
    ),
}


@pytest.mark.parametrize("name", LARGE_SUMS)
def test_no_sum_overflows_within_a_radius(name):
    """Sums that are divided, or small weights, make small numbers of ones beyond float32."""
    make, size = LARGE_SUMS[name]
    model = make()
    x = np.full((1, *model.input_shape[1:]), 0.95 * size) * np.array([1.0, 0.0])
    x[0, 0] *= 16.0 if name == "a centering" else 1.0
    assert certify(model, x / 64.0, semantics="float32").radius > 0
    found = certify(model, x, semantics="float32")
    step = np.ones_like(x) * np.array([1.0, 0.0])
    far = x + 0.999 * found.radius * step / np.linalg.norm(step)
    with np.errstate(over="ignore"):
        assert np.isfinite(np.asarray(model(far.astype("float32")))).all()


def _flushed_gamma():
    layer = layers.BatchNormalization(epsilon=1e-12)
    layer.build((None, 1))
    layer.set_weights([np.array([1e-39]), np.zeros(1), np.zeros(1), np.zeros(1)])
    return layer


@pytest.mark.parametrize(
    "make", [_flushed_gamma, lambda: lambda x: x * 1e-39], ids=["BatchNormalization", "product"]
)
def test_factors_that_are_flushed_to_zero_are_errors(make):
    """The exact function multiplies by them; TensorFlow, not PyTorch, takes 0 instead."""
    x = keras.Input((1,))
    model, point = keras.Model(x, make()(x)), np.array([[1e30]])
    proof = prove(model)
    found = Float32ErrorAnalysis(proof.model, proof.propagation).execute(point)
    own = np.asarray(model(point.astype("float32")))
    assert found.logits > 0
    assert (own == 0) == (keras.backend.backend() != "torch")
    assert abs(found.logits - own) <= found.errors


def test_subnormal_weights_certify_nothing_that_flushing_changes():
    model = chain(layers.Dense(2, use_bias=False), shape=(2,))
    model.set_weights([np.array([[1e-40, 0.0], [0.0, 1e-40]])])
    x = np.array([[3.0, 1.0]])
    assert certify(model, x).radius[0] > 1
    assert certify(model, x, semantics="float32").radius[0] == 0


def refused_models():
    yield "float64", chain(layers.Dense(2, dtype="float64", name="wide"), shape=(3,)), "wide"
    half = layers.Dense(2, dtype="mixed_bfloat16", name="half")
    yield "bfloat16", chain(half, shape=(3,)), "half.*bfloat16"
    separable = layers.SeparableConv2D(2, 2, name="parts")
    yield "separable", chain(separable, layers.Flatten(), layers.Dense(2)), "parts"
    simplex = layers.Dense(2, activation="sparsemax", name="simplex")
    yield "sparsemax", chain(simplex, layers.Dense(2), shape=(3,)), "simplex.*sparsemax"
    mean = layers.GlobalAveragePooling2D(name="long")
    long = chain(mean, layers.Dense(2), shape=(2048, 2049, 1))
    yield "long", long, "too many for float32"


@pytest.mark.parametrize(
    ("model", "message"), [pytest.param(*r[1:], id=r[0]) for r in refused_models()]
)
def test_what_has_no_rule_is_named(model, message):
    x = np.ones((1, *model.input_shape[1:]))
    with pytest.raises(ValueError, match=message):
        certify(model, x, semantics="float32")


def test_unknown_semantics():
    with pytest.raises(ValueError, match="`semantics` must be one of 'real', 'float32'"):
        certify(chain(layers.Dense(2), shape=(3,)), np.ones((1, 3)), semantics="float16")
