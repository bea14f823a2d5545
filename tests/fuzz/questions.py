"""Questions to `verify`, each answer against points that were found in the domain."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import Model

from deel_lip_tf import verify
from deel_lip_tf.layers.base import LipschitzLayer
from tests.fuzz import properties, searches
from tests.fuzz.claims import Ask, gaps, judged, tolerance
from tests.fuzz.models.graphs import set_weights
from tests.fuzz.models.steps import forget
from tests.fuzz.tally import short

__all__ = ["QUESTIONS", "Area", "areas"]

_BRANCHING = "branch-and-bound"
_METHODS = ("auto", *verify.METHODS, _BRANCHING)
_OPTIMIZED = ("alpha-crown", _BRANCHING, "auto")  # these take seconds
_LIMIT = 0.3  # seconds


@dataclass(frozen=True)
class Area:
    """A set of inputs, as the question means it: what is asked is made from these numbers."""

    lower: np.ndarray
    upper: np.ndarray
    center: np.ndarray
    radius: float = np.inf
    norm: str | None = None

    def lowest(self, function, rng) -> np.ndarray:
        return searches.lowest(
            function, rng, self.lower, self.upper, self.center, self.radius, self.norm
        )

    def points(self, rng, count: int, limits: tuple | None) -> np.ndarray:
        """(count, size) of it; of integer inputs, those integers of the type that lie in it."""
        domain = (self.lower, self.upper, self.center, self.radius, self.norm)
        found = searches.inside(rng, count, *domain)
        if limits is None:
            return found
        found = np.concatenate([np.rint(found), self.center[None]])
        low, high = (np.maximum(self.lower, limits[0]), np.minimum(self.upper, limits[1]))
        is_in = ((found >= low) & (found <= high)).all(axis=1)
        if self.norm:
            length = np.linalg.norm(found - self.center, searches.ORDERS[self.norm], axis=1)
            is_in &= length <= self.radius
        return found[is_in]


def areas(ask: Ask, kind: str, count: int) -> list[Area]:
    """Boxes or balls around random points; some are points."""
    rng, subject = ask.rng, ask.subject
    found = []
    for x in subject.points(rng, count):
        scale = (
            rng.choice([1.0, 3.0, 20.0]) if subject.is_integer else rng.choice([0.0, 0.02, 0.2, 1])
        )
        if kind == "box":
            width = np.rint(scale * rng.random((2, len(x)))) if subject.is_integer else (
                scale * rng.random((2, len(x))) * (rng.random(len(x)) < 0.8)
            )  # fmt: skip
            found.append(Area(x - width[0], x + width[1], x))
        else:
            norm = None if kind == "linf" else kind
            found.append(Area(x - scale, x + scale, x, scale, norm))
    return found


def _domain(ask: Ask, kind: str, chosen: list[Area]):
    shape, _ = ask.subject.inputs[0]

    def stacked(name):
        return np.stack([getattr(area, name) for area in chosen]).reshape(-1, *shape)

    if kind == "box":
        return verify.box(stacked("lower"), stacked("upper"), center=stacked("center"))
    radius = np.array([area.radius for area in chosen])
    return verify.ball(stacked("center"), radius, kind, clip=None)


def _methods(ask: Ask, names) -> list[str]:
    """The cheap ones, and now and then one that optimizes."""
    cheap = [name for name in names if name not in _OPTIMIZED]
    slow = [name for name in names if name in _OPTIMIZED]
    chosen = list(ask.rng.choice(cheap, min(3, len(cheap)), replace=False))
    return chosen + ([str(ask.rng.choice(slow))] if slow and ask.rng.random() < 0.25 else [])


# --- bounds --------------------------------------------------------------------------------------


def bounds(ask: Ask) -> None:
    subject = ask.subject
    if subject.normalizes or len(subject.graph.outputs) != 1 or len(subject.inputs) != 1:
        return
    kind = str(ask.rng.choice(["box", "box", "linf", "l2", "l1"]))
    chosen = areas(ask, kind, 3)
    probe = judged(subject, np.stack([area.center for area in chosen]))
    if not np.isfinite(probe).all():
        return
    rows = np.concatenate([np.eye(probe.shape[1]), ask.rng.normal(size=(1, probe.shape[1]))])
    points = [_extreme(ask, area, rows) for area in chosen]
    domain = _domain(ask, kind, chosen)
    for method in _methods(ask, (*verify.METHODS, _BRANCHING)):
        name, layers = f"bounds {method}", bool(ask.rng.random() < 0.2) and method != _BRANCHING
        found = ask.answer(
            name, verify.bounds, subject.model, domain, rows, method, per_layer=layers,
            time_limit=_LIMIT, count=len(chosen),
        )  # fmt: skip
        if found is None:
            continue
        for i, given in enumerate(points):
            _check_rows(ask, name, given, rows, found.lower[i], found.upper[i])
            if layers:
                _check_layers(ask, name, given, found.layers, i)


def _extreme(ask: Ask, area: Area, rows: np.ndarray) -> np.ndarray:
    """Points of an area, among them where rows of the outputs are low or high."""
    subject = ask.subject
    points = [area.points(ask.rng, 24, subject.limits), area.center[None]]
    if not subject.is_integer and area.upper.max() > area.lower.min():
        both = np.concatenate([rows, -rows]).T
        points.append(area.lowest(lambda x: subject(x) @ both, ask.rng))
    return np.concatenate(points)


def _check_rows(ask: Ask, name, points, rows, lower, upper) -> None:
    outputs = judged(ask.subject, points)
    values = outputs @ rows.T
    slack = tolerance(ask.subject, outputs) * (1 + np.abs(rows).sum(axis=1))
    beyond = np.maximum(lower - values, values - upper) - slack
    if np.isfinite(values).all() and beyond.max() > 0:
        point, row = np.unravel_index(beyond.argmax(), beyond.shape)
        ask.violated(
            name,
            f"[{lower[row]!r}, {upper[row]!r}] of {short(rows[row])}, but "
            f"{float(values[point, row])!r} at {short(points[point])}",
        )


def _check_layers(ask: Ask, name, points, layers, i) -> None:
    """Of layers that are called once."""
    seen: dict = {}
    ask.subject(points.astype(np.longdouble), seen)
    for key, (lower, upper) in layers.items():
        if len(seen.get(key, ())) != 1 or seen[key][0].dtype.kind != "f":
            continue
        values = seen[key][0].reshape(len(points), -1)
        lower, upper = lower[i].reshape(-1), upper[i].reshape(-1)
        if values.shape[1] != len(lower) or not np.isfinite(values).all():
            continue  # with its activation left out, or of another shape
        slack = tolerance(ask.subject, values)
        if (values < lower - slack).any() or (values > upper + slack).any():
            ask.violated(f"{name} per layer", f"{key} leaves its bounds at {short(points[0])}")


def changed(ask: Ask) -> None:
    """After a change of the state the next answer is about the new function."""
    subject = ask.subject
    if ask.rng.random() < 0.6:
        return
    for step in subject.graph.steps():
        if step.kind in ("Normalization(set)", "Normalization(adapted)"):
            step.layer.finalize_state()
    for step in subject.graph.steps():
        # A model carries a constant only if one of its layers does: it says so otherwise.
        is_layer = isinstance(step.layer, LipschitzLayer) and not isinstance(step.layer, Model)
        if is_layer and ask.rng.random() < 0.3:
            step.layer.set_klip_factor(float(ask.rng.choice([0.5, 1.5])))
    if ask.rng.random() < 0.5:
        set_weights(subject.graph, ask.rng)
    if hasattr(subject.model, "condense") and ask.rng.random() < 0.3:
        subject.model.condense()
    forget()
    bounds(ask)


# --- labels --------------------------------------------------------------------------------------


def _label_gaps(ask: Ask, label: int, outputs: np.ndarray) -> np.ndarray:
    """As `gaps`; the single score of a sigmoid is positive above 1/2."""
    half = 0.5 if ask.subject.normalizes == "sigmoid" else 0.0
    return gaps(label, outputs - half if outputs.shape[1] == 1 else outputs)


def robustness(ask: Ask) -> None:
    subject, norm = ask.subject, str(ask.rng.choice(["linf", "linf", "l2", "l1"]))
    chosen = areas(ask, norm, 3)
    x = np.stack([area.center for area in chosen])
    outputs = judged(subject, x)
    if not np.isfinite(outputs).all() or not ask.can_run:
        return
    classes = max(outputs.shape[1], 2)
    labels = None if ask.rng.random() < 0.5 else ask.rng.integers(classes, size=len(x))
    for method in _methods(ask, _METHODS):
        name = f"robustness {method}"
        found = ask.answer(
            name, verify.prove, subject.model, _domain(ask, norm, chosen), labels, str(method),
            time_limit=_LIMIT, count=len(x),
        )  # fmt: skip
        if found is None:
            continue
        predicted = _predicted(ask, subject.run(x)) if labels is None else labels
        for i, area in enumerate(chosen):
            _check_status(ask, name, area, int(predicted[i]), found, i)


def _predicted(ask: Ask, outputs: np.ndarray) -> np.ndarray:
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1)
    return (_label_gaps(ask, 1, outputs)[:, 0] > 0).astype(int)


def _found_lowest(ask: Ask, area: Area, label: int) -> tuple[float, np.ndarray, float]:
    """The smallest gap that was found in an area, where, and what it may be wrong by."""
    subject = ask.subject
    points = [area.points(ask.rng, 24, subject.limits), area.center[None]]
    if not subject.is_integer:
        points.append(area.lowest(lambda x: _label_gaps(ask, label, subject(x)), ask.rng))
    points = np.concatenate(points)
    outputs = judged(subject, points)
    lowest = _label_gaps(ask, label, outputs).min(axis=1, initial=np.inf)
    worst = int(np.argmin(lowest))
    return float(lowest[worst]), points[worst], tolerance(subject, outputs)


def _check_status(ask: Ask, name, area: Area, label: int, found, i) -> None:
    status = found.status[i]
    if (found.margin[i] > 0) != (status == "robust"):
        ask.violated(name, f"status {status} with margin {found.margin[i]!r}")
    if status == "falsified":
        _check_witness(ask, name, area, label, found.witness[i])
        return
    lowest, point, slack = _found_lowest(ask, area, label)
    center = area.center[None]
    running = _label_gaps(ask, label, ask.subject.run(center)).min(initial=np.inf)
    if status == "robust" and running < -ask.subject.rounding(center):
        ask.violated(f"{name} at the center", f"robust, label {label}, but the model itself has "
                     f"the gap {running!r} at {short(center)}")  # fmt: skip
    if status == "robust" and lowest < -slack:
        ask.violated(name, f"robust, label {label} within {area.radius!r} of {short(area.center)}, "
                     f"but the gap is {lowest!r} at {short(point)}")  # fmt: skip
    if not ask.subject.normalizes and lowest < found.margin[i] - slack:
        ask.violated(
            f"{name} margin", f"{found.margin[i]!r}, but the gap is {lowest!r} at {short(point)}"
        )


def _check_witness(ask: Ask, name, area: Area, label: int, witness) -> None:
    subject, flat = ask.subject, witness.reshape(-1)
    order = searches.ORDERS[area.norm or "linf"]
    if not np.linalg.norm(flat - area.center, order) <= area.radius * (1 + 1e-12) + 1e-12:
        ask.violated(f"{name} witness", f"{short(flat)} lies outside of the domain")
    running = _label_gaps(ask, label, subject.run(flat[None])).min()
    exact = float(_label_gaps(ask, label, judged(subject, flat[None])).min())
    if not running <= 0 or exact > subject.rounding(flat[None]):
        ask.violated(f"{name} witness", f"{short(flat)} has the label {label}: gaps {running!r} "
                     f"of the model, {exact!r} exactly")  # fmt: skip


def certified_radius(ask: Ask) -> None:
    subject, norm = ask.subject, str(ask.rng.choice(["linf", "l2", "l1"]))
    shape, _ = subject.inputs[0]
    x = subject.points(ask.rng, 2)
    if not ask.can_run or not np.isfinite(judged(subject, x)).all():
        return
    method = str(ask.rng.choice(["auto", "lipschitz", "ibp", "crown-ibp", "forward", "crown"]))
    name = f"certified_radius {method}"
    found = ask.answer(
        name, verify.certified_radius, subject.model, x.reshape(-1, *shape), norm=norm, clip=None,
        method=method, count=2,
    )  # fmt: skip
    if found is None:
        return
    labels = _predicted(ask, subject.run(x))
    for center, radius, label in zip(x, np.minimum(found, 1e4), labels, strict=True):
        if not radius > 0:
            continue
        area = Area(
            center - radius, center + radius, center, radius, None if norm == "linf" else norm
        )
        lowest, point, slack = _found_lowest(ask, area, int(label))
        if lowest < -slack:
            ask.violated(name, f"{radius!r} in {norm} around {short(center)}, but the gap is "
                         f"{lowest!r} at {short(point)}")  # fmt: skip


# --- files of properties -------------------------------------------------------------------------


def written(ask: Ask) -> None:
    """`to_vnnlib`: what satisfies the file are the inputs with another label."""
    subject, (shape, _) = ask.subject, ask.subject.inputs[0]
    center = subject.points(ask.rng, 1)[0]
    classes = max(judged(subject, center[None]).shape[1], 2)
    label, eps = int(ask.rng.integers(classes)), float(ask.rng.choice([0.1, 0.5, 2.0]))
    version = str(ask.rng.choice(["1.0", "2.0"]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "question.vnnlib")
        done = ask.answer("to_vnnlib", _write, path, subject.model, center.reshape(shape), label,
                          eps, version)  # fmt: skip
        if done is None:
            return
        read = ask.answer(f"read_vnnlib {version}", verify.read_vnnlib, path)
        text = Path(path).read_text(encoding="utf-8")
    area = Area(center - eps, center + eps, center)
    points = _extreme(ask, area, np.eye(judged(subject, center[None]).shape[1]))
    outputs = judged(subject, points)
    for point, output in zip(points, outputs, strict=True):
        least = float(_label_gaps(ask, label, output[None]).min(initial=np.inf))
        if not np.isfinite(least) or abs(least) < 1e-9:
            continue
        if read is not None and _holds(read, point, output) != (least < 0):
            ask.violated("to_vnnlib", f"label {label}: the file says {least >= 0} at {short(point)}"
                         f", where the gap is {least!r}")  # fmt: skip
        if version == "1.0" and properties.Reader(text).holds(point, output) != (least < 0):
            ask.violated("to_vnnlib", f"label {label}, read anew: wrong at {short(point)}, where "
                         f"the gap is {least!r}")  # fmt: skip


def _write(path, model, x, label, eps, version) -> bool:
    verify.to_vnnlib(path, model, x, label, eps, clip=None, version=version)
    return True


def _holds(read, x, y) -> bool:
    return any(c.holds(x, np.asarray(y, np.float64)) for c in read.conjunctions)


def decide(ask: Ask) -> None:
    """A random property of the outputs on a box, with thresholds near values that are reached."""
    subject = ask.subject
    (area,) = areas(ask, "box", 1)
    points = area.points(ask.rng, 16, subject.limits)
    if not len(points) or not np.isfinite(judged(subject, points)).all():
        return
    formula = properties.drawn(ask.rng, judged(subject, points[:4]).astype(np.float64))
    text = properties.text(area.lower, area.upper, judged(subject, points).shape[1], formula)
    read = properties.through_file(text)
    answer = ask.answer("decide", verify.decide, subject.model, read, time_limit=_LIMIT)
    if answer is None:
        return
    ask.tally.asked[f"decide: {answer.status}"] += 1
    reader = properties.Reader(text)
    if answer.status == "unsat":
        _check_unsat(ask, area, points, reader, text)
    if answer.status == "sat":
        _check_sat(ask, area, answer, reader, text)


def _check_unsat(ask: Ask, area: Area, points, reader, text) -> None:
    subject = ask.subject
    if not subject.is_integer:
        found = area.lowest(lambda x: -reader.degrees(subject(x))[:, None], ask.rng)
        points = np.concatenate([points, found])
    outputs = judged(subject, points)
    degrees = reader.degrees(outputs)
    best = int(degrees.argmax())
    if degrees[best] > tolerance(subject, outputs) * 10:
        ask.violated("decide unsat", f"{short(points[best])} with {short(outputs[best])} satisfies "
                     f"{text.splitlines()[-1]} by {float(degrees[best])!r}")  # fmt: skip


def _check_sat(ask: Ask, area: Area, answer, reader, text) -> None:
    subject, x = ask.subject, np.asarray(answer.witness, np.float64).reshape(-1)
    wanted = keras.backend.standardize_dtype(subject.model.inputs[0].dtype)
    is_in = ((x >= area.lower) & (x <= area.upper)).all()
    if not is_in or answer.witness.dtype.name != wanted:
        ask.violated("decide sat", f"{short(x)} is no input of the box of type {wanted}")
    running = subject.run(x[None])[0]
    if not reader.holds(x, running) or not np.allclose(running, np.ravel(answer.outputs)):
        ask.violated("decide sat", f"{short(x)} gives {short(running)}: {text.splitlines()[-1]}")
    exact = reader.degrees(judged(subject, x[None]))[0]
    if exact < -10 * subject.rounding(x[None]):
        ask.violated("decide sat", f"{short(x)} misses {text.splitlines()[-1]} by {float(exact)!r}")


QUESTIONS = (bounds, robustness, certified_radius, written, decide, changed)
