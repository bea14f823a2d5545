"""The command line: ``python -m deel_lip_tf quickstart``.

Exit codes: 0 all is well; 1 a certificate was broken by an attack, or the exported model differs
from the trained one; 2 something in what was given is wrong (one line on stderr says what), and
nothing was trained; 130 stopped by Ctrl-C (during training the report is made all the same).
"""

import argparse
import sys

from deel_lip_tf import __version__
from deel_lip_tf.quickstart import job
from deel_lip_tf.quickstart.checks import BadInput
from deel_lip_tf.quickstart.network import DEFAULT_EPOCHS, DEFAULT_LOSS, LOSS_ARGUMENTS

PROGRAM = "python -m deel_lip_tf"
BAD_INPUT, INTERRUPTED = 2, 130
LARGEST_SEED = 2**32 - 1


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line."""

    def error(self, message: str):
        self.exit(BAD_INPUT, f"{PROGRAM}: error: {message} (--help shows all options)\n")


def _whole_number(least: int, largest: int | None = None):
    def parse(text: str) -> int:
        rule = f"must be a whole number of at least {least}"
        rule += "" if largest is None else f" and at most {largest}"
        try:
            number = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{rule}, got {text!r}") from error
        if number < least or (largest is not None and number > largest):
            raise argparse.ArgumentTypeError(f"{rule}, got {text!r}")
        return number

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Lipschitz networks with certificates.")
    parser.add_argument("--version", action="version", version=f"deel_lip_tf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="quickstart")
    quickstart = commands.add_parser(
        "quickstart",
        help="train, prove, certify, attack and export a 1-Lipschitz network",
        description="Trains a 1-Lipschitz convolutional network on images, proves its Lipschitz "
        "constant, certifies its answers, attacks them, and exports it.",
        epilog="Exit codes: 0 well; 1 a certificate was broken, or the exported model differs; "
        "2 bad input, nothing was trained; 130 stopped by Ctrl-C (during training, the report "
        "on what there is is made all the same).",
        allow_abbrev=False,
    )
    quickstart.add_argument(
        "--data",
        default="digits",
        metavar="digits|mnist|cifar10|FILE.npz",
        help="digits (default, needs no network), mnist or cifar10 through tensorflow_datasets, or "
        "a file with x_train, y_train, x_test, y_test (uint8, or floats in [0, 1])",
    )
    quickstart.add_argument(
        "--epochs",
        type=_whole_number(1),
        default=DEFAULT_EPOCHS,
        metavar="N",
        help="default: %(default)s",
    )
    quickstart.add_argument(
        "--loss", choices=LOSS_ARGUMENTS, default=DEFAULT_LOSS, help="default: %(default)s"
    )
    quickstart.add_argument(
        "--out",
        default="quickstart-output",
        metavar="DIR",
        help="folder for the figures, the report and the SavedModel (default: %(default)s)",
    )
    quickstart.add_argument(
        "--seed",
        type=_whole_number(0, LARGEST_SEED),
        default=0,
        metavar="N",
        help="makes a run repeatable (default: %(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return job.run(options.data, options.epochs, options.loss, options.out, options.seed)
    except BadInput as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
