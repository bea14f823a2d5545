"""torchlip's name of `deel_lip_tf.estimates.singular_values`."""

from deel_lip_tf.estimates.singular_values import compute_layer_sv, compute_model_sv

__all__ = ["compute_layer_sv", "compute_model_sv"]
