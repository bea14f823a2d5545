"""Metrics: provable robustness and the exact Kantorovich-Rubinstein difference of an epoch.

All are `keras.metrics.Metric`: they accumulate sums and counts, so that the value is exact over
batches of unequal sizes and with sample weights. A NaN label is refused where its value can be
seen; in a traced step such a sample counts as not certified, and makes a Kantorovich-Rubinstein
difference NaN. Those named `Provable` trust the Lipschitz constant they are given and compute in
the metric's dtype; `deel_lip_tf.certificates.certify` proves the constant and rounds outward, and
so do `CertifiedRobustAccuracy`, `Certificate_Multiclass` and `Certificate_Binary`.
"""

from typing import TYPE_CHECKING

from deel_lip_tf._lazy import found_when_asked_for
from deel_lip_tf.metrics.kr import KR, MulticlassKR
from deel_lip_tf.metrics.provable import (
    BinaryProvableAvgRobustness,
    BinaryProvableRobustAccuracy,
    CategoricalProvableAvgRobustness,
    CategoricalProvableRobustAccuracy,
)

if TYPE_CHECKING:
    from deel_lip_tf.metrics.certified import (
        Certificate_Binary,
        Certificate_Multiclass,
        CertifiedRobustAccuracy,
    )

# They prove the constant of their model: whoever trusts one does without what that imports.
__getattr__, __dir__ = found_when_asked_for(
    __name__,
    {
        "deel_lip_tf.metrics.certified": (
            "Certificate_Binary",
            "Certificate_Multiclass",
            "CertifiedRobustAccuracy",
        )
    },
)

__all__ = [
    "BinaryProvableAvgRobustness",
    "BinaryProvableRobustAccuracy",
    "CategoricalProvableAvgRobustness",
    "CategoricalProvableRobustAccuracy",
    "Certificate_Binary",
    "Certificate_Multiclass",
    "CertifiedRobustAccuracy",
    "KR",
    "MulticlassKR",
]
