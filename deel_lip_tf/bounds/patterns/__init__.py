"""Groups of calls that are bounded together, because apart they have no bound, or a worse one.

* A root of sums of squares. With `y_j = sum_i M_ji x_i**2`, `M >= 0`, the map `x -> sqrt(y)` is a
  Euclidean norm of weighted entries for each j, so that
  `||sqrt(y) - sqrt(y')||_2**2 <= sum_ij M_ji (x_i - x'_i)**2 <= (largest column sum of M) ||x -
  x'||_2**2`.
* `x - mean(x)`, an orthogonal projection.
* Copies of entries as a padding makes them, with the convolution they are made for, or the adjoint:
  a transposed convolution with the sums that fold its border back.
* `x - 2 V relu(V^T x + c)`, the input minus the gradient of a convex function: exported potentials.
"""

from deel_lip_tf.bounds.patterns.paddings import folded, padded
from deel_lip_tf.bounds.patterns.pattern import Pattern
from deel_lip_tf.bounds.patterns.potentials import potential
from deel_lip_tf.bounds.patterns.reductions import centering, root, safe_root
from deel_lip_tf.semantics.graph import Call

__all__ = ["Pattern", "find_patterns"]


def find_patterns(calls: list[Call]) -> dict[Call, Pattern]:
    """The patterns among the calls of a graph, by their last call."""
    found = {}
    for call in calls:
        for match in _MATCHES.get(type(call.operation).__name__, ()):
            pattern = match(call)
            if pattern is not None and not any(c.unsupported for c in (call, *pattern.inner)):
                found[call] = pattern
                break
    return found


_MATCHES = {
    "Add": (potential,),
    "Sqrt": (root,),
    "Where": (safe_root,),
    "Subtract": (centering,),
    "Einsum": (folded,),
    "Conv1D": (padded,),
    "Conv2D": (padded,),
    "Conv3D": (padded,),
    "DepthwiseConv1D": (padded,),
    "DepthwiseConv2D": (padded,),
}
