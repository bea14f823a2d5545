"""The graph of a model as Keras runs it: one list of calls, in which no nested model is left.

A nested model is written out where it is called, with the tensors it is given in place of its
inputs: a call inside it that happens twice is there twice, and which of its outputs is taken, by
what name and how often, is a question of which `Value` a call reads. A change of type on the way
into a nested model, as Keras makes it, is a call of its own.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import tree

from deel_lip_tf import _keras
from deel_lip_tf.semantics import integers, sums

UNREADABLE = (
    "it is not a built Sequential or functional model: give it an `Input`, and do not override "
    "`call`"
)
"""Why a model has no graph."""


@dataclass(eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        shape: with the batch axis; None for unknown sizes.
        dtype: of Keras.
        call: what makes it; None for an input of the model.
        index: which output of the call it is, or which input of the model.
        integers: smallest and largest value, for integers and booleans; None for others.
    """

    shape: tuple[int | None, ...]
    dtype: str
    call: "Call | None" = None
    index: int = 0
    integers: tuple[int, int] | None = None


@dataclass(eq=False)
class Call:
    """One call of a layer or of an operation.

    Attributes:
        operation: what is called.
        prefix: names of the nested models around it, each with a slash.
        args: positional arguments, with a `Value` for each tensor, and an array for a constant one.
        kwargs: keyword arguments, likewise.
        inputs: the tensors among the arguments, in order.
        outputs: the results, flattened.
        unsupported: why the call does not compute what its operation computes at inference in real
            arithmetic, or None.
    """

    operation: keras.Operation
    prefix: str
    args: tuple
    kwargs: dict
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)
    unsupported: str | None = None

    @property
    def name(self) -> str:
        """The name of the operation, with those of the models around it."""
        return f"{self.prefix}{self.operation.name}"

    def arguments(self, tensors: Sequence) -> tuple[tuple, dict]:
        """`(args, kwargs)` with tensors in place of the inputs."""
        given = iter(tensors)  # one for each place: a value may be there twice
        return tree.map_structure(
            lambda x: next(given) if isinstance(x, Value) else x, (self.args, self.kwargs)
        )

    def argument(self, position: int, name: str) -> Any:
        """An argument by its position or its name; None of one that was not given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)


@dataclass(frozen=True, eq=False)
class Graph:
    """What a model computes.

    Attributes:
        inputs: the inputs of the model, flattened.
        calls: those that the outputs depend on, each after those it needs.
        outputs: the outputs of the model, flattened.
    """

    inputs: list[Value]
    calls: list[Call]
    outputs: list[Value]


def is_readable(model: Any) -> bool:
    """Whether a model has a graph: built, Sequential or functional, its calls not overridden."""
    return isinstance(model, keras.Model) and _keras.functional_of(model) is not None


def readable(model: keras.Model) -> keras.Model:
    """The functional model whose graph a model runs.

    Raises:
        ValueError: if it has none.
    """
    functional = _keras.functional_of(model)
    if functional is None:
        raise ValueError(
            f"`model` must be a built Sequential or functional model. Received: {model.name!r} "
            f"({type(model).__name__}). Give it an `Input`, and do not override `call`."
        )
    return functional


def graph_of(model: keras.Model) -> Graph:
    """Reads the graph of a model.

    Raises:
        ValueError: if it has none. A nested model without one is a call that is `unsupported`.
    """
    functional = readable(model)
    inputs = [_input(tensor, index) for index, tensor in enumerate(functional.inputs)]
    calls: list[Call] = []
    outputs = _write_out(functional, inputs, "", _keras.autocast_inside(model, None), calls)
    return Graph(inputs, _needed(calls, outputs), outputs)


def float_types(graph: Graph) -> set[str]:
    """The types of floats that a model computes in; never empty."""
    values = [*graph.inputs, *(value for call in graph.calls for value in call.outputs)]
    operations = [call.operation for call in graph.calls]
    types = {value.dtype for value in values}
    types |= {x.compute_dtype for x in operations if isinstance(x, keras.layers.Layer)}
    return {dtype for dtype in types if integers.is_float(dtype)} or {keras.config.floatx()}


def _input(tensor: Any, index: int) -> Value:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return Value(tuple(tensor.shape), dtype, None, index, integers.of_dtype(dtype))


def _write_out(
    functional: Any, inputs: list[Value], prefix: str, autocast: str | None, calls: list[Call]
) -> list[Value]:
    """Appends the calls of a functional model that is given some tensors; returns its outputs.

    Variables that are read in it, outside of its layers, are rounded to the type `autocast`.
    """
    known = {id(t): value for t, value in zip(functional.inputs, inputs, strict=True)}
    for node in _keras.sorted_nodes(functional.outputs, set(known)):
        values = _called(node, known, prefix, autocast, calls)
        known.update(zip(map(id, node.outputs), values, strict=True))
    return [known[id(tensor)] for tensor in functional.outputs]


def _called(
    node: Any, known: dict[int, Value], prefix: str, autocast: str | None, calls: list[Call]
) -> list[Value]:
    operation = node.operation
    args, kwargs = node.arguments.convert(
        lambda x: known[id(x)] if id(x) in known else _constant(x, autocast)
    )
    training = inspect.signature(operation.call).parameters.get("training")
    if training is not None and training.default is True:  # as of augmentations
        kwargs = {**kwargs, "training": False}  # as Keras replaces it at inference
    call = Call(operation, prefix, args, kwargs, [known[id(x)] for x in node.input_tensors])
    if isinstance(operation, keras.Model):
        functional = _keras.functional_of(operation)
        call.unsupported = UNREADABLE if functional is None else _mode(call)
        if call.unsupported is None:
            inner = f"{prefix}{operation.name}/"
            given = _given(functional, call, inner, calls)
            if given is not None:
                within = _keras.autocast_inside(operation, autocast)
                return _write_out(functional, given, inner, within, calls)
            call.unsupported = (
                "it is given other inputs than it was made with, by their structure or their "
                "number of axes"
            )
    return _finished(call, node.outputs, calls)


def _constant(argument, autocast: str | None):
    """An argument that is no tensor of the graph: as an array, if it is a tensor or a variable."""
    if isinstance(argument, keras.Variable):
        is_cast = autocast and _keras.is_autocast(argument) and integers.is_float(argument.dtype)
        argument = keras.ops.cast(argument, autocast if is_cast else argument.dtype)
    is_tensor = keras.ops.is_tensor(argument)
    return np.asarray(keras.ops.convert_to_numpy(argument)) if is_tensor else argument


def _finished(call: Call, outputs: Sequence, calls: list[Call]) -> list[Value]:
    """Appends a call, with the values of its symbolic outputs."""
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in outputs]
    call.outputs = [
        Value(tuple(tensor.shape), dtype, call, index)
        for index, (tensor, dtype) in enumerate(zip(outputs, dtypes, strict=True))
    ]
    if call.unsupported is None:
        call.unsupported = _unsupported(call)
    calls.append(call)
    return call.outputs


def _given(functional: Any, call: Call, prefix: str, calls: list[Call]) -> list[Value] | None:
    """What a nested model is given in the place of each input, in the type that Keras gives it."""
    given = _keras.flat_inputs(functional, call.argument(0, "inputs"))
    # Keras changes the number of axes where it can, but not in its symbolic shapes.
    fits = len(given) == len(functional.inputs) and all(
        isinstance(value, Value) and len(value.shape) == len(tensor.shape)
        for value, tensor in zip(given, functional.inputs, strict=True)
    )
    if not fits:
        return None
    dtypes = [keras.backend.standardize_dtype(tensor.dtype) for tensor in functional.inputs]
    return [
        value if value.dtype == dtype else _converted(value, dtype, prefix, calls)
        for value, dtype in zip(given, dtypes, strict=True)
    ]


def _converted(value: Value, dtype: str, prefix: str, calls: list[Call]) -> Value:
    call = Call(_keras.cast(dtype), prefix, (value,), {}, [value])
    (result,) = _finished(call, [keras.KerasTensor(value.shape, dtype)], calls)
    return result


def _unsupported(call: Call) -> str | None:
    if not call.inputs:
        return "it is not connected to the inputs of the model"
    if (name := _keras.replaced_method(call.operation)) is not None:
        return f"its method `{name}` was replaced on the instance"
    if isinstance(call.operation, keras.layers.Layer):
        if any(isinstance(x, np.ndarray) for x in tree.flatten((call.args, call.kwargs))):
            return "it is given a constant beside tensors: add, or compare, it by `keras.ops`"
        if _keras.rounds_by_surroundings(call.operation):
            return (
                "it computes in mixed precision, with weights that are rounded or not, as the "
                "model around it is: leave out `autocast=False`"
            )
    types = {getattr(call.operation, "compute_dtype", ""), *(value.dtype for value in call.outputs)}
    if not _keras.computes_float64() and "float64" in types:
        return (
            "it is of float64, which JAX computes in float32: call "
            '`jax.config.update("jax_enable_x64", True)` before the model is made'
        )
    return _mode(call) or integers.unsupported(call) or sums.unsupported(call)


def _mode(call: Call) -> str | None:
    """Why a call is not one at inference without masks."""
    if any(tree.flatten(call.kwargs.get("training"))):
        return "it is called with training=True"
    if any(mask is not None for mask in tree.flatten(call.kwargs.get("mask"))):
        return "it is called with a mask"
    return None


def _needed(calls: list[Call], outputs: list[Value]) -> list[Call]:
    """The calls that some values depend on, in their order."""
    wanted = {value.call for value in outputs}
    kept = []
    for call in reversed(calls):
        if call in wanted:
            kept.append(call)
            wanted.update(value.call for value in call.inputs)
    return kept[::-1]
