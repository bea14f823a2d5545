"""Lower bounds of linear functions of a ReLU network on parts of boxes of inputs, rounded outward.

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
`(3 N + 3 L + 10) u` times `|rows| @ (|weights| @ reach + |bias|)`, added up over all layers, where
rows count without and with what is added to them. `unit` is more than that, and leaves enough for
the rounding of these sizes themselves; `TINY` times `1 + sum(reach)` is more than what underflows.
What overflows bounds nothing.
"""

import itertools
from typing import NamedTuple

import numpy as np

TINY = 1e-290
_BLOCK = 2**19  # entries of rows that are carried back together


class Certificates(NamedTuple):
    """Linear functions, each on one of n parts of boxes, and what bounds them from below.

    A function is a sum of rows of the outputs, to which what a neuron reads, or its negative, may
    be added. Whatever slopes and multipliers are, the bound holds.

    Attributes:
        part: (b,) on which part.
        theorem: (b,) whose rows.
        target: (b,) 1 or -1 times the number of the neuron, counted from 1; 0 for none.
        multipliers: (b, rows), not negative.
        slopes: (b, columns) in [0, 1], or NaN for the piece of smaller area.
        betas: (b, columns), not negative.
    """

    part: np.ndarray
    theorem: np.ndarray
    target: np.ndarray
    multipliers: np.ndarray
    slopes: np.ndarray
    betas: np.ndarray

    def of(self, index) -> "Certificates":
        """Some of them."""
        return Certificates(*(one[index] for one in self))


