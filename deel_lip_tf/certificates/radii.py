"""From logits, their errors and divisors to radii: the formulas, rounded towards 0."""

from typing import NamedTuple

import numpy as np

from deel_lip_tf._rounding import gamma, sqrt_up


class Evaluated(NamedTuple):
    """What is known of the logits of a batch.

    Attributes:
        logits: (n, classes) float64.
        errors: (n,) Euclidean distance to the logits that the certificate is about.
        growth: how much more that may be, for each unit of distance from the sample.
        reach: (n,) distance up to which all this is known.
    """

    logits: np.ndarray
    errors: np.ndarray
    growth: float
    reach: np.ndarray


class Radii(NamedTuple):
    """(n,) labels, radii and margins."""

    label: np.ndarray
    radius: np.ndarray
    margin: np.ndarray


def predicted(logits: np.ndarray) -> np.ndarray:
    """(n,) labels of logits (n, classes); of one logit, whether it is positive."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    return np.argmax(logits, axis=1)


def certified_radii(evaluated: Evaluated, label: np.ndarray, divisors: np.ndarray) -> Radii:
    """The radius within which the label stays what it is.

        min over j != t of (f_t - f_j - sqrt(2) error) / (divisor_j + sqrt(2) growth)

    and for one logit `(|f| - error) / (divisor + growth)`. 0 for ties and for what is not finite.

    Args:
        evaluated: the logits.
        label: (n,) what they predict, t.
        divisors: (n, classes) how fast `f_t - f_j` may change, sample by sample; (n, 1) for one
            logit.
    """
    gaps, ratios = gap_radii(evaluated, label, divisors)
    radius = np.minimum(ratios.min(axis=1), evaluated.reach)
    radius = downward(radius, evaluated.logits, evaluated.errors)
    return Radii(label, radius, gaps.min(axis=1))


def gap_radii(
    evaluated: Evaluated, label: np.ndarray, divisors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n, classes) gaps of the logit of `label` to each other, and how far from 0 each one stays.

    Both are infinite for the label itself. Of one logit, (n, 1): it and how far it stays from 0.
    Arguments as `certified_radii`.
    """
    logits, errors, growth, _ = evaluated
    if logits.shape[1] == 1:
        gaps = np.abs(logits)
        with np.errstate(all="ignore"):
            return gaps, (gaps - errors[:, None]) / (divisors + growth)
    own = np.arange(len(logits)), label
    with np.errstate(all="ignore"):
        gaps = logits[own][:, None] - logits
        # The rounding of the gap itself is relative, as is that of the quotient.
        safe = gaps * (1.0 - gamma(4)) - (sqrt_up(2.0) * (1.0 + gamma(4)) * errors)[:, None]
        ratios = safe / (divisors + sqrt_up(2.0) * growth)
        ratios = np.where((gaps > 0) & np.isfinite(gaps), ratios, 0.0)
    gaps[own] = ratios[own] = np.inf
    return gaps, ratios


def downward(radius: np.ndarray, logits: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Radii rounded towards 0; 0 for those that are negative or come from non-finite numbers."""
    valid = np.isfinite(logits).all(axis=1) & np.isfinite(errors) & (radius > 0)
    return np.where(valid, np.nextafter(radius * (1.0 - gamma(8)), 0.0), 0.0)
