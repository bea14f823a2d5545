"""Calls in a functional graph that are not a layer with one input: merges, and Keras operations."""

import functools
from collections.abc import Callable

from deel_lip_tf._keras import operation_name
from deel_lip_tf.bounds.norms.operators import operator_bound
from deel_lip_tf.errors import UnsupportedLayerError
from deel_lip_tf.semantics.graph import Call
from deel_lip_tf.semantics.norms import L2, Norm
from deel_lip_tf.semantics.operators import Merge
from deel_lip_tf.semantics.rule import rule_for

__all__ = ["is_merge", "merge_of", "merge_rule"]


def is_merge(operation) -> bool:
    """Whether an operation is not a layer with one input."""
    known = rule_for(operation)
    return bool(operation_name(operation)) or (known is not None and known.knows("merge"))


def merge_of(call: Call, norm: Norm = L2) -> Merge | None:
    """How a call merges its inputs, or None where it is the call of a layer with one input.

    Raises:
        UnsupportedLayerError: if the operation, or the way it is called, has no rule.
    """
    if call.refusal is not None:
        raise UnsupportedLayerError(call.refusal)
    return _merge(call, norm) if is_merge(call.operation) else None


def merge_rule(operation, norm: Norm = L2) -> Callable[..., tuple[float, float, str]] | None:
    """The rule for an operation that is not a layer with one input, by its exact type.

    Returns:
        A function of a call and of the constants of its inputs: it gives the constant with respect
        to the joint input, the operation's own constant, and the method. Or None.
    """
    return functools.partial(_merged, norm) if is_merge(operation) else None


def _merged(norm: Norm, call: Call, constants: list[float]) -> tuple[float, float, str]:
    merge = _merge(call, norm)
    own = merge.apart([1.0] * len(constants), norm)
    return merge.total(constants, norm), own, merge.method


def _merge(call: Call, norm: Norm) -> Merge:
    known = rule_for(call.operation)
    if known is not None and known.knows("call_operator"):
        own, method = operator_bound(known.call_operator(call), norm)
        return Merge([own], False, method.replace("the kernel", "a constant matrix"))
    if known is None or not known.knows("merge"):
        raise UnsupportedLayerError(
            "no rule is known for this operation; wrap it in a layer with a known one"
        )
    return known.merge(call, norm)
