"""Certified training: plain Keras classifiers that are trained to be verified."""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.training.certified import CertifiedModel
from deel_lip_tf.training.schedules import Ramp

__all__ = ["CertifiedModel", "Ramp"]

__dir__ = public_names(__name__)
