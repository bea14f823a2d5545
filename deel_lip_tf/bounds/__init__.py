"""Proofs: rigorous upper bounds on the Lipschitz constants of layers and of whole models.

`lipschitz_bound(layer_or_model)` is the entry, `report(model)` the same for reading. `kernels`,
`simple` and `operations` hold the tables of rules, `patterns` those for several calls together;
`graph` walks through a model; `matrices`, `symbol`, `fourier`, `convolutions` and `operators` prove
norms; `rounding` and `norms` hold the arithmetic that never rounds downward.
"""

from deel_lip_tf.bounds.graph import lipschitz_bound
from deel_lip_tf.bounds.report import Report, report
from deel_lip_tf.bounds.result import LayerBound, LipschitzBound

__all__ = ["LayerBound", "LipschitzBound", "Report", "lipschitz_bound", "report"]
