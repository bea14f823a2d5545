"""Channels first, and volumes, on a CPU: what a network written channels last gets, they get."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf import verify
from deel_lip_tf.bounds.evaluation.model import Float64Evaluator
from deel_lip_tf.bounds.propagation import LipschitzPropagation
from deel_lip_tf.certificates import certify

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends compute this on a CPU"
)

IMAGE, SEQUENCE, VOLUME = (6, 6, 2), (7, 2), (4, 4, 4, 2)
CONVOLUTION = dict(filters=4, kernel_size=3, bias_initializer="random_normal")


def one(cls, **arguments):
    return lambda form: [cls(data_format=form, **arguments)]


def activated(form):
    """An activation that sorts channels, and one of single entries, then a pooling."""
    sort = lip.layers.GroupSort2(data_format=form)
    return [
        lip.layers.SpectralConv2D(4, 3, activation=sort, data_format=form),
        layers.Conv2D(3, 2, activation="relu", bias_initializer="random_normal", data_format=form),
        layers.AveragePooling2D(2, data_format=form),
    ]


def scaled(form):
    axis = 1 if form == "channels_first" else -1
    return [
        layers.Conv2D(4, 3, padding="same", activation="relu", data_format=form),
        layers.BatchNormalization(axis=axis),
        lip.layers.ScaledAveragePooling2D(2, data_format=form),
        lip.layers.MaxMin(data_format=form),
        lip.layers.LayerCentering(data_format=form),
        lip.layers.ScaledL2NormPooling2D(2, data_format=form),
    ]


def globally(form):
    return [
        # Not 4 filters: Keras adds a bias along the last axis where that is as long.
        layers.Conv2D(5, 3, activation="relu", data_format=form),
        layers.UpSampling2D(2, data_format=form),
        layers.ZeroPadding2D(1, data_format=form),
        layers.Cropping2D(((2, 1), (0, 1)), data_format=form),
        layers.GlobalAveragePooling2D(data_format=form, keepdims=True),
    ]


CASES = {
    "Conv1D": (SEQUENCE, one(layers.Conv1D, strides=2, activation="relu", **CONVOLUTION)),
    "Conv2D": (IMAGE, one(layers.Conv2D, padding="same", activation="relu", **CONVOLUTION)),
    "groups": (IMAGE, one(layers.Conv2D, groups=2, dilation_rate=2, **CONVOLUTION)),
    "Conv3D": (VOLUME, one(layers.Conv3D, activation="relu", **CONVOLUTION)),
    "DepthwiseConv1D": (SEQUENCE, one(layers.DepthwiseConv1D, kernel_size=2)),
    "DepthwiseConv2D": (IMAGE, one(layers.DepthwiseConv2D, kernel_size=2, depth_multiplier=2)),
    "SeparableConv1D": (SEQUENCE, one(layers.SeparableConv1D, filters=3, kernel_size=2)),
    "SeparableConv2D": (IMAGE, one(layers.SeparableConv2D, filters=3, kernel_size=2)),
    "Conv1DTranspose": (SEQUENCE, one(layers.Conv1DTranspose, strides=2, **CONVOLUTION)),
    "Conv2DTranspose": (IMAGE, one(layers.Conv2DTranspose, padding="same", **CONVOLUTION)),
    "Conv3DTranspose": (VOLUME, one(layers.Conv3DTranspose, **CONVOLUTION)),
    "MaxPooling1D": (SEQUENCE, one(layers.MaxPooling1D, pool_size=3, strides=2)),
    "MaxPooling2D": (IMAGE, one(layers.MaxPooling2D, pool_size=3, strides=2, padding="same")),
    "MaxPooling3D": (VOLUME, one(layers.MaxPooling3D, pool_size=2)),
    "AveragePooling1D": (SEQUENCE, one(layers.AveragePooling1D, pool_size=3, padding="same")),
    "AveragePooling3D": (VOLUME, one(layers.AveragePooling3D, pool_size=2, padding="same")),
    "GlobalMaxPooling3D": (VOLUME, one(layers.GlobalMaxPooling3D, keepdims=True)),
    "SpectralConv1D": (SEQUENCE, one(lip.layers.SpectralConv1D, filters=3, kernel_size=3)),
    "circular": (
        IMAGE,
        one(lip.layers.SpectralConv2D, filters=3, kernel_size=3, padding="circular"),
    ),
    "PadConv2D": (IMAGE, one(lip.layers.PadConv2D, padding="reflect", **CONVOLUTION)),
    "SpectralConv2DTranspose": (
        IMAGE,
        one(lip.layers.SpectralConv2DTranspose, filters=3, kernel_size=3, padding="symmetric"),
    ),
    "activated": (IMAGE, activated),
    "scaled": (IMAGE, scaled),
    "globally": (IMAGE, globally),
}


def first(x):
    """The same images with their channels first."""
    return np.moveaxis(x, -1, 1)


def pair(name, rng):
    """The network with its channels first, and written channels last, of the same weights."""
    shape, make = CASES[name]
    models = []
    for form, sizes in (("channels_first", (shape[-1], *shape[:-1])), ("channels_last", shape)):
        stack = [*make(form), layers.Flatten(data_format=form), layers.Dense(3)]
        models.append(keras.Sequential([keras.Input(sizes), *stack]))
    weights = [
        np.abs(w) + 0.3 if "variance" in variable.path else w
        for variable in models[1].weights
        for w in [rng.normal(size=variable.shape)]
    ]
    for model in models:
        model.set_weights(weights)
    return models


@pytest.mark.parametrize("name", CASES)
def test_certificates_are_those_of_the_network_written_channels_last(name, rng):
    model, twin = pair(name, rng)
    x = rng.normal(size=(8, *CASES[name][0]))
    meanings = ("real",) if "Separable" in name else ("real", "float32")
    for semantics, local in itertools.product(meanings, (False, True)):
        got = certify(model, first(x), semantics=semantics, local=local)
        wanted = certify(twin, x, semantics=semantics, local=local)
        assert (got.label == wanted.label).all()
        assert got.bound == pytest.approx(wanted.bound, rel=1e-9)
        for field in ("margin", "radius"):
            expected = pytest.approx(getattr(wanted, field), rel=1e-7, abs=1e-9)
            assert getattr(got, field) == expected
        assert (got.radius > 0).any() or semantics == "float32"


@pytest.mark.parametrize("name", CASES)
def test_verified_bounds_are_those_of_the_network_written_channels_last(name, rng):
    model, twin = pair(name, rng)
    low = rng.normal(size=(2, *CASES[name][0]))
    high = low + 0.1
    got = verify.bounds(model, verify.box(first(low), first(high)), method="crown")
    wanted = verify.bounds(twin, verify.box(low, high), method="crown")
    assert got.lower == pytest.approx(wanted.lower, rel=1e-7, abs=1e-9)
    assert got.upper == pytest.approx(wanted.upper, rel=1e-7, abs=1e-9)


def pooled(x, size, strides, padding, reduce):
    """Windows one by one, in NumPy; "same" as TensorFlow defines it."""
    starts, batch = [], x.shape[0]
    for n, k, s in zip(x.shape[1:-1], size, strides, strict=True):
        count = -(-n // s) if padding == "same" else (n - k) // s + 1
        before = max((count - 1) * s + k - n, 0) // 2 if padding == "same" else 0
        starts.append([i * s - before for i in range(count)])
    out = np.zeros((batch, *map(len, starts), x.shape[-1]))
    for place in itertools.product(*(range(len(axis)) for axis in starts)):
        window = tuple(
            slice(max(axis[i], 0), axis[i] + k)
            for axis, i, k in zip(starts, place, size, strict=True)
        )
        out[(slice(None), *place)] = reduce(x[(slice(None), *window)], axis=(1, 2, 3))
    return out


POOLINGS = [(layers.MaxPooling3D, np.max), (layers.AveragePooling3D, np.mean)]
SIZES = [((2, 2, 2), (2, 2, 2)), ((3, 2, 1), (1, 2, 3)), ((2, 3, 4), (2, 1, 1))]


@pytest.mark.parametrize("form", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("size", "strides"), SIZES)
@pytest.mark.parametrize(("cls", "reduce"), POOLINGS)
def test_volumes_are_pooled_in_float64(cls, reduce, size, strides, padding, form, rng):
    x = rng.normal(size=(3, 5, 4, 6, 2))
    given = x if form == "channels_last" else first(x)
    model = keras.Sequential(
        [keras.Input(given.shape[1:]), cls(size, strides, padding, data_format=form)]
    )
    walk = LipschitzPropagation()
    walk.model(model)
    outputs, errors = Float64Evaluator(model, walk)(given)
    wanted = pooled(x, size, strides, padding, reduce)
    wanted = wanted if form == "channels_last" else first(wanted)
    distance = np.linalg.norm((outputs - wanted).reshape(3, -1), axis=1)
    assert (distance <= errors).all()
    assert (errors < 1e-10).all()


@pytest.mark.parametrize("form", ["channels_last", "channels_first"])
@pytest.mark.parametrize("cls", [layers.MaxPooling3D, layers.AveragePooling3D])
def test_no_point_of_the_ball_has_another_label(cls, form, rng):
    shape = VOLUME if form == "channels_last" else (2, 4, 4, 4)
    model = keras.Sequential(
        [
            keras.Input(shape),
            # Not 3 filters: Keras adds a bias along the last axis where that is as long.
            layers.Conv3D(5, 2, activation="relu", data_format=form),
            cls(2, data_format=form),
            layers.Flatten(),
            layers.Dense(6, activation="relu"),
            layers.Dense(3),
        ]
    )
    for weight in model.weights:
        weight.assign(0.5 * rng.normal(size=weight.shape))
    x = rng.normal(size=(6, *shape))
    found = certify(model, x, local=True)
    assert (found.radius > 0).all()
    for _ in range(20):
        step = rng.normal(size=x.shape)
        step *= 0.999 / np.linalg.norm(step.reshape(6, -1), axis=1).reshape(-1, 1, 1, 1, 1)
        logits = ops.convert_to_numpy(model(x + step * found.radius.reshape(-1, 1, 1, 1, 1)))
        assert (logits.argmax(axis=1) == found.label).all()


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("cls", "reduce"), POOLINGS)
def test_no_point_of_a_box_leaves_the_bounds_of_pooled_volumes(cls, reduce, padding, method, rng):
    size, strides = (2, 1, 3), (2, 1, 1)
    model = keras.Sequential([keras.Input((3, 4, 4, 2)), cls(size, strides, padding)])
    low = rng.normal(size=(2, 3, 4, 4, 2))
    found = verify.bounds(model, verify.box(low, low + 1.0), method=method)
    points = low + np.round(rng.uniform(size=(500, *low.shape)))
    values = pooled(points.reshape(-1, 3, 4, 4, 2), size, strides, padding, reduce)
    values = values.reshape(500, *found.lower.shape)
    assert (found.lower <= values).all() and (found.upper >= values).all()
    assert np.isfinite(found.upper - found.lower).all()


@pytest.mark.parametrize("padding", ["same", "circular"])
def test_a_wrapper_computes_with_the_effective_kernel_of_its_layer(padding, rng):
    """In float32, not projected again in float64; and its channels may be first."""
    inner = lip.layers.SpectralConv2D(
        3, 3, padding=padding, data_format="channels_first", use_bias=False
    )
    model = keras.Sequential([keras.Input((2, 2, 5, 5)), layers.TimeDistributed(inner)])
    inner.kernel.assign(rng.normal(size=inner.kernel.shape))
    walk = LipschitzPropagation()
    walk.model(model)
    walk.unsupported.raise_if_any()
    x = rng.normal(size=(2, 2, 2, 5, 5))
    outputs, errors = Float64Evaluator(model, walk)(x)
    kernel = np.asarray(ops.convert_to_numpy(inner.effective_kernel()), np.float64)
    padded = np.pad(x, [(0, 0)] * 3 + [(1, 1)] * 2, "wrap" if padding == "circular" else "constant")
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (3, 4))
    wanted = np.einsum("ntcxyij,ijcf->ntfxy", patches, kernel)
    distance = np.linalg.norm((outputs - wanted).reshape(2, -1), axis=1)
    assert (distance <= errors).all()
