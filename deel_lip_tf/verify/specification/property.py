"""A property of inputs and outputs as boxes and linear inequalities, in exact rational numbers.

A property describes the counterexamples: it is a disjunction of conjunctions, each of a box of
inputs and linear inequalities of outputs. The network is safe where no input satisfies any.

An inequality of several inputs, or of inputs and outputs, is one of outputs, too: of the network
that also returns this linear function of its inputs, a relation.
"""

import itertools
import math
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np

_MOST_CONJUNCTIONS = 2**16

Variable = tuple[str, int]  # ("X", position in the flattened input) or ("Y", ...) of the output


_ZERO = Fraction(0)


@dataclass(frozen=True)
class Linear:
    """`sum(terms[v] v) + constant`."""

    terms: dict[Variable, Fraction]
    constant: Fraction = _ZERO

    def __add__(self, other: "Linear") -> "Linear":
        constant = self.constant + other.constant if other.constant else self.constant
        if not other.terms:
            return Linear(self.terms, constant)
        terms = dict(self.terms)
        for variable, coefficient in other.terms.items():
            terms[variable] = terms.get(variable, _ZERO) + coefficient
        return Linear({v: c for v, c in terms.items() if c}, constant)

    def __mul__(self, factor: Fraction) -> "Linear":
        terms = {v: factor * coefficient for v, coefficient in self.terms.items() if factor}
        return Linear(terms, factor * self.constant)

    def __neg__(self) -> "Linear":
        return Linear({v: -coefficient for v, coefficient in self.terms.items()}, -self.constant)

    def __sub__(self, other: "Linear") -> "Linear":
        # Files have tens of thousands of bounds, and every operation on a fraction is slow.
        if self.constant or (other.terms and self.terms):
            return self + -other
        return Linear(self.terms, -other.constant) if self.terms else -other


@dataclass(frozen=True)
class Inequality:
    """`linear <= 0`, or `linear < 0` where it is strict."""

    linear: Linear
    is_strict: bool = False

    def holds(self, values: dict[str, np.ndarray]) -> bool:
        """Whether it holds, exactly, for flat arrays of values by the variable's letter."""
        terms = self.linear.terms.items()
        total = self.linear.constant + sum(c * Fraction(float(values[v][i])) for (v, i), c in terms)
        return total < 0 if self.is_strict else total <= 0


