"""What classes and objects say of their arguments: whole signatures, and texts to print."""

import inspect
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from types import MappingProxyType
from typing import Any


class WholeSignature:
    """The `__signature__` of a class: with what `*args` and `**kwargs` of its constructor take.

    `help`, notebooks and editors show it. Instances have none: called, they are layers.
    """

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        if instance is not None or not any(map(_is_of_keras, owner.__mro__)):
            raise AttributeError(f"{owner.__name__!r} has no attribute '__signature__'")
        return whole_signature(owner)


def whole_signature(cls: type) -> inspect.Signature:
    """The signature of a class of layers, written out.

    It is read off the constructors: those of this library and of its users, then that of the Keras
    layer beside them and that of `keras.layers.Layer`, to which the rest is handed on. A class
    says what it takes in place of `*args` by `_positional`, what no constructor spells out by
    `_keyword_defaults()`, and what it does not take by `_refused` and `_filled_in`.
    """
    first, *others = map(_parameters, _constructors(cls))
    of_keras = [p for one in map(_parameters, _of_keras(cls)) for p in one]
    by_default: Mapping[str, Any] = getattr(cls, "_keyword_defaults", dict)()
    named = [_keyword(name, default) for name, default in by_default.items()]
    own = [p for one in others for p in one if p.name not in by_default]
    given = [p for p in (*own, *named, *of_keras) if p.default is not Parameter.empty]
    default_of = {p.name: p.default for p in reversed(given)}
    shown = {p.name: p for p in first if p.kind is Parameter.POSITIONAL_OR_KEYWORD}
    if any(p.kind is Parameter.VAR_POSITIONAL for p in first):
        named_ones = [_keyword(name, default_of.get(name)) for name in _of(cls, "_positional")]
        shown |= {p.name: p.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) for p in named_ones}
    left_out = {*_of(cls, "_refused"), *_of(cls, "_filled_in")}
    for p in (*first, *given):
        if p.kind not in _CATCHING_ALL and p.name not in left_out:
            shown.setdefault(p.name, p.replace(kind=Parameter.KEYWORD_ONLY))
    return inspect.Signature(list(shown.values()))


def described(
    instance: Any, config: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """`Name(argument=value, ...)`, of the arguments in `config` that are not as in `defaults`."""
    shown = [f"{n}={v!r}" for n, v in config.items() if n not in defaults or defaults[n] != v]
    return f"{type(instance).__name__}({', '.join(shown)})"


class Described:
    """Mixin: prints as it is made, by the arguments that are not the default ones."""

    get_config: Callable[[], dict[str, Any]]  # of the class beside it

    def __repr__(self) -> str:
        return described(self, self.get_config(), type(self)().get_config())


_CATCHING_ALL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _keyword(name: str, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default)


def _parameters(constructor: Callable) -> list[Parameter]:
    return list(inspect.signature(constructor).parameters.values())[1:]


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "keras"


def _of(cls: type, attribute: str) -> Collection[str]:
    return getattr(cls, attribute, ())


def _with_constructor(cls: type, of_keras: bool) -> list[type]:
    found = [parent for parent in cls.__mro__[:-1] if "__init__" in vars(parent)]
    return [parent for parent in found if _is_of_keras(parent) is of_keras]


def _constructors(cls: type) -> list[Callable]:
    """Those of this library and of its users, from the class on."""
    return [vars(parent)["__init__"] for parent in _with_constructor(cls, of_keras=False)]


def _of_keras(cls: type) -> list[Callable]:
    """Of the Keras layer and of `Layer`: Keras's bases between them get theirs from the layer."""
    layer, *bases = _with_constructor(cls, of_keras=True)
    last = [base for base in bases if base.__name__ == "Layer"]
    return [vars(parent)["__init__"] for parent in (layer, *last)]
