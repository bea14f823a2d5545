"""Weights of PyTorch: against what deel-torchlip computed, and against sums written with loops.

`torchlip.npz` was written by deel-torchlip 1.0.5: the state of a network that was trained for 20
steps, that of its vanilla export, five inputs and what it computes of them.
"""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import deel_lip_tf as lip
from deel_lip_tf.model import load_torch_weights

pytestmark = pytest.mark.usefixtures("keras_in_float64")
WRITTEN = Path(__file__).with_name("torchlip.npz")


@pytest.fixture(scope="module")
def written():
    with np.load(WRITTEN) as archive:
        return {name: archive[name] for name in archive.files}


def state(written, kind):
    return {k.removeprefix(kind): v for k, v in written.items() if k.startswith(kind)}


def network(first, second, dense, last):
    """The network of the file, between other kernels; of deel-torchlip's layers elsewhere."""
    return keras.Sequential(
        [
            keras.Input((6, 4, 2)),
            *first,
            lip.layers.BatchCentering(),
            lip.layers.GroupSort2(),
            lip.layers.ScaledL2NormPooling2D(2),
            second,
            lip.layers.Householder(),
            lip.layers.LayerCentering(axis=(1, 2)),
            lip.layers.BatchLipNorm(normalize=True),
            layers.Flatten(),
            dense,
            lip.layers.PReLUlip(),
            last,
        ]
    )


def test_exported_weights_in_plain_layers_compute_what_the_network_computes(written):
    plain = lip.layers.PadConv2D(6, 3, padding="circular")
    model = network([plain], layers.Conv2D(4, 3, padding="same"), layers.Dense(8), layers.Dense(3))
    load_torch_weights(model, state(written, "exported/"))
    found = model(np.moveaxis(written["x"], 1, -1))
    np.testing.assert_allclose(found, written["y"], rtol=1e-4, atol=1e-5)
    assert np.ptp(written["y"]) > 0.1


@pytest.mark.parametrize("kind", ["raw/", "exported/"])
def test_constrained_layers_have_the_kernels_of_the_network(written, kind):
    """Convolutions up to their factor, which here is that of the size of the image."""
    model = network(
        [lip.layers.SpectralConv2D(6, 3, padding="circular")],
        lip.layers.SpectralConv2D(4, 3),
        lip.layers.SpectralDense(8),
        lip.layers.FrobeniusDense(3),
    )
    load_torch_weights(model, state(written, kind))
    exported = state(written, "exported/")
    # Björck's iteration of theirs stops where singular values are within 1e-3 of 1
    dense = np.asarray(model.layers[-3].effective_kernel())
    rows = exported["9.weight"].reshape(8, 4, 3, 2)  # channels first
    np.testing.assert_allclose(
        dense.reshape(3, 2, 4, 8), np.transpose(rows, (2, 3, 1, 0)), atol=5e-3
    )
    head = np.asarray(model.layers[-1].effective_kernel())
    np.testing.assert_allclose(head, exported["11.weight"].T, atol=1e-5)
    for layer, name in ((model.layers[0], "0.weight"), (model.layers[4], "4.weight")):
        kernel = np.asarray(layer.effective_kernel())
        theirs = np.transpose(exported[name], (2, 3, 1, 0))
        np.testing.assert_allclose(
            kernel / np.linalg.norm(kernel), theirs / np.linalg.norm(theirs), atol=5e-3
        )


