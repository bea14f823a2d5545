"""Centerings and scalings: statistics, state, the frozen factor and what the bounds make of it."""

import keras
import numpy as np
import pytest

import deel_lip_tf as lip
from deel_lip_tf import bounds, layers
from deel_lip_tf.semantics.rule import lipschitz_constant
from tests._oracles import oracles
from tests._oracles.tolerances import SAME_FLOAT32, SOUND
from tests._tables.cases import IMAGE, SCALED, SEQUENCE

AXES = {2: (0,), 3: (0, 1), 4: (0, 1, 2)}


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x), np.float64)


def batches(rng, shape, count=5, size=8):
    """Batches whose channels have different means and spreads."""
    spread = np.linspace(0.5, 3.0, shape[-1])
    return [
        (7.0 + spread * rng.normal(size=(size, *shape)) + rng.normal()).astype("float32")
        for _ in range(count)
    ]


def jacobian_norm(layer, shape, rng) -> float:
    def function(x):
        return numpy(layer(x[None]))[0]

    return oracles.spectral_norm(oracles.jacobian(function, rng.normal(size=shape)))


@pytest.mark.parametrize("shape", [(6,), SEQUENCE, IMAGE], ids=str)
def test_training_centers_the_batch_and_inference_the_moving_mean(shape, rng):
    layer = layers.BatchCentering(k_coef_lip=2.0, momentum=0.5)
    expected = np.zeros(shape[-1])
    for seen, x in enumerate(batches(rng, shape), start=1):
        mean = x.astype(np.float64).mean(AXES[x.ndim])
        y = numpy(layer(x, training=True))
        np.testing.assert_allclose(y, 2 * (x - mean), rtol=1e-4, atol=1e-4)
        expected += max(0.5, 1 / seen) * (mean - expected)
        np.testing.assert_allclose(numpy(layer.moving_mean), expected, rtol=1e-5)
        np.testing.assert_allclose(numpy(layer(x)), 2 * (x - expected), rtol=1e-4, atol=1e-4)


