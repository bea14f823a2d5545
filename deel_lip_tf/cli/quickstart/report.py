"""The page that the main job prints, made of what it found and of nothing else."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deel_lip_tf.cli.quickstart.attacks import Attack
from deel_lip_tf.cli.quickstart.export import Comparison

RADII = (0.05, 0.1, 36 / 255, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Attacked:
    """The test images that were drawn for the attacks, and what became of them.

    Attributes:
        images: number of images drawn.
        correct: (m, ...) those of them that the model classifies correctly; these were attacked.
        radius: (m,) their certified radii.
        attacks: what each attack found, (m,) per attack.
        label: (m,) their labels, which the model gives them, too.
    """

    images: int
    correct: np.ndarray
    radius: np.ndarray
    attacks: list[Attack] = field(default_factory=list)
    label: np.ndarray | None = None

    @property
    def broken(self) -> int:
        """Number of images for which some attack got strictly inside the certified radius."""
        if not self.attacks:
            return 0
        return int(np.any([attack.broken(self.radius) for attack in self.attacks], axis=0).sum())

    def nearest(self) -> Attack:
        """The closest adversarial example of each image over all attacks."""
        distances = np.stack([attack.distance for attack in self.attacks])
        winner = distances.argmin(axis=0)
        rows = np.arange(len(self.correct))
        images = np.stack([attack.adversarial for attack in self.attacks])[winner, rows]
        labels = [attack.label for attack in self.attacks if attack.label is not None]
        is_known = len(labels) == len(self.attacks)
        became = np.stack(labels)[winner, rows] if is_known else None
        return Attack("all attacks", images, distances[winner, rows], became)

    def robust_accuracy(self, attack: Attack, radius: float) -> float:
        """Share of the drawn images that are correct and not fooled nearer than `radius`."""
        return float(np.sum(attack.distance >= radius)) / self.images

    def certified_accuracy(self, radius: float) -> float:
        """Share of the drawn images that are correct and certified at least up to `radius`."""
        return float(np.sum(self.radius >= radius)) / self.images


@dataclass(frozen=True)
class Results:
    """Everything the page says."""

    title: str
    settings: str
    bound: object
    test_images: int
    clean_accuracy: float
    certified_accuracy: list[float]
    attacked: Attacked
    comparison: Comparison
    files: list[Path]


def page(results: Results) -> str:
    """The whole report as text: one screen, columns aligned."""
    sections = [
        [results.title, results.settings],
        _bounds(results.bound),
        _accuracies(results),
        _attacks(results.attacked),
        _files(results),
    ]
    return "\n\n".join("\n".join(section) for section in sections)


def _bounds(bound) -> list[str]:
    entries = [(layer.name, layer.value, layer.method) for layer in bound.per_layer]
    width = max([len(name) for name, _, _ in entries] + [len("the model")])
    lines = [f"  {name:<{width}}  {value:<11.7f}  {method}" for name, value, method in entries]
    return [
        "Proven bounds of the Lipschitz constant (L2)",
        *lines,
        f"  {'the model':<{width}}  {bound.value:.7f}",
    ]


def _accuracies(results: Results) -> list[str]:
    drawn, total = results.attacked.images, results.test_images
    rows = [_row(results, *pair) for pair in zip(RADII, results.certified_accuracy, strict=True)]
    header = f"  {'radius':<8}" + "".join(f"{title:>18}" for title, _ in rows[0][1])
    lines = [f"  {radius:<8.4g}" + "".join(f"{v:>18.2%}" for _, v in row) for radius, row in rows]
    attacks = f", and what the attacks leave of {drawn} of them" if results.attacked.attacks else ""
    return [
        f"Clean accuracy {results.clean_accuracy:.2%} on {total} held-out images",
        "",
        f"Robust accuracy: certified on {total} images{attacks}",
        header,
        *lines,
        "  (radius: L2 norm of the change of the image, pixels from 0 to 1)",
    ]


def _row(results: Results, radius: float, certified: float) -> tuple[float, list[tuple]]:
    """A radius with titles and shares; the certificates of the drawn images where they are few."""
    attacked = results.attacked
    cells = [("certified", certified)]
    if attacked.attacks:
        if attacked.images < results.test_images:
            cells.append((f"certified of {attacked.images}", attacked.certified_accuracy(radius)))
        methods = [*attacked.attacks, attacked.nearest()]
        cells += [(method.name, attacked.robust_accuracy(method, radius)) for method in methods]
    return radius, cells


def _attacks(attacked: Attacked) -> list[str]:
    count = len(attacked.correct)
    lines = [f"L2 attacks by foolbox on {count} correctly classified test images"]
    for attack in attacked.attacks:
        found = np.isfinite(attack.distance)
        line = f"  {attack.name:<15} fooled {int(found.sum())}"
        if found.any():
            line += f", median distance {np.median(attack.distance[found]):.4f}"
        certified = found & (attacked.radius > 0)
        if certified.any():
            ratio = attack.distance[certified] / attacked.radius[certified]
            line += f", closest at {ratio.min():.3f} times the certified radius"
        lines.append(line)
    lines.append(f"certificates broken: {attacked.broken} of {count}")
    return lines


def _files(results: Results) -> list[str]:
    comparison = results.comparison
    verdict = "equal up to rounding" if comparison.equal else "NOT THE SAME MODEL"
    return [
        f"SavedModel {comparison.folder}: reloaded, {verdict}: largest difference of logits "
        f"{comparison.difference:.1e}, same label for {comparison.agreeing} of {comparison.images}",
        "Written: " + ", ".join(map(str, results.files)),
    ]
