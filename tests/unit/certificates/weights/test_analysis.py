"""Models whose weights are near: attacked by random and by adversarial changes, in float64."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import deel_lip_tf as lip
from deel_lip_tf.certificates import certify

pytestmark = pytest.mark.usefixtures("keras_in_float64")
INSIDE = 1 - 1e-9  # so that a rounded sum of a weight and its change is not beyond the limit


def stack(shape, *members):
    return keras.Sequential([keras.Input(shape, dtype="float64"), *members])


def dense(units, activation=None, **arguments):
    return layers.Dense(units, activation, dtype="float64", **arguments)


def plain():
    return stack((6,), dense(8, "relu"), dense(8, "tanh", use_bias=False), dense(3))


def convolutional():
    convolution = layers.Conv2D(3, 3, 2, "same", activation="relu", dtype="float64")
    depthwise = layers.DepthwiseConv2D(2, padding="valid", dtype="float64")
    flat = layers.Flatten(dtype="float64")
    return stack((6, 6, 2), convolution, depthwise, layers.ReLU(dtype="float64"), flat, dense(3))


def branching():
    x = keras.Input((5,), dtype="float64")
    shared = dense(5, "softplus")
    y = layers.Add(dtype="float64")([shared(shared(x)), x])
    return keras.Model(x, dense(3)(layers.Concatenate(dtype="float64")([y, dense(2)(x)])))


def sequences():
    contraction = layers.EinsumDense("abc,cd->abd", (4, 4), bias_axes="d", dtype="float64")
    transposed = layers.Conv1DTranspose(2, 2, 2, dtype="float64")
    return stack((4, 3), contraction, transposed, layers.Flatten(dtype="float64"), dense(3))


def recurrent():
    steps = layers.SimpleRNN(4, "tanh", return_sequences=True, dtype="float64")
    last = layers.SimpleRNN(4, "relu", use_bias=False, dtype="float64")
    return stack((5, 3), steps, last, dense(3))


MODELS = [plain, convolutional, branching, sequences, recurrent]


def outputs_with(model, weights, x):
    """The outputs of a model with other weights for a moment."""
    own = model.get_weights()
    model.set_weights(weights)
    try:
        return np.asarray(model(x))
    finally:
        model.set_weights(own)


def off(model, signs, amount):
    """The weights of a model, each off by up to `amount`."""
    pairs = zip(model.get_weights(), signs, strict=True)
    return [weight + amount * INSIDE * sign for weight, sign in pairs]


def worst_signs(model, x, label, other):
    """The signs that close the gap of two logits at a sample fastest, and that step."""
    tf = pytest.importorskip("tensorflow", reason="gradients with respect to weights")
    point = tf.constant(x[None])
    with tf.GradientTape() as tape:
        tape.watch(point)
        logits = model(point)
        gap = logits[0, label] - logits[0, other]
    weights = [w.value for w in model.trainable_weights]
    *slopes, step = tape.gradient(gap, [*weights, point])
    return [-np.sign(slope) for slope in slopes], -np.asarray(step)[0]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_changed_models_give_the_label(build, rng, tf):
    keras.utils.set_random_seed(1)
    model = build()
    x = 3.0 * rng.standard_normal((12, *model.inputs[0].shape[1:]))
    amount = 1e-5 if build is recurrent else 1e-3  # what each step adds up
    certificates = certify(model, x, weights_within=amount)
    before = np.asarray(model(x))
    assert (certificates.radius > 0).mean() > 0.5
    assert (certificates.radius <= certify(model, x).radius).all()
    for index in np.flatnonzero(certificates.radius)[:4]:
        label, radius = certificates.label[index], certificates.radius[index]
        for other in {0, 1, 2} - {label}:
            signs, step = worst_signs(model, x[index], label, other)
            near = off(model, signs, amount)
            point = x[index] + INSIDE * radius * step / np.linalg.norm(step)
            assert np.argmax(outputs_with(model, near, point[None])) == label
            moved = np.linalg.norm(outputs_with(model, near, x[[index]])[0] - before[index])
            assert moved <= certificates.output_change[index]
    for _ in range(3):
        signs = [rng.choice([-1.0, 1.0], np.shape(w)) for w in model.get_weights()]
        near = off(model, signs, amount)
        moved = np.linalg.norm(outputs_with(model, near, x) - before, axis=1)
        assert (moved <= certificates.output_change).all()


def test_the_change_of_a_linear_layer_is_attained():
    model = stack((9,), dense(4))
    x = 2.0 * np.ones((1, 9))
    found = certify(model, x, weights_within=0.01).output_change[0]
    near = off(model, [np.ones((9, 4)), np.ones(4)], 0.01)
    moved = np.linalg.norm(outputs_with(model, near, x) - np.asarray(model(x)))
    assert moved <= found <= moved * (1 + 1e-6)


def test_a_bias_is_off_in_every_pixel():
    convolution = layers.Conv1D(2, 1, dtype="float64")
    model = stack((9, 2), convolution, layers.Flatten(dtype="float64"))
    kernel, bias = model.get_weights()
    x, within = np.ones((1, 9, 2)), {convolution.name: {"bias": 0.1}}
    found = certify(model, x, weights_within=within).output_change
    changed = outputs_with(model, [kernel, bias + 0.1], x) - np.asarray(model(x))
    assert 0.999 * found <= np.linalg.norm(changed) <= found


def test_a_gap_that_a_change_can_close_is_not_certified():
    # Logits 0.1 and 0: two biases that move by 0.05 each make a tie.
    model = stack((1,), dense(2))
    model.set_weights([np.zeros((1, 2)), np.array([0.1, 0.0])])
    x = np.zeros((1, 1))
    name = model.layers[0].name
    assert certify(model, x, weights_within={name: {"bias": 0.0501}}).radius[0] == 0.0
    assert certify(model, x, weights_within={name: {"bias": 0.0499}}).radius[0] > 0.0


def quantized(kernel):
    """Rounded to 8 bits, one scale for each output."""
    scale = np.abs(kernel).max(axis=0, keepdims=True) / 127
    return np.round(kernel / scale) * scale


def test_a_step_of_quantization(rng):
    model = plain()
    x = 3.0 * rng.standard_normal((40, 6))
    kernels = {layer.name: np.asarray(layer.kernel) for layer in model.layers}
    given = {
        name: {"kernel": np.abs(kernel - quantized(kernel))} for name, kernel in kernels.items()
    }
    certificates = certify(model, x, weights_within=given)
    assert certificates.certified_accuracy(0.01) > 0.5
    near = outputs_with(model, [quantized(w) if w.ndim == 2 else w for w in model.get_weights()], x)
    sure = certificates.radius > 0
    assert (near.argmax(axis=1) == certificates.label)[sure].all()
    moved = np.linalg.norm(near - np.asarray(model(x)), axis=1)
    assert (moved <= certificates.output_change).all()
    # Half a step everywhere, as one number for each layer, says less.
    halves = {name: np.abs(k).max(axis=0) / 254 for name, k in kernels.items()}
    coarse = certify(model, x, weights_within={n: {"kernel": h} for n, h in halves.items()})
    assert (coarse.radius <= certificates.radius).all()


def test_an_operator_norm(rng):
    model = plain()
    x = 3.0 * rng.standard_normal((10, 6))
    head = model.layers[-1]
    certificates = certify(model, x, weights_within={head.name: {"norm": 0.05}})
    left, right = rng.standard_normal(8), rng.standard_normal(3)
    step = 0.05 * INSIDE * np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
    *before, kernel, bias = model.get_weights()
    near = outputs_with(model, [*before, kernel + step, bias], x)
    moved = np.linalg.norm(near - np.asarray(model(x)), axis=1)
    assert (moved <= certificates.output_change).all()
    # The hidden entries are between -1 and 1.
    assert (certificates.output_change <= 0.05 * np.sqrt(8) * (1 + 1e-9)).all()


def test_a_constrained_layer_is_its_effective_kernel(rng):
    model = lip.Sequential(
        [
            keras.Input((6, 6, 1)),
            lip.layers.SpectralConv2D(4, 3, padding="symmetric"),
            lip.layers.GroupSort2(),
            layers.Flatten(),
            lip.layers.SpectralDense(3),
        ]
    )
    x = rng.standard_normal((8, 6, 6, 1))
    certificates = certify(model, x, weights_within=1e-4)
    plain = model.vanilla_export()
    before = ops.convert_to_numpy(plain(x))
    near = [w + 9e-5 * rng.choice([-1, 1], w.shape) for w in plain.get_weights()]
    moved = np.linalg.norm(outputs_with(plain, near, x) - before, axis=1)
    assert moved.max() > 0 and (moved <= certificates.output_change).all()


def test_local_radii_hold_for_changed_models_too(rng, tf):
    model = plain()
    x = 3.0 * rng.standard_normal((6, 6))
    wide = certify(model, x, weights_within=1e-3, local=True)
    assert (wide.radius >= certify(model, x, weights_within=1e-3).radius).all()
    assert (wide.radius <= certify(model, x, local=True).radius).all()


def test_what_is_said_and_saved(rng, tmp_path):
    model = plain()
    x = rng.standard_normal((5, 6))
    certificates = certify(model, x, weights_within={model.layers[0].name: 0.001})
    assert f"weights within: {model.layers[0].name}: kernel +- 0.001" in str(certificates)
    certificates.save(tmp_path / "radii.npz")
    loaded = lip.certificates.Certificates.load(tmp_path / "radii.npz").check(model, x)
    assert loaded.weights_within == certificates.weights_within
    assert (loaded.output_change == certificates.output_change).all()
    same = certify(model, x)
    assert same.weights_within is None and same.output_change is None
