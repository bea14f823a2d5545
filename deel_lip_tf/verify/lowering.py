"""From a Keras model to a program: the walk, and the refusal of everything without a rule."""

import keras
from keras import layers

from deel_lip_tf.bounds.evaluation import ExactModel
from deel_lip_tf.bounds.graph import GraphWalk, sorted_nodes, symbolic_tensors
from deel_lip_tf.bounds.layers import Unbounded
from deel_lip_tf.bounds.operations import check_call
from deel_lip_tf.layers import kinds
from deel_lip_tf.verify import operation_rules
from deel_lip_tf.verify.activations import FUNCTIONS
from deel_lip_tf.verify.layer_rules import LAYERS, Unsupported
from deel_lip_tf.verify.program import Builder, Call, Program

__all__ = ["lower"]

_SOFTMAX = ("softmax", "log_softmax")


def lower(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> Program:
    """Lowers a model to a program that computes the same function in float64.

    The program holds the weights as stored, rounded to the type the layers compute in; of a
    constrained layer, the effective kernel. It computes what the model computes at inference in
    exact arithmetic, up to float64 rounding; layers' arguments count as written. A final softmax,
    and the final sigmoid of a single output, is left out, wherever it stands: a layer, an
    activation, an operation, the end of a nested model. The model is not changed.

    Args:
        model: a Sequential or functional model with one input and one output.
        input_shape: shape of one sample, where the model leaves sizes open.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: several inputs or outputs, unknown sizes, another backend than TensorFlow, or
            layers, activations or operations without a rule: all of them are named.
    """
    _check_model(model)
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
    lowering = _Lowering(model, shape)
    (output,) = lowering.run(model, [0], "", is_last=True)
    lowering.raise_if_refused()
    builder = lowering.builder
    return Program(tuple(builder.nodes), output, tuple(lowering.calls), lowering.dropped)


def _check_model(model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Verification needs Keras on TensorFlow. Received: the backend "
            f"{keras.backend.backend()!r}. Save the model, and verify it in a process with "
            "KERAS_BACKEND=tensorflow."
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: {type(model).__name__}.")
    tensors = symbolic_tensors(model)
    if tensors is None:
        raise ValueError(
            f"`model` must be a built Sequential or functional model. Received: {model.name!r} "
            f"({type(model).__name__}). Give it an `Input`, and do not override `call`."
        )
    if len(tensors[0]) != 1 or len(tensors[1]) != 1:
        raise ValueError(
            f"`model` must have one input and one output. Received: {len(tensors[0])} inputs and "
            f"{len(tensors[1])} outputs. Verify one output at a time, by `keras.Model(inputs, "
            "output)`, and concatenate several inputs into one."
        )


class _Lowering:
    """Passes over a model: collects nodes, calls, and everything without a rule."""

    def __init__(self, model: keras.Model, shape: tuple[int, ...]):
        self.builder = Builder(shape)
        self.calls: list[Call] = []
        self.dropped: str | None = None
        self._exact = ExactModel(model, GraphWalk())
        self._refused: list[str] = []

    def copy(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """A float64 copy of a layer, with the weights it computes with."""
        return self._exact.copy(layer)

    def run(self, model: keras.Model, inputs: list[int], prefix: str, is_last: bool) -> list[int]:
        """Lowers the calls of a model; `is_last` where its output is that of the whole model."""
        tensors = symbolic_tensors(model)
        if tensors is None or len(tensors[0]) != len(inputs):
            raise Unsupported("it is not a built Sequential or functional model")
        known = dict(zip(map(id, tensors[0]), inputs, strict=True))
        ends = _last_calls(tensors[1][0], set(known)) if is_last else set()
        for node in sorted_nodes(tensors[1], set(known)):
            parents = [known[id(x)] for x in node.input_tensors]
            results = self._call(node, parents, prefix, id(node) in ends)
            known.update(zip(map(id, node.outputs), results, strict=True))
        return [known[id(tensor)] for tensor in tensors[1]]

    def _call(self, node, inputs: list[int], prefix: str, is_last: bool) -> list[int]:
        operation = node.operation
        try:
            if node.is_input:
                raise Unsupported("it is not connected to the input of the model")
            check_call(node)
            if isinstance(operation, keras.Model):
                return self.run(operation, inputs, f"{prefix}{operation.name}/", is_last)
            drop = is_last and self._is_dropped(node)
            outputs = [self._lower(node, inputs, drop)]
        except (Unsupported, Unbounded) as error:
            self._refuse(operation, prefix, str(error))
            return [self._placeholder(tensor) for tensor in node.outputs]
        if not drop:
            self.calls.append(Call(node, prefix, tuple(inputs), tuple(outputs)))
        return outputs

    def _lower(self, node, inputs: list[int], drop: bool) -> int:
        operation = node.operation
        if len(node.outputs) != 1:
            raise Unsupported("no rule is known for several outputs")
        if not isinstance(operation, keras.layers.Layer):
            return inputs[0] if drop else operation_rules.lower(self, node, inputs)
        if drop and not hasattr(operation, "kernel"):
            return inputs[0]
        return self.layer(operation, inputs, with_activation=not drop)

    def layer(self, layer, inputs: list[int], with_activation: bool = True) -> int:
        """Lowers one layer, its activation included, by the rule of its exact type."""
        if getattr(layer, "quantization_mode", None) is not None:
            raise Unsupported("it is quantized")
        if getattr(layer, "lora_enabled", False):
            raise Unsupported("LoRA weights are not merged into its kernel: save and reload it")
        rule = LAYERS.get(type(layer))
        if rule is None:
            raise Unsupported("no rule is known for this type")
        output = rule(self, layer, inputs)
        activation = getattr(layer, "activation", None) if with_activation else None
        return self.activate(output, activation)

    def activate(self, index: int, activation) -> int:
        """Lowers an `activation=` argument."""
        if activation is None or activation is keras.activations.linear:
            return index
        if isinstance(activation, keras.layers.Layer):
            return self.layer(activation, [index])
        try:
            make = FUNCTIONS.get(activation)
        except TypeError:  # a callable object that cannot be hashed is nobody's known function
            make = None
        if make is None:
            name = getattr(activation, "__name__", type(activation).__name__)
            place = "; it may only end the model" if name in _SOFTMAX else ""
            raise Unsupported(f"no rule is known for its activation {name!r}{place}")
        return self.builder.activation(index, make())

    def _is_dropped(self, node) -> bool:
        """Whether a last call normalizes logits to probabilities of the same order."""
        operation, shape = node.operation, node.outputs[0].shape
        name = _activation_name(operation)
        axis = getattr(operation, "axis", -1)
        is_softmax = name in _SOFTMAX and axis in (-1, 1, [-1], (-1,))
        if len(shape) != 2 or not (is_softmax or (shape[-1] == 1 and name == "sigmoid")):
            return False
        self.dropped = name
        return True

    def _placeholder(self, tensor) -> int:
        """Stands for a refused output, so that the walk finds what else has no rule."""
        shape = tuple(1 if size is None else size for size in tensor.shape[1:])
        return self.builder.affine([0], lambda tensors, _: _zeros(tensors[0], shape))

    def _refuse(self, operation, prefix: str, reason: str) -> None:
        text = f"{prefix + operation.name!r} ({type(operation).__name__}: {reason})"
        if text not in self._refused:
            self._refused.append(text)

    def raise_if_refused(self) -> None:
        """Raises one error that names everything without a rule."""
        if self._refused:
            raise ValueError(
                "`model` cannot be verified; no linear relaxation is known for: "
                + "; ".join(self._refused)
                + ". Replace each of them by layers of the list in `deel_lip_tf.verify`, or verify "
                "the part of the model without them."
            )


def _zeros(tensor, shape):
    return keras.ops.zeros((keras.ops.shape(tensor)[0], *shape), dtype="float64")


def _activation_name(operation) -> str:
    """Name of the function at the end of a layer, or of an operation."""
    activation = getattr(operation, "activation", None)
    if activation is keras.activations.linear or activation is None:
        activation = None
    if isinstance(activation, keras.layers.Layer):
        return _activation_name(activation)
    if activation is not None:
        return getattr(activation, "__name__", "")
    names = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
    is_keras = type(operation).__module__.startswith("keras.src.")
    return names.get(type(operation).__name__, "") if is_keras else ""


def _last_calls(output, inputs: set[int]) -> set[int]:
    """The call that makes the output, and those before it that only an identity follows."""
    found, tensor = set(), output
    while id(tensor) not in inputs:
        operation, index, _ = tensor._keras_history
        node = operation._inbound_nodes[index]
        found.add(id(node))
        if not _is_identity(operation, node) or len(node.input_tensors) != 1:
            break
        tensor = node.input_tensors[0]
    return found


def _is_identity(operation, node) -> bool:
    if type(operation) is layers.Flatten:
        return len(node.outputs[0].shape) == len(node.input_tensors[0].shape)
    is_linear = type(operation) is layers.Activation and _activation_name(operation) in ("", None)
    return type(operation) in kinds.IDENTITIES or is_linear
