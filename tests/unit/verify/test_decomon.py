"""decomon's functions: its names and signs, and the three proofs of it that were false.

The oracle is brute force: dense grids and corners, evaluated by NumPy in float64.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.verify import decomon

SEVEN = (
    "crown",
    "crown-forward-ibp",
    "crown-forward-affine",
    "crown-forward-hybrid",
    "forward-ibp",
    "forward-affine",
    "forward-hybrid",
)
OLDER = ("hybrid", "ibp", "affine", "forward", "crown-ibp", "crown-forward", "crown-hybrid")
NORMS = (np.inf, 2, 1)


@functools.cache  # a known model is not lowered and traced again
def net(inputs=2, classes=3, activation="relu", seed=0, scale=1.0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(8, activation, bias_initializer="random_normal"),
            layers.Dense(classes, bias_initializer="random_normal"),
        ]
    )
    for weight in model.weights:
        weight.assign(scale * weight)
    return model


FUNCTIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "softplus": lambda z: np.logaddexp(0, z),
    "tanh": np.tanh,
}


def outputs_of(model, points, activation="relu"):
    """Logits by NumPy in float64."""
    first, second = (layer for layer in model.layers if layer.weights)
    (a, b), (c, d) = ([w.astype(np.float64) for w in la.get_weights()] for la in (first, second))
    return FUNCTIONS[activation](points.reshape(len(points), -1) @ a + b) @ c + d


def grid(lower, upper, count=41):
    """All points of a grid in one box of two features, corners included."""
    axes = [np.linspace(low, high, count) for low, high in zip(lower, upper, strict=True)]
    return np.array(list(itertools.product(*axes)))


def boxes(rng, count=6, inputs=2, width=0.3):
    lower = rng.uniform(-1, 1, size=(count, inputs))
    return lower, lower + rng.uniform(0, width, size=lower.shape)


@pytest.mark.parametrize("method", SEVEN + OLDER)
def test_every_method_bounds_what_there_is(method, rng):
    model = net(activation="tanh")
    x_min, x_max = boxes(rng)
    converted = decomon.clone(model, method=method.upper())
    upper, lower = decomon.get_range_box(converted, x_min, x_max)
    np.testing.assert_array_equal(decomon.get_upper_box(converted, x_min, x_max), upper)
    np.testing.assert_array_equal(decomon.get_lower_box(converted, x_min, x_max), lower)
    scores = decomon.get_adv_box(converted, x_min, x_max, source_labels=[0, 1, 2, 0, 1, 2])
    assert upper.shape == lower.shape == (6, 3) and scores.shape == (6,)
    for i in range(6):
        outputs = outputs_of(model, grid(x_min[i], x_max[i]), "tanh")
        assert (outputs <= upper[i]).all() and (outputs >= lower[i]).all()
        gaps = np.delete(outputs, i % 3, axis=1) - outputs[:, i % 3, None]
        assert gaps.max() <= scores[i]
        assert scores[i] <= gaps.max() + 1.0, "bounds of small boxes are not far off"


def test_sub_boxes_only_tighten(rng):
    model, (x_min, x_max) = net(), boxes(rng, width=1.5)
    bounds = [decomon.get_range_box(model, x_min, x_max, n_sub_boxes=k) for k in (1, 4, 32)]
    scores = [decomon.get_adv_box(model, x_min, x_max, 0, n_sub_boxes=k) for k in (1, 4, 32)]
    for (upper, lower), score in zip(bounds, scores, strict=True):
        assert upper.shape == (6, 3)
        for i in range(6):
            outputs = outputs_of(model, grid(x_min[i], x_max[i]))
            assert (outputs <= upper[i]).all() and (outputs >= lower[i]).all()
            assert (outputs[:, 1:] - outputs[:, :1]).max() <= score[i]
    assert (bounds[2][0] - bounds[2][1]).sum() < 0.95 * (bounds[0][0] - bounds[0][1]).sum()
    assert scores[2].sum() < scores[0].sum()


@pytest.mark.parametrize("p", NORMS)
def test_noise_is_an_lp_ball_without_a_range(p, rng):
    x = rng.uniform(-1, 1, size=(5, 2))
    # The default method once; to trace it for every norm takes long.
    model = net() if p == np.inf else decomon.clone(net(), "crown")
    upper, lower = decomon.get_range_noise(model, x, 0.3, p)
    scores = decomon.get_adv_noise(model, x, [0, 1, 2, 0, 1], eps=0.3, p=p)
    np.testing.assert_array_equal(decomon.get_upper_noise(model, x, 0.3, p), upper)
    np.testing.assert_array_equal(decomon.get_lower_noise(model, x, 0.3, p), lower)
    for i in range(5):
        offsets = grid([-0.3, -0.3], [0.3, 0.3], 81)
        offsets = offsets[np.linalg.norm(offsets, p, axis=1) <= 0.3]
        outputs = outputs_of(net(), x[i] + offsets)
        assert (outputs <= upper[i]).all() and (outputs >= lower[i]).all()
        own = outputs[:, i % 3, None]
        assert (np.delete(outputs, i % 3, axis=1) - own).max() <= scores[i]
    # A linear model is bounded exactly: the dual norm, and not its square.
    linear = keras.Sequential([keras.Input((4,)), layers.Dense(2, use_bias=False)])
    weights = np.asarray(rng.normal(size=(4, 2)), np.float32).astype(np.float64)
    linear.set_weights([weights])
    dual = {np.inf: 1, 2: 2, 1: np.inf}[p]
    converted = decomon.clone(linear, "crown")
    score = decomon.get_adv_noise(converted, np.zeros((1, 4)), 0, eps=0.5, p=p)
    expected = 0.5 * np.linalg.norm(weights[:, 1] - weights[:, 0], dual)
    np.testing.assert_allclose(score, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_never_robust_and_refuted(seed, rng):
    model, (x_min, x_max) = net(seed=seed), boxes(rng, count=30, width=0.5)
    labels = outputs_of(model, (x_min + x_max) / 2).argmax(axis=1)
    proof = decomon.get_adv_box(model, x_min, x_max, labels)
    refutation = decomon.check_adv_box(model, x_min, x_max, labels)
    assert (refutation <= proof).all(), "a lower and an upper bound of the same number"
    for i in range(30):
        outputs = outputs_of(model, grid(x_min[i], x_max[i]))
        rivals = np.delete(outputs, labels[i], axis=1).max(axis=1) - outputs[:, labels[i]]
        assert not (proof[i] < 0 and rivals.max() >= 0)
        # A grid point that is clearly another label's is a counterexample the attack finds too.
        assert (refutation[i] >= 0) == (rivals.max() > 0) or abs(rivals.max()) < 1e-3
        assert refutation[i] <= rivals.max() + 1e-2
    assert (proof < 0).any() and (refutation >= 0).any()


def test_a_tie_is_no_counterexample():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    model.set_weights([np.zeros((2, 2)), np.zeros(2)])
    assert decomon.check_adv_box(model, np.zeros((1, 2)), np.ones((1, 2)), 0)[0] < 0
    assert decomon.get_adv_box(model, np.zeros((1, 2)), np.ones((1, 2)), 0)[0] >= 0


# --- the three false proofs ----------------------------------------------------------------------


def linear_model(weights, shape=None):
    parts = [] if shape is None else [layers.Flatten()]
    shape = (weights.shape[0],) if shape is None else shape
    model = keras.Sequential([keras.Input(shape), *parts, layers.Dense(3, use_bias=False)])
    model.set_weights([weights])
    return model


def test_integer_labels_are_classes_and_not_masks():
    """Class 2 always wins, with 0 far behind: robust for 2 and for no other, however it is said."""
    model = linear_model(np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]))
    x_min, x_max = np.full((3, 2), 1.0), np.full((3, 2), 2.0)
    for labels in (
        [0, 1, 2],
        np.array([0, 1, 2]),
        np.array([[0], [1], [2]]),
        np.eye(3),
        [0.0, 1, 2],
    ):
        scores = decomon.get_adv_box(model, x_min, x_max, source_labels=labels)
        np.testing.assert_array_equal(scores < 0, [False, False, True])
        refuted = decomon.check_adv_box(model, x_min, x_max, source_labels=labels)
        np.testing.assert_array_equal(refuted >= 0, [True, True, False])
    for label in (0, 1, 2, np.int64(2)):
        scores = decomon.get_adv_box(model, x_min, x_max, source_labels=label)
        np.testing.assert_array_equal(scores < 0, [label == 2] * 3)


def test_sub_boxes_of_images_cover_the_image_boxes(rng):
    """The label changes only near the upper corners, which the lower corner knows nothing of."""
    x_min, x_max = np.zeros((4, 2, 3, 1)), rng.uniform(0.5, 1, size=(4, 2, 3, 1))
    lower, upper = decomon.refine_boxes(x_min, x_max, n_sub_boxes=8)
    assert lower.shape == upper.shape == (4, 8, 2, 3, 1)
    volume = np.prod((upper - lower).reshape(4, 8, -1), axis=2).sum(axis=1)
    np.testing.assert_allclose(volume, np.prod((x_max - x_min).reshape(4, -1), axis=1))
    points = rng.uniform(x_min, x_max, size=(200, *x_min.shape))[:, :, None]
    inside = ((points >= lower) & (points <= upper)).all(axis=(3, 4, 5)).any(axis=2)
    assert inside.all()
    weights = np.zeros((6, 3))
    weights[:, 1] = 1.0
    biased = linear_model(weights, (2, 3, 1))
    shifted = keras.Sequential([keras.Input((2, 3, 1)), layers.Flatten(), layers.Dense(3)])
    shifted.set_weights([weights, np.array([2.0, 0.0, -9.0])])
    assert biased.output_shape == shifted.output_shape
    far = np.full((1, 2, 3, 1), 1.0)
    for parts in (1, 2, 4, 64):
        score = decomon.get_adv_box(shifted, 0 * far, far, 0, n_sub_boxes=parts)
        np.testing.assert_allclose(score, [6.0 - 2.0], atol=1e-5)


@pytest.mark.parametrize("method", SEVEN)
def test_softplus_is_bounded_by_its_values(method, rng):
    model = net(activation="softplus", seed=5, scale=3.0)
    x_min, x_max = boxes(rng, width=1.0)
    upper, lower = decomon.get_range_box(decomon.clone(model, method), x_min, x_max)
    labels = outputs_of(model, (x_min + x_max) / 2, "softplus").argmax(axis=1)
    scores = decomon.get_adv_box(decomon.clone(model, method), x_min, x_max, labels)
    for i in range(len(x_min)):
        outputs = outputs_of(model, grid(x_min[i], x_max[i]), "softplus")
        assert (outputs <= upper[i]).all() and (outputs >= lower[i]).all()
        gaps = np.delete(outputs, labels[i], axis=1) - outputs[:, labels[i], None]
        assert gaps.max() <= scores[i]


# --- arguments -----------------------------------------------------------------------------------


def test_several_labels_and_targets(rng):
    """Every source must beat every target: the worst pair counts."""
    model, (x_min, x_max) = net(classes=4, seed=1), boxes(rng, count=3)
    masks = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]])
    targets = np.array([[0, 0, 1, 0], [1, 0, 1, 0], [0, 1, 1, 1]])
    scores = decomon.get_adv_box(model, x_min, x_max, masks, targets)
    refuted = decomon.check_adv_box(model, x_min, x_max, masks, targets)
    for i in range(3):
        outputs = outputs_of(model, grid(x_min[i], x_max[i]))
        gaps = outputs[:, targets[i] == 1][:, :, None] - outputs[:, masks[i] == 1][:, None]
        assert gaps.max() <= scores[i] <= gaps.max() + 1
        assert refuted[i] <= gaps.max() + 1e-2
        assert (refuted[i] >= 0) == (gaps.max() > 0) or abs(gaps.max()) < 1e-3
    two = decomon.get_adv_box(model, x_min[:2], x_max[:2], [[0, 1], [1, 3]], targets[:2])
    np.testing.assert_array_equal(two, scores[:2])


def test_batches_change_nothing(rng):
    model, (x_min, x_max) = net(), boxes(rng, count=7)
    labels = [0, 1, 2, 0, 1, 2, 0]
    for call in (
        lambda k: decomon.get_adv_box(model, x_min, x_max, labels, batch_size=k, n_sub_boxes=2),
        lambda k: decomon.get_upper_box(model, x_min, x_max, k, 2),
        lambda k: decomon.get_adv_noise(model, x_min, labels, 0.1, batch_size=k),
        lambda k: decomon.get_lower_noise(model, x_min, 0.1, batch_size=k),
    ):
        np.testing.assert_allclose(call(3), call(-1), rtol=1e-12, atol=1e-12)


def test_flattened_boxes_of_images_and_softmax(rng):
    """As in decomon's tutorial: images as vectors, a softmax at the end that bounds leave out."""
    keras.utils.set_random_seed(0)
    parts = [keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(8, "relu")]
    model = keras.Sequential([*parts, layers.Dense(3, "softmax")])
    x = rng.uniform(size=(4, 4))
    labels = model.predict(x.reshape(4, 2, 2, 1), verbose=0).argmax(axis=1)
    scores = decomon.get_adv_box(model, x, x, labels)
    logits = outputs_of(model, x)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    rivals = np.where(np.eye(3)[labels] == 1, -np.inf, logits).max(axis=1)
    np.testing.assert_allclose(scores, rivals - own[:, 0], atol=1e-5)
    np.testing.assert_allclose(decomon.get_upper_box(model, x, x), logits, atol=1e-5)


