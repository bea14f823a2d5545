"""Proofs: rigorous upper bounds on the Lipschitz constants of layers and of whole models.

`lipschitz_bound(layer_or_model)` is the entry. `layers` and `operations` hold the tables of rules,
`graph` walks through a model, `matrices`, `fourier` and `convolutions` prove norms, and `rounding`
holds the arithmetic that never rounds downward.
"""

from deel_lip_tf.bounds.graph import lipschitz_bound
from deel_lip_tf.bounds.result import LayerBound, LipschitzBound

__all__ = ["LayerBound", "LipschitzBound", "lipschitz_bound"]
