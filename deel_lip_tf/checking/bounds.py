"""Lower bounds of linear functions of a ReLU network on boxes of inputs, rounded outward.

First, each value of a layer lies within `radius` of an affine function of numbers in [-1, 1], one
for each input. Where that leaves a sign open, rows of coefficients are carried back to the inputs:
a ReLU of `z` in [low, high] is at least `slope * z` for any slope in [0, 1], and at most
`chord * z + over` for any chord and `over >= max(-chord * low, (1 - chord) * high)`, because it is
convex; where `sign * z >= 0`, `beta * sign * z` may be subtracted from what is bounded, for any
`beta >= 0`.

Rounding. With u = 2**-53, a float64 sum of n products, in any order, is off by at most
`n u / (1 - n u)` times the sum of their absolute values, and by what underflows. The rows of each
step are float64 numbers and taken as they are. In a layer, with the largest absolute values of
what it reads in `reach`, these are rounded: the product with the bias, that of the rows with the
weights, which `reach` multiplies, those with slopes, that with `over <= reach`, and three sums with
what has come so far. With N the longest product and L layers, they are off by at most
`(3 N + 3 L + 10) u` times `|rows| @ (|weights| @ reach + |bias|)`, added up over all layers. `unit`
is more than that, and leaves enough for the rounding of these sizes themselves; `TINY` times
`1 + sum(reach)` is more than what underflows. What overflows bounds nothing.
"""

import itertools

import numpy as np

TINY = 1e-290


class Bounds:
    """Bounds of all layers on n boxes.

    Args:
        layers: of the network.
        lower: (n, inputs).
        upper: (n, inputs).
        signs: (n, neurons) 1 or -1 where what a neuron reads is at least or at most 0, else 0.
        slopes: (n, neurons) in [0, 1], or NaN for the piece of smaller area.

    Attributes:
        ends: bounds (n, width) by layer, below and above, before its ReLU.
        reach: (n, width) largest absolute values, of the inputs and then before each ReLU.
        is_empty: (n,) whether no input of the box has the signs.
    """

    def __init__(self, layers, lower, upper, signs, slopes):
        self.layers, self.signs = layers, signs
        ends = np.cumsum([0, *(len(layer.bias) * layer.is_relu for layer in layers)])
        self.parts = [slice(*pair) for pair in itertools.pairwise(ends)]
        longest = max(sum(layer.weight.shape) for layer in layers)
        self.unit = 2.0**-51 * (longest + 16 * len(layers) + 64)
        self.middle = 0.5 * lower + 0.5 * upper
        self.half = np.nextafter(np.maximum(upper - self.middle, self.middle - lower), np.inf)
        self.reach, self.base, self.ends = [np.abs(self.middle) + self.half], [], []
        self.lines: list = []  # of ReLUs; None elsewhere
        terms = self.half[:, :, None] * np.eye(self.half.shape[1])
        form = self.middle, terms, np.full_like(self.half, TINY)
        for k, (layer, part) in enumerate(zip(layers, self.parts, strict=True)):
            self.base.append(self.reach[k] @ np.abs(layer.weight).T + np.abs(layer.bias) + TINY)
            form, low, high = self._affine(layer, *form)
            if layer.is_relu:
                np.maximum(low, 0.0, out=low, where=signs[:, part] > 0)
                np.minimum(high, 0.0, out=high, where=signs[:, part] < 0)
                self._tighten(k, low, high)
            self.lines.append(_lines(low, high, slopes[:, part]) if layer.is_relu else None)
            self.reach.append(np.maximum(np.abs(low), np.abs(high)))
            self.ends.append((low, high))
            form = self._bent(*form, *self.lines[k][1:]) if layer.is_relu else form
        self.is_empty = sum((low > high).sum(axis=1) for low, high in self.ends) > 0

    def _affine(self, layer, center, terms, radius):
        """The form of what a layer computes, and its ends."""
        size = np.abs(center) + np.abs(terms).sum(axis=1) + radius
        radius = (radius + self.unit * size) @ np.abs(layer.weight).T
        radius = radius + self.unit * (radius + np.abs(layer.bias)) + TINY
        center, terms = center @ layer.weight.T + layer.bias, terms @ layer.weight.T
        spread = np.abs(terms).sum(axis=1) + radius
        outward = spread + self.unit * (spread + np.abs(center))
        # `fmax` and `fmin` pass over what is not a number.
        low, high = np.fmax(center - outward, -np.inf), np.fmin(center + outward, np.inf)
        return (center, terms, radius), low, high

    def _bent(self, center, terms, radius, chord, over):
        """The form behind a ReLU, which is between `chord * z` and `chord * z + over`."""
        size = np.abs(center) + np.abs(terms).sum(axis=1) + radius + over
        radius = chord * radius + 0.5 * over + self.unit * size + TINY
        return chord * center + 0.5 * over, chord[:, None] * terms, radius

    def _tighten(self, k, low, high):
        """Bounds, carried back, of the neurons of a layer whose sign is open."""
        box, own = np.nonzero((low < 0) & (high > 0))
        weight, bias, size = self.layers[k].weight[own], self.layers[k].bias[own], self.base[k]
        rows, total = np.stack([weight, -weight], axis=1), np.stack([bias, -bias], axis=1)
        found = self.lowest(rows, total, size[box, own][:, None], box)
        low[box, own] = np.maximum(low[box, own], found[:, 0])
        high[box, own] = np.minimum(high[box, own], -found[:, 1])

    def lowest(self, rows, total, size, box=slice(None), betas=None):
        """Lower bounds (b, m) of `rows @ values + total`.

        Args:
            rows: (b, m, width) of the values of the last layer that is bounded, after its ReLU.
            total: (b, m).
            size: (b, m) what the sum of the absolute values of all terms does not exceed.
            box: (b,) the box of each; by default, one of each box.
            betas: (b, neurons), not negative.
        """
        tiny = 1.0 + self.reach[0][box].sum(axis=1)
        for k in reversed(range(len(self.ends))):
            layer, reach = self.layers[k], self.reach[k + 1][box]
            tiny += 1.0 + reach.sum(axis=1)
            if layer.is_relu:
                slope, chord, over = (line[box] for line in self.lines[k])
                positive = np.maximum(rows, 0.0)
                negative = rows - positive
                total = total + np.einsum("bmw,bw->bm", negative, over)
                rows = positive * slope[:, None] + negative * chord[:, None]
                if betas is not None:
                    added = betas[:, self.parts[k]] * self.signs[box, self.parts[k]]
                    rows = rows - added[:, None]
                    size = size + (np.abs(added) * reach).sum(axis=1)[:, None]
            total = total + rows @ layer.bias
            size = size + np.einsum("bmw,bw->bm", np.abs(rows), self.base[k][box])
            rows = np.tensordot(rows, layer.weight, axes=1)
        total = total + np.einsum("bmw,bw->bm", rows, self.middle[box])
        total = total - np.einsum("bmw,bw->bm", np.abs(rows), self.half[box])
        total = total - self.unit * size - TINY * tiny[:, None]
        return np.where(np.isfinite(total), total, -np.inf)


def _lines(low, high, slopes):
    """The slope below each ReLU, that of its chord, and what the chord is at 0."""
    is_open = ~((low >= 0) | (high <= 0))
    slope = np.where(np.isnan(slopes), high > -low, slopes)
    chord = np.where(is_open, high / (high - low), low >= 0)
    over = np.maximum(-chord * low, (1.0 - chord) * high) * (1.0 + 2.0**-50) + TINY
    return np.where(is_open, slope, low >= 0), chord, np.where(is_open, over, 0.0)
