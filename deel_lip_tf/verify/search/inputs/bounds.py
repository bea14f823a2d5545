"""Bounds of neurons on many boxes of inputs at once.

Two ways, of which the cheap one comes first:

- forward: a neuron is `center + sum(coefficients[k] e[k]) ± radius` with `e` in [-1, 1], the free
  inputs counted from the middle of their box in units of half its width; a ReLU is kept between two
  lines of one slope. A box costs a few rows through each matrix.
- backward (CROWN): rows of coefficients from a layer to the inputs, each neuron between two lines
  of their own slopes. Only neurons whose sign is still open are asked for.

Both hold for exact arithmetic on the stored weights: what float64 may round is added to `radius`,
or subtracted from a bound, as `roundoff` times sums of absolute values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from deel_lip_tf._rounding import TINY

_ULPS = 2.0**-50  # more than a few roundings of float64, relatively
_BLOCK, _FEWEST = 2**16, 32  # entries of rows that travel backward together: those of a cache


@dataclass(frozen=True, eq=False)
class Boxes:
    """n boxes of the free inputs.

    Attributes:
        lower: (n, f).
        upper: (n, f).
    """

    lower: np.ndarray
    upper: np.ndarray

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, index) -> "Boxes":
        return Boxes(self.lower[index], self.upper[index])

    @cached_property
    def middle(self) -> np.ndarray:
        """(n, f) points inside."""
        return 0.5 * self.lower + 0.5 * self.upper

    @cached_property
    def half_width(self) -> np.ndarray:
        """(n, f) of boxes around the middle, rounded up."""
        return np.maximum(self.upper - self.middle, self.middle - self.lower) * (1.0 + _ULPS)


@dataclass(frozen=True, eq=False)
class Layer:
    """Neurons `f(z)`, `z = sum(weights[source] @ values of the source) + bias` up to `slack`.

    Attributes:
        weights: (neurons, values) by the position of an earlier layer, -1 for the free inputs.
        bias: (neurons,).
        slack: (neurons,) errors of the coefficients.
        added: (neurons,) what the sum of the absolute values of all terms does not exceed.
        slopes: (neurons,) of f on the left of 0; on its right it is the identity.
        reach: (neurons,) what the absolute value of f(z) does not exceed.
    """

    weights: Mapping[int, np.ndarray]
    bias: np.ndarray
    slack: np.ndarray
    added: np.ndarray
    slopes: np.ndarray
    reach: np.ndarray

    def __len__(self) -> int:
        return len(self.bias)

    def of(
        self, neurons: np.ndarray, slopes: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> "Layer":
        """Some of the neurons, with slopes on the left of 0, and bounds of what they read."""
        weights = {source: matrix[neurons] for source, matrix in self.weights.items()}
        reach = np.maximum(1.0, np.abs(slopes)) * np.maximum(-low, high) * (1.0 + _ULPS)
        bias, slack, added = (part[neurons] for part in (self.bias, self.slack, self.added))
        return Layer(weights, bias, slack, added, slopes, reach)

    @cached_property
    def absolute(self) -> Mapping[int, np.ndarray]:
        """Absolute values of the weights."""
        return {source: np.abs(matrix) for source, matrix in self.weights.items()}

    @cached_property
    def steepest(self) -> np.ndarray:
        """(neurons,) largest absolute value of a slope of f."""
        return np.maximum(1.0, np.abs(self.slopes))

    @cached_property
    def is_convex(self) -> bool:
        """Whether all neurons are convex: then the line below passes through 0."""
        return bool((self.slopes <= 1.0).all())


@dataclass(frozen=True, eq=False)
class Form:
    """Affine functions of the inputs of each box, and how far values may be from them.

    Attributes:
        terms: (n, 1 + f, values) the center and the coefficients.
        radius: (n, values).
    """

    terms: np.ndarray
    radius: np.ndarray

    @cached_property
    def spread(self) -> np.ndarray:
        """(n, values) largest distance from the center."""
        return np.abs(self.terms[:, 1:]).sum(axis=1) + self.radius

    @cached_property
    def size(self) -> np.ndarray:
        """(n, values) what the sum of the absolute values of all terms is."""
        return np.abs(self.terms[:, 0]) + self.spread


class Lines(NamedTuple):
    """Two lines around the neurons, `below * z + under <= f(z) <= above * z + over`.

    Attributes:
        below: (n, neurons).
        under: (n, neurons).
        above: (n, neurons).
        over: (n, neurons).
    """

    below: np.ndarray
    under: np.ndarray
    above: np.ndarray
    over: np.ndarray


@dataclass(frozen=True, eq=False)
class Read:
    """What the neurons of a layer read on each box.

    Attributes:
        form: as functions of the inputs.
        low: (n, neurons).
        high: (n, neurons).
    """

    form: Form
    low: np.ndarray
    high: np.ndarray

    def of(self, neurons: np.ndarray, low: np.ndarray, high: np.ndarray) -> "Read":
        """What some neurons read, with bounds (values,) of all, on one box."""
        form = Form(self.form.terms[:, :, neurons], self.form.radius[:, neurons])
        return Read(form, low[None, neurons], high[None, neurons])

    @cached_property
    def is_open(self) -> np.ndarray:
        """(n, neurons) whether it may be of either sign."""
        return (self.low < 0) & (self.high > 0)


class Relaxation:
    """What is known of the layers on some boxes; grows by one layer at a time.

    Args:
        boxes: the boxes.
        roundoff: relative error of any sum of products.
        is_tight: whether neurons of open sign are bounded backward, too.
        signs: (n, all neurons) 1 or -1 where it is known, of larger boxes, that none is below or
            above 0; else 0.
    """

    def __init__(
        self,
        boxes: Boxes,
        roundoff: float,
        is_tight: bool = True,
        signs: np.ndarray | None = None,
    ):
        self.boxes, self.roundoff, self.is_tight = boxes, roundoff, is_tight
        self._known = signs
        self.layers: list[Layer] = []
        self.reads: list[Read] = []
        self.forms: list[Form] = []
        self.lines: list[Lines] = []

    def append(self, layer: Layer, read: Read | None = None) -> None:
        """Bounds a layer, unless it is known what it reads, and relaxes its neurons."""
        if read is None:
            start = sum(map(len, self.layers))
            known = None if self._known is None else self._known[:, start : start + len(layer)]
            read = self.read(layer, known)
        chord, gap = _chord(layer, read)
        self.layers.append(layer)
        self.reads.append(read)
        self.forms.append(_between(read.form, chord, gap))
        self.lines.append(_lines(layer, read, chord, gap))

    @property
    def signs(self) -> np.ndarray:
        """(n, all neurons) 1 or -1 where a neuron reads nothing below or above 0, else 0."""
        parts = [np.where(r.low >= 0, 1, np.where(r.high <= 0, -1, 0)) for r in self.reads]
        return np.concatenate([np.zeros((len(self.boxes), 0)), *parts], axis=1).astype(np.int8)

    def read(self, layer: Layer, signs: np.ndarray | None = None) -> Read:
        """What a layer reads; `signs` (n, neurons) of it may be known."""
        form = self.form(layer)
        outward = form.spread + self.roundoff * form.size
        low, high = form.terms[:, 0] - outward, form.terms[:, 0] + outward
        # What overflows may be anything; its lines are no numbers, and refute nothing.
        low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
        if signs is not None:
            low = np.where(signs > 0, np.maximum(low, 0.0), low)
            high = np.where(signs < 0, np.minimum(high, 0.0), high)
        if self.is_tight and any(source >= 0 for source in layer.weights):
            self._tighten(layer, low, high)
        return Read(form, low, high)

    def form(self, layer: Layer) -> Form:
        """What a layer reads, as functions of the inputs."""
        boxes, rounding = self.boxes, 2.0 * self.roundoff
        n, f = boxes.lower.shape
        terms = np.zeros((n, 1 + f, len(layer)))
        terms[:, 0] = layer.bias
        radius = np.broadcast_to(
            layer.slack + rounding * np.abs(layer.bias) + TINY, (n, len(layer))
        )
        for source, matrix in layer.weights.items():
            if source < 0:
                terms[:, 0] += boxes.middle @ matrix.T
                terms[:, 1:] += boxes.half_width[:, :, None] * matrix.T
                given = rounding * (np.abs(boxes.middle) + boxes.half_width)
            else:
                before = self.forms[source]
                flat = before.terms.reshape(n * (1 + f), -1) @ matrix.T
                terms += flat.reshape(n, 1 + f, -1)
                given = before.radius + rounding * before.size
            radius = radius + given @ layer.absolute[source].T
        return Form(terms, radius)

    def _tighten(self, layer: Layer, low: np.ndarray, high: np.ndarray) -> None:
        """Raises `low` and lowers `high` where the sign is open."""
        boxes, neurons = np.nonzero((low < 0) & (high > 0))
        width = sum(matrix.shape[1] for matrix in layer.weights.values())
        size = max(_FEWEST, _BLOCK // (2 * width))
        signs = np.array([[1.0], [-1.0]])
        for start in range(0, len(boxes), size):
            box, own = boxes[start : start + size], neurons[start : start + size]
            rows = {source: m[own][:, None] * signs for source, m in layer.weights.items()}
            constant = layer.bias[own][:, None] * signs[:, 0]
            constant = constant - (layer.slack + 2.0 * self.roundoff * layer.added)[own][:, None]
            found = self.lowest(rows, constant, box)[0]
            below = np.fmax(low[box, own], found[:, 0])
            above = np.fmin(high[box, own], -found[:, 1])
            # Both are sound, and miss each other by rounding alone.
            low[box, own], high[box, own] = np.minimum(below, above), np.maximum(below, above)

    def shares(self, rows: Mapping[int, np.ndarray]) -> np.ndarray:
        """(n, f) how much of what lines cost a row of each box is due to the width of an input.

        A neuron of open sign costs its weight times how far the line that it takes is from it, and
        inputs share that cost as they share in what it reads.

        Args:
            rows: (n, values) by source.
        """
        pending, total = dict(rows), np.zeros_like(self.boxes.lower)
        for position in range(max(pending, default=-1), -1, -1):
            if (row := pending.pop(position, None)) is None:
                continue
            layer, read, lines = self.layers[position], self.reads[position], self.lines[position]
            chord = np.abs(lines.over) + np.abs(lines.under)
            piece = np.minimum(-read.low, read.high) * np.abs(1.0 - layer.slopes)
            taken = np.where((row < 0) == (layer.slopes <= 1.0), chord, piece)
            cost = np.where(read.is_open, np.abs(row) * taken, 0.0) / (read.form.spread + TINY)
            total += np.einsum("nw,nfw->nf", cost, np.abs(read.form.terms[:, 1:]))
            row = np.maximum(row, 0.0) * lines.below + np.minimum(row, 0.0) * lines.above
            for source, matrix in layer.weights.items():
                part = row @ matrix
                pending[source] = pending[source] + part if source in pending else part
        return total

    def lowest(
        self, rows: Mapping[int, np.ndarray], constant: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Lower bounds of rows of neurons, and the linear functions of the inputs they are of.

        Args:
            rows: (b, k, values) by source.
            constant: (b, k).
            boxes: (b,) the box of each.

        Returns:
            (b, k) bounds, and coefficients (b, k, f) of `e` and constants (b, k).
        """
        pending = dict(rows)
        for position in range(max(pending, default=-1), -1, -1):
            if (row := pending.pop(position, None)) is None:
                continue
            layer = self.layers[position]
            row, added = _relaxed(row, self.lines[position], boxes, layer, self.roundoff)
            constant = constant + added + row @ layer.bias
            flat = row.reshape(-1, len(layer))  # one product of matrices, not one for each box
            for source, matrix in layer.weights.items():
                part = (flat @ matrix).reshape(*constant.shape, -1)
                pending[source] = pending[source] + part if source in pending else part
        shape = (*constant.shape, self.boxes.lower.shape[1])
        own = pending.get(-1, np.zeros(shape))
        middle, half_width = self.boxes.middle[boxes], self.boxes.half_width[boxes]
        largest = np.abs(middle) + half_width
        constant = constant + np.einsum("bkf,bf->bk", own, middle)
        constant -= 2.0 * self.roundoff * np.einsum("bkf,bf->bk", np.abs(own), largest)
        coefficients = own * half_width[:, None]
        spread = np.abs(coefficients).sum(axis=2)
        # A coefficient that underflows is lost, however large what it multiplies is.
        reach = 1.0 + largest.sum(axis=1) + sum(layer.reach.sum() for layer in self.layers)
        constant -= self.roundoff * (spread + np.abs(constant)) + TINY * reach[:, None]
        return constant - spread, (coefficients, constant)


