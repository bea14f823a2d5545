"""Dense layers with rising activations between them, bounded together by the norm of one matrix.

A product of norms supposes that what one layer stretches most is what the next one stretches most.
Slopes between 0 and 1 tell more: the differences `u_i = W_i d_(i-1)` before and `d_i` after an
activation satisfy `d_i' u_i >= ||d_i||**2`.

Theorem. For any positive numbers f_1 ... f_n let K be the matrix, from the even layers to the odd
ones, of the blocks `f_i W_i` for odd i and `(f_i W_i)'` for even i. The chain
`W_n s(W_(n-1) ... s(W_1 x))` has a Lipschitz constant of at most

    ||K||_2**n / (2**(n-1) f_1 ... f_n)

Proof. Divide every f by `||K||`. Then `2 sum_i f_i y_i' W_i y_(i-1) <= sum_i ||y_i||**2` for all y.
Take `y_i = a_i d_i` with `a_0 = 1`, `a_i = 2 f_i a_(i-1)` before the last, `a_n = f_n a_(n-1)`. The
term of an activation is at least `2 f_i a_i a_(i-1) ||d_i||**2 = ||y_i||**2` and cancels the one on
the right; what is left is `||y_n||**2 <= ||d_0||**2`, and `a_n = 2**(n-1) f_1 ... f_n`.

The factors are guessed from layer to layer (ECLipsE-Fast: Xu and Sivaranjani, 2024, NeurIPS); what
is proven is the norm of K, and holds whatever they are. Biases play no part.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from keras import activations

from deel_lip_tf._rounding import TINY, UNIT, UP, gamma, product_up, quotient_up
from deel_lip_tf.bounds.layers import layer_bound
from deel_lip_tf.bounds.norms.spectral import (
    frobenius_up,
    krylov_estimates,
    largest_eigenvalues,
    scaled_up,
    spectral_norm_bound,
)
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.functions import never_falls, proven_slope
from deel_lip_tf.semantics.graph import Call, Value
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.rules.dense import Dense
from deel_lip_tf.semantics.rules.identity import Identity
from deel_lip_tf.semantics.state import kernel_of

_FLOPS = 4e10  # what a chain may cost with a budget of 1: a second or two on one core
_LARGEST = 2**25  # entries of K
_DENSE_ORDER = 128  # beyond it the guess of an eigenvalue is one of a Krylov space


@dataclass(frozen=True)
class Matrix:
    """`2**exponent` times a matrix that is known up to an error.

    Attributes:
        numbers: (outputs, inputs), the largest entry between 1/2 and 1, unless all are zero.
        exponent: of the power of two.
        error: bound of the spectral norm of what is missing in `numbers`.
    """

    numbers: np.ndarray
    exponent: int
    error: float = 0.0

    @classmethod
    def of(cls, numbers: np.ndarray, exponent: int = 0, error: float = 0.0) -> Matrix:
        """`2**exponent` times numbers of any size."""
        own = math.frexp(np.abs(numbers).max(initial=0.0))[1]
        return cls(np.ldexp(numbers, -own), exponent + own, math.ldexp(error, -own))

    def after(self, first: Matrix) -> Matrix:
        """The product of the two, this one applied second."""
        left, right = self.numbers, first.numbers
        rounding = gamma(len(right) + 2) * frobenius_up(np.abs(left) @ np.abs(right)) + TINY
        carried = (
            self.error * (frobenius_up(right) + first.error) + frobenius_up(left) * first.error
        )
        exponent = self.exponent + first.exponent
        return Matrix.of(left @ right, exponent, (rounding + carried) * UP)


@dataclass(frozen=True)
class Chain:
    """Calls one after the other: dense layers, rising activations, and identities.

    Attributes:
        calls: all of them.
        stages: those of dense layers; the ones without an activation between them together.
        slope: product of the constants of the activations.
        is_linear: whether no activation has followed the last dense layer.
        is_closed: whether another one has, which may fall, or mixes entries.
    """

    calls: tuple[Call, ...]
    stages: tuple[tuple[Call, ...], ...]
    slope: float = 1.0
    is_linear: bool = True
    is_closed: bool = False

    @property
    def source(self) -> Value:
        """The tensor that the first call reads."""
        return self.calls[0].inputs[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the calls."""
        return tuple(call.name for call in self.calls)

    @property
    def sizes(self) -> list[float]:
        """How many entries the first layer reads and each layer writes."""
        ends = [self.source, *(call.outputs[0] for stage in self.stages for call in stage)]
        return [float(value.shape[-1] or math.inf) for value in ends]

    def bound(self) -> float:
        """A proven Lipschitz constant, in the Euclidean norm; inf where nothing is proven."""
        value = chain_norm_bound([_product_of(stage) for stage in self.stages])
        return product_up(value, self.slope)

    def rows(self) -> tuple[np.ndarray, float, float] | None:
        """Bounds all combinations of the outputs, of a chain that ends with a dense layer.

        The chain with an invertible R in the place of the last matrix W is bounded by a number, and
        `c' W d = (V c)' R d` up to a rest, of which the norm is proven to be small.

        Returns:
            `(V, constant, slack)`: the combination c of the outputs has a constant of at most
            `constant * (||V c|| + slack * ||c||)`; None where it would cost too much, or nothing is
            proven.
        """
        *hidden, last = [_product_of(stage) for stage in self.stages]
        if not (hidden and self.is_linear) or _flops([*self.sizes[:-1], self.sizes[-2]]) > _FLOPS:
            return None
        if (guess := _factors([matrix.numbers for matrix in hidden])) is None:
            return None
        try:
            root = np.linalg.cholesky(np.eye(len(guess.inner)) - 0.5 * guess.inner).T
            inverse = np.linalg.inv(root)
        except np.linalg.LinAlgError:  # the guess of an eigenvalue was less than half of it
            return None
        residual = _distance(np.eye(len(root)), inverse, root)
        if residual > 0.5:
            return None
        rows = inverse.T @ last.numbers.T
        rest = (_distance(last.numbers.T, root.T, rows) + last.error) * UP
        constant = chain_norm_bound([*hidden, Matrix.of(root)])
        constant = product_up(scaled_up(constant, last.exponent), self.slope)
        # ||inv(R)|| <= ||inverse|| / (1 - residual)
        return rows, constant, 2.0 * rest * frobenius_up(inverse) * UP


