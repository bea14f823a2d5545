"""Recurrent layers of images: their constant through time, against dense matrices of loops."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import certificates, layers, verify
from deel_lip_tf.bounds.norms.recurrence import recurrence_bound
from deel_lip_tf.certificates.execution import Float32ErrorAnalysis
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.normalizers import Spectral
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.operators import Convolution, Recurrence
from tests._oracles.recurrences import ORDERS, shift_register, unrolled
from tests._oracles.tolerances import SAME_FLOAT32, SOUND

MODES = {"same": "constant", "circular": "wrap"}


def convolved(images, kernel, padding):
    """Of (batch, rows, columns, channels), by its definition."""
    around = [(0, 0), *(((k - 1) // 2, k // 2) for k in kernel.shape[:2]), (0, 0)]
    padded, (rows, columns) = np.pad(images, around, MODES[padding]), images.shape[1:3]
    return sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def written_out(kernel, size, padding):
    """The matrix of a convolution, (inputs, outputs)."""
    inputs = size * size * kernel.shape[-2]
    images = np.eye(inputs).reshape(inputs, size, size, -1)
    return convolved(images, kernel, padding).reshape(inputs, -1)


def of_images(inputs, state, size, steps, returns_all, padding):
    kernels = [kernel[..., None, :, :] for kernel in (inputs, state)]
    one = Convolution(kernels[0], (1, 1), (1, 1), padding, (size, size))
    return Recurrence(*kernels, steps, returns_all, one)


@pytest.mark.parametrize("returns_all", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("padding", MODES)
def test_no_recurrence_of_images_exceeds_its_bound(padding, returns_all, rng):
    for spread, size, taps in ((0.3, 3, 3), (3.0, 4, 2), (1.0, 2, 3)):
        inputs, state = (spread * rng.normal(size=(taps, taps, n, 2)) for n in (1, 2))
        known = of_images(inputs, state, size, 4, returns_all, padding)
        dense = [written_out(kernel, size, padding) for kernel in (inputs, state)]
        matrix = unrolled(*dense, 4, returns_all)
        for norm, order in ORDERS.items():
            found = np.linalg.norm(matrix, order)
            assert found <= recurrence_bound(known, 1.0, norm)[0] * (1 + 1e-12)


@pytest.mark.parametrize("padding", MODES)
def test_a_shift_register_of_images_attains_the_constants(padding):
    inputs, state = (np.zeros((3, 3, n, 4)) for n in (2, 4))
    inputs[1, 1], state[1, 1] = shift_register(2, 4)
    for returns_all, exact in ((False, 1.0), (True, np.sqrt(2.0))):
        known = of_images(inputs, state, 3, 2, returns_all, padding)
        assert exact <= recurrence_bound(known, 1.0, L2)[0] <= exact * (1 + 1e-6)


@pytest.mark.parametrize("method", [None, Spectral()], ids=["AOC", "Spectral"])
@pytest.mark.parametrize("padding", MODES)
def test_no_weights_exceed_the_constant_of_images(padding, method, rng):
    for returns_all, k in ((False, 3.0), (True, 1e-6)):
        layer = layers.AOCConvRNN2D(
            2, 3, padding, None, return_sequences=returns_all, k_coef_lip=k, parametrization=method
        )
        layer.build((None, 3, 3, 3, 2))
        shapes = {name: tuple(weight.shape) for name, weight in layer.raw_weights.items()}
        for scale in (0.0, 1e15, 1e-15, 1.0):
            for name, weight in layer.raw_weights.items():
                weight.assign(scale * rng.normal(size=shapes[name]))
            kernel = np.asarray(layer.effective_kernel(), np.float64)
            parts = layer.input_factor * kernel[:, :, :2], kernel[:, :, 2:]
            dense = [written_out(part, 3, padding) for part in parts]
            found = np.linalg.norm(unrolled(*dense, 3, returns_all), 2)
            assert found <= k * SOUND
            assert found * (1 - 1e-12) <= lip.lipschitz_bound(layer).value <= k * SOUND
        assert method is not None or padding == "same" or found >= 0.3 * k  # it is not idle


def test_the_layer_of_images_computes_the_recurrence(rng, tmp_path):
    """Against loops in NumPy, with all arguments; and so do its export and what is loaded."""
    x = rng.normal(size=(2, 3, 4, 4, 2)).astype("float32")
    for returns_all, backwards, padding in ((False, True, "same"), (True, False, "circular")):
        layer = layers.AOCConvRNN2D(
            3, 3, padding, return_sequences=returns_all, go_backwards=backwards, k_coef_lip=2.0
        )
        model = keras.Sequential([keras.Input(x.shape[1:]), layer])
        layer.bias.assign(rng.normal(size=3))
        kernel, bias = np.asarray(layer.wbar, np.float64), np.asarray(layer.bias)
        state, states = np.zeros((2, 4, 4, 3)), []
        for step in reversed(range(3)) if backwards else range(3):
            moved = convolved(layer.input_factor * x[:, step], kernel[:, :, :2], padding)
            state = np.tanh(moved + convolved(state, kernel[:, :, 2:], padding) + bias)
            states.append(state)
        wanted = np.stack(states, 1) if returns_all else state
        np.testing.assert_allclose(model(x), wanted, **SAME_FLOAT32)
        plain = layer.vanilla_export()
        np.testing.assert_allclose(plain(x), wanted, **SAME_FLOAT32)
        assert lip.lipschitz_bound(plain).value <= 2.0 * SOUND
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x), model(x))


def test_several_lengths_share_the_last_state_of_images(rng):
    layer = layers.AOCConvRNN2D(2, 3)
    model = lip.Sequential([keras.Input((None, None, None, 1)), layer])
    for shape in ((1, 2, 3, 4, 1), (2, 5, 4, 3, 1)):
        assert model(rng.normal(size=shape)).shape == (shape[0], *shape[2:4], 2)
    assert lip.lipschitz_bound(model).value <= SOUND
    assert type(layer.vanilla_export()) is layers.AOCConvRNN2D  # Keras records known sizes only


def steps_of_images(x, kernels, bias):
    """The last state in float64, with relu, and circular padding."""
    state = np.zeros((*x.shape[:1], *x.shape[2:-1], len(bias)))
    for step in range(x.shape[1]):
        moved = (
            convolved(*pair, "circular") for pair in zip((x[:, step], state), kernels, strict=True)
        )
        state = np.maximum(sum(moved) + bias, 0.0)
    return state


def test_programs_and_models_near_stay_where_it_is_said(rng):
    layer = layers.AOCConvRNN2D(3, 3, "circular", "relu", name="steps", k_coef_lip=3.0)
    model = keras.Sequential([keras.Input((4, 3, 3, 2)), layer, keras.layers.Flatten()])
    layer.bias.assign(rng.normal(size=3))
    x = rng.normal(size=(6, 4, 3, 3, 2)).astype("float32")
    kernel, bias = np.asarray(layer.wbar, np.float64), np.asarray(layer.bias, np.float64)
    kernels = layer.input_factor * kernel[:, :, :2], kernel[:, :, 2:]
    exact = steps_of_images(np.float64(x), kernels, bias).reshape(6, -1)
    errors = Float32ErrorAnalysis(model, prove(model).propagation).execute(np.float64(x)).errors
    found = np.linalg.norm(np.asarray(model(x)) - exact, axis=1)
    assert (found > 0).all() and (found <= errors).all() and (errors < 2e-3).all()
    amount = {"kernel": 1e-3, "recurrent_kernel": 2e-3, "bias": 1e-3}
    allowed = certificates.certify(model, x, weights_within={"steps": amount}).output_change
    for _ in range(20):
        signs = (rng.choice([-1.0, 1.0], size) for size in ((3, 3, 2, 3), (3, 3, 3, 3), 3))
        near = [one * sign for one, sign in zip((3e-3, 2e-3, 1e-3), signs, strict=True)]
        pair = kernels[0] + near[0], kernels[1] + near[1]  # the inputs are multiplied by 3
        moved = steps_of_images(np.float64(x), pair, bias + near[2]).reshape(6, -1) - exact
        assert (np.linalg.norm(moved, axis=1) <= allowed).all()


@pytest.mark.slow
def test_certificates_of_images_hold(rng):
    model = lip.Sequential(
        [
            keras.Input((3, 4, 4, 1)),
            layers.AOCConvRNN2D(2, 3, activation=layers.GroupSort2()),
            keras.layers.Flatten(),
            layers.SpectralDense(3),
        ]
    )
    x = rng.normal(size=(4, 3, 4, 4, 1)).astype("float32")
    radii = certificates.certify(model, x).radius
    gaps = np.sort(np.asarray(model(x)), axis=1)
    ideal = (gaps[:, -1] - gaps[:, -2]) / np.sqrt(2.0)
    assert (radii > 0).all() and (radii >= 0.99 * ideal).all()
    plain = certificates.certify(model.vanilla_export(), x).radius
    np.testing.assert_allclose(plain, radii, rtol=1e-4)
    labels = np.argmax(model(x), axis=1)
    answer = verify.robustness(model, x[:1], labels[:1], 1e-4, clip=None, method="crown")
    assert answer.count("robust") == 1


BAD_IMAGES = {
    "padding": (dict(padding="valid"), "must be 'same' or 'circular'"),
    "strides": (dict(strides=2), "`strides` of AOCConvRNN2D must be"),
    "format": (dict(data_format="channels_first"), "must be 'channels_last'"),
    "groups": (dict(groups=2), "groups"),
    "dilation": (dict(dilation_rate=2), "dilation_rate"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_states_are_images_of_the_same_size(name):
    arguments, message = BAD_IMAGES[name]
    with pytest.raises(ValueError, match=message):
        layers.AOCConvRNN2D(2, 3, **arguments)


@pytest.mark.slow
def test_training_keeps_the_constant_of_images(rng):
    """What is learned needs memory: whether the first image of three is bright on the left."""
    x = 0.1 * rng.normal(size=(256, 3, 4, 4, 1)).astype("float32")
    y = np.arange(256) % 2
    x[:, 0, :, :2] += y[:, None, None, None]
    layer = layers.AOCConvRNN2D(4, 3, "circular", layers.GroupSort2())
    stack = [layer, keras.layers.Flatten(), layers.SpectralDense(2)]
    model = lip.Sequential([keras.Input((None, 4, 4, 1)), *stack])
    model.compile(keras.optimizers.Adam(0.02), lip.losses.TauSparseCategoricalCrossentropy(10.0))
    history = model.fit(x, y, epochs=5, batch_size=64, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    assert np.mean(np.argmax(model.predict(x, verbose=0), axis=1) == y) > 0.95
    assert lip.lipschitz_bound(model).value <= SOUND
