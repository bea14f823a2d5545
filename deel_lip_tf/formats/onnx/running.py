"""An ONNX model as it runs, without Keras: by ONNX's own reference implementation."""

import numpy as np


class OnnxRun:
    """A model of one input and one output, as a function of samples.

    Its arithmetic is that of the file's types. It shares no code with the program that the file is
    lowered to.

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
        self._evaluator = ReferenceEvaluator(model)

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
