"""Pairs of logits of whole networks, against gradients that are made as long as they can be."""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.bounds.gaps import tail as tails
from deel_lip_tf.bounds.gaps.tail import find_tail
from deel_lip_tf.certificates.proofs import prove
from deel_lip_tf.semantics.graph import graph_of
from deel_lip_tf.semantics.rule import rule_for

FLOAT64 = 1 + 1e-9  # of a gradient in float64


def conv(filters=4, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", dtype="float64", **kwargs)


def dense(units, **kwargs):
    return layers.Dense(units, dtype="float64", **kwargs)


def own(kind, **kwargs):
    return getattr(lip.layers, kind)(dtype="float64", **kwargs)


def flat():
    return layers.Flatten(dtype="float64")


HEAD = [flat, lambda: dense(6), lambda: own("GroupSort2"), lambda: dense(3)]

TAILS = {
    "sorted, L2 pooling": [
        conv,
        lambda: own("GroupSort2"),
        lambda: own("ScaledL2NormPooling2D"),
        *HEAD,
    ],
    "largest entries": [
        conv,
        lambda: own("GroupSort2"),
        lambda: layers.MaxPooling2D(dtype="float64"),
        *HEAD,
    ],
    "sorted by fours": [conv, lambda: own("GroupSort", n=4), *HEAD],
    "reshaped": [
        conv,
        lambda: own("ScaledAveragePooling2D"),
        lambda: layers.Reshape((-1,), dtype="float64"),
        *HEAD[1:],
    ],
    "max and min": [conv, lambda: own("MaxMin"), *HEAD],
    "rectified": [
        lambda: conv(activation="relu"),
        lambda: layers.MaxPooling2D(dtype="float64"),
        flat,
        lambda: dense(6, activation="leaky_relu"),
        lambda: dense(3),
    ],
    "no hidden layer": [
        lambda: conv(strides=2),
        lambda: layers.ReLU(dtype="float64"),
        lambda: own("ScaledL2NormPooling2D"),
        flat,
        lambda: dense(3),
    ],
    "dense alone": [
        flat,
        lambda: dense(8),
        lambda: own("GroupSort2", k_coef_lip=0.5),
        lambda: layers.Dropout(0.5, dtype="float64"),
        lambda: dense(3),
    ],
    "one logit": [conv, lambda: own("Abs"), *HEAD[:-1], lambda: dense(1)],
}


def network(name, seed=0, size=8):
    """A network whose kernels are far from orthogonal, in float64."""
    keras.utils.set_random_seed(seed)
    made = [make() for make in TAILS[name]]
    model = keras.Sequential([keras.Input((size, size, 2), dtype="float64"), *made])
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.set_weights([rng.standard_normal(w.shape) for w in layer.get_weights()])
    return model


def combinations_of(model):
    count = model.output_shape[-1]
    if count == 1:
        return [((0, 0), np.ones(1))]
    units = np.eye(count)
    return [((i, j), units[i] - units[j]) for i in range(count) for j in range(i)]


def longest_gradient(tf, model, combination, steps=25):
    """The length of the longest gradient of a combination that an ascent finds."""
    rng = np.random.default_rng(3)
    x = tf.Variable(rng.standard_normal((16, *model.input_shape[1:])))
    optimizer = keras.optimizers.Adam(0.1)

    @tf.function
    def lengths():
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = tf.linalg.matvec(model(x), combination)
        return tf.norm(tf.reshape(tape.gradient(output, x), (16, -1)), axis=1)

    @tf.function
    def ascent():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(lengths())
        return tape.gradient(loss, x, unconnected_gradients="zero")

    best = 0.0
    for _ in range(steps):
        found = lengths().numpy()
        best = max(best, np.nanmax(found))
        step = ascent()
        optimizer.apply([tf.where(tf.math.is_finite(step), step, 0.0)], [x])
    return best


@pytest.mark.parametrize("name", list(TAILS))
def test_no_gradient_exceeds_the_divisor_and_some_are_smaller(name, tf, monkeypatch):
    model = network(name)
    found = prove(model).divisors
    monkeypatch.setattr(tails.Tail, "constants", lambda *_: None)
    plain = prove(model).divisors
    assert (found <= plain).all() and np.array_equal(found, found.T)
    pairs = combinations_of(model)
    assert any(found[pair] < 0.999 * plain[pair] for pair, _ in pairs)
    for pair, combination in pairs[:1]:
        assert longest_gradient(tf, model, combination) <= found[pair] * FLOAT64


def chain(factor=1.0, place=None):
    """Layers that may each be multiplied, in front of and behind all that is looked at together."""
    times = {name: factor if name == place else 1.0 for name in PLACES}
    body = [
        conv(3, name="first"),
        conv(4, name="last"),
        own("GroupSort2", k_coef_lip=times["sorted"]),
        own("ScaledL2NormPooling2D", k_coef_lip=times["pooled"]),
        flat(),
        dense(6, name="hidden"),
        own("GroupSort2", k_coef_lip=times["sorted again"]),
        dense(3, name="head"),
    ]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 2), dtype="float64"), *body])
    for layer in model.layers:
        layer.set_weights([times.get(layer.name, 1.0) * np.asarray(w) for w in layer.get_weights()])
    return model


PLACES = ("first", "last", "sorted", "pooled", "hidden", "sorted again", "head")


