"""Which neurons cost a bound most, and which one of a part is split next.

Filtered smart branching (De Palma et al. 2021, arXiv:2104.06718): a few neurons whose lines cost a
bound most, after the score of Bunel et al. (2020, "Branch and bound for piecewise linear neural
network verification"), are split on trial, with the slopes as they are; the one whose halves gain
most, taken together, is chosen.
"""

import numpy as np

from deel_lip_tf.verify.search.signs.ascent import Numbers
from deel_lip_tf.verify.search.signs.chain import Chain, Known, Lines, Rows, lines_of

__all__ = ["branching_neurons", "costs_of"]

_TRIED = 16  # neurons of a part
_BELOW = 0.25  # weight of the gap of a line whose slope is free
_LEAST = 1e-3  # gain that counts for each half, relative to what is lacking


def costs_of(chain: Chain, rows: Rows, numbers: Numbers, known: Known) -> np.ndarray:
    """(n, neurons) what the lines of a neuron cost the bounds of n parts at most.

    Of a neuron whose sign is known, -1.
    """
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float32)
    weights = numbers.shares @ rows.matrix.astype(np.float32)
    chain.backward(weights, np.zeros(len(weights), np.float32), lines)
    bent = weights[:, chain.inputs :] * (1 - chain.slopes)
    low, high = known.low.astype(np.float32), known.high.astype(np.float32)
    under = np.maximum(-numbers.alphas * low, (1 - numbers.alphas) * high)
    cost = np.where(bent < 0, -bent * lines.over, _BELOW * bent * under)
    cost = np.where(np.isfinite(cost), cost, 0.0)
    return np.where(known.signs == 0, cost, -1.0)


def branching_neurons(chain: Chain, rows: Rows, numbers: Numbers, known: Known) -> np.ndarray:
    """(n,) the neuron to split, or -1 where none is left."""
    if not chain.neurons:
        return np.full(len(known.splits), -1)
    costs = costs_of(chain, rows, numbers, known)
    tried = np.argsort(-costs, axis=1, kind="stable")[:, :_TRIED]
    is_open = np.take_along_axis(costs, tried, axis=1) >= 0
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float32)
    start = numbers.shares @ rows.matrix.astype(np.float32)
    constant = numbers.shares @ rows.constant.astype(np.float32)
    value = chain.backward(start.copy(), constant, lines)[:, None]
    halves = [_on_trial(chain, start, constant, lines, tried, side) for side in (1.0, 0.0)]
    lack = np.maximum(-value, 0.0) + np.float32(1e-30)
    gains = np.clip((np.stack(halves) - value) / lack, _LEAST, 1.0)
    product = np.where(np.isfinite(gains), gains, _LEAST).prod(axis=0)
    best = np.where(is_open, product, -1.0).argmax(axis=1)
    return np.where(is_open.any(axis=1), tried[np.arange(len(tried)), best], -1)


def _on_trial(
    chain: Chain,
    start: np.ndarray,
    constant: np.ndarray,
    lines: Lines,
    tried: np.ndarray,
    slope: float,
) -> np.ndarray:
    """(n, tried) bounds where one neuron is `slope` times what it reads."""
    count, each = tried.shape
    place = np.arange(count * each), tried.ravel()
    below, above, over, added = (np.repeat(line, each, axis=0) for line in lines)
    below[place] = above[place] = slope
    over[place] = 0.0
    changed = Lines(below, above, over, added)
    found = chain.backward(np.repeat(start, each, axis=0), np.repeat(constant, each), changed)
    return found.reshape(count, each)
