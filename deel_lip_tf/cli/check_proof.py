"""The command `check-proof`: whether a proof that `verify` wrote shows what it says."""

import argparse

from deel_lip_tf.cli.arguments import FAILURE, SUCCESS, BadInput

_LONGEST = 1000  # characters of a reason, which may quote a file


def add_parser(commands) -> None:
    """Adds the command to argparse's subparsers."""
    check = commands.add_parser(
        "check-proof",
        help="confirm a proof that `verify --proof` wrote, by other means",
        description="Confirms that a proof shows that no input satisfies a VNN-LIB property of a "
        "network, in float64 rounded outward. The checker is small, and shares no code with "
        "`verify` or its readers; it needs neither Keras nor TensorFlow.",
        epilog="Exit codes: 0 confirmed; 1 rejected, and the reason; 2 bad input.",
        allow_abbrev=False,
    )
    check.add_argument("model", metavar="MODEL", help="the .onnx or .onnx.gz file")
    check.add_argument("property", metavar="PROPERTY", help="the .vnnlib or .vnnlib.gz file")
    check.add_argument("proof", metavar="PROOF", help="what `verify --proof` wrote about both")
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        from deel_lip_tf.checking.network import Rejected
        from deel_lip_tf.checking.proof import check
    except ImportError as error:
        hint = "install the extra with: pip install 'deel_lip_tf[verify]'"
        raise BadInput(f"{error}; {hint}") from error
    try:
        nodes, leaves = check(options.model, options.property, options.proof)
    except OSError as error:
        raise BadInput(str(error)) from error
    except Rejected as reason:
        print("rejected:", " ".join(str(reason).split())[:_LONGEST])
        return FAILURE
    print(f"confirmed: no input satisfies the property ({nodes} nodes, {leaves} leaves)")
    return SUCCESS
