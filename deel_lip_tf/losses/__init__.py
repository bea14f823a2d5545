"""Losses for Lipschitz networks. The formulas themselves are in `deel_lip_tf.losses.formulas`."""

from deel_lip_tf.losses.base import ParametricLoss
from deel_lip_tf.losses.crossentropy import (
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

__all__ = [
    "HKR",
    "KR",
    "CategoricalHinge",
    "HingeMargin",
    "LseHKR",
    "MultiMargin",
    "MulticlassHKR",
    "MulticlassHinge",
    "MulticlassKR",
    "NegKR",
    "ParametricLoss",
    "TauBinaryCrossentropy",
    "TauCategoricalCrossentropy",
    "TauSparseCategoricalCrossentropy",
    "alpha_from_torchlip",
    "hinge_margin",
    "multiclass_hinge",
    "process_labels_for_multi_gpu",
]
