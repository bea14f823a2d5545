"""Two models of nearly one function: proofs against grids, counterexamples replayed."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf import verify
from tests.unit.verify.properties.test_ranges import DOMAINS, MODELS, PAIRS, grid, network, sorting


def perturbed(model, noise, seed=1):
    """The same layers with other weights."""
    other = keras.models.clone_model(model)
    rng = np.random.default_rng(seed)
    other.set_weights([w + noise * rng.normal(size=w.shape) for w in model.get_weights()])
    return other


def difference(first, second, domain):
    """(n,) largest difference on a grid."""
    points = [grid(domain, i) for i in range(len(domain))]
    values = [(np.asarray(first(x), np.float64), np.asarray(second(x))) for x in points]
    return np.array([abs(a - b).max() for a, b in values])


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_tolerances_above_and_below_what_a_grid_reaches(name, kind):
    first, domain = MODELS[name](), DOMAINS[kind]()
    second = perturbed(first, 1e-2)
    largest = difference(first, second, domain)
    wide = verify.equivalent(first, second, domain, 8.0 * largest[:, None], time_limit=600)
    assert (wide.status == "proven").all(), wide
    assert (wide.margin >= 0).all() and (wide.margin <= 8.0 * largest).all()
    narrow = verify.equivalent(first, second, domain, 0.5 * largest[:, None], time_limit=600)
    assert (narrow.status == "falsified").all(), narrow
    assert domain.contains(narrow.witness).all()
    x = narrow.witness.astype(np.float32)
    apart = abs(np.asarray(first(x), np.float64) - np.asarray(second(x))).max(axis=1)
    assert (apart > 0.5 * largest).all()


def test_an_export_is_the_same_function():
    model = sorting()
    answer = verify.equivalent(model, model.vanilla_export(), DOMAINS["box"](), 1e-6)
    assert (answer.status == "proven").all() and (answer.method == "gradient").all()


def test_a_pruned_image_network():
    keras.utils.set_random_seed(0)
    first = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    second = keras.models.clone_model(first)
    second.set_weights([np.where(abs(w) < 0.02, 0.0, w) for w in first.get_weights()])
    rng = np.random.default_rng(0)
    center = rng.uniform(0.2, 0.8, size=(1, 8, 8, 1))
    x = center + rng.uniform(-0.02, 0.02, size=(500, 8, 8, 1))
    found = abs(np.asarray(first(x)) - np.asarray(second(x))).max()
    answer = verify.equivalent(first, second, verify.ball(center, 0.02), 8.0 * found)
    assert found > 0 and answer.status == "proven" and answer.margin <= 7.0 * found


def test_models_of_other_structure():
    """A doubled layer, and one function in other words."""
    first = network()
    kernel, bias = first.layers[0].get_weights()
    second = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(16, "relu"),
            layers.Dense(8, "relu"),
            layers.Dense(2),
        ]
    )
    halves = [np.tile(kernel, 2), np.tile(bias, 2), 0.5 * np.tile(first.get_weights()[2], (2, 1))]
    second.set_weights([*halves, *first.get_weights()[3:]])
    domain = verify.box([[0.0, 0.0]], [[0.25, 0.25]])
    answer = verify.equivalent(first, second, domain, 0.25, time_limit=600)
    assert answer.status == "proven", answer
    refuted = verify.equivalent(first, perturbed(second, 0.1), domain, 1e-3)
    assert refuted.status == "falsified"


def test_names_may_be_equal_and_types_differ():
    first = network()
    clone = keras.models.clone_model(first)
    clone.set_weights(first.get_weights())
    assert clone.name == first.name
    assert verify.equivalent(first, clone, DOMAINS["linf"](), 0.0).count("proven") == 2
    double = keras.Sequential(
        [keras.Input((2,), dtype="float64"), layers.Dense(2, dtype="float64")]
    )
    with pytest.raises(ValueError, match="inputs of the same type"):
        verify.equivalent(first, double, DOMAINS["linf"](), 1.0)
    with pytest.raises(ValueError, match="outputs of the same shape"):
        verify.equivalent(first, network(outputs=3), DOMAINS["linf"](), 1.0)
    with pytest.raises(ValueError, match="`tolerance` must hold"):
        verify.equivalent(first, clone, DOMAINS["linf"](), None)


def test_probabilities():
    """A sigmoid at the end counts; a softmax has no bounds."""
    first = keras.Sequential([keras.Input((2,)), layers.Dense(1, "sigmoid")])
    second = perturbed(first, 0.1)
    domain = DOMAINS["linf"]()
    largest = difference(first, second, domain)
    answer = verify.equivalent(first, second, domain, 2.0 * largest[:, None], time_limit=10)
    assert (answer.status == "proven").all()
    ended = keras.Sequential([keras.Input((2,)), layers.Dense(2, "softmax")])
    with pytest.raises(ValueError, match="`first` must not end with a softmax"):
        verify.equivalent(ended, ended, domain, 1.0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_of_extreme_size(scale):
    first = keras.Sequential([keras.Input((2,)), layers.Dense(4, "relu"), layers.Dense(1)])
    rng = np.random.default_rng(0)
    weights = [scale * rng.normal(size=w.shape) for w in first.get_weights()]
    first.set_weights([weights[0], 0.0 * weights[1], weights[2] / scale, 0.0 * weights[3]])
    second = keras.models.clone_model(first)
    second.set_weights([1.5 * w for w in first.get_weights()])
    domain = DOMAINS["linf"]()
    largest = difference(first, second, domain)
    assert (
        verify.equivalent(first, second, domain, 3.0 * largest[:, None]).status == "proven"
    ).all()
    narrow = verify.equivalent(first, second, domain, 0.5 * largest[:, None])
    assert not (narrow.status == "proven").any()


def test_lipschitz_layers_keep_their_own_kernels():
    """The raw kernel of a constrained layer is not what it computes with."""
    keras.utils.set_random_seed(0)
    first = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2)])
    second = keras.models.clone_model(first)
    second.set_weights([3.0 * w for w in first.get_weights()])
    answer = verify.equivalent(first, second, DOMAINS["linf"](), 1e-3)
    assert (answer.status == "proven").all()


def normalized():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Rescaling(0.5, 0.25),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("changed", range(8))
def test_a_change_of_any_weight_is_seen(changed):
    """Also of a mean, which only shifts: the map itself stays what it was."""
    rng = np.random.default_rng(0)
    first, second = normalized(), normalized()
    weights = [rng.normal(size=w.shape) for w in first.get_weights()]
    weights[5] = abs(weights[5]) + 0.5  # a variance
    first.set_weights(weights)
    weights[changed] = weights[changed] + 0.1
    second.set_weights(weights)
    domain = verify.box(-np.ones((1, 3)), np.ones((1, 3)))
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)), "float32")
    largest = abs(np.asarray(first(corners)) - np.asarray(second(corners))).max()
    assert largest > 1e-3
    answer = verify.equivalent(first, second, domain, 0.9 * largest, time_limit=5)
    assert (answer.status != "proven").all(), answer


def test_a_change_of_an_offset_is_seen():
    models = []
    for offset in (0.25, 0.35):
        stack = [keras.Input((3,)), layers.Rescaling(1.0, offset), layers.ReLU()]
        models.append(keras.Sequential(stack))
    domain = verify.box(np.zeros((1, 3)), np.ones((1, 3)))
    assert verify.equivalent(*models, domain, 0.09).status == ["falsified"]
    assert verify.equivalent(*models, domain, 0.11).status == ["proven"]
