"""What each kind of layers computes: one class a kind, one file a family.

`deel_lip_tf.semantics.rule` is the registry that is filled here, and says what a class answers.
"""

from deel_lip_tf.semantics.rules import (
    activation,
    convolution,
    data_movement,
    dense,
    identity,
    merging,
    normalization,
    operations,
    pooling,
    potential,
    sorting,
    unsupported,
    wrappers,
)

__all__ = ["activation", "convolution", "data_movement", "dense", "identity", "merging"]
__all__ += ["normalization", "operations", "pooling", "potential", "sorting", "unsupported"]
__all__ += ["wrappers"]
