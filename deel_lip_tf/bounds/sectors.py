"""Chains of matrices and activations whose slopes lie between known ends, bounded together.

Near a sample most activations of a network have one slope: a ReLU that cannot change its sign is
linear there, or gone. The others lie between two numbers, so that the differences `u = W d_before`
before and d after an activation satisfy `d = m u + h v`, entry by entry, with the middle m and the
half width h of its slopes, and `|v| <= |u|`.

Theorem. For numbers t > 0, one for each entry with h > 0, let N map `(d_0, t_1 v_1, t_2 v_2, ...)`
to `(t_1 u_1, t_2 u_2, ..., u_n / g)`, where u_n is the output. If `||N||_2 <= 1`, the chain has a
Lipschitz constant of at most g.

Proof. `sum ||t u||**2 + ||u_n||**2 / g**2 <= ||d_0||**2 + sum ||t v||**2`, in which `||t v||` is at
most `||t u||`.

The numbers t are guessed, and g with them: the largest `||u_n||**2` for `||d_0|| <= 1` is at most
the largest eigenvalue of `W_n Y W_n'`, where Y goes through the layers by `S = W Y W'` and
`Y = m (S + S (T**-1 - S)**-1 S) m + h T**-1 h` with `T = diag(t**2)`, as in the global bound of
`chains`, which is the case of slopes between 0 and 1 (Gen-Local: Xu and Sivaranjani, 2025,
arXiv:2510.05261). What is proven is the norm of N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deel_lip_tf._rounding import TINY, UNIT, UP, product_up
from deel_lip_tf.bounds.chains import Matrix
from deel_lip_tf.bounds.norms.spectral import (
    frobenius_up,
    largest_eigenvalues,
    scaled_up,
    spectral_norm_bound,
)

_MARGINS = (1e-6, 1e-4, 1e-2)  # by which g exceeds what was guessed
_BELOW_ONE = 1.0 - 1e-8  # what the norm of N is tried to be, with room for what is missing in it
_BALANCINGS = 20
_LEAST = 1e-9  # of the largest entry of what is divided by


def sector_bound(
    matrices: Sequence[Matrix], slopes: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Bounds the constant of a chain of matrices with activations between them.

    Args:
        matrices: the one that is applied first, first.
        slopes: the smallest and the largest slope of each entry of what every matrix but the last
            one makes.

    Returns:
        A proven upper bound in the Euclidean norm, by the theorem of this module; inf where nothing
        is proven.
    """
    if not all(np.isfinite(end).all() for ends in slopes for end in ends):
        return math.inf
    layers = _layers(matrices, slopes)
    found = (_proven(layers, *guess) for weigh in _WEIGHTS for guess in _guesses(layers, weigh))
    return scaled_up(min(found, default=math.inf), sum(matrix.exponent for matrix in matrices))


@dataclass(frozen=True)
class _Layer:
    """A matrix, and the slopes of the activation after it: without entries that are always 0.

    Attributes:
        matrix: (outputs, inputs).
        error: bound of the spectral norm of what is missing in it.
        middle: (outputs,) of the slopes; 1 where there is no activation.
        half: (outputs,) of their widths, not negative.
    """

    matrix: np.ndarray
    error: float
    middle: np.ndarray
    half: np.ndarray

    @property
    def bent(self) -> np.ndarray:
        """The entries that have more than one slope."""
        return np.flatnonzero(self.half > 0.0)


