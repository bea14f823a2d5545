"""Bounds of the checker hold for rational numbers: for weights that cancel, overflow or vanish."""

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the verify extra")

from deel_lip_tf.checking import bounds
from deel_lip_tf.checking.bounds import Bounds, Certificates
from deel_lip_tf.checking.network import Layer


def chain(sizes, rng, scales=(1.0,), dtype=np.float32):
    """Layers, each of another scale, the last one without a ReLU."""
    layers = []
    for k, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        scale = scales[k % len(scales)]
        weight = (scale * rng.normal(size=(after, before))).astype(dtype).astype(np.float64)
        bias = (scale * rng.normal(size=after)).astype(dtype).astype(np.float64)
        layers.append(Layer(weight, bias, k < len(sizes) - 2))
    return layers


def exact(layers, x):
    """What each layer has before its ReLU, in rational numbers."""
    x, found = [Fraction(float(value)) for value in x], []
    for weight, bias, is_relu in layers:
        rows = zip(weight.tolist(), bias.tolist(), strict=True)
        x = [
            sum((Fraction(w) * v for w, v in zip(row, x, strict=True)), Fraction(b))
            for row, b in rows
        ]
        found.append(x)
        x = [max(value, Fraction(0)) for value in x] if is_relu else x
    return found


def cancelling(rng):
    """Outputs of about 1 that are differences of about 1e12."""
    layers = chain((3, 6, 6), rng)
    middle = Layer(np.vstack([layers[1].weight * 1e6] * 2), np.zeros(12), True)
    last = np.hstack([np.full((2, 6), 1e6), np.full((2, 6), -1e6)])
    return [layers[0], middle, Layer(last, np.ones(2))]


NETWORKS = {
    "ordinary": lambda rng: chain((3, 8, 8, 8, 2), rng),
    "no ReLU at first": lambda rng: [
        Layer(np.eye(3), np.array([0.1, 0.2, 0.3])),
        *chain((3, 5, 2), rng),
    ],
    "cancelling": cancelling,
    "large": lambda rng: chain((3, 6, 6, 2), rng, scales=(1e30,)),
    "small": lambda rng: chain((3, 6, 6, 2), rng, scales=(1e-30,)),
    "what vanishes and comes back": lambda rng: chain(
        (3, 5, 5, 2), rng, (1e-200, 1e-200, 1e290), float
    ),
    "zeros": lambda rng: chain((3, 5, 5, 2), rng, scales=(0.0, 1.0)),
}
WIDTHS = (0.0, 1e-15, 1e-3, 2.0)


def boxes(rng, count=6):
    middle = rng.normal(size=(count, 3))
    half = rng.choice(WIDTHS, size=(count, 3)) * rng.random((count, 3))
    return middle - half, middle + half


def bounded(layers, lower, upper, slopes=np.nan, signs=0):
    """The bounds, and what is known of neurons, (n, neurons) twice."""
    neurons = sum(len(layer.bias) for layer in layers if layer.is_relu)
    shape, outputs = (len(lower), neurons), len(layers[-1].bias)
    signs = np.broadcast_to(signs, shape)
    low, high = np.where(signs > 0, 0.0, -np.inf), np.where(signs < 0, 0.0, np.inf)
    rows = np.vstack([np.eye(outputs), -np.eye(outputs)])
    claims = rows[None], np.zeros((1, len(rows)))
    given = np.broadcast_to(np.asarray(slopes), shape), np.arange(neurons), claims
    with np.errstate(all="ignore"):
        return Bounds(layers, lower, upper, low, high, *given), low, high


def lowest(found, layers, slopes=np.nan):
    """Lower bounds of the outputs, and of their negatives, (n, 2 outputs)."""
    bounds, low, high = found
    (count, neurons), rows = low.shape, 2 * len(layers[-1].bias)
    part = np.repeat(np.arange(count), rows)
    shape, none = (len(part), neurons), np.zeros_like(part)
    slopes = np.broadcast_to(np.asarray(slopes), shape)
    given = part, none, none, np.tile(np.eye(rows), (count, 1)), slopes, np.zeros(shape)
    with np.errstate(all="ignore"):
        return bounds.shown(low, high, np.arange(count), Certificates(*given)).reshape(-1, rows)


def is_empty(found):
    """(n,) whether nothing is left of a box."""
    _, low, high = found
    return (low > high).any(axis=1)


