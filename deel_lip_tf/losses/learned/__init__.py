"""Losses that learn their margins, one per output, together with the network.

The hinge wants small margins `theta`, a reward of weight `alpha_margin` wants large ones; where
they balance, a known fraction of the samples lies inside the margin, and this fraction is what
`alpha_margin` really sets:

| loss                                      | fraction inside | reached value              |
|-------------------------------------------|-----------------|----------------------------|
| `HingeMarginAuto`, `HKRauto`, `C` outputs | `P_c`           | `2 C alpha_margin`         |
| `Multiclass...Auto`, `soft_hinge_tau = 0` | `Q_c`           | `alpha_margin C / (C - 1)` |
| `Multiclass...Auto`, `soft_hinge_tau > 0` | `Q_c`           | `alpha_margin`             |

`P_c = P(s f_c < theta_c / 2)`, and among the samples of class `c`
`Q_c = E[1[f_c < theta_c/2] + mean_{j != c} 1[-f_j < theta_c/2]] / 2`, with the weights of the
softmax in the mean where there is one. The rows on `Q_c` hold for batches that contain all classes
and classes of frequency `1/C`; for another frequency `p_c`, `Q_c` is larger by `1 / (C p_c)`.

Derivation: the derivative of the expected loss in `theta_c` is half the weight of the active hinges
minus the weight of the reward; set it to zero. A fraction of 1 or more cannot be reached: the
margins then grow up to `max_margin`, and a warning says so. The weight `alpha` of the HKR forms
multiplies both terms and changes no fraction; with `alpha = 0` the margins stay as they are.

Two limits. A network that leaves more samples than that inside `min_margin` already keeps its
margins at `min_margin`. And where `2 C alpha_margin` exceeds the share of the rarer label of an
output, the hinge alone is content with one answer for all, and the margin grows to `max_margin`;
the KR term works against that.
"""

from deel_lip_tf.losses.learned.classes import MulticlassHingeAuto, MulticlassHKRauto
from deel_lip_tf.losses.learned.margins import LearnedMargins
from deel_lip_tf.losses.learned.outputs import HingeMarginAuto, HKRauto

__all__ = [
    "HKRauto",
    "HingeMarginAuto",
    "LearnedMargins",
    "MulticlassHKRauto",
    "MulticlassHingeAuto",
]
