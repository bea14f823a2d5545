"""The hunt from end to end: what is loaded, the order of the searches, the page and exit code."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from deel_lip_tf._files.reading import check_archive
from deel_lip_tf._files.writing import whole_file
from deel_lip_tf.cli.arguments import (
    FAILURE,
    SUCCESS,
    BadInput,
    require_tensorflow,
    writable_folder,
)
from deel_lip_tf.cli.hunt.inputs import random_samples
from deel_lip_tf.cli.hunt.searches import RARE, SEARCHES, Outcome, has_foolbox
from deel_lip_tf.cli.hunt.target import POLICIES, Finding, Target, under_policy

SAMPLES = 200
# The searches take turns; the rare ones every so many rounds.
_RARE_EVERY = 10
_KEPT = 5


@dataclass
class Report:
    """What was tried and found.

    Attributes:
        tried: by policy and search, inputs tried.
        best: by policy and search, the highest ratio of what was found to what is claimed.
        findings: the claims that are false.
        notes: what was left out, and why.
        seconds: how long it took.
    """

    tried: dict[tuple[str, str], int] = field(default_factory=dict)
    best: dict[tuple[str, str], float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, key: tuple[str, str], outcome: Outcome) -> None:
        """Counts what a search did."""
        self.tried[key] = self.tried.get(key, 0) + outcome.tried
        self.best[key] = max(self.best.get(key, 0.0), outcome.best)
        self.findings += outcome.findings

    def __str__(self) -> str:
        rows = [(*key, f"{self.tried[key]}", f"{self.best[key]:.6f}") for key in self.tried]
        rows = [("policy", "search", "inputs tried", "highest found / claimed"), *rows]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in rows
        ]
        total = sum(self.tried.values())
        lines += [f"left out: {note}" for note in self.notes]
        lines.append(f"{total} inputs tried in {self.seconds:.0f} s")
        return "\n".join([*lines, f"claims refuted: {len(self.findings)}"])


def run(path: str, source: str | None, minutes: float, out: str, seed: int) -> int:
    """Loads a model and data, hunts, prints, and writes what was found.

    Args:
        path: of the saved model.
        source: what `quickstart.data.load` takes, or None for random numbers.
        minutes: how long to search.
        out: folder for the findings.
        seed: of everything random.

    Returns:
        0, or 1 if a claim was refuted.

    Raises:
        BadInput: if the model or the data cannot be used.
    """
    require_tensorflow("hunt differentiates")
    model = _loaded(path)
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = _samples(model, source, rng)
    try:
        report = hunt(model, x, rng, lambda start: time.monotonic() - start > 60.0 * minutes)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from error
    print(report)
    if not report.findings:
        return SUCCESS
    for number, finding in enumerate(report.findings[:_KEPT]):
        file = save(finding, writable_folder(out) / f"refuted_{number}.npz", path, seed)
        print(f"REFUTED: {finding}\n  shown by {file}")
    return FAILURE


def hunt(
    model: keras.Model,
    x: np.ndarray,
    rng: np.random.Generator,
    is_over: Callable[[float], bool],
    policies: tuple[str, ...] | None = None,
) -> Report:
    """Searches until time is over or a claim is refuted; every search runs at least once.

    Args:
        model: a classifier that `certify` takes.
        x: (n, ...) samples.
        rng: a NumPy generator.
        is_over: from the start, by `time.monotonic`, to whether time is over.
        policies: dtype policies under which the model is hunted besides its own; by default all
            of `POLICIES`.

    Raises:
        TypeError, ValueError: as `certify`, for the model as it is.
    """
    start, report = time.monotonic(), Report()
    targets = _targets(model, x, POLICIES if policies is None else policies, report)
    searches = dict(SEARCHES)
    if not has_foolbox():
        del searches["foolbox attacks"]
        report.notes.append("foolbox attacks (foolbox is not installed)")
    number = 0
    while number == 0 or not (is_over(start) or report.findings):
        for name, search in searches.items():
            for target in targets:
                if number == 0 or (number % _RARE_EVERY == 0) >= (name in RARE):
                    report.add((target.policy, name), search(target, rng))
            if number and is_over(start):
                break
        number += 1
    report.tried = {key: count for key, count in report.tried.items() if count}
    report.seconds = time.monotonic() - start
    return report


def save(finding: Finding, file: Path, model: str, seed: int) -> Path:
    """Writes a finding with all that is needed to see it again."""
    content = {name: getattr(finding, name) for name in Finding.__dataclass_fields__}
    with whole_file(file) as unfinished:
        np.savez(unfinished, **content, model=model, seed=seed)
    return file


def _targets(
    model: keras.Model, x: np.ndarray, policies: Iterable[str], report: Report
) -> list[Target]:
    own = model.dtype_policy.name
    targets = [Target.of(own, model, x)]
    for name, reason in targets[0].unsupported.items():
        report.notes.append(f"semantics {name}: {reason}")
    for policy in policies:
        if policy == own:
            continue
        try:
            # Fewer samples: the exact function differs by the rounding of the kernels only.
            targets.append(Target.of(policy, under_policy(model, policy), x[: SAMPLES // 4]))
        except (TypeError, ValueError) as error:
            report.notes.append(f"policy {policy}: {error}")
    return targets


def _loaded(path: str) -> keras.Model:
    if not Path(path).is_file():
        raise BadInput(f"there is no file {path!r}: give one that `model.save` wrote")
    try:
        check_archive(path)
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # zipfile, h5py and Keras each have their own
        raise BadInput(f"cannot load {path!r} as a Keras model: {error}") from error
    if None in model.input_shape[1:]:
        raise BadInput(
            f"{path}: its input {model.input_shape} must have fixed sizes: rebuild the model with "
            "`keras.Input(shape)` and its weights"
        )
    return model


def _samples(model: keras.Model, source: str | None, rng: np.random.Generator) -> np.ndarray:
    shape = tuple(model.input_shape[1:])
    if source is None:
        return random_samples(shape, SAMPLES, rng)
    from deel_lip_tf.cli.quickstart import data

    dataset = data.load(source)
    images = dataset.x_test[rng.permutation(len(dataset.x_test))[:SAMPLES]]
    if int(np.prod(shape)) != int(np.prod(images.shape[1:])):
        raise BadInput(
            f"--data: {dataset.name} has images of shape {images.shape[1:]}, and the model takes "
            f"{shape}: give the data it was trained on"
        )
    return images.reshape(-1, *shape).astype(np.float64)
