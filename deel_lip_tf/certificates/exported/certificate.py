"""The certificate that travels with an exported model: what is proven, and of which file."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from deel_lip_tf._files.writing import whole_file
from deel_lip_tf._rounding import product_up
from deel_lip_tf._validation.models import check_instance, check_one_to_one
from deel_lip_tf._validation.scalars import NOT_NEGATIVE, POSITIVE, check_choice, number
from deel_lip_tf.bounds.propagation import lipschitz_bound
from deel_lip_tf.bounds.result import ChainBound, LayerBound, LipschitzBound
from deel_lip_tf.certificates.exported.programs import RUNNERS, compare
from deel_lip_tf.certificates.fingerprints import model_fingerprint
from deel_lip_tf.certificates.result import MEANINGS

_FORMAT = "deel_lip_tf export certificate 1"
_NAME = "certificate.json"


@dataclass(frozen=True)
class ExportCertificate:
    """What is proven of the model in a file, and a hash that tells which file.

    Attributes:
        bound: the Lipschitz constant of the model in the L2 norm, proven, and that of each layer.
        semantics: what it is about: "real", the exact function of the weights as stored.
        input_scale: what data are multiplied by before the model is given them.
        model_fingerprint: SHA-256 of the model that was bounded: of its graph and its weights.
        export_hash: SHA-256 of the file, or of the graph and the variables of a SavedModel.

    Example:
        >>> import os, tempfile
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2)])
        >>> path = os.path.join(tempfile.mkdtemp(), "model.keras")
        >>> model.vanilla_export().save(path)
        >>> written = lip.certificates.export_certificate(model, path, input_scale=1 / 255)
        >>> written.bound.value <= 1 + 1e-6, written.raw_constant <= (1 + 1e-6) / 255
        (True, True)
        >>> lip.certificates.load(path) == written
        True
    """

    bound: LipschitzBound
    semantics: str
    input_scale: float
    model_fingerprint: str
    export_hash: str

    @property
    def raw_constant(self) -> float:
        """The constant with respect to the data before they are scaled."""
        return product_up(self.bound.value, self.input_scale)

    def check(self, model: keras.Model) -> "ExportCertificate":
        """Makes sure that this certificate is about a model.

        Args:
            model: the model that is to be used; it may have been saved and loaded since. A plain
                copy of it is another one: give that to `export_certificate` to check that.

        Returns:
            This certificate.

        Raises:
            TypeError: `model` is not a Keras model.
            ValueError: the model has another architecture or other weights.
        """
        check_instance("model", model, keras.Model, "a Keras model")
        if model_fingerprint(model) != self.model_fingerprint:
            raise ValueError(
                f"`model` is not the model of this certificate: {model.name!r} has another "
                "architecture or other weights. Give the model that was bounded, or call "
                "`export_certificate` with this one."
            )
        return self

    def __str__(self) -> str:
        return (
            f"{self.bound}\nit holds for {MEANINGS[self.semantics]} (semantics="
            f"{self.semantics!r}), whose input is the data times {self.input_scale:.6g}"
        )


def export_certificate(
    model: keras.Model, path: str | os.PathLike, input_scale: float = 1.0
) -> ExportCertificate:
    """Bounds a model, and puts what is proven beside its export as a small JSON file.

    A SavedModel has it in its folder, as `certificate.json`; beside `model.tflite` stands
    `model.tflite.certificate.json`. It holds `||f(x) - f(y)||_2 <= bound * ||x - y||_2`, the bound
    of each layer and how it was proved, what the claim is about, and a hash of the export: `load`
    returns it only as long as the export is the one it was written for.

    That the file computes what the model does is checked, by running it at random inputs: an export
    of an earlier epoch, or one whose weights were rounded, gets no certificate. Of weights in
    float16 or int8 that are computed with in float32, certify the model that has the rounded
    weights.

    Args:
        model: that was exported, or its `vanilla_export()`: one input, one output.
        path: the export: the folder of a SavedModel, or a file `.keras`, `.onnx` or `.tflite`.
        input_scale: what users of the file multiply their data by before they give it to the model,
            such as `1 / 255`: it is written down, and `raw_constant` is the constant times it.

    Returns:
        What was written.

    Raises:
        TypeError: `model` is not a Keras model, `path` no path, or `input_scale` not a number.
        ValueError: there is no export at `path`, or none of this model; a layer has no bound;
            `input_scale` is not positive.
        ImportError: what runs the file is not installed.
        OSError: the certificate cannot be written, as on a full disk; an older one is kept.

    Example:
        >>> import json, os, tempfile
        >>> model = lip.Sequential([keras.Input((3,)), lip.layers.SpectralDense(2)])
        >>> folder = os.path.join(tempfile.mkdtemp(), "served")
        >>> model.export(folder, verbose=False)
        >>> certificate = lip.certificates.export_certificate(model, folder)
        >>> with open(os.path.join(folder, "certificate.json")) as file:
        ...     written = json.load(file)
        >>> written["bound"] == certificate.bound.value, len(written["layers"])
        (True, 1)
    """
    check_one_to_one(model)
    scale = number("input_scale", input_scale, POSITIVE)
    path, kind = _export_at(path)
    bound = lipschitz_bound(model)
    compare(model, path, kind)
    certificate = ExportCertificate(
        bound, "real", scale, model_fingerprint(model), _export_hash(path)
    )
    with whole_file(_beside(path)) as file:
        file.write(json.dumps(_content(certificate), indent=1).encode())
    return certificate


def load(path: str | os.PathLike) -> ExportCertificate:
    """Reads the certificate that `export_certificate` put beside an export.

    Args:
        path: the export: the folder of a SavedModel, or a file `.keras`, `.onnx` or `.tflite`.

    Returns:
        The certificate, of this export. Nothing in a file proves what it says: it is for whoever
        hands both on to vouch for them.

    Raises:
        TypeError: `path` is no path.
        ValueError: there is no export, or no certificate beside it; the export was changed or
            replaced since, or the certificate was.

    Example:
        >>> import os, tempfile
        >>> model = lip.Sequential([keras.Input((2,)), lip.layers.SpectralDense(2)])
        >>> path = os.path.join(tempfile.mkdtemp(), "model.keras")
        >>> model.save(path)
        >>> _ = lip.certificates.export_certificate(model, path)
        >>> print(lip.certificates.load(path).semantics)
        real
        >>> _ = model.layers[0].bias.assign([1.0, 0.0])
        >>> model.save(path)
        >>> try:
        ...     lip.certificates.load(path)
        ... except ValueError as error:
        ...     print(str(error)[:42])
        `path` is not the export of its certificat
    """
    path, _ = _export_at(path)
    found = _read(_beside(path))
    if found.export_hash != _export_hash(path):
        raise ValueError(
            f"`path` is not the export of its certificate: {str(path)!r} was changed or replaced "
            "after the certificate was written. Restore it, or call `export_certificate` with the "
            "model it was made of."
        )
    return found


def _export_at(path: str | os.PathLike) -> tuple[Path, str]:
    """The path of an export, and its kind: a key of `RUNNERS`.

    Raises:
        TypeError: it is no path.
        ValueError: there is none that is known.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be the path of an export. Received: path={path!r}.")
    path = Path(path)
    kind = path.suffix if path.is_file() else ""
    if kind not in RUNNERS or not (kind or (path / "saved_model.pb").is_file()):
        reason = "is none of these" if path.exists() else "is not there"
        raise ValueError(
            "`path` must be an export: the folder of a SavedModel, or a file whose name ends with "
            f"{', '.join(filter(None, RUNNERS))}. Received: {str(path)!r}, which {reason}. Write "
            "one first, by `model.export(path)`."
        )
    return path, kind


