"""The command `verify`: its options, and the answer on the page."""

import argparse
from pathlib import Path

from deel_lip_tf.cli.arguments import BadInput, positive_number, require_tensorflow

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
        epilog="Exit codes: 0 unsat; 10 sat; 20 unknown; 2 bad input; 130 stopped by Ctrl-C.",
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
    verify.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    require_tensorflow("verify bounds networks")
    # Heavy, and only this command needs them.
    from deel_lip_tf.verify.decision import decide
    from deel_lip_tf.verify.specification.vnnlib import counterexample

    try:
        question = _property(options.property)
        decision = decide(_model(options.model), question, options.time_limit)
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(str(error)) from error
    except ImportError as error:
        hint = "install the extra with: pip install 'deel_lip_tf[verify]'"
        raise BadInput(f"{error}; {hint}") from error
    print(decision.status)
    if decision.witness is not None and decision.outputs is not None:
        print(counterexample(decision.witness, decision.outputs))
    return EXIT_CODES[decision.status]


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
