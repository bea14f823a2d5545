"""deel-lip's name of `deel_lip_tf.estimates.lipschitz`, and of a function of its losses."""

from deel_lip_tf.estimates.lipschitz import (
    evaluate_lip_const,
    evaluate_lip_const_gen,
    l2_normalize,
)
from deel_lip_tf.losses.formulas import process_labels_for_multi_gpu

__all__ = [
    "evaluate_lip_const",
    "evaluate_lip_const_gen",
    "l2_normalize",
    "process_labels_for_multi_gpu",
]
