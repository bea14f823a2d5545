"""Losses for Lipschitz networks. The formulas themselves are in `deel_lip_tf.losses.formulas`."""

from typing import TYPE_CHECKING

from deel_lip_tf._lazy import found_when_asked_for
from deel_lip_tf.losses.base import ParametricLoss
from deel_lip_tf.losses.certified import EMMA, GloRo
from deel_lip_tf.losses.crossentropy import (
    LogitAnnealing,
    OffsetCrossentropy,
    TauBinaryCrossentropy,
    TauCategoricalCrossentropy,
    TauSparseCategoricalCrossentropy,
)
from deel_lip_tf.losses.formulas import (
    alpha_from_torchlip,
    hinge_margin,
    multiclass_hinge,
    process_labels_for_multi_gpu,
)
from deel_lip_tf.losses.hinge import CategoricalHinge, HingeMargin, MulticlassHinge, MultiMargin
from deel_lip_tf.losses.kantorovich import HKR, KR, LseHKR, MulticlassHKR, MulticlassKR, NegKR
from deel_lip_tf.losses.learned import (
    HingeMarginAuto,
    HKRauto,
    MulticlassHingeAuto,
    MulticlassHKRauto,
)
from deel_lip_tf.losses.soft import MulticlassSoftHKR

if TYPE_CHECKING:
    from deel_lip_tf.metrics.certified import Certificate_Binary as Certificate_Binary
    from deel_lip_tf.metrics.certified import Certificate_Multiclass as Certificate_Multiclass
    from deel_lip_tf.metrics.certified import CertifiedRobustAccuracy as CertifiedRobustAccuracy

# The users of deel-lip look for these among the losses. They stand above all that they prove with.
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
    "EMMA",
    "HKR",
    "HKRauto",
    "KR",
    "CategoricalHinge",
    "GloRo",
    "HingeMargin",
    "HingeMarginAuto",
    "LogitAnnealing",
    "LseHKR",
    "MultiMargin",
    "MulticlassHKR",
    "MulticlassHKRauto",
    "MulticlassHinge",
    "MulticlassHingeAuto",
    "MulticlassKR",
    "MulticlassSoftHKR",
    "NegKR",
    "OffsetCrossentropy",
    "ParametricLoss",
    "TauBinaryCrossentropy",
    "TauCategoricalCrossentropy",
    "TauSparseCategoricalCrossentropy",
    "alpha_from_torchlip",
    "hinge_margin",
    "multiclass_hinge",
    "process_labels_for_multi_gpu",
]
