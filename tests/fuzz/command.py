"""Drawing cases until the time is up, with the counts and every violation in print and in a log."""

import argparse
import contextlib
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from deel_lip_tf.verify.propagation import alpha_beta
from deel_lip_tf.verify.search import branch_and_bound
from tests.fuzz import claims, exports, files, questions, statements
from tests.fuzz.models import subjects
from tests.fuzz.tally import Tally

__all__ = ["GROUPS", "main", "run_case", "untraced"]


def _about(make, group: str, about):
    def run(seed: int, tally: Tally) -> None:
        subject = make([seed, len(group)])
        if not _is_defined(subject):
            tally.refused["draw", "TensorFlow cannot compute it on this machine"] += 1
            return
        ask = claims.Ask(subject, f"{group} {seed}", [seed, 1], tally)
        for claim in about:
            claim(ask)
        if ask.is_answered:
            tally.kinds.update(set(subject.kinds()))

    return run


def _is_defined(subject) -> bool:
    """Whether Keras computes what the function of a graph leaves to it: integers, some of them."""
    try:
        subject(subject.points(np.random.default_rng(0), 2))
    except (tf.errors.OpError, TypeError, ValueError):
        return False
    return True


GROUPS = {
    "network": _about(subjects.network, "network", (*claims.CLAIMS[:1], *exports.EXPORTS)),
    "classifier": _about(subjects.classifier, "classifier", (*claims.CLAIMS, *exports.EXPORTS)),
    "question": _about(subjects.classifier, "question", questions.QUESTIONS),
    "statement": _about(subjects.classifier, "statement", statements.STATEMENTS),
    "file": files.about_files,
}
"""By name: a function of a seed and a tally."""


@contextlib.contextmanager
def untraced():
    """Functions run as Python, and optimizations stop early.

    Each graph is new: tracing takes seconds, and what is traced would run once. A bound is true
    after any number of steps, so that few of them try the claim as well as many.
    """
    modules = (
        (alpha_beta, "STEPS", 6),
        (branch_and_bound, "_STEPS", 4),
        (branch_and_bound, "_LAST_STEPS", 10),
    )
    before = [(module, name, getattr(module, name)) for module, name, _ in modules]
    was_eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    for module, name, value in modules:
        setattr(module, name, value)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(was_eager)
        for module, name, value in before:
            setattr(module, name, value)


def run_case(group: str, seed: int, tally: Tally) -> None:
    """Draws and asks about one case."""
    keras.utils.set_random_seed(seed)
    started, before = time.time(), len(tally.violations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that are not 1-Lipschitz, and of names
        GROUPS[group](seed, tally)
    tally.graphs[group] += 1
    if sum(tally.graphs.values()) % 50 == 0:  # it takes longer than a case
        keras.backend.clear_session()
    found = len(tally.violations) - before
    tally.write({"group": group, "seed": seed, "violations": found,
                 "seconds": round(time.time() - started, 3)})  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="after which nothing begins")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--count", type=int, default=10**9, help="of cases in each group")
    parser.add_argument("--only", choices=GROUPS, action="append", help="these groups")
    parser.add_argument("--log", help="a file that takes a line for each case")
    parser.add_argument("--traced", action="store_true", help="trace functions as users do: slow")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        log = options.log and stack.enter_context(open(options.log, "a", encoding="utf-8"))
        if not options.traced:
            stack.enter_context(untraced())
        tally = Tally(log)
        last = _run_all(options, tally)
    print(f"seeds {options.seed} to {last}")
    print(tally.summary())
    return 1 if tally.violations else 0


def _run_all(options, tally: Tally) -> int:
    """Cases of all groups, seed by seed; returns the last one."""
    seed = options.seed
    while time.time() - tally.started < options.seconds and seed < options.seed + options.count:
        for group in options.only or GROUPS:
            run_case(group, seed, tally)
        seed += 1
    return seed - 1
