"""From a Keras model to a program: the walk, and the names of everything without a rule."""

from typing import Any

import keras
import numpy as np

from deel_lip_tf._validation.models import check_instance, check_one_to_one
from deel_lip_tf.errors import UnsupportedLayerError, UnsupportedParts
from deel_lip_tf.semantics.ends import final_call, is_all_of, normalized_by
from deel_lip_tf.semantics.functions import function_of
from deel_lip_tf.semantics.graph import Call as GraphCall
from deel_lip_tf.semantics.graph import graph_of, readable
from deel_lip_tf.semantics.ir.primitives import Pick
from deel_lip_tf.semantics.ir.program import Builder, Call, Program
from deel_lip_tf.semantics.ir.sources import NUMBERS, Source
from deel_lip_tf.semantics.rule import rule_for
from deel_lip_tf.semantics.state import check_merged, is_quantized

CANNOT_BE_VERIFIED = (
    "`model` cannot be verified; no linear relaxation is known for: {}. Replace each of them by "
    "layers of the list in `deel_lip_tf.verify`, or verify the part of the model without them."
)

_SOFTMAX = ("softmax", "log_softmax")


def lower_model(
    model: keras.Model,
    input_shape: tuple[int, ...] | None = None,
    sentence: str = CANNOT_BE_VERIFIED,
    keeps_softmax: bool = False,
    source: Source = NUMBERS,
) -> Program:
    """Lowers a model to a program that computes the same function in float64.

    The program holds the weights as stored, rounded to the type the layers compute in; of a
    constrained layer, the effective kernel. It computes what the model computes at inference in
    exact arithmetic, up to float64 rounding; layers' arguments count as written. A final softmax,
    and the final sigmoid of a single output, is left out, wherever it stands: a layer, an
    activation, an operation, the end of a nested model. The model is not changed.

    Args:
        model: a Sequential or functional model with one input and one output.
        input_shape: shape of one sample, where the model leaves sizes open.
        sentence: what is said of layers without a rule, with their names in place of `{}`.
        keeps_softmax: whether a softmax that is not the end is a node, which has no relaxation.
        source: where the weights come from; what reads them when the program is run, to train.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: several inputs or outputs, unknown sizes, or layers, activations or operations
            without a rule: all of them are named.
    """
    check_instance("model", model, keras.Model, "a Keras model")
    readable(model)
    check_one_to_one(model)
    expected = tuple(model.inputs[0].shape[1:])
    shape = expected if input_shape is None else tuple(input_shape)
    fits = len(shape) == len(expected) and all(
        n == size or size is None for n, size in zip(shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Samples must have the shape (n, *{expected}), with the model's input shape. "
            f"Received: samples of shape {shape}. Reshape them; a single sample is `x[None]`."
        )
    if None in shape:
        raise ValueError(
            f"The input of `model` must have known sizes. Received: {shape}. Build it on an "
            "`Input` of the shape of your samples."
        )
    lowering = Lowering(model, shape, sentence, keeps_softmax, source)
    output = lowering.run()
    lowering.unsupported.raise_if_any()
    builder = lowering.builder
    return Program(tuple(builder.nodes), output, tuple(lowering.calls), lowering.dropped)


class Lowering:
    """Passes over a model: collects nodes, calls, and everything without a rule."""

    def __init__(
        self,
        model: keras.Model,
        shape: tuple[int, ...],
        sentence: str,
        keeps_softmax: bool,
        source: Source,
    ):
        self.source = source
        self.builder = Builder(shape)
        self.calls: list[Call] = []
        self.dropped: str | None = None
        self.unsupported = UnsupportedParts(sentence)
        self._graph = graph_of(model)
        self._keeps_softmax = keeps_softmax

    def run(self) -> int:
        """Lowers the calls of the model; returns the node of its output."""
        graph = self._graph
        known, last = {graph.inputs[0]: 0}, final_call(graph)
        # Whether the final call normalizes logits to probabilities of the same order.
        self.dropped = (normalized_by(last) or None) if last is not None else None
        for call in graph.calls:
            drop = call is last and self.dropped is not None
            results = self._call(call, [known[value] for value in call.inputs], drop)
            known.update(zip(call.outputs, results, strict=True))
        return known[graph.outputs[0]]

    def _call(self, call: GraphCall, inputs: list[int], drop: bool) -> list[int]:
        try:
            if call.unsupported is not None:
                raise UnsupportedLayerError(call.unsupported)
            outputs = [self._lower(call, inputs, drop)]
        except UnsupportedLayerError as error:
            self.unsupported.add_call(call.operation, call.name, error)
            # Zeros stand for its outputs, so that the walk finds what else has no rule.
            shapes = [tuple(size or 1 for size in value.shape[1:]) for value in call.outputs]
            return [self.builder.affine(0, Pick(np.full(shape, -1))) for shape in shapes]
        if not drop:
            self.calls.append(Call(call, tuple(inputs), tuple(outputs)))
        return outputs

    def _lower(self, call: GraphCall, inputs: list[int], drop: bool) -> int:
        operation = call.operation
        if len(call.outputs) != 1:
            raise UnsupportedLayerError("no rule is known for several outputs")
        if drop and is_all_of(operation):
            return inputs[0]
        if not isinstance(operation, keras.layers.Layer):
            return rule_for(operation).lower_call(self, call, inputs)
        return self.layer(operation, inputs, with_activation=not drop)

    def layer(
        self, layer: keras.layers.Layer, inputs: list[int], with_activation: bool = True
    ) -> int:
        """Lowers one layer, its activation included, by the rule of its exact type."""
        if is_quantized(layer):
            raise UnsupportedLayerError("it is quantized")
        check_merged(layer)
        output = rule_for(layer).lower(self, layer, inputs)
        activation = getattr(layer, "activation", None) if with_activation else None
        return self.activate(output, activation)

    def activate(self, index: int, activation: Any) -> int:
        """Lowers an `activation=` argument."""
        if activation is None or activation is keras.activations.linear:
            return index
        if isinstance(activation, keras.layers.Layer):
            return self.layer(activation, [index])
        if activation is keras.activations.softmax and self._keeps_softmax:
            return self.builder.softmax(index)
        row = function_of(activation)
        if row is None or row.function is None:
            name = getattr(activation, "__name__", type(activation).__name__)
            place = "; it may only end the model" if name in _SOFTMAX else ""
            raise UnsupportedLayerError(f"no rule is known for its activation {name!r}{place}")
        return self.builder.function(index, row.function)
