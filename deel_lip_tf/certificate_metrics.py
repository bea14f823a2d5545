"""The former name of `deel_lip_tf.metrics.certified`."""

from deel_lip_tf.metrics.certified import (
    Certificate_Binary,
    Certificate_Multiclass,
    CertifiedRobustAccuracy,
)

__all__ = ["Certificate_Binary", "Certificate_Multiclass", "CertifiedRobustAccuracy"]
