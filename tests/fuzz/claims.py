"""Claims about one graph: bounds, certificates, metrics, exports; each against what was found."""

import itertools

import numpy as np
import tensorflow as tf

from deel_lip_tf import bounds, certificates
from deel_lip_tf.certificate_metrics import Certificate_Binary, Certificate_Multiclass
from tests.fuzz import searches
from tests.fuzz.models.subjects import WIDE, Subject
from tests.fuzz.tally import Tally, short

__all__ = ["CLAIMS", "Ask", "gaps", "judged", "tolerance"]

_RELATIVE = 1 + 1e-9  # of a quotient of differences of at least 1e-6
_FAR = 1e4  # an infinite radius is searched up to here


class Ask:
    """One case: the subject, the random choices of its questions, and where the answers go."""

    def __init__(self, subject: Subject, case: str, seed, tally: Tally):
        self.subject, self.case, self.tally = subject, case, tally
        self.rng = np.random.default_rng(seed)
        self.is_answered = False
        self.can_run = _runs(subject)

    def answer(self, claim: str, function, *arguments, count: int = 1, **keywords):
        """What the library says, or None where it refuses by a ValueError."""
        try:
            found = _asked(function, *arguments, **keywords)
        except ValueError as error:
            self.tally.refuse(claim, error)
            return None
        except Exception as error:
            if isinstance(error, tf.errors.OpError) and not self.can_run:
                self.tally.refuse(claim, error)
                return None
            self.violated(f"{claim}: no refusal", f"{type(error).__name__}: {str(error)[:300]!r}")
            return None
        self.tally.answered(claim, count)
        self.is_answered = True
        return found

    def violated(self, claim: str, detail: str) -> None:
        self.tally.violated(claim, self.case, detail, self.subject.text())


def _asked(function, *arguments, **keywords):
    """The answer; of functions that TensorFlow runs only where they are traced, traced."""
    try:
        return function(*arguments, **keywords)
    except tf.errors.OpError:
        if not tf.config.functions_run_eagerly():
            raise
        tf.config.run_functions_eagerly(False)
        try:
            return function(*arguments, **keywords)
        finally:
            tf.config.run_functions_eagerly(True)


def _runs(subject: Subject) -> bool:
    """Whether TensorFlow computes the model at all on this machine."""
    try:
        subject.run(subject.points(np.random.default_rng(0), 1))
    except Exception:
        return False
    return True


def judged(subject: Subject, points: np.ndarray) -> np.ndarray:
    """The function in the wide type."""
    return subject(np.asarray(points).astype(WIDE))


def tolerance(subject: Subject, values: np.ndarray) -> float:
    """More than what `judged` is wrong by."""
    unit = 1e-6 if subject.keeps_numbers else 1e-11
    unit = subject.unit if subject.graph.is_coarse else unit
    return unit * (1.0 + float(np.abs(values).max(initial=0.0)))


# --- bounds --------------------------------------------------------------------------------------


def lipschitz(ask: Ask) -> None:
    subject = ask.subject
    starts = subject.points(ask.rng, 10)
    for norm in ("l2", "linf", "l1"):
        found = ask.answer(f"lipschitz_bound {norm}", bounds.lipschitz_bound, subject.model, norm)
        if found is None:
            continue
        if not np.isfinite(judged(subject, starts)).all():
            continue
        a, b = searches.steepest(subject, starts, norm, ask.rng, subject.limits)
        pair = np.stack([a, b]).astype(WIDE)
        values = subject(pair)
        change = np.linalg.norm((values[0] - values[1]).astype(np.float64), searches.ORDERS[norm])
        length = np.linalg.norm((pair[0] - pair[1]).astype(np.float64), searches.ORDERS[norm])
        if change > found.value * length * _RELATIVE + tolerance(subject, values) + 1e-13 / 1e-4:
            ask.violated(
                f"lipschitz_bound {norm}",
                f"claimed {found.value!r}, found {float(change / length)!r} between {short(a)} and "
                f"{short(b)}",
            )


# --- certificates --------------------------------------------------------------------------------


def gaps(label: int, outputs: np.ndarray) -> np.ndarray:
    """(points, rivals): all positive where the label is predicted."""
    if outputs.shape[1] == 1:
        return outputs if label > 0 else -outputs
    return outputs[:, [label]] - np.delete(outputs, label, axis=1)


def _attacked(ask: Ask, center: np.ndarray, radius: float, label: int) -> np.ndarray:
    """Points within a Euclidean distance of a center where another label comes near."""
    subject, radius = ask.subject, min(radius, _FAR)
    if subject.is_integer:
        moves = ask.rng.normal(size=(200, subject.size))
        moves *= radius * ask.rng.random((200, 1)) / np.linalg.norm(moves, axis=1, keepdims=True)
        unit = np.eye(subject.size)
        moves = np.concatenate([np.rint(moves), unit, -unit, 2 * unit, -2 * unit])
        info = np.iinfo(subject.inputs[0][1])
        points = np.clip(center + moves, info.min, info.max)
        return points[np.linalg.norm(points - center, axis=1) <= radius]
    if radius <= 0:
        return center[None]
    lower, upper = center - radius, center + radius

    def function(points):
        return gaps(label, subject(points))

    found = searches.lowest(function, ask.rng, lower, upper, center, radius, "l2")
    return np.concatenate([found, searches.inside(ask.rng, 12, lower, upper, center, radius, "l2")])


