"""All that training goes on from, as one file: variables, and the state of random numbers."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from deel_lip_tf._files.reading import opened_arrays
from deel_lip_tf._files.writing import whole_file
from deel_lip_tf._keras import flat_layers, global_seed

FORMAT = "deel_lip_tf backup 1"
_HEADING, _VARIABLE = "heading", "variable {}"


class Broken(ValueError):
    """A file is no whole backup."""


class Foreign(ValueError):
    """A backup is of another model."""


def variables_of(model: keras.Model) -> dict[str, list]:
    """The variables that training changes, each once, by what they belong to.

    Of losses they are all: those that are learned, means, and parameters that callbacks change.
    """
    of_losses = [v for loss in _losses(model) for v in getattr(loss, "__dict__", {}).values()]
    groups = {
        "model": model.variables,
        "loss": [value for value in of_losses if isinstance(value, keras.Variable)],
        "optimizer": [] if model.optimizer is None else model.optimizer.variables,
    }
    return {name: list({id(v): v for v in group}.values()) for name, group in groups.items()}


def about(model: keras.Model) -> dict[str, Any]:
    """What tells the backup of one model from that of another: layers, losses, the optimizer."""
    layers = [one for one in flat_layers(model) if not isinstance(one, keras.Model)]
    digest = hashlib.sha256()
    for layer in layers:
        text = json.dumps(_configured(layer), sort_keys=True, default=lambda x: type(x).__name__)
        digest.update(text.encode())
    return {
        "layers": [type(layer).__name__ for layer in layers],
        "arguments of layers": digest.hexdigest(),
        "losses": [_name(loss) for loss in _losses(model)],
        "optimizer": type(model.optimizer).__name__,
    }


def _losses(model: keras.Model) -> list:
    return [loss for loss in tree.flatten(model.loss) if loss is not None]


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def _configured(layer: keras.layers.Layer) -> Any:
    try:
        return _nameless(keras.saving.serialize_keras_object(layer)["config"])
    except (NotImplementedError, TypeError, KeyError):  # a class of the user's that has none
        return None


def _nameless(config: Any) -> Any:
    """A configuration without names of layers, which count up, and seeds, which may be drawn."""
    if isinstance(config, dict):
        kept = (key for key in config if key not in ("name", "seed", "trainable"))
        return {key: _nameless(config[key]) for key in kept}
    return [_nameless(one) for one in config] if isinstance(config, list | tuple) else config


def write(path: Path, model: keras.Model, **also: Any) -> None:
    """Writes a backup, whole or not at all.

    Args:
        path: of the file.
        model: compiled and built.
        **also: what else to keep, as JSON can.

    Raises:
        OSError: the file cannot be written.
    """
    groups = variables_of(model)
    seed = global_seed()
    groups["seed"] = [] if seed is None else [seed]
    arrays = [keras.ops.convert_to_numpy(v) for group in groups.values() for v in group]
    known = {name: [[v.path, v.dtype, list(v.shape)] for v in g] for name, g in groups.items()}
    heading = {"format": FORMAT, "about": about(model), "variables": known, **also}
    content: dict[str, Any] = {_HEADING: np.frombuffer(json.dumps(heading).encode(), np.uint8)}
    for number, array in enumerate(arrays):  # as bytes: NumPy's format has no bfloat16
        content[_VARIABLE.format(number)] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    with whole_file(path) as file:
        np.savez(file, **content)


def random_state() -> dict[str, Any]:
    """The state of Python's and of NumPy's random numbers, as JSON can keep it."""
    state: Any = np.random.get_state()
    kind, key, *rest = state
    return {"python": random.getstate(), "numpy": [kind, key.tolist(), *rest]}


def set_random_state(state: dict[str, Any]) -> None:
    """Goes back to a state that `random_state` has told."""
    version, key, gauss = state["python"]
    random.setstate((version, tuple(key), gauss))
    np.random.set_state(tuple(state["numpy"]))


def read(path: Path) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """The heading of a backup, and its arrays by what they belong to.

    Raises:
        Broken: it is none, or not a whole one.
    """
    try:
        with opened_arrays(path) as archive:
            content = dict(archive)
        heading = json.loads(content[_HEADING].tobytes())
        if heading["format"] != FORMAT:
            raise Broken(f"{str(path)!r} has the format {heading['format']!r}")
        flat = [one for group in heading["variables"].values() for one in group]
        arrays = [
            content[_VARIABLE.format(i)].view(np.dtype(dtype)).reshape(shape)
            for i, (_, dtype, shape) in enumerate(flat)
        ]
    except Broken:
        raise
    except Exception as error:  # NumPy, zipfile, zlib and json each have their own
        raise Broken(f"{str(path)!r} cannot be read: {error}") from error
    rest = iter(arrays)
    groups = heading["variables"].items()
    return heading, {name: [next(rest) for _ in group] for name, group in groups}


def restore(
    model: keras.Model, path: Path, heading: dict[str, Any], arrays: dict[str, list[np.ndarray]]
) -> None:
    """Gives a model what a backup holds.

    Raises:
        Foreign: the backup is of another model; nothing has changed.
    """
    _check_model(model, path, heading)
    for name, group in variables_of(model).items():
        _assign(group, arrays[name])
    if arrays["seed"]:
        _assign([global_seed(is_made=True)], arrays["seed"])


def _assign(variables: list, arrays: list[np.ndarray]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _check_model(model: keras.Model, path: Path, heading: dict[str, Any]) -> None:
    ours, theirs = about(model), heading["about"]
    known = heading["variables"]
    for name, group in variables_of(model).items():
        ours[f"variables of the {name}"] = [[v.dtype, list(v.shape)] for v in group]
        theirs[f"variables of the {name}"] = [v[1:] for v in known[name]]
    for what, own in ours.items():
        if own != theirs[what]:
            raise Foreign(
                f"{str(path)!r} is the backup of another model: its {what} are others. Received: "
                f"{theirs[what]!r:.300} in the file, {own!r:.300} in {model.name!r}. Build and "
                "compile the model as it was, or give an empty `backup_dir` to begin anew."
            )