def _flops(sizes: Sequence[float]) -> float:
    """How many operations the bound of a chain of layers of these sizes takes, at most."""
    few, many = sorted((sum(sizes[0::2]), sum(sizes[1::2])))
    if few * many > _LARGEST:
        return math.inf
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    guesses = sum(2.0 * n * m * min(n, m) + 3.0 * m**3 for n, m in pairs)
    return guesses + 2.0 * few**2 * many + few**3


def find_chains(calls: Sequence[Call], budget: float = 1.0) -> dict[Call, Chain]:
    """The longest chains of two dense layers or more, by their last call.

    Args:
        calls: of a graph, in order.
        budget: chains that would cost more are left out: 1 stands for about a second.
    """
    found = dict[Value, Chain]()
    for call in calls:
        if not call.unsupported and len(call.inputs) == len(call.outputs) == 1:
            with contextlib.suppress(UnsupportedLayerError):  # who walks the graph names them
                if (chain := _extended(found.get(call.inputs[0]), call)) is not None:
                    found[call.outputs[0]] = chain
    extended = {call.inputs[0] for chain in found.values() for call in chain.calls[1:]}
    longest = [chain for value, chain in found.items() if value not in extended]
    return {
        chain.calls[-1]: chain
        for chain in longest
        if sum(map(len, chain.stages)) > 1 and _flops(chain.sizes) <= _FLOPS * budget
    }


def _extended(chain: Chain | None, call: Call) -> Chain | None:
    """The chain that ends with this call, or None."""
    known, layer = rule_for(call.operation), call.operation
    if isinstance(known, Dense):
        return _with_dense(chain, call)
    if chain is None or chain.is_closed:
        return None
    longer = replace(chain, calls=(*chain.calls, call))
    if isinstance(known, Identity):
        return longer
    if not known.knows("lipschitz"):
        return None
    slope, _ = layer_bound(layer, call.inputs[0].shape)
    if not known.never_falls(layer):
        return None
    return replace(longer, slope=product_up(chain.slope, slope), is_linear=False)


def _with_dense(chain: Chain | None, call: Call) -> Chain:
    if chain is None or chain.is_closed:
        chain = Chain((call,), ((call,),))
    elif chain.is_linear:
        stages = (*chain.stages[:-1], (*chain.stages[-1], call))
        chain = replace(chain, calls=(*chain.calls, call), stages=stages)
    else:
        stages = (*chain.stages, (call,))
        chain = replace(chain, calls=(*chain.calls, call), stages=stages, is_linear=True)
    activation = call.operation.activation
    if activation in (None, activations.linear):
        return chain
    slope = product_up(chain.slope, proven_slope(activation, input_shape=call.outputs[0].shape))
    return replace(chain, slope=slope, is_linear=False, is_closed=not never_falls(activation))