def test_the_first_batches_count_equally(rng):
    layer, data = layers.BatchCentering(), batches(rng, (4,))
    for x in data:
        layer(x, training=True)
    np.testing.assert_allclose(
        numpy(layer.moving_mean), np.concatenate(data).mean(0, dtype=np.float64), rtol=1e-5
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_the_factor_is_that_of_the_widest_channel(normalize, rng):
    layer = layers.BatchLipNorm(normalize=normalize, momentum=0.0, k_coef_lip=0.5)
    x = batches(rng, IMAGE)[0]
    variance = x.astype(np.float64).var((0, 1, 2), ddof=1)
    factor = 1 / np.sqrt(variance.max()) if normalize else 1.0
    expected = 0.5 * factor * (x - x.astype(np.float64).mean((0, 1, 2)))
    np.testing.assert_allclose(numpy(layer(x, training=True)), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(numpy(layer.moving_variance), variance, rtol=1e-5)
    np.testing.assert_allclose(numpy(layer(x)), expected, rtol=1e-4, atol=1e-4)
    assert layer.lipschitz_constant() == pytest.approx(0.5 * factor, rel=1e-5)


@pytest.mark.parametrize("x", [np.ones((1, 4)), np.full((8, 4), 3.0), np.full((1, 1, 1, 4), 2.0)])
def test_no_variance_means_no_factor(x):
    layer = layers.BatchLipNorm(normalize=True, momentum=0.0)
    np.testing.assert_array_equal(numpy(layer(x.astype("float32"), training=True)), 0 * x)
    assert layer.lipschitz_constant() == pytest.approx(1.0, rel=1e-6)


def test_a_small_variance_is_counted_and_not_hidden(rng):
    layer = layers.BatchLipNorm(normalize=True, momentum=0.0, dtype="float64")
    layer(0.01 * rng.normal(size=(64, 3)), training=True)
    norm = jacobian_norm(layer, (3,), rng)
    assert norm > 50
    assert norm <= layer.lipschitz_constant() * SOUND
    assert lipschitz_constant(layer) == layer.lipschitz_constant()
    assert norm <= bounds.lipschitz_bound(layer).value * SOUND
    assert bounds.lipschitz_bound(layer).value <= norm * SOUND


@pytest.mark.parametrize("case", SCALED, ids=str)
def test_scaled_layers_are_bounded_by_their_own_constant(case, rng):
    layer = case.make(dtype="float64", k_coef_lip=0.7)
    layer.build((None, *case.shape))
    for weight in layer.weights:
        weight.assign(np.abs(rng.normal(size=weight.shape)) + 0.01)
    norm, bound = jacobian_norm(layer, case.shape, rng), bounds.lipschitz_bound(layer).value
    assert bound / SOUND <= norm <= bound * SOUND
    assert bounds.lipschitz_bound(layer.vanilla_export()).value == pytest.approx(bound, rel=1e-6)


def test_layer_centering_leaves_samples_apart(rng):
    x = rng.normal(size=(5, *IMAGE))
    layer = layers.LayerCentering(k_coef_lip=3.0, dtype="float64")
    expected = 3 * (x - x.mean((1, 2), keepdims=True))
    np.testing.assert_allclose(numpy(layer(x)), expected, atol=1e-12)
    np.testing.assert_allclose(numpy(layer(x, training=True)), expected, atol=1e-12)
    np.testing.assert_allclose(numpy(layer(x[:1])), expected[:1], atol=1e-12)
    over_all = layers.LayerCentering(axis=(1, 2, 3), dtype="float64")
    np.testing.assert_allclose(numpy(over_all(x)), x - x.mean((1, 2, 3), keepdims=True), atol=1e-12)


@pytest.mark.parametrize("cls", [layers.BatchCentering, layers.BatchLipNorm])
def test_state_moves_in_training_only(cls, rng):
    layer, x = cls(), batches(rng, (4,))[0]
    layer(x)
    before = layer.get_weights()
    for training in (None, False):
        layer(x, training=training)
    assert all((a == b).all() for a, b in zip(before, layer.get_weights(), strict=True))
    layer.trainable = False
    layer(x, training=True)
    assert all((a == b).all() for a, b in zip(before, layer.get_weights(), strict=True))
    layer.trainable = True
    layer(x, training=True)
    assert not (before[1] == layer.get_weights()[1]).all()
    assert len(layer.trainable_weights) == 1


@pytest.mark.slow
@pytest.mark.parametrize("cls", [layers.BatchCentering, layers.BatchLipNorm])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16"])
def test_fit_save_reload_export(cls, policy, rng, tmp_path):
    kwargs = {"normalize": True} if cls is layers.BatchLipNorm else {}
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.SpectralConv2D(4, 3, dtype=policy),
            cls(dtype=policy, **kwargs),
            layers.ScaledGlobalAveragePooling2D(dtype=policy),
        ]
    )
    x = np.concatenate(batches(rng, IMAGE))
    model.compile("sgd", "mse")
    model.fit(x, np.ones((len(x), 4)), epochs=2, batch_size=8, verbose=0)
    assert numpy(model.layers[1].batches) == 2 * len(x) / 8
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(reloaded.predict(x, verbose=0), expected)
    assert model.layers[1].moving_mean.dtype == "float32"
    exported = lip.vanillaModel(model)
    assert "deel_lip_tf" not in exported.to_json()
    if policy == "float32":
        np.testing.assert_allclose(exported.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)


def test_models_warn_of_a_factor_that_training_moves(recwarn):
    quiet = [layers.BatchCentering(), layers.LayerCentering(axis=-1), layers.BatchLipNorm()]
    lip.Sequential([keras.Input((4,)), layers.SpectralDense(4), *quiet, layers.ScaleBias(0.5)])
    assert not [w for w in recwarn if "1-Lipschitz" in str(w.message)]
    for loud in (layers.BatchLipNorm(normalize=True), layers.ScaleBias(2.0)):
        with pytest.warns(UserWarning, match=loud.name):
            lip.Sequential([keras.Input((4,)), layers.SpectralDense(4), loud])


