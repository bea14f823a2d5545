"""The command `verify`: its options, and the answer on the page."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deel_lip_tf._files.writing import NotWritten
from deel_lip_tf.cli.arguments import BadInput, positive_number, require_tensorflow
from deel_lip_tf.cli.quiet import load_backend_quietly

if TYPE_CHECKING:
    from deel_lip_tf.verify.decision import Decision
    from deel_lip_tf.verify.search.inputs.decide import Verdict
    from deel_lip_tf.verify.search.inputs.record import Record
    from deel_lip_tf.verify.specification.property import Property

UNSAT, SAT, UNKNOWN = 0, 10, 20
EXIT_CODES = {"unsat": UNSAT, "sat": SAT, "unknown": UNKNOWN}
"""The codes for "sat" and "unknown" differ from those of a failure, as do those of SAT solvers."""


def add_parser(commands) -> None:
    """Adds the command to argparse's subparsers."""
    verify = commands.add_parser(
        "verify",
        help="prove or refute a VNN-LIB property of a classifier",
        description="Decides whether an input satisfies a VNN-LIB property of a network. Prints "
        "`unsat` where it is proven that none does, `sat` and such an input with its outputs where "
        "one was found, `unknown` otherwise. Keras must run on TensorFlow, its default.",
        epilog="Exit codes: 0 unsat; 10 sat; 20 unknown; 2 bad input; 74 the answer or the "
        "proof cannot be written; 130 stopped by Ctrl-C.",
        allow_abbrev=False,
    )
    verify.add_argument(
        "model",
        metavar="MODEL",
        help="a .keras, .h5, .onnx or .onnx.gz file, or the folder of a SavedModel",
    )
    verify.add_argument(
        "property", metavar="PROPERTY", help="a .vnnlib or .vnnlib.gz file, of VNN-LIB 1.0 or 2.0"
    )
    verify.add_argument(
        "--time-limit",
        type=positive_number,
        default=60.0,
        metavar="S",
        help="seconds after which an open property is unknown (default: %(default)s)",
    )
    verify.add_argument(
        "--nearest-inputs",
        action="store_true",
        help="of an ONNX file, take a counterexample too whose inputs are the float32 numbers "
        "nearest to a point of the box, as the verification competitions do; how far off they are "
        "is printed behind it (default: only inputs that lie in the box exactly)",
    )
    verify.add_argument(
        "--proof",
        metavar="FILE",
        help="of an ONNX file that is a chain of affine maps, convolutions and ReLUs, and a "
        "VNN-LIB 1.0 file: write, for `unsat`, a proof for `check-proof`; where the search does "
        "not decide, there is none, and a line on stderr says so",
    )
    verify.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from deel_lip_tf.verify.specification.vnnlib import counterexample

    recorded: list[Record] | None = None if options.proof is None else []
    try:
        if recorded is not None:
            _check_provable(options)
        question = _property(options.property)
        decision = _decided(options, question, recorded)
        if recorded is not None and decision.status == "unsat":
            _write_proof(options, recorded, bool(len(question.relations)))
    except NotWritten:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(str(error)) from error
    except ImportError as error:
        hint = "install the extra with: pip install 'deel_lip_tf[verify]'"
        raise BadInput(f"{error}; {hint}") from error
    print(decision.status)
    if decision.witness is not None and decision.outputs is not None:
        print(counterexample(decision.witness, decision.outputs))
        if distance := getattr(decision, "distance", 0.0):
            print(f"; inputs are off their bounds by at most {distance:.3g}")
    return EXIT_CODES[decision.status]


def _check_provable(options: argparse.Namespace) -> None:
    """Refuses `--proof` for files that the checker cannot read, before anything is searched."""
    from deel_lip_tf.checking.proof import MALFORMED, Rejected, read

    for name, path in (("MODEL", options.model), ("PROPERTY", options.property)):
        _check_file(name, path)
    if not Path(options.proof).absolute().parent.is_dir():
        raise BadInput(f"--proof: there is no folder for the file {options.proof!r}")
    try:
        read(options.model, options.property)
    except (Rejected, *MALFORMED) as error:
        raise BadInput(
            "--proof needs a MODEL and a PROPERTY that the checker reads: a chain of affine maps, "
            f"convolutions and ReLUs in ONNX, and VNN-LIB 1.0. It says: {error}"
        ) from error


def _write_proof(
    options: argparse.Namespace, recorded: "list[Record]", has_relations: bool
) -> None:
    """Writes the proof that a search has recorded, or says that it is none."""
    if recorded and recorded[0].is_proof:
        recorded[0].write(options.proof, options.model, options.property)
        return
    related = "no proof is about conditions that relate inputs to each other or to outputs"
    reason = related if has_relations else "the search for one did not decide"
    print(f"no proof was written: {reason}", file=sys.stderr)


def _decided(
    options: argparse.Namespace, question: "Property", recorded: "list[Record] | None"
) -> "Decision | Verdict":
    """The answer to a property: without Keras, where that needs none and finds one in time."""
    path, limit = options.model, options.time_limit
    verdict, start = None, time.monotonic()
    if path.lower().endswith((".onnx", ".onnx.gz")):
        from deel_lip_tf.verify.files import decide_file

        _check_file("MODEL", path)
        verdict = decide_file(path, question, limit, options.nearest_inputs, recorded)
    left = limit - (time.monotonic() - start)
    if verdict is not None and (verdict.status != "unknown" or verdict.is_final or left <= 0):
        return verdict
    load_backend_quietly()
    require_tensorflow("verify bounds networks")
    from deel_lip_tf.verify.decision import decide, decide_further

    if verdict is None:
        return decide(_model(path), question, limit)
    return decide_further(_model(path), question, left)


def _property(path: str):
    from deel_lip_tf.verify.specification.vnnlib import read_vnnlib

    _check_file("PROPERTY", path)
    try:
        return read_vnnlib(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"PROPERTY {path!r}: {error}") from error


def _model(path: str):
    from deel_lip_tf.formats import NotLoaded, reader_of

    if not Path(path).is_dir():
        _check_file("MODEL", path)
    reader = reader_of(path)
    if reader is None:
        raise BadInput(
            "MODEL must be a .keras, .h5 or .onnx file, or the folder of a SavedModel. "
            f"Received: {path!r}."
        )
    try:
        return reader(path)
    except NotLoaded as error:
        raise BadInput(f"MODEL {path!r} cannot be loaded: {error}") from error


def _check_file(name: str, path: str) -> None:
    if not Path(path).is_file():
        raise BadInput(f"{name}: there is no file {path!r}")
