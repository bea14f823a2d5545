"""Labels among the k largest logits: attacked by gradients, exact for linear models."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf.certificates import certify, certify_top_k


def linear(kernel, bias):
    layer = layers.Dense(len(bias), dtype="float64")
    model = keras.Sequential([keras.Input((len(kernel),), dtype="float64"), layer])
    model.set_weights([np.asarray(kernel, float), np.asarray(bias, float)])
    return model


def network():
    stack = [
        layers.Dense(n, a, dtype="float64") for n, a in ((16, "relu"), (16, "tanh"), (5, None))
    ]
    return keras.Sequential([keras.Input((4,), dtype="float64"), *stack])


def rank(logits, label):
    """How many logits are at least that of the label, itself included."""
    return (logits >= np.take_along_axis(logits, label[:, None], 1)).sum(axis=1)


def test_one_is_certify(rng, tf):
    model, x = network(), rng.standard_normal((20, 4))
    y = rng.integers(0, 5, 20)
    known, found = certify(model, x, y), certify_top_k(model, x, 1, y)
    assert found.radius == pytest.approx(known.radius, rel=1e-12)
    assert certify_top_k(model, x, 1).radius == pytest.approx(certify(model, x).radius, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2])
def test_no_point_of_the_ball_pushes_the_label_out(k, rng):
    tf = pytest.importorskip("tensorflow", reason="gradients")
    model, x = network(), 2.0 * rng.standard_normal((12, 4))
    y = np.argsort(np.asarray(model(x)), axis=1)[:, -k]  # just among the k largest
    found = certify_top_k(model, x, k, y)
    assert (found.radius > 0).all()
    for rivals in itertools.combinations(range(5), k):
        point = tf.constant(x)
        for _ in range(4):
            with tf.GradientTape() as tape:
                tape.watch(point)
                logits = model(point)
                own = tf.gather(logits, y, axis=1, batch_dims=1)
                value = tf.reduce_sum(tf.gather(logits, rivals, axis=1)) - k * tf.reduce_sum(own)
            slope = tape.gradient(value, point).numpy()
            moved = point.numpy() - x + slope
            size = (
                np.linalg.norm(moved, axis=1, keepdims=True) + 1e-300
            )  # 0 where the label is a rival
            point = tf.constant(x + moved * (1 - 1e-9) * found.radius[:, None] / size)
        assert (rank(np.asarray(model(point)), y) <= k).all()


def test_a_linear_model_is_exact():
    # Logits x, 0 and -1: the first falls below the second at 0, and below both at -1.
    model = linear([[1.0, 0.0, 0.0]], [0.0, 0.0, -1.0])
    x = np.array([[2.0]])
    found = [certify_top_k(model, x, k, [0]).radius[0] for k in (1, 2)]
    assert found == pytest.approx([2.0, 3.0], rel=1e-9) and found[0] <= 2.0 and found[1] <= 3.0
    assert certify_top_k(model, -x, 1, [0]).radius[0] == 0.0
    assert certify_top_k(model, -0.5 * x / 2, 2, [0]).radius[0] == pytest.approx(0.5)


def test_ties_and_labels_out_of_reach():
    model = linear(np.eye(3), np.zeros(3))
    found = certify_top_k(model, [[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]], 1, [0, 2])
    assert found.radius.tolist() == [0.0, 0.0]
    assert found.certified_accuracy([0.0, 0.1]).tolist() == [0.0, 0.0]
    assert "1 largest logits" in str(found)


@pytest.mark.parametrize("k", [0, 5, 1.5, -1])
def test_k_has_its_range(k):
    with pytest.raises((ValueError, TypeError), match="`k`"):
        certify_top_k(network(), np.zeros((1, 4)), k)
