"""The command line: ``python -m deel_lip_tf quickstart``, ``hunt``, ``verify``, ``check-proof``.

Exit codes: 0 all is well; 1 a certificate was broken by an attack or refuted by the hunt, the
exported model differs from the trained one, or a proof is rejected; 2 something in what was given
is wrong (one line on stderr says what), and nothing was trained; 74 an answer or a file cannot be
written, because the disk is full, say; 130 stopped by Ctrl-C (during training the report is made
all the same). ``verify`` answers by 0 unsat, 10 sat, 20 unknown.
"""

import os
import sys

from deel_lip_tf import __version__
from deel_lip_tf.cli import check_proof, verify
from deel_lip_tf.cli.arguments import (
    BAD_INPUT,
    INTERRUPTED,
    NOT_WRITTEN,
    PROGRAM,
    BadInput,
    Parser,
)
from deel_lip_tf.cli.hunt import command as hunt
from deel_lip_tf.cli.quickstart import command as quickstart

# Each adds its own options, and says by `set_defaults(run=...)` what runs them.
COMMANDS = (quickstart, hunt, verify, check_proof)


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Lipschitz networks with certificates.")
    parser.add_argument("--version", action="version", version=f"deel_lip_tf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BadInput as error:
        return _ended_by(error, BAD_INPUT)
    except OSError as error:
        _drop_output()
        return _ended_by(error, NOT_WRITTEN)
    except MemoryError as error:
        return _ended_by(f"there is not enough memory: {error}", BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED


def _ended_by(reason: object, code: int) -> int:
    print(f"{PROGRAM}: error: {' '.join(str(reason).split())}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Forgets what cannot be written out, or Python would try again, and say so, when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
