"""Quantized models: bounds and certificates of what they compute, or a refusal by name."""

import keras
import numpy as np
import pytest
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

import deel_lip_tf as lip
from deel_lip_tf.errors import UnsupportedLayerError
from tests._oracles.tolerances import SAME_FLOAT32

pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")

WEIGHTS_ALONE = {
    "int8": ("int8", Int8QuantizationConfig(activation_quantizer=None)),
    "int4": ("int4", None),
    "int4 of each output": ("int4", Int4QuantizationConfig(block_size=-1)),
    "int4 in groups": ("int4", Int4QuantizationConfig(block_size=3)),
}


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((7,)),
            keras.layers.Dense(9, "relu", bias_initializer="normal"),
            keras.layers.Dense(5, use_bias=False),
            keras.layers.ReLU(),
            keras.layers.Dense(3, bias_initializer="normal"),
        ]
    )


def quantized(model, name):
    mode, config = WEIGHTS_ALONE[name]
    model.quantize(mode, config=config)
    return model


def linear_parts(model):
    """The matrices that the model multiplies with, found by pushing the identity through it."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.activation, kept = keras.activations.linear, layer.activation
            eye = np.eye(layer.input_spec.axes[-1], dtype="float32")
            found.append(np.asarray(layer(eye) - layer(0 * eye), np.float64))
            layer.activation = kept
    return found


@pytest.mark.parametrize("name", WEIGHTS_ALONE)
def test_the_bound_is_that_of_the_weights_as_they_are_now(name):
    model = network()
    before = lip.lipschitz_bound(model).value
    bound = lip.lipschitz_bound(quantized(model, name))
    norms = [np.linalg.norm(matrix, 2) for matrix in linear_parts(model)]
    found = [entry.value for entry in bound.per_layer if entry.layer_type == "Dense"]
    np.testing.assert_allclose(found, norms, rtol=1e-5)
    [chain] = bound.chains
    assert chain.product == pytest.approx(np.prod(norms), rel=1e-5)
    assert before != bound.value == chain.value < chain.product


@pytest.mark.parametrize("name", WEIGHTS_ALONE)
def test_nothing_is_stretched_by_more_than_the_bound_and_something_by_as_much(name, rng):
    model = quantized(network(1), name)
    bound = lip.lipschitz_bound(model).value
    x, step = rng.normal(size=(2, 500, 7))
    change = np.linalg.norm(model(x + step) - np.asarray(model(x)), axis=1)
    assert (change <= bound * np.linalg.norm(step, axis=1) * (1 + 1e-5)).all()
    head = model.layers[-1]
    [entry] = lip.lipschitz_bound(head).per_layer
    direction = np.linalg.svd(linear_parts(model)[-1])[0][:, 0]
    moved = np.linalg.norm(np.asarray(head(direction[None]) - head(0 * direction[None])))
    assert moved == pytest.approx(entry.value, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "is_local"), [*((name, False) for name in WEIGHTS_ALONE), ("int8", True)]
)
def test_labels_stay_within_the_certified_radius(name, is_local, rng):
    model = quantized(network(2), name)
    x = rng.normal(size=(60, 7)).astype("float32")
    certificates = lip.certify(model, x, local=is_local)
    assert (certificates.radius > 0).mean() > 0.8
    label = np.argmax(model(x), axis=1)
    np.testing.assert_array_equal(certificates.label, label)
    parts = linear_parts(model)
    for _ in range(20):  # random directions, and those of the differences of outputs
        towards = rng.normal(size=(60, 3)) @ parts[2].T @ parts[1].T @ parts[0].T
        step = np.where(rng.random((60, 1)) < 0.5, rng.normal(size=(60, 7)), towards)
        step *= 0.999 * certificates.radius[:, None] / np.linalg.norm(step, axis=1, keepdims=True)
        np.testing.assert_array_equal(np.argmax(model(x + step), axis=1), label)


def test_a_scale_that_is_changed_changes_the_bound():
    model = quantized(network(), "int8")
    before = lip.lipschitz_bound(model).value
    scale = model.layers[-1].kernel_scale
    scale.assign(scale / 3)
    assert lip.lipschitz_bound(model).value == pytest.approx(3 * before, rel=1e-6)


@pytest.mark.parametrize("name", WEIGHTS_ALONE)
def test_scales_count_as_the_layer_reads_them(name):
    """In bfloat16, which has no number between 1 and 1 + 2^-7."""
    layer = keras.layers.Dense(1, use_bias=False, dtype="mixed_bfloat16")
    model = quantized(keras.Sequential([keras.Input((1,)), layer]), name)
    is_divided = len(layer.kernel_scale.shape) == 1
    layer.kernel_scale.assign(keras.ops.full_like(layer.kernel_scale, 1 + 2**-8 * 0.99))
    layer.kernel_scale.assign(layer.kernel_scale + (0 if is_divided else 2**-8 * 0.02))
    attained = abs(float(model(np.ones((1, 1)))[0, 0]))
    assert attained > 0
    assert lip.lipschitz_bound(model).value == pytest.approx(attained, rel=1e-6)


@pytest.mark.parametrize("name", WEIGHTS_ALONE)
def test_low_rank_kernels_beside_integers_are_refused_by_name(name):
    layer = keras.layers.Dense(4, use_bias=False)
    model = quantized(keras.Sequential([keras.Input((4,)), layer]), name)
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.full((2, 4), 100.0))
    with pytest.raises(UnsupportedLayerError, match="LoRA weights are not merged"):
        lip.lipschitz_bound(model)


def test_the_exported_network_is_quantized_and_proven_again(tmp_path):
    model = lip.Sequential([keras.Input((8,)), lip.layers.SpectralDense(8), lip.layers.MaxMin()])
    model.add(lip.layers.SpectralDense(4))
    plain = quantized(model.vanilla_export(), "int8")
    value = lip.lipschitz_bound(plain).value
    assert 1.0 < value < 1.05 and value != pytest.approx(1.0, abs=1e-6)
    plain.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras")
    assert lip.lipschitz_bound(loaded).value == value
    x = np.eye(8, dtype="float32")
    np.testing.assert_allclose(loaded(x), plain(x), **SAME_FLOAT32)


ROUNDING_INPUTS = ("int8", "float8")


@pytest.mark.parametrize("mode", ROUNDING_INPUTS)
@pytest.mark.parametrize("prove", [lip.lipschitz_bound, lambda m: lip.certify(m, np.ones((2, 7)))])
def test_layers_that_round_their_inputs_are_refused_by_name(mode, prove):
    """They jump: no constant bounds them."""
    model = network()
    model.quantize(mode)
    words = rf"Dense: it is quantized \({mode}\), and rounds its inputs.*activation_quantizer=None"
    with pytest.raises(UnsupportedLayerError, match=words):
        prove(model)


def test_a_layer_that_rounds_its_inputs_does_jump():
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    layer.build((None, 2))
    layer.quantize("int8")
    x = np.array([[1.0, 0.5 / 127 * (1 - 1e-4)], [1.0, 0.5 / 127 * (1 + 1e-4)]], np.float32)
    change = abs(float(layer(x)[1, 0] - layer(x)[0, 0]))
    assert change > 100 * np.linalg.norm(x[1] - x[0])


def test_other_layers_and_other_claims_are_refused_by_name():
    layer = keras.layers.EinsumDense("ab,bc->ac", 3)
    model = keras.Sequential([keras.Input((7,)), layer])
    model.quantize("int8", config=Int8QuantizationConfig(activation_quantizer=None))
    with pytest.raises(UnsupportedLayerError, match="EinsumDense: it is quantized.*`Dense` with"):
        lip.lipschitz_bound(model)
    with pytest.raises(UnsupportedLayerError, match='it is quantized: use semantics="real"'):
        lip.certify(quantized(network(), "int8"), np.ones((2, 7)), semantics="float32")
    with pytest.raises(UnsupportedLayerError, match="it is quantized"):
        lip.verify.robustness(quantized(network(), "int8"), np.ones((2, 7)), eps=0.1)