@dataclass(frozen=True, eq=False)
class Conjunction:
    """What a counterexample satisfies, all of it.

    Attributes:
        lower: (inputs,) float64, rounded outward.
        upper: (inputs,) float64, rounded outward.
        weights: (rows, outputs) float64, exact; `weights @ y + offsets <= 0` row by row. Where the
            property has relations, y has their values at its end.
        offsets: (rows,) float64, rounded downward: the inequality grows no harder to satisfy.
        is_strict: (rows,) whether the inequality excludes 0.
        inequalities: the same, and those of the inputs, exactly; without those in `shared`.
        shared: inequalities that other conjunctions have too, exactly.
    """

    lower: np.ndarray
    upper: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    is_strict: np.ndarray
    inequalities: tuple[Inequality, ...]
    shared: tuple[Inequality, ...] = ()

    def holds(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether an input and its outputs are a counterexample, in exact arithmetic."""
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return False
        values = {"X": np.ravel(x), "Y": np.ravel(y)}
        everything = itertools.chain(self.inequalities, self.shared)
        return all(inequality.holds(values) for inequality in everything)


@dataclass(frozen=True, eq=False)
class Property:
    """A disjunction of conjunctions.

    Attributes:
        inputs: number of input variables.
        outputs: number of output variables.
        conjunctions: whose boxes are not empty.
        relations: (m, inputs) float64, exact: coefficients of linear functions of the inputs.
    """

    inputs: int
    outputs: int
    conjunctions: tuple[Conjunction, ...]
    relations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


Box = tuple[np.ndarray, np.ndarray]

Formula: TypeAlias = 'Inequality | tuple[str, list["Formula"]]'
"""An inequality, or `("and" | "or", [formulas])`."""


def conjunctions(formula: Formula) -> tuple[list[Inequality], list[list[Inequality]]]:
    """The disjunctive normal form of a formula.

    Returns:
        What all conjunctions have in common, and what each of them has besides.

    Raises:
        ValueError: more than 65,536 conjunctions.
    """
    if isinstance(formula, Inequality):
        return [formula], [[]]
    kind, parts = formula
    forms = [conjunctions(part) for part in parts]
    if kind == "or" and len(forms) > 1:
        return [], [[*common, *own] for common, choices in forms for own in choices]
    common = list(itertools.chain.from_iterable(common for common, _ in forms))
    branching = [choices for _, choices in forms if choices != [[]]]
    if math.prod(map(len, branching)) > _MOST_CONJUNCTIONS:
        raise ValueError(
            f"The property has more than {_MOST_CONJUNCTIONS} alternatives when its disjunctions "
            "are multiplied out. Split it into several files."
        )
    if len(branching) == 1:
        return common, branching[0]
    return common, [
        list(itertools.chain.from_iterable(choice)) for choice in itertools.product(*branching)
    ]


def padded(rows: np.ndarray, count: int, otherwise: float = 0.0) -> np.ndarray:
    """Rows of a conjunction, the last one repeated up to a number of them.

    `otherwise` stands in all of them where there are none. As every input is a counterexample then,
    those of the offsets may be negative.
    """
    if not len(rows):
        return np.full((count, *rows.shape[1:]), otherwise, rows.dtype)
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def one_not_positive(lower: np.ndarray, upper: np.ndarray, rows: np.ndarray) -> Property:
    """That one of some rows (m, outputs) of the outputs is not positive, somewhere in a box."""
    offsets, is_strict, found = np.zeros(1), np.zeros(1, bool), []
    for row in rows:
        terms = {("Y", i): Fraction(float(a)) for i, a in enumerate(row) if a}
        exactly = (Inequality(Linear(terms)),)
        found.append(Conjunction(lower, upper, row[None], offsets, is_strict, exactly))
    return Property(lower.size, rows.shape[1], tuple(found))


def property_of(formula: Formula, inputs: int, outputs: int) -> Property:
    """Separates the boxes from the inequalities of the outputs.

    Args:
        formula: as for `conjunctions`.
        inputs: number of input variables.
        outputs: number of output variables.

    Raises:
        ValueError: an input without bounds, or coefficients of too many digits.
    """
    common, alternatives = conjunctions(formula)
    relations = _Relations(inputs, outputs)
    for inequality in itertools.chain(common, *alternatives):
        relations.add(inequality)
    shared = _parts(common, relations)
    if shared is None:
        return Property(inputs, outputs, ())
    bounds = _tightened(({}, {}), shared.about_inputs)
    boxes: dict[tuple, Box | None] = {}
    found = []
    for alternative in alternatives:
        own = _parts(alternative, relations)
        if own is None:
            continue
        # A box of many inputs is shared by many conjunctions.
        key = tuple(map(id, own.about_inputs))
        if key not in boxes:
            boxes[key] = _box(_tightened(bounds, own.about_inputs), inputs)
        if (box := boxes[key]) is not None:
            weights, offsets, strict = (
                np.concatenate(pair) for pair in zip(shared.rows, own.rows, strict=True)
            )
            exactly = tuple(alternative), tuple(common)
            found.append(Conjunction(*box, weights, offsets, strict, *exactly))
    return Property(inputs, outputs, tuple(found), relations.matrix)


class _Relations:
    """Linear functions of inputs that inequalities have, each once for both of its signs.

    Args:
        inputs: number of input variables.
        outputs: number of output variables.
    """

    def __init__(self, inputs: int, outputs: int):
        self._inputs, self._outputs = inputs, outputs
        self._found: dict[tuple, int] = {}

    @property
    def columns(self) -> int:
        """Number of outputs and of relations."""
        return self._outputs + len(self._found)

    @property
    def matrix(self) -> np.ndarray:
        """(m, inputs)."""
        return np.array(list(self._found), np.float64).reshape(-1, self._inputs)

    def add(self, inequality: Inequality) -> None:
        """Takes an inequality, if it is one of inputs and of more than one variable."""
        terms = inequality.linear.terms
        if len(terms) > 1 and any(letter == "X" for letter, _ in terms):
            key, _ = self._key(self._row(inequality)[0])
            self._found.setdefault(key, len(self._found))

    def set_row(self, weights: np.ndarray, inequality: Inequality) -> float:
        """Sets the coefficients (outputs and relations) of an inequality; returns its offset."""
        if all(letter == "Y" for letter, _ in inequality.linear.terms):
            return _set_row(weights, inequality)
        row, offset = self._row(inequality)
        key, sign = self._key(row)
        weights[: self._outputs] = row[: self._outputs]
        weights[self._outputs + self._found[key]] = sign
        return offset

    def _row(self, inequality: Inequality) -> tuple[np.ndarray, float]:
        """Coefficients of the outputs and of the inputs, and the offset."""
        row = np.zeros(self._outputs + self._inputs)
        return row, _set_row(row, inequality, self._outputs)

    def _key(self, row: np.ndarray) -> tuple[tuple, float]:
        """The coefficients of the inputs with the first one positive, and the sign that it had."""
        own = row[self._outputs :]
        sign = 1.0 if own[np.flatnonzero(own)[0]] > 0 else -1.0
        return tuple((sign * own + 0.0).tolist()), sign


@dataclass(frozen=True, eq=False)
class _Parts:
    """Inequalities of inputs, and those of outputs as `(weights, offsets, is_strict)`."""

    about_inputs: list[Inequality]
    rows: tuple[np.ndarray, np.ndarray, np.ndarray]


def _parts(inequalities: list[Inequality], relations: _Relations) -> _Parts | None:
    """The inequalities by what they are about, or `None` where one holds nowhere."""
    about_inputs: list[Inequality] = []
    about_outputs: list[Inequality] = []
    for inequality in inequalities:
        variables = list(inequality.linear.terms)
        if len(variables) == 1 and variables[0][0] == "X":
            about_inputs.append(inequality)
        elif variables:
            about_outputs.append(inequality)
        elif not inequality.holds({}):
            return None
    weights = np.zeros((len(about_outputs), relations.columns))
    offsets = np.zeros(len(about_outputs))
    for row, inequality in enumerate(about_outputs):
        offsets[row] = relations.set_row(weights[row], inequality)
    strict = np.array([inequality.is_strict for inequality in about_outputs], np.bool_)
    return _Parts(about_inputs, (weights, offsets, strict))


_Bounds = tuple[dict[int, Fraction], dict[int, Fraction]]


def _tightened(bounds: _Bounds, inequalities: list[Inequality]) -> _Bounds:
    """`(lower, upper)` by input, of those that satisfy some inequalities besides."""
    if not inequalities:
        return bounds
    lower, upper = (dict(ends) for ends in bounds)
    for inequality in inequalities:
        (((_, index), coefficient),) = inequality.linear.terms.items()
        bound = -inequality.linear.constant if coefficient > 0 else inequality.linear.constant
        if abs(coefficient) != 1:
            bound /= abs(coefficient)
        if coefficient > 0:
            upper[index] = min(upper.get(index, bound), bound)
        else:
            lower[index] = max(lower.get(index, bound), bound)
    return lower, upper


def _box(bounds: _Bounds, inputs: int) -> Box | None:
    """`(lower, upper)` rounded outward, or `None` where the box is empty."""
    lower, upper = bounds
    if missing := [i for i in range(inputs) if i not in lower or i not in upper]:
        names = ", ".join(f"X_{i}" for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"Every input must have a lower and an upper bound. Without: {names} ({len(missing)} "
            f"of {inputs})."
        )
    if any(lower[i] > upper[i] for i in range(inputs)):
        return None
    places = range(inputs)
    ends = np.array(
        [[rounded(lower[i], -1) for i in places], [rounded(upper[i], 1) for i in places]]
    )
    if not np.isfinite(ends).all():
        raise ValueError("The bounds of an input must be finite in float64.")
    return ends[0], ends[1]


def _set_row(weights: np.ndarray, inequality: Inequality, outputs: int = 0) -> float:
    """Sets weights that are exact in float64, and returns the offset that belongs to them.

    Those of inputs come behind the outputs. Both are multiplied by a positive number if needed.
    """
    linear = inequality.linear
    if not all(map(_is_exact, linear.terms.values())):
        linear = linear * Fraction(math.lcm(*[c.denominator for c in linear.terms.values()]))
    for (letter, index), coefficient in linear.terms.items():
        if not _is_exact(coefficient):
            raise ValueError(
                f"The coefficient of {letter}_{index}, added up exactly from the float64 numbers "
                "that are written, must be a float64 number itself, so that a proof about it is "
                f"exact. Received: {_text(inequality)}. Write one coefficient for each output."
            )
        weights[index if letter == "Y" else outputs + index] = float(coefficient)
    return rounded(linear.constant, -1)


def _is_exact(value: Fraction) -> bool:
    nearest = _nearest(value)
    return math.isfinite(nearest) and Fraction(nearest) == value


def _nearest(value: Fraction) -> float:
    """The nearest float64, infinite beyond the largest one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def rounded(value: Fraction, direction: int) -> float:
    """The nearest float64 that is not above (`direction` -1) or not below (1) a number."""
    nearest = _nearest(value)
    if math.isinf(nearest):
        return nearest if nearest * direction > 0 else math.copysign(sys.float_info.max, nearest)
    if nearest.as_integer_ratio() == value.as_integer_ratio():
        return nearest
    is_beyond = Fraction(nearest) > value if direction < 0 else Fraction(nearest) < value
    return math.nextafter(nearest, direction * math.inf) if is_beyond else nearest


def _text(inequality: Inequality) -> str:
    terms = [f"{_nearest(c):g} {v}_{i}" for (v, i), c in inequality.linear.terms.items()]
    sign = "<" if inequality.is_strict else "<="
    return f"{' + '.join(terms)} + {_nearest(inequality.linear.constant):g} {sign} 0"
