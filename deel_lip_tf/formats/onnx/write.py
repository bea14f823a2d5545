"""Keras classifiers as ONNX files that other verifiers read: few, common operators.

Sorting activations are written as the relus of differences that they are, so that a tool that knows
`Relu`, `MatMul` and `Conv` can bound them. Convolutions take channels first; a `Transpose` is only
written where the order of the entries matters.
"""

from pathlib import Path

import keras

from deel_lip_tf._files.writing import whole_file
from deel_lip_tf.formats.onnx.writing.emitter import Emitter, OnnxTensor
from deel_lip_tf.formats.onnx.writing.functions import write_function
from deel_lip_tf.formats.onnx.writing.maps import write_affine
from deel_lip_tf.formats.onnx.writing.poolings import has_operator, write_pooling
from deel_lip_tf.semantics.graph import is_readable
from deel_lip_tf.semantics.ir.lowering import lower_model
from deel_lip_tf.semantics.ir.program import Affine, Elementwise, Node, Norm, Program

_UNSUPPORTED = (
    "These layers cannot be written as ONNX: {}. Replace them, or try Keras's own "
    '`model.export(path, format="onnx")` with `tf2onnx`.'
)
_ENDS = {"softmax": "Softmax", "log_softmax": "LogSoftmax", "sigmoid": "Sigmoid"}


def to_onnx(model: keras.Model, path: str | Path, drop_softmax: bool = False) -> None:
    """Writes a model in the ONNX format, with the weights it computes with.

    The file has one input `X` of the model's own shape (channels last where they are so in Keras)
    and one output `Y`; the batch size is open. Constrained layers are written with their effective
    kernel.

    Args:
        model: a Sequential or functional model of float32 or float64, with one input and output.
        path: of the file.
        drop_softmax: leaves out a softmax that ends the model: the order of the outputs stays, and
            many verifiers do not know it.

    Raises:
        ImportError: without the package `onnx`.
        OSError: the file cannot be written, as on a full disk; an older one is kept.
        ValueError: a model of another kind, or layers that cannot be written: all are named. For
            those, `model.export(path, format="onnx")` of Keras may do, with the package `tf2onnx`.

    Example:
        >>> import os, tempfile
        >>> layers = [lip.layers.SpectralDense(2), keras.layers.Activation("softmax")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> lip.verify.to_onnx(model, path, drop_softmax=True)
        >>> logits = lip.verify.from_onnx(path)(np.eye(4))
        >>> np.allclose(keras.ops.softmax(logits), model(np.eye(4)), atol=1e-6)
        True
    """
    import onnx

    _check(model)
    program = lower_model(model, sentence=_UNSUPPORTED, keeps_softmax=True)
    emitter = Emitter(model.inputs[0].dtype)
    output = emitter.channels_last(_written(emitter, program))
    dropped = program.dropped
    if dropped is not None and not (drop_softmax and "softmax" in dropped):
        axis = {} if dropped == "sigmoid" else {"axis": -1}
        output = emitter.apply(_ENDS[dropped], output, **axis)
    emitter.node("Identity", [output.name], output="Y")
    form = onnx.serialization.registry.get_format_from_file_extension(Path(path).suffix)
    with whole_file(path) as file:
        onnx.save(emitter.file(program.input_shape, output.shape), file, format=form or "protobuf")


def _check(model) -> None:
    is_simple = is_readable(model) and len(model.inputs) == len(model.outputs) == 1
    if not is_simple:
        raise ValueError(
            "`model` must be a built Sequential or functional Keras model of one input and one "
            f"output. Received: {type(model).__name__}."
        )
    shape, dtype = model.inputs[0].shape, model.inputs[0].dtype
    if None in shape[1:] or dtype not in ("float32", "float64"):
        raise ValueError(
            "The input of `model` must have known sizes, of float32 or float64. Received: shape "
            f"{shape}, {dtype}."
        )


def _written(emitter: Emitter, program: Program) -> OnnxTensor:
    """Writes the nodes that the output depends on, and returns it."""
    pooled = {call.outputs[0]: call for call in program.calls if has_operator(call.call.operation)}

    def parents(index: int) -> tuple[int, ...]:
        return pooled[index].inputs if index in pooled else program.nodes[index].parents

    needed = {program.output}
    for index in range(program.output, 0, -1):
        needed.update(parents(index) if index in needed else ())
    known = {0: OnnxTensor("X", program.input_shape)}
    for index in sorted(needed - {0}):
        inputs = [known[parent] for parent in parents(index)]
        if index in pooled:
            known[index] = write_pooling(emitter, pooled[index].call.operation, inputs[0])
        else:
            known[index] = _node(emitter, program.nodes[index], inputs)
    return known[program.output]


def _node(emitter: Emitter, node: Node, inputs: list[OnnxTensor]) -> OnnxTensor:
    if isinstance(node, Affine):
        return write_affine(emitter, node, inputs)
    if isinstance(node, Elementwise):
        return write_function(emitter, node.function, inputs[0])
    x = emitter.channels_last(inputs[0])
    if isinstance(node, Norm):
        name = emitter.node("ReduceL2", [x.name], axes=[len(x.shape)], keepdims=0)
    else:
        name = emitter.node("Softmax", [x.name], axis=-1)
    return OnnxTensor(name, node.shape)
