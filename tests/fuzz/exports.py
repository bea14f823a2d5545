"""Other forms of a model: exported, saved and loaded, written as ONNX. All compute the same."""

import os
import tempfile

import keras
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from deel_lip_tf import verify
from tests.fuzz.claims import Ask, judged
from tests.fuzz.models.subjects import Subject
from tests.fuzz.tally import short

__all__ = ["EXPORTS", "onnx_export", "reloaded", "vanilla_export"]


def _same(ask: Ask, claim: str, outputs, x: np.ndarray) -> None:
    expected, slack = judged(ask.subject, x), ask.subject.rounding(x)
    outputs = np.asarray(outputs, np.float64).reshape(len(x), -1)
    is_same = outputs.shape == expected.shape
    difference = np.abs(outputs - expected).max(initial=0.0) if is_same else np.inf
    if np.isfinite(expected).all() and not difference <= slack:
        ask.violated(claim, f"differs by {float(difference)!r} from the model at {short(x[0])}")


def _is_right(ask: Ask, x: np.ndarray) -> bool:
    """Whether TensorFlow itself computes the function: of some convolutions it does not."""
    if not ask.can_run:
        return False
    return bool(
        np.abs(ask.subject.run(x) - judged(ask.subject, x)).max() <= ask.subject.rounding(x)
    )


def vanilla_export(ask: Ask) -> None:
    subject = ask.subject
    x = subject.points(ask.rng, 4)
    is_known = hasattr(subject.model, "vanilla_export") and not _is_replaced(subject)
    if not is_known or not _is_right(ask, x):
        return
    exported = ask.answer("vanilla_export", subject.model.vanilla_export)
    if exported is None or subject.is_stale:
        return
    other = Subject(subject.graph, exported, subject.factor)
    _same(ask, "vanilla_export", other.run(x), x)


def _is_replaced(subject: Subject) -> bool:
    return "replaced call" in subject.kinds() or subject.factor != 1.0


def reloaded(ask: Ask) -> None:
    """What was saved and loaded computes the same and is bounded alike."""
    subject = ask.subject
    x = subject.points(ask.rng, 4)
    if subject.is_stale or _is_replaced(subject) or not _is_right(ask, x):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        subject.model.save(path)
        loaded = ask.answer("reload", keras.models.load_model, path)
    if loaded is None:
        return
    _same(ask, "reload", Subject(subject.graph, loaded, subject.factor).run(x), x)


def onnx_export(ask: Ask) -> None:
    """ONNX's reference evaluator computes from the file what the model computes."""
    subject, x = ask.subject, ask.subject.points(ask.rng, 4)
    if len(subject.inputs) != 1 or len(subject.graph.outputs) != 1 or _is_named(subject):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        if ask.answer("to_onnx", _written, subject.model, path) is None:
            return
        proto = onnx.load(path)
    outputs = ReferenceEvaluator(proto).run(None, {"X": subject.arguments(x)})[0]
    _same(ask, "to_onnx", outputs, x)
    imported = ask.answer("from_onnx of to_onnx", verify.from_onnx, proto)
    if imported is not None and _is_right(ask, x):
        _same(ask, "from_onnx of to_onnx", imported(subject.arguments(x)), x)


def _is_named(subject: Subject) -> bool:
    return subject.graph.names != (None, None)


def _written(model, path: str) -> bool:
    verify.to_onnx(model, path)
    return True


EXPORTS = (vanilla_export, reloaded, onnx_export)
