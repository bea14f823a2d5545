"""Zero-padded convolutions of images of known size with a weight for each entry of the output.

    G = A' P A,    A the convolution, P a diagonal matrix of positive numbers

No Fourier transform makes G smaller, as it does without weights (`bounds.norms.band`), but it is
block-tridiagonal: rows of an image that are further apart than the kernel do not meet.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deel_lip_tf._rounding import TINY, gamma
from deel_lip_tf.bounds.norms.band import ZERO_PADDED, Band
from deel_lip_tf.bounds.norms.dense_matrix import axis_taps
from deel_lip_tf.bounds.norms.spectral import krylov_estimate
from deel_lip_tf.normalizers.convolution import ZERO
from deel_lip_tf.semantics.operators import Convolution, Operator, all_known

_FLOPS = 1e10  # what a proof may cost: about a second of a slow core
_EXCESSES = (3e-4, 2e-3, 1e-2, 1e-1, 1.0)  # of what is proven over a lower estimate of it


@dataclass(frozen=True)
class Weighted:
    """A zero-padded convolution of an image.

    Attributes:
        kernel: (taps, inputs, outputs), taps of all axes together.
        rows: (taps of the rows, outputs): the row that a tap meets at an output, or `ZERO`.
        columns: likewise.
        size: of the image.
    """

    kernel: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    size: tuple[int, int]

    @classmethod
    def of(cls, operator: Operator) -> "Weighted | None":
        """An operator, if it is such a convolution and a proof is not too expensive."""
        if not isinstance(operator, Convolution) or len(operator.kernel_size) != 2:
            return None
        sizes, groups = all_known(operator.sizes), operator.kernel.shape[-3]
        is_plain = groups == 1 and not operator.transposed and max(operator.dilation) == 1
        if sizes is None or not is_plain or operator.padding not in ZERO_PADDED:
            return None
        axes = zip(sizes, operator.kernel_size, operator.strides, strict=True)
        rows, columns = (axis_taps(operator, size, k, s, 1)[0] for size, k, s in axes)
        kernel = operator.kernel.reshape(-1, *operator.kernel.shape[-2:])
        found = cls(kernel, rows, columns, (sizes[0], sizes[1]))
        return found if found._flops <= _FLOPS else None

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Of one sample."""
        return self.rows.shape[1], self.columns.shape[1], self.kernel.shape[2]

    @property
    def _reach(self) -> int:
        """How many rows of the image a block of the Gram matrix has."""
        return max(len(self.rows) - 1, 1)

    @property
    def _flops(self) -> float:
        block = self._reach * self.size[1] * self.kernel.shape[1]
        return -(-self.size[0] // self._reach) * 9.0 * block**3

    @cached_property
    def _flat(self) -> np.ndarray:
        return self.kernel.reshape(-1, self.kernel.shape[2])

    def forward(self, images: np.ndarray) -> np.ndarray:
        """The convolution of images (rows, columns, n, inputs)."""
        padded = np.pad(images, ((0, 1), (0, 1), (0, 0), (0, 0)))  # `ZERO`, -1, is the last one
        met = padded[self.rows[:, None, :, None], self.columns[None, :, None, :]]
        met = met.transpose(2, 3, 4, 0, 1, 5)
        return met.reshape(*met.shape[:3], -1) @ self._flat.astype(images.dtype, copy=False)

    def adjoint(self, images: np.ndarray) -> np.ndarray:
        """The adjoint of images (rows, columns, n, outputs)."""
        taps = len(self.rows), len(self.columns)
        moved = images @ self._flat.T.astype(images.dtype, copy=False)
        moved = moved.reshape(*moved.shape[:3], *taps, -1)
        result = np.zeros((self.size[0] + 1, self.size[1] + 1, *moved.shape[2:3], moved.shape[-1]))
        for row, column in np.ndindex(taps):
            # No tap meets an entry at two outputs, but for `ZERO`, which is thrown away.
            place = np.ix_(self.rows[row], self.columns[column])
            result[place] += moved[..., row, column, :]
        return result[:-1, :-1].astype(images.dtype, copy=False)

    def squared_norm_bound(self, weights: np.ndarray) -> float:
        """Bounds `||sqrt(P) A||**2` for weights (rows, columns, outputs) of about the size 1.

        `inf` where nothing is proven.
        """
        band, guess = self._band(weights), self._estimate(weights)
        for excess in _EXCESSES:
            if math.isfinite(bound := band.eigenvalue_bound(guess * (1.0 + excess))):
                return bound
        return math.inf

    def _estimate(self, weights: np.ndarray) -> float:
        """A lower estimate of the same."""
        channels = self.kernel.shape[1]

        def gram(columns: np.ndarray) -> np.ndarray:
            images = np.moveaxis(columns.reshape(*self.size, channels, -1), -1, 2)
            images = self.adjoint(weights[:, :, None] * self.forward(images))
            return np.moveaxis(images, 2, -1).reshape(columns.shape)

        return krylov_estimate(gram, math.prod(self.size) * channels)

    def _band(self, weights: np.ndarray) -> Band:
        """The Gram matrix by blocks of rows, with what its entries are wrong by."""
        (height, width), channels = self.size, self.kernel.shape[1]
        reach = self._reach
        parts = [slice(first, first + reach) for first in range(0, height, reach)]
        lines = self._lines(weights)

        def block(first: slice, second: slice) -> np.ndarray:
            tops, bottoms = range(height)[first], range(height)[second]
            empty = np.zeros((width * channels, width * channels))
            return np.block([[lines.get((i, j), empty) for j in bottoms] for i in tops])[None]

        absolute = Weighted(np.abs(self.kernel), self.rows, self.columns, self.size)
        ones = np.ones((*self.size, 1, channels))
        # `|A|' P |A|` is symmetric: its norm is at most its largest row sum.
        sums = absolute.adjoint(weights[:, :, None] * absolute.forward(ones))
        terms = 2 * self.kernel.shape[2] + 4 * len(self.kernel) + 64
        error = 1.01 * gamma(terms) * float(sums.max(initial=0.0)) + TINY
        diagonal = [block(part, part) for part in parts]
        above = [block(*pair) for pair in zip(parts[:-1], parts[1:], strict=True)]
        return Band(diagonal, above, error)

    def _lines(self, weights: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
        """The blocks of the Gram matrix, by pairs of rows of the image that meet."""
        width, channels = self.size[1], self.kernel.shape[1]
        taps = len(self.rows), len(self.columns)
        found = dict[tuple[int, int], np.ndarray]()
        for line, weight in enumerate(weights):
            grams = self._flat @ (weight[:, :, None] * self._flat.T)  # (columns, taps and inputs)
            grams = grams.reshape(len(weight), *taps, channels, *taps, channels)
            for top, bottom in np.ndindex(taps[0], taps[0]):
                pair = int(self.rows[top, line]), int(self.rows[bottom, line])
                if ZERO in pair:
                    continue
                empty = np.zeros((width + 1, width + 1, channels, channels))
                whole = found.setdefault(pair, empty)
                for left, right in np.ndindex(taps[1], taps[1]):
                    places = self.columns[left], self.columns[right]
                    whole[places] += grams[:, top, left, :, bottom, right]
        order = width * channels
        return {
            pair: whole[:-1, :-1].transpose(0, 2, 1, 3).reshape(order, order)
            for pair, whole in found.items()
        }
