"""Linear functions of neurons, bounded from below on parts of one box where some signs are known.

A row of coefficients goes from the output back to the inputs (CROWN). On the way `relu(z)` lies
between `alpha z`, for any alpha in [0, 1], and the chord of its interval; where the sign of z is
split it is z or 0, and then `beta |z|` may be subtracted, for any `beta >= 0`. The bound that
arrives is concave in all alphas of one layer, and in all betas. Its gradient is made of values that
go forward: at the point of the box where the bound is smallest, each neuron takes the line that its
row took.

All values before a layer, inputs in units of the box and neurons, lie in one vector, so that a
layer is one product of matrices for all parts. The same passes are made in float32, to climb, and
in float64 with what it rounds: that is a proof, whatever the climb found (alpha-CROWN, Xu et al.
2021, arXiv:2011.13824; beta-CROWN, Wang et al. 2021, arXiv:2103.06624).
"""

import copy
from typing import Any, NamedTuple

import numpy as np

from deel_lip_tf._rounding import TINY
from deel_lip_tf.verify.search.inputs.bounds import Boxes, Layer

_ULPS = 2.0**-50  # more than a few roundings of float64, relatively
_SMALL = 2**19  # neurons times inputs
_SPANNED = 2**20  # entries of a matrix whose rank is looked for
_FEWER = 3  # times fewer dimensions than there are inputs, and functions of them
_RANK = 1e-6  # relative to the largest, what is taken for rounding


class Rows(NamedTuple):
    """Functions of values, `matrix @ values + constant` up to `error`.

    Attributes:
        matrix: (rows, values) of those before them.
        constant: (rows,).
        error: (rows,).
    """

    matrix: np.ndarray
    constant: np.ndarray
    error: np.ndarray


class Known(NamedTuple):
    """What is known of neurons on n parts.

    Attributes:
        low: (n, neurons) what they do not read less than.
        high: (n, neurons).
        splits: (n, neurons) 1 where only what they read from 0 on is of the part, -1 up to 0.
    """

    low: np.ndarray
    high: np.ndarray
    splits: np.ndarray

    def of(self, index: np.ndarray) -> "Known":
        """Some of the parts."""
        return Known(*(part[index] for part in self))

    @property
    def signs(self) -> np.ndarray:
        """(n, neurons) 1, -1, or 0 where both are possible."""
        read = (self.low >= 0).astype(np.int8) - ((self.high <= 0) & (self.low < 0))
        return np.where(self.splits != 0, self.splits, read)


class Lines(NamedTuple):
    """Two lines around each relu on n parts, `below z <= relu(z) <= above z + over`; n may be 1.

    Attributes:
        below: (n, neurons).
        above: (n, neurons).
        over: (n, neurons).
        added: (n, neurons) coefficients of z that may be added to a row: z times them is not
            positive.
    """

    below: np.ndarray
    above: np.ndarray
    over: np.ndarray
    added: np.ndarray


class _Part(NamedTuple):
    """A layer: where its neurons stand among all values and among all neurons, and its numbers."""

    values: slice
    neurons: slice
    matrix: np.ndarray
    bias: np.ndarray
    slopes: np.ndarray

    def bent(self, row: np.ndarray) -> np.ndarray:
        """Rows of relus: a neuron is `slope z + (1 - slope) relu(z)`."""
        return row * (1 - self.slopes) if self.slopes.any() else row