def test_certificates_count_the_frozen_factor(rng):
    model = lip.Sequential(
        [keras.Input((6,)), layers.SpectralDense(6), layers.BatchCentering(), layers.FullSort()]
    )
    loud = layers.BatchLipNorm(normalize=True, momentum=0.0)
    with pytest.warns(UserWarning, match=loud.name):
        model.add(loud)
    x = (0.1 * rng.normal(size=(64, 6))).astype("float32")
    model(x, training=True)
    factor = 1 / np.sqrt(numpy(loud.moving_variance).max())
    bound = bounds.lipschitz_bound(model)
    assert factor > 2
    # Less than the factor only by how far the dense layer is from orthogonal.
    assert factor * (1 - 1e-3) <= bound.value <= factor * loud.k_coef_lip**4 * SOUND
    certificate = lip.certificates.certify(model, x)
    scores = np.sort(numpy(model(x)), axis=1)
    margins = scores[:, -1] - scores[:, -2]
    np.testing.assert_array_less(certificate.radius, margins / factor + 1e-6)
    # The scores, below 1, come from a float32 network.
    expected = margins / np.sqrt(2) / factor
    np.testing.assert_allclose(certificate.radius, expected, rtol=2e-3, atol=1e-6 / factor)


def residual_model(rng, k=1.0):
    x = keras.Input((6,))
    wide = layers.SpectralDense(6, activation=layers.FullSort(), k_coef_lip=3.0)(x)
    layer = layers.LipResidual(k_coef_lip=k)
    model = lip.Model(x, layer([x, wide]))
    return model, layer


@pytest.mark.parametrize("alpha", [-3.0, 0.0, 2.0])
def test_residual_is_a_convex_combination(alpha, rng, tmp_path):
    model, layer = residual_model(rng, k=0.5)
    layer.alpha.assign(alpha)
    x = rng.normal(size=(7, 6)).astype("float32")
    dense = numpy(model.layers[1](x))
    share = 1 / (1 + np.exp(-alpha))
    expected = 0.5 * (share * x + (1 - share) * dense)
    np.testing.assert_allclose(numpy(model(x)), expected, **SAME_FLOAT32)
    bound = bounds.lipschitz_bound(model).value
    assert bound == pytest.approx(0.5 * (share + 3 * (1 - share)), rel=1e-3)
    assert bounds.lipschitz_bound(layer).value == 0.5 * (1 + 2.0**-49)
    x64 = x.astype(np.float64)
    steps = np.linalg.norm(numpy(model(x64)) - numpy(model(x64[::-1])), axis=1)
    assert (steps <= bound * np.linalg.norm(x64 - x64[::-1], axis=1) * SOUND + 1e-6).all()
    exported = lip.vanillaModel(model)
    np.testing.assert_allclose(numpy(exported(x)), expected, **SAME_FLOAT32)
    assert bounds.lipschitz_bound(exported).value == pytest.approx(bound, rel=1e-5)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(reloaded(x)), expected, **SAME_FLOAT32)
    radius = lip.certificates.certify(model, x).radius
    top = np.sort(expected, axis=1)
    np.testing.assert_allclose(
        radius, (top[:, -1] - top[:, -2]) / np.sqrt(2) / bound, rtol=1e-3, atol=1e-6
    )


def test_the_share_of_a_residual_is_learned(rng):
    model, layer = residual_model(rng)
    x = rng.normal(size=(64, 6)).astype("float32")
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(x, x, epochs=20, verbose=0)
    assert layer.shares()[0] > 0.8
    assert sum(layer.shares()) == pytest.approx(1, abs=1e-6)
