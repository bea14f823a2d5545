"""A new parametrization is one class: what it inherits, and what AOL proves at every size."""

import math
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from deel_lip_tf import bounds, layers
from deel_lip_tf.normalizers import (
    AOL,
    Frobenius,
    MatrixParametrization,
    Operation,
    OperatorNorm,
    Parametrization,
    Projected,
    Spectral,
    UnitFrobenius,
)
from tests._oracles import oracles
from tests._oracles.tolerances import SAME_FLOAT32, SOUND
from tests._tables.cases import IMAGE, PADDINGS

# --- those of users -----------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
@dataclass(frozen=True)
class Balanced(MatrixParametrization):
    """Divides by `sqrt(||W||_1 ||W||_inf)`, which is at least `||W||_2`."""

    factor: float = 1.0

    def project(self, matrix):
        sums = [
            ops.max(ops.sum(ops.abs(matrix), axis=a, keepdims=True), a - 1, True) for a in (0, 1)
        ]
        return self.factor * matrix / ops.sqrt(sums[0] * ops.transpose(sums[1]))


@keras.saving.register_keras_serializable(package="tests")
@dataclass(frozen=True)
class Measured(Parametrization):
    """Two orthogonal factors, and a bound measured of their product: the sum of its taps' norms."""

    width: int = 6
    is_retracting = True

    def weights(self, kernel_shape):
        rows = math.prod(kernel_shape[:-1])
        return {"left": (rows, self.width), "right": (self.width, kernel_shape[-1])}

    def projected(self, weights, operation):
        factors = self.condensed(weights, operation)
        product = ops.matmul(factors["left"], factors["right"])
        kernel = ops.reshape(product, (*operation.kernel_size, -1, product.shape[-1]))
        norms = ops.sqrt(ops.sum(ops.square(kernel), axis=(-2, -1)))
        return Projected(kernel, ops.sum(norms))

    def retracted(self, weights, operation):
        return {n: Spectral().retract(ops.convert_to_tensor(w)) for n, w in weights.items()}

    def condensed(self, weights, operation):
        return {n: Spectral().project(ops.convert_to_tensor(w)) for n, w in weights.items()}


IN_LAYERS = {
    "dense": (lambda p: layers.SpectralDense(4, parametrization=p, k_coef_lip=0.5), (8,)),
    "convolution": (
        lambda p: layers.FrobeniusConv2D(4, 3, parametrization=p, k_coef_lip=0.5),
        IMAGE,
    ),
}
OF_USERS = [Balanced(factor=0.9), Measured(), Measured(width=2)]


@pytest.mark.parametrize("kind", IN_LAYERS)
@pytest.mark.parametrize("parametrization", [*OF_USERS, AOL()], ids=str)
def test_a_parametrization_works_in_every_layer(parametrization, kind, rng, tmp_path):
    make, shape = IN_LAYERS[kind]
    model = keras.Sequential([keras.Input(shape), make(parametrization)])
    (layer,) = model.layers
    before = model.get_weights()
    x = rng.normal(size=(8, *shape)).astype("float32")
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, np.ones(model(x).shape), epochs=2, verbose=0)
    weights = dict(zip(layer.raw_weights, before, strict=False))
    assert weights.keys() == parametrization.weights(layer.effective_kernel().shape).keys()
    assert all(np.abs(layer.raw_weights[n] - old).max() > 1e-4 for n, old in weights.items())

    expected = ops.convert_to_numpy(model(x))
    assert np.abs(expected).max() > 1e-3
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    assert reloaded.layers[0].parametrization == parametrization
    np.testing.assert_allclose(reloaded(x), expected, **SAME_FLOAT32)
    np.testing.assert_allclose(layer.vanilla_export()(x), expected, **SAME_FLOAT32)
    assert type(layer.vanilla_export()) is layer.plain_class
    assert bounds.lipschitz_bound(layer).value <= 0.5 * SOUND
    layer.condense()
    np.testing.assert_allclose(model(x), expected, rtol=2e-3, atol=2e-3)


def test_factors_are_retracted_after_each_update():
    layer = layers.SpectralDense(4, parametrization=Measured())
    layer.build((None, 8))
    for weight in layer.raw_weights.values():
        weight.assign(weight * 1.2)
        weight.assign(weight.constraint(weight))
        np.testing.assert_allclose(oracles.singular_values(weight), 1, atol=1e-3)


