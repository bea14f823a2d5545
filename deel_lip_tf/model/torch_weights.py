"""Weights of PyTorch networks, deel-torchlip's above all, in Keras models of the same layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.models import check_instance
from deel_lip_tf.model.torch_layers import Module, values_of
from deel_lip_tf.semantics.graph import Call, graph_of


def load_torch_weights(model: keras.Model, state_dict: Mapping[str, ArrayLike]) -> keras.Model:
    """Gives a model the weights of a PyTorch network that has the same layers in the same order.

    Kernels are transposed: PyTorch has the outputs first and the channels before the sizes. Where a
    `Flatten` comes before a dense layer, so are its rows: PyTorch flattens channels first. Of
    deel-torchlip both the `state_dict()` of a network and that of its `vanilla_export()` are read:
    raw kernels are projected here as there, exported ones are projected again, which leaves
    orthogonal ones as they are. The factors of convolutions are those of this library, see "What
    was different" on the page on migration.

    Args:
        model: built, its layers in the order of the modules. Layers and modules without weights
            count on neither side. It is changed only where everything fits.
        state_dict: arrays, or tensors on the CPU, by name, in the order of `state_dict()`.

    Returns:
        The model.

    Raises:
        TypeError: no Keras model, or no mapping.
        ValueError: a model that is not built, another number of layers, a module that does not fit
            the layer of its place, or raw kernels of constrained modules for a plain Keras layer.

    Example:
        >>> weight = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # (outputs, inputs)
        >>> state = {"0.weight": weight, "0.bias": np.ones(3)}
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> model = lip.model.load_torch_weights(model, state)
        >>> print(np.asarray(model(np.array([[5.0, 7.0]]))))  # weight @ x + bias
        [[8. 6. 1.]]
    """
    check_instance("model", model, keras.Model, "a Keras model")
    check_instance("state_dict", state_dict, Mapping, "a mapping from names to arrays")
    modules, calls = _modules_of(state_dict), list(_calls_with_weights(model))
    if len(modules) != len(calls):
        raise ValueError(
            "`state_dict` must be of as many modules with weights as `model` has layers with "
            f"weights. Received: {len(modules)} modules, {', '.join(map(str, modules))}, for "
            f"{len(calls)} layers, {', '.join(_text(layer) for layer, _ in calls)}."
        )
    pairs = zip(modules, calls, strict=True)
    values = [pair for module, (layer, call) in pairs for pair in _fitting(layer, call, module)]
    for variable, value in values:
        variable.assign(value)
    return model


def _fitting(layer: keras.layers.Layer, call: Call, module: Module) -> list[tuple[Any, np.ndarray]]:
    """Variables of the layer and their values, once all of them fit."""
    came = f"{_text(layer)} and the module {module}"
    try:
        values = values_of(layer, call, module)
    except ValueError as reason:
        raise ValueError(
            f"`state_dict` does not fit `model`: {reason}. Received: {came}. Layers and modules "
            "must be the same, in the same order."
        ) from reason
    return values


def _text(layer: keras.layers.Layer) -> str:
    shapes = ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in layer.weights)
    return f"{type(layer).__name__} {layer.name!r} ({shapes})"


_PARAMETRIZED = re.compile(r"^(?:(.*)\.)?parametrizations\.(\w+)\.(.+)$")
_ESTIMATES = ("weight_u", "weight_v")  # of the power iteration, which is not needed here


def _modules_of(state_dict: Mapping[str, ArrayLike]) -> list[Module]:
    modules: dict[str, Module] = {}
    for key, value in state_dict.items():
        found = _PARAMETRIZED.match(key)
        prefix, name = found.group(1, 2) if found else key.rpartition(".")[::2]
        if found and found.group(3) != "original" or name in _ESTIMATES:
            continue
        is_raw = found is not None or name == "weight_orig"
        module = modules.setdefault(prefix or "", Module(prefix or ""))
        module.tensors["weight" if is_raw else name] = np.asarray(value)
        module.is_raw |= is_raw
    return list(modules.values())


def _calls_with_weights(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, Call]]:
    """Each layer once, an activation that is a layer of its own after the one that it is in."""
    seen: set[int] = set()
    for call in graph_of(model).calls:
        layer = call.operation
        inside = getattr(layer, "activation", None)
        for one in (layer, inside):
            if isinstance(one, keras.layers.Layer) and one.weights and id(one) not in seen:
                seen.add(id(one))
                yield one, call
