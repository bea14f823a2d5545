"""From the text of a VNN-LIB file to its formula and its numbers of variables."""

import contextlib
import gc
import itertools
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from deel_lip_tf.verify.specification.property import Formula, Inequality, Linear, Variable

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_VARIABLE = re.compile(r"([XY])_(\d+)")
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "exit")
_DEEPEST = 200  # parentheses inside each other; what is read here calls itself for each


def parsed(text: str) -> tuple[Formula, int, int]:
    """The formula of a file of either version, and its numbers of inputs and of outputs.

    Raises:
        ImportError: version 2.0 without the package `vnnlib`.
        ValueError: the text is no property.
    """
    is_second = re.search(r"\(\s*(vnnlib-version|declare-network)\b", text)
    declared, formula = (_second_version if is_second else _first_version)(text)
    inputs, outputs = (_count(declared, letter) for letter in "XY")
    return formula, inputs, outputs


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Pauses Python's search for cycles: reading makes none, and that takes most of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _first_version(text: str) -> tuple[set[Variable], Formula]:
    """`(declared variables, formula)` of a file of `declare-const` and `assert`."""
    declared: dict[str, Linear] = {}
    asserted: list[Formula] = []
    for command in _expressions(text):
        head = command[0] if isinstance(command, list) and command else command
        if head in ("declare-const", "declare-fun") and command[-1] == "Real":
            name, variable = _declared(command)
            declared[name] = Linear({variable: Fraction(1)})
        elif head == "assert" and len(command) == 2:
            asserted.append(_formula(command[1], declared))
        elif head not in _IGNORED:
            raise ValueError(f"A command must be declare-const or assert. Received: {command!r}.")
    if not asserted:
        raise ValueError("The file asserts nothing.")
    variables = {variable for linear in declared.values() for variable in linear.terms}
    return variables, ("and", asserted)


def _expressions(text: str) -> list:
    """Nested lists of tokens."""
    stack: list[list] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
            _check_depth(len(stack) - 1)
        elif token == ")":
            if len(stack) == 1:
                raise ValueError("There is a ')' without its '('.")
            closed = stack.pop()
            stack[-1].append(closed)
        elif not token.startswith(";"):
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError("There is a '(' without its ')'.")
    return stack[0]


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(
            f"At most {_DEEPEST} parentheses may be inside each other. Write `(and a b c)` for "
            "`(and a (and b c))`, and sums and disjunctions likewise."
        )


def _declared(command: list) -> tuple[str, tuple[str, int]]:
    match = _VARIABLE.fullmatch(command[1]) if isinstance(command[1], str) else None
    if match is None or (command[0] == "declare-fun" and command[2:] != [[], "Real"]):
        raise ValueError(f"Variables must be called X_i or Y_i. Received: {command!r}.")
    return command[1], (match[1], int(match[2]))


def _count(declared: set[Variable], letter: str) -> int:
    indices = {index for name, index in declared if name == letter}
    if not indices or indices != set(range(len(indices))):
        raise ValueError(
            f"The variables {letter}_0, {letter}_1, ... must be declared without a gap. "
            f"Received: {len(indices)} of them, up to {letter}_{max(indices, default=-1)}."
        )
    return len(indices)


def _formula(expression: Any, declared: dict[str, Linear]) -> Formula:
    """Nested tokens as `("and" | "or", ...)` of inequalities."""
    if not isinstance(expression, list) or len(expression) < 2:
        raise ValueError(f"A condition must be a list of an operator and terms: {expression!r}.")
    head, *arguments = expression
    if head in ("and", "or"):
        return head, [_formula(argument, declared) for argument in arguments]
    terms = [_linear(argument, declared) for argument in arguments]
    return _comparison(head, terms)


def _comparison(head: str, terms: list[Linear]) -> Formula:
    """`a <= b <= c` and the like, as inequalities between neighbours."""
    if head not in ("<=", "<", ">=", ">", "=") or len(terms) < 2:
        raise ValueError(
            "A condition must be one of and, or, <=, <, >=, >, = with at least two terms. "
            f"Received: {head!r} with {len(terms)}."
        )
    found: list[Formula] = []
    for a, b in zip(terms[:-1], terms[1:], strict=True):
        if head in ("<=", "<", "="):
            found.append(Inequality(a - b, head == "<"))
        if head in (">=", ">", "="):
            found.append(Inequality(b - a, head == ">"))
    return ("and", found)


