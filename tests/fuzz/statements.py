"""Statements beyond the label of one model, each against what was found where it is made."""

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import bounds, certificates, training
from deel_lip_tf.layers.base import LipschitzLayer
from tests.fuzz import searches
from tests.fuzz.claims import Ask, gaps, judged, tolerance
from tests.fuzz.tally import short

__all__ = ["STATEMENTS", "conformal", "monotone", "nearby", "one_class", "regression", "restoring"]
__all__ += ["steepness", "top_k", "verified"]

_FAR = 1e4  # an infinite radius is searched up to here


def _lowest(ask: Ask, function, x: np.ndarray, radius: float, norm: str | None) -> np.ndarray:
    """Points within a radius where the outputs of a function of (points, size) are low."""
    return searches.lowest(function, ask.rng, x - radius, x + radius, x, radius, norm)


def _samples(ask: Ask, count: int) -> np.ndarray | None:
    """(count, size) where the function is finite; None of a model that is given integers."""
    if ask.subject.is_integer:
        return None
    x = ask.subject.points(ask.rng, count)
    return x if np.isfinite(judged(ask.subject, x)).all() else None


def regression(ask: Ask) -> None:
    """No output in a ball is below or above its interval."""
    subject, x = ask.subject, _samples(ask, 3)
    if x is None:
        return
    name, radius = "certify_regression", ask.rng.choice([0.0, 0.1, 1.0], len(x))
    given = subject.model, subject.arguments(x), radius
    found = ask.answer(name, certificates.certify_regression, *given)
    for i in range(len(x) if found is not None else 0):
        points = _lowest(
            ask, lambda p: np.concatenate([subject(p), -subject(p)], 1), x[i], radius[i], "l2"
        )
        values = judged(subject, points)
        ends = found.lower[i].ravel() - values, values - found.upper[i].ravel()
        if (excess := max(map(np.nanmax, ends))) > tolerance(subject, values):
            ask.violated(name, f"by {float(excess)!r} within {radius[i]!r} of {short(x[i])}")


def top_k(ask: Ask) -> None:
    """A label is among the k largest logits."""
    subject, x = ask.subject, _samples(ask, 3)
    classes = subject.model.outputs[0].shape[-1]
    if x is None or classes < 2:
        return
    k, name = int(ask.rng.integers(1, classes)), "certify_top_k"
    found = ask.answer(name, certificates.certify_top_k, subject.model, subject.arguments(x), k)
    for i in range(len(x) if found is not None else 0):
        radius, label = min(float(found.radius[i]), _FAR), int(found.label[i])
        if not radius > 0:
            continue

        def above_kth(points, label=label):
            return np.sort(gaps(label, subject(points)), axis=1)[:, k - 1 : k]

        points = _lowest(ask, above_kth, x[i], radius, "l2")
        lowest = above_kth(points.astype(np.longdouble)).min()
        if lowest < -tolerance(subject, judged(subject, points)):
            ask.violated(name, f"label {label}, k={k}, {radius!r} of {short(x[i])}: {lowest!r}")


def conformal(ask: Ask) -> None:
    """The set of a moved sample holds what the set of the sample holds."""
    subject, x = ask.subject, _samples(ask, 24)
    classes = subject.model.outputs[0].shape[-1]
    if x is None or classes < 2:
        return
    labels, score = ask.rng.integers(0, classes, len(x)), str(ask.rng.choice(["margin", "logit"]))
    given = subject.model, subject.arguments(x), labels, 0.3, score
    sets = ask.answer("conformal_sets", certificates.conformal_sets, *given)
    if sets is None:
        return
    clean, radius = sets.predict(subject.arguments(x)), float(ask.rng.choice([0.01, 0.3]))
    for i in range(2):
        points = np.concatenate(
            [
                _lowest(ask, function, x[i], radius, "l2")
                for function in (subject, lambda p: -subject(p))
            ]
        )
        moved = points.astype(subject.inputs[0][1])  # as the model is given them
        is_near = np.linalg.norm(moved.astype(np.float64) - x[i], axis=1) <= radius
        robust = sets.predict(subject.arguments(points), radius)[is_near]
        if (clean[i] & ~robust).any():
            ask.violated("conformal_sets", f"{score}, {radius!r} of {short(x[i])}: {clean[i]}")


