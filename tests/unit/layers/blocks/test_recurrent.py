"""Recurrent layers: their constant through time, against dense matrices that loops unroll."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import certificates, layers, verify
from deel_lip_tf.bounds.norms.recurrence import recurrence_bound
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.normalizers import AOL, BRO, Cayley, Frobenius, OperatorNorm
from deel_lip_tf.semantics.norms import L2
from deel_lip_tf.semantics.operators import Recurrence
from tests._oracles.recurrences import ORDERS, shift_register, unrolled
from tests._oracles.tolerances import SAME_FLOAT32, SOUND


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
