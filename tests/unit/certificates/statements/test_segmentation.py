"""Certified shares of pixels: against every choice of pixels, and against attacks."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.certificates import certify, certify_segmentation

pytestmark = pytest.mark.usefixtures("keras_in_float64")


def identity(pixels, classes=2):
    """A model that returns the image: its pixels' logits."""
    layer = layers.Dense(classes, use_bias=False, kernel_initializer="identity", dtype="float64")
    return keras.Sequential([keras.Input((pixels, classes), dtype="float64"), layer])


def network(classes=3):
    keras.utils.set_random_seed(0)
    stack = [
        layers.Conv2D(4, 3, padding="same", activation="relu", dtype="float64"),
        layers.Conv2D(classes, 1, dtype="float64"),
    ]
    return keras.Sequential([keras.Input((4, 4, 2), dtype="float64"), *stack])


def test_the_count_is_that_of_the_worst_set_of_pixels(rng):
    x = rng.standard_normal((3, 6, 2))
    found = certify_segmentation(identity(6), x)
    distances = np.abs(x[..., 0] - x[..., 1]) / np.sqrt(2)
    for radius in (0.05, 0.2, 0.5, 1.0, 3.0):
        kept = [
            6
            - max(
                len(chosen)
                for size in range(7)
                for chosen in itertools.combinations(row, size)
                if np.square(chosen).sum() <= radius**2
            )
            for row in distances
        ]
        assert found.certified_pixels(radius).tolist() == kept
        assert found.certified_share(radius) == pytest.approx(sum(kept) / 18)


def test_the_worst_perturbation_attains_it(rng):
    model, x = identity(5), rng.standard_normal((1, 5, 2))
    found = certify_segmentation(model, x)
    gap = x[0, :, 0] - x[0, :, 1]
    order = np.argsort(np.abs(gap))[:3]
    step = np.zeros((5, 2))
    step[order] = np.stack([-gap, gap], axis=1)[order] / 2 * (1 + 1e-6)
    size = np.linalg.norm(step)
    changed = np.asarray(model(x + step)).argmax(-1) != found.label
    assert changed.sum() == 3
    assert found.certified_pixels(size)[0] == 2
    assert found.certified_pixels(size * (1 - 1e-5))[0] == 3
    assert size * (1 - 1e-5) < found.radius(0.6)[0] <= size


@pytest.mark.parametrize("classes", [1, 3])
def test_no_attack_changes_more_pixels(classes, rng):
    tf = pytest.importorskip("tensorflow", reason="gradients")
    model, x = network(classes), rng.standard_normal((3, 4, 4, 2))
    found = certify_segmentation(model, x)
    for radius in (0.05, 0.3):
        point = tf.constant(x)
        kept = found.certified_pixels(radius)
        for _ in range(5):
            with tf.GradientTape() as tape:
                tape.watch(point)
                logits = model(point)
                top = tf.sort(logits, axis=-1)
                gap = tf.abs(logits[..., 0]) if classes == 1 else top[..., -1] - top[..., -2]
                value = tf.reduce_sum(tf.exp(-5.0 * gap))
            slope = tape.gradient(value, point).numpy()
            moved = point.numpy() - x + slope
            size = np.linalg.norm(moved.reshape(3, -1), axis=1).reshape(3, 1, 1, 1)
            point = tf.constant(x + moved * radius * (1 - 1e-9) / size)
            now = np.asarray(model(point))
            now = (now[..., 0] > 0) if classes == 1 else now.argmax(-1)
            assert ((now == found.label).reshape(3, -1).sum(1) >= kept).all()


def test_labels_that_are_ignored_do_not_count():
    x = np.array([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    y = np.array([[0, 0, 255]])
    found = certify_segmentation(identity(3), x, y, ignore=255)
    assert found.counted.tolist() == [2] and found.correct.tolist() == [[True, False, False]]
    assert found.certified_share([0.0, 0.7, 0.8]).tolist() == [0.5, 0.5, 0.0]
    assert found.radius(0.5)[0] == pytest.approx(np.sqrt(0.5)) and found.radius(1.0)[0] == 0.0
    same = certify_segmentation(identity(3), x, y[..., None], ignore=[7, 255])
    assert (same.cost == found.cost).all()
    assert "1 images" in str(found)


def test_one_pixel_is_certify(rng):
    x = rng.standard_normal((5, 1, 3))
    flat = keras.Sequential(
        [keras.Input((3,), dtype="float64"), *[layers.Dense(3, dtype="float64")]]
    )
    flat.set_weights([np.eye(3), np.zeros(3)])
    found = certify_segmentation(identity(1, 3), x).radius(1.0)
    assert found == pytest.approx(certify(flat, x[:, 0]).radius, rel=1e-9)


def test_ties_are_changed_by_nothing():
    found = certify_segmentation(identity(2), np.zeros((1, 2, 2)))
    assert found.certified_pixels(0.0).tolist() == [0] and found.radius(0.5).tolist() == [0.0]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2)), [[0.5, 1.0]]), "`y`"),
        (lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2)), [0, 1]), "`y`"),
        (
            lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2)), [[0, 1]], "none"),
            "`ignore` must be a class",
        ),
        (lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2))).radius(0.0), "`share`"),
        (lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2))).radius([0.5]), "`share`"),
        (lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2))).radius(None), "`share`"),
        (
            lambda: certify_segmentation(identity(2), np.zeros((1, 2, 2))).certified_share(-1.0),
            "`radius`",
        ),
        (
            lambda: certify_segmentation(
                keras.Sequential([keras.Input((2,)), layers.Dense(2)]), np.zeros((1, 2))
            ),
            r"\(batch, \*image, classes\)",
        ),
        (
            lambda: certify_segmentation(
                keras.Sequential([keras.Input((2, 2)), layers.Dense(2, "softmax")]),
                np.zeros((1, 2, 2)),
            ),
            "must return logits",
        ),
    ],
)
def test_faults(call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call()
