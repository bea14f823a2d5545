"""What users may name, as plain data, and what a later release owes them of it."""

import functools
import importlib
import inspect
from types import ModuleType

import keras

from deel_lip_tf.verify import METHODS, decomon

ROOMS = (
    "activations",
    "bounds",
    "callbacks",
    "certificate_metrics",
    "certificates",
    "compute_layer_sv",
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "model",
    "normalizers",
    "optimizers",
    "regularizers",
    "training",
    "utils",
    "verify",
    "verify.decomon",
    "zoo",
)
# Methods that layers of users define or call, by the rules of deel-lip.
FOR_SUBCLASSES = ("_compute_lip_coef", "_get_coef", "_init_lip_coef")


def surface() -> dict:
    """Names with their arguments by module, registered names, and names of methods of proof."""
    modules = ["deel_lip_tf", *(f"deel_lip_tf.{room}" for room in ROOMS)]
    registered = {
        name: cls.__name__
        for name, cls in keras.saving.get_custom_objects().items()
        if name.startswith("deel_lip_tf>")
    }
    return {
        "modules": {module: _names(importlib.import_module(module)) for module in modules},
        "registered": dict(sorted(registered.items())),
        "methods of verify": dict.fromkeys(METHODS),
        "methods of verify.decomon": dict.fromkeys(decomon.METHODS_BY_NAME),
    }


def _names(module) -> dict:
    own = (module.__name__, "deel_lip_tf.certificate_metrics")
    listed = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) in own and not name.startswith("_")
    ]
    return {name: _described(getattr(module, name)) for name in sorted(listed)}


def _described(value) -> dict:
    if isinstance(value, ModuleType):
        return {"kind": "module"}
    if isinstance(value, type):
        return {"kind": "class", "arguments": arguments_of(value), "members": _members(value)}
    if callable(value):
        return {"kind": "function", "arguments": arguments_of(value)}
    simple = isinstance(value, bool | int | float | str)
    return {"kind": "constant", **({"value": value} if simple else {})}


def _members(cls) -> dict:
    """Public methods (their arguments) and attributes (None), but those that Keras has, too."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("deel_lip_tf")]
    theirs = {name for base in cls.__mro__ if base not in ours for name in vars(base)}
    names = {name for base in ours for name in vars(base)} - theirs
    public = {name for name in names if not name.startswith("_") or name in FOR_SUBCLASSES}
    values = {name: getattr(cls, name) for name in sorted(public)}
    return {n: arguments_of(value) if callable(value) else None for n, value in values.items()}


def arguments_of(function) -> list[str]:
    """As they are written, without annotations: ["x", "y=None", "*", "z=1", "**kwargs"]."""
    written, last = [], None
    if isinstance(function, type) and issubclass(function, keras.layers.Layer):
        # what the constructor says itself: `__signature__` writes out what its stars take
        function = functools.partial(function.__init__, None)
    for parameter in inspect.signature(function).parameters.values():
        if last == parameter.POSITIONAL_ONLY != parameter.kind:
            written.append("/")
        if parameter.kind == parameter.KEYWORD_ONLY and last not in (
            parameter.VAR_POSITIONAL,
            parameter.KEYWORD_ONLY,
        ):
            written.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        written.append(stars.get(parameter.kind, "") + parameter.name + _default(parameter))
        last = parameter.kind
    return written


def _default(parameter) -> str:
    value = parameter.default
    if value is parameter.empty:
        return ""
    written = value.__name__ if isinstance(value, ModuleType) else repr(value)
    if " at 0x" in written:
        raise ValueError(f"The default of {parameter} is no plain value: {written}.")
    return f"={written}"


# --- what is owed -----------------------------------------------------------------------------


def broken(old, new, path: str = "") -> list[str]:
    """What somebody who wrote code against `old` would miss in `new`; empty if nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        complaints = [f"{path}.{key} is gone" for key in old if key not in new]
        for key in (key for key in old if key in new):
            complaints += broken(old[key], new[key], f"{path}.{key}")
        return complaints
    if isinstance(old, list) and isinstance(new, list):
        return [f"{path}: {complaint}" for complaint in _broken_calls(old, new)]
    return [] if old == new else [f"{path} was {old!r} and is {new!r}"]


def _broken_calls(old: list[str], new: list[str]) -> list[str]:
    """The same for the arguments of one function."""
    before, now = _by_position(old), _by_position(new)
    # A trailing argument may be added; after `*args`, positions are those of `*args`.
    same = before == now if "*args" in old else before == now[: len(before)]
    complaints = [] if same else [f"the positional arguments {before} are {now}"]
    complaints += [f"{argument} is gone" for argument in old if argument not in (*new, "*", "/")]
    unnamed = [one for one in _by_position_alone(new) if one not in _by_position_alone(old)]
    complaints += [f"{one} is by position alone" for one in unnamed]
    known = {argument.split("=")[0] for argument in (*old, "*", "/")}
    added = [argument for argument in new if argument.split("=")[0] not in known]
    return complaints + [f"{one} is new and needed" for one in added if _is_needed(one)]


def _by_position(arguments: list[str]) -> list[str]:
    starred = [i for i, argument in enumerate(arguments) if argument.startswith("*")]
    return [one for one in arguments[: min(starred, default=None)] if one != "/"]


def _by_position_alone(arguments: list[str]) -> list[str]:
    return arguments[: arguments.index("/")] if "/" in arguments else []


def _is_needed(argument: str) -> bool:
    return "=" not in argument and not argument.startswith("*")