def nearby(ask: Ask) -> None:
    """A model with other weights keeps the label, at the points where the gaps are smallest."""
    subject, x = ask.subject, _samples(ask, 3)
    parts = list(subject.model._flatten_layers())
    if x is None or not ask.can_run or any(isinstance(part, LipschitzLayer) for part in parts):
        return
    amount, name = float(ask.rng.choice([1e-4, 1e-2])), "certify weights_within"
    given, weights = (subject.model, subject.arguments(x)), subject.model.trainable_weights
    found = ask.answer(name, certificates.certify, *given, weights_within=amount)
    stored = [np.array(weight) for weight in weights]
    for i in range(len(x) if found is not None else 0):
        radius, label = min(float(found.radius[i]), _FAR), int(found.label[i])
        if not radius > 0:
            continue
        points = _lowest(ask, lambda p: gaps(label, subject(p)), x[i], radius, "l2")  # noqa: B023
        points = points.astype(np.float32).astype(np.float64)
        points = points[np.linalg.norm(points - x[i], axis=1) <= radius]
        for _ in range(4):
            for weight, value in zip(weights, stored, strict=True):
                sign = ask.rng.choice([-0.999, 0.999], value.shape)
                weight.assign(value + (amount * sign).astype(value.dtype))
            if len(points):
                _check_label(ask, name, x[i], points, label)
        for weight, value in zip(weights, stored, strict=True):
            weight.assign(value)


def _check_label(ask: Ask, claim: str, x: np.ndarray, points: np.ndarray, label: int) -> None:
    lowest = gaps(label, ask.subject.run(points)).min(initial=np.inf)
    if lowest < -ask.subject.rounding(points):
        ask.violated(claim, f"label {label} near {short(x)}, but the gap is {float(lowest)!r}")


def verified(ask: Ask) -> None:
    """What `CertifiedModel` counts as verified keeps its label in the ball."""
    subject, x = ask.subject, _samples(ask, 3)
    if x is None or subject.normalizes or subject.model.outputs[0].dtype != "float32":
        return
    radius, name = float(ask.rng.choice([0.01, 0.1])), "CertifiedModel"
    beta = float(ask.rng.choice([0.0, 0.5]))
    certified = ask.answer(name, training.CertifiedModel, subject.model, radius, beta=beta)
    if certified is None:
        return
    certified.compile(loss=keras.losses.MeanSquaredError(), run_eagerly=True)
    for i, outputs in enumerate(judged(subject, x)):
        label = int(outputs[0] > 0) if len(outputs) == 1 else int(outputs.argmax())
        y = np.eye(max(len(outputs), 2))[[label]][:, -len(outputs) :].astype(np.float32)
        options = {"verbose": 0, "return_dict": True}
        report = certified.evaluate(subject.arguments(x[i : i + 1]), y, **options)
        if report["verified_accuracy"] > 0:
            points = _lowest(ask, lambda p: gaps(label, subject(p)), x[i], radius, None)  # noqa: B023
            if (gaps(label, judged(subject, points)) < -subject.rounding(points)).any():
                ask.violated(name, f"label {label} within {radius!r} of {short(x[i])}, {beta=}")


def steepness(ask: Ask) -> None:
    """No two points of a ball are further apart after the model than a local constant allows."""
    subject, x = ask.subject, _samples(ask, 2)
    if x is None:
        return
    name, radius = "local_lipschitz", float(ask.rng.choice([0.01, 0.1, 1.0]))
    norm = str(ask.rng.choice(["l2", "l2", "linf", "l1"]))
    order = {"l2": 2, "linf": np.inf, "l1": 1}[norm]
    given = subject.model, subject.arguments(x), radius, norm
    constants = ask.answer(name, bounds.local_lipschitz, *given)
    for i in range(len(x) if constants is not None else 0):
        centers = x[i] + _shorter(ask.rng.normal(size=(6, subject.size)), 0.9 * radius, order)
        ends = [centers + _shorter(_steepest(ask, centers), 0.1 * radius, order), centers[::-1]]
        for end in ends:
            values = [judged(subject, points) for points in (centers, end)]
            apart = np.linalg.norm(values[1] - values[0], order, axis=1)
            allowed = constants[i] * np.linalg.norm(end - centers, order, axis=1)
            if (apart > allowed * (1 + 1e-9) + tolerance(subject, values[0])).any():
                ask.violated(name, f"{constants[i]!r} in {norm}, {radius!r} of {short(x[i])}")


def _shorter(steps: np.ndarray, length: float, order: float) -> np.ndarray:
    """Steps of at most a length; of their own direction."""
    norms = np.linalg.norm(steps, order, axis=1, keepdims=True)
    return steps * length / np.maximum(norms, 1e-30) * (1 - 1e-9)


