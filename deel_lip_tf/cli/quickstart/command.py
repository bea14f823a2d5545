"""The command `quickstart`: its options."""

import argparse

from deel_lip_tf.cli.arguments import add_seed, whole_number
from deel_lip_tf.cli.quickstart.network import DEFAULT_EPOCHS, DEFAULT_LOSS, LOSS_ARGUMENTS
from deel_lip_tf.cli.quiet import load_backend_quietly


def add_parser(commands) -> None:
    """Adds the command to argparse's subparsers."""
    quickstart = commands.add_parser(
        "quickstart",
        help="train, prove, certify, attack and export a 1-Lipschitz network",
        description="Trains a 1-Lipschitz convolutional network on images, proves its Lipschitz "
        "constant, certifies its answers, attacks them, and exports it. Keras must run on "
        "TensorFlow, its default.",
        epilog="Exit codes: 0 well; 1 a certificate was broken, or the exported model differs; "
        "2 bad input, nothing was trained; 74 a file cannot be written; 130 stopped by Ctrl-C "
        "(during training, the report on what there is is made all the same).",
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
        type=whole_number(1),
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
    add_seed(quickstart)
    quickstart.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    load_backend_quietly()
    from deel_lip_tf.cli.quickstart import job

    return job.run(options.data, options.epochs, options.loss, options.out, options.seed)
