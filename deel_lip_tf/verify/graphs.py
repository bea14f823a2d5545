"""Graphs that are traced once, for any number of samples, and what is kept of a few models."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import tensorflow as tf

from deel_lip_tf.semantics.ir.program import Program

Keys = ParamSpec("Keys")
Made = TypeVar("Made")


class LRUCache:
    """What was made for the last few keys: each holds a model, or its weights, and its graphs."""

    def __init__(self, limit: int):
        self._limit = limit
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What belongs to a key, made if it is new; for the key `None`, made each time."""
        if key is None:
            return make()
        if key not in self._entries:
            self._entries[key] = make()
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key]


def once(
    function: Callable[Concatenate[Program, Keys], Made],
) -> Callable[Concatenate[Program, Keys], Made]:
    """A function of a program, and of what can be a key, that is computed once for them."""

    @functools.wraps(function)
    def kept(program: Program, *arguments: Keys.args, **keywords: Keys.kwargs) -> Made:
        key = (function, *arguments, *keywords.items())
        if key not in program.compiled:
            program.compiled[key] = function(program, *arguments, **keywords)
        return program.compiled[key]

    return kept


def traced(function: Callable, signature: Sequence[tuple]) -> Callable:
    """The graph of a function of tensors, for all batch sizes.

    It is one graph and not a function that may be traced again: a shape or a type that does not fit
    is an error, and TensorFlow has no reason to warn of repeated tracing. Where functions run
    eagerly (`tf.config.run_functions_eagerly`), so does this one.

    Args:
        function: of as many tensors as the signature has.
        signature: `(shape, dtype)` of each tensor, `None` for sizes that vary.
    """
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in signature]
    compiled = tf.function(function, autograph=False, input_signature=specs)
    return compiled if tf.config.functions_run_eagerly() else compiled.get_concrete_function()