def violations(layers, lower, upper, found, rng, slopes=np.nan, points=4):
    """How many exact values at points of the boxes are outside of their bounds."""
    below, count = lowest(found, layers, slopes), 0
    bounds, *known = found
    outputs = len(layers[-1].bias)
    for box, (low, high) in enumerate(zip(lower, upper, strict=True)):
        share = np.vstack([np.round(rng.random((points, 3))), [[0.5] * 3]])
        for x in np.clip(low + share * (high - low), low, high):
            reads = exact(layers, x)
            for part, values in zip(bounds.parts, reads, strict=True):
                least, most = (one[box, part].tolist() for one in known)
                ends = zip(least, values, most, strict=False)
                count += sum(not a <= value <= b for a, value, b in ends)
            pairs = zip(below[box].tolist(), [*reads[-1], *(-v for v in reads[-1])], strict=True)
            count += sum(not bound <= value for bound, value in pairs)
    assert below.shape == (len(lower), 2 * outputs)
    return count


@pytest.mark.parametrize("slopes", [np.nan, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_values_are_between_the_bounds(name, slopes, rng):
    for _ in range(3):
        layers, (lower, upper) = NETWORKS[name](rng), boxes(rng)
        found = bounded(layers, lower, upper, slopes)
        assert not is_empty(found).any()
        assert violations(layers, lower, upper, found, rng, slopes) == 0


class Careless(Bounds):
    """Without its margin for rounding."""

    unit = property(lambda self: 0.0, lambda self, value: None)


@pytest.mark.parametrize(
    "name", ["ordinary", "cancelling", "large", "what vanishes and comes back"]
)
def test_without_the_margins_they_are_not(name, rng, monkeypatch):
    """So the test above sees what float64 rounds, and what underflows."""
    monkeypatch.setattr(bounds, "TINY", 0.0)
    monkeypatch.setattr(bounds, "Bounds", Careless)
    layers, (lower, upper) = NETWORKS[name](rng), boxes(rng, 20)
    upper[::2] = lower[::2]  # a point, where nothing but rounding is left between the bounds
    monkeypatch.setitem(globals(), "Bounds", Careless)
    assert violations(layers, lower, upper, bounded(layers, lower, upper), rng) > 0


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e308])
def test_what_overflows_is_not_bounded(number, rng):
    layers, (lower, upper) = chain((3, 5, 5, 2), rng), boxes(rng)
    for k in range(3):
        layers[k].weight[0, :] = number
        found = bounded(layers, lower, upper)
        assert not (lowest(found, layers)[:, 0] > 0).any() and not is_empty(found).any()


@pytest.mark.parametrize("total", [np.inf, -np.inf, np.nan])
def test_a_sum_that_overflows_is_no_bound(total, rng):
    """Infinity may be all that is left of numbers whose sum is negative."""
    layers, (lower, upper) = chain((3, 5, 2), rng), boxes(rng)
    found = bounded(layers, lower, upper)
    found[0].claims = found[0].claims[0], np.full((1, 4), total)
    assert (lowest(found, layers) == -np.inf).all()


def test_signs_hold_for_the_inputs_that_have_them(rng):
    """Bounds with one sign fixed hold where it is so; a box without such inputs is empty."""
    layers = chain((3, 6, 6, 2), rng)
    lower, upper = np.full((12, 3), -1.0), np.full((12, 3), 1.0)
    signs = np.zeros((12, 12), np.int8)
    signs[np.arange(12), np.arange(12)] = rng.choice([-1, 1], 12)
    found = bounded(layers, lower, upper, signs=signs)
    below, free = lowest(found, layers), bounded(layers, lower, upper)
    assert (below >= lowest(free, layers) - 1e-9).mean() > 0.8 and (
        below > lowest(free, layers)
    ).any()
    for x in rng.uniform(-1, 1, (40, 3)):
        reads = exact(layers, x)
        for neuron in range(12):
            value, sign = reads[neuron // 6][neuron % 6], signs[neuron, neuron]
            if sign * value >= 0:
                assert not is_empty(found)[neuron]
                assert all(b <= v for b, v in zip(below[neuron].tolist(), reads[-1], strict=False))
    always = Layer(np.zeros((1, 3)), np.array([-1.0]), True)
    impossible = bounded([always, Layer(np.ones((1, 1)), np.zeros(1))], lower, upper, signs=1)
    assert is_empty(impossible).all()
