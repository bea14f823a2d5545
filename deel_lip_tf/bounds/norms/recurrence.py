"""Recurrent layers: what one step adds to differences, summed up over a sequence.

Let `s(a)` bound the slope of the activation times the norm of `[K / a; R]`. With `u = x / a`,

    ||dh_t||**p <= s**p (||dh_(t-1)||**p + ||du_t||**p),

so that `||dh_t||**p <= sum_i s**(p i) ||du_(t+1-i)||**p` for every `a > 0`: the last state is
`a s max(1, s**(T - 1))`-Lipschitz in the sequence, and all of them together
`a || (s, s**2, ..., s**T) ||_p`. Where `[K; R]` is orthogonal, `a = s = 1`, which is 1 and
`sqrt(T)` in the Euclidean norm, and both are attained.

With `q` and `b` that bound the same of `R` and of `K`, `||dh_t|| <= b sum_i q**i ||dx_(t-i)||`, of
which Hoelder's and Young's inequality make `b || (1, q, ..., q**(T - 1)) ||_q`, with the dual norm,
and `b (1 + q + ... + q**(T - 1))`. The smaller number counts, and the best `a` is searched for:
the logarithm of what is proven is convex in that of `a`.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deel_lip_tf._rounding import TINY, UNIT, product_up, quotient_up, sum_up
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.bounds.norms.spectral import largest_eigenvalues
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.norms import L1, L2, LINF, Norm
from deel_lip_tf.semantics.operators import Recurrence

_MANY = 10**7  # steps, in place of an unknown number of them, for the search alone
_LEAST = 1e-290  # a norm below is not divided by
_COUNTED = 10**5  # powers that are added up one by one
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_NARROWINGS = 60
_FREQUENCIES = 4  # along each axis, at which convolutions are measured in a search
# An unknown number of steps needs `s <= 1` itself, which rounding may miss by a little.
_ADDED_UP = 1.0 + 1e-9  # more than what rounding makes of sums and powers of positive numbers
_ENLARGED = (1.0, 1.0 + 1e-9, 1.0 + 1e-6, 1.0 + 1e-5, 1.0 + 1e-4)


def recurrence_bound(
    recurrence: Recurrence, slope: float, norm: Norm, budget: float = 1.0
) -> tuple[float, str]:
    """Bounds a recurrent layer, from the norm of a sequence to that of its output.

    Args:
        recurrence: its kernels, taken as exact.
        slope: the constant of its activation in this norm.
        norm: of whole sequences and states.
        budget: work for each convolution.

    Returns:
        `(bound, method)`.

    Raises:
        UnsupportedLayerError: weights that are not finite, or no finite bound for the steps.
    """

    def norm_of(kernel: np.ndarray, norm: Norm = norm) -> float:
        return product_up(slope, operator_bound(recurrence.operator(kernel), norm, budget)[0])

    b, q = norm_of(recurrence.kernel), norm_of(recurrence.recurrent)
    # In each of the norms, of the operator with the absolute values of `K`: a root of its rank, or
    # more, times b; Schur's test.
    if recurrence.convolution is None:
        largest = math.sqrt(min(recurrence.kernel.shape)) * b
    else:
        largest = max(norm_of(recurrence.kernel, one) for one in (L1, LINF))
    steps, returns_all = recurrence.steps, recurrence.returns_all
    weights = norm.dual if not returns_all else L1
    best = product_up(b, _powers(q, steps, weights)) if b else 0.0
    for scale in _scales(recurrence, slope, norm, b, q) if b > _LEAST else ():
        joint = np.concatenate([recurrence.kernel / scale, recurrence.recurrent], axis=-2)
        # Each quotient is rounded.
        s = sum_up([norm_of(joint), product_up(2.0, UNIT * largest / scale), TINY])
        powers = _powers(s, steps, norm if returns_all else LINF)
        best = min(best, product_up(scale, s, powers))
    best = best if recurrence.factor == 1.0 else product_up(best, recurrence.factor)
    if math.isinf(best):
        raise UnsupportedLayerError(
            "its constant grows with the number of steps, which is not known: build it on "
            "`keras.Input((steps, inputs))`"
            if steps is None
            else f"what is proven of {steps} steps is larger than any float64: make its recurrent "
            "kernel smaller, or use SpectralSimpleRNN"
        )
    return best, "spectral norm of both kernels, through time" if norm == L2 else (
        "sums of absolute values, through time"
    )


@dataclass(frozen=True)
class StepErrors:
    """A step is wrong by at most `of_inputs ||x_t|| + of_state ||h_(t-1)|| + constant`."""

    of_inputs: float
    of_state: float
    constant: float


def through_time(
    recurrence: Recurrence, slope: float, start: float, errors: StepErrors
) -> tuple[float, float]:
    """What errors of each step make of the output of a recurrence, in the Euclidean norm.

    With q the constant in the state and that share of it, `q + of_state`, and b the one in the
    input, errors obey `e_t <= q e_(t-1) + of_inputs ||x_t|| + of_state ||h_(t-1)|| + constant`, so
    that those of a step count `q**i` times after i others. Of what states are, there are two
    bounds: `sum_i q**i (b ||x_(t-i)|| + start)`, in which growth is counted once, and
    the constant of the last state, which is smaller where nothing grows.

    Args:
        recurrence: with a known number of steps.
        slope: the constant of its activation.
        start: a bound of the norm of a state whose inputs are zero.
        errors: of one step.

    Returns:
        `(relative, absolute)`: the output is wrong by at most `relative ||x|| + absolute`.
    """
    steps = recurrence.steps or 0
    state = product_up(slope, operator_bound(recurrence.operator(recurrence.recurrent))[0])
    inputs = operator_bound(recurrence.operator(recurrence.kernel))[0]
    inputs = product_up(slope, recurrence.factor, inputs)
    whole, _ = recurrence_bound(replace(recurrence, returns_all=False), slope, L2)
    growth, after = (state + errors.of_state) * _ADDED_UP, np.arange(steps)
    of_states = absolute = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        powers = growth**after
        before = np.concatenate([[0.0], powers[:-1]])
        once = errors.of_inputs * powers + errors.of_state * inputs * after * before
        added = errors.of_inputs * powers, errors.of_state * whole * before.sum()
        for _ in range(steps):
            absolute = growth * absolute + errors.of_state * of_states + errors.constant
            of_states = state * of_states + start
        if recurrence.returns_all:
            absolute *= math.sqrt(steps)
            relative = min(once.sum(), added[0].sum() + math.sqrt(steps) * added[1])
        else:
            relative = min(np.linalg.norm(once), np.linalg.norm(added[0]) + added[1])
    known = [float(x) * _ADDED_UP if x >= 0.0 else math.inf for x in (relative, absolute)]
    return known[0], known[1]


def absolute_norms(recurrence: Recurrence) -> tuple[float, float]:
    """The norms of the operators with the absolute values of the kernels, the factor included."""
    of_inputs, of_state = (
        operator_bound(recurrence.operator(np.abs(kernel)))[0]
        for kernel in (recurrence.kernel, recurrence.recurrent)
    )
    return product_up(recurrence.factor, of_inputs), of_state


def _powers(base: float, steps: int | None, norm: Norm) -> float:
    """The norm of `(1, base, ..., base**(steps - 1))`, rounded upward; infinite if it has none."""
    if norm == LINF:
        return 1.0 if base <= 1.0 else _power(base, steps)
    order = 1 if norm == L1 else 2
    ratio = base if order == 1 else product_up(base, base)
    if ratio < 1.0:
        whole = quotient_up(1.0, math.nextafter(1.0 - ratio, 0.0))
    else:
        whole = math.inf if steps is None else product_up(float(steps), _power(ratio, steps))
    if steps is not None and steps <= _COUNTED:
        added = sum_up(itertools.accumulate([1.0, *[ratio] * (steps - 1)], product_up))
        whole = min(whole, added)
    return whole if order == 1 else math.nextafter(math.sqrt(whole), math.inf)


def _power(base: float, steps: int | None) -> float:
    """`base**(steps - 1)` of a base of at least 1."""
    if steps is None:
        return 1.0 if base == 1.0 else math.inf
    try:
        # A power is wrong by a unit or two.
        return 1.0 if base == 1.0 else base ** (steps - 1) * (1.0 + 1e-15)
    except OverflowError:
        return math.inf


def _scales(recurrence: Recurrence, slope: float, norm: Norm, b: float, q: float) -> list[float]:
    """About the best `a`; some that are larger too where the number of steps is not known."""
    steps = recurrence.steps or _MANY
    measured = _measure(recurrence.kernel / b, recurrence.recurrent, slope, norm)
    order = {"l2": 2.0, "l1": 1.0, "linf": math.inf}[norm.name]

    def proven(logarithm: float) -> float:
        s = math.log(max(measured(math.exp(logarithm)), 1e-300))
        added = 0.0
        if recurrence.returns_all and order < math.inf:
            # log of the sum of s**(order i), without overflow
            exponents = order * s * np.arange(min(steps, _COUNTED))
            added = float(np.logaddexp.reduce(exponents)) / order
        elif s > 0.0:
            added = (steps - 1) * s
        return logarithm + s + added

    low = -math.log(1e3 * max(1.0, q))
    high = 0.5 * math.log(steps) + math.log(16.0) - math.log(min(1.0, max(q, 1e-3)))
    best = b * math.exp(_minimum(proven, low, high))
    return [best] if recurrence.steps is not None else [best * factor for factor in _ENLARGED]


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a convex function is least, by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_NARROWINGS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return left if at_left <= at_right else right


def _measure(
    kernel: np.ndarray, recurrent: np.ndarray, slope: float, norm: Norm
) -> Callable[[float], float]:
    """About `s(a)`."""
    if norm == L2:
        inputs, state = (_gram(each) for each in (kernel, recurrent))
        return lambda a: (
            slope * math.sqrt(max(float(largest_eigenvalues(inputs / a**2 + state).max()), 0.0))
        )
    taps = tuple(range(kernel.ndim - 2))
    if norm == LINF:
        sums = (np.abs(each).sum(axis=(*taps, -2)) for each in (kernel, recurrent))
        of_inputs, of_state = sums
        return lambda a: slope * float((of_inputs / a + of_state).max())
    largest = [np.abs(each).sum(axis=(*taps, -1)).max() for each in (kernel, recurrent)]
    return lambda a: slope * float(max(largest[0] / a, largest[1]))


def _gram(kernel: np.ndarray) -> np.ndarray:
    """Gram matrices of a kernel, of a convolution at some frequencies."""
    if kernel.ndim > 2:
        sizes, axes = (
            [max(_FREQUENCIES, size) for size in kernel.shape[:-3]],
            range(kernel.ndim - 3),
        )
        kernel = np.fft.fftn(kernel, sizes, tuple(axes)).reshape(-1, *kernel.shape[-2:])
    return np.swapaxes(kernel.conj(), -1, -2) @ kernel