@pytest.mark.parametrize("place", PLACES)
def test_a_network_that_is_three_times_as_steep_has_three_times_the_divisors(place, monkeypatch):
    """Every layer is positively homogeneous, so that each factor of the theorem shows."""
    apart = ~np.eye(3, dtype=bool)
    found, steeper = (prove(chain(factor, place)).divisors[apart] for factor in (1.0, 3.0))
    np.testing.assert_allclose(steeper, 3.0 * found, rtol=1e-3)
    monkeypatch.setattr(tails.Tail, "constants", lambda *_: None)
    assert (found < 0.99 * prove(chain()).divisors[apart]).all()


@pytest.mark.parametrize("hidden", [[], [5]], ids=["no hidden layer", "a hidden layer"])
def test_of_what_only_adds_up_nothing_is_lost(hidden, tf):
    """Positive kernels, where the worst signal is that of the network as it is, all in step."""
    body = [conv(2), flat(), *map(dense, hidden), dense(1)]
    model = keras.Sequential([keras.Input((6, 6, 2), dtype="float64"), *body])
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.uniform(0.2, 2, w.shape) for w in layer.get_weights()])
    x = tf.zeros((1, 6, 6, 2), "float64")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x)
    exact = np.linalg.norm(tape.gradient(y, x))
    assert exact <= prove(model).divisors[0, 0] <= 1.01 * exact


def test_a_window_is_one_group(monkeypatch):
    """The last pixel of a window reads the image, the first one its padding: both may be taken."""
    kernel = np.zeros((3, 3, 1, 2))
    kernel[0, 0, 0] = 1.0, -1.0
    stack = [conv(2, use_bias=False), layers.MaxPooling2D(dtype="float64"), flat(), dense(2)]
    model = keras.Sequential([keras.Input((2, 2, 1), dtype="float64"), *stack])
    model.layers[0].set_weights([kernel])
    model.layers[-1].set_weights([np.eye(2), np.zeros(2)])
    image = np.zeros((2, 2, 2, 1))
    image[1, 0, 0] = 1.0
    moved = np.diff(np.asarray(model(image)), axis=0)[0] @ [1.0, -1.0]
    assert moved == 1.0
    assert prove(model).divisors[0, 1] >= moved
    kind = type(rule_for(model.layers[1]))
    first = np.arange(8).reshape(2, 2, 2)
    # A rule that is false: each pixel by itself, and the first one of the window taken.
    monkeypatch.setattr(kind, "groups", lambda *_: (first.ravel(), first[0, 0]))
    assert prove(model).divisors[0, 1] < 0.9


def test_groups_of_several_calls_are_joined():
    first, second = np.array([0, 0, 1, 1, 2, 2]), np.array([3, 4, 4, 5, 6, 7])
    by_first, by_second = tails._components(first, second, 3)
    np.testing.assert_array_equal(by_first[first], [0, 0, 0, 0, 2, 2])
    np.testing.assert_array_equal(by_second[second], by_first[first])


@pytest.mark.parametrize(
    "between",
    [
        lambda: layers.MaxPooling2D(3, 2, dtype="float64"),  # windows overlap
        lambda: layers.MaxPooling2D(3, dtype="float64"),  # and leave pixels out
        lambda: own("Householder"),
        lambda: layers.Softmax(dtype="float64"),
        lambda: layers.LayerNormalization(dtype="float64"),
    ],
)
def test_calls_that_mix_more_end_the_tail(between):
    stack = [keras.Input((8, 8, 2), dtype="float64"), conv(), between(), flat(), dense(3)]
    model = keras.Sequential(stack)
    head = graph_of(model).calls[-1]
    assert find_tail(head) is None


def test_each_group_of_a_rule_grows_by_no_more_than_its_constant():
    """Every layer between a convolution and a dense one, against differences of its outputs."""
    rng = np.random.default_rng(4)
    kinds = [
        *map(own, ("GroupSort2", "FullSort", "MaxMin", "Abs", "NActivation", "LipschitzSpline")),
        *map(own, ("ScaledL2NormPooling2D", "ScaledAveragePooling2D", "PReLUlip")),
        own("GroupSort", n=3),
        own("GroupSort2", data_format="channels_first"),
        own("FullSort", data_format="channels_first"),
        own("ScaledL2NormPooling2D", data_format="channels_first"),
        own("ScaledAveragePooling2D", data_format="channels_first"),
        layers.Flatten(data_format="channels_first", dtype="float64"),
        flat(),
        layers.MaxPooling2D((2, 3), dtype="float64"),
        layers.AveragePooling2D(2, dtype="float64"),
        layers.Reshape((6, -1), dtype="float64"),
        layers.Dropout(0.5, dtype="float64"),
        layers.ReLU(dtype="float64"),
        layers.LeakyReLU(dtype="float64"),
        layers.PReLU(shared_axes=[1, 2], dtype="float64"),
        layers.ELU(dtype="float64"),
        layers.Activation("tanh", dtype="float64"),
    ]
    shape = (None, 4, 6, 6)
    known = 0
    for layer in kinds:
        layer.build(shape)
        rule = rule_for(layer)
        if (groups := rule.groups(layer, shape)) is None:
            continue
        known += 1
        constant, _ = tails.layer_bound(layer, shape)
        x = rng.standard_normal((40, *shape[1:])) * 10.0 ** rng.uniform(-2, 1, (40, 1, 1, 1))
        before = (x[:20] - x[20:]).reshape(20, -1)
        y = np.asarray(layer(x))
        after = (y[:20] - y[20:]).reshape(20, -1)
        inside, outside = groups
        for moved, moves in zip(after, before, strict=True):
            written = np.bincount(outside, moved**2, minlength=inside.max() + 1)
            given = np.bincount(inside, moves**2, minlength=outside.max() + 1)
            assert (written <= constant**2 * given * FLOAT64 + 1e-20).all(), layer.name
    assert known >= 20
