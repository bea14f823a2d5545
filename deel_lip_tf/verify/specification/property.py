"""A property of inputs and outputs as boxes and linear inequalities, in exact rational numbers.

A property describes the counterexamples: it is a disjunction of conjunctions, each of a box of
inputs and linear inequalities of outputs. The network is safe where no input satisfies any.
"""

import itertools
import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

__all__ = ["Conjunction", "Formula", "Inequality", "Linear", "Property", "Variable"]
__all__ += ["conjunctions", "property_of"]

_MOST_CONJUNCTIONS = 2**16

Box = tuple[np.ndarray, np.ndarray]
Variable = tuple[str, int]  # ("X", position in the flattened input) or ("Y", ...) of the output


@dataclass(frozen=True)
class Linear:
    """`sum(terms[v] v) + constant`."""

    terms: dict[Variable, Fraction]
    constant: Fraction = Fraction(0)

    def __add__(self, other: "Linear") -> "Linear":
        keys = {*self.terms, *other.terms}
        sums = {v: self.terms.get(v, Fraction(0)) + other.terms.get(v, Fraction(0)) for v in keys}
        terms = {v: coefficient for v, coefficient in sums.items() if coefficient}
        return Linear(terms, self.constant + other.constant)

    def __mul__(self, factor: Fraction) -> "Linear":
        terms = {v: factor * coefficient for v, coefficient in self.terms.items() if factor}
        return Linear(terms, factor * self.constant)

    def __sub__(self, other: "Linear") -> "Linear":
        return self + other * Fraction(-1)


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
        weights: (rows, outputs) float64, exact; `weights @ y + offsets <= 0` row by row.
        offsets: (rows,) float64, rounded downward: the inequality grows no harder to satisfy.
        is_strict: (rows,) whether the inequality excludes 0.
        inequalities: the same, and those of the inputs, exactly.
    """

    lower: np.ndarray
    upper: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    is_strict: np.ndarray
    inequalities: tuple[Inequality, ...]

    def holds(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether an input and its outputs are a counterexample, in exact arithmetic."""
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return False
        values = {"X": np.ravel(x), "Y": np.ravel(y)}
        return all(inequality.holds(values) for inequality in self.inequalities)


@dataclass(frozen=True, eq=False)
class Property:
    """A disjunction of conjunctions.

    Attributes:
        inputs: number of input variables.
        outputs: number of output variables.
        conjunctions: whose boxes are not empty.
    """

    inputs: int
    outputs: int
    conjunctions: tuple[Conjunction, ...]


Formula: TypeAlias = 'Inequality | tuple[str, list["Formula"]]'
"""An inequality, or `("and" | "or", [formulas])`."""


def conjunctions(formula: Formula) -> list[list[Inequality]]:
    """The disjunctive normal form of a formula.

    Raises:
        ValueError: more than 65,536 conjunctions.
    """
    if isinstance(formula, Inequality):
        return [[formula]]
    kind, parts = formula
    forms = [conjunctions(part) for part in parts]
    if kind == "or":
        return list(itertools.chain.from_iterable(forms))
    certain = [form[0] for form in forms if len(form) == 1]
    common = list(itertools.chain.from_iterable(certain))
    branching = [form for form in forms if len(form) != 1]
    if math.prod(map(len, branching)) > _MOST_CONJUNCTIONS:
        raise ValueError(
            f"The property has more than {_MOST_CONJUNCTIONS} alternatives when its disjunctions "
            "are multiplied out. Split it into several files."
        )
    choices = itertools.product(*branching)
    return [[*common, *itertools.chain.from_iterable(choice)] for choice in choices]


def property_of(formula: Formula, inputs: int, outputs: int) -> Property:
    """Separates the boxes from the inequalities of the outputs.

    Args:
        formula: of a counterexample.
        inputs: number of input variables.
        outputs: number of output variables.

    Raises:
        ValueError: an input without bounds, an inequality of several inputs or of inputs and
            outputs, coefficients of too many digits.
    """
    boxed: dict[tuple, Box | None] = {}
    found = [_conjunction(form, inputs, outputs, boxed) for form in conjunctions(formula)]
    return Property(inputs, outputs, tuple(entry for entry in found if entry is not None))