def _beside(path: Path) -> Path:
    return path / _NAME if path.is_dir() else path.with_name(f"{path.name}.{_NAME}")


def _export_hash(path: Path) -> str:
    """SHA-256 of a file, or of what a SavedModel computes with: others may add files to it."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    parts = sorted(path.glob("saved_model.*"))  # a loader may prefer another form of the graph
    for folder in ("variables", "assets"):
        parts += sorted(part for part in (path / folder).rglob("*") if part.is_file())
    digest = hashlib.sha256()
    for part in parts:
        name, content = part.relative_to(path).as_posix(), part.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


# --- the JSON file ------------------------------------------------------------------------------


def _content(certificate: ExportCertificate) -> dict:
    bound = certificate.bound
    content = {
        "format": _FORMAT,
        "claim": "||f(x) - f(y)||_2 <= bound * ||x - y||_2 for all inputs x and y of the model, "
        f"for {MEANINGS[certificate.semantics]}",
        "bound": bound.value,
        "norm": bound.norm,
        "semantics": certificate.semantics,
        "input_scale": certificate.input_scale,
        "layers": [_proven_of(layer) for layer in bound.per_layer],
        **({"chains": [_proven_of(chain) for chain in bound.chains]} if bound.chains else {}),
        "model_sha256": certificate.model_fingerprint,
        "export_sha256": certificate.export_hash,
    }
    return content | {"certificate_sha256": _content_hash(content)}


def _proven_of(layer: LayerBound | ChainBound) -> dict:
    return {name: value for name, value in asdict(layer).items() if name != "seconds"}


def _content_hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> ExportCertificate:
    """What a JSON file says.

    Raises:
        ValueError: there is none, or it was not written so.
    """
    reason = "is not there"
    if path.is_file():
        try:
            content = json.loads(path.read_bytes())
            known = content.pop("certificate_sha256")
            if content["format"] == _FORMAT and known == _content_hash(content):
                return _certificate(content)
            reason = "was changed after it was written, or written by another version"
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"cannot be read: {error!r}"
    raise ValueError(
        f"`path` must have a certificate beside it, {str(path)!r}, which {reason}. Call "
        "`export_certificate(model, path)` with the model it was made of."
    )


def _certificate(content: dict) -> ExportCertificate:
    layers = [LayerBound(**layer) for layer in content["layers"]]
    chains = [
        ChainBound(**{**chain, "names": tuple(chain["names"])})
        for chain in content.get("chains", ())
    ]
    check_choice("norm", content["norm"], ("l2",))
    check_choice("semantics", content["semantics"], tuple(MEANINGS))
    return ExportCertificate(
        LipschitzBound(
            number("bound", content["bound"], NOT_NEGATIVE), layers, content["norm"], tuple(chains)
        ),
        content["semantics"],
        number("input_scale", content["input_scale"], POSITIVE),
        content["model_sha256"],
        content["export_sha256"],
    )