class Chain:
    """The neurons of a network on a box; grows by one layer at a time.

    Args:
        box: of the free inputs, one.
        roundoff: relative error of any sum of products.

    Attributes:
        inputs: how many.
        low: (neurons,) what they do not read less than.
        high: (neurons,).
        slopes: (neurons,) on the left of 0, float32.
        before: how many values stand before those of neurons.
    """

    def __init__(self, box: Boxes, roundoff: float):
        self.inputs = self.before = box.lower.shape[1]
        self.roundoff = roundoff
        self.low = self.high = np.zeros(0)
        self.slopes = np.zeros(0, np.float32)
        self._middle, self._half_width = box.middle[0], box.half_width[0]
        self._directions: np.ndarray | None = None
        self._parts: dict[Any, list[_Part]] = {np.float32: [], np.float64: []}
        self._errors: list[tuple[np.ndarray, np.ndarray]] = []
        # A coefficient that underflows is lost, however large what it multiplies is.
        self._lost = TINY * (1.0 + self.inputs)

    @property
    def neurons(self) -> int:
        """Of all layers so far."""
        return len(self.low)

    @property
    def is_small(self) -> bool:
        """Whether bounds cost little, so that more may be spent on each."""
        return self.neurons * self.inputs <= _SMALL

    def append(self, layer: Layer, low: np.ndarray, high: np.ndarray) -> None:
        """Adds a layer whose neurons read what lies between `low` and `high`."""
        begin, count = self.neurons, len(layer)
        values = slice(self.inputs + begin, self.inputs + begin + count)
        rows, slopes = self.rows(layer), layer.slopes
        for dtype, parts in self._parts.items():
            numbers = (part.astype(dtype) for part in (rows.matrix, rows.constant, slopes))
            parts.append(_Part(values, slice(begin, begin + count), *numbers))
        # Of a row of what the neurons read, and of one of the neurons.
        error = rows.error + 8.0 * self.roundoff * (layer.added + np.maximum(-low, high))
        self._errors.append((error, 3.0 * layer.steepest * error))
        self._lost += TINY * layer.reach.sum()
        self.low, self.high = np.append(self.low, low), np.append(self.high, high)
        self.slopes = np.append(self.slopes, slopes.astype(np.float32))

    def rows(self, layer: Layer) -> Rows:
        """What a layer reads, of all values so far."""
        matrix, constant = np.zeros((len(layer), self.inputs + self.neurons)), layer.bias
        starts = [part.values for part in self._parts[np.float64]]
        for source, weights in layer.weights.items():
            if source < 0:
                matrix[:, : self.inputs] = weights * self._half_width
                constant = constant + weights @ self._middle
            else:
                matrix[:, starts[source]] = weights
        return Rows(matrix, constant, layer.slack + 4.0 * self.roundoff * layer.added)

    def backward(self, start: np.ndarray, constant: np.ndarray, lines: Lines) -> np.ndarray:
        """(n,) bounds of rows (n, values) + (n,); the rows are turned into all coefficients."""
        for part in self._parts[start.dtype.type][::-1]:
            z, added = _read(start[:, part.values], part, lines)
            constant = constant + added + z @ part.bias
            start[:, self._read_from : part.values.start] += z @ part.matrix
        inputs = start[:, : self.inputs]
        if self._directions is not None:
            inputs += start[:, self.inputs : self.before] @ self._directions
        return constant - np.abs(inputs).sum(axis=1)

    def forward(self, rows: np.ndarray, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
        """What neurons read (n, neurons), and all values (n, values), where a bound is reached.

        Args:
            rows: as `backward` leaves them.
            lines: as they were.
        """
        values, reads = np.zeros_like(rows), np.zeros_like(rows[:, self.before :])
        values[:, : self.inputs] = -np.sign(rows[:, : self.inputs])
        if self._directions is not None:
            ends = values[:, : self.inputs]
            values[:, self.inputs : self.before] = ends @ self._directions.T
        for part in self._parts[rows.dtype.type]:
            z = values[:, self._read_from : part.values.start] @ part.matrix.T + part.bias
            below, above, over, _ = (line[:, part.neurons] for line in lines)
            taken = np.where(part.bent(rows[:, part.values]) >= 0, below * z, above * z + over)
            values[:, part.values] = part.slopes * z + part.bent(taken)
            reads[:, part.neurons] = z
        return reads, values

    def proven(self, rows: Rows, shares: np.ndarray, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
        """(n,) numbers that sums of rows do not fall below, and where they are smallest.

        Args:
            rows: m of them.
            shares: (n, m) how much of each a sum takes.
            lines: in float64.

        Returns:
            The numbers, -inf where nothing is known, and (n, inputs) `e`.
        """
        shares, absolute = shares.astype(np.float64), np.abs(shares).astype(np.float64)
        start = shares @ rows.matrix
        constant = shares @ rows.constant - absolute @ rows.error
        for part, (own, of_neuron) in zip(
            reversed(self._parts[np.float64]), reversed(self._errors), strict=True
        ):
            row = start[:, part.values]
            z, added = _read(row, part, lines)
            constant += added + z @ part.bias
            constant -= np.abs(row) @ of_neuron + np.abs(lines.added[:, part.neurons]) @ own
            start[:, : part.values.start] += z @ part.matrix
        coefficients = start[:, : self.inputs]
        spread = np.abs(coefficients).sum(axis=1)
        constant -= self.roundoff * (spread + np.abs(constant)) + self._lost
        bounds = constant - spread - _ULPS * (spread + np.abs(constant))
        return np.where(np.isfinite(bounds), bounds, -np.inf), -np.sign(coefficients)

    @property
    def layers(self) -> int:
        """How many."""
        return len(self._errors)

    def neurons_of(self, layer: int) -> slice:
        """Where its neurons stand among all."""
        return self._parts[np.float64][layer].neurons

    def steepness(self, layer: int) -> np.ndarray:
        """(neurons of a layer, earlier neurons) absolute weights, float32."""
        first = self.before - self._read_from
        return np.abs(self._parts[np.float32][layer].matrix[:, first:])

    def reads(self, layer: int, neurons: np.ndarray) -> Rows:
        """What some neurons of a layer read, of all values."""
        part = self._parts[np.float64][layer]
        around = self._read_from, self.before + self.neurons - part.values.start
        matrix = np.pad(part.matrix[neurons], ((0, 0), around))
        return Rows(matrix, part.bias[neurons], self._errors[layer][0][neurons])

    @property
    def _read_from(self) -> int:
        """The first value that layers read."""
        return 0 if self._directions is None else self.inputs

    def by_directions(self, rows: Rows) -> tuple["Chain", Rows]:
        """The same chain and rows, to climb, with fewer products where inputs are many.

        All functions of the inputs that are read may lie in a space of few dimensions: those of a
        first layer, of which most neurons are zeros. Then layers read coordinates in that space,
        linear functions of the inputs that stand behind them. What rounding does to them is not
        accounted for: nothing is proven by the chain that is returned.
        """
        count = self.neurons + len(rows.constant)
        if not 0 < count * self.inputs <= _SPANNED:
            return self, rows
        parts = self._parts[np.float64]
        read = [part.matrix[:, : self.inputs] for part in parts] + [rows.matrix[:, : self.inputs]]
        directions = _directions(np.concatenate(read))
        if directions is None:
            return self, rows
        other, other_inputs = copy.copy(self), self.inputs + len(directions)
        other._directions, other.before = directions.astype(np.float32), other_inputs
        other._parts = {
            dtype: [self._along(part, directions, dtype) for part in parts] for dtype in self._parts
        }
        matrix = np.pad(self._turned(rows.matrix, directions), ((0, 0), (self.inputs, 0)))
        return other, rows._replace(matrix=matrix)

    def _turned(self, matrix: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Rows of directions, instead of inputs, and of neurons."""
        inputs = matrix[:, : self.inputs]
        return np.concatenate([inputs @ directions.T, matrix[:, self.inputs :]], axis=1)

    def _along(self, part: _Part, directions: np.ndarray, dtype: type) -> _Part:
        """A layer that reads directions, which stand before all neurons."""
        more = len(directions)
        values = slice(part.values.start + more, part.values.stop + more)
        return _Part(
            values,
            part.neurons,
            self._turned(part.matrix, directions).astype(dtype),
            part.bias.astype(dtype),
            part.slopes.astype(dtype),
        )

    def point(self, e: np.ndarray) -> np.ndarray:
        """(n, inputs) free inputs, of their values in units of the box."""
        return self._middle + self._half_width * e


def lines_of(known: Known, alphas: np.ndarray, betas: np.ndarray, dtype: type) -> Lines:
    """The lines with slopes alphas (n, neurons), and the multipliers betas of the splits."""
    low, high, splits = known
    signs, width = known.signs, high - low
    chord = np.clip(high / width, 0.0, 1.0)
    over = np.maximum(-chord * low, (1.0 - chord) * high) + _ULPS * width
    is_open = signs == 0
    right: np.ndarray = (signs > 0).astype(dtype)
    below = np.where(is_open, alphas.astype(dtype), right)
    above = np.where(is_open, chord.astype(dtype), right)
    over = np.where(is_open, over.astype(dtype), dtype(0.0))
    return Lines(below, above, over, -betas.astype(dtype) * splits)


def _directions(functions: np.ndarray) -> np.ndarray | None:
    """(r, inputs) an orthonormal basis of a space that holds functions (n, inputs), if r is small.

    A few sums of them with random weights span the space.
    """
    most = min(functions.shape) // _FEWER
    weights = np.random.default_rng(0).standard_normal((most + 1, len(functions)))
    basis, sizes = np.linalg.qr((weights @ functions).T)
    sizes = np.abs(np.diag(sizes))
    rank = int(np.count_nonzero(sizes > _RANK * sizes.max(initial=0.0)))
    directions = basis[:, :rank].T
    missed = functions - functions @ directions.T @ directions
    is_whole = np.abs(missed).max(initial=0.0) <= _RANK * np.abs(functions).max(initial=0.0)
    return directions if 0 < rank <= most and is_whole else None


def _read(row: np.ndarray, part: _Part, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
    """Rows of what neurons read that lie below rows of the neurons, and constants (n,)."""
    below, above, over, added = (line[:, part.neurons] for line in lines)
    bent = part.bent(row)
    positive = np.maximum(bent, 0)
    negative = bent - positive
    z = row - bent + positive * below + negative * above + added
    return z, np.einsum("nw,nw->n", negative, over)
