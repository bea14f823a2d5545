"""The tables of the verification tests: one row for each layer, activation and operation."""

from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from keras import activations, layers, ops

from deel_lip_tf.verify import ball, box
from tests._tables import cases

# Those of one pass, which are cheap; the others optimize.
METHODS = ("lipschitz", "ibp", "crown-ibp", "forward", "crown")
BRANCHING = "branch-and-bound"
ALL_METHODS = (*METHODS, "alpha-crown", BRANCHING)

FACTOR = dict(factor=0.5)
# With what Keras requires of each.
AUGMENTATIONS = {
    layers.AugMix: {},
    layers.CutMix: {},
    layers.MixUp: {},
    layers.RandAugment: {},
    layers.RandomBrightness: FACTOR,
    layers.RandomColorDegeneration: FACTOR,
    layers.RandomColorJitter: {},
    layers.RandomContrast: FACTOR,
    layers.RandomElasticTransform: {},
    layers.RandomErasing: {},
    layers.RandomFlip: {},
    layers.RandomGaussianBlur: {},
    layers.RandomGrayscale: {},
    layers.RandomHue: FACTOR,
    layers.RandomInvert: {},
    layers.RandomPerspective: {},
    layers.RandomPosterization: dict(factor=4),
    layers.RandomRotation: FACTOR,
    layers.RandomSaturation: FACTOR,
    layers.RandomSharpness: FACTOR,
    layers.RandomShear: {},
    layers.RandomTranslation: dict(height_factor=0.5, width_factor=0.5),
    layers.RandomZoom: dict(height_factor=0.5),
}

IMAGE, SEQUENCE, VECTOR, VOLUME = (5, 4, 2), (6, 2), (6,), (3, 3, 2, 2)


@dataclass(frozen=True)
class Row:
    """A function from a symbolic tensor to a symbolic tensor, and the shape of its input."""

    name: str
    apply: object
    shape: tuple
    written: object = None  # the function of its arguments as written, where Keras rounds them

    def __str__(self):
        return f"{self.name}{'x'.join(map(str, self.shape))}"

    def model(self, scale=1.0):
        """The row in float64, with random weights."""
        inputs = keras.Input(self.shape, dtype="float64")
        model = keras.Model(inputs, self.apply(inputs))
        randomize(model, scale)
        return model

    def outputs(self, model, x):
        """What the model of the row computes at points (n, *shape)."""
        return np.asarray(model(x, training=False)) if self.written is None else self.written(x)


