"""The checker's own reader of VNN-LIB 1.0, in exact rational numbers."""

import itertools
import math
import re
from fractions import Fraction
from typing import Any, NamedTuple

from deel_lip_tf.checking.network import Rejected

MOST_ALTERNATIVES, MOST_ROWS, MOST_DEPTH = 2**16, 2**22, 2**8  # rows of all alternatives

Terms = dict[str, Fraction]  # coefficients by the name of a variable, and "" for the constant


class Row(NamedTuple):
    """`sum(terms[v] v) + constant <= 0`."""

    terms: Terms
    constant: Fraction


def read_property(text: str) -> tuple[list[int], list[list[Row]]]:
    """Numbers of inputs and outputs, and alternatives; digits mean the float64 nearest to them."""
    stack: list[list] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", text)):
        if token == ")":
            token = stack.pop()
        if len(stack) > MOST_DEPTH:
            raise Rejected(f"the property has more than {MOST_DEPTH} brackets in each other")
        if token == "(":
            stack.append([])
        else:
            stack[-1].append(token)
    names = [one[1] for one in stack[0] if one[0] == "declare-const"]
    counts = [sum(name[0] == letter for name in names) for letter in "XY"]
    declared = {f"{c}_{i}" for c, count in zip("XY", counts, strict=True) for i in range(count)}
    asserted = [formula for head, formula in stack[0][len(names) :] if head == "assert"]
    if len(stack) != 1 or {*names} != declared or len(asserted) + len(names) != len(stack[0]):
        raise Rejected("the property must be declarations and then assertions of VNN-LIB 1.0")
    alternatives = _alternatives(["and", ["<=", "0", "0"], *asserted])
    if not {name for rows in alternatives for row in rows for name in row.terms} <= declared:
        raise Rejected("the property names a variable that it does not declare")
    return counts, alternatives


def _alternatives(formula: list) -> list[list[Row]]:
    """The disjunctive normal form; a strict inequality is taken as the one that asks for less."""
    head, *parts = formula
    if head in ("or", "and"):
        forms = [_alternatives(part) for part in parts]
        count = sum(map(len, forms)) if head == "or" else math.prod(map(len, forms))
        rows = sum(max(map(len, form), default=0) for form in forms)
        if count > MOST_ALTERNATIVES or count * rows > MOST_ROWS:
            raise Rejected("the property has too many alternatives, or rows of them")
    if head == "or":
        return list(itertools.chain.from_iterable(forms))
    if head == "and":
        return [list(itertools.chain.from_iterable(one)) for one in itertools.product(*forms)]
    if head not in ("<=", "<", ">=", ">"):
        raise Rejected(f"the property has a condition that is not known: {head}")
    pairs = itertools.pairwise(parts[::-1] if head[0] == ">" else parts)
    sides = [_linear(["-", *pair]) for pair in pairs]
    found = [Row(terms, terms.pop("", Fraction(0))) for terms in sides]
    # `0 < 0` is false, as `1 <= 0` is.
    return [[row if any(row) or "=" in head else Row({}, Fraction(1)) for row in found]]


def _linear(term: Any) -> Terms:
    """Coefficients by name, those that are not 0."""
    if isinstance(term, str):
        return {term: Fraction(1)} if term[0] in "XY" else {"": Fraction(float(term))}
    head, *parts = term
    if head not in ("+", "-"):
        raise Rejected(f"the property has a term that is not known: {head}")
    total: Terms = {}
    for i, part in enumerate(parts):
        sign = -1 if head == "-" and (i or len(parts) == 1) else 1
        for name, value in _linear(part).items():
            total[name] = total.get(name, Fraction(0)) + sign * value
    return {name: value for name, value in total.items() if value}


def box_of(rows: list[Row]) -> tuple[Terms, Terms] | None:
    """Bounds of single variables, lower and upper ones, or None where no number satisfies all.

    Rows of several inputs, and of inputs and outputs, are left out: then more is to be refuted.
    """
    lower, upper = Terms(), Terms()
    for terms, constant in rows:
        for name, slope in terms.items() if len(terms) == 1 else ():
            ends, better = (upper, min) if slope > 0 else (lower, max)
            ends[name] = better(ends.get(name, -constant / slope), -constant / slope)
    is_void = any(not terms and constant > 0 for terms, constant in rows)
    is_void |= any(lower[name] > upper[name] for name in {*lower} & {*upper})
    return None if is_void else (lower, upper)


def implies(rows: list[Row], weights: list[float], offset: float) -> bool:
    """Whether `weights @ outputs + offset` is at most 0 wherever all rows hold."""
    terms = {f"Y_{i}": Fraction(weight) for i, weight in enumerate(weights) if weight}
    return any(row.terms == terms and offset <= row.constant for row in rows)
