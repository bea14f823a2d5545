"""Callbacks: condensing kernels, scheduling and printing loss parameters, watching singular values.

They rely only on `model.condense()`, `model.loss`, `layer.kernel` and `layer.wbar`, and on proofs
where these are asked for.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.callbacks.condensing import CondenseCallback
from deel_lip_tf.callbacks.loss_parameters import LossParamLog, LossParamScheduler
from deel_lip_tf.callbacks.monitoring import MonitorCallback

__all__ = ["CondenseCallback", "LossParamLog", "LossParamScheduler", "MonitorCallback"]

__dir__ = public_names(__name__)
