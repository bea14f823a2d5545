"""Exports become LiteRT (TensorFlow Lite) models of built-in operators alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from deel_lip_tf import Sequential, bounds, certificates, layers
from tests._oracles import exports
from tests._oracles.tolerances import SAME_FLOAT32
from tests._tables.cases import ACTIVATIONS, LAYERS, POOLINGS, RECURRENT, Case

lite = getattr(tf, "lite", None)
pytestmark = pytest.mark.skipif(
    not (hasattr(lite, "TFLiteConverter") and hasattr(lite, "Interpreter")),
    reason="this TensorFlow comes without LiteRT",
)

CHANNELS_FIRST = [
    Case(cls, dict(data_format="channels_first"), (6, 4, 3))
    for cls in (layers.GroupSort2, layers.FullSort, layers.MaxMin, layers.Householder)
]
PAIRS = [
    Case(layers.GroupSort, dict(n=2)),
    Case(layers.GroupSort2, dict(k_coef_lip=0.5), (70, 60, 4)),
    Case(layers.SpectralDense, dict(units=4, activation=layers.GroupSort2())),
]


BUILT_IN = {"supported_ops": [lite.OpsSet.TFLITE_BUILTINS]} if lite else {}


def model_of(case):
    return Sequential([keras.Input(case.shape), case.make()], k_coef_lip=0.7)


def outputs_of(content, x):
    interpreter = lite.Interpreter(model_content=content)
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(wanted["index"])


@pytest.mark.parametrize("case", [*POOLINGS, *ACTIVATIONS, *CHANNELS_FIRST, *PAIRS], ids=str)
def test_an_export_computes_the_same(case, tmp_path, rng):
    model = model_of(case)
    model.vanilla_export().export(tmp_path, verbose=False)
    content = lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    x = rng.normal(size=(3, *case.shape)).astype("float32")
    np.testing.assert_allclose(outputs_of(content, x), model(x), **SAME_FLOAT32)


def test_so_does_a_model_that_was_not_exported(rng):
    model = model_of(PAIRS[-1])
    x = rng.normal(size=(3, 8)).astype("float32")
    content = lite.TFLiteConverter.from_keras_model(model).convert()
    np.testing.assert_allclose(outputs_of(content, x), model(x), **SAME_FLOAT32)


def test_a_file_takes_batches_of_every_size(rng, tmp_path):
    model, path = model_of(PAIRS[-1]), tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = lite.Interpreter(str(path))
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [-1, 8]
    run = interpreter.get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    for size in (1, 5, 2):
        x = rng.normal(size=(size, 8)).astype("float32")
        np.testing.assert_allclose(run(**{name: x})["output_0"], model(x), **SAME_FLOAT32)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not a 1-Lipschitz layer")
@pytest.mark.parametrize(
    ("shape", "cases"),
    exports.by_shape([case for case in LAYERS if case not in RECURRENT[:1]]),  # not unrolled
    ids=lambda x: str(x)[:9],
)
def test_the_export_of_every_layer_computes_the_same(shape, cases, rng, tmp_path):
    model = exports.model_of(cases, rng)
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False, target_spec=BUILT_IN)
    x = rng.normal(size=(3, *shape)).astype("float32")
    run = lite.Interpreter(str(path)).get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    found = run(**{name: x})
    wanted = exports.outputs_of(model, x)
    assert len(found) == len(wanted)
    for index, (case, mine) in enumerate(zip(cases, wanted, strict=True)):
        theirs = found[f"output_{index}"]
        np.testing.assert_allclose(theirs, mine, **SAME_FLOAT32, err_msg=str(case))


# --- rounded weights ------------------------------------------------------------------------------

HALVES = {**BUILT_IN, "supported_types": [tf.float16]}


def written(model, path, **settings):
    """The content of a LiteRT file of rounded weights."""
    smaller = [lite.Optimize.DEFAULT]
    model.export(path, format="litert", verbose=False, optimizations=smaller, **settings)
    return path.read_bytes()


@pytest.fixture
def network():
    activation = dict(activation=layers.GroupSort2())
    convolution = layers.SpectralConv2D(8, 3, **activation)
    pooling = layers.ScaledL2NormPooling2D()
    head = layers.SpectralDense(32, **activation), layers.SpectralDense(5)
    body = [keras.Input((12, 12, 2)), convolution, pooling, keras.layers.Flatten(), *head]
    return Sequential(body)


def test_a_model_of_rounded_weights_has_its_own_bound(network, rng, tmp_path):
    """Weights in float16, computed with in float32: the file is the model with these weights."""
    x = rng.normal(size=(6, 12, 12, 2)).astype("float32")
    path = tmp_path / "halves.tflite"
    rounded = network.vanilla_export()
    rounded.set_weights([weight.astype("float16") for weight in rounded.get_weights()])
    content = written(rounded, path, target_spec=HALVES)
    assert len(content) < 4 * sum(weight.size for weight in rounded.get_weights())
    outputs = outputs_of(content, x)
    np.testing.assert_allclose(outputs, rounded(x), **SAME_FLOAT32)
    assert np.abs(outputs - network(x)).max() > 2e-5
    with pytest.raises(ValueError, match="Where weights are rounded, certify the model with"):
        certificates.export_certificate(network, path)
    certificate = certificates.export_certificate(rounded, path)
    assert certificate.bound == bounds.lipschitz_bound(rounded)
    assert certificate.bound.value != bounds.lipschitz_bound(network).value


def whole(rng):
    """Settings of weights, inputs and outputs of layers in int8."""
    x = rng.normal(size=(20, 1, 12, 12, 2)).astype("float32")
    only_int8 = {"supported_ops": [lite.OpsSet.TFLITE_BUILTINS_INT8]}
    return dict(representative_dataset=lambda: ([one] for one in x), target_spec=only_int8)


@pytest.mark.parametrize("settings", [lambda rng: {"target_spec": BUILT_IN}, whole])
def test_a_program_that_rounds_inputs_of_layers_has_none(settings, network, rng, tmp_path):
    """int8 converts with built-in operators, is near the model, and is not covered."""
    path = tmp_path / "int8.tflite"
    plain = network.vanilla_export()
    content = written(plain, path, **settings(rng))
    x = rng.normal(size=(6, 12, 12, 2)).astype("float32")
    difference = np.abs(outputs_of(content, x) - plain(x))
    assert 1e-4 < difference.max() < 0.1 * np.abs(plain(x)).max()
    with pytest.raises(ValueError, match="as by int8 LiteRT, no certificate covers the program"):
        certificates.export_certificate(plain, path)
