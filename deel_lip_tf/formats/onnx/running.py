"""An ONNX model as it runs, without Keras: by ONNX's own reference implementation."""

import functools

import numpy as np


@functools.cache
def _corrected() -> list[type]:
    """Operators that ONNX's reference implementation computes otherwise than ONNX defines them.

    Below version 14 it takes every batch normalization for training, and mixes the sample into the
    stored statistics; a `GlobalMaxPool` of sequences is taken over the channels too, one of volumes
    not over all of their axes.
    """
    from onnx.reference.op_run import OpRun

    # ONNX finds them by the names of their classes.
    class BatchNormalization(OpRun):
        """That of inference, in every version."""

        op_domain = ""

        def _run(self, x, *statistics, epsilon=None, **_):
            columns = (one.reshape(-1, *[1] * (x.ndim - 2)) for one in statistics)
            scale, shift, mean, variance = columns
            return ((scale * (x - mean) / np.sqrt(variance + epsilon) + shift).astype(x.dtype),)

    class GlobalMaxPool(OpRun):
        """The largest entry of each channel."""

        op_domain = ""

        def _run(self, x):
            return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    return [BatchNormalization, GlobalMaxPool]


class OnnxRun:
    """A model of one input and one output, as a function of samples.

    Its arithmetic is that of the file's types, at inference. It shares no code with the program
    that the file is lowered to.

    Args:
        model: an `onnx.ModelProto`.

    Attributes:
        dtype: of the input.

    Raises:
        ValueError: several inputs, or none.
    """

    def __init__(self, model):
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = [entry for entry in model.graph.input if entry.name not in constants]
        if len(inputs) != 1:
            raise ValueError(f"`model` must have one input. Received: {len(inputs)}.")
        tensor = inputs[0].type.tensor_type
        self.dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        self._name = inputs[0].name
        sizes = tuple(dim.dim_value for dim in tensor.shape.dim)
        self._shape = (1, *sizes[1:]) if len(sizes) > 1 else sizes
        self._evaluator = ReferenceEvaluator(model, new_ops=_corrected())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, outputs) for samples (n, ...), one by one, in the type of the input.

        Raises:
            ValueError: the reference implementation cannot run the model.
        """
        outputs = []
        for sample in np.asarray(x, self.dtype):
            feed = {self._name: sample.reshape(self._shape)}
            try:
                with np.errstate(all="ignore"):
                    (output,) = self._evaluator.run(None, feed)
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise ValueError(
                    f"`model` cannot be run: {' '.join(str(error).split())}"
                ) from error
            outputs.append(np.ravel(output))
        return np.stack(outputs)
