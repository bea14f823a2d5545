"""Kernels of norm `k` or at most that, where `k` is learned: it is trained, and it is counted."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import deel_lip_tf as lip
from deel_lip_tf import bounds, layers
from deel_lip_tf.model.measured import gap_constants
from deel_lip_tf.normalizers import Operation, OperatorNorm
from tests._oracles.oracles import spectral_norm
from tests._oracles.tolerances import SOUND

BOTH = pytest.mark.parametrize("at_most", [False, True])
DENSE = Operation()


def norm_of(method, matrix, k):
    kernel = method.projected({"kernel": matrix, "k": k}, DENSE).kernel
    return spectral_norm(np.asarray(kernel, np.float64))


@BOTH
@pytest.mark.parametrize("k", [-1.0, 0.0, 1e-30, 0.3, 1.0, 7.0])
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-30, 1.0, 1e30])
def test_no_k_and_no_kernel_exceed_what_is_counted(at_most, k, scale, rng):
    method = OperatorNorm(at_most, learns_k=True)
    counted = min(max(k, 0.0), 1.0)
    for matrix in (rng.normal(size=(6, 4)), np.outer(rng.normal(size=6), rng.normal(size=4))):
        norm = norm_of(method, (scale * matrix).astype("float32"), np.float32(k))
        assert norm <= counted * SOUND
        if scale == 1.0:
            assert norm >= 0.9 * counted
    assert float(method.ceiling({"k": np.float32(k)})) == pytest.approx(counted)


def test_a_smaller_kernel_is_left_as_it_is(rng):
    method = OperatorNorm(at_most=True, learns_k=True)
    matrix = rng.normal(size=(6, 4)).astype("float32")
    small = matrix * np.float32(0.1 / spectral_norm(matrix))
    np.testing.assert_array_equal(
        method.projected({"kernel": small, "k": 0.5}, DENSE).kernel, small
    )
    assert norm_of(method, small, np.float32(0.05)) == pytest.approx(0.05, rel=0.06)


@BOTH
def test_gradients_are_those_of_finite_differences(at_most, rng):
    method = OperatorNorm(at_most, learns_k=True)
    kernel, direction = rng.normal(size=(2, 5, 4))
    weights = {"kernel": tf.constant(kernel), "k": tf.constant(0.7, tf.float64)}

    def value(k, kernel):
        projected = method.projected({"kernel": kernel, "k": k}, DENSE).kernel
        return tf.reduce_sum(direction * projected)

    with tf.GradientTape() as tape:
        tape.watch(weights)
        found = value(weights["k"], weights["kernel"])
    gradients = tape.gradient(found, weights)
    step = 1e-6
    differences = value(weights["k"] + step, weights["kernel"]) - value(
        weights["k"] - step, weights["kernel"]
    )
    assert float(gradients["k"]) == pytest.approx(float(differences) / (2 * step), rel=1e-6)
    toward = rng.normal(size=(5, 4))
    differences = value(weights["k"], kernel + step * toward) - value(
        weights["k"], kernel - step * toward
    )
    along = float(tf.reduce_sum(gradients["kernel"] * toward))
    assert along == pytest.approx(float(differences) / (2 * step), rel=1e-4)


def network(**arguments):
    method = OperatorNorm(at_most=True, learns_k=True, **arguments)
    body = [layers.SpectralDense(6, parametrization=method, k_coef_lip=2.0, activation="relu")]
    body += [layers.SpectralDense(3, parametrization=method, k_coef_lip=2.0)]
    return keras.Sequential([keras.Input((6,)), *body])


def k_of(model):
    return [float(layer.raw_weights["k"]) for layer in model.layers]


def test_what_is_learned_is_counted_everywhere(rng, tmp_path):
    model = network(initial_k=0.5)
    x = rng.normal(size=(16, 6)).astype("float32")
    before = bounds.lipschitz_bound(model).value
    assert 0.9 < before <= SOUND
    for layer in model.layers:  # so that `k` is what bounds it
        layer.kernel.assign(10 * np.asarray(layer.kernel))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, 30 * np.asarray(model(x)), epochs=10, verbose=0)
    learned = k_of(model)
    assert all(k > 0.55 for k in learned)
    product = 4 * np.prod(learned)
    bound = bounds.lipschitz_bound(model).value
    assert before < bound <= product * SOUND
    assert [layer.lipschitz_constant() for layer in model.layers] == pytest.approx(
        [2 * k for k in learned]
    )
    assert float(gap_constants(model)) == pytest.approx(np.sqrt(2) * product, rel=1e-5)
    radius = lip.certify(model, x).radius
    margins = np.sort(np.asarray(model(x), np.float64))
    margins = margins[:, -1] - margins[:, -2]
    assert (radius >= margins / (np.sqrt(2) * product) * (1 - 1e-3)).all()

    plain = lip.vanillaModel(model)
    assert [type(layer) for layer in plain.layers] == [keras.layers.Dense] * 2
    assert bounds.lipschitz_bound(plain).value == pytest.approx(bound, rel=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert k_of(loaded) == learned
    assert loaded.layers[0].parametrization == model.layers[0].parametrization
    for other in (plain, loaded):
        np.testing.assert_allclose(other(x), model(x), rtol=1e-5, atol=1e-6)
    for layer in model.layers:
        layer.condense()
    np.testing.assert_allclose(model(x), loaded(x), rtol=1e-5, atol=1e-6)


def test_a_penalty_lowers_the_constant_and_updates_stay_in_range(rng):
    x = rng.normal(size=(16, 6)).astype("float32")
    for penalty in (0.0, 1.0):
        model = network(k_penalty=penalty)
        assert float(sum(model.losses, start=0.0)) == pytest.approx(2.0 * penalty)
        model.compile(keras.optimizers.SGD(0.4), "mse")
        own = np.asarray(model(x))  # of which the loss has no gradient
        model.fit(x, own, epochs=1, batch_size=16, verbose=0)
        assert k_of(model) == pytest.approx([1.0 - 0.4 * penalty] * 2, abs=1e-6)
        model.fit(x, own, epochs=6, batch_size=16, verbose=0)
        assert all(0.0 <= k <= 1.0 for k in k_of(model))
        assert (k_of(model)[0] < 0.5) == (penalty > 0)


@pytest.mark.parametrize(
    "arguments",
    [dict(initial_k=-0.1), dict(initial_k=1.5), dict(k_penalty=-1.0), dict(k_penalty="1")],
)
def test_what_is_out_of_range_is_refused(arguments):
    with pytest.raises((TypeError, ValueError), match=f"`{next(iter(arguments))}`"):
        OperatorNorm(learns_k=True, **arguments)
