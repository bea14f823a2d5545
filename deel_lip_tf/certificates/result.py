"""What `certify` returns: radii with their meaning, on a page and in a file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from deel_lip_tf import plots
from deel_lip_tf._files.reading import opened_arrays
from deel_lip_tf._files.writing import whole_file
from deel_lip_tf._tables import at_most, html_table
from deel_lip_tf._validation.models import check_instance
from deel_lip_tf.certificates.fingerprints import content_fingerprint, model_fingerprint
from deel_lip_tf.certificates.samples import Samples

MEANINGS = {
    "real": "the exact function of the stored weights",
    "float32": "the model executed in float32",
}
"""What a radius is about, by the name of its semantics."""

_RADII = (0.0, 36 / 255, 72 / 255, 108 / 255, 0.25, 0.5, 1.0)
_ARRAYS = ("label", "radius", "margin")
_OPTIONAL = ("correct", "output_change")
_TEXTS = ("model_fingerprint", "data_fingerprint", "weights_within")
_FORMAT = "deel_lip_tf certificates 1"
_LARGEST_BATCH = 1024


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
        semantics: what the radii are about: "real", the exact function of the weights, or
            "float32", every float32 execution of it.
        model_fingerprint: SHA-256 of the model that was certified, or None where it is not known.
        data_fingerprint: SHA-256 of the samples, or None where it is not known. `check` compares
            both.
        weights_within: of which models the radii hold besides, layer by layer, where
            `certify(weights_within=...)` was asked for them; None for the model alone.
        output_change: (n,) float64, the largest Euclidean distance at each sample from the outputs
            of the model to those of any of these models; None without `weights_within`.

    Example:
        >>> import os, tempfile
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2)])
        >>> x = np.array([[3.0, 0.0], [0.0, 1.0]])
        >>> certificates = lip.certificates.certify(model, x)
        >>> path = os.path.join(tempfile.mkdtemp(), "certificates.npz")
        >>> certificates.save(path)
        >>> loaded = lip.certificates.Certificates.load(path).check(model, x)
        >>> bool((loaded.radius == certificates.radius).all())
        True
    """

    label: np.ndarray
    radius: np.ndarray
    margin: np.ndarray
    bound: float
    correct: np.ndarray | None = None
    semantics: str = "real"
    model_fingerprint: str | None = None
    data_fingerprint: str | None = None
    weights_within: str | None = None
    output_change: np.ndarray | None = None

    def check(self, model: keras.Model, x: Any) -> "Certificates":
        """Makes sure that these certificates are about a model and samples.

        They speak of nothing else: not of the model after another step of training, nor of the
        samples in another order. A model is the same after `save` and `load_model`, compiled or
        not, and where the same code makes it anew and it is given the same weights. Samples are the
        same in another type or in other batches.

        Args:
            model: the model that is to be used.
            x: the samples, as for `certify`.

        Returns:
            These certificates.

        Raises:
            TypeError: if `model` is not a Keras model.
            ValueError: if the model or the samples are other ones, or if it is not known which
                they were, as in files of older versions.
        """
        check_instance("model", model, keras.Model, "a Keras model")
        if self.model_fingerprint is None or self.data_fingerprint is None:
            raise ValueError(
                "These certificates do not say which model and samples they are about. Certify "
                "again and save the result."
            )
        if model_fingerprint(model) != self.model_fingerprint:
            raise ValueError(
                f"`model` is not the model of these certificates: {model.name!r} has another "
                "architecture or other weights. Load that model, or certify this one."
            )
        samples = Samples(model, x)
        count = sum(map(len, samples.batches(_LARGEST_BATCH)))
        if count != len(self.label) or samples.fingerprint() != self.data_fingerprint:
            raise ValueError(
                f"`x` does not hold the samples of these certificates, which are about "
                f"{len(self.label)}, in their order. Received: {count} samples. Give the same "
                "array, or certify this one."
            )
        return self

    def certified_accuracy(self, radii: float | Sequence[float]) -> np.ndarray:
        """Share of samples that are correct and certified at each radius; shape of `radii`.

        At radius 0 this is the accuracy. Without `y`, every label counts as correct.
        """
        correct = np.ones(len(self.label), bool) if self.correct is None else self.correct
        at = np.asarray(radii, dtype=np.float64)[..., None]
        return (correct & (self.radius >= at)).mean(axis=-1)

    def summary(self, radii: Sequence[float] = _RADII) -> str:
        """A table of the certified accuracy at some radii."""
        rows = self._rows(radii)
        lines = [f"{radius:>10}  {share:>{len(rows[0][1])}}" for radius, share in rows]
        return "\n".join([*self._about(), *lines])

    def _about(self) -> list[str]:
        bound = at_most(self.bound)
        lines = [
            f"{len(self.label)} samples, Lipschitz constant at most {bound}",
            f"radii hold for {MEANINGS[self.semantics]} (semantics={self.semantics!r})",
        ]
        if self.weights_within is not None:
            lines.append(f"and of all weights within: {self.weights_within}")
        return lines

    def _rows(self, radii: Sequence[float]) -> list[tuple[str, str]]:
        name = "certified share" if self.correct is None else "certified accuracy"
        shares = zip(sorted(radii), self.certified_accuracy(sorted(radii)), strict=True)
        return [("radius", name), *((f"{radius:.4f}", f"{share:.2%}") for radius, share in shares)]

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return html_table(self._rows(_RADII), right=(0, 1), caption="; ".join(self._about()))

    def plot(self, attacks: Any = None, radii: ArrayLike | None = None, *, ax: Any = None) -> Any:
        """The picture of `plots.certified_accuracy`: the certified share against the radius.

        Args:
            attacks: distances of what an attack found, as there.
            radii: where the curve is computed.
            ax: axes to draw into; by default those of a new figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plots.certified_accuracy(self, attacks, radii, ax=ax)

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything into one file, in NumPy's `.npz` format; replaces an older one.

        The file appears complete or not at all.

        Raises:
            OSError: the file cannot be written, as on a full disk; an older one is kept.
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
        optional = {name: getattr(self, name) for name in (*_OPTIONAL, *_TEXTS)}
        content |= {name: value for name, value in optional.items() if value is not None}
        content["content_fingerprint"] = content_fingerprint(content)
        with whole_file(path) as file:
            np.savez_compressed(file, **content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Certificates":
        """Reads what `save` wrote.

        Nothing in a file proves what it says: `check` compares what it is about, and it is for
        whoever hands it on to vouch for it.

        Raises:
            ValueError: if there is no such file, it does not hold certificates, or they cannot be
                what `certify` returned: not finite, negative, of other types, a radius without a
                margin or of a wrong label, or changed after they were saved.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(
                f"`path` must name a file that `Certificates.save` wrote. Received: {str(path)!r}, "
                f"which is {'a folder' if path.is_dir() else 'not there'}."
            )
        try:
            with opened_arrays(path) as archive:
                content = dict(archive)
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
    arrays = {name: content[name] for name in (*_ARRAYS, *_OPTIONAL) if name in content}
    shape, semantics = content["label"].shape, str(content["semantics"])
    if len(shape) != 1 or any(array.shape != shape for array in arrays.values()):
        raise _not_certificates(path, "holds arrays of different lengths")
    if semantics not in MEANINGS:
        raise _not_certificates(path, f"has semantics {semantics!r}")
    if (fault := _fault(content["bound"], **arrays)) is not None:
        raise _not_certificates(path, fault)
    rest = {name: value for name, value in content.items() if name != "content_fingerprint"}
    known = content.get("content_fingerprint")
    if known is not None and str(known) != content_fingerprint(rest):
        raise _not_certificates(path, "was changed after it was saved")
    texts = {name: str(content[name]) for name in _TEXTS if name in content}
    return {**arrays, **texts, "bound": float(content["bound"]), "semantics": semantics}


