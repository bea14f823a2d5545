"""From logits and bounds to certified radii.

`certify(model, x, y)` is the entry; it returns `Certificates`. `proofs` holds how fast the gap of
two logits may change, `execution` and `roundings` what float32 adds, `local` what holds in the
neighbourhood of one sample, `weights` what holds for models nearby, `radii` the formulas, and
`result` what is returned. What is proven of a model travels with its export by
`export_certificate(model, path)`, and `load(path)` reads it. `statements` certifies more than one
label: regressions, segmentations, the k largest logits, and conformal sets.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.certificates.certification import certify
from deel_lip_tf.certificates.exported import ExportCertificate, export_certificate, load
from deel_lip_tf.certificates.proofs import margin_lipschitz_constants
from deel_lip_tf.certificates.result import Certificates
from deel_lip_tf.certificates.statements.conformal import (
    ConformalScores,
    ConformalSets,
    conformal_scores,
    conformal_sets,
)
from deel_lip_tf.certificates.statements.regression import CertifiedIntervals, certify_regression
from deel_lip_tf.certificates.statements.segmentation import (
    SegmentationCertificates,
    certify_segmentation,
)
from deel_lip_tf.certificates.statements.top_k import TopKCertificates, certify_top_k

__all__ = ["Certificates", "ExportCertificate", "certify", "class_divisors", "export_certificate"]
__all__ += ["load", "margin_lipschitz_constants"]
__all__ += ["CertifiedIntervals", "ConformalScores", "ConformalSets", "SegmentationCertificates"]
__all__ += ["TopKCertificates", "certify_regression", "certify_segmentation", "certify_top_k"]
__all__ += ["conformal_scores", "conformal_sets"]

__dir__ = public_names(__name__)

class_divisors = margin_lipschitz_constants  # its first name, which stays