def _layers(
    matrices: Sequence[Matrix], slopes: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[_Layer]:
    layers, kept = list[_Layer](), slice(None)
    for index, matrix in enumerate(matrices):
        numbers = matrix.numbers[:, kept]
        middle, half = np.ones(len(numbers)), np.zeros(len(numbers))
        if index < len(slopes):
            low, high = slopes[index]
            middle = 0.5 * low + 0.5 * high
            half = np.maximum(high - middle, middle - low) * UP
        alive = (middle != 0.0) | (half > 0.0)
        layers.append(_Layer(numbers[alive], matrix.error, middle[alive], half[alive]))
        kept = alive
    return layers


def _equal(inner: np.ndarray) -> np.ndarray:
    """One weight for all: twice the largest eigenvalue."""
    return np.full(len(inner), 2.0 * float(largest_eigenvalues(inner)))


def _balanced(inner: np.ndarray) -> np.ndarray:
    """Twice the row sums of absolute values, scaled towards those of an eigenvector."""
    absolute = np.abs(inner)
    vector = np.sqrt(np.diagonal(inner))
    for _ in range(_BALANCINGS):
        vector = np.maximum(vector, _LEAST * vector.max(initial=0.0))
        vector = absolute @ vector
        vector = vector / vector.max(initial=TINY)
    vector = np.maximum(vector, _LEAST)
    return 2.0 * (absolute @ vector) / vector


_WEIGHTS = (_equal, _balanced)


def _guesses(
    layers: Sequence[_Layer], weigh: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[list[np.ndarray], float]]:
    """The roots t of each layer, and g; none where there is nothing to divide by."""
    roots, spread = list[np.ndarray](), np.zeros((0, 0))
    for index, layer in enumerate(layers):
        image = layer.matrix @ spread @ layer.matrix.T if index else layer.matrix @ layer.matrix.T
        bent = layer.bent
        inner = image[np.ix_(bent, bent)]
        inverse = weigh(inner) if len(bent) else np.ones(0)
        inverse = np.maximum(inverse, max(_LEAST * inverse.max(initial=0.0), TINY))
        try:
            gain = np.linalg.solve(np.diag(inverse) - inner, image[bent])
        except np.linalg.LinAlgError:
            return []
        image = image + image[:, bent] @ gain
        spread = layer.middle[:, None] * image * layer.middle
        spread[bent, bent] += layer.half[bent] ** 2 * inverse
        roots.append(1.0 / np.sqrt(inverse))
    largest = float(largest_eigenvalues(spread)) if len(spread) else 0.0
    return [(roots, math.sqrt(largest))] if 0.0 < largest < math.inf else []


def _proven(layers: Sequence[_Layer], roots: Sequence[np.ndarray], guess: float) -> float:
    """g, where the norm of N is proven to be at most 1."""
    rows, last, error, last_error = _operator(layers, roots)
    for margin in _MARGINS:
        bound = guess * (1.0 + margin)
        end = last / bound
        rest = math.hypot(error, last_error / bound + 2.0 * UNIT * frobenius_up(end)) * UP
        whole = np.concatenate([*rows, end])
        if np.isfinite(whole).all() and spectral_norm_bound(whole, _BELOW_ONE) + rest <= 1.0:
            return bound
    return math.inf


def _operator(
    layers: Sequence[_Layer], roots: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray, float, float]:
    """The rows of N, those of the output without g, and bounds of what is missing in them."""
    columns = layers[0].matrix.shape[1] + sum(map(len, roots))
    first = layers[0].matrix.shape[1]
    image, error = np.zeros((len(layers[0].matrix), columns)), layers[0].error
    image[:, :first] = layers[0].matrix
    rows, errors = list[np.ndarray](), list[float]()
    for layer, root, after in zip(layers, roots, layers[1:], strict=False):
        bent = layer.bent
        rows.append(root[:, None] * image[bent])
        errors.append(root.max(initial=0.0) * error + 2.0 * UNIT * frobenius_up(rows[-1]))
        states = layer.middle[:, None] * image
        beside = layer.half[bent] / root
        error = np.abs(layer.middle).max(initial=0.0) * error + 2.0 * UNIT * (
            frobenius_up(states) + beside.max(initial=0.0)
        )
        states[bent, first + np.arange(len(bent))] += beside
        first += len(bent)
        product = Matrix(after.matrix, 0, after.error).after(Matrix(states, 0, error * UP))
        image = np.ldexp(product.numbers, product.exponent)
        error = product_up(math.ldexp(product.error, product.exponent), UP)
    return rows, image, math.hypot(*errors) * UP if errors else 0.0, error
