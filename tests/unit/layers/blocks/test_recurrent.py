"""Recurrent layers: their constant through time, against dense matrices that loops unroll."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import certificates, layers, verify
from deel_lip_tf.bounds.norms.recurrence import recurrence_bound
from deel_lip_tf.certificates.execution import Float32ErrorAnalysis
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.normalizers import AOL, BRO, Cayley, Frobenius, OperatorNorm, Spectral
from deel_lip_tf.semantics.norms import L1, L2, LINF
from deel_lip_tf.semantics.operators import Convolution, Recurrence
from tests._oracles.tolerances import SAME_FLOAT32, SOUND

ORDERS = {L2: 2, L1: 1, LINF: np.inf}


def unrolled(kernel, recurrent, steps, returns_all, slope=1.0):
    """The matrix of a linear recurrence, from all inputs to the states, by powers of `R`."""
    inputs, units = kernel.shape
    matrix = np.zeros((steps, units, steps, inputs))
    for end in range(steps):
        power = slope * kernel.T
        for start in range(end, -1, -1):
            matrix[end, :, start] = power
            power = slope * recurrent.T @ power
    matrix = matrix if returns_all else matrix[-1:]
    return matrix.reshape(-1, steps * inputs)


def shift_register(inputs, units):
    """`K` and `R` that keep what came last: a permutation, of which every row is one entry."""
    joint = np.eye(inputs + units)[:, :units]
    return joint[:inputs], joint[inputs:]


def kernels(rng, inputs, units):
    """What the bound might break at."""
    normal = rng.normal(size=(inputs + units, units))
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    rotation, _ = np.linalg.qr(rng.normal(size=(units, units)))
    yield "orthogonal", (left @ right)[:inputs], (left @ right)[inputs:]
    yield "random", normal[:inputs], normal[inputs:]
    yield "contracting", normal[:inputs], 0.6 * rotation
    yield "rotation", normal[:inputs], rotation
    yield "growing", 1e-3 * normal[:inputs], 1.2 * rotation
    yield "shift register", *shift_register(inputs, units)
    yield "rank one", np.ones((inputs, units)), np.full((units, units), 1.0 / units)
    yield "nilpotent", normal[:inputs], 30.0 * np.tri(units, k=-1)
    yield "forgets", normal[:inputs], np.zeros((units, units))
    yield "nothing", np.zeros((inputs, units)), rotation
    yield "huge", 1e200 * normal[:inputs], rotation
    yield "tiny", 1e-200 * normal[:inputs], 1e-200 * rotation


@pytest.mark.parametrize("norm", ORDERS, ids=lambda norm: norm.name)
@pytest.mark.parametrize("returns_all", [False, True], ids=["last", "all"])
@pytest.mark.parametrize("steps", [1, 9])
def test_no_recurrence_exceeds_its_bound(steps, returns_all, norm, rng):
    for inputs, units, slope in ((2, 5, 1.0), (4, 2, 1.1), (2, 3, 0.25)):
        for name, kernel, recurrent in kernels(rng, inputs, units):
            known = Recurrence(kernel, recurrent, steps, returns_all)
            bound, _ = recurrence_bound(known, slope, norm)
            matrix = unrolled(kernel, recurrent, steps, returns_all, slope)
            exact = np.linalg.norm(matrix, ORDERS[norm])
            assert exact <= bound * (1 + 1e-12), (name, inputs, slope)
            q, b = (slope * np.linalg.norm(x.T, ORDERS[norm]) for x in (recurrent, kernel))
            assert bound <= b * sum(q**step for step in range(steps)) * (1 + 1e-9) + 1e-300, name


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_constants_are_attained_by_a_shift_register(steps):
    kernel, recurrent = shift_register(2, 12)
    for returns_all, exact in ((False, 1.0), (True, np.sqrt(steps))):
        bound, _ = recurrence_bound(Recurrence(kernel, recurrent, steps, returns_all), 1.0, L2)
        found = np.linalg.norm(unrolled(kernel, recurrent, steps, returns_all), 2)
        assert found == pytest.approx(exact, rel=1e-12)
        assert found * (1 - 1e-12) <= bound <= exact * (1 + 1e-6)


def test_a_factor_of_the_input_is_found():
    """Of `c K` and `R` that are orthogonal without it, whatever it is and however many steps."""
    kernel, recurrent = shift_register(2, 12)
    for factor in (1e-9, 0.3, 7.0, 1e9):
        for steps in (2, 100, 10_000):
            known = Recurrence(factor * kernel, recurrent, steps, False)
            assert factor <= recurrence_bound(known, 1.0, L2)[0] <= factor * (1 + 1e-6)


def test_any_number_of_steps_is_bounded_where_nothing_grows():
    kernel, recurrent = np.array([[0.6]]), np.array([[0.8]])
    for returns_all, exact in ((False, 1.0), (True, 3.0)):  # 0.6 / sqrt(0.36), 0.6 / 0.2
        bound, _ = recurrence_bound(Recurrence(kernel, recurrent, None, returns_all), 1.0, L2)
        long = np.linalg.norm(unrolled(kernel, recurrent, 200, returns_all), 2)
        assert exact * (1 - 3e-3) <= long <= bound <= exact * (1 + 1e-4)
    for returns_all, factor in ((True, 1.0), (False, 1.01)):
        with pytest.raises(UnsupportedLayerError, match="number of steps, which is not known"):
            recurrence_bound(Recurrence(kernel, factor / 0.8 * recurrent, None, returns_all), 1, L2)
    with pytest.raises(UnsupportedLayerError, match="of 3000 steps is larger than any float64"):
        recurrence_bound(Recurrence(kernel, 2.0 * recurrent, 3000, False), 1.0, L2)


# --- the layer ----------------------------------------------------------------------------------

PARAMETRIZATIONS = [None, AOL(), BRO(), Cayley(), OperatorNorm(), "frobenius"]


def hard_weights(layer, rng):
    shape = layer.raw_weights["kernel"].shape
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    rank_one = np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1]))
    shifted = np.eye(*shape)
    for kernel in (1e30 * left @ right, rank_one, 1e-30 * shifted, shifted, np.zeros(shape)):
        layer.raw_weights["kernel"].assign(kernel)
        yield


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.slow if m else (), id=str(m)[:6]) for m in PARAMETRIZATIONS],
)
def test_no_weights_exceed_the_constant(method, rng):
    for returns_all, k in ((False, 3.0), (True, 1e-6)):
        layer = layers.SpectralSimpleRNN(
            5, activation=None, parametrization=method, return_sequences=returns_all, k_coef_lip=k
        )
        layer.build((None, 7, 2))
        for _ in hard_weights(layer, rng):
            kernel = np.asarray(layer.effective_kernel(), np.float64)
            found = np.linalg.norm(unrolled(kernel[:2], kernel[2:], 7, returns_all), 2)
            assert found <= k * SOUND
            assert found * (1 - 1e-12) <= lip.lipschitz_bound(layer).value <= k * SOUND


def test_the_layer_computes_the_recurrence(rng):
    """Against loops in NumPy, with all arguments; and so do its export and what is loaded."""
    x = rng.normal(size=(3, 6, 2)).astype("float32")
    for returns_all in (False, True):
        for backwards in (False, True):
            layer = layers.SpectralSimpleRNN(
                4,
                return_sequences=returns_all,
                go_backwards=backwards,
                unroll=returns_all == backwards,
                k_coef_lip=2.0,
            )
            layer.build((None, 6, 2))
            layer.bias.assign(rng.normal(size=4))
            kernel, bias = np.asarray(layer.wbar, np.float64), np.asarray(layer.bias)
            state, states = np.zeros((3, 4)), []
            for step in reversed(range(6)) if backwards else range(6):
                state = np.tanh(x[:, step] @ kernel[:2] + state @ kernel[2:] + bias)
                states.append(state)
            wanted = np.stack(states, 1) if returns_all else state
            np.testing.assert_allclose(layer(x), wanted, **SAME_FLOAT32)
            np.testing.assert_allclose(layer.vanilla_export()(x), wanted, **SAME_FLOAT32)


def test_activations_with_weights_are_exported(rng, tmp_path):
    layer = layers.SpectralSimpleRNN(4, activation=layers.Householder())
    model = lip.Sequential([keras.Input((5, 3)), layer, layers.SpectralDense(2)])
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    x = rng.normal(size=(4, 5, 3)).astype("float32")
    np.testing.assert_allclose(model.vanilla_export()(x), model(x), **SAME_FLOAT32)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


@pytest.mark.slow
def test_training_keeps_the_constant(rng):
    """What is learned needs memory: the sum of the first two numbers of a sequence of ten."""
    x = rng.normal(size=(256, 10, 1)).astype("float32")
    layer = layers.SpectralSimpleRNN(12, activation=layers.GroupSort2())
    model = lip.Sequential([keras.Input((10, 1)), layer, layers.SpectralDense(1)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    history = model.fit(x, x[:, :2].sum(axis=1), epochs=25, batch_size=64, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert lip.lipschitz_bound(model).value <= SOUND
    assert np.linalg.norm(np.asarray(layer.kernel) - np.asarray(layer.wbar)) < 1e-3  # retracted


@pytest.fixture
def classifier():
    layer = layers.SpectralSimpleRNN(6, activation="relu")
    return lip.Sequential([keras.Input((4, 2)), layer, layers.SpectralDense(3)])


def test_certificates_hold(classifier, rng):
    x = rng.normal(size=(8, 4, 2)).astype("float32")
    radii = certificates.certify(classifier, x).radius
    assert (radii > 0).all()
    directions = rng.normal(size=(400, *x.shape))
    directions /= np.linalg.norm(directions, axis=(2, 3), keepdims=True)
    moved = x + 0.999 * radii[:, None, None] * directions
    answers = np.argmax(classifier(moved.reshape(-1, 4, 2)), axis=1).reshape(400, 8)
    assert (answers == np.argmax(classifier(x), axis=1)).all()
    plain = certificates.certify(classifier.vanilla_export(), x).radius
    np.testing.assert_allclose(plain, radii, rtol=1e-5)


@pytest.mark.slow
def test_verification_agrees_with_certificates(classifier, rng):
    x = rng.normal(size=(2, 4, 2)).astype("float32")
    labels, radii = np.argmax(classifier(x), axis=1), certificates.certify(classifier, x).radius
    asked = dict(clip=None, method="crown")
    answer = verify.robustness(classifier, x, labels, 0.999 * radii.min(), norm="l2", **asked)
    assert answer.count("falsified") == 0
    assert verify.robustness(classifier, x, labels, 1e-4, **asked).count("robust") == 2


def test_long_sequences_cost_no_certificate(rng):
    """The float64 rounding of a hundred steps is far below the margin."""
    layer = layers.SpectralSimpleRNN(8, activation=layers.GroupSort2())
    model = lip.Sequential([keras.Input((100, 2)), layer, layers.SpectralDense(2)])
    x = rng.normal(size=(2, 100, 2)).astype("float32")
    logits = np.asarray(model(x), np.float64)
    ideal = np.abs(logits[:, 0] - logits[:, 1]) / np.sqrt(2.0)
    assert (certificates.certify(model, x).radius >= 0.98 * ideal).all()


def test_several_lengths_share_the_last_state_and_no_other(rng):
    layer = layers.SpectralSimpleRNN(4)
    model = lip.Sequential([keras.Input((None, 2)), layer])
    assert model(np.ones((1, 3, 2))).shape == model(np.ones((1, 9, 2))).shape == (1, 4)
    assert lip.lipschitz_bound(model).value <= SOUND
    with pytest.raises(ValueError, match="needs to know the number of steps"):
        layers.SpectralSimpleRNN(4, return_sequences=True).build((None, None, 2))
    known = layers.SpectralSimpleRNN(4, return_sequences=True)
    known(np.ones((1, 3, 2)))
    with pytest.raises(ValueError, match=r"expected axis 1 of input shape to have value 3"):
        known(np.ones((1, 9, 2)))


@pytest.mark.usefixtures("keras_in_float64")
def test_slopes_above_one_count_in_every_step():
    """Near 2.4, where the slope of swish is 1.0998, a state comes back, and what is beside goes."""
    layer = keras.layers.SimpleRNN(1, activation="swish", dtype="float64")
    layer.build((None, 15, 1))
    fixed = 2.4 / (1.0 + np.exp(-2.4))
    layer.set_weights([np.ones((1, 1)), np.ones((1, 1)), np.array([2.4 - fixed])])
    x = np.zeros((2, 15, 1))
    x[:, 0, 0] = fixed, fixed + 1e-6
    last = np.asarray(layer(x))
    grown = abs(last[1, 0] - last[0, 0]) / 1e-6
    assert 1.0997**15 < grown < lip.lipschitz_bound(layer).value


def with_another_cell():
    layer = keras.layers.SimpleRNN(2)
    layer.cell = keras.layers.GRUCell(2)
    return layer


REFUSED = {
    "replaced": (with_another_cell(), "its cell, GRUCell"),
    "stateful": (keras.layers.SimpleRNN(2, stateful=True), "stateful=True"),
    "state": (keras.layers.SimpleRNN(2, return_state=True), "return_state=True"),
    "LSTM": (keras.layers.LSTM(2), "gates.*SpectralSimpleRNN"),
    "GRU": (keras.layers.GRU(2), "gates.*SpectralSimpleRNN"),
    "cell": (keras.layers.RNN(keras.layers.GRUCell(2)), "other cells.*SpectralSimpleRNN"),
    "both ways": (keras.layers.Bidirectional(keras.layers.LSTM(2)), "go_backwards=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_with_the_way_out(name):
    layer, message = REFUSED[name]
    layer.build((3, 4, 2))
    with pytest.raises(ValueError, match=f"{layer.name}.*{message}"):
        lip.lipschitz_bound(layer)


def test_kernels_that_are_bounded_by_columns_are_refused():
    with pytest.raises(ValueError, match="must bound the norm of the whole kernel"):
        layers.SpectralSimpleRNN(2, parametrization=Frobenius())


def test_measured_constants_know_that_activations_are_in_every_step():
    def model(activation):
        layer = layers.SpectralSimpleRNN(4, activation=activation)
        return keras.Sequential([keras.Input((5, 2)), layer, layers.SpectralDense(3)])

    gaps = np.asarray(lip.model.gap_constants(model("relu")))
    np.testing.assert_allclose(gaps, np.sqrt(2.0), rtol=1e-3)
    with pytest.raises(ValueError, match="SpectralSimpleRNN"):
        lip.model.gap_constants(model("swish"))
    alone = keras.Sequential([keras.Input((5, 2)), layers.SpectralSimpleRNN(3, activation=None)])
    assert np.asarray(lip.model.gap_constants(alone)).max() <= np.sqrt(2.0) * SOUND


# --- images -------------------------------------------------------------------------------------

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