def cross_correlation(x, weight, bias):
    """(channels, *sizes) of one image, without padding, as PyTorch defines it."""
    sizes = [n - k + 1 for n, k in zip(x.shape[1:], weight.shape[2:], strict=True)]
    out = np.zeros((len(weight), *sizes))
    for place in itertools.product(*map(range, sizes)):
        window = tuple(slice(p, p + k) for p, k in zip(place, weight.shape[2:], strict=True))
        patch = x[(slice(None), *window)]
        out[(slice(None), *place)] = np.tensordot(weight, patch, patch.ndim) + bias
    return out


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("flattens_first", [False, True])
def test_convolution_flatten_and_dense(rng, rank, data_format, flattens_first):
    sizes = (5, 4, 3)[:rank]
    weight, bias = rng.normal(size=(4, 2, *[2] * rank)), rng.normal(size=4)
    entries = 4 * np.prod([n - 1 for n in sizes])
    head, offset = rng.normal(size=(3, entries)), rng.normal(size=3)
    x = rng.normal(size=(2, *sizes))
    expected = head @ cross_correlation(x, weight, bias).ravel() + offset

    is_first = data_format == "channels_first"
    convolution = getattr(layers, f"Conv{rank}D")(4, 2, data_format=data_format, dtype="float64")
    flatten = layers.Flatten(
        data_format="channels_first" if flattens_first else None, dtype="float64"
    )
    if flattens_first and not is_first:
        flatten = layers.Reshape((-1,), dtype="float64")
    inputs = keras.Input(x.shape if is_first else (*sizes, 2), dtype="float64")
    model = keras.Sequential([inputs, convolution, flatten, layers.Dense(3, dtype="float64")])
    given = {"0.weight": weight, "0.bias": bias, "2.weight": head, "2.bias": offset}
    load_torch_weights(model, given)
    if is_first:  # which TensorFlow's CPU does not compute: its adjoint in the other order
        model = in_the_other_order(model, sizes)
    image = np.moveaxis(x, 0, -1)[None]
    np.testing.assert_allclose(model(image)[0], expected, rtol=1e-10)


def in_the_other_order(model, sizes):
    """The same function of images with their channels last."""
    convolution, flatten, dense = model.layers
    plain = type(convolution)(4, 2, dtype="float64", data_format="channels_last")
    inputs = keras.Input((*sizes, 2), dtype="float64")
    rank = len(sizes)
    order = (rank + 1, *range(1, rank + 1))
    first = layers.Permute(order, dtype="float64")(plain(inputs))
    copy = layers.Dense(3, dtype="float64")
    flat = layers.Flatten(data_format=flatten.data_format, dtype="float64")(first)
    found = keras.Model(inputs, copy(flat))
    plain.set_weights(convolution.get_weights())
    copy.set_weights(dense.get_weights())
    return found