def _linear(expression: Any, declared: dict[str, Linear]) -> Linear:
    if isinstance(expression, str):
        return _atom(expression, declared)
    if len(expression) < 2 or expression[0] not in ("+", "-", "*"):
        raise ValueError(f"A term must be made of +, - and *. Received: {expression!r}.")
    return _combined(expression[0], [_linear(part, declared) for part in expression[1:]])


def _combined(head: str, parts: list[Linear]) -> Linear:
    if head == "*":
        constants = [part.constant for part in parts if not part.terms]
        factors = [part for part in parts if part.terms]
        if len(factors) > 1:
            raise ValueError("A product must have at most one factor with variables.")
        factor = math.prod(constants, start=Fraction(1))
        return (factors[0] if factors else Linear({}, Fraction(1))) * factor
    if head == "-" and len(parts) == 1:
        return -parts[0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part if head == "+" else total - part
    return total


def _atom(token: str, declared: dict[str, Linear]) -> Linear:
    if token in declared:
        return declared[token]
    if not _NUMBER.fullmatch(token):
        raise ValueError(f"{token!r} is neither a number nor a declared variable.")
    return Linear({}, _number(token))


@lru_cache(maxsize=2**16)  # files repeat 0, 1 and the values of pixels
def _number(digits: str) -> Fraction:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"Numbers must be finite in float64. Received: {digits}.")
    return Fraction(value)


def _second_version(text: str) -> tuple[set[Variable], Formula]:
    """`(declared variables, formula)` of a file of `declare-network`, through `vnnlib`."""
    import vnnlib

    if not hasattr(vnnlib, "parse_query_string"):
        raise ImportError(
            "VNN-LIB 2.0 needs the package `vnnlib` of at least release 1.0: "
            "pip install 'vnnlib>=1'"
        )
    steps = [(t == "(") - (t == ")") for t in _TOKEN.findall(text)]
    _check_depth(max(itertools.accumulate(steps), default=0))
    try:
        query = vnnlib.parse_query_string(text)
    except (vnnlib.VNNLibException, IndexError) as error:  # `IndexError` for some numbers
        raise ValueError(f"This is no VNN-LIB 2.0: {error}") from error
    tensors = [(n.inputs, n.hidden, n.outputs) for n in query.networks]
    if [tuple(map(len, kinds)) for kinds in tensors] != [(1, 0, 1)]:
        raise ValueError("The file must declare one network of one input and one output.")
    ((inputs, _, outputs),) = tensors
    sizes = {"X": math.prod(inputs[0].shape), "Y": math.prod(outputs[0].shape)}
    declared = {(letter, i) for letter, size in sizes.items() for i in range(size)}
    return declared, ("and", [_tree(vnnlib, a.expr) for a in query.assertions])


def _tree(vnnlib: Any, node: Any) -> Formula:
    """A condition of the syntax tree."""
    connectives = {vnnlib.And: "and", vnnlib.Or: "or"}
    if type(node) in connectives:
        return connectives[type(node)], [_tree(vnnlib, part) for part in node.args]
    relations = {
        vnnlib.LessEqual: "<=",
        vnnlib.LessThan: "<",
        vnnlib.GreaterEqual: ">=",
        vnnlib.GreaterThan: ">",
        vnnlib.Equal: "=",
    }
    if type(node) not in relations:
        raise ValueError(f"Conditions {type(node).__name__} are not supported: {node}.")
    sides = [_tree_term(vnnlib, side) for side in (node.lhs, node.rhs)]
    return _comparison(relations[type(node)], sides)


def _tree_term(vnnlib: Any, node: Any) -> Linear:
    if type(node) in (vnnlib.Float, vnnlib.Int):
        return Linear({}, _number(node.lexeme))
    if type(node) is vnnlib.Var:
        letter = "X" if node.kind == vnnlib.SymbolKind.Input else "Y"
        index = int(np.ravel_multi_index(node.indices, node.shape)) if node.shape else 0
        return Linear({(letter, index): Fraction(1)})
    if type(node) is vnnlib.Negate:
        return _combined("-", [_tree_term(vnnlib, node.expr)])
    if type(node) is vnnlib.Minus:
        return _combined("-", [_tree_term(vnnlib, part) for part in (node.head, *node.rest)])
    heads = {vnnlib.Plus: "+", vnnlib.Multiply: "*"}
    if type(node) not in heads:
        raise ValueError(f"Terms {type(node).__name__} are not supported: {node}.")
    return _combined(heads[type(node)], [_tree_term(vnnlib, part) for part in node.args])