def _steepest(ask: Ask, points: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """The direction in which the outputs change most, by differences along the axes."""
    moved = points[:, None] + step * np.eye(points.shape[1])
    shape = len(points), points.shape[1], -1
    values = judged(ask.subject, moved.reshape(-1, points.shape[1])).reshape(shape)
    slopes = np.asarray(values - judged(ask.subject, points)[:, None], np.float64)
    return np.linalg.svd(np.nan_to_num(slopes))[0][:, :, 0] + 1e-9


def monotone(ask: Ask) -> None:
    """With slopes of its L1 constant, a model grows with each feature that it should grow with."""
    subject, x = ask.subject, _samples(ask, 8)
    is_vector = len(subject.inputs[0][0]) == 1 and subject.model.outputs[0].dtype == "float32"
    if x is None or not is_vector or subject.factor != 1.0:
        return
    signs = ask.rng.choice([-1, 0, 1], subject.size).tolist()
    bound = ask.answer("monotonic", bounds.lipschitz_bound, subject.model, "l1")
    if bound is None or not 0 < bound.value < 1e30:
        return
    grown = ask.answer("monotonic", lip.model.monotonic, subject.model, signs, bound.value)
    if grown is None:
        return
    slope = np.asarray(grown.get_layer("slopes").kernel, np.float64)[:, 0]
    for feature, sign in enumerate(signs):
        further = x.copy()
        further[:, feature] += ask.rng.choice([1e-3, 0.1, 3.0], len(x))
        values = judged(subject, x), judged(subject, further)
        change = values[1] - values[0] + ((further - x) @ slope)[:, None]
        if (sign * change).min() < -tolerance(subject, values[0]) * (1.0 + bound.value):
            ask.violated("monotonic", f"feature {feature}, {sign}: {float(change.min())!r}")


def one_class(ask: Ask) -> None:
    """What scores below zero passes nowhere in its radius, and what passes is never refused."""
    subject, x = ask.subject, _samples(ask, 3)
    if x is None or subject.factor != 1.0:  # one that is called otherwise goes into no other model
        return
    score = keras.Sequential([subject.model, keras.layers.Dense(1, dtype="float64")])
    score.build(subject.model.input_shape)
    kernel, offset = (np.array(weight, np.float64) for weight in score.layers[-1].weights)

    def scores(points):
        return subject(points) @ kernel + offset

    found = ask.answer("one class", certificates.certify, score, subject.arguments(x))
    for i in range(len(x) if found is not None else 0):
        radius, sign = min(float(found.radius[i]), _FAR), 2 * int(found.label[i]) - 1
        if not radius > 0:
            continue
        points = _lowest(ask, lambda p: sign * scores(p), x[i], radius, "l2")  # noqa: B023
        values = sign * scores(points.astype(np.longdouble))
        if values.min() < -tolerance(subject, values) * (1.0 + np.abs(kernel).sum()):
            ask.violated("one class", f"{sign} within {radius!r} of {short(x[i])}")


def restoring(ask: Ask) -> None:
    """A plug-and-play step brings points together as fast as its proven rate says."""
    rng, size = ask.rng, int(ask.rng.integers(2, 9))
    blur, k = rng.normal(size=(size, size)), float(rng.choice([0.5, 0.9, 1.0]))
    t = float(rng.choice([0.5, 1.0, 2.0])) / np.linalg.norm(blur, 2) ** 2
    gradient = keras.layers.Dense(size, dtype="float64")
    hidden = lip.layers.SpectralDense(2 * size, "relu", dtype="float64", k_coef_lip=k)
    last = lip.layers.SpectralDense(size, dtype="float64")
    step = keras.Sequential([keras.Input((size,), dtype="float64"), gradient, hidden, last])
    gradient.set_weights([np.eye(size) - t * blur.T @ blur, rng.normal(size=size)])
    hidden.bias.assign(rng.normal(size=2 * size))
    found = ask.answer("contraction", bounds.lipschitz_bound, step)
    if found is None:
        return
    kernels = [np.asarray(layer.wbar, np.float64) for layer in (hidden, last)]

    def apply(x):
        matrix, moved = np.eye(size) - t * blur.T @ blur, np.array(gradient.bias)
        inner = np.maximum((x @ matrix + moved) @ kernels[0] + np.array(hidden.bias), 0.0)
        return inner @ kernels[1] + np.array(last.bias)

    x, y = rng.normal(size=(2, 16, size))
    for _ in range(5):
        before = np.linalg.norm(x - y, axis=1)
        x, y = apply(x), apply(y)
        if (np.linalg.norm(x - y, axis=1) > found.value * before * (1 + 1e-9) + 1e-12).any():
            ask.violated("contraction", f"{found.value!r} of {size} entries, {k=}")
    if found.value > k * (1.0 + 1e-5):
        ask.violated("contraction", f"{found.value!r} is above {k=}")


STATEMENTS = (regression, top_k, conformal, nearby, verified)
STATEMENTS += (steepness, monotone, one_class, restoring)
"""About a classifier."""