def randomize(model, scale=1.0, seed=0):
    """Random weights; where a weight is a variance, a positive one."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = scale * rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)


def with_head(row):
    """A model of a row, an activation, and a dense head: what is nonlinear lies inside."""
    inputs = keras.Input(row.shape, dtype="float64")
    hidden = layers.Flatten(dtype="float64")(row.apply(inputs))
    hidden = layers.Dense(4, activation="relu", dtype="float64")(hidden)
    model = keras.Model(inputs, layers.Dense(3, dtype="float64")(hidden))
    randomize(model, 0.5)
    return model


def layer(cls, shape, **arguments):
    """One layer."""
    text = ",".join(f"{k}={v}" for k, v in arguments.items())
    make = partial(cls, dtype="float64", **arguments)
    return Row(f"{cls.__name__}({text})", lambda x: make()(x), shape)


def operation(name, apply, shape=IMAGE):
    return Row(name, apply, shape)


def shared(x):
    """One dense layer that is called twice, around an activation, and added up."""
    dense = layers.Dense(6, activation="relu", dtype="float64")
    once = dense(x)
    return layers.Add(dtype="float64")([dense(once), once, x])


def nested(x):
    """A model in a model in a model."""
    inner = keras.Sequential(
        [keras.Input((6,), dtype="float64"), layers.Dense(5, activation="tanh", dtype="float64")]
    )
    inputs = keras.Input((6,), dtype="float64")
    outer = keras.Model(inputs, layers.Dense(6, dtype="float64")(inner(inputs)))
    return layers.ReLU(dtype="float64")(outer(outer(x)))


def residual_image(x):
    """A residual block of convolutions."""
    convolution = partial(layers.Conv2D, 2, 3, padding="same", dtype="float64")
    branch = convolution(activation="relu")(convolution(activation="relu")(x))
    return layers.Add(dtype="float64")([x, branch])


def chain(*parts):
    """Layers one after the other, each in float64: those that are exact need no row each."""
    made = [(cls, arguments) for cls, arguments in parts]

    def apply(x):
        for cls, arguments in made:
            x = cls(dtype="float64", **arguments)(x)
        return x

    return apply


def moved(x):
    """Operations that move, copy and add entries."""
    x = ops.flip(ops.swapaxes(ops.moveaxis(x, 3, 1), 2, 3), axis=2)
    x = ops.squeeze(ops.expand_dims(ops.repeat(x, 2, axis=1), 1), 1)
    x = ops.concatenate([x, ops.stack([x[:, 0], x[:, 1]], axis=1)], axis=1)
    x = ops.einsum("bcxy,xz->bczy", x, np.array([[1.0, -2.0], [0.5, 0.0], [1.0, 1.0], [0, 3]]))
    return ops.sum(ops.average_pool(ops.reshape(x, (-1, 6, 2, 5)), 2, 1), axis=3)


def at_each_step(x):
    """Wrapped layers that are applied to each row of an image."""
    convolution = layers.Conv1D(3, 2, activation="relu", dtype="float64")
    x = layers.TimeDistributed(convolution, dtype="float64")(x)
    x = layers.TimeDistributed(layers.Flatten(dtype="float64"), dtype="float64")(x)
    dense = layers.Dense(2, activation="tanh", dtype="float64")
    return layers.TimeDistributed(dense, dtype="float64")(x)


def normalized(x):
    """A wrapper that acts in training alone."""
    dense = layers.Dense(3, activation="relu", dtype="float64")
    return layers.SpectralNormalization(dense, dtype="float64")(x)


def activated(x):
    """Activations as operations, each on entries of its own, and then all of them together."""
    made = [ops.relu6, ops.elu, ops.selu, ops.silu, ops.sigmoid, ops.softplus, ops.softsign]
    made += [ops.hard_sigmoid, ops.tanh, ops.exp]
    made += [ops.celu, ops.hard_silu, ops.hard_tanh, ops.log_sigmoid, ops.soft_shrink]
    made += [ops.sparse_plus, ops.sparse_sigmoid, ops.squareplus, ops.tanh_shrink]
    return ops.concatenate([function(x) for function in made], axis=1)


KERAS = [
    layer(layers.Dense, VECTOR, units=4),
    layer(layers.Dense, SEQUENCE, units=3, use_bias=False),
    layer(layers.Conv1D, SEQUENCE, filters=3, kernel_size=3, padding="causal", dilation_rate=2),
    layer(layers.Conv1D, SEQUENCE, filters=3, kernel_size=2, strides=2, padding="same"),
    layer(layers.Conv2D, IMAGE, filters=3, kernel_size=3, strides=2, padding="same"),
    layer(layers.Conv2D, IMAGE, filters=3, kernel_size=(3, 2), padding="valid"),
    layer(layers.Conv2D, IMAGE, filters=4, kernel_size=2, dilation_rate=2, groups=2),
    layer(layers.Conv3D, (3, 3, 3, 2), filters=2, kernel_size=2),
    layer(layers.Conv3D, (3, 2, 2, 2), filters=4, kernel_size=2, groups=2),
    layer(layers.DepthwiseConv2D, IMAGE, kernel_size=3, depth_multiplier=2, padding="same"),
    layer(layers.SeparableConv2D, IMAGE, filters=3, kernel_size=2),
    layer(layers.Conv1DTranspose, SEQUENCE, filters=2, kernel_size=3, strides=2),
    layer(layers.Conv2DTranspose, IMAGE, filters=2, kernel_size=3, strides=2, padding="same"),
    layer(layers.Conv3DTranspose, (2, 2, 1, 2), filters=2, kernel_size=2, strides=2),
    layer(layers.EinsumDense, SEQUENCE, equation="abc,cd->abd", output_shape=(6, 3), bias_axes="d"),
    layer(layers.EinsumDense, SEQUENCE, equation="...tc,tcd->...dt", output_shape=(3, 6)),
    layer(layers.MaxPooling1D, SEQUENCE, pool_size=3, strides=2, padding="same"),
    layer(layers.MaxPooling2D, IMAGE, pool_size=2),
    layer(layers.MaxPooling2D, IMAGE, pool_size=3, strides=2, padding="same"),
    layer(layers.AveragePooling1D, SEQUENCE, pool_size=2),
    layer(layers.AveragePooling2D, IMAGE, pool_size=3, strides=2, padding="same"),
    layer(layers.GlobalMaxPooling1D, SEQUENCE),
    layer(layers.GlobalMaxPooling2D, IMAGE, keepdims=True),
    layer(layers.GlobalAveragePooling2D, IMAGE),
    layer(layers.BatchNormalization, IMAGE),
    layer(layers.BatchNormalization, VECTOR, center=False, scale=False),
    layer(layers.SimpleRNN, (4, 2), units=3),
    layer(
        layers.SimpleRNN,
        (3, 2),
        units=2,
        activation="relu",
        return_sequences=True,
        go_backwards=True,
        use_bias=False,
    ),
    layer(layers.Flatten, IMAGE),
    layer(layers.Reshape, IMAGE, target_shape=(4, 10)),
    layer(layers.Permute, IMAGE, dims=(3, 1, 2)),
    layer(layers.RepeatVector, VECTOR, n=2),
    layer(layers.ZeroPadding1D, SEQUENCE, padding=2),
    layer(layers.ZeroPadding2D, IMAGE, padding=((1, 0), (2, 1))),
    layer(layers.Cropping2D, IMAGE, cropping=1),
    layer(layers.UpSampling2D, IMAGE, size=2),
    layer(layers.UpSampling3D, (2, 1, 2, 1), size=(1, 2, 2)),
    layer(layers.Cropping3D, (2, 3, 2, 1), cropping=((1, 0), (1, 1), (0, 0))),
    layer(layers.Dropout, VECTOR, rate=0.5),
    layer(layers.GaussianNoise, VECTOR, stddev=1.0),
    # Numbers that float32 has: Keras rounds others, which count as written here.
    layer(layers.Rescaling, IMAGE, scale=-2.0, offset=0.25),
    layer(layers.Normalization, VECTOR, mean=0.25, variance=2.0),
    layer(layers.Normalization, VECTOR, mean=0.25, variance=2.0, invert=True),
]

ACTIVATION_LAYERS = [
    layer(layers.ReLU, VECTOR),
    layer(layers.ReLU, IMAGE),
    layer(layers.ReLU, VECTOR, max_value=0.75, negative_slope=0.25),
    layer(layers.ReLU, VECTOR, negative_slope=1.75),
    layer(layers.LeakyReLU, VECTOR, negative_slope=0.375),
    Row(
        "Activation(leaky_relu)",
        lambda x: layers.Activation("leaky_relu", dtype="float64")(x),
        VECTOR,
        lambda x: np.where(x > 0, x, 0.2 * x),
    ),
    layer(layers.PReLU, VECTOR),
    layer(layers.PReLU, IMAGE, shared_axes=[1, 2]),
    layer(layers.ELU, VECTOR, alpha=1.4),
    *[
        layer(layers.Activation, VECTOR, activation=name)
        for name in (
            *("relu", "relu6", "elu", "selu", "gelu", "silu", "sigmoid", "tanh"),
            *("softplus", "softsign", "exponential", "hard_sigmoid", "hard_tanh", "hard_silu"),
            *("celu", "mish", "log_sigmoid", "soft_shrink", "sparse_plus", "sparse_sigmoid"),
            *("squareplus", "tanh_shrink"),
        )
    ],
]

OPERATIONS = [
    operation("x + 1", lambda x: x + 1.0),
    operation("3 - x / 2", lambda x: 3.0 - x / 2.0),
    operation("-x * c", lambda x: -x * np.array([0.5, -2.0])),
    operation("x - y", lambda x: x - 2.0 * x[:, ::-1]),
    operation("maximum(x, c)", lambda x: ops.maximum(x, 0.3)),
    operation("minimum(c, x)", lambda x: ops.minimum(0.3, x)),
    operation("abs", ops.abs),
    operation("x[:, 1:, :, 0]", lambda x: x[:, 1:, :, 0]),
    operation("mean", lambda x: ops.mean(x, axis=(1, 2))),
    operation("transpose", lambda x: ops.transpose(x, (0, 3, 1, 2))),
    operation("average_pool", lambda x: ops.average_pool(x, 2)),
    operation("take", lambda x: ops.take(x, [0, 2, 2], axis=1)),
    operation("pad", lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)))),
    operation("gelu with tanh", lambda x: ops.gelu(x, approximate=True), VECTOR),
    operation("relu", ops.relu, VECTOR),
    operation("relu capped", lambda x: activations.relu(x, 0.125, 0.75), VECTOR),
    operation("leaky_relu", lambda x: ops.leaky_relu(x, 0.375), VECTOR),
    operation("Add", lambda x: layers.Add(dtype="float64")([x, x[:, :1], -2.0 * x])),
    operation("Subtract", lambda x: layers.Subtract(dtype="float64")([2.0 * x, x[:, :1]])),
    operation("Average", lambda x: layers.Average(dtype="float64")([x, 3.0 * x])),
    operation("Concatenate", lambda x: layers.Concatenate(1, dtype="float64")([x, -x])),
    operation("Maximum", lambda x: layers.Maximum(dtype="float64")([x, 2.0 * x, -x + 0.1])),
    operation("Minimum", lambda x: layers.Minimum(dtype="float64")([x, 2.0 * x[:, :1]])),
    operation("shared", shared, VECTOR),
    operation("nested", nested, VECTOR),
    operation("moved", moved),
    operation("activations", activated, VECTOR),
    operation(
        "identities",
        chain(
            *((cls, {}) for cls in (layers.Identity, layers.ActivityRegularization)),
            *((cls, dict(rate=0.5)) for cls in (layers.SpatialDropout1D, layers.AlphaDropout)),
            (layers.GaussianDropout, dict(rate=0.5)),
        ),
        SEQUENCE,
    ),
    operation("roll", lambda x: ops.roll(ops.roll(x, 2, axis=1), (-1, 1), axis=(2, 3))),
    operation("augmentations", chain(*AUGMENTATIONS.items()), (4, 4, 3)),
    operation("images", chain((layers.SpatialDropout2D, dict(rate=0.5)))),
    operation(
        "sequences",
        chain(
            (layers.Cropping1D, dict(cropping=1)),
            (layers.UpSampling1D, dict(size=2)),
            (layers.DepthwiseConv1D, dict(kernel_size=2)),
            (layers.SeparableConv1D, dict(filters=3, kernel_size=3)),
            (layers.GlobalAveragePooling1D, {}),
        ),
        SEQUENCE,
    ),
    operation(
        "volumes",
        chain(
            (layers.SpatialDropout3D, dict(rate=0.5)),
            (layers.ZeroPadding3D, dict(padding=1)),
            (layers.Cropping3D, dict(cropping=((1, 0), (0, 1), (0, 0)))),
        ),
        VOLUME,
    ),
    operation("largest of a volume", chain((layers.GlobalMaxPooling3D, {})), VOLUME),
    operation("mean of a volume", chain((layers.GlobalAveragePooling3D, {})), VOLUME),
    operation("residual", residual_image),
    operation("clip", lambda x: ops.clip(x, -0.2, 0.5)),
    operation("clip above", lambda x: ops.clip(x, -np.inf, 0.5)),
    operation("at each step", at_each_step),
    operation("normalized", normalized, VECTOR),
]


def own(case):
    """A layer of this library, from the table of the other tests; two branches for a residual."""
    make = partial(case.make, dtype="float64")
    return Row(str(case).rsplit(")", 1)[0] + ")", lambda x: make()(x), case.shape)


_WITH_ONE_OF_A_KIND = {}
for _case in cases.LAYERS:
    _WITH_ONE_OF_A_KIND.setdefault((_case.cls, _case.kwargs.get("padding")), _case)
_OTHERS = [
    cases.Case(cases.layers.Householder, dict(order=2), (6,)),
    cases.Case(cases.layers.Abs, dict(fraction=0.5, k_coef_lip=0.7), (3, 4, 3)),
    cases.Case(cases.layers.LipschitzSpline, dict(knots=1, data_format="channels_first"), (2, 3)),
]
LIBRARY = [own(case) for case in (*_WITH_ONE_OF_A_KIND.values(), *_OTHERS)] + [
    own(cases.Case(cases.layers.FullSort, {}, (5,))),
    own(
        cases.Case(
            cases.layers.PadConv2D, dict(filters=2, kernel_size=3, padding="circular"), IMAGE
        )
    ),
    own(cases.Case(cases.layers.GroupSort, dict(n=3, k_coef_lip=0.7), (6,))),
    own(cases.Case(cases.layers.MaxMin, dict(data_format="channels_first"), (2, 4, 3))),
    operation(
        "LayerCentering of one",
        lambda x: cases.layers.LayerCentering(axis=1, dtype="float64")(x[:, :1]),
        VECTOR,
    ),
    operation(
        "vector, channels first",
        chain(
            (cases.layers.MaxMin, dict(data_format="channels_first")), (layers.Dense, dict(units=2))
        ),
        VECTOR,
    ),
    operation("LipResidual", lambda x: cases.layers.LipResidual(dtype="float64")([x, 2.0 * x])),
]

ROWS = KERAS + ACTIVATION_LAYERS + OPERATIONS + LIBRARY


def _program_of(case):
    """What the program of a layer depends on, its numbers aside.

    Parametrizations make kernels, and the four paddings that extend the border make indices.
    """
    kind = getattr(case.cls, "plain_class", case.cls)
    extending = ("circular", "symmetric", "reflect", "replicate")
    padding = case.kwargs.get("padding", "same")
    others = {k: str(v) for k, v in case.kwargs.items() if k not in ("padding", "depth")}
    geometry = tuple(sorted(others.items()))
    return kind, "extended" if padding in extending else padding, geometry, case.shape


_FIRST = {_program_of(case): case for case in reversed(_WITH_ONE_OF_A_KIND.values())}
_AGAIN = {str(own(case)) for case in _WITH_ONE_OF_A_KIND.values()}
_AGAIN -= {str(own(case)) for case in _FIRST.values()}
REPEATED = [row for row in LIBRARY if str(row) in _AGAIN]
"""Rows whose programs are those of others but for numbers, as `test_lowering.py` shows: bounds of
them would run the same lines on the same shapes."""
DISTINCT = [row for row in ROWS if row not in REPEATED]


def domains(shape, seed=0, scale=1.0):
    """One domain of each kind, of two samples, around random points."""
    rng = np.random.default_rng(seed)
    center = scale * rng.uniform(-1.0, 1.0, (2, *shape))
    width = 0.3 * scale * rng.uniform(size=center.shape) * (rng.uniform(size=center.shape) > 0.2)
    clip = (-1.1 * scale, 0.9 * scale)
    inside = np.clip(center, *clip)
    return {
        "box": box(center - width, center + rng.uniform(size=center.shape) * width),
        "linf": ball(inside, 0.2 * scale, "linf", clip),
        "l2": ball(inside, np.array([0.3, 0.6]) * scale, "l2", clip),
        "l1": ball(center, 0.5 * scale, "l1", None),
    }


def points(domain, count, seed=0):
    """(count, n, *shape) points of a domain: corners, inner points and points on the ball."""
    rng = np.random.default_rng(seed)
    shape = (count, *domain.lower.shape)
    share = rng.uniform(size=shape)
    share[: count // 3] = np.round(share[: count // 3])
    inside = domain.lower + share * (domain.upper - domain.lower)
    return project(domain, inside)


def project(domain, x):
    """Points moved into the ball, towards its center, and then into the box."""
    x = np.clip(x, domain.lower, domain.upper)
    if domain.norm in ("l1", "l2"):
        offset = (x - domain.center).reshape(*x.shape[:2], -1)
        length = np.linalg.norm(offset, int(domain.norm[1]), axis=-1)
        limit = domain.radius * (1.0 - 1e-12)
        factor = np.minimum(1.0, limit / np.maximum(length, 1e-300))
        x = domain.center + factor.reshape(*factor.shape, *[1] * (x.ndim - 2)) * (x - domain.center)
        x = np.clip(x, domain.lower, domain.upper)
    return x
