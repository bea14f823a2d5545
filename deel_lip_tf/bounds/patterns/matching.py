"""Which calls of a graph end a pattern."""

from deel_lip_tf.bounds.patterns.paddings import folded, padded
from deel_lip_tf.bounds.patterns.pattern import Pattern
from deel_lip_tf.bounds.patterns.potentials import potential
from deel_lip_tf.bounds.patterns.reductions import centering, root, safe_root
from deel_lip_tf.semantics.graph import Call


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
