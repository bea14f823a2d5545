"""The registry of rules: each kind of layers is known to every analysis, or it is said why not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deel_lip_tf import layers as lip
from deel_lip_tf.bounds import lipschitz_bound
from deel_lip_tf.certificates.roundings import check_operation
from deel_lip_tf.compute_layer_sv import compute_layer_sv
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import graph_of
from deel_lip_tf.semantics.rule import Rule, registered, rule, rule_for
from deel_lip_tf.semantics.rules import convolution
from deel_lip_tf.semantics.rules.wrappers import Wrapper
from tests._oracles.oracles import matrix_of
from tests._tables import cases, verify_cases

RULES = registered()
LAYERS = [kind for kind in RULES if isinstance(kind, type)]
OPERATIONS = [kind for kind in RULES if isinstance(kind, str)]

# --- rows of tests ------------------------------------------------------------------------------

WITHOUT_A_ROW = {
    layers.InputLayer: "it is called by no model",
    layers.Softmax: "where it is not the end of a model, verification has no rule; test_rule.py",
    layers.MaxPooling3D: "no float64 kernel on a CPU; ir/test_lowering.py",
    layers.AveragePooling3D: "likewise",
    layers.Multiply: "it has no constant; test_propagation.py",
    layers.Dot: "likewise",
    "Cast": "it computes nothing; test_nested_models.py",
    "Divide": "Keras makes it of `ops.divide` alone; `x / 2` is `TrueDivide`",
    "Split": "it has several outputs; test_propagation.py",
}
ROWS = verify_cases.KERAS + verify_cases.ACTIVATION_LAYERS + verify_cases.OPERATIONS
ROWS += verify_cases.LIBRARY[-7:]  # those that are not in `cases.LAYERS`


def with_inner(operation):
    """A layer or operation, and the layers inside it."""
    parts = (operation, getattr(operation, "layer", None), getattr(operation, "activation", None))
    return [part for part in parts if part is not None]


@pytest.fixture(scope="module")
def in_tables():
    """The kinds of layers and operations that the rows of the tests are made of."""
    found = {case.cls for case in cases.LAYERS}
    for row in ROWS:
        x = keras.Input(row.shape, dtype="float64")
        for call in graph_of(keras.Model(x, row.apply(x))).calls:
            for part in with_inner(call.operation):
                found.add(type(part))
                found.add(type(part).__name__ if not isinstance(part, layers.Layer) else None)
    return found


def test_every_kind_has_a_row_or_a_reason(in_tables):
    refused = {kind for kind in LAYERS if RULES[kind].knows("reason") and is_refused(RULES[kind])}
    assert set(RULES) - in_tables - refused == set(WITHOUT_A_ROW)


_CONSTANTS = ("lipschitz", "operators", "potential", "recurrence", "merge")


def is_refused(known):
    """Whether a kind has no bound whatever its arguments are."""
    return not any(known.knows(name) for name in _CONSTANTS)


# --- answers ------------------------------------------------------------------------------------


def test_every_layer_has_a_bound_or_a_reason():
    for kind in LAYERS:
        known = RULES[kind]
        is_answered = not is_refused(known) or isinstance(known, Wrapper)
        assert is_answered or known.knows("reason"), kind


ANSWERS = ("rounding", "operators", "potential", "recurrence")
WITHOUT_FLOAT32 = {
    layers.Multiply: "it has no constant",
    layers.Dot: "likewise",
    layers.TimeDistributed: "no rule is written yet",
    layers.SpectralNormalization: "likewise",
    "Tanh": "which functions the program computes with is not known of an operation",
    "Sigmoid": "likewise",
    "LeakyRelu": "likewise",
    "Cast": "it rounds to another type",
}


def test_every_kind_with_a_bound_has_a_float32_rule_or_a_reason():
    missing = {
        kind
        for kind, known in RULES.items()
        if not any(known.knows(name) for name in ANSWERS)
        if not is_refused(known) or isinstance(known, Wrapper)
    }
    assert missing == set(WITHOUT_FLOAT32)


@pytest.mark.parametrize("kind", [k for k in WITHOUT_FLOAT32 if not isinstance(k, str)])
def test_what_has_no_float32_rule_is_refused(kind):
    arguments = () if kind in (layers.Multiply, layers.Dot) else (layers.Dense(2),)
    layer = kind(*arguments, **({"axes": 1} if kind is layers.Dot else {}))
    with pytest.raises(UnsupportedLayerError, match="no float32 rule"):
        check_operation(layer)


# A local certificate goes back through these, and stops where the gradient is not of this form.
GRADIENTS = {
    "kernel": {layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D},
    "scale": {
        layers.Rescaling,
        layers.Normalization,
        layers.BatchNormalization,
        lip.ScaleBias,
        lip.BatchCentering,
    },
}


def test_local_certificates_pass_through_what_they_can():
    kinds = {one: {k for k in LAYERS if RULES[k].gradient == one} for one in GRADIENTS}
    assert kinds == GRADIENTS


# Of these two a CPU computes nothing in float64.
NOT_COMPUTED = (layers.InputLayer, layers.AveragePooling3D)
AVERAGING = [kind for kind in LAYERS if RULES[kind].gradient == "average"]


@pytest.mark.parametrize("kind", [kind for kind in AVERAGING if kind not in NOT_COMPUTED])
def test_averages_have_no_negative_entries(kind):
    """Nor an offset: what local certificates take for granted of them."""
    shape, arguments = _AVERAGES.get(kind, ((4, 4, 2), {}))
    layer = kind(**arguments, dtype="float64")
    x = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    mode = {} if kind not in verify_cases.AUGMENTATIONS else {"training": False}
    assert np.asarray(layer(x, **mode)).min() >= 0.0
    assert not np.asarray(layer(0.0 * x, **mode)).any()


_VOLUME, _SEQUENCE = (2, 2, 2, 1), (4, 2)
_AVERAGES = {
    **{kind: ((4, 4, 3), arguments) for kind, arguments in verify_cases.AUGMENTATIONS.items()},
    lip.FirstChannels: ((4, 4, 2), dict(n=1)),
    lip.PadChannels: ((4, 4, 2), dict(n=3)),
    layers.Dropout: ((4,), dict(rate=0.5)),
    layers.SpatialDropout1D: (_SEQUENCE, dict(rate=0.5)),
    layers.SpatialDropout2D: ((4, 4, 2), dict(rate=0.5)),
    layers.SpatialDropout3D: (_VOLUME, dict(rate=0.5)),
    layers.AlphaDropout: ((4,), dict(rate=0.5)),
    layers.GaussianDropout: ((4,), dict(rate=0.5)),
    layers.GaussianNoise: ((4,), dict(stddev=0.5)),
    layers.Reshape: ((4, 4, 2), dict(target_shape=(8, 4))),
    layers.Permute: ((4, 4, 2), dict(dims=(3, 1, 2))),
    layers.ZeroPadding1D: (_SEQUENCE, {}),
    layers.ZeroPadding3D: (_VOLUME, {}),
    layers.Cropping1D: (_SEQUENCE, {}),
    layers.Cropping2D: ((4, 4, 2), dict(cropping=1)),
    layers.Cropping3D: ((3, 3, 3, 1), {}),
    layers.UpSampling1D: (_SEQUENCE, {}),
    layers.UpSampling3D: (_VOLUME, {}),
    layers.AveragePooling1D: (_SEQUENCE, dict(pool_size=2)),
    layers.AveragePooling2D: ((4, 4, 2), dict(pool_size=2)),
    layers.GlobalAveragePooling1D: (_SEQUENCE, {}),
    layers.GlobalAveragePooling3D: (_VOLUME, {}),
    lip.InvertibleDownSampling: ((4, 4, 2), dict(pool_size=2)),
    lip.SpatialShift2D: ((4, 4, 5), dict(padding="zero", share=0.2)),
}


@pytest.mark.parametrize("case", cases.UNCONSTRAINED, ids=str)
def test_layers_without_a_kernel_have_singular_values(case):
    layer = case.make()
    layer.build((None, *case.shape))
    smallest, largest = compute_layer_sv(layer)
    assert smallest <= largest <= lipschitz_bound(layer).value


@pytest.mark.parametrize(
    ("equation", "output_shape", "shape"),
    [("abc,cd->abd", (3, 4), (3, 2)), ("abc,bcd->abd", (3, 2), (3, 4)), ("ab,bcd->acd", (3, 2), 5)],
)
def test_singular_values_of_einsum_dense(equation, output_shape, shape, rng):
    shape = shape if isinstance(shape, tuple) else (shape,)
    layer = layers.EinsumDense(equation, output_shape, dtype="float64")
    layer.build((None, *shape))
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    values = np.linalg.svd(matrix_of(layer, shape), compute_uv=False)
    np.testing.assert_allclose(compute_layer_sv(layer), (values.min(), values.max()), rtol=1e-10)


# --- the registry -------------------------------------------------------------------------------


def test_a_kind_is_registered_once():
    with pytest.raises(ValueError, match=r"has a rule already, Direct.*Received: Second"):

        @rule(layers.Conv2D)
        class Second(Rule):
            pass

    assert isinstance(rule_for(layers.Conv2D(1, 1)), convolution.Direct)


@pytest.mark.parametrize("case", {case.cls: case for case in cases.CONSTRAINED}.values(), ids=str)
def test_a_constrained_layer_has_the_rule_of_its_export(case):
    layer = case.make()
    layer.build((None, *case.shape))
    exported = layer.vanilla_export()
    known = rule_for(layer)
    # A padding or a fold that Keras has not got stands beside it.
    assert known in map(rule_for, getattr(exported, "layers", [exported]))
    assert known.knows("operators")


class Subclass(layers.ReLU):
    """Of a layer of Keras."""


class Constrained(lip.SpectralDense):
    """Of a constrained layer."""


class Add(keras.Operation):
    """Of no relation to Keras's."""


@pytest.mark.parametrize(
    "made",
    [Subclass(), Constrained(2), Add(), object(), None],
    ids=lambda made: type(made).__name__,
)
def test_what_is_not_of_an_exact_type_is_unknown(made):
    assert type(rule_for(made)) is Rule


def test_an_operation_is_known_by_its_name():
    x = keras.Input((3,))
    (call,) = graph_of(keras.Model(x, ops.maximum(x, 0.5))).calls
    assert rule_for(call.operation) is RULES["Maximum"]
    assert rule_for(call.operation) is not RULES[layers.Maximum]
