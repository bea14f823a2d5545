"""Properties in VNN-LIB's first version: drawn, written, and read by another reader.

A formula is `("and" | "or", [formulas])` or `(relation, left, right)` of terms: a number, a name
such as "Y_0", or `("+" | "-" | "*", [terms])`.
"""

import decimal
import re
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from deel_lip_tf import verify

__all__ = ["Reader", "drawn", "text", "through_file"]

_RELATIONS = ("<=", ">=", "<", ">")


def drawn(rng: np.random.Generator, reached: np.ndarray):
    """A random formula of outputs, true near some of the rows `reached` (points, outputs)."""
    parts = [
        _conjunction(rng, reached[rng.integers(len(reached))]) for _ in range(rng.choice([1, 1, 2]))
    ]
    return parts[0] if len(parts) == 1 else ("or", parts)


def _conjunction(rng, y):
    count = int(rng.choice([1, 1, 2]))
    return ("and", [_inequality(rng, y) for _ in range(count)])


def _inequality(rng, y):
    """Of one output, or of two, with a threshold that is nearly reached, or just missed."""
    scale = 1.0 + float(np.abs(y).max())
    slack = scale * float(rng.choice([1e-9, 1e-7, 1e-3, 0.1, -1e-7, -1e-2]))
    relation = str(rng.choice(_RELATIONS))
    sign = 1.0 if relation.startswith("<") else -1.0
    i = int(rng.integers(len(y)))
    if len(y) == 1 or rng.random() < 0.5:
        return (relation, f"Y_{i}", float(y[i] + sign * slack))
    j = int(rng.choice([k for k in range(len(y)) if k != i]))
    if rng.random() < 0.3:
        return (relation, f"Y_{i}", f"Y_{j}")
    factor = float(rng.choice([1.0, -2.0, 0.5]))
    term = ("+", [f"Y_{i}", ("*", [factor, f"Y_{j}"])])
    return (relation, term, float(y[i] + factor * y[j] + sign * slack))


def _digits(value: float) -> str:
    written = format(decimal.Decimal(repr(float(value))), "f")
    return written if "." in written else f"{written}.0"


def _written(formula) -> str:
    if isinstance(formula, str):
        return formula
    if isinstance(formula, float):
        return _digits(formula)
    head, *rest = formula
    rest = rest[0] if isinstance(rest[0], list) else rest
    return f"({head} {' '.join(map(_written, rest))})"


def text(lower, upper, outputs: int, formula) -> str:
    """The file; the formula is its last line."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {_digits(low)}))", f"(assert (<= X_{i} {_digits(high)}))"]
    return "\n".join([*lines, f"(assert {_written(formula)})"])


def through_file(content: str):
    """What the library reads from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "question.vnnlib"
        path.write_text(content, encoding="utf-8")
        return verify.read_vnnlib(path)


class Reader:
    """The assertions of a file, to be evaluated at points."""

    def __init__(self, content: str):
        tokens = iter(re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", content)))
        commands = []
        for token in tokens:
            if token == "(":
                commands.append(_list(tokens))
        self._assertions = [command[1] for command in commands if command[0] == "assert"]

    def holds(self, x, y) -> bool:
        """Exactly, in rational numbers: a point and its outputs."""
        values = {f"X_{i}": Fraction(float(v)) for i, v in enumerate(np.ravel(x))}
        values |= {f"Y_{i}": Fraction(float(v)) for i, v in enumerate(np.ravel(y))}
        return all(_holds(formula, values) for formula in self._assertions)

    def degrees(self, outputs: np.ndarray) -> np.ndarray:
        """(points,) by how much outputs satisfy the assertions about them; negative: not."""
        values = {f"Y_{i}": column for i, column in enumerate(outputs.T)}
        about = [f for f in self._assertions if "Y_" in str(f)]
        return np.min([_degree(formula, values) for formula in about], axis=0)


def _list(tokens) -> list:
    items = []
    for token in tokens:
        if token == ")":
            break
        items.append(_list(tokens) if token == "(" else token)
    return items


def _holds(formula, values) -> bool:
    head, *rest = formula
    if head in ("and", "or"):
        return (all if head == "and" else any)(_holds(part, values) for part in rest)
    a, b = (_term(part, values, Fraction) for part in rest)
    return {"<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b, "=": a == b}[head]


def _degree(formula, values):
    head, *rest = formula
    if head in ("and", "or"):
        parts = [_degree(part, values) for part in rest]
        return np.min(parts, axis=0) if head == "and" else np.max(parts, axis=0)
    a, b = (_term(part, values, np.longdouble) for part in rest)
    return b - a if head.startswith("<") else a - b


def _term(term, values, number):
    if isinstance(term, str):
        # Numbers are the float64 nearest to their digits.
        return values[term] if term in values else number(float(term))
    head, *rest = term
    parts = [_term(part, values, number) for part in rest]
    total = parts[0]
    if head == "-" and len(parts) == 1:
        return -total
    for part in parts[1:]:
        total = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}[head](
            total, part
        )
    return total