def certify(ask: Ask) -> None:
    subject = ask.subject
    x = subject.points(ask.rng, 5)
    values = judged(subject, x)
    if not np.isfinite(values).all():
        return
    running = subject.run(x) if ask.can_run else None
    for semantics, local in itertools.product(("real", "float32"), (False, True)):
        name = f"certify {semantics}{' local' * local}"
        options = {"semantics": semantics, "local": local}
        given = subject.arguments(x)
        found = ask.answer(name, certificates.certify, subject.model, given, count=5, **options)
        if found is None:
            continue
        for i in range(len(x)):
            _check_sample(ask, name, x[i], values[i : i + 1], found, i)
            if running is not None and found.radius[i] > 0:
                _check_running(ask, name, x[i], running[i : i + 1], found, i)
                if i == 0:  # a sample by itself, not in a batch
                    _check_running(ask, name, x[i], subject.run(x[:1]), found, i)
            _check_radius(ask, name, x[i], int(found.label[i]), float(found.radius[i]))


def _check_sample(ask: Ask, name, x, values, found, i) -> None:
    """The label and the margin are those of the exact function."""
    label, margin = int(found.label[i]), float(found.margin[i])
    lowest = float(gaps(label, values).min(initial=np.inf))
    slack = tolerance(ask.subject, values) + (1e-6 if "float32" in name else 0.0)
    if lowest < -slack:
        ask.violated(
            f"{name} label",
            f"label {label}, but the gaps are {short(gaps(label, values))} at {short(x)}",
        )
    if (
        found.radius[i] > 0
        and np.isfinite(lowest)
        and abs(margin - lowest) > slack + 1e-5 * (1 + abs(lowest))
    ):
        ask.violated(f"{name} margin", f"margin {margin}, true {lowest} at {short(x)}")


def _check_running(ask: Ask, name, x, outputs, found, i) -> None:
    """The model itself gives the label at the sample, up to its rounding."""
    lowest = float(gaps(int(found.label[i]), outputs).min(initial=np.inf))
    slack = 0.0 if "float32" in name else ask.subject.rounding(x[None])
    if lowest < -slack:
        ask.violated(
            f"{name} at the sample",
            f"label {found.label[i]} with radius {found.radius[i]}, but the model itself returns "
            f"{short(outputs)} at {short(x)}",
        )


def _check_radius(ask: Ask, name, x, label: int, radius: float) -> None:
    if not radius > 0:
        return
    subject, points = ask.subject, _attacked(ask, x, radius, label)
    if not len(points):
        return
    if "float32" in name:
        if not ask.can_run:
            return
        values, slack = subject.run(points), 0.0
    else:
        values = judged(subject, points)
        slack = tolerance(subject, values)
    lowest = gaps(label, values).min(axis=1, initial=np.inf)
    worst = int(np.nanargmin(lowest))
    length = np.linalg.norm(points[worst] - x)
    if lowest[worst] < -slack and length <= radius:
        ask.violated(
            f"{name} radius",
            f"label {label} within {radius!r} of {short(x)}, but at distance {float(length)!r} the "
            f"gap is {float(lowest[worst])!r} at {short(points[worst])}",
        )


def divisors(ask: Ask) -> None:
    subject = ask.subject
    found = ask.answer("class_divisors", certificates.class_divisors, subject.model)
    starts = subject.points(ask.rng, 8)
    if found is None or not np.isfinite(judged(subject, starts)).all():
        return
    count = len(found)
    i, j = (0, 0) if count == 1 else ask.rng.choice(count, 2, replace=False)

    def function(points):
        values = subject(points)
        return values[:, [i]] - (values[:, [j]] if count > 1 else 0)

    a, b = searches.steepest(function, starts, "l2", ask.rng, subject.limits)
    pair = np.stack([a, b]).astype(WIDE)
    values = function(pair)
    change, length = abs(float(values[0, 0] - values[1, 0])), float(np.linalg.norm(a - b))
    if change > found[i, j] * length * _RELATIVE + tolerance(subject, subject(pair)) + 1e-9:
        ask.violated(
            "class_divisors",
            f"claimed {float(found[i, j])!r} of ({i}, {j}), found {float(change / length)!r} "
            f"between {short(a)} and {short(b)}",
        )


def metric(ask: Ask) -> None:
    """The mean radius of one sample is a radius of it."""
    subject = ask.subject
    if not ask.can_run:
        return
    x = subject.points(ask.rng, 1)
    outputs = subject.run(x)
    if not np.isfinite(outputs).all():
        return
    is_single = outputs.shape[1] == 1
    label = int(outputs[0, 0] > 0) if is_single else int(outputs[0].argmax())
    kind = Certificate_Binary if is_single else Certificate_Multiclass
    found = ask.answer(kind.__name__, kind, subject.model)
    if found is None:
        return
    found.update_state(np.array([label]), outputs.astype(np.float32))
    radius, slack = 0.999 * float(found.result()), subject.rounding(x)
    if not radius > 0:
        return
    points = _attacked(ask, x[0], radius, label)
    lowest = (
        gaps(label, judged(subject, points)).min(axis=1, initial=np.inf) if len(points) else [0]
    )
    if min(lowest) < -slack:
        worst = points[int(np.argmin(lowest))]
        ask.violated(
            kind.__name__, f"radius {radius!r} of label {label} at {short(x[0])}, but the gap is "
            f"{float(min(lowest))!r} at {short(worst)}"
        )  # fmt: skip


CLAIMS = (lipschitz, certify, divisors, metric)
"""About a classifier; the first one about any network."""
