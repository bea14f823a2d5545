"""Feed-forward classifiers in TensorFlow's SavedModel format as Keras models."""

from pathlib import Path

import keras

from deel_lip_tf._validation.backends import tensorflow_for
from deel_lip_tf.formats.build import KerasGraphBuilder, called
from deel_lip_tf.formats.graph import raise_for_unknown
from deel_lip_tf.formats.saved_model.operators import OPERATORS
from deel_lip_tf.formats.saved_model.patterns import with_activations_recognized
from deel_lip_tf.formats.saved_model.tensors import Tensor

_TOLD_SIZES = ("Conv2DBackpropInput", "Reshape")
"""Operators that are told the shape of their result, the batch with it."""


def from_saved_model(path: str | Path, signature: str = "serving_default") -> keras.Model:
    """Builds the Keras model that computes what a signature of a SavedModel computes.

    The layers that were exported are gone; the model is made of the operators that they ran.
    Variables have the values they were saved with, and what does not depend on the input, such as
    the effective kernels of constrained layers, is computed once, by TensorFlow in the graph's own
    type: these numbers are the constants that the signature computes with, and claims about the
    model are about them. Operators: those of `formats.saved_model.operators.OPERATORS`; arithmetic
    with constants, and sums, differences, maxima and minima of tensors. No Python code of the
    model is needed, and none is run.

    Args:
        path: of the folder, as `model.export` writes it.
        signature: name of the function to read, of one input and one output.

    Returns:
        A functional model with the weights in it, of the type of the signature's input.

    Raises:
        ImportError: TensorFlow is not installed; Keras may run on another backend.
        ValueError: a folder that holds no SavedModel, no such signature, several inputs or
            outputs, an unknown shape, operators that are not supported (all are named), or
            arguments that are not.

    Example:
        >>> import tempfile
        >>> model = lip.Sequential([keras.Input((4,)), lip.layers.SpectralDense(2)])
        >>> folder = tempfile.mkdtemp()
        >>> model.export(folder, verbose=False)
        >>> loaded = lip.verify.from_saved_model(folder)
        >>> np.allclose(loaded(np.eye(4)), model(np.eye(4)), atol=1e-6)
        True
        >>> lip.bounds.lipschitz_bound(loaded).value <= 1 + 1e-6
        True
    """
    tensorflow_for("`from_saved_model` reads files with")
    from deel_lip_tf.formats.saved_model.graph import read

    graph = with_activations_recognized(read(path, signature))
    raise_for_unknown(graph.nodes, OPERATORS, "TensorFlow")
    inputs = keras.Input(graph.shape, dtype=graph.dtype, name="input")
    known = {graph.input: Tensor(inputs, batch_size=graph.batch_size)}
    builder = KerasGraphBuilder(graph.dtype, graph.constants, known)
    for node in graph.nodes:
        if node.kind not in _TOLD_SIZES:
            builder.raise_for_batch(node)
        builder.set(node.output, called(OPERATORS[node.kind], builder, node))
    return keras.Model(inputs, builder.tensor(graph.output).samples(), name="from_saved_model")