def _fault(
    bound: Any, label: Any, radius: Any, margin: Any, correct: Any = None, output_change: Any = None
) -> str | None:
    """What no certificates have, or None. A margin is NaN where two logits are infinite."""
    if bound.shape or bound.dtype.kind != "f" or not 0 <= bound < np.inf:
        return f"has the bound {bound!r}"
    if label.dtype.kind not in "iu" or any(array.dtype.kind != "f" for array in (radius, margin)):
        return f"holds labels of {label.dtype}, radii of {radius.dtype}, margins of {margin.dtype}"
    is_signed = (label == -1).any()
    if not (np.isin(label, (-1, 1)) if is_signed else label >= 0).all():
        return f"holds the label {label.min()}"
    if not (radius >= 0).all():
        return f"holds the radius {radius[~(radius >= 0)][0]}"
    if (margin < 0).any() or not (margin[radius > 0] > 0).all():
        return "holds margins that are negative, or do not allow for their radii"
    if output_change is not None and not (
        output_change.dtype.kind == "f" and (output_change >= 0).all()
    ):
        return "holds changes of outputs that are no distances"
    if correct is None:
        return None
    if correct.dtype.kind != "b" or (radius[~correct] > 0).any():
        return "holds radii of wrong labels"
    return None


def _not_certificates(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"`path` must name a file that `Certificates.save` wrote. Received: {str(path)!r}, which "
        f"{reason}. Certify again and save the result."
    )
