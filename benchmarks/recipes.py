"""The recipes of `certified_accuracy.py`: networks, losses and schedules, one row each."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import keras
import numpy as np

import deel_lip_tf as lip
from deel_lip_tf import layers

# The radii of the literature, in units of pixels from 0 to 1.
MNIST_RADII = {"0.3": 0.3, "0.5": 0.5, "1": 1.0, "1.58": 1.58}
CIFAR_RADII = {f"{n}/255": n / 255 for n in (36, 72, 108, 255)}


@dataclass(frozen=True)
class Images:
    """Pixels in [0, 1], float32 `(n, height, width, channels)`, and classes `(n,)`."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def _decoded(jpegs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    from PIL import Image

    spans = zip(offsets[:-1], offsets[1:], strict=True)
    files = (io.BytesIO(jpegs[start:stop].tobytes()) for start, stop in spans)
    return np.stack([np.asarray(Image.open(file)) for file in files])


def images(path: Path, count: int | None = None, tests: int | None = None) -> Images:
    """The images of a file: of training the first `count`, of the others the first `tests`."""
    with np.load(path) as stored:
        parts = {}
        for part, wanted in (("train", count), ("test", tests)):
            y = stored[f"y_{part}"].reshape(-1)[:wanted].astype("int32")
            if f"jpeg_{part}" in stored:
                x = _decoded(stored[f"jpeg_{part}"], stored[f"offsets_{part}"][: len(y) + 1])
            else:
                x = stored[f"x_{part}"][: len(y)]
            x = (x if x.ndim == 4 else x[..., None]).astype("float32") / 255
            parts |= {f"x_{part}": x, f"y_{part}": y}
    return Images(path.stem, **parts)


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    Attributes:
        stack: makes the layers between the input and the logits.
        loss: makes the loss.
        radii: at which is certified, with their names.
        epochs: over which the rate is annealed to 0, without which a recipe is not the recipe.
        batch_size: images of a step.
        descent: makes the optimizer of a schedule of learning rates.
        rate: the largest, after a tenth of the steps.
        augmentation: makes layers in front, which are identities at inference.
        callbacks: makes what training calls, of the number of steps.
    """

    stack: Callable[[], list]
    loss: Callable[[], keras.losses.Loss]
    radii: dict[str, float]
    epochs: int
    batch_size: int = 256
    descent: Callable[..., keras.optimizers.Optimizer] = lip.optimizers.StiefelMuon
    rate: float = 0.025
    augmentation: Callable[[], list] = field(default=list)
    callbacks: Callable[[int], list] = field(default=lambda steps: [])

    def model(self, data: Images) -> keras.Model:
        """The network, with new weights."""
        inputs = keras.Input(data.x_train.shape[1:])
        return lip.Sequential([inputs, *self.augmentation(), *self.stack()])

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """Warmed up over a tenth of the steps and annealed to 0."""
        warm_up = max(1, steps // 10)
        return self.descent(
            keras.optimizers.schedules.CosineDecay(
                0.0, steps - warm_up, warmup_target=self.rate, warmup_steps=warm_up
            )
        )


def _with_sorting(*stack: keras.layers.Layer) -> list:
    return [layer for linear in stack for layer in (linear, layers.GroupSort2())]


def small_mnist() -> list:
    """Two strided convolutions and two dense layers: 4x4 patches that hardly overlap."""
    return [
        *_with_sorting(
            layers.SpectralConv2D(32, 4, strides=2), layers.SpectralConv2D(64, 4, strides=2)
        ),
        keras.layers.Flatten(),
        *_with_sorting(layers.SpectralDense(128), layers.SpectralDense(128)),
        layers.SpectralDense(10),
    ]


def dense_mnist() -> list:
    """A rotation of the pixels and projections after it: nothing is lost that is not chosen."""
    widths = (784, 512, 256)
    return [
        keras.layers.Flatten(),
        *_with_sorting(*(layers.SpectralDense(width) for width in widths)),
        layers.SpectralDense(10),
    ]


def shifted_patches(width: int, depth: int, features: int = 512) -> list:
    """Patches of 4x4 pixels, orthogonal kernels of size 1, and shifts between them.

    Every layer but the shifts, which lose what leaves the image, is an isometry or a projection,
    so that the constant is 1 and nothing is lost to overlapping patches.
    """
    stack = [*_with_sorting(layers.SpectralConv2D(width, 4, strides=4, padding="valid"))]
    for _ in range(depth):
        stack.append(layers.SpatialShift2D(padding="zero"))
        stack += _with_sorting(layers.SpectralConv2D(width, 1))
    return [
        keras.layers.Rescaling(1.0, -0.5),
        *stack,
        layers.InvertibleDownSampling(2),
        *_with_sorting(layers.SpectralConv2D(width, 1)),
        keras.layers.Flatten(),
        *_with_sorting(layers.SpectralDense(features)),
        layers.SpectralDense(10),
    ]


def residual_convolutions(width: int, depth: int, features: int = 1024) -> list:
    """The network of LiResNet: linear residual convolutions, and orthogonal layers around them."""
    blocks = [layers.LiResConv2D(width, 3, depth=depth) for _ in range(depth)]
    return [
        keras.layers.Rescaling(1.0, -0.5),
        *_with_sorting(layers.SpectralConv2D(width, 5, strides=2), *blocks),
        *_with_sorting(layers.SpectralConv2D(width, 4, strides=4, padding="valid")),
        keras.layers.Flatten(),
        *_with_sorting(*(layers.SpectralDense(features) for _ in range(5))),
        layers.SpectralDense(10),
    ]


def convex_potentials(width: int, depth: int = 5, scales: int = 5) -> list:
    """The network of "1-Lipschitz Layers Compared": twice the channels at half the size."""
    made = [keras.layers.Rescaling(1.0, -0.5), layers.PadChannels(width)]
    for scale in range(scales):
        size = 3 if scale < scales - 1 else 1
        made += [layers.CPLConv2D(size) for _ in range(depth)]
        made += [layers.FirstChannels(width * 2**scale // 2), layers.InvertibleDownSampling(2)]
    return [*made, keras.layers.Flatten(), layers.SpectralDense(10)]


def shifted_digits(pixels: int) -> list:
    """Up to so many pixels of 28."""
    share = pixels / 28
    return [keras.layers.RandomTranslation(share, share, fill_mode="constant")]


def flipped_and_shifted() -> list:
    """Mirrored, and up to four pixels of 32."""
    return [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomTranslation(1 / 8, 1 / 8, fill_mode="constant"),
    ]


# What a recipe may be trained with instead, for a comparison; the rates are the best of three.
OPTIMIZERS = {
    "stiefel-muon": (lip.optimizers.StiefelMuon, 0.025),
    "adam": (keras.optimizers.Adam, 3e-3),
}


def cifar10(width: int, epochs: int, features: int = 512) -> Recipe:
    """Patches and shifts, in six layers."""
    return Recipe(
        lambda: shifted_patches(width, 6, features),
        # Twice the usual offset: of 1, 2, 3 and 4 times, in three epochs, 4 was the best at 36/255.
        lambda: lip.losses.OffsetCrossentropy(offset=4 * math.sqrt(2.0) * 36 / 255),
        CIFAR_RADII,
        epochs,
        augmentation=flipped_and_shifted,
    )


def growing_radius(steps: int) -> list:
    """From a tenth to twice the radius of interest in the first half of training."""
    ends = [0.1 * 36 / 255, 2.0 * 36 / 255]
    return [lip.callbacks.LossParamScheduler("radius", ends, [0, steps / 2], step=None)]


RECIPES = {
    "mnist-small-radii": Recipe(
        small_mnist,
        lambda: lip.losses.OffsetCrossentropy(offset=math.sqrt(2.0) * 0.9, temperature=0.25),
        MNIST_RADII,
        epochs=60,
        augmentation=lambda: shifted_digits(2),
    ),
    "mnist-large-radii": Recipe(
        dense_mnist,
        lambda: lip.losses.OffsetCrossentropy(offset=math.sqrt(2.0) * 3.0, temperature=0.5),
        MNIST_RADII,
        epochs=80,
        augmentation=lambda: shifted_digits(1),
    ),
    "cifar10-small": cifar10(96, epochs=6, features=192),
    "cifar10-patches": cifar10(256, epochs=30),
    # Two for eight minutes of a large GPU, by `--backend jax`.
    "cifar10-residual": Recipe(
        lambda: residual_convolutions(256, 8),
        lambda: lip.losses.EMMA(radius=36 / 255, offset=2.0, temperature=0.75, beta=5.0),
        CIFAR_RADII,
        epochs=200,
        batch_size=512,
        descent=partial(keras.optimizers.Nadam, global_clipnorm=3.0),
        rate=1e-3,
        augmentation=flipped_and_shifted,
        callbacks=growing_radius,
    ),
    "cifar10-potentials": Recipe(
        lambda: convex_potentials(32),
        lambda: lip.losses.OffsetCrossentropy(offset=2 * math.sqrt(2.0) * 36 / 255),
        CIFAR_RADII,
        epochs=160,
        descent=partial(keras.optimizers.SGD, momentum=0.9, nesterov=True, weight_decay=1.5e-4),
        rate=0.07,
        augmentation=flipped_and_shifted,
    ),
}