class Bounds:
    """Bounds of all layers on n boxes.

    Args:
        layers: of the network.
        lower: (n, inputs).
        upper: (n, inputs).
        low: (n, neurons) what neurons read, before their ReLU, is known to be at least: raised.
        high: (n, neurons) at most: lowered. Where they cross, nothing is left of a box.
        slopes: (n, columns) as those of certificates.
        columns: (columns,) which neurons those are; of others slopes are NaN and betas 0.
        claims: rows of theorems, (theorems, rows, outputs) and (theorems, rows).
        lemmas: certificates about neurons that bound them further, without rows.

    Attributes:
        reach: (n, width) largest absolute values, of the inputs and then before each ReLU.
    """

    def __init__(self, layers, lower, upper, low, high, slopes, columns, claims, lemmas=None):
        self.layers, self.columns, self.claims = layers, columns, claims
        ends = np.cumsum([0, *(len(layer.bias) * layer.is_relu for layer in layers)])
        self.parts = [slice(*pair) for pair in itertools.pairwise(ends)]
        self.block = max(1, _BLOCK // (ends[-1] + max(layer.weight.shape[1] for layer in layers)))
        longest = max(sum(layer.weight.shape) for layer in layers)
        self.unit = 2.0**-51 * (longest + 16 * len(layers) + 64)
        self.middle = 0.5 * lower + 0.5 * upper
        self.half = np.nextafter(np.maximum(upper - self.middle, self.middle - lower), np.inf)
        self.reach, self.base = [np.abs(self.middle) + self.half], []
        lines, slopes = [np.zeros_like(low) for _ in range(3)], self._whole(slopes, np.nan)
        free = np.flatnonzero((lower < upper).any(axis=0))
        terms = self.half[:, free, None] * np.eye(lower.shape[1])[free]
        form = self.middle, terms, np.full_like(self.half, TINY)
        for k, (layer, part) in enumerate(zip(layers, self.parts, strict=True)):
            self.base.append(self.reach[k] @ np.abs(layer.weight).T + np.abs(layer.bias) + TINY)
            form, below, above = self._affine(layer, *form)
            if layer.is_relu:
                np.maximum(low[:, part], below, out=low[:, part])
                np.minimum(high[:, part], above, out=high[:, part])
                self._tighten(k, low, high, lines)
                if lemmas is not None:
                    self.improve(k, low, high, np.arange(len(low)), lemmas)
                below, above = low[:, part], high[:, part]
                for line, found in zip(lines, _lines(below, above, slopes[:, part]), strict=True):
                    line[:, part] = found
                form = self._bent(*form, *(line[:, part] for line in lines[1:]))
            self.reach.append(np.maximum(np.abs(below), np.abs(above)))

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

    def _tighten(self, k, low, high, lines):
        """Bounds, carried back, of the neurons of a layer whose sign is open."""
        box, neuron = np.nonzero((low[:, self.parts[k]] < 0) & (high[:, self.parts[k]] > 0))
        box, neuron = np.repeat([box, neuron + self.parts[k].start], 2, axis=1)
        target = (neuron + 1) * np.tile([1, -1], len(box) // 2)
        for i in range(0, len(box), self.block):
            own, goal = box[i : i + self.block], target[i : i + self.block]
            added = _at(goal, np.zeros((len(own), low.shape[1])))
            rows, none = np.zeros((len(own), len(self.layers[k].bias))), np.zeros(len(own))
            around = [line[own] for line in lines]
            _narrow(low, high, own, goal, self._lowest(rows, none, none, added, around, own))

    def improve(self, k, low, high, box, given):
        """Narrows ends of neurons, where all rows are at most 0, by certificates.

        Args:
            k: the layer; of other layers certificates are passed over.
            low: (n, neurons) of parts, raised.
            high: (n, neurons) lowered.
            box: (n,) of which each is a part.
            given: certificates; each holds with the ends as they were.
        """
        neuron, part = np.abs(given.target) - 1, self.parts[k]
        given = given.of(np.flatnonzero((part.start <= neuron) & (neuron < part.stop)))
        _narrow(low, high, given.part, given.target, self.shown(low, high, box, given))

    def shown(self, low, high, box, given):
        """(b,) numbers that functions do not fall below, by certificates; arguments as above."""
        blocks = (given.of(slice(i, i + self.block)) for i in range(0, len(given.part), self.block))
        found = (self._shown(low[one.part], high[one.part], box[one.part], one) for one in blocks)
        return np.concatenate([np.zeros(0), *found])

    def _shown(self, low, high, box, given):
        signs = (low == 0).astype(float) - (high == 0)  # as they are where they were split
        added = _at(given.target, -self._whole(given.betas, 0.0) * signs)
        total = size = np.zeros(len(box))
        rows = np.zeros((len(box), len(self.layers[len(self.base) - 1].bias)))
        if len(self.reach) > len(self.layers):  # else there are no outputs yet
            shares, (weights, offsets) = given.multipliers, (c[given.theorem] for c in self.claims)
            rows = np.einsum("bm,bmo->bo", shares, weights)
            sizes = np.abs(offsets) + (np.abs(weights) @ self.reach[-1][box][..., None])[..., 0]
            total = (shares * offsets).sum(axis=1)
            size = (1 + offsets.shape[1]) * (shares * (sizes + TINY)).sum(axis=1)
        lines = _lines(low, high, self._whole(given.slopes, np.nan))
        return self._lowest(rows, total, size, added, lines, box)

    def _whole(self, columns, rest):
        """(b, neurons) numbers, of columns of them."""
        whole = np.full((len(columns), self.parts[-1].stop), rest)
        whole[:, self.columns] = columns
        return whole

    def _lowest(self, rows, total, size, added, lines, box):
        """Lower bounds (b,) of `rows @ values + added @ reads + total`.

        Args:
            rows: (b, width) of the values of the last layer that is bounded, after its ReLU.
            total: (b,).
            size: (b,) what the sum of the absolute values of all terms before does not exceed.
            added: (b, neurons) of what neurons read.
            lines: around the ReLUs, (b, neurons) each.
            box: (b,) the box of each.
        """
        tiny = sum(1.0 + reach[box].sum(axis=1) for reach in self.reach)
        for k in reversed(range(len(self.base))):
            layer, base, own = self.layers[k], self.base[k][box], added[:, self.parts[k]]
            if layer.is_relu:
                slope, chord, over = (line[:, self.parts[k]] for line in lines)
                positive = np.maximum(rows, 0.0)
                negative = rows - positive
                total = total + np.einsum("bw,bw->b", negative, over)
                rows = positive * slope + negative * chord + own
                size = size + np.einsum("bw,bw->b", np.abs(own), base)
            total = total + rows @ layer.bias
            size = size + np.einsum("bw,bw->b", np.abs(rows), base)
            used = np.flatnonzero(rows.any(axis=0))
            rows = rows[:, used] @ layer.weight[used]
        total = total + np.einsum("bw,bw->b", rows, self.middle[box])
        total = total - np.einsum("bw,bw->b", np.abs(rows), self.half[box])
        total = total - self.unit * size - TINY * tiny
        return np.where(np.isfinite(total), total, -np.inf)


def _at(target, added):
    """With 1 or -1 added in the column of each target."""
    own = np.flatnonzero(target)
    added[own, np.abs(target[own]) - 1] += np.sign(target[own])
    return added


def _narrow(low, high, part, target, found):
    """Ends that follow from lower bounds of what neurons read, or of its negative."""
    up, place = target > 0, (part, np.abs(target) - 1)
    np.maximum.at(low, tuple(one[up] for one in place), found[up])
    np.minimum.at(high, tuple(one[~up] for one in place), -found[~up])


def _lines(low, high, slopes):
    """The slope below each ReLU, that of its chord, and what the chord is at 0."""
    is_open = ~((low >= 0) | (high <= 0))
    slope = np.where(np.isnan(slopes), high > -low, slopes)
    chord = np.where(is_open, high / (high - low), low >= 0)
    over = np.maximum(-chord * low, (1.0 - chord) * high) * (1.0 + 2.0**-50) + TINY
    return np.where(is_open, slope, low >= 0), chord, np.where(is_open, over, 0.0)
