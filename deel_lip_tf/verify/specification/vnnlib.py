"""The VNN-LIB format: reading properties, writing the robustness question, and counterexamples.

Version 1.0 of the format (`declare-const`) is read here: the package `vnnlib` reads it no more
since its own release 1.0. Files of version 2.0 (`declare-network`) are parsed and checked by that
package; of its results only the syntax tree is used, because its transformation into boxes turns
several assertions, which all have to hold, into alternatives.

Numbers are the float64 nearest to their digits, as in other tools; what is computed from them is
exact.
"""

import decimal
import itertools
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf._validation.models import check_one_to_one
from deel_lip_tf._validation.shapes import check_classifier_shape
from deel_lip_tf.semantics.ends import threshold
from deel_lip_tf.semantics.graph import graph_of
from deel_lip_tf.verify.domain import Domain, ball
from deel_lip_tf.verify.specification.property import (
    Formula,
    Inequality,
    Linear,
    Property,
    Variable,
    property_of,
)

__all__ = ["counterexample", "read_vnnlib", "to_vnnlib"]

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_VARIABLE = re.compile(r"([XY])_(\d+)")
_IGNORED = ("set-logic", "set-info", "set-option", "check-sat", "exit")
_VERSIONS = ("1.0", "2.0")
_DEEPEST = 200  # parentheses inside each other; what is read here calls itself for each


def read_vnnlib(path: str | Path) -> Property:
    """Reads a property: what a counterexample satisfies.

    Variables are `X_0 ...` and `Y_0 ...` (in version 2.0 the entries of one input and one output
    tensor), the entries of the model's input and output in their own order. Assertions are made of
    `and`, `or`, `<=`, `>=`, `<`, `>`, `=`, and of linear terms of `+`, `-`, `*`.

    Args:
        path: a file of version 1.0 or, with the package `vnnlib`, 2.0.

    Returns:
        The property.

    Raises:
        OSError: the file cannot be read.
        ImportError: a file of version 2.0 without the package `vnnlib`.
        ValueError: the file is no such property, or one whose inputs are not bounded one by one.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "question.vnnlib"
        >>> text = "(declare-const X_0 Real) (declare-const Y_0 Real) "
        >>> text += "(assert (>= X_0 0.0)) (assert (<= X_0 1.0)) (assert (>= Y_0 3.0))"
        >>> _ = path.write_text(text)
        >>> question = lip.verify.read_vnnlib(path)
        >>> [part] = question.conjunctions
        >>> question.inputs, question.outputs, part.lower.tolist(), part.upper.tolist()
        (1, 1, [0.0], [1.0])
    """
    text = Path(path).read_text(encoding="utf-8")
    is_second = re.search(r"\(\s*(vnnlib-version|declare-network)\b", text)
    declared, formula = (_second_version if is_second else _first_version)(text)
    inputs, outputs = (_count(declared, letter) for letter in "XY")
    return property_of(formula, inputs, outputs)