def _conjunction(
    form: list[Inequality], inputs: int, outputs: int, boxed: dict[tuple, Box | None]
) -> Conjunction | None:
    """One conjunction, or `None` where it contradicts itself before any network."""
    about_inputs: list[Inequality] = []
    about_outputs: list[Inequality] = []
    for inequality in form:
        letters = {letter for letter, _ in inequality.linear.terms}
        if letters == {"X", "Y"}:
            raise ValueError(
                "An inequality must be about inputs or about outputs. Received one that mixes "
                f"them: {_text(inequality)}."
            )
        if not letters and not inequality.holds({}):
            return None
        (about_outputs if letters == {"Y"} else about_inputs).append(inequality)
    # A box of many inputs is shared by many conjunctions.
    key = tuple(map(id, about_inputs))
    if key not in boxed:
        boxed[key] = _box(about_inputs, inputs)
    if (box := boxed[key]) is None:
        return None
    weights, offsets = np.zeros((len(about_outputs), outputs)), np.zeros(len(about_outputs))
    for row, inequality in enumerate(about_outputs):
        weights[row], offsets[row] = _row(inequality, outputs)
    strict = np.array([inequality.is_strict for inequality in about_outputs], np.bool_)
    return Conjunction(box[0], box[1], weights, offsets, strict, tuple(form))


def _box(inequalities: list[Inequality], inputs: int) -> Box | None:
    """`(lower, upper)` rounded outward, or `None` where the box is empty."""
    lower: dict[int, Fraction] = {}
    upper: dict[int, Fraction] = {}
    for inequality in inequalities:
        terms = inequality.linear.terms
        if not terms:
            continue
        if len(terms) != 1:
            raise ValueError(
                "Inputs must be bounded one by one. Received an inequality of several inputs: "
                f"{_text(inequality)}."
            )
        (((_, index), coefficient),) = terms.items()
        bound = -inequality.linear.constant / coefficient
        if coefficient > 0:
            upper[index] = min(upper.get(index, bound), bound)
        else:
            lower[index] = max(lower.get(index, bound), bound)
    if missing := [i for i in range(inputs) if i not in lower or i not in upper]:
        names = ", ".join(f"X_{i}" for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"Every input must have a lower and an upper bound. Without: {names} ({len(missing)} "
            f"of {inputs})."
        )
    if any(lower[i] > upper[i] for i in range(inputs)):
        return None
    low = np.array([rounded(lower[i], -1) for i in range(inputs)])
    high = np.array([rounded(upper[i], 1) for i in range(inputs)])
    if not np.isfinite([low, high]).all():
        raise ValueError("The bounds of an input must be finite in float64.")
    return low, high


def _row(inequality: Inequality, outputs: int) -> tuple[np.ndarray, float]:
    """Weights that are exact in float64, after a multiplication by a positive number if needed."""
    linear = inequality.linear
    if not all(map(_is_exact, linear.terms.values())):
        linear = linear * Fraction(math.lcm(*[c.denominator for c in linear.terms.values()]))
    weights = np.zeros(outputs)
    for (letter, index), coefficient in linear.terms.items():
        if not _is_exact(coefficient):
            raise ValueError(
                f"The coefficient of {letter}_{index}, added up exactly from the float64 numbers "
                "that are written, must be a float64 number itself, so that a proof about it is "
                f"exact. Received: {_text(inequality)}. Write one coefficient for each output."
            )
        weights[index] = float(coefficient)
    return weights, rounded(linear.constant, -1)


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
    is_beyond = Fraction(nearest) > value if direction < 0 else Fraction(nearest) < value
    return math.nextafter(nearest, direction * math.inf) if is_beyond else nearest


def _text(inequality: Inequality) -> str:
    terms = [f"{_nearest(c):g} {v}_{i}" for (v, i), c in inequality.linear.terms.items()]
    sign = "<" if inequality.is_strict else "<="
    return f"{' + '.join(terms)} + {_nearest(inequality.linear.constant):g} {sign} 0"
