"""The two figures of the main job."""

from pathlib import Path
from typing import Any

import numpy as np

from deel_lip_tf import plots
from deel_lip_tf._files.writing import whole_file
from deel_lip_tf.cli.quickstart.report import Attacked

ROWS = 6


def draw_certificates(attacked: Attacked, path: Path) -> None:
    """Certified accuracy against radius, below the accuracy that each attack leaves.

    All curves are over the same images, so the certified one can lie above an empirical one only
    if a certificate is broken.
    """
    wrong = np.full(attacked.images - len(attacked.correct), np.nan)
    figure = plots.certified_accuracy(
        {"certified (proven)": np.concatenate([attacked.radius, wrong])},
        {
            f"{attack.name} (an upper bound)": np.concatenate([attack.distance, wrong])
            for attack in attacked.attacks
        },
    )
    figure.axes[0].set(
        title=f"Robust accuracy on {attacked.images} test images",
        xlabel="L2 radius (pixels from 0 to 1)",
    )
    _write(figure, path)


def draw_adversarials(attacked: Attacked, path: Path) -> None:
    """Image, nearest adversarial example and difference, with certified radius and distance."""
    rows, nearest = np.empty(0, int), None
    if attacked.attacks:
        nearest = attacked.nearest()
        rows = np.flatnonzero(np.isfinite(nearest.distance))[:ROWS]
    figure = plots.adversarials(
        attacked.correct[rows],
        attacked.correct[rows] if nearest is None else nearest.adversarial[rows],
        None if attacked.label is None else attacked.label[rows],
        None if nearest is None or nearest.label is None else nearest.label[rows],
        attacked.radius[rows],
    )
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
