"""Monotone networks: by construction, by training, by chance; pairs are replayed."""

import keras
import numpy as np
import pytest
from keras import layers

from deel_lip_tf import verify
from deel_lip_tf.verify.properties import splitting
from tests.unit.verify.properties.test_ranges import network, sorting

UNIT = dict(lower=[[0.0, 0.0]], upper=[[1.0, 1.0]])


def slopes(model, domain, feature, count=25):
    """Differences of neighbours of a grid along a feature, (rows, steps, outputs)."""
    axes = [np.linspace(a, b, count) for a, b in zip(domain.lower[0], domain.upper[0], strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    values = np.asarray(model(points.reshape(-1, 2)), np.float64).reshape(count, count, -1)
    return np.diff(values, axis=feature)


def replayed(model, domain, answer, feature):
    """The two inputs, the smaller value first, and what the model returns for them."""
    pair = answer.witness[0]
    assert domain[[0, 0]].contains(pair).all()
    others = np.delete(pair, feature, axis=1)
    assert (others[0] == others[1]).all() and pair[0, feature] < pair[1, feature]
    return np.asarray(model(pair.astype(np.float32)), np.float64)


@pytest.mark.parametrize(
    "activation", ["relu", "tanh", "sigmoid", "elu", "softplus", "hard_sigmoid"]
)
def test_weights_that_are_not_negative(activation):
    """Monotone by construction, also where activations are flat: bounds are exactly 0 there."""
    model = network(activation, inputs=3)
    model.set_weights([abs(w) if w.ndim == 2 else w for w in model.get_weights()])
    domain = verify.box([[-9.0] * 3], [[9.0] * 3])
    for feature in range(3):
        answer = verify.monotone(model, feature, domain)
        assert answer.status == "proven" and answer.method == "gradient" and answer.margin >= 0
    assert verify.monotone(model, 0, domain, increasing=False).status == "falsified"


SORTING = pytest.param(sorting, marks=pytest.mark.slow)


@pytest.mark.parametrize("feature", [0, 1])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [network, lambda seed: network("tanh", seed=seed), SORTING])
def test_answers_agree_with_a_grid(make, seed, feature, monkeypatch):
    monkeypatch.setattr(splitting, "_OPEN", 64)  # the clock decides nothing
    model, decided = make(seed=seed), 0
    for lower, upper in (([0.0, 0.0], [0.5, 0.5]), ([0.5, -0.5], [0.75, -0.25])):
        domain = verify.box([lower], [upper])
        found = slopes(model, domain, feature)
        for increasing in (True, False):
            signed = found if increasing else -found
            for output in (0, 1):
                answer = verify.monotone(
                    model, feature, domain, increasing, output=output, time_limit=600
                )
                least = signed[..., output].min()
                if answer.status == "proven":
                    assert least >= -1e-6
                if answer.status == "falsified":
                    outputs = replayed(model, domain, answer, feature)[:, output]
                    assert (outputs[1] - outputs[0]) * (1 if increasing else -1) < 0
                decided += answer.status[0] != "unknown"
    assert decided >= 5


def test_parts_prove_what_the_whole_does_not():
    """`x + relu(x - y) - relu(x - y - 1/2)` grows with x: both slopes cancel where both are on."""
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(4, "relu"), layers.Dense(1, use_bias=False)]
    )
    kernel = np.array([[1.0, 1.0, 1.0, 0.0], [0.0, -1.0, -1.0, 0.0]])
    bias = np.array([4.0, 0.0, -0.5, 0.0])
    model.set_weights([kernel, bias, np.array([[0.75], [0.75], [-1.25], [0.0]])])
    domain = verify.box([[-1.0, -1.0]], [[1.0, 1.0]])
    whole = verify.gradients(model, domain).lower[0, 0, 0]
    answer = verify.monotone(model, 0, domain, time_limit=600)
    assert whole < 0 and answer.status == "proven" and answer.method == "box-splitting"
    assert 0 <= answer.margin <= 0.25


def test_a_flat_function_grows_and_falls():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, "relu"), layers.Dense(1)])
    model.set_weights([np.ones((2, 1)), np.array([-3.0]), np.ones((1, 1)), np.ones(1)])
    domain = verify.box(**UNIT)
    for increasing in (True, False):
        assert verify.monotone(model, 0, domain, increasing).margin == 0.0


def test_an_image_and_an_index():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(1, "sigmoid"),
        ]
    )
    model.set_weights([abs(w) for w in model.get_weights()])
    domain = verify.ball(np.full((2, 4, 4, 1), 0.5), 0.5)
    answer = verify.monotone(model, (1, 2, 0), domain)
    assert (answer.status == "proven").all() and len(answer) == 2
    assert (verify.monotone(model, 6, domain).margin == answer.margin).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(feature=2), "`feature` must be a position below 2"),
        (dict(feature=-1), "`feature` must be a position below 2"),
        (dict(feature=(0, 1)), "`feature` must be a position below 2"),
        (dict(feature=0.5), "`feature` must be a position below 2"),
        (dict(feature=0, output=2), "`output` must be a position below 2"),
        (dict(feature=0, method="auto"), "`method` must be one of"),
        (dict(feature=0, time_limit=0), "`time_limit` must be"),
        (dict(feature=0, increasing=1), "`increasing` must be"),
    ],
)
def test_arguments(arguments, message):
    error = TypeError if "increasing" in arguments else ValueError
    with pytest.raises(error, match=message):
        verify.monotone(network(), domain=verify.box(**UNIT), **arguments)


def test_a_ball_is_no_box():
    with pytest.raises(ValueError, match="`domain` must hold boxes"):
        verify.monotone(network(), 0, verify.ball([[0.5, 0.5]], 0.1, "l2"))
