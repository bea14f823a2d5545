"""Weights of the entries between a convolution and the layers after it: a guess, and its proof."""

from dataclasses import dataclass

import numpy as np

from deel_lip_tf.bounds.gaps.convolution import Weighted
from deel_lip_tf.bounds.gaps.slopes import Ends, climbed

_STEPS = 40
_RANK = 6  # of the signals that the convolution is searched for
_LOOKS = 10  # steps after which a search that gains nothing is given up
_WORTH = 0.99  # part of the squared norm that has to be left of it
_FLOOR = 1e-3  # the least part of the largest reciprocal that one is


@dataclass(frozen=True)
class Between:
    """What stands between a convolution and the layers after it.

    Attributes:
        convolution: whose output it reads.
        written: (entries of the output of the convolution,) which group each is of.
        read: (entries that the next dense layer reads,) likewise.
    """

    convolution: Weighted
    written: np.ndarray
    read: np.ndarray

    def proven(self, ends: Ends, squared: float) -> np.ndarray | None:
        """Bounds `k q sum(m)` of the theorem of this package for each combination of logits.

        Args:
            ends: what reads the entries.
            squared: a bound of the squared norm of the convolution.

        Returns:
            (combinations,), inf where nothing is proven; None where a search promises nothing.
        """
        if (found := self._chosen(ends, squared)) is None:
            return None
        reciprocals, vectors = found
        # As weights of entries about 1: the exact number that is divided by.
        reciprocals = reciprocals / np.median(reciprocals)
        weights = (1.0 / reciprocals)[self.written].reshape(self.convolution.output_shape)
        constant = self.convolution.squared_norm_bound(weights)
        return constant * ends.bounds(reciprocals[self.read], vectors)

    def _chosen(self, ends: Ends, squared: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Reciprocals of weights, (groups,), and vectors for the search of `ends`.

        The signals that reach the groups have the energies that the layers after them leave; of
        these signals those are sought that the convolution stretches most. What it would stretch a
        group more for a little more energy is the reciprocal of the weight of the group.
        """
        height, width, outputs = self.convolution.output_shape
        count = int(self.written.max()) + 1
        drawn = np.random.default_rng(0).standard_normal((height, width, _RANK, outputs))
        signals, vectors = drawn.astype(np.float32), ends.start()
        names = self.written.reshape(height, width, 1, outputs)
        reciprocals = np.ones(count)
        energies = self._energies(ends, vectors, count)
        for step in range(_STEPS):
            wanted, sizes = np.sqrt(energies), self._sizes(signals, count)
            factors = np.where(sizes > 0.0, wanted / np.where(sizes > 0.0, sizes, 1.0), 0.0)
            images = self.convolution.adjoint(signals * factors[names].astype(np.float32))
            signals = self.convolution.forward(images)
            stretched = self._sizes(signals, count)
            some = wanted > 1e-6 * wanted.max(initial=0.0)
            reciprocals = np.where(some, stretched / np.where(some, wanted, 1.0), squared)
            reciprocals = np.maximum(reciprocals, _FLOOR * reciprocals.max())
            if not np.isfinite(reciprocals).all() or not reciprocals.min() > 0.0:
                return None
            if step == _LOOKS and np.vdot(images, images) > _WORTH * squared * energies.sum():
                return None
            vectors = climbed(ends.responses(ends.gram(reciprocals[self.read])), vectors)
            found = self._energies(ends, vectors, count)
            energies = energies + (found - energies) * 2.0 / (step + 3.0)
        return reciprocals, vectors

    def _energies(self, ends: Ends, vectors: np.ndarray, count: int) -> np.ndarray:
        return np.bincount(self.read, ends.energies(vectors), minlength=count)

    def _sizes(self, signals: np.ndarray, count: int) -> np.ndarray:
        """The norm of each group of some signals together."""
        squares = np.einsum("hwrc,hwrc->hwc", signals, signals)
        return np.sqrt(np.bincount(self.written, squares.ravel(), minlength=count))
