"""The two figures of the main job. Drawn without pyplot: no window, no global state."""

from pathlib import Path

import numpy as np

from deel_lip_tf.cli.quickstart.report import Attacked

CURVE_POINTS = 200
ROWS = 6


def draw_certificates(attacked: Attacked, path: Path) -> None:
    """Certified accuracy against radius, below the accuracy that each attack leaves.

    All curves are over the same images, so the certified one can lie above an empirical one only
    if a certificate is broken.
    """
    from matplotlib.figure import Figure

    distances = [attack.distance[np.isfinite(attack.distance)] for attack in attacked.attacks]
    reach = np.concatenate([attacked.radius, *distances, [1e-3]]).max()
    radii = np.linspace(0, 1.05 * reach, CURVE_POINTS)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for attack in attacked.attacks:
        left = [attacked.robust_accuracy(attack, radius) for radius in radii]
        axes.plot(radii, left, label=f"left by {attack.name} (an upper bound)")
    certified = [attacked.certified_accuracy(radius) for radius in radii]
    axes.fill_between(radii, certified, alpha=0.2, color="black")
    axes.plot(radii, certified, color="black", label="certified (proven)")
    axes.set(
        title=f"Robust accuracy on {attacked.images} test images",
        xlabel="L2 radius (pixels from 0 to 1)",
        ylabel="accuracy",
        xlim=(0, radii[-1]),
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_adversarials(attacked: Attacked, path: Path) -> None:
    """Image, nearest adversarial example and difference, with certified radius and distance."""
    from matplotlib.figure import Figure

    rows = np.empty(0, int)
    if attacked.attacks:
        nearest = attacked.nearest()
        rows = np.flatnonzero(np.isfinite(nearest.distance))[:ROWS]
    figure = Figure(figsize=(6.5, 2.1 * max(len(rows), 1)), layout="constrained")
    if not len(rows):
        figure.text(0.5, 0.5, "no adversarial example was found", ha="center")
    else:
        for axes, row in zip(figure.subplots(len(rows), 3, squeeze=False), rows, strict=True):
            image, adversarial = attacked.correct[row], nearest.adversarial[row]
            title = f"distance {nearest.distance[row]:.3f}"
            _show(axes[0], image, f"certified radius {attacked.radius[row]:.3f}")
            _show(axes[1], adversarial, title)
            _show_difference(axes[2], adversarial - image)
    figure.savefig(path, dpi=120)


def _show(axes, image: np.ndarray, title: str) -> None:
    rgb = image.shape[-1] == 3
    axes.imshow(np.clip(image, 0, 1) if rgb else image.mean(axis=-1), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _show_difference(axes, difference: np.ndarray) -> None:
    flat = difference.mean(axis=-1)
    limit = max(float(np.abs(flat).max()), 1e-9)
    axes.imshow(flat, cmap="seismic", vmin=-limit, vmax=limit)
    axes.set_title(f"difference, largest {limit:.3f}", fontsize=9)
    axes.set_axis_off()