def to_vnnlib(
    path: str | Path,
    model: keras.Model,
    x: ArrayLike,
    label: int,
    eps: float,
    norm: str = "linf",
    clip: tuple | None = (0.0, 1.0),
    version: str = "1.0",
) -> None:
    """Writes whether `model` keeps a label around one input, for other verifiers.

    The box is that of `ball(x, eps, norm, clip)` to the last digit of float64, and a
    counterexample is an input of the box where another output is at least as large as that of the
    label: `unsat` means robust.

    Args:
        path: of the file.
        model: a Keras model with one input and one output.
        x: one sample, of the model's input shape, with or without a batch axis of size 1.
        label: the class that is claimed; of a single output, 1 says that it is positive (of a
            sigmoid: above 0.5).
        eps: radius.
        norm: "linf"; the format has no other balls.
        clip: data range.
        version: of the format, "1.0" or "2.0".

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: a model with another number of inputs or outputs or that is no classifier,
            another norm or version, more than one sample, a label out of range.

    Example:
        >>> import pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "question.vnnlib"
        >>> lip.verify.to_vnnlib(path, model, np.array([0.5, 0.25]), label=0, eps=0.25)
        >>> print(path.read_text())
        (declare-const X_0 Real)
        (declare-const X_1 Real)
        (declare-const Y_0 Real)
        (declare-const Y_1 Real)
        (assert (>= X_0 0.24999999999999997))
        (assert (<= X_0 0.7500000000000001))
        (assert (>= X_1 0.0))
        (assert (<= X_1 0.5000000000000001))
        (assert (or (and (>= Y_1 Y_0))))
    """
    if norm != "linf":
        raise ValueError(
            f'`norm` must be "linf": VNN-LIB describes boxes. Received: norm={norm!r}.'
        )
    if version not in _VERSIONS:
        raise ValueError(f"`version` must be one of {_VERSIONS}. Received: version={version!r}.")
    check_one_to_one(model)
    check_classifier_shape(model.outputs[0].shape[1:])
    shape = tuple(model.inputs[0].shape[1:])
    sample = np.asarray(x)
    sample = sample[None] if sample.shape == shape else sample
    if sample.shape != (1, *shape):
        raise ValueError(
            f"`x` must be one sample of shape {shape}. Received: shape {np.shape(x)}. Write one "
            "file for each sample."
        )
    classes = model.outputs[0].shape[-1]
    given = np.asarray(label)
    if given.ndim or given.dtype.kind not in "iuf" or given not in range(max(classes, 2)):
        raise ValueError(
            f"`label` must be a class from 0 to {max(classes, 2) - 1}. Received: label={label!r}."
        )
    domain = _writable(ball(sample, eps, norm, clip))
    write = {"1.0": _first_text, "2.0": _second_text}[version]
    rivals = _rivals(model, int(label))
    Path(path).write_text(write(domain, classes, rivals), encoding="utf-8")


def counterexample(x: np.ndarray, y: np.ndarray) -> str:
    """An input and its outputs in the form of the verification competitions.

    Args:
        x: an input, any shape; its entries are numbered in their order.
        y: its outputs.

    Returns:
        The text `((X_0 ...) ... (Y_0 ...) ...)`, each float64 in the shortest digits that give it
        back.

    Example:
        >>> print(lip.verify.counterexample(np.array([0.25, 0.5]), np.array([1.0, 2.0])))
        ((X_0 0.25)
         (X_1 0.5)
         (Y_0 1.0)
         (Y_1 2.0))
    """
    lines = [f"(X_{i} {_digits(value)})" for i, value in enumerate(np.ravel(x))]
    lines += [f"(Y_{i} {_digits(value)})" for i, value in enumerate(np.ravel(y))]
    return "(" + "\n ".join(lines) + ")"


# --- writing -------------------------------------------------------------------------------------


def _digits(value: float) -> str:
    """The shortest digits that give the float64 back, without an exponent."""
    text = format(decimal.Decimal(repr(float(value))), "f")
    return text if "." in text else text + ".0"


def _writable(domain: Domain) -> Domain:
    """The domain with its subnormal bounds moved outward: not every parser reads such numbers."""
    smallest = np.finfo(np.float64).tiny
    small = [np.abs(end) < smallest for end in (domain.lower, domain.upper)]
    lower = np.where(small[0], np.where(domain.lower < 0, -smallest, 0.0), domain.lower)
    upper = np.where(small[1], np.where(domain.upper > 0, smallest, 0.0), domain.upper)
    return replace(domain, lower=lower, upper=upper)


def _rivals(model: keras.Model, label: int) -> list[tuple[str, str, str]]:
    """Comparisons of which a counterexample satisfies one: `(relation, output, output)`."""
    classes = model.outputs[0].shape[-1]
    if classes > 1:
        return [(">=", f"Y_{j}", f"Y_{label}") for j in range(classes) if j != label]
    return [("<=" if label == 1 else ">=", "Y_0", _digits(threshold(graph_of(model))))]