def _relaxed(
    row: np.ndarray, lines: Lines, boxes: np.ndarray, layer: Layer, roundoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of what neurons read that lie below rows of neurons, and constants (b, k)."""
    positive = np.maximum(row, 0.0)
    negative = row - positive
    added = np.einsum("bkw,bw->bk", negative, lines.over[boxes])
    if not layer.is_convex:
        added += np.einsum("bkw,bw->bk", positive, lines.under[boxes])
    # Of the coefficients and constants of this step, and of those of the affine map before it.
    error = layer.steepest * (layer.slack + 4.0 * roundoff * layer.added)
    added -= (positive - negative) @ error
    positive *= lines.below[boxes][:, None]
    negative *= lines.above[boxes][:, None]
    positive += negative
    return positive, added


def _chord(layer: Layer, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """(n, neurons) slopes of the chords, and what they are at 0; a line through 0 is parallel.

    A neuron of one sign has its own slope and 0.
    """
    left = layer.slopes
    a, b = np.where(read.is_open, read.low, -1.0), np.where(read.is_open, read.high, 1.0)
    width = b - a
    chord = np.where(read.is_open, (b - left * a) / width, np.where(read.low >= 0, 1.0, left))
    ends = (left - chord) * a, (1.0 - chord) * b
    outward = _ULPS * width * layer.steepest
    gap = np.maximum(np.maximum(*ends), 0.0) + outward
    if not layer.is_convex:
        gap = np.where(left <= 1.0, gap, np.minimum(np.minimum(*ends), 0.0) - outward)
    return chord, np.where(read.is_open, gap, 0.0)


def _lines(layer: Layer, read: Read, chord: np.ndarray, gap: np.ndarray) -> Lines:
    """The chord, and on the other side the piece of smaller area."""
    longer = np.where(read.high > -read.low, 1.0, layer.slopes)
    piece, zero = np.where(read.is_open, longer, chord), np.zeros_like(gap)
    if layer.is_convex:
        return Lines(piece, zero, chord, gap)
    convex = layer.slopes <= 1.0
    pairs = ((piece, chord), (zero, gap), (chord, piece), (gap, zero))
    return Lines(*(np.where(convex, *pair) for pair in pairs))


def _between(form: Form, chord: np.ndarray, gap: np.ndarray) -> Form:
    """The neurons, between the chord and its parallel through 0."""
    terms = form.terms * chord[:, None]
    terms[:, 0] += 0.5 * gap
    half = 0.5 * np.abs(gap) * (1.0 + _ULPS)
    radius = np.abs(chord) * (form.radius * (1.0 + _ULPS) + _ULPS * form.size) + half
    # The center was rounded where it was moved.
    return Form(terms, radius + _ULPS * np.abs(terms[:, 0]))


def relaxed(
    layers: Sequence[Layer], boxes: Boxes, roundoff: float, signs: np.ndarray | None = None
) -> Relaxation:
    """The layers on some boxes."""
    found = Relaxation(boxes, roundoff, signs=signs)
    for layer in layers:
        found.append(layer)
    return found
