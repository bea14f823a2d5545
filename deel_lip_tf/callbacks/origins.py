"""Where a number that is not finite comes from: data, a weight, a layer, the loss, a gradient."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from deel_lip_tf._keras import flat_layers


def _array(value: Any) -> np.ndarray:
    array = ops.convert_to_numpy(value)
    return array.astype("float64") if array.dtype.kind not in "biu" else array


def _is_finite(values: Any) -> bool:
    arrays = [one for one in tree.flatten(values) if hasattr(one, "dtype")]
    return all(bool(np.isfinite(_array(one)).all()) for one in arrays)


def weight_that_is_not_finite(variables: list, values: list) -> str | None:
    """The path of the first variable whose value is not finite."""
    pairs = zip(variables, values, strict=True)
    return next((v.path for v, value in pairs if not _is_finite(value)), None)


def origin_in_step(model: keras.Model, data: Any) -> str | None:
    """Where the loss of a batch stops being finite, if it does, with the weights as they are.

    Args:
        model: whose weights are finite.
        data: a batch, as a training step takes it.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    parts = (("inputs", x), ("labels", y), ("sample weights", weights))
    for name, part in parts:
        for array in (_array(one) for one in tree.flatten(part) if one is not None):
            if not (finite := np.isfinite(array)).all():
                return f"the {name} hold {_first(array, finite)}. Leave out such samples."
    with _watched(model) as found:
        scores = model(x, training=True)
    if found:
        return found[0]
    loss = _array(model.compute_loss(x, y, scores, weights))
    if not np.isfinite(loss).all():
        sizes = max(float(np.abs(_array(one)).max(initial=0)) for one in tree.flatten(scores))
        return f"{_rows(model, y, scores)}. The largest output is {sizes:.3g}."
    return None


def _first(array: np.ndarray, finite: np.ndarray) -> str:
    row, *rest = np.argwhere(~finite)[0]
    return (
        f"{array[(row, *rest)]} in {int((~finite).sum())} of {finite.size} entries, first in row "
        f"{row} of the batch"
    )


def _rows(model: keras.Model, y: Any, scores: Any) -> str:
    """The loss, and the labels of the rows for which it is not finite, where one loss tells."""
    sentence = "weights, inputs and outputs are finite, and the loss is not"
    if not isinstance(model.loss, keras.losses.Loss) or isinstance(scores, dict | list | tuple):
        return sentence
    values = _array(model.loss.call(ops.convert_to_tensor(y), scores))
    bad = np.argwhere(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).ravel()
    if not len(bad):
        return sentence
    label = np.array2string(_array(y)[bad[0]], threshold=6)
    return f"{sentence}: for {len(bad)} of {len(values)} samples, first row {bad[0]}, label {label}"


@contextlib.contextmanager
def _watched(model: keras.Model) -> Iterator[list[str]]:
    """Collects the first call of a layer whose output is not finite."""
    found: list[str] = []
    layers = [one for one in flat_layers(model) if not isinstance(one, keras.Model)]
    former = {id(layer): vars(layer).get("call") for layer in layers}
    for layer in layers:
        vars(layer)["call"] = _watching(layer, layer.call, found)
    try:
        yield found
    finally:
        for layer in layers:
            if (call := former[id(layer)]) is None:
                del vars(layer)["call"]
            else:
                vars(layer)["call"] = call


def _watching(layer: keras.layers.Layer, call: Callable, found: list[str]) -> Callable:
    def watching(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        if not found and not _is_finite(outputs):
            given = [_array(one) for one in tree.flatten(args) if hasattr(one, "dtype")]
            largest = max((float(np.abs(one).max(initial=0)) for one in given), default=0.0)
            found.append(
                f"the layer {layer.name!r} ({type(layer).__name__}, computing in "
                f"{layer.compute_dtype}) is the first whose output is not finite: its largest "
                f"input is {largest:.3g}."
            )
        return outputs

    return watching


def origin_in_gradients(model: keras.Model, data: Any) -> str:
    """Why a step from a finite loss led to weights that are not: by its gradients, if they tell.

    Backwards, what is not finite spreads from the end of the network to its begin.
    """
    rate = f"the learning rate is {float(ops.convert_to_numpy(model.optimizer.learning_rate)):.3g}"
    if keras.config.backend() != "tensorflow":
        return f"the step of the optimizer: {rate}."
    import tensorflow as tf

    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True), weights)
    gradients = tape.gradient(loss, [v.value for v in variables])
    pairs = zip(variables, gradients, strict=True)
    known = [(v, tf.convert_to_tensor(gradient)) for v, gradient in pairs if gradient is not None]
    for variable, gradient in reversed(known):
        if not _is_finite(gradient):
            return f"the gradient of {variable.path!r}, of a loss of {float(loss):.3g}."
    sizes = {v.path: float(np.abs(_array(g)).max(initial=0)) for v, g in known}
    path = max(sizes, key=sizes.__getitem__)
    largest = f"the largest gradient, {sizes[path]:.3g}, is that of {path!r}"
    return f"the step of the optimizer: {largest}, and {rate}."