def _first_text(domain: Domain, classes: int, rivals: list[tuple[str, str, str]]) -> str:
    bounds = list(zip(np.ravel(domain.lower), np.ravel(domain.upper), strict=True))
    lines = [f"(declare-const X_{i} Real)" for i in range(len(bounds))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(classes)]
    for i, (low, high) in enumerate(bounds):
        lines += [f"(assert (>= X_{i} {_digits(low)}))", f"(assert (<= X_{i} {_digits(high)}))"]
    terms = " ".join(f"(and ({relation} {a} {b}))" for relation, a, b in rivals)
    return "\n".join([*lines, f"(assert (or {terms}))"]) + "\n"


def _second_text(domain: Domain, classes: int, rivals: list[tuple[str, str, str]]) -> str:
    shape = (1, *domain.lower.shape[1:])
    bounds = zip(np.ravel(domain.lower), np.ravel(domain.upper), strict=True)
    lines = ["(vnnlib-version <2.0>)", "(declare-network N"]
    lines += [f"  (declare-input X float32 {list(shape)})".replace(", ", ",")]
    lines += [f"  (declare-output Y float32 [1,{classes}])", ")"]
    for i, (low, high) in enumerate(bounds):
        name = f"X[{','.join(str(int(n)) for n in np.unravel_index(i, shape))}]"
        lines += [f"(assert (>= {name} {_digits(low)}))", f"(assert (<= {name} {_digits(high)}))"]
    terms = [f"({relation} {_indexed(a)} {_indexed(b)})" for relation, a, b in rivals]
    body = f"(or {' '.join(terms)})" if len(terms) > 1 else terms[0]
    return "\n".join([*lines, f"(assert {body})"]) + "\n"


def _indexed(name: str) -> str:
    return re.sub(r"Y_(\d+)", r"Y[0,\1]", name)


# --- reading -------------------------------------------------------------------------------------


def _first_version(text: str) -> tuple[set[Variable], Formula]:
    """`(declared variables, formula)` of a file of `declare-const` and `assert`."""
    declared: set[Variable] = set()
    asserted: list[Formula] = []
    for command in _expressions(text):
        head = command[0] if isinstance(command, list) and command else command
        if head in ("declare-const", "declare-fun") and command[-1] == "Real":
            declared.add(_declared(command))
        elif head == "assert" and len(command) == 2:
            asserted.append(_formula(command[1], declared))
        elif head not in _IGNORED:
            raise ValueError(f"A command must be declare-const or assert. Received: {command!r}.")
    if not asserted:
        raise ValueError("The file asserts nothing.")
    return declared, ("and", asserted)


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


def _declared(command: list) -> Variable:
    match = _VARIABLE.fullmatch(command[1]) if isinstance(command[1], str) else None
    if match is None or (command[0] == "declare-fun" and command[2:] != [[], "Real"]):
        raise ValueError(f"Variables must be called X_i or Y_i. Received: {command!r}.")
    return match[1], int(match[2])


def _count(declared: set[Variable], letter: str) -> int:
    indices = {index for name, index in declared if name == letter}
    if not indices or indices != set(range(len(indices))):
        raise ValueError(
            f"The variables {letter}_0, {letter}_1, ... must be declared without a gap. "
            f"Received: {len(indices)} of them, up to {letter}_{max(indices, default=-1)}."
        )
    return len(indices)


def _formula(expression: Any, declared: set[Variable]) -> Formula:
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


def _linear(expression: Any, declared: set[Variable]) -> Linear:
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
        return parts[0] * Fraction(-1)
    total = parts[0]
    for part in parts[1:]:
        total = total + part if head == "+" else total - part
    return total


def _atom(token: str, declared: set[Variable]) -> Linear:
    if _NUMBER.fullmatch(token):
        return Linear({}, _number(token))
    match = _VARIABLE.fullmatch(token)
    if match is None or (variable := (match[1], int(match[2]))) not in declared:
        raise ValueError(f"{token!r} is neither a number nor a declared variable.")
    return Linear({variable: Fraction(1)})


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
