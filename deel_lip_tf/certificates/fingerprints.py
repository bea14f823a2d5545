"""What tells one model from another, and one set of samples from another, by a short text."""

import hashlib
import json
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from deel_lip_tf._keras import flat_layers
from deel_lip_tf.semantics.graph import Graph, Value, graph_of
from deel_lip_tf.semantics.state import state_of

# What says nothing about the function at inference.
_IRRELEVANT = ("compile_config", "trainable")
# Of `keras.config`: `epsilon` and `image_data_format`.
_USUAL = (1e-7, "channels_last")


def model_fingerprint(model: keras.Model) -> str:
    """SHA-256 of the graph of a model: of each call, what is called, on what, and its weights.

    A model keeps it where it is saved and loaded, compiled, frozen, or made anew by the same code
    and given the same weights; names do not count.

    Raises:
        ValueError: if it has no graph.
    """
    graph, digest = graph_of(model), hashlib.sha256()
    met: dict[int, int] = {}
    numbers = {value: number for number, value in enumerate(graph.inputs)}
    for call in graph.calls:
        _take(call.operation, digest, met)
        if call.unsupported is not None:  # a call that was replaced, say: another function
            _update(digest, call.unsupported)
        numbers.update({value: len(numbers) + i for i, value in enumerate(call.outputs)})
        for argument in tree.flatten((call.args, call.kwargs)):
            is_value = isinstance(argument, Value)
            _update(digest, f"value {numbers[argument]}" if is_value else argument)
    for asked in _asked(graph):
        _update(digest, asked)
    ends = [(numbers[x], x.shape, x.dtype) for x in (*graph.inputs, *graph.outputs)]
    digest.update(repr(ends).encode())
    return digest.hexdigest()


def _asked(graph: Graph) -> list[float | str]:
    """What layers ask Keras for when they are called, where that is not what it is by default."""
    called = [x.operation for x in graph.calls if isinstance(x.operation, layers.Layer)]
    kinds = {type(part) for layer in called for part in flat_layers(layer)}
    asked = {layers.Normalization: keras.config.epsilon()}
    asked[layers.Rescaling] = keras.config.image_data_format()
    return [found for kind, found in asked.items() if kind in kinds and found not in _USUAL]


def _take(operation: keras.Operation, digest: Any, met: dict[int, int]) -> None:
    """Takes an operation into a digest: its number where it was met before."""
    if id(operation) not in met:
        met[id(operation)] = len(met)
        config = _described(operation)
        config = {**config, "config": {**config["config"], "name": None}}
        digest.update(json.dumps(_relevant(config), sort_keys=True, default=str).encode())
        for numbers in state_of(operation):
            _update(digest, numbers)
    digest.update(repr(met[id(operation)]).encode())


def _described(operation: keras.Operation) -> dict:
    """The configuration; of an operation that has none, as one that was given arrays, its state."""
    try:
        return keras.saving.serialize_keras_object(operation)
    except NotImplementedError:
        state = {name: x for name, x in vars(operation).items() if not name.startswith("_")}
        kind = type(operation)
        described = keras.saving.serialize_keras_object(state)
        return {"class_name": f"{kind.__module__}.{kind.__name__}", "config": described}


def _relevant(config: Any) -> Any:
    """A configuration without names of layers inside layers, and what else does not count."""
    if isinstance(config, dict):
        # The name of a type is one that counts.
        left_out = (*_IRRELEVANT, "name") if "dtype" in config else _IRRELEVANT
        return {key: _relevant(value) for key, value in config.items() if key not in left_out}
    if isinstance(config, list | tuple):
        return [_relevant(item) for item in config]
    return config


class SamplesFingerprint:
    """SHA-256 of samples as float64 numbers, whatever their type and the batches they come in."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._shape: tuple[int, ...] = (0,)

    def update(self, samples: np.ndarray) -> None:
        """Takes the next samples, (n, ...) float64."""
        self._digest.update(np.ascontiguousarray(samples).data)
        self._shape = (self._shape[0] + len(samples), *samples.shape[1:])

    def text(self) -> str:
        """Of all samples together, with their shape."""
        digest = self._digest.copy()
        digest.update(repr(self._shape).encode())
        return digest.hexdigest()


def content_fingerprint(content: dict) -> str:
    """SHA-256 of named arrays, numbers and texts."""
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode())
        _update(digest, np.asarray(content[name]))
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Takes an array or a number bit for bit, anything else as it is written."""
    is_array = isinstance(value, np.ndarray | np.generic)
    digest.update(f"{value.dtype.str}{value.shape}".encode() if is_array else repr(value).encode())
    digest.update(np.ascontiguousarray(value).tobytes() if is_array else b"")