def test_what_is_no_parametrization_or_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="instance of a subclass of"):
        layers.SpectralDense(3, parametrization=AOL)
    with pytest.raises(ValueError, match="not both"):
        layers.SpectralDense(3, parametrization=AOL(), eps_bjorck=None)
    with pytest.raises(ValueError, match="Use UnitFrobenius"):
        layers.SpectralConv2D(3, 3, parametrization=Frobenius()).build((None, 5, 5, 1))
    with pytest.raises(ValueError, match="not both"):
        layers.FrobeniusDense(3, disjoint_neurons=False, parametrization=AOL())
    with pytest.raises(ValueError, match="must be one of .*'aol', 'at_most'"):
        layers.SpectralDense(3, parametrization="orthogonal")
    with pytest.raises(ValueError, match="`gain` must be one of"):
        layers.SpectralConv2D(3, 3, gain="estimated")


NAMED = {
    "aol": AOL(),
    "at_most": OperatorNorm(at_most=True),
    "frobenius": UnitFrobenius(),
    "spectral": Spectral(),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_parametrization_has_a_name(name):
    for make in (layers.SpectralDense, layers.FrobeniusDense, layers.AOLDense):
        layer = make(3, parametrization=name)
        assert layer.parametrization == NAMED[name]
        again = make.from_config(layer.get_config())
        assert again.parametrization == layer.parametrization


def test_presets_of_their_own_kind_keep_their_configuration():
    of_fields = layers.SpectralDense(3, eps_bjorck=None, name="one")
    of_object = layers.SpectralDense(3, parametrization=Spectral(eps_bjorck=None), name="one")
    assert of_fields.get_config() == of_object.get_config()
    assert "parametrization" not in of_fields.get_config()


# --- at most, and measured ----------------------------------------------------------------------


def test_a_kernel_of_a_smaller_norm_is_left_as_it_is(rng):
    layer = layers.SpectralConv2D(4, 3, padding="circular", parametrization="at_most")
    layer.build((None, 32, 32, 2))
    kernel = rng.normal(size=layer.kernel.shape).astype("float32")
    layer.kernel.assign(kernel)
    norm = bounds.lipschitz_bound(layer).value
    assert 0.95 < norm < 1
    for share in (0.95, 0.5, 0.0):
        layer.kernel.assign(share * np.asarray(layer.effective_kernel()))
        np.testing.assert_array_equal(layer.effective_kernel(), layer.kernel)
        layer.kernel.assign(kernel)


# --- AOL ----------------------------------------------------------------------------------------


def hard_kernel(rng, size, inputs, outputs):
    """One of those that break bounds of convolutions."""
    rows = size * inputs
    normal = rng.normal(size=(rows, outputs))
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    one_tap = np.zeros((size, inputs, outputs))
    one_tap[rng.integers(size)] = rng.normal(size=(inputs, outputs))
    tiny_column = normal * 10.0 ** rng.integers(-25, 1, size=outputs)
    choices = [
        normal,
        left @ right,
        np.ones_like(normal),
        np.outer(np.ones(rows), rng.normal(size=outputs)),
        np.cos(np.pi * np.arange(rows))[:, None] * np.ones(outputs),
        one_tap.reshape(rows, outputs),
        tiny_column,
        0 * normal,
    ]
    scale = [1.0, 1e30, 1e-30][rng.integers(3)]
    return (scale * choices[rng.integers(len(choices))]).reshape(size, inputs, outputs)


def aol_norm(kernel, size, stride, padding):
    """Of the layer's matrix on a sequence, in float64, after the division by the bound."""
    kernel = tf.constant(kernel, "float32")
    operation = Operation(kernel.shape[:1], (stride,), padding, (size,))
    projected = AOL().projected({"kernel": kernel}, operation)
    effective = np.asarray(projected.kernel, np.float64) / projected.bound
    matrix = oracles.matrix_of(
        lambda x: oracles.conv1d(x, effective, (stride,), padding), (size, kernel.shape[1])
    )
    assert np.isfinite(effective).all()
    return oracles.spectral_norm(matrix) if matrix.size else 0.0


@pytest.mark.parametrize("padding", [*PADDINGS, "causal"])
def test_aol_is_sound_at_every_size(padding, rng):
    """The oracle knows nothing of autocorrelations; sizes go from 1 to beyond the kernel."""
    norms = []
    for _ in range(40):
        k, stride, inputs, outputs = rng.integers(1, 6), rng.integers(1, 4), *rng.integers(1, 5, 2)
        size = int(rng.integers(k if padding == "valid" else 1, 9))
        kernel = hard_kernel(rng, int(k), int(inputs), int(outputs))
        norms.append(aol_norm(kernel, size, int(stride), padding))
        assert norms[-1] <= SOUND, (k, stride, inputs, outputs, size)
    assert max(norms) > 0.99


def test_a_ring_of_another_length_than_the_strides_is_found(monkeypatch):
    """The last patch overlaps the first at a distance that is no multiple of the stride."""
    ones = np.ones((3, 1, 1))
    assert aol_norm(ones, 4, 3, "circular") <= SOUND
    monkeypatch.setattr(Operation, "lattice", property(lambda self: self.strides))
    assert aol_norm(ones, 4, 3, "circular") == pytest.approx(math.sqrt(5 / 3), rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 4)])
