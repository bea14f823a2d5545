"""The last dense layers: by which gradients a combination of logits can reach what they read.

What an activation does to a difference is a matrix that is affine in numbers x in [-1, 1]: of the
slopes of straight pieces, of a pair that is sorted `(1 + x) / 2` times the identity and
`(1 - x) / 2` times the swap. The largest `y' Q y` for `y = (1, x)` is that of a convex function
over a cube, and is bounded by a diagonal matrix above Q. The diagonal is read from vectors in the
place of the numbers y, which solve the semidefinite relaxation (Goemans and Williamson, 1995;
Burer and Monteiro, 2003); what is proven holds whatever it is.
"""

from dataclasses import dataclass

import numpy as np

from deel_lip_tf._rounding import TINY, UP, gamma
from deel_lip_tf.bounds.norms.spectral import largest_eigenvalues, prove_at_most

_RANK = 6  # of the vectors
_STEPS = 150  # of the last search
_FLOOR = 1e-9  # the least part of a diagonal that an entry is


@dataclass(frozen=True)
class Ends:
    """Some combinations of logits as affine functions of slopes, and the layer before these.

    Attributes:
        forms: (combinations, 1 + slopes, hidden), `b_i` of the theorem.
        sizes: (combinations,) not below the norm that the absolute values add up to, where forms
            are rounded: each entry is wrong by a few units of what it was made of.
        kernel: (inputs, hidden) of the layer before; None where there is none, and `hidden` are the
            entries that the convolution is bounded for.
    """

    forms: np.ndarray
    sizes: np.ndarray
    kernel: np.ndarray | None

    @classmethod
    def of_sorted_pairs(cls, columns: np.ndarray, sizes: np.ndarray, kernel: np.ndarray) -> "Ends":
        """Of columns (hidden, combinations) behind pairs that are sorted."""
        pairs = columns.T.reshape(columns.shape[1], -1, 2)
        means = np.repeat(pairs.mean(axis=2), 2, axis=1)
        apart = 0.5 * (pairs[:, :, 0] - pairs[:, :, 1])
        swaps = np.zeros((*apart.shape, 2 * apart.shape[1]))
        index = np.arange(apart.shape[1])
        swaps[:, index, 2 * index], swaps[:, index, 2 * index + 1] = apart, -apart
        return cls(np.concatenate([means[:, None], swaps], axis=1), 2.0 * sizes, kernel)

    @classmethod
    def of_slopes(
        cls,
        columns: np.ndarray,
        sizes: np.ndarray,
        kernel: np.ndarray | None,
        ends: tuple[np.ndarray, np.ndarray],
    ) -> "Ends":
        """Of columns behind a function of single entries with slopes between two `ends`."""
        low, high = ends
        means = 0.5 * (low + high) * columns.T
        if (low == high).all():
            forms = means[:, None]
        else:
            apart = 0.5 * (high - low) * columns.T
            forms = np.concatenate([means[:, None], apart[:, :, None] * np.eye(len(low))], axis=1)
        steepest = float(np.maximum(np.abs(low), np.abs(high)).max())
        return cls(forms, 4.0 * steepest * sizes, kernel)

    @property
    def flops(self) -> float:
        """Of one step of a search, about."""
        count, rows, hidden = self.forms.shape
        if self.kernel is None:
            return 4.0 * count * rows**2 * hidden
        products = 2.0 * count * rows * hidden * (hidden + rows)
        return products + 4.0 * len(self.kernel) * hidden**2

    def start(self) -> np.ndarray:
        """Vectors (combinations, rows, rank) of norm 1."""
        count, rows, _ = self.forms.shape
        drawn = np.random.default_rng(0).standard_normal((rows, _RANK))
        return np.broadcast_to(_unit(drawn), (count, rows, _RANK))

    def gram(self, inverse: np.ndarray) -> np.ndarray:
        """`W diag(1 / p) W'` for the reciprocals of weights, one of each entry that is read.

        Without a kernel that matrix is a diagonal, and only this is returned.
        """
        return inverse if self.kernel is None else self.kernel.T @ (inverse[:, None] * self.kernel)

    def responses(self, gram: np.ndarray) -> np.ndarray:
        """(combinations, rows, rows), the matrices Q of the theorem."""
        read = self.forms * gram if self.kernel is None else self.forms @ gram
        return read @ np.swapaxes(self.forms, 1, 2)

    def energies(self, vectors: np.ndarray) -> np.ndarray:
        """The squares of what reaches each entry that is read, the mean over combinations."""
        hidden = (np.swapaxes(self.forms, 1, 2) @ vectors).transpose(1, 0, 2)
        hidden = hidden.reshape(len(hidden), -1)
        if self.kernel is None:
            return np.square(hidden).sum(axis=1) / len(self.forms)
        together = hidden @ hidden.T / len(self.forms)
        return np.einsum("ih,ih->i", self.kernel @ together, self.kernel)

    def bounds(self, inverse: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Proves `q sum(m)` of the theorem for each combination; inf where that fails.

        Args:
            inverse: reciprocals of weights, rounded once.
            vectors: where a search begins.
        """
        gram = self.gram(inverse)
        responses = self.responses(gram)
        for _ in range(_STEPS):
            vectors = climbed(responses, vectors)
        images = np.linalg.norm(responses @ vectors, axis=2)
        floor = _FLOOR * np.trace(responses, axis1=1, axis2=2)[:, None] + TINY
        diagonal = np.maximum(images, floor)
        root = 1.0 / np.sqrt(diagonal)
        scaled = root[:, :, None] * responses * root[:, None, :]
        rows, hidden = self.forms.shape[1:]
        # Of the products in `gram`, and of those with the forms: entries of at most the trace.
        read = 0 if self.kernel is None else len(self.kernel)
        parts = (
            4.0
            * np.square(self.sizes)
            * float(gram.sum() if self.kernel is None else np.trace(gram))
        )
        wrong = gamma(read + 4 * hidden + 64) * parts * rows + TINY
        excess = gamma(16) * np.linalg.norm(scaled, axis=(1, 2))
        limits = largest_eigenvalues(scaled) * (1.0 + 1e-9) + 1e-12
        proven = prove_at_most(scaled, limits)
        # `root` squared is not quite the reciprocal of `diagonal`.
        found = (limits + excess) * diagonal.sum(axis=1) * UP + wrong
        return np.where(proven & np.isfinite(found), found * UP, np.inf)


def climbed(responses: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors for which the sum of the `y' Q y` is no less."""
    return _unit(responses @ vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(lengths > 0.0, vectors / np.where(lengths > 0.0, lengths, 1.0), vectors)
