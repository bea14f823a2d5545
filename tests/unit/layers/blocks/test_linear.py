"""Fused residual kernels: their bound, what is measured in training, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import deel_lip_tf as lip
from deel_lip_tf import bounds, layers, losses
from deel_lip_tf.normalizers import LiRes, Operation
from tests._oracles.tolerances import SAME_FLOAT32

SAME = Operation((3, 3), (1, 1), "same")


def symbol_norm(kernel, points=128):
    """The largest singular value of the symbol on a fine grid, by NumPy's FFT, in float64."""
    symbol = np.fft.fft2(np.asarray(kernel, np.float64), (points, points), axes=(0, 1))
    return np.linalg.svd(symbol, compute_uv=False).max()


def built(channels, shape, **arguments):
    layer = layers.LiResConv2D(channels, 3, **arguments)
    layer.build(shape)
    return layer


def between_frequencies(angle, channels):
    """Of symbol `cos(v + angle) cos(w + angle)`, for pairs of channels as complex numbers."""
    kernel = np.zeros((3, 3, channels, channels))
    for i, j in ((0, 0), (0, 2), (2, 0), (2, 2)):
        turn = (i + j - 2) * angle
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        kernel[i, j] = np.kron(np.eye(channels // 2), rotation) / 4
    return kernel


def hard_kernels(rng, channels=4):
    """(3, 3, channels, channels): those that bounds of convolutions break at."""
    normal = rng.normal(size=(9 * channels, channels))
    left, _, right = np.linalg.svd(normal, full_matrices=False)
    centre = np.zeros((3, 3))
    centre[1, 1] = 1.0
    shapes = {
        "random": normal,
        "isometry of patches": left @ right,
        "rank one": np.outer(rng.normal(size=9 * channels), rng.normal(size=channels)),
        "constant": np.ones_like(normal),
        "minus the identity": -np.kron(centre.ravel()[:, None], np.eye(channels)),
        "zero": 0 * normal,
        "shift": np.kron(np.eye(9)[:, :1], np.eye(channels)),
    }
    kernels = {name: k.reshape(3, 3, channels, channels) for name, k in shapes.items()}
    return {**kernels, "cosine": between_frequencies(np.pi / 16, channels)}


@pytest.mark.parametrize("padding", ["same", "circular"])
def test_the_bound_is_that_of_one_kernel(padding, rng):
    for name, kernel in hard_kernels(rng).items():
        layer = built(4, (None, None, None, 4), padding=padding, normalized=False)
        layer.kernel.assign(kernel / 3)
        exact = symbol_norm(layer.effective_kernel())
        bound = bounds.lipschitz_bound(layer).value
        assert exact * (1 - 1e-9) <= bound <= exact * 1.005 + 1e-12, name
    # The residual connection takes away half of it here, where 1 + ||K|| would add.
    layer.kernel.assign(hard_kernels(rng)["minus the identity"] / 2)
    assert bounds.lipschitz_bound(layer).value == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_what_is_measured_is_above_and_near(scale, rng):
    for name, kernel in hard_kernels(rng).items():
        exact = symbol_norm(kernel)
        bound = float(SAME.norm_bound((scale * kernel).astype("float32")))
        assert np.isfinite(bound)
        assert exact * (1 - 1e-6) <= bound / scale <= exact * 1.04 * 1.01, name


def test_gamma_is_trained_saved_and_exported(rng, tmp_path):
    model = keras.Sequential([keras.Input((5, 5, 4)), layers.LiResConv2D(4, 3, depth=4)])
    (layer,) = model.layers
    x = rng.normal(size=(8, 5, 5, 4)).astype("float32")
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, -x, epochs=2, verbose=0)
    gamma = ops.convert_to_numpy(layer.raw_weights["gamma"])
    assert np.abs(gamma - 1).min() > 1e-5
    expected = np.eye(4) + np.asarray(layer.kernel)[1, 1] * gamma / 2
    kernel = np.asarray(layer.effective_kernel())[1, 1]
    np.testing.assert_allclose(kernel / kernel[0, 0], expected / expected[0, 0], rtol=1e-4)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(x), model(x), **SAME_FLOAT32)
    exported = layer.vanilla_export()
    assert type(exported) is keras.layers.Conv2D
    np.testing.assert_allclose(exported(x), model(x), **SAME_FLOAT32)