def _product_of(stage: Sequence[Call]) -> Matrix:
    """What dense layers without an activation between them multiply by."""
    first, *rest = (Matrix.of(kernel_of(call.operation).T) for call in stage)
    for matrix in rest:
        first = matrix.after(first)
    return first


def chain_norm_bound(matrices: Sequence[Matrix]) -> float:
    """Bounds the constant of a chain of matrices with slopes between 0 and 1 between them.

    Args:
        matrices: the one that is applied first, first.

    Returns:
        A proven upper bound, by the theorem of this module; inf where a matrix is zero, which the
        product of norms says better.
    """
    guess = _factors([matrix.numbers for matrix in matrices])
    if guess is None:
        return math.inf
    factors = guess.factors
    whole = _alternating([f * matrix.numbers for f, matrix in zip(factors, matrices, strict=True)])
    errors = sum(f * matrix.error for f, matrix in zip(factors, matrices, strict=True))
    # Each entry was rounded once.
    norm = (spectral_norm_bound(whole, 1.0) + 2.0 * UNIT * frobenius_up(whole) + errors + TINY) * UP
    value = 2.0
    for factor in factors:
        value = product_up(value, quotient_up(norm, 2.0 * factor))
    return scaled_up(value, sum(matrix.exponent for matrix in matrices))


@dataclass(frozen=True)
class _Guess:
    """The factors of a chain, and `W X**-1 W'` of its last matrix, over its largest eigenvalue."""

    factors: list[float]
    inner: np.ndarray


def _factors(matrices: Sequence[np.ndarray]) -> _Guess | None:
    """Factors for which the bound of the theorem is small, and `||K||` nearly 1; None of zeros.

    With `X_0 = I` and `l_i` twice the reciprocal of the largest eigenvalue of
    `W_i X_(i-1)**-1 W_i'`, the next X is `l_i I - l_i**2 W_i X_(i-1)**-1 W_i' / 4`: here all of it
    in multiples of `l_i`, so that nothing overflows.
    """
    factors, inner = list[float](), np.zeros((0, 0))
    for index, matrix in enumerate(matrices):
        is_first, is_last = index == 0, index == len(matrices) - 1
        image = matrix.T
        if not is_first:
            try:
                image = np.linalg.solve(2.0 * np.eye(len(inner)) - inner, image)
            except np.linalg.LinAlgError:
                return None
        inner = matrix @ image
        largest = _largest(inner, is_last)
        if not 0.0 < largest < math.inf:
            return None
        inner = inner / largest
        # 1 for a single matrix, sqrt(1/2) for the first and the last one, 1/2 between them.
        factors.append(0.5 ** (1.0 - 0.5 * (is_first + is_last)) / math.sqrt(largest))
    return _Guess(factors, inner)


def _largest(matrix: np.ndarray, is_last: bool) -> float:
    """The largest eigenvalue, or nearly: what is guessed before the last counts to second order.

    0 where there is none to divide by.
    """
    scale = float(np.diagonal(matrix).max())
    if not 0.0 < scale < math.inf:
        return 0.0
    scaled = (matrix / scale)[None]
    is_small = is_last or len(matrix) <= _DENSE_ORDER
    found = largest_eigenvalues(scaled) if is_small else krylov_estimates(scaled)
    return scale * max(float(found[0]), 1.0)


def _alternating(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """The matrix from the even layers to the odd ones."""
    sizes = [blocks[0].shape[1], *map(len, blocks)]
    ends = [np.cumsum([0, *sizes[parity::2]]) for parity in (0, 1)]
    whole = np.zeros((ends[1][-1], ends[0][-1]))
    for index, block in enumerate(blocks, 1):
        odd, even = (index, index - 1) if index % 2 else (index - 1, index)
        rows = slice(ends[1][odd // 2], ends[1][odd // 2 + 1])
        columns = slice(ends[0][even // 2], ends[0][even // 2 + 1])
        whole[rows, columns] = block if index % 2 else block.T
    return whole


def _distance(matrix: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Bounds the norm of `matrix - left @ right`."""
    rounding = gamma(len(right) + 4) * (np.abs(left) @ np.abs(right) + np.abs(matrix))
    return (frobenius_up(matrix - left @ right) + frobenius_up(rounding) + TINY) * UP
