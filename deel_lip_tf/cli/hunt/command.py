"""The command `hunt`: its options."""

import argparse
from typing import Any

from deel_lip_tf.cli.arguments import add_seed, positive_number
from deel_lip_tf.cli.quiet import load_backend_quietly


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    hunt = commands.add_parser(
        "hunt",
        help="search for a certificate of a saved model that is false",
        description="Searches for an input that refutes what is proved of a saved classifier: its "
        "Lipschitz constant, the promises of its layers, its certified radii. Keras must run on "
        "TensorFlow, its default.",
        epilog="Exit codes: 0 nothing was refuted; 1 a claim is false, and a file in --out shows "
        "it; 2 bad input; 74 the file cannot be written; 130 stopped by Ctrl-C.",
        allow_abbrev=False,
    )
    hunt.add_argument("model", metavar="MODEL.keras", help="a saved classifier that returns logits")
    hunt.add_argument(
        "--data",
        metavar="digits|mnist|cifar10|FILE.npz",
        help="images to certify, as for quickstart (default: random numbers in [0, 1])",
    )
    hunt.add_argument(
        "--minutes",
        type=positive_number,
        default=1.0,
        metavar="M",
        help="how long to search; every search runs once at least (default: %(default)g)",
    )
    hunt.add_argument(
        "--out",
        default="hunt-output",
        metavar="DIR",
        help="folder for what is found; created if something is (default: %(default)s)",
    )
    add_seed(hunt, ", up to its length")
    hunt.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    load_backend_quietly()
    from deel_lip_tf.cli.hunt import job

    return job.run(options.model, options.data, options.minutes, options.out, options.seed)
