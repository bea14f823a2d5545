"""Callbacks: condensing, loss parameters, singular values, backups, NaN.

They rely only on `model.condense()`, `model.loss`, `layer.kernel` and `layer.wbar`, and on proofs
where these are asked for.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.callbacks.backup import SafeBackup
from deel_lip_tf.callbacks.condensing import CondenseCallback
from deel_lip_tf.callbacks.explaining import ExplainNaN
from deel_lip_tf.callbacks.loss_parameters import LossParamLog, LossParamScheduler
from deel_lip_tf.callbacks.monitoring import MonitorCallback

__all__ = [
    "CondenseCallback",
    "ExplainNaN",
    "LossParamLog",
    "LossParamScheduler",
    "MonitorCallback",
    "SafeBackup",
]

__dir__ = public_names(__name__)