def test_transposed_convolution(rng):
    weight, bias = rng.normal(size=(2, 3, 3, 3)), rng.normal(size=3)  # inputs before outputs
    x = rng.normal(size=(2, 4, 3))
    expected = np.zeros((3, 9, 7)) + bias[:, None, None]
    for c, o, i, j in itertools.product(range(2), range(3), range(4), range(3)):
        expected[o, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += x[c, i, j] * weight[c, o]
    layer = layers.Conv2DTranspose(3, 3, strides=2, dtype="float64")
    model = keras.Sequential([keras.Input((4, 3, 2), dtype="float64"), layer])
    load_torch_weights(model, {"weight": weight, "bias": bias})
    found = np.moveaxis(np.asarray(model(np.moveaxis(x, 0, -1)[None])[0]), -1, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_depthwise_convolution(rng):
    weight, x = rng.normal(size=(6, 1, 2, 2)), rng.normal(size=(3, 4, 5))
    one = [cross_correlation(x[[i // 2]], weight[[i]], 0.0)[0] for i in range(6)]
    layer = layers.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False, dtype="float64")
    model = keras.Sequential([keras.Input((4, 5, 3), dtype="float64"), layer])
    load_torch_weights(model, {"0.weight": weight})
    found = np.moveaxis(np.asarray(model(np.moveaxis(x, 0, -1)[None])[0]), -1, 0)
    np.testing.assert_allclose(found, np.stack(one), rtol=1e-10)


def test_normalization_and_slopes(rng):
    x = rng.normal(size=(4, 3))
    scale, shift, mean, slopes = rng.normal(size=(4, 3))
    variance = rng.random(3) + 0.5
    expected = (x - mean) / np.sqrt(variance + 1e-3) * scale + shift
    expected = np.where(expected > 0, expected, slopes * expected)
    model = keras.Sequential(
        [keras.Input((3,), dtype="float64")]
        + [layers.BatchNormalization(dtype="float64"), layers.PReLU(dtype="float64")]
    )
    given = {"0.weight": scale, "0.bias": shift, "0.running_mean": mean}
    given |= {"0.running_var": variance, "0.num_batches_tracked": np.array(7), "1.weight": slopes}
    load_torch_weights(model, given)
    np.testing.assert_allclose(model(x), expected, rtol=1e-10)


def test_slopes_of_channels_and_of_activations_inside_layers(rng):
    slopes = rng.random(2)
    layer = lip.layers.SpectralConv2D(2, 1, activation=lip.layers.PReLUlip())
    model = keras.Sequential([keras.Input((3, 4, 2)), layer])
    given = {"0.weight": np.eye(2)[:, :, None, None], "0.bias": np.zeros(2), "1.weight": slopes}
    load_torch_weights(model, given)
    found = model(-np.ones((1, 3, 4, 2)))
    np.testing.assert_allclose(found, np.broadcast_to(-slopes, (1, 3, 4, 2)), rtol=1e-5)


def test_residuals_and_nested_models():
    x = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    model = keras.Model(x, lip.layers.LipResidual()([x, inner(x)]))
    given = {"inner.weight": 3 * np.eye(2), "inner.bias": np.zeros(2), "alpha": np.zeros(())}
    load_torch_weights(model, given)
    np.testing.assert_allclose(model(np.ones((1, 2))), [[2.0, 2.0]], rtol=1e-6)


def test_older_names_of_raw_kernels():
    model = keras.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2)])
    given = {"0.bias": np.zeros(2), "0.weight_orig": np.array([[0.0, 5.0], [5.0, 0.0]])}
    load_torch_weights(model, given | {"0.weight_u": np.ones(2), "0.weight_v": np.ones(2)})
    np.testing.assert_allclose(model(np.array([[1.0, 2.0]])), [[2.0, 1.0]], rtol=1e-5)


DENSE = {"0.weight": np.ones((3, 2)), "0.bias": np.zeros(3)}
REFUSED = {
    "another number": ({**DENSE, "1.weight": np.ones((3, 3))}, ValueError, "2 modules, '0'"),
    "another size": (
        {"0.weight": np.ones((2, 3)), "0.bias": np.zeros(3)},
        ValueError,
        "transposed",
    ),
    "no bias": ({"0.weight": np.ones((3, 2))}, ValueError, "has no `bias`"),
    "too much": ({**DENSE, "0.scale": np.ones(3)}, ValueError, "no place for scale"),
    "a raw kernel": (
        {"0.bias": np.zeros(3), "0.parametrizations.weight.original": np.ones((3, 2))},
        ValueError,
        r"`vanilla_export\(\)`",
    ),
    "no mapping": ([np.ones((3, 2))], TypeError, "a mapping"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(name):
    given, error, words = REFUSED[name]
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    before = model.get_weights()
    with pytest.raises(error, match=words):
        load_torch_weights(model, given)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_depends_on_the_order_after_a_flatten_is_refused():
    parts = [layers.Flatten(), lip.layers.GroupSort2(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((2, 2, 2)), *parts])
    with pytest.raises(ValueError, match="flattens channels first, and what 'group_sort2"):
        load_torch_weights(model, {"2.weight": np.ones((3, 8)), "2.bias": np.zeros(3)})


def test_layers_that_pytorch_does_not_know_are_refused():
    model = keras.Sequential([keras.Input((2,)), lip.layers.LipschitzSpline()])
    with pytest.raises(ValueError, match="nothing is known of LipschitzSpline"):
        load_torch_weights(model, {"0.weight": np.ones(2)})
