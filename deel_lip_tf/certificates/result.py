"""What `certify` returns: radii with their meaning, on a page and in a file."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["MEANINGS", "Certificates"]

MEANINGS = {
    "real": "the exact function of the stored weights",
    "float32": "the model executed in float32",
}
"""What a radius is about, by the name of its semantics."""

_RADII = (0.0, 36 / 255, 72 / 255, 108 / 255, 0.25, 0.5, 1.0)
_ARRAYS = ("label", "radius", "margin")
_FORMAT = "deel_lip_tf certificates 1"


@dataclass(frozen=True)
class Certificates:
    """Certified radii of n samples.

    Attributes:
        label: (n,) predicted class; for one output 0 or 1, or -1 or 1 where `y` is so encoded.
        radius: (n,) float64, in units of the model's input: no input at a distance of at most
            `radius` in the L2 norm has another label. 0 where nothing is certified.
        margin: (n,) float64, the largest logit minus the second, or `|f|` for one output.
        bound: proven L2 Lipschitz constant of the model.
        correct: (n,) whether `label` is the true one, or None where `y` was not given.
        semantics: what the radii are about, "real" or "float32": see `certify`.
    """

    label: np.ndarray
    radius: np.ndarray
    margin: np.ndarray
    bound: float
    correct: np.ndarray | None = None
    semantics: str = "real"

    def certified_accuracy(self, radii: float | Sequence[float]) -> np.ndarray:
        """Share of samples that are correct and certified at each radius; shape of `radii`.

        At radius 0 this is the accuracy. Without `y`, every label counts as correct.
        """
        correct = np.ones(len(self.label), bool) if self.correct is None else self.correct
        radii = np.asarray(radii, dtype=np.float64)
        return (correct & (self.radius >= radii[..., None])).mean(axis=-1)

    def summary(self, radii: Sequence[float] = _RADII) -> str:
        """A table of the certified accuracy at some radii."""
        name = "certified share" if self.correct is None else "certified accuracy"
        lines = [f"{len(self.label)} samples, Lipschitz constant at most {self.bound:.6g}"]
        lines.append(f"radii hold for {MEANINGS[self.semantics]} (semantics={self.semantics!r})")
        lines.append(f"{'radius':>10}  {name}")
        shares = zip(sorted(radii), self.certified_accuracy(sorted(radii)), strict=True)
        lines += [f"{radius:>10.4f}  {share:>{len(name)}.2%}" for radius, share in shares]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything into one file, in NumPy's `.npz` format; replaces an older one.

        The file appears complete or not at all.

        Raises:
            ValueError: if `path` is a folder, or its folder does not exist.
        """
        path = Path(path)
        if path.is_dir() or not path.parent.is_dir():
            reason = "is a folder" if path.is_dir() else f"lies in {str(path.parent)!r}, no folder"
            raise ValueError(
                f"`path` must name a file in an existing folder. Received: {str(path)!r}, which "
                f"{reason}. Give a name such as {str(path.parent / 'certificates.npz')!r}, or "
                "create the folder first."
            )
        content = {name: getattr(self, name) for name in _ARRAYS}
        content |= {"bound": self.bound, "semantics": self.semantics, "format": _FORMAT}
        content |= {} if self.correct is None else {"correct": self.correct}
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, **content)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Certificates":
        """Reads what `save` wrote.

        Raises:
            ValueError: if there is no such file, or it does not hold certificates.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(
                f"`path` must name a file that `Certificates.save` wrote. Received: {str(path)!r}, "
                f"which is {'a folder' if path.is_dir() else 'not there'}."
            )
        try:
            with np.load(path, allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
        except Exception as error:  # NumPy, zipfile and zlib each have their own
            raise _not_certificates(path, f"cannot be read as an .npz file: {error}") from error
        return cls(**_fields(content, path))


def _fields(content: dict[str, np.ndarray], path: Path) -> dict:
    """The arguments of `Certificates`, each checked."""
    found = str(content.get("format", "another format"))
    wanted = {*_ARRAYS, "bound", "semantics"}
    if found != _FORMAT or not wanted <= set(content):
        missing = ", ".join(sorted(wanted - set(content))) or "nothing"
        raise _not_certificates(path, f"holds {found!r} and lacks {missing}")
    count = content["label"].shape
    arrays = {name: content[name] for name in (*_ARRAYS, "correct") if name in content}
    semantics, bound = str(content["semantics"]), content["bound"]
    if len(count) != 1 or any(array.shape != count for array in arrays.values()):
        raise _not_certificates(path, "holds arrays of different lengths")
    if semantics not in MEANINGS or bound.shape or bound.dtype.kind != "f":
        raise _not_certificates(path, f"has semantics {semantics!r} and bound {bound!r}")
    return {**arrays, "bound": float(bound), "semantics": semantics}


def _not_certificates(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"`path` must name a file that `Certificates.save` wrote. Received: {str(path)!r}, which "
        f"{reason}. Certify again and save the result."
    )