def test_a_deep_network_of_small_kernels_is_near_the_identity(rng):
    """As initialized: the whole is neither lost nor blown up."""
    blocks = [layers.LiResConv2D(8, 3, depth=8, normalized=False) for _ in range(8)]
    model = keras.Sequential([keras.Input((6, 6, 8)), *blocks])
    assert 1.0 < bounds.lipschitz_bound(model, budget=0.1).value < 2.0
    normalized = keras.Sequential(
        [keras.Input((6, 6, 8)), *[layers.LiResConv2D(8, 3, depth=8) for _ in range(8)]]
    )
    x = rng.normal(size=(4, 6, 6, 8)).astype("float32")
    ratio = np.linalg.norm(normalized(x)) / np.linalg.norm(x)
    assert 0.3 < ratio <= 1.0


@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
def test_losses_measure_and_train_what_is_not_normalized(rng):
    """The constants of the gaps are above those that are proven, and the gradient lowers them."""
    block = layers.LiResConv2D(4, 3, normalized=False, activation=layers.GroupSort2())
    dense = layers.LiResDense(4, normalized=False, depth=2)
    head = keras.layers.Dense(3)
    model = lip.Sequential(
        [keras.Input((4, 4, 4)), block, keras.layers.GlobalAveragePooling2D(), dense, head]
    )
    block.kernel.assign(0.2 * rng.normal(size=block.kernel.shape))
    assert not block.is_guaranteed
    assert not dense.is_guaranteed
    measured = ops.convert_to_numpy(lip.model.gap_constants(model))
    proven = lip.certificates.class_divisors(model)
    apart = ~np.eye(3, dtype=bool)
    assert (measured[apart] >= proven[apart] * (1 - 1e-5)).all()
    assert (measured[apart] <= proven[apart] * 1.3).all()
    model.compile("sgd", losses.EMMA(radius=5.0, lipschitz="measured"))
    before = block.lipschitz_constant()
    x = rng.normal(size=(16, 4, 4, 4)).astype("float32")
    model.fit(x, rng.integers(0, 3, 16), epochs=3, verbose=0)
    assert block.lipschitz_constant() < before
    assert bounds.lipschitz_bound(block).value <= block.lipschitz_constant()


@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
def test_what_is_not_normalized_is_said_to_be_unknown():
    layer = built(3, (None, 6, 6, 3), normalized=False, k_coef_lip=2.0)
    layer.kernel.assign(0 * layer.kernel)
    assert layer.lipschitz_constant() == pytest.approx(2.0, rel=0.06)
    assert bounds.lipschitz_bound(layer).value == pytest.approx(2.0, rel=1e-6)
    assert layers.LiResConv2D(3, 3, normalized=False).lipschitz_constant() is None
    with pytest.warns(UserWarning, match="not a 1-Lipschitz layer"):
        lip.Sequential([keras.Input((6, 6, 3)), layers.LiResConv2D(3, 3, normalized=False)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: built(5, (None, 6, 6, 3)), "as many outputs as inputs"),
        (lambda: layers.LiResConv2D(3, 2).build((None, 6, 6, 3)), "odd kernel sizes"),
        (lambda: layers.LiResConv2D(3, 3, 2).build((None, 6, 6, 3)), "strides=1"),
        (lambda: layers.LiResDense(4).build((None, 5)), "as many outputs as inputs"),
        (lambda: layers.LiResDense(4, depth=0), "`depth` must be an integer of at least 1"),
        (
            lambda: layers.SpectralDepthwiseConv2D(3, parametrization=LiRes()).build(
                (None, 6, 6, 3)
            ),
            "all channels with strides=1",
        ),
    ],
)
def test_what_has_no_identity_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
