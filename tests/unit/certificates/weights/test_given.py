"""What is said about weights that may change: every form, and every fault."""

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.certificates import certify


def network(*more):
    first, last = (
        layers.Dense(4, "relu", name="first"),
        layers.Dense(2, use_bias=False, name="last"),
    )
    return keras.Sequential([keras.Input((3,)), first, *more, last])


X = np.random.default_rng(0).standard_normal((2, 3))
BOTH = {"kernel": 0.1, "bias": 0.1}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, {"first": 0.1, "last": 0.1}),
        (0.1, {"first": BOTH, "last": BOTH}),
        ({"first": 0.1}, {"first": {"kernel": np.full((3, 4), 0.1), "bias": np.full(4, 0.1)}}),
        ({"first": {"kernel": 0.1}}, {"first": {"kernel": [0.1, 0.1, 0.1, 0.1]}}),
        ({"first": {"norm": 0.2}}, {"first": {"norm": 0.2, "kernel": 0.5}}),
        (0, {}),
    ],
)
def test_forms_that_say_the_same(one, other):
    model = network()
    changes = [certify(model, X, weights_within=given).output_change for given in (one, other)]
    assert changes[0] == pytest.approx(changes[1], rel=1e-9)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (-0.1, "none negative"),
        (np.inf, "none negative"),
        (True, "none negative"),
        ("much", "must be a number"),
        ([0.1, 0.2], "must be a number"),
        ({"second": 0.1}, "Known: first, last"),
        ({"first": {"weight": 0.1}}, "'weight'"),
        ({"first": {"kernel": np.ones((4, 3))}}, r"of shape \(3, 4\)"),
        ({"first": {"norm": [0.1, 0.2]}}, "'norm'"),
        ({"last": {"kernel": np.nan}}, "none negative"),
    ],
)
def test_faults(given, text):
    with pytest.raises(ValueError, match=f"`weights_within`(.|\n)*{text}"):
        certify(network(), X, weights_within=given)


def test_other_weights_must_be_left_out_by_name():
    model = network(layers.BatchNormalization(name="scale"))
    with pytest.raises(ValueError, match="must name the layers that may change.*scale"):
        certify(model, X, weights_within=0.1)
    with pytest.raises(ValueError, match="scale. Known: first, last"):
        certify(model, X, weights_within={"scale": 0.1})
    assert certify(model, X, weights_within={"first": 0.0}).output_change.max() < 1e-9


def test_a_bias_without_a_kernel_is_left_out_by_name_even_where_it_is_frozen():
    """A number is about every bias, and this one was left out without a word."""
    layer = lip.layers.ScaleBias(name="shift", trainable=False)
    model = network(layer)
    with pytest.raises(ValueError, match="must name the layers that may change.*shift"):
        certify(model, X, weights_within=0.1)


def recurrent(layer):
    return keras.Sequential([keras.Input((3, 2)), layer, layers.Flatten(), layers.Dense(2)])


def test_recurrent_layers_have_two_kernels():
    x = X.reshape(2, 3, 1).repeat(2, axis=2)
    model = recurrent(layers.SimpleRNN(4, name="steps"))
    both = {"kernel": 0.1, "recurrent_kernel": np.full((4, 4), 0.1), "bias": np.full(4, 0.1)}
    given = [{"steps": 0.1}, {"steps": both}, {"steps": {"kernel": 0.1}}]
    found = [certify(model, x, weights_within=each).output_change for each in given]
    assert found[0] == pytest.approx(found[1], rel=1e-9) and (found[2] < found[0]).all()
    for wrong in ({"norm": 0.1}, {"recurrent_kernel": np.ones((2, 4))}):
        with pytest.raises(ValueError, match="of recurrent layers, of 'recurrent_kernel'"):
            certify(model, x, weights_within={"steps": wrong})


def test_float32_is_refused():
    with pytest.raises(ValueError, match="exact functions of the weights"):
        certify(network(), X, weights_within=0.1, semantics="float32")


def test_a_shared_layer_is_changed_at_each_call():
    x = keras.Input((3,))
    shared = layers.Dense(3, name="shared", use_bias=False, kernel_initializer="identity")
    once, twice = keras.Model(x, shared(x)), keras.Model(x, shared(shared(x)))
    found = [certify(m, X, weights_within={"shared": 0.1}).output_change for m in (once, twice)]
    assert (found[1] > 2 * found[0]).all()
    inner = keras.Sequential([keras.Input((3,)), shared], name="inner")
    nested = keras.Model(x, shared(inner(x)))
    by_name = certify(nested, X, weights_within={"inner/shared": 0.1}).output_change
    assert by_name == pytest.approx(found[1])
    with pytest.raises(ValueError, match="must name each layer once"):
        certify(nested, X, weights_within={"inner/shared": 0.1, "shared": 0.1})


def test_potentials_and_layers_of_two_kernels_are_no_single_kernel():
    potential = lip.layers.SLLDense(3, name="potential")
    model = keras.Sequential([keras.Input((3,)), potential, layers.Dense(2, name="head")])
    with pytest.raises(ValueError, match="potential. Known: head"):
        certify(model, X, weights_within={"potential": 0.1})
    separable = layers.SeparableConv1D(2, 2, name="separable")
    stack = [layers.Reshape((3, 1)), separable, layers.Flatten(), layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((3,)), *stack])
    with pytest.raises(ValueError, match="must name the layers"):
        certify(model, X, weights_within=0.1)