@pytest.mark.parametrize("padding", ["same", "circular"])
def test_aol_needs_no_size(size, padding, rng):
    """Built for one size, it is sound at all others, as it says."""
    layer = layers.AOLConv2D(3, 3, padding=padding, use_bias=False)
    layer.build((None, 7, 7, 2))
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    layer(np.zeros((1, *size, 2), "float32"))
    kernel = ops.convert_to_numpy(layer.effective_kernel())
    matrix = oracles.matrix_of(lambda x: oracles.conv2d(x, kernel, (1, 1), padding), (*size, 2))
    assert oracles.spectral_norm(matrix) <= SOUND


def test_a_ring_that_the_bound_does_not_cover_is_refused():
    layer = layers.AOLConv2D(3, 3, 2, padding="circular")
    layer.build((None, 6, 6, 1))
    layer(np.zeros((1, 8, 8, 1), "float32"))
    with pytest.raises(ValueError, match="built for inputs of shape"):
        layer(np.zeros((1, 7, 8, 1), "float32"))


@pytest.mark.parametrize(("inputs", "filters"), [(4, 4), (2, 6), (6, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_isometries_stay_what_they_are(inputs, filters, stride, rng):
    """The initial kernel with stride 1, and orthogonal patches that do not overlap."""
    size = 3 if stride == 1 else stride
    layer = layers.AOLConv2D(stride**2 * filters, size, stride, "circular", use_bias=False)
    layer.build((None, 6, 6, inputs))
    if stride > 1:
        drawn = keras.initializers.Orthogonal(seed=0)((stride**2 * inputs, stride**2 * filters))
        layer.kernel.assign(ops.reshape(drawn, layer.kernel.shape))
    kernel = ops.convert_to_numpy(layer.effective_kernel())
    matrix = oracles.matrix_of(
        lambda x: oracles.conv2d(x, kernel, (stride, stride), "circular"), (6, 6, inputs)
    )
    np.testing.assert_allclose(
        oracles.singular_values(matrix)[: 36 * min(inputs, filters)], 1, atol=2e-6
    )


def test_aol_is_its_formula(rng):
    tall = rng.normal(size=(7, 4))
    expected = tall / np.sqrt(np.abs(tall.T @ tall).sum(axis=0))
    np.testing.assert_allclose(AOL().project(tf.constant(tall)), expected, rtol=1e-12)
    np.testing.assert_allclose(AOL().project(tf.constant(tall.T)), expected.T, rtol=1e-12)


STRIDED = [((3, 3, 2, 2), (1, 1)), ((3, 2, 1, 7), (2, 1)), ((3, 4, 2), (2,)), ((3, 2, 9), (2,))]


@pytest.mark.parametrize(("shape", "strides"), STRIDED)
def test_the_gradient_of_aol_is_that_of_finite_differences(shape, strides, rng):
    kernel, direction = rng.normal(size=shape), rng.normal(size=shape)
    operation = Operation(shape[: len(strides)], strides, "same", (5,) * len(strides))

    @tf.function(autograph=False)
    def project(kernel):
        return AOL().projected({"kernel": kernel}, operation).kernel

    x = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(direction * project(x))
    expected = oracles.jacobian(
        lambda k: np.array([np.sum(direction * project(tf.constant(k)).numpy())]), kernel
    )
    np.testing.assert_allclose(tape.gradient(y, x), expected.reshape(shape), rtol=1e-5, atol=1e-7)
