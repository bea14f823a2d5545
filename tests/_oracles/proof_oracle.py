"""Whether a proof proves, in rational numbers, by the rules that `docs/verification.md` states.

What is confirmed in float64, rounded outward, is confirmed here.
"""

import itertools
import math
from collections import deque
from fractions import Fraction

LEAF = -1


class ExactProof:
    """Confirms proofs about one network; what was computed before is kept.

    Args:
        layers: pairs of weights (out, inputs) and biases, each followed by a ReLU but the last.
        alternatives: of the property, each rows (weights, offset) that are at most 0.
        box: (lower, upper) of all alternatives, each of all inputs.
    """

    def __init__(self, layers, alternatives, box):
        self.layers = [(_exact(weight), _exact(bias)) for weight, bias in layers]
        self.box = [_exact(end) for end in box]
        self.alternatives = [[(_exact(w), Fraction(float(o))) for w, o in a] for a in alternatives]
        widths = [len(bias) for _, bias in self.layers[:-1]]
        self.first = list(itertools.accumulate(widths, initial=0))
        self._ends, self._lowest = {}, {}

    def proves(self, arrays) -> bool:
        """Whether all alternatives are refuted."""
        arrays = {name: array.tolist() for name, array in arrays.items() if name != "heading"}
        numbers = [*arrays["multipliers"], *arrays["betas"], *arrays["slopes"]]
        if min(map(min, numbers)) < 0 or max(map(max, arrays["slopes"])) > 1:
            return False
        boxes = [
            [_exact(arrays[end][t]) for end in ("lower", "upper")] for t in _all(arrays, "lower")
        ]
        claims = [
            [(_exact(w), Fraction(o)) for w, o in zip(*pair, strict=True)]
            for pair in zip(arrays["weights"], arrays["offsets"], strict=True)
        ]
        for rows in self.alternatives:
            if not any(map(self._implies, itertools.repeat(rows), boxes, claims)):
                return False
        return self._covers(arrays, boxes, claims)

    def _implies(self, rows, box, claims) -> bool:
        contained = all(a <= b for a, b in zip(box[0], self.box[0], strict=True))
        contained &= all(a >= b for a, b in zip(box[1], self.box[1], strict=True))
        rows = [*rows, ([Fraction(0)] * len(rows[0][0]), Fraction(0))]  # what is always so
        return contained and all(any(w == v and o <= p for v, p in rows) for w, o in claims)

    def _covers(self, arrays, boxes, claims) -> bool:
        """Whether both sides of every split are there, and every leaf is refuted."""
        kept = arrays.get("kept", [False] * len(boxes))
        lemmas, leaves = arrays.get("places", []), arrays["axis"].count(LEAF)
        about = {}
        for number, (place, target) in enumerate(
            zip(lemmas, arrays.get("targets", []), strict=True), leaves
        ):
            about.setdefault(int(place), []).append((target, number))
        nodes = deque((t, box, {}, None) for t, box in enumerate(boxes))
        level, seen, leaf = deque(), 0, 0
        while nodes or level:
            if not nodes:
                lower, upper = zip(*level, strict=True)
                nodes, level = deque([*lower, *upper]), deque()
            if seen == len(arrays["axis"]):
                return False
            theorem, box, signs, ends = nodes.popleft()
            axis, at = int(arrays["axis"][seen]), arrays["at"][seen]
            if kept[theorem]:
                if ends is None:
                    same = [t for t in range(len(boxes)) if boxes[t] == boxes[theorem]]
                    own = [lemma for t in same for lemma in about.get(-1 - t, [])]
                    ends = self._known(box, {}, own, arrays, None)
                for k in range(len(self.layers) - 1):
                    ends = self._improved(
                        k, ends, box, claims[theorem], about.get(seen, []), arrays
                    )
            seen += 1
            if axis == LEAF:
                known = ends if kept[theorem] else self._known(box, signs, [], arrays, leaf)
                is_empty = any(low > high for low, high in known)
                if not is_empty and self._bound(known, box, claims[theorem], arrays, leaf, 0) <= 0:
                    return False
                leaf += 1
            elif 0 <= axis < len(box[0]):
                if not box[0][axis] <= Fraction(at) <= box[1][axis]:
                    return False
                halves = [[list(end) for end in box] for _ in range(2)]
                halves[0][1][axis] = halves[1][0][axis] = Fraction(at)
                level.append([(theorem, half, signs, ends) for half in halves])
            else:
                neuron = axis - len(box[0])
                if not 0 <= neuron < self.first[-1]:
                    return False
                cut = [(signs | {neuron: s}, ends and _clipped(ends, neuron, s)) for s in (-1, 1)]
                level.append([(theorem, box, *half) for half in cut])
        return seen == len(arrays["axis"])

    def _improved(self, k, ends, box, claims, lemmas, arrays):
        """Ends within what lemmas about a layer show with the ends as they were."""
        found = [
            (int(target), self._bound(ends, box, claims, arrays, number, target))
            for target, number in lemmas
            if self.first[k] < abs(target) <= self.first[k + 1]
        ]
        ends = list(ends)
        for target, bound in found:
            low, high = ends[abs(target) - 1]
            pair = (max(low, bound), high) if target > 0 else (low, min(high, -bound))
            ends[abs(target) - 1] = pair
        return tuple(ends)

    def _known(self, box, signs, lemmas, arrays, leaf):
        """The ends of all neurons on a box, by affine forms and then rows that are carried back."""
        slopes = tuple(arrays["slopes"][leaf]) if leaf is not None else (math.nan,) * self.first[-1]
        key = (*map(tuple, box), slopes, *sorted(signs.items()), *(n for _, n in lemmas))
        if lemmas or key not in self._ends:
            self._ends[key] = self._computed_ends(box, signs, lemmas, arrays, slopes)
        return self._ends[key]

    def _computed_ends(self, box, signs, lemmas, arrays, slopes):
        zero, none = Fraction(0), (0.0,) * self.first[-1]
        center = [(a + b) / 2 for a, b in zip(*box, strict=True)]
        half = [(b - a) / 2 for a, b in zip(*box, strict=True)]
        terms = [[h if i == j else zero for i in _all(half)] for j, h in enumerate(half) if h]
        radius, ends = [zero] * len(half), ()
        for k, (weight, bias) in enumerate(self.layers[:-1]):
            center = [c + b for c, b in zip(_product(weight, center), bias, strict=True)]
            terms = [_product(weight, term) for term in terms]
            radius = _product([_absolute(row) for row in weight], radius)
            spread = [sum(_absolute(t[j] for t in terms)) + radius[j] for j in _all(radius)]
            new = [(c - s, c + s) for c, s in zip(center, spread, strict=True)]
            ends = (*ends, *new)
            for number, sign in signs.items():
                ends = _clipped(ends, number, sign) if self.first[k] <= number < len(ends) else ends
            whole, found = (*ends, *[(-1, 1)] * (self.first[-1] - len(ends))), list(ends)
            for number in range(self.first[k], len(ends)):
                if ends[number][0] < 0 < ends[number][1]:
                    rows = whole, *map(tuple, box), []
                    low = self._computed(*rows, number + 1, (), slopes, none)
                    high = -self._computed(*rows, -number - 1, (), slopes, none)
                    found[number] = max(ends[number][0], low), min(ends[number][1], high)
            whole = (*found, *whole[len(found) :])
            ends = self._improved(k, whole, box, [], lemmas, arrays)[: len(found)]
            lines = [_chord(*pair) for pair in ends[self.first[k] :]]
            center = [chord * c + over / 2 for (chord, over), c in zip(lines, center, strict=True)]
            terms = [
                [chord * t for (chord, _), t in zip(lines, term, strict=True)] for term in terms
            ]
            radius = [chord * r + over / 2 for (chord, over), r in zip(lines, radius, strict=True)]
        return ends

    def _bound(self, ends, box, claims, arrays, number, target):
        """The lower bound of a certificate."""
        given = (arrays[name][number] for name in ("multipliers", "slopes", "betas"))
        key = (ends, *map(tuple, box), repr(claims), int(target), *map(tuple, given))
        if key not in self._lowest:
            self._lowest[key] = self._computed(*key[:3], claims, *key[4:])
        return self._lowest[key]

    def _computed(self, ends, lower, upper, claims, target, shares, slopes, betas):
        rows = [Fraction(0)] * len(self.layers[-1][1])
        total = Fraction(0)
        if claims:
            for share, (weights, offset) in zip(_exact(shares), claims, strict=True):
                rows = [r + share * w for r, w in zip(rows, weights, strict=True)]
                total += share * offset
        for k in reversed(range(len(self.layers))):
            weight, bias = self.layers[k]
            if k < len(self.layers) - 1:
                for j in _all(rows):
                    number = self.first[k] + j
                    (low, high), slope = ends[number], slopes[number]
                    slope = float(high > -low) if math.isnan(slope) else slope
                    (chord, over), slope = _chord(low, high), Fraction(slope)
                    if low >= 0 or high <= 0 or rows[j] < 0:
                        slope = chord
                    sign = (low == 0) - (high == 0)  # as it is where it was split
                    total += min(rows[j], 0) * over
                    rows[j] = rows[j] * slope - sign * Fraction(betas[number])
                    if abs(target) == number + 1:
                        rows[j] += 1 if target > 0 else -1
            total += sum(r * b for r, b in zip(rows, bias, strict=True))
            rows = _product(zip(*weight, strict=True), rows)
        return total + sum(min(r * a, r * b) for r, a, b in zip(rows, lower, upper, strict=True))


def _product(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _absolute(numbers):
    return [abs(number) for number in numbers]


def _chord(low, high):
    """The slope of the chord of a ReLU, and what it is at 0."""
    if low >= 0 or high <= 0:
        return Fraction(int(low >= 0)), Fraction(0)
    return high / (high - low), -low * high / (high - low)


def _all(rows, name=None):
    return range(len(rows[name] if name else rows))


def _exact(numbers):
    """Fractions in the place of numbers."""
    if hasattr(numbers, "tolist"):
        numbers = numbers.tolist()
    return [_exact(one) if isinstance(one, list) else Fraction(one) for one in numbers]


def _clipped(ends, neuron, sign):
    """Ends within a sign."""
    low, high = ends[neuron]
    pair = (max(low, Fraction(0)), high) if sign > 0 else (low, min(high, Fraction(0)))
    return (*ends[:neuron], pair, *ends[neuron + 1 :])
