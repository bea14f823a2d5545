"""Which neurons cost a bound most, and which one of a part is split next.

Filtered smart branching (De Palma et al. 2021, arXiv:2104.06718): a few neurons whose lines cost a
bound most, after the score of Bunel et al. (2020, "Branch and bound for piecewise linear neural
network verification"), are split on trial, with the slopes as they are; the one whose halves gain
most, taken together, is chosen.
"""

import numpy as np

from deel_lip_tf.verify.search.signs.ascent import Numbers
from deel_lip_tf.verify.search.signs.chain import Chain, Known, Lines, Rows, lines_of

_BELOW = 0.25  # weight of the gap of a line whose slope is free
_LEAST = 1e-3  # gain that counts for each half, relative to what is lacking
_AHEAD = 0.1  # weight of what is gained by smaller intervals, of which all is an upper bound


def costs_of(chain: Chain, rows: Rows, numbers: Numbers, known: Known) -> np.ndarray:
    """(n, neurons) what the lines of a neuron cost the bounds of n parts at most.

    Of a neuron whose sign is known, -1.
    """
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float32)
    weights = numbers.shares @ rows.matrix.astype(np.float32)
    chain.backward(weights, np.zeros(len(weights), np.float32), lines)
    bent = weights[:, chain.before :] * (1 - chain.slopes)
    low, high = known.low.astype(np.float32), known.high.astype(np.float32)
    under = np.maximum(-numbers.alphas * low, (1 - numbers.alphas) * high)
    cost = np.where(bent < 0, -bent * lines.over, _BELOW * bent * under)
    cost = np.where(np.isfinite(cost), cost, 0.0)
    return np.where(known.signs == 0, cost, -1.0)


def branching_neurons(
    chain: Chain, rows: Rows, numbers: Numbers, known: Known, count: int, looks_ahead: bool
) -> np.ndarray:
    """(n,) the neuron to split, or -1 where none is left.

    Args:
        chain: the network.
        rows: whose sums are bounded.
        numbers: of n parts.
        known: of the parts.
        count: neurons of a part that are split on trial.
        looks_ahead: whether intervals of later neurons count.
    """
    if not chain.neurons:
        return np.full(len(known.splits), -1)
    costs = costs_of(chain, rows, numbers, known)
    lines = lines_of(known, numbers.alphas, numbers.betas, np.float32)
    start = numbers.shares @ rows.matrix.astype(np.float32)
    ahead = _AHEAD * _saved(chain, start, known, lines) if looks_ahead else np.zeros_like(costs)
    tried = np.argsort(-np.where(costs >= 0, costs + ahead, -1.0), axis=1, kind="stable")
    tried = tried[:, :count]
    is_open, later = (np.take_along_axis(part, tried, axis=1) for part in (costs >= 0, ahead))
    constant = numbers.shares @ rows.constant.astype(np.float32)
    value = chain.backward(start.copy(), constant, lines)[:, None]
    halves = [_on_trial(chain, start, constant, lines, tried, side) for side in (1.0, 0.0)]
    lack = np.maximum(-value, 0.0) + np.float32(1e-30)
    gains = np.clip((np.stack(halves) - value + later) / lack, _LEAST, 1.0)
    product = np.where(np.isfinite(gains), gains, _LEAST).prod(axis=0)
    best = np.where(is_open, product, -1.0).argmax(axis=1)
    return np.where(is_open.any(axis=1), tried[np.arange(len(tried)), best], -1)


def _saved(chain: Chain, start: np.ndarray, known: Known, lines: Lines) -> np.ndarray:
    """(n, neurons) what lines of later neurons cost bounds because of the lines of a neuron.

    A chord costs `-low high / (high - low)`, whose derivatives by its ends are at most the squares
    of their shares of the width; and an end moves by the weight of a neuron times how far its lines
    are apart.
    """
    weights = start.copy()
    chain.backward(weights, np.zeros(len(weights), np.float32), lines)
    low, high = known.low.astype(np.float32), known.high.astype(np.float32)
    share = np.maximum(-low, high) / (high - low)
    negative = np.maximum(-weights[:, chain.before :] * (1 - chain.slopes), 0)
    sensitive = np.where(known.signs == 0, negative * share * share, 0)
    saved = np.zeros_like(low)
    for layer in range(1, chain.layers):
        own = chain.neurons_of(layer)
        saved[:, : own.start] += sensitive[:, own] @ chain.steepness(layer)
    return np.nan_to_num(saved * lines.over, posinf=0.0, neginf=0.0)


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
