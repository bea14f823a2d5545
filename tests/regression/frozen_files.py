"""The frozen files: which there are, and what is in them."""

import json
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

import deel_lip_tf  # noqa: F401  (its classes register themselves)

FOLDER = Path(__file__).parent / "frozen"
RELEASES = sorted(FOLDER.glob("[0-9]*"))
FILES = [path for release in RELEASES for path in sorted(release.glob("models/*.keras"))]
COMPILED = [
    p for p in FILES if p.stem in json.loads((p.parents[1] / "evaluations.json").read_bytes())
]

every_release = pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
every_compiled_file = pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)


@cache
def read(path):
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with np.load(path) as archive:
        return dict(archive)


def frozen(path, prefix):
    """Arrays of a model by what follows a prefix of their names."""
    start = f"{path.stem}/{prefix}"
    values = read(path.parents[1] / "models.npz")
    return {
        key.removeprefix(start): value for key, value in values.items() if key.startswith(start)
    }


@cache
def load(path):
    return keras.saving.load_model(path)


def numbered(prefix: str, values) -> dict[str, np.ndarray]:
    """Tensors and variables as arrays; those of bfloat16, which no file knows, are widened."""
    arrays = [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(values)]
    return {
        f"{prefix}{i}": array.astype("float32") if array.dtype.kind == "V" else array
        for i, array in enumerate(arrays)
    }
