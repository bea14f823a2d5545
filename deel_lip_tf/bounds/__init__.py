"""Proofs: rigorous upper bounds on the Lipschitz constants of layers and of whole models.

`lipschitz_bound(layer_or_model)` is the entry, `report(model)` the same for reading, and
`local_lipschitz(model, x, radius)` holds near samples. `propagation` walks through a model,
`patterns` and `chains` know several calls together, `norms/` proves norms of linear operators,
`evaluation/` computes a model in float64 and bounds the rounding.
"""

from deel_lip_tf._lazy import public_names
from deel_lip_tf.bounds.local import local_lipschitz
from deel_lip_tf.bounds.propagation import lipschitz_bound
from deel_lip_tf.bounds.report import Report, report
from deel_lip_tf.bounds.result import ChainBound, LayerBound, LipschitzBound

__all__ = ["ChainBound", "LayerBound", "LipschitzBound", "Report", "lipschitz_bound"]
__all__ += ["local_lipschitz", "report"]

__dir__ = public_names(__name__)
