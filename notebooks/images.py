"""Images for the notebooks: from a folder, from TensorFlow Datasets, from Keras, or made up."""

import os
from pathlib import Path

import keras
import numpy as np

from deel_lip_tf.cli.arguments import BadInput
from deel_lip_tf.cli.quickstart import data

SHAPES = {"mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}
NAMES = {
    "mnist": [str(digit) for digit in range(10)],
    "fashion_mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}
VARIABLE = "DEEL_LIP_TF_DATA"


def load(name: str, source: str = "", train: int | None = None, test: int | None = None):
    """A data set with pixels from 0 to 1 and labels from 0, and its classes' names.

    It is looked for in `source`, which is a file, a folder, or "stand-in"; where it is empty, in
    the folder that the environment variable `DEEL_LIP_TF_DATA` names, then by
    `tensorflow_datasets`, then by `keras.datasets`, which know what they have downloaded before. In
    a folder it is a file such as `mnist.npz` or `mnist_10k.npz`, with the arrays `x_train`,
    `y_train`, `x_test` and `y_test`, or with `jpeg_train`, `offsets_train` and so on instead of the
    images. Where there is nothing, made-up images stand in, and a line says so.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10".
        source: where to look.
        train: number of training images; all of them by default.
        test: number of test images; all of them by default.

    Returns:
        A `Dataset` with `x_train`, `y_train`, `x_test`, `y_test`, and a list of names.
    """
    found: data.Dataset | None = None
    where = source or os.environ.get(VARIABLE, "")
    if where and where != "stand-in":
        found = _from_files(name, Path(where), train, test)
    elif not where:
        found = _from_packages(name)
    names = NAMES[name]
    if found is None:
        print(f"{name} was not found: made-up images stand in for it, the results mean nothing")
        found, names = _stand_in(name), [str(label) for label in range(10)]
    cut = data.Dataset(
        found.name, found.x_train[:train], found.y_train[:train], found.x_test[:test],
        found.y_test[:test],
    )  # fmt: skip
    shape = " x ".join(map(str, cut.image_shape))
    print(f"{name}: {len(cut.x_train)} images for training, {len(cut.x_test)} for tests, {shape}")
    return cut, names


def _from_files(name: str, where: Path, train: int | None, test: int | None):
    paths = sorted(where.glob(f"{name}*.npz")) if where.is_dir() else [where]
    if not paths:
        return None
    with np.load(paths[0], allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for part, count in (("train", train), ("test", test)):
        if f"jpeg_{part}" in arrays:  # only those that are asked for: decoding takes its time
            offsets = arrays[f"offsets_{part}"][: None if count is None else count + 1]
            arrays[f"x_{part}"] = _decoded(arrays[f"jpeg_{part}"], offsets)
            arrays[f"y_{part}"] = arrays[f"y_{part}"][: len(arrays[f"x_{part}"])]
    return data.validated(name, {key: arrays[key] for key in data.KEYS})


def _decoded(content: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """JPEG images that stand one behind the other in an array of bytes."""
    import tensorflow as tf

    ends = zip(offsets[:-1], offsets[1:], strict=True)
    return np.stack([tf.io.decode_jpeg(content[a:b].tobytes()).numpy() for a, b in ends])


def _from_packages(name: str):
    try:
        return data.from_tensorflow_datasets(name)
    except BadInput:  # not installed, or no network
        pass
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # downloading fails in as many ways as there are networks
        print(f"no network? {type(error).__name__}")
        return None
    arrays = dict(zip(data.KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return data.validated(name, arrays)


def _stand_in(name: str, classes: int = 10):
    """Noisy copies of one coarse pattern for each class."""
    random, shape = np.random.default_rng(0), SHAPES[name]
    coarse = random.uniform(0, 1, (classes, 4, 4, *shape[2:]))
    patterns = coarse.repeat(shape[0] // 4, axis=1).repeat(shape[1] // 4, axis=2)
    arrays = {}
    for part, count in (("train", 600), ("test", 200)):
        labels = np.arange(count) % classes
        noise = random.normal(scale=0.15, size=(count, *shape))
        arrays[f"x_{part}"] = np.clip(patterns[labels] + noise, 0, 1).astype(np.float32)
        arrays[f"y_{part}"] = labels
    return data.validated(f"{name} (made up)", arrays)
