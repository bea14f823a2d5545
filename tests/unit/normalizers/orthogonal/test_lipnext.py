"""Channels that are rotated, shifted, rotated back and mixed, against these steps in NumPy."""

import numpy as np
import pytest
from keras import ops

from deel_lip_tf import layers
from deel_lip_tf.normalizers import LipNeXt, Operation
from deel_lip_tf.normalizers.orthogonal import lipnext
from tests._oracles import oracles
from tests._oracles.tolerances import SOUND
from tests._tables.cases import PADDINGS


def polar(matrix):
    left, _, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return left @ right


def drawn(shapes, rng):
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def moved(x, axis, by, padding):
    """Each entry at the place of the one `by` pixels before it along an axis."""
    if padding == "circular":
        return np.roll(x, by, axis)
    y = np.zeros_like(x)
    size = x.shape[axis]
    to = [slice(None)] * x.ndim
    taken = list(to)
    to[axis], taken[axis] = (
        slice(max(by, 0), size + min(by, 0)),
        slice(max(-by, 0), size - max(by, 0)),
    )
    y[tuple(to)] = x[tuple(taken)]
    return y


@pytest.mark.parametrize("padding", ["circular", "same"])
@pytest.mark.parametrize(("size", "share"), [((3, 3), 0.25), ((3, 5), 0.2), ((5, 1), 0.1)])
@pytest.mark.parametrize("outputs", [4, 10])
def test_it_is_the_steps_of_the_source(padding, size, share, outputs, rng):
    operation = Operation(size, (1, 1), padding, (6, 5))
    shapes = LipNeXt(share).weights_for(operation, (*size, 10, outputs))
    weights = drawn(shapes, rng)
    kernel = np.asarray(LipNeXt(share).projected(weights, operation).kernel)
    x = rng.normal(size=(2, 6, 5, 10))
    rotation, mixing = polar(weights["rotation"]), polar(weights["kernel"][0, 0])
    rotated, count = x @ rotation, int(share * 10)
    for group, (axis, sign) in enumerate([(1, 1), (1, -1), (2, 1), (2, -1)]):
        part = slice(group * count, (group + 1) * count)
        by = sign * (size[axis - 1] // 2)
        rotated[..., part] = moved(rotated[..., part], axis, by, padding)
    found = oracles.convolution(x, kernel, (1, 1), padding)
    np.testing.assert_allclose(found, rotated @ rotation.T @ mixing, atol=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_no_weights_exceed_1(padding, scale, rng):
    operation = Operation((3, 3), (1, 1), padding, (4, 3))
    shapes = LipNeXt(0.25).weights_for(operation, (3, 3, 4, 7))
    for rank in (1, 4):  # of the raw matrices: singular ones make no orthogonal kernel
        weights = drawn(shapes, rng)
        weights = {
            name: scale * w @ w[..., :rank, :].swapaxes(-1, -2) @ w[..., :rank, :]
            if name == "rotation"
            else scale * w
            for name, w in weights.items()
        }
        projected = LipNeXt(0.25).projected(weights, operation)
        kernel = np.asarray(projected.kernel, np.float64) / projected.bound
        matrix = oracles.matrix_of(
            lambda x, k=kernel: oracles.convolution(x, k, (1, 1), padding), (4, 3, 4)
        )
        assert oracles.spectral_norm(matrix) <= SOUND


def test_its_rounding_stays_below_1(monkeypatch):
    """At the frequencies of a grid; without the slack some exceed 1."""
    operation = Operation((3, 3), (1, 1), "circular", (8, 8))

    def largest():
        norms = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            weights = drawn(LipNeXt().weights_for(operation, (3, 3, 32, 32)), rng)
            kernel = np.asarray(LipNeXt().projected(weights, operation).kernel, np.float64)
            symbols = np.fft.fft2(kernel, (8, 8), axes=(0, 1))
            norms.append(np.linalg.svd(symbols, compute_uv=False).max())
        return max(norms)

    assert 1 - 1e-5 <= largest() <= 1
    monkeypatch.setattr(lipnext, "slack", lambda width, factors: -16.0)
    assert largest() > 1


@pytest.mark.parametrize(
    ("share", "arguments", "message"),
    [
        (0.25, dict(kernel_size=(3, 2)), "odd kernel size"),
        (0.25, dict(kernel_size=3, strides=2), "strides=1"),
        (0.1, dict(kernel_size=3), "a channel in each of 4 groups"),
        (0.3, dict(kernel_size=3), "a channel in each of 4 groups"),
    ],
)
def test_what_it_does_not_know_is_refused(share, arguments, message):
    layer = layers.SpectralConv2D(4, **arguments, parametrization=LipNeXt(share))
    with pytest.raises(ValueError, match=message):
        layer.build((None, 6, 6, 8))


@pytest.mark.parametrize("share", [0.0, 0.6, "1"])
def test_a_share_is_a_number(share):
    with pytest.raises((TypeError, ValueError), match="`share`"):
        LipNeXt(share)


def test_retracted_weights_make_the_same_kernel(rng):
    operation = Operation((3, 3), (1, 1), "circular", (8, 8))
    weights = drawn(LipNeXt().weights_for(operation, (3, 3, 16, 16)), rng)
    method = LipNeXt()
    kernel = ops.convert_to_numpy(method.projected(weights, operation).kernel)
    again = method.projected(method.retracted(weights, operation), operation).kernel
    np.testing.assert_allclose(ops.convert_to_numpy(again), kernel, atol=1e-4)
