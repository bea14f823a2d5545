"""Intervals of outputs: proofs against grids, counterexamples against the models that run."""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf import verify

GRID = 41  # points along each of two axes


def network(activation="relu", inputs=2, seed=0, outputs=2):
    keras.utils.set_random_seed(seed)
    hidden = [layers.Dense(8, activation) for _ in range(2)]
    model = keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(outputs)])
    rng = np.random.default_rng(seed)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def sorting(seed=0):
    keras.utils.set_random_seed(seed)
    return lip.Sequential(
        [
            keras.Input((2,)),
            lip.layers.SpectralDense(8),
            lip.layers.GroupSort(n=4),
            lip.layers.SpectralDense(8),
            lip.layers.MaxMin(),
            lip.layers.SpectralDense(2),
        ]
    )


MODELS = {
    "relu": network,
    "tanh": lambda: network("tanh"),
    "sigmoid": lambda: network("sigmoid"),
    "sorting": sorting,
}
DOMAINS = {
    "box": lambda: verify.box([[-0.5, 0.25], [0.0, 0.0]], [[0.5, 0.75], [1.0, 0.5]]),
    "linf": lambda: verify.ball([[0.5, 0.5], [0.25, 0.75]], 0.125),
    "l2": lambda: verify.ball([[0.5, 0.5], [0.25, 0.75]], 0.125, "l2"),
    "l1": lambda: verify.ball([[0.5, 0.5], [0.25, 0.75]], 0.25, "l1"),
}


PAIRS = [("relu", "box"), ("relu", "l1"), ("tanh", "box"), ("sigmoid", "l2"), ("sorting", "linf")]


def grid(domain, index):
    """Points of a domain (k, 2), as float32 that lie in it."""
    ends = zip(domain.lower[index], domain.upper[index], strict=True)
    axes = [np.linspace(*pair, GRID) for pair in ends]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2).astype(np.float32)
    return points[domain[np.full(len(points), index)].contains(points)]


def extremes(model, domain):
    """(n, outputs) smallest and largest outputs on a grid."""
    values = [np.asarray(model(grid(domain, i))) for i in range(len(domain))]
    return np.stack([v.min(axis=0) for v in values]), np.stack([v.max(axis=0) for v in values])


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_what_is_proven_holds_and_what_is_not_is_broken(name, kind):
    """Intervals wider than what a grid reaches are proven, narrower ones are refuted."""
    model, domain = MODELS[name](), DOMAINS[kind]()
    low, high = extremes(model, domain)
    room = 0.5 * (high - low)
    wide = verify.within(model, domain, interval=(low - room, high + room), time_limit=600)
    assert not (wide.status == "falsified").any()
    assert (wide.status == "proven").all(), wide
    assert (wide.margin >= 0).all() and (wide.margin <= room.max() + 1e-6).all()
    assert np.isnan(wide.witness).all()
    narrow = verify.within(model, domain, interval=(low + 0.5 * room, high + 9), time_limit=600)
    assert (narrow.status == "falsified").all(), narrow
    assert domain.contains(narrow.witness).all()
    outputs = np.asarray(model(narrow.witness.astype(np.float32)))
    assert (outputs < low + 0.5 * room).any(axis=1).all()
    assert (narrow.margin < 0).all()


def test_a_tolerance_is_one_around_the_center():
    model, domain = network(), DOMAINS["box"]()
    center = np.asarray(model(domain.center))
    low, high = extremes(model, domain)
    reach = np.maximum(high - center, center - low)
    assert (
        verify.within(model, domain, 1.5 * reach.max(axis=1, keepdims=True)).status == "proven"
    ).all()
    answer = verify.within(model, domain, 0.5 * reach)
    assert (answer.status == "falsified").all()
    moved = abs(np.asarray(model(answer.witness)) - center)
    assert (moved > 0.5 * reach).any(axis=1).all()


def test_ends_that_are_met_exactly():
    """A sum of two numbers in [0, 1] reaches 2 and no more: rounding decides nothing."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, kernel_initializer="ones")])
    domain = verify.box([[0.0, 0.0]], [[1.0, 1.0]])
    below = np.nextafter(np.float64(2.0), 0.0)
    assert verify.within(model, domain, interval=(-1.0, 2.0)).status != "falsified"
    assert verify.within(model, domain, interval=(-1.0, below)).status != "proven"
    assert verify.within(model, domain, interval=(-1.0, 2.0 - 1e-4)).status == "falsified"
    assert verify.within(model, domain, interval=(-1.0, 2.0 + 1e-9)).status == "proven"


def test_a_sigmoid_at_the_end_counts():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, "sigmoid")])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    domain = verify.box([[-1.0]], [[1.0]])
    assert verify.within(model, domain, interval=(0.26, 0.74)).status == "proven"
    answer = verify.within(model, domain, interval=(0.26, 0.73), time_limit=5)
    assert answer.status == "falsified" and model(answer.witness) > 0.73
    ended = keras.Sequential([keras.Input((1,)), layers.Dense(2, "softmax")])
    with pytest.raises(ValueError, match="`model` must not end with a softmax"):
        verify.within(ended, domain, 0.5)


def test_images_and_ends_without_a_claim():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5, 5, 1)), layers.Conv2D(2, 3, activation="relu"), layers.MaxPooling2D()]
    )
    x = np.random.default_rng(0).uniform(size=(2, 5, 5, 1))
    domain = verify.ball(x, 0.01)
    answer = verify.within(model, domain, interval=(0.0, np.inf))
    assert (answer.status == "proven").all()
    answer = verify.within(model, domain, interval=(-np.inf, -1.0))
    assert (answer.status == "falsified").all() and answer.count("falsified") == 2
    assert "attack 2" in str(answer)


def test_a_model_that_runs_otherwise_is_unknown():
    model = network()
    domain = verify.box([[0.0, 0.0]], [[1.0, 1.0]])
    broken = keras.Sequential([keras.Input((2,)), model.layers[0], layers.Dense(1)])
    broken.layers[1].set_weights([np.full((8, 1), 1e38, np.float32), np.zeros(1)])
    with pytest.warns(RuntimeWarning, match="Nothing is proven"):
        answer = verify.within(broken, verify.box([[9e3, 9e3]], [[1e4, 1e4]]), 1.0)
    assert answer.status == "unknown" and answer.margin == -np.inf
    assert verify.within(model, domain, 100.0).status == "proven"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give one of `tolerance` and `interval`"),
        (dict(tolerance=1.0, interval=(0, 1)), "Give one of `tolerance` and `interval`"),
        (dict(tolerance=-1.0), "`tolerance` must hold finite numbers, not negative"),
        (dict(tolerance=np.ones(3)), "broadcast against outputs of shape"),
        (dict(tolerance="1"), "`tolerance` must hold"),
        (dict(interval=(1.0, 0.0)), "`interval` must be a pair"),
        (dict(interval=1.0), "`interval` must be a pair"),
        (dict(interval=(np.nan, 1.0)), "`interval` must be a pair"),
        (dict(tolerance=1.0, method="best"), "`method` must be one of"),
        (dict(tolerance=1.0, time_limit=-1), "`time_limit` must be"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        verify.within(network(), DOMAINS["box"](), **arguments)


def test_what_is_no_domain():
    with pytest.raises(TypeError, match="`domain` must be a domain"):
        verify.within(network(), np.zeros((1, 2)), 1.0)