WRONG = {
    "inverted": (lambda m, a, b: decomon.get_adv_box(m, b, a, 0), "exceed"),
    "label": (lambda m, a, b: decomon.get_adv_box(m, a, b, 3), "classes 0 to 2"),
    "labels": (lambda m, a, b: decomon.get_adv_box(m, a, b, [0, 1, 2]), "source_labels"),
    "no label": (lambda m, a, b: decomon.get_adv_box(m, a, b, np.zeros((6, 3))), "source label"),
    "both": (lambda m, a, b: decomon.get_adv_box(m, a, b, 0, 0), "both"),
    "strings": (lambda m, a, b: decomon.check_adv_box(m, a, b, ["a"] * 6), "integers or masks"),
    "batch": (lambda m, a, b: decomon.get_upper_box(m, a, b, batch_size=0), "batch_size"),
    "parts": (lambda m, a, b: decomon.get_upper_box(m, a, b, n_sub_boxes=0), "n_sub_boxes"),
    "parts, too": (lambda m, a, b: decomon.refine_boxes(a, b, 0.5), "n_sub_boxes"),
    "shape": (lambda m, a, b: decomon.get_upper_box(m, a[:, :1], b[:, :1]), "x_min"),
    "negative": (lambda m, a, b: decomon.get_upper_noise(m, a, -0.1), "eps"),
    "norm": (lambda m, a, b: decomon.get_upper_noise(m, a, 0.1, p=3), "`p`"),
    "method": (lambda m, a, b: decomon.clone(m, method="magic"), "crown-forward-hybrid"),
    "nan": (lambda m, a, b: decomon.get_upper_box(m, a * np.nan, b), "finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told(name, rng):
    call, reason = WRONG[name]
    with pytest.raises(ValueError, match=reason):
        call(net(), *boxes(rng))


def test_a_conversion_follows_the_weights(rng):
    model, (x_min, x_max) = keras.models.clone_model(net()), boxes(rng)
    converted = decomon.clone(model)
    before = decomon.get_upper_box(converted, x_min, x_max)
    for weight in model.weights:
        weight.assign(2.0 * weight)
    after = decomon.get_upper_box(converted, x_min, x_max)
    assert (after != before).any()
    for i in range(6):
        assert (outputs_of(model, grid(x_min[i], x_max[i])) <= after[i]).all()


def test_not_a_model():
    with pytest.raises(TypeError, match="Keras model"):
        decomon.clone("model.keras")


def test_the_imports_of_its_tutorials(rng):
    from deel_lip_tf.verify.decomon.models import clone, convert

    model = net()
    low, high = boxes(rng)
    expected = decomon.get_upper_box(decomon.clone(model), low, high)
    for make in (clone, convert):
        np.testing.assert_array_equal(decomon.get_upper_box(make(model), low, high), expected)
