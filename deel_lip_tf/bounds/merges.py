"""Calls in a functional graph that are not a layer with one input: merges, and Keras operations."""

from deel_lip_tf._keras import operation_name
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Call
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import Merge
from deel_lip_tf.semantics.rule import rule_for


def merge_of(call: Call, norm: Norm = L2) -> Merge | None:
    """How a call merges its inputs, or None where it is the call of a layer with one input.

    Raises:
        UnsupportedLayerError: if the operation, or the way it is called, has no rule.
    """
    if call.unsupported is not None:
        raise UnsupportedLayerError(call.unsupported)
    known = rule_for(call.operation)
    if known.knows("call_operator"):
        own, method = operator_bound(known.call_operator(call), norm)
        return Merge([own], False, method.replace("the kernel", "a constant matrix"))
    if known.knows("merge"):
        return known.merge(call, norm)
    if operation_name(call.operation):
        raise UnsupportedLayerError(
            "no rule is known for this operation; wrap it in a layer with a known one"
        )
    return None
