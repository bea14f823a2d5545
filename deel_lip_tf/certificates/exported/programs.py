"""What the program in an exported file computes, beside the model that it was made of."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from deel_lip_tf._validation.backends import tensorflow_for

# Two float32 programs of one function, in other orders of summation, differ by some 1e-6 of the
# largest output. Weights that are rounded to float16 move it by 1e-4, and to int8 by 1e-2.
_SAME = 1e-5
_SAMPLES = 8  # points at which a file is compared with the model
_SCALES = (1, 1e2, 1e4, 1e6)  # and how large they may be


def compare(model: keras.Model, path: Path, kind: str) -> None:
    """Refuses a file that does not compute what a model does.

    Args:
        model: with one input and one output.
        path: of the file, or the folder of a SavedModel.
        kind: a key of `RUNNERS`.

    Raises:
        ValueError: their outputs at random inputs differ, or it takes other inputs.
    """
    for x, own in _points(model):
        served = _served(path, RUNNERS[kind], x)
        difference = np.abs(served - own).max() if served.shape == own.shape else np.inf
        if not difference <= _SAME * np.abs(own).max():
            raise ValueError(
                f"`path` must be an export of the model as it is. Received: {str(path)!r}, whose "
                f"outputs differ by up to {difference:.3g} from those of {model.name!r}, of up to "
                f"{np.abs(own).max():.3g}. Export the model again. Where weights are rounded, "
                "certify the model with the rounded weights; where inputs of layers are rounded "
                "too, as by int8 LiteRT, no certificate covers the program."
            )


def _served(path: Path, runner: Callable[[Path], Callable], x: np.ndarray) -> np.ndarray:
    """What a file computes.

    Raises:
        ValueError: it cannot be read, or takes other inputs.
        ImportError: what runs it is not installed.
    """
    try:
        run = runner(path)
        return np.stack([np.asarray(run(x[i : i + 1]))[0] for i in range(len(x))])
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own
        raise ValueError(
            f"`path` must be an export of the model. Received: {str(path)!r}, which cannot be run "
            f"on inputs of shape {x.shape[1:]}: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from error


def _points(model: keras.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs and what the model makes of them, once so large that weights count, not biases.

    Beside outputs that hardly depend on the input, another kernel would look like rounding.
    """
    x = _samples(model)
    is_real = keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
    with np.errstate(over="ignore"):
        scaled = [x * np.asarray(scale, x.dtype) for scale in (_SCALES if is_real else [1])]
    points = [(one, _outputs(model, one)) for one in scaled]
    return [points[0], max(points, key=lambda point: _variation(point[1]))]


def _outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(x), training=False))


def _variation(outputs: np.ndarray) -> float:
    """How much outputs differ over how large they are: at most .5, which is enough."""
    outputs = np.asarray(outputs, np.float64)
    largest = np.abs(outputs).max()
    if not 0 < largest < np.inf:
        return 0.0
    return min(np.abs(outputs - outputs.mean(axis=0)).max() / largest, 0.5)


def _samples(model: keras.Model) -> np.ndarray:
    given = model.inputs[0]
    shape = (_SAMPLES, *(8 if size is None else size for size in given.shape[1:]))
    random = np.random.default_rng(0)
    dtype = keras.backend.standardize_dtype(given.dtype)
    if "float" not in dtype:
        return random.integers(0, 2 if dtype == "bool" else 128, shape).astype(dtype)
    return random.normal(size=shape).astype(dtype)


def _saved_model(path: Path) -> Callable:
    loaded = tensorflow_for("A SavedModel needs").saved_model.load(path)
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]

    def run(x: np.ndarray) -> Any:
        # By way of what was loaded, which owns the variables.
        (output,) = loaded.signatures["serving_default"](**{name: x}).values()
        return output

    return run


def _keras_file(path: Path) -> Callable:
    model = keras.saving.load_model(path, compile=False)
    return lambda x: _outputs(model, x)


def _onnx_file(path: Path) -> Callable:
    import onnx
    from onnx.external_data_helper import load_external_data_for_model
    from onnx.reference import ReferenceEvaluator

    network = onnx.load_model_from_string(path.read_bytes())
    try:
        with tempfile.TemporaryDirectory() as empty:
            load_external_data_for_model(network, empty)
    except onnx.checker.ValidationError as error:
        raise ValueError(
            "its weights lie in another file, which could be replaced; `onnx.save(onnx.load(path), "
            "path)` puts them into this one"
        ) from error
    evaluator = ReferenceEvaluator(network)
    return lambda x: evaluator.run(None, {evaluator.input_names[0]: x})[0]


def _litert_file(path: Path) -> Callable:
    lite = tensorflow_for("A LiteRT file needs").lite
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning. tf.lite.Interpreter is deprecated")
        interpreter = lite.Interpreter(str(path))
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(x: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(wanted["index"])

    return run


RUNNERS = {
    "": _saved_model,
    ".keras": _keras_file,
    ".onnx": _onnx_file,
    ".tflite": _litert_file,
}
"""What runs an export, by the end of its name; a folder has none."""
