"""Operations of `keras.ops` in a functional graph, by the names of their classes.

None that has a float32 rule adds up many entries but a contraction: the evaluation of certificates
allows for the rounding of a few operations only.
"""

from deel_lip_tf.semantics.rules.operations import (
    arithmetic,
    contraction,
    elementwise,
    movement,
    reduction,
)

__all__ = ["arithmetic", "contraction", "elementwise", "movement", "reduction"]
