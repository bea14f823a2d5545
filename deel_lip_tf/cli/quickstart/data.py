"""Images and labels, from three sources, validated before anything is computed from them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deel_lip_tf._files.reading import opened_arrays
from deel_lip_tf.cli.arguments import BadInput, require_extra

KEYS = ("x_train", "y_train", "x_test", "y_test")
SPLIT_SEED = 0


@dataclass(frozen=True)
class Dataset:
    """Images ``(n, height, width, channels)`` float32 in [0, 1]; labels ``(n,)`` int64 from 0."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y_train.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.x_train.shape[1:]


def load(source: str) -> Dataset:
    """Loads ``"digits"``, ``"mnist"``, ``"cifar10"`` or a ``.npz`` file.

    Args:
        source: the name of a data set or the path of a file that holds the arrays ``x_train``,
            ``y_train``, ``x_test``, ``y_test``.

    Returns:
        The validated data, pixels in [0, 1].

    Raises:
        BadInput: if the source is unknown or unreadable or its content cannot be used.
    """
    if source == "digits":
        return _digits()
    if source in ("mnist", "cifar10"):
        return from_tensorflow_datasets(source)
    if source.endswith(".npz"):
        return _from_file(Path(source))
    raise BadInput(f"--data must be digits, mnist, cifar10 or a file FILE.npz, got {source!r}")


def validated(name: str, arrays: dict[str, np.ndarray]) -> Dataset:
    """Checks the four arrays against each other and scales the pixels.

    Args:
        name: what the error messages and the report call the data.
        arrays: ``x_*`` of shape (n, height, width) or (n, height, width, channels), uint8 or float
            in [0, 1]; ``y_*`` of shape (n,) or (n, 1), integers 0 .. classes - 1.

    Raises:
        BadInput: for wrong shapes, types or values.
    """
    images = {key: _images(f"{name}: {key}", arrays[key]) for key in ("x_train", "x_test")}
    labels = {key: _labels(f"{name}: {key}", arrays[key]) for key in ("y_train", "y_test")}
    _require_agreement(name, images, labels)
    return Dataset(name, **images, **labels)


def _require_keys(name: str, present: list[str]) -> None:
    missing = [key for key in KEYS if key not in present]
    if missing:
        raise BadInput(
            f"{name}: lacks {', '.join(missing)}; it must hold {', '.join(KEYS)}, "
            f"and holds {', '.join(present) or 'nothing'}"
        )


def _images(name: str, x: np.ndarray) -> np.ndarray:
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise BadInput(
            f"{name} must be images of shape (n, height, width) or (n, height, width, channels), "
            f"none of them 0, got shape {x.shape}"
        )
    x = x[..., np.newaxis] if x.ndim == 3 else x
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255
    if x.dtype.kind != "f":
        raise BadInput(
            f"{name} must be uint8 (0 to 255) or floats in [0, 1], got {x.dtype}: "
            "convert it with x.astype('uint8')"
        )
    if not np.isfinite(x).all():
        raise BadInput(f"{name} holds NaN or infinite pixels")
    if x.min() < 0 or x.max() > 1:
        raise BadInput(
            f"{name} holds floats from {x.min():g} to {x.max():g}, they must lie in [0, 1]: "
            "rescale them, or store uint8"
        )
    return x.astype(np.float32)


def _labels(name: str, y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise BadInput(
            f"{name} must be integer labels of shape (n,), got {y.dtype} of shape {y.shape}"
        )
    return y.astype(np.int64)


def _require_agreement(name: str, images: dict, labels: dict) -> None:
    for part in ("train", "test"):
        x, y = images[f"x_{part}"], labels[f"y_{part}"]
        if len(x) != len(y):
            raise BadInput(f"{name}: x_{part} has {len(x)} images, y_{part} has {len(y)} labels")
    if images["x_train"].shape[1:] != images["x_test"].shape[1:]:
        raise BadInput(
            f"{name}: images of x_train have shape {images['x_train'].shape[1:]}, "
            f"those of x_test {images['x_test'].shape[1:]}"
        )
    known = np.unique(labels["y_train"])
    if len(known) < 2 or known[0] != 0 or known[-1] != len(known) - 1:
        shown = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
        raise BadInput(
            f"{name}: y_train must use every label 0 .. classes - 1, at least two of them, "
            f"got labels {shown}"
        )
    strangers = np.setdiff1d(labels["y_test"], known)
    if len(strangers):
        raise BadInput(f"{name}: y_test holds label {strangers[0]}, which y_train never shows")


def _digits() -> Dataset:
    require_extra("demo")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # The split is the same for every --seed, so that runs can be compared.
    x_train, x_test, y_train, y_test = train_test_split(
        digits.images / 16,
        digits.target,
        test_size=0.25,
        stratify=digits.target,
        random_state=SPLIT_SEED,
    )
    arrays = dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return validated("digits", arrays)


def from_tensorflow_datasets(name: str) -> Dataset:
    """Loads the parts "train" and "test" of any set of images that the package knows.

    Raises:
        BadInput: if the package is missing, or cannot load it.
    """
    require_extra("datasets")
    import tensorflow_datasets as tfds

    try:
        parts = tfds.load(name, split=["train", "test"], batch_size=-1, as_supervised=True)
    except Exception as error:  # downloading fails in as many ways as there are networks
        raise BadInput(
            f"tensorflow_datasets cannot load {name!r}: give a FILE.npz where there is no network "
            f"({type(error).__name__}: {error})"
        ) from error
    (x_train, y_train), (x_test, y_test) = tfds.as_numpy(parts)
    arrays = dict(zip(KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return validated(name, arrays)


def _from_file(path: Path) -> Dataset:
    try:
        with opened_arrays(path) as archive:
            _require_keys(str(path), list(archive))
            arrays = {key: archive[key] for key in KEYS}
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"--data: there is no file {str(path)!r}") from error
    except Exception as error:  # NumPy, zipfile and zlib each have their own for a damaged file
        raise BadInput(f"--data: cannot read {str(path)!r} as a .npz file: {error}") from error
    return validated(str(path), arrays)
